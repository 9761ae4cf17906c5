"""The fields of a chat request, what becomes of each, and the errors that name them.

`FIELDS` has a line for each. *Honour* fields are read by name; a *notice* is ignored and named in the answer's
``x-ignored-parameters``; *quiet* fields are ignored without a word. ``null`` in an optional field means absent,
SDKs send it. Unknown fields are a notice: clients add their own.
"""

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any, Final, TypeVar

from attrs import frozen
from cattrs import BaseValidationError, Converter

from ._convert import WrongType, exactly, first_error, strict_converter
from .errors import RequestError

_T = TypeVar("_T")


class Treatment(Enum):
    HONOUR = auto()
    NOTICE = auto()
    QUIET = auto()


def string(value: object) -> str:
    return exactly(value, str)


def _integer(value: object) -> int:
    return exactly(value, int)


def _number(value: object) -> object:
    return value if type(value) is int else exactly(value, float)


def _flag(value: object) -> bool:
    return exactly(value, bool)


def _object(value: object) -> dict[str, Any]:
    return exactly(value, dict)


def _strings(value: object) -> object:
    return value if type(value) is str else [exactly(item, str) for item in exactly(value, list)]


def _anything(value: object) -> object:
    return value


@frozen
class Field:
    """How one field is treated.

    :param check: raises `WrongType` if the value is not of the field's type.
    :param only: values that can be honoured; any other is refused with `why`.
    """

    treatment: Treatment
    check: Callable[[object], object]
    only: tuple[object, ...] = ()
    why: str = ""


_HONOUR, _NOTICE, _QUIET = Treatment.HONOUR, Treatment.NOTICE, Treatment.QUIET

FIELDS: Final[Mapping[str, Field]] = {
    "model": Field(_HONOUR, string),
    "messages": Field(_HONOUR, _anything),
    "stream": Field(_HONOUR, _flag),
    "stream_options": Field(_HONOUR, _object),
    "tools": Field(_HONOUR, _anything),
    "tool_choice": Field(_HONOUR, _anything),
    "metadata": Field(_HONOUR, _object),
    "stop": Field(_HONOUR, _strings),
    "response_format": Field(_HONOUR, _object),
    "modalities": Field(_HONOUR, _anything, (["text"],), "an agent answers in text alone"),
    "parallel_tool_calls": Field(_HONOUR, _flag),
    "functions": Field(_HONOUR, _anything, (None,), "`functions` is deprecated: use `tools`"),
    "function_call": Field(_HONOUR, _anything, (None,), "`function_call` is deprecated: use `tools`"),
    "n": Field(_HONOUR, _integer, (1,), "an agent has one memory and so one answer"),
    "audio": Field(_HONOUR, _anything, (None,), "an agent answers in text alone"),
    "logprobs": Field(_HONOUR, _flag, (False,), "Letta does not give log probabilities"),
    "top_logprobs": Field(_HONOUR, _integer, (0,), "Letta does not give log probabilities"),
    "temperature": Field(_NOTICE, _number),
    "top_p": Field(_NOTICE, _number),
    "frequency_penalty": Field(_NOTICE, _number),
    "presence_penalty": Field(_NOTICE, _number),
    "seed": Field(_NOTICE, _integer),
    "logit_bias": Field(_NOTICE, _object),
    "verbosity": Field(_NOTICE, string),
    "reasoning_effort": Field(_NOTICE, string),
    "max_completion_tokens": Field(_NOTICE, _integer),
    "max_tokens": Field(_NOTICE, _integer),
    "prediction": Field(_NOTICE, _object),
    "web_search_options": Field(_NOTICE, _object),
    "moderation": Field(_NOTICE, _anything),
    "store": Field(_NOTICE, _flag),
    "user": Field(_QUIET, string),
    "safety_identifier": Field(_QUIET, string),
    "prompt_cache_key": Field(_QUIET, string),
    "service_tier": Field(_QUIET, string),
    "prompt_cache_options": Field(_QUIET, _anything),
    "prompt_cache_retention": Field(_QUIET, _anything),
}

#: Values that ask for what happens anyway: nothing was ignored.
_HARMLESS: Final[Mapping[str, object]] = {"store": False}


class Notices:
    """Names of ignored fields, each once, in the order in which they came."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}

    def add(self, name: str) -> None:
        self.names[name] = None


def check_fields(given: Mapping[str, object], notices: Notices) -> None:
    for name, value in given.items():
        rule = FIELDS.get(name)
        if rule is None:
            notices.add(name)
            continue
        if not rule.only:
            checked(rule.check, value, name)
        elif value not in rule.only or type(value) is not type(rule.only[0]):
            code = "unsupported_value" if rule.only[0] is not None else "unsupported_parameter"
            checked(rule.check, value, name)
            raise RequestError(f"`{name}` cannot be honoured: {rule.why}.", param=name, code=code)
        if rule.treatment is Treatment.NOTICE and _HARMLESS.get(name) is not value:
            notices.add(name)


def checked(check: Callable[[object], _T], value: object, path: str) -> _T:
    try:
        return check(value)
    except WrongType as exc:
        raise wrong_type(path, exc) from None


def array(value: object, path: str) -> list[Any]:
    return checked(lambda value: exactly(value, list), value, path)


def object_at(value: object, path: str) -> dict[str, Any]:
    return checked(_object, value, path)


def tag(raw: Mapping[str, object], name: str, path: str) -> str:
    if raw.get(name) is None:
        raise missing(f"{path}.{name}")
    return checked(string, raw[name], f"{path}.{name}")


def wrong_type(path: str, exc: BaseException) -> RequestError:
    return RequestError(f"`{path}`: {exc}.", param=path, code="invalid_type")


def missing(path: str) -> RequestError:
    return RequestError(f"`{path}` is missing.", param=path, code="missing_required_parameter")


def structure(value: object, kind: type[_T], path: str) -> _T:
    """A value as an attrs class; `null` in an optional field of it is absent.

    :raises RequestError: with the whole path of the field at fault.
    """
    try:
        structured: _T = _wire.structure(value, kind)
        return structured
    except (WrongType, BaseValidationError) as exc:
        inner, cause = first_error(exc)
        where = path + (inner if inner.startswith("[") or not inner else f".{inner}")
        if isinstance(cause, KeyError):
            raise missing(where) from None
        raise wrong_type(where, cause) from None


def _make_converter() -> Converter:
    converter = strict_converter()
    converter.register_structure_hook(
        Mapping[str, Any] | None, lambda value, _: None if value is None else exactly(value, dict)
    )
    return converter


_wire: Final = _make_converter()
