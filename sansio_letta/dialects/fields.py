"""The fields of a client's request, how each is handled, and the errors that name them.

A dialect has a table with a `Field` for each. Only fields that have an effect are checked: *honoured* fields
must have the right type, and a value that would change the answer but is not supported is refused. A *notice*
is ignored, whatever its value, and listed in the response header ``x-ignored-parameters``. *Quiet* fields are
ignored without notice. ``null`` means absent, since SDKs send it. Unknown fields are a notice, since clients
add their own.
"""

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any, Final, TypeVar

from attrs import frozen

from .._convert import WrongType, exactly
from ..errors import RequestError

_T = TypeVar("_T")

#: Names of ignored fields that are listed; further ones are only counted.
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
    """How one field is handled.

    :param check: raises `WrongType` if the value does not have the field's type.
    :param only: the supported values; any other is refused with `why`.
    :param harmless: values that ask for what happens anyway, and are no notice.
    :param is_unsupported: whether a refusal says that the field is unsupported, rather than its value.
    """

    treatment: Treatment
    check: Callable[[object], object] = _anything
    only: tuple[object, ...] = ()
    why: str = ""
    harmless: tuple[object, ...] = ()
    is_unsupported: bool = False


class Notices:
    """Names of ignored fields, each once, in order, up to a limit."""

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
        """Count fields without their names."""
        self._more_count += count

    @property
    def names(self) -> tuple[str, ...]:
        """The names as they are listed."""
        return (*self._names, *([f"and {self._more_count} more"] if self._more_count else []))


def check_fields(fields: Mapping[str, Field], given: Mapping[str, object], notices: Notices) -> None:
    """Check the fields that have an effect, and note the others."""
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
            # A million fields are counted, and not checked one by one.
            notices.add_more(len(given) - index - 1)
            break


_UNKNOWN: Final = Field(Treatment.NOTICE)


def _is_one_of(value: object, others: tuple[object, ...]) -> bool:
    # In Python, True == 1. In JSON, 1 and 1.0 are the same.
    return any(value == other and isinstance(value, bool) is isinstance(other, bool) for other in others)


def checked(check: Callable[[object], _T], value: object, path: str) -> _T:
    """Return the value that `check` returns.

    :raises RequestError: if it does not have the right type.
    """
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
    """Return a required field that is a string.

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
    """An array that is too long. The code is OpenAI's."""
    return RequestError(
        f"`{path}` holds {count}, which is more than the {limit} that this proxy takes.",
        param=path,
        code="array_above_max_length",
    )
