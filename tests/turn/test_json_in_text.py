"""JSON among other words: found if it is one, and in a time that grows with the text alone."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from growth import Work, check_growth
from sansio_letta.turn.json_in_text import only_json
from support import JSON

FOUND = {
    'Sure! {"a": 1}': '{"a": 1}',
    '{"a": {"b": [1, {}]}}!': '{"a": {"b": [1, {}]}}',
    "The list: [1, 2].": "[1, 2]",
    'See [1]: {"a": [2]}': '{"a": [2]}',
    'f({"a": "}{]["}) and {no}': '{"a": "}{]["}',
    '{see} {"a": 1}': '{"a": 1}',
    '{"a": NaN} or rather {"a": 1}': '{"a": 1}',
    '{"a": 1}{"a": 1}': '{"a": 1}',
}


@pytest.mark.parametrize(("text", "found"), FOUND.items(), ids=[text[:40] for text in FOUND])
def test_one_value_is_found(text: str, found: str) -> None:
    assert only_json(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "5",
        '"a"',
        "{} and []",
        '{"a": 1} {"a": 2}',
        "[1] [2]",
        '{"a": ',
        '{"a": NaN}',
        "[" * 5000,
        f'{{"n": {"9" * 5000}}}',
        "[1]" * 100,
        "[x] " * 100 + '{"a": 1}',
    ],
    ids=lambda text: repr(text[:40]),
)
def test_none_or_several_are_not(text: str) -> None:
    assert only_json(text) is None


@given(st.text(alphabet="ab .,\n"), JSON, st.text(alphabet="ab .,\n"))
def test_any_object_is_found_among_words(before: str, value: object, after: str) -> None:
    part = orjson.dumps({"a": value}).decode()
    assert only_json(before + part + after) == part


@given(st.text(alphabet='{}[]":,1a\\ \n'))
def test_any_text_is_read(text: str) -> None:
    found = only_json(text)
    assert found is None or orjson.loads(found)


@pytest.mark.parametrize(
    "piece", ["[", "{", "[x", '["', '["\\', '{"a":', "[1]", '{"a":1}', "[x]", "x", "[NaN]", '"[', "[1,"]
)
def test_the_time_grows_with_the_text(piece: str) -> None:
    def reading(size: int) -> Work:
        text = piece * (size // len(piece))
        return lambda: only_json(text)

    check_growth(reading, 200_000)
