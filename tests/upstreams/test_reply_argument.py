"""The agent's text in the arguments of a call, however they are split, in linear time."""

from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from growth import Work, check_growth
from sansio_letta.upstreams.rest.reply_argument import ReplyArgument
from support import JSON


def said(*fragments: str) -> str:
    reply_argument = ReplyArgument("message")
    return "".join(reply_argument.receive(fragment) for fragment in fragments)


@given(
    text=st.text(),
    before=st.dictionaries(st.text(), JSON, max_size=3),
    cuts=st.lists(st.integers(0, 400), max_size=6),
    ascii_only=st.booleans(),
)
def test_the_text_comes_out_as_it_was_put_in(
    text: str, before: dict[str, object], cuts: list[int], ascii_only: bool
) -> None:
    before.pop("message", None)
    arguments = orjson.dumps({**before, "message": text, "after": ["message", {"message": "no"}]}).decode()
    if ascii_only:
        units = [char.encode("utf-16-be").hex() for char in text if char > "~"]
        for char, hexed in zip([char for char in text if char > "~"], units, strict=True):
            escaped = "".join(f"\\u{hexed[at : at + 4]}" for at in range(0, len(hexed), 4))
            arguments = arguments.replace(char, escaped)
    edges = sorted({0, len(arguments), *(cut % (len(arguments) + 1) for cut in cuts)})
    pieces = [arguments[start:end] for start, end in pairwise(edges)]
    assert said(*pieces) == text
    assert said(*arguments) == text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"message": "Hi', "Hi"),
        ('{"message": "a\\ud83d', "a"),
        ('{"message": "\\ud83d\\ude00"}', "\U0001f600"),
        ('{"message": "\\ud83dx \\ude00 \\uzzzz"}', "\ufffdx \ufffd \ufffdzzzz"),
        ('{"message": "\\ud83d\\n"}', "\ufffd\n"),
        ('{"message": "two\nlines"}', "two\nlines"),
        ('{"message": "one", "message": "two"}', "one"),
        ('{"messages": "no", "mess": "no", "x": {"message": "no"}, "m\\u0065ssage": "yes"}', "yes"),
        ('{"message": null}', ""),
        ('{"message": ["no"]}', ""),
        ('["message", "no"]', ""),
        ('"message"', ""),
        ('{}{"message": "no"}', ""),
        ("]", ""),
        ("", ""),
    ],
)
def test_what_models_write(arguments: str, text: str) -> None:
    assert said(arguments) == text
    assert said(*arguments) == text


@pytest.mark.parametrize("unit", ["x", "\\n", "\\ud83d\\ude00", '"', "{", '"k":', "\\u00"])
def test_twice_the_arguments_take_twice_the_time(unit: str) -> None:
    def reading(count: int) -> Work:
        arguments = '{"message": "' + unit * count
        pieces = [arguments[at : at + 7] for at in range(0, len(arguments), 7)]
        return lambda: (said(*pieces), said(arguments))

    check_growth(reading, 20_000)
