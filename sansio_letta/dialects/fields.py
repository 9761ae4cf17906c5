"""The fields of a client's request, how each is handled, and the errors that name them.

A dialect has a table with a `Field` for each. A field is judged if it has an effect, and no other one is:
*honoured* fields must be of their type, and a value that would change the answer and cannot be honoured is
refused by name. A *notice* is ignored, whatever it holds, and named in the answer's ``x-ignored-parameters``;
*quiet* fields are ignored
without a word. ``null`` means absent, SDKs send it. Unknown fields are a notice: clients add their own.
"""

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any, Final, TypeVar

from attrs import frozen

from .._convert import WrongType, exactly
from ..errors import RequestError

_T = TypeVar("_T")

#: Names of ignored fields that are told; more are counted.
_MAX_NOTICE_COUNT: Final = 50
_MAX_NAME_SIZE: Final = 64
_MAX_LOOKED_AT: Final = 1000


class Treatment(Enum):
    HONOUR = auto()
    NOTICE = auto()
    QUIET = auto()


def string(value: object) -> str:
    """A string."""
    return exactly(value, str)


def number(value: object) -> object:
    """A number."""
    return value if type(value) is int else exactly(value, float)


def flag(value: object) -> bool:
    """True or false."""
    return exactly(value, bool)


def json_object(value: object) -> dict[str, Any]:
    """An object."""
    # PHP writes an empty object as an empty array.
    return {} if isinstance(value, list) and not value else exactly(value, dict)


def strings(value: object) -> object:
    """A string, or an array of them."""
    return value if type(value) is str else [exactly(item, str) for item in exactly(value, list)]


def _anything(value: object) -> object:
    return value


@frozen
class Field:
    """How one field is treated.

    :param check: raises `WrongType` if the value is not of the field's type.
    :param only: values that can be honoured; any other is refused with `why`.
    :param harmless: values that ask for what happens anyway: nothing was ignored.
    :param is_unsupported: a refusal says that the field is not there, rather than that its value is not.
    """

    treatment: Treatment
    check: Callable[[object], object] = _anything
    only: tuple[object, ...] = ()
    why: str = ""
    harmless: tuple[object, ...] = ()
    is_unsupported: bool = False


class Notices:
    """Names of ignored fields, each once, in the order in which they came, up to a limit."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self._more_count = 0

    def add(self, name: str) -> None:
        name = name[:_MAX_NAME_SIZE]
        if len(self._names) < _MAX_NOTICE_COUNT:
            self._names[name] = None
        elif name not in self._names:
            self._more_count += 1

    def add_more(self, count: int) -> None:
        """Fields whose names are not told."""
        self._more_count += count

    @property
    def names(self) -> tuple[str, ...]:
        """As they are told."""
        return (*self._names, *([f"and {self._more_count} more"] if self._more_count else []))


def check_fields(fields: Mapping[str, Field], given: Mapping[str, object], notices: Notices) -> None:
    """Judge the fields that have an effect, and name the others."""
    for name, rule in fields.items():
        value = given.get(name)
        if value is None or _is_one_of(value, rule.only):
            continue
        checked(rule.check, value, name)
        if rule.only:
            code = "unsupported_parameter" if rule.is_unsupported else "unsupported_value"
            raise RequestError(f"`{name}` cannot be honoured: {rule.why}.", param=name, code=code)
    for index, (name, value) in enumerate(given.items()):
        rule = fields.get(name, _UNKNOWN)
        if rule.treatment is Treatment.NOTICE and value is not None and not _is_one_of(value, rule.harmless):
            notices.add(name)
        if index > _MAX_LOOKED_AT:
            # A million of them are counted, and not looked at one by one.
            notices.add_more(len(given) - index - 1)
            break


_UNKNOWN: Final = Field(Treatment.NOTICE)


def _is_one_of(value: object, others: tuple[object, ...]) -> bool:
    # To Python true is 1; JSON does not tell 1 from 1.0.
    return any(value == other and isinstance(value, bool) is isinstance(other, bool) for other in others)


def checked(check: Callable[[object], _T], value: object, path: str) -> _T:
    """The value, if it is of its type."""
    try:
        return check(value)
    except WrongType as exc:
        raise wrong_type(path, exc) from None


def string_at(value: object, path: str) -> str:
    """A string."""
    return checked(string, value, path)


def array_at(value: object, path: str) -> list[Any]:
    """An array."""
    return checked(lambda value: exactly(value, list), value, path)


def object_at(value: object, path: str) -> dict[str, Any]:
    """An object; an empty array counts as one."""
    return checked(json_object, value, path)


def string_in(raw: Mapping[str, object], name: str, path: str) -> str:
    """A field that must be there, and a string.

    :param path: of the object.
    """
    if raw.get(name) is None:
        raise missing(f"{path}.{name}")
    return string_at(raw[name], f"{path}.{name}")


def wrong_type(path: str, exc: BaseException) -> RequestError:
    return RequestError(f"`{path}`: {exc}.", param=path, code="invalid_type")


def missing(path: str) -> RequestError:
    return RequestError(f"`{path}` is missing.", param=path, code="missing_required_parameter")


def too_many(path: str, count: int, limit: int) -> RequestError:
    """An array beyond its limit. OpenAI has the code, too."""
    return RequestError(
        f"`{path}` holds {count}, which is more than the {limit} that this proxy takes.",
        param=path,
        code="array_above_max_length",
    )
