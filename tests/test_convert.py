"""Strict conversion: nothing is coerced, and an error names its location."""

from collections.abc import Callable
from typing import Any

import pytest
from attrs import frozen
from cattrs import BaseValidationError, ClassValidationError, IterableValidationError

from sansio_letta._convert import WrongType, exactly, first_error, json_name, strict_converter


@frozen(kw_only=True)
class Inner:
    text: str
    count: int | None = None


@frozen(kw_only=True)
class Outer:
    flag: bool = False
    inner: Inner | None = None
    items: tuple[Inner, ...] = ()
    words: tuple[str, ...] = ()
    rows: tuple[tuple[int, ...], ...] = ()


converter = strict_converter()

VALUES: dict[str, tuple[object, type[Any]]] = {
    "a string": ("x", str),
    "an integer": (7, int),
    "a number": (0.5, float),
    "true or false": (True, bool),
    "an object": ({}, dict),
    "an array": ([], list),
    "null": (None, type(None)),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (value, _) in VALUES.items()], ids=VALUES)
def test_a_json_type_has_the_name_that_people_use(name: str, value: object) -> None:
    assert json_name(value) == name


def test_a_value_that_json_has_not_is_called_by_its_class() -> None:
    assert json_name(b"") == "bytes"


@pytest.mark.parametrize(("value", "kind"), VALUES.values(), ids=VALUES)
def test_a_value_of_just_this_type_is_handed_back_itself(value: object, kind: type[Any]) -> None:
    assert exactly(value, kind) is value


@pytest.mark.parametrize("wanted", VALUES)
@pytest.mark.parametrize("given", VALUES)
def test_any_other_type_is_wrong(wanted: str, given: str) -> None:
    if given != wanted:
        with pytest.raises(WrongType) as caught:
            exactly(VALUES[given][0], VALUES[wanted][1])
        assert str(caught.value) == f"expected {wanted}, got {given}"


def test_right_values_become_classes_and_what_is_unknown_is_left_out() -> None:
    raw = {
        "flag": True,
        "inner": {"text": "a", "count": 1, "unknown": 1},
        "items": [{"text": "b", "count": None}],
        "words": ["c"],
        "rows": [[1, 2], []],
    }
    assert converter.structure(raw, Outer) == Outer(
        flag=True,
        inner=Inner(text="a", count=1),
        items=(Inner(text="b"),),
        words=("c",),
        rows=((1, 2), ()),
    )


def test_null_in_an_optional_field_is_its_absence() -> None:
    assert converter.structure({"inner": None}, Outer) == Outer()


@pytest.mark.parametrize("number", [3, 0.5], ids=json_name)
def test_a_number_is_an_integer_or_a_float(number: float) -> None:
    assert converter.structure(number, float) == number


@pytest.mark.parametrize("value", ["1.5", True, None, [1.5]], ids=json_name)
def test_nothing_else_is_made_a_number(value: object) -> None:
    with pytest.raises(WrongType, match=f"expected a number, got {json_name(value)}"):
        converter.structure(value, float)


WRONG: dict[str, tuple[object, str, str]] = {
    "no object": ([], "", "expected an object, got an array"),
    "a flag that is a number": ({"flag": 1}, "flag", "expected true or false, got an integer"),
    "a flag that is null": ({"flag": None}, "flag", "expected true or false, got null"),
    "an object that is a string": ({"inner": "x"}, "inner", "expected an object, got a string"),
    "a text that is null": ({"inner": {"text": None}}, "inner.text", "expected a string, got null"),
    "a text that is a number": ({"inner": {"text": 5}}, "inner.text", "expected a string, got an integer"),
    "a count that is a flag": (
        {"inner": {"text": "", "count": True}},
        "inner.count",
        "expected an integer, got true or false",
    ),
    "a count that is a fraction": (
        {"inner": {"text": "", "count": 1.0}},
        "inner.count",
        "expected an integer, got a number",
    ),
    "an array that is an object": ({"items": {}}, "items", "expected an array, got an object"),
    "an array that is a string": ({"words": "ab"}, "words", "expected an array, got a string"),
    "an item": ({"items": [{"text": ""}, []]}, "items[1]", "expected an object, got an array"),
    "a field of an item": ({"items": [{"text": []}]}, "items[0].text", "expected a string, got an array"),
    "a word": ({"words": ["a", "b", {}]}, "words[2]", "expected a string, got an object"),
    "an item of an item": ({"rows": [[1], [2, "3"]]}, "rows[1][1]", "expected an integer, got a string"),
}


@pytest.mark.parametrize(("raw", "path", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_type_is_found_at_its_place(raw: object, path: str, message: str) -> None:
    with pytest.raises((WrongType, BaseValidationError)) as caught:
        converter.structure(raw, Outer)
    where, cause = first_error(caught.value)
    assert (where, str(cause)) == (path, message)
    assert isinstance(cause, WrongType)


MISSING = {
    "at the top": ({}, Inner, "text"),
    "inside": ({"inner": {"count": 1}}, Outer, "inner.text"),
    "in an item": ({"items": [{"text": ""}, {}]}, Outer, "items[1].text"),
    "in an array": ([{}], tuple[Inner, ...], "[0].text"),
}


@pytest.mark.parametrize(("raw", "kind", "path"), MISSING.values(), ids=MISSING)
def test_a_missing_field_is_named(raw: object, kind: Any, path: str) -> None:
    with pytest.raises(BaseValidationError) as caught:
        converter.structure(raw, kind)
    where, cause = first_error(caught.value)
    assert where == path
    assert isinstance(cause, KeyError)


def test_the_first_of_several_errors_is_told() -> None:
    with pytest.raises(BaseValidationError) as caught:
        converter.structure({"words": [1, 2], "flag": 0, "inner": 0}, Outer)
    assert first_error(caught.value)[0] == "flag"


UNNOTED: dict[str, Callable[[list[Exception]], BaseValidationError]] = {
    "a class": lambda causes: ClassValidationError("while structuring", causes, Outer),
    "an array": lambda causes: IterableValidationError("while structuring", causes, tuple),
    "something else": lambda causes: BaseValidationError("while structuring", causes, Outer),
}


@pytest.mark.parametrize("group", UNNOTED.values(), ids=UNNOTED)
def test_an_error_without_a_note_of_its_place_has_no_path(
    group: Callable[[list[Exception]], BaseValidationError],
) -> None:
    cause = ValueError("why")
    assert first_error(group([group([cause])])) == ("", cause)


def test_any_other_error_is_its_own_cause() -> None:
    cause = ValueError("why")
    assert first_error(cause) == ("", cause)
