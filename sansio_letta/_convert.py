"""Strict conversion from JSON: a wrong type is an error that names its location, and is never coerced."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar, get_args, get_origin

import attrs
from cattrs import (
    BaseValidationError,
    ClassValidationError,
    Converter,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn

_T = TypeVar("_T")

#: The types, as people who write JSON call them.
_JSON_NAMES: dict[type, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "an array",
    type(None): "null",
}


class WrongType(TypeError):
    """A JSON value has another type than expected.

    :param expected: the expected type in words, as in the message: ``"a string"``.
    """

    def __init__(self, value: object, expected: str) -> None:
        super().__init__(f"expected {expected}, got {json_name(value)}")


def json_name(value: object) -> str:
    """Return the JSON type of a value decoded by orjson, in words: ``"a string"``, ``"null"``."""
    return _JSON_NAMES.get(type(value), type(value).__name__)


def exactly(value: object, kind: type[_T]) -> _T:
    """Return the value if it has exactly this type; a bool is not an integer.

    :raises WrongType: if it has another type.
    """
    if type(value) is not kind:
        raise WrongType(value, _JSON_NAMES[kind])
    return value


def strict_converter() -> Converter:
    """Make a cattrs converter that does not coerce.

    By default, cattrs calls ``str()`` and ``int()``: a null content would become the text "None" in a chat.
    Detailed validation stays on, because valid input costs nothing more and `first_error` needs it.
    """
    converter = Converter()
    for kind in (str, int, bool, dict):
        converter.register_structure_hook(kind, exactly)
    converter.register_structure_hook(float, _number)
    for kind in (str, int):
        # cattrs would look up the hook for each value.
        converter.register_structure_hook(kind | None, _or_null(kind))
    converter.register_structure_hook_factory(attrs.has, _strict_class)
    converter.register_structure_hook_factory(_is_tuple, _strict_tuple)
    return converter


def _number(value: object, _: object) -> float:
    """JSON does not distinguish 1 from 1.0."""
    if type(value) is int:
        return value
    return exactly(value, float)


def _or_null(kind: type[_T]) -> Callable[[object, object], _T | None]:
    return lambda value, _: value if value is None or type(value) is kind else exactly(value, kind)


def _strict_class(cls: type[_T], converter: Converter) -> Callable[[object, object], _T]:
    structure = make_dict_structure_fn(cls, converter)
    return lambda value, _: structure(exactly(value, dict), cls)


def _is_tuple(kind: object) -> bool:
    return get_origin(kind) is tuple


def _strict_tuple(kind: object, converter: Converter) -> Callable[[object, object], tuple[Any, ...]]:
    item_kind = get_args(kind)[0]
    structure = converter.get_structure_hook(item_kind)

    def structure_tuple(value: object, _: object) -> tuple[Any, ...]:
        items = []
        for index, item in enumerate(exactly(value, list)):
            try:
                items.append(structure(item, item_kind))
            except Exception as exc:
                exc.add_note(IterableValidationNote(f"at index {index}", index, item_kind))
                raise IterableValidationError("while structuring an array", [exc], tuple) from exc
        return tuple(items)

    return structure_tuple


def first_error(error: BaseException) -> tuple[str, BaseException]:
    """Return where a structuring error comes from: the path, like ``messages[0].content``, and its cause."""
    path = ""
    for step, cause in _descend(error):
        path += step
        error = cause
    if isinstance(error, KeyError):
        path += f".{error.args[0]}"
    return path.removeprefix("."), error


def _descend(error: BaseException) -> Iterator[tuple[str, BaseException]]:
    while isinstance(error, BaseValidationError):
        step = ""
        if isinstance(error, ClassValidationError):
            noted, bare = error.group_exceptions()
            error = noted[0][0] if noted else bare[0]
            step = f".{noted[0][1].name}" if noted and not isinstance(error, KeyError) else ""
        elif isinstance(error, IterableValidationError):
            numbered, unnumbered = error.group_exceptions()
            error = numbered[0][0] if numbered else unnumbered[0]
            step = f"[{numbered[0][1].index}]" if numbered else ""
        else:
            error = error.exceptions[0]
        yield step, error


def unix_time(text: str | None) -> int:
    """Return an ISO 8601 time in Unix seconds; 0 if it is none."""
    try:
        moment = datetime.fromisoformat(text or "")
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return 0
