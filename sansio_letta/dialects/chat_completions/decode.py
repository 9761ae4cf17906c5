"""Decoding of Chat Completions requests: typed values, or an error that names the field."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from ...config import Config, Enforcement
from ...errors import RequestError
from ..body_fields import choose_fields
from ..fields import (
    Field,
    Notices,
    Treatment,
    check_fields,
    checked,
    flag,
    missing,
    object_at,
    string_at,
    string_in,
)
from ..items import ClientRequest, JsonFormat, JsonSchema
from ..schemas import read_schema
from ..tool_names import check_name
from .body import read_body
from .messages import decode_messages
from .request import FIELDS
from .responses_body import as_chat_body, is_responses_body
from .tools import choose_tools, decode_tools

_T = TypeVar("_T")

_CHOSEN: Final = Field(Treatment.QUIET)

#: OpenAI's limit.
_MAX_STOP_COUNT: Final = 4
#: Characters of all stop sequences together, since each needs a table of its size.
_MAX_STOP_SIZE: Final = 16 * 1024


def decode_request(data: bytes, config: Config | None = None) -> ClientRequest:
    """Decode the body of ``POST /v1/chat/completions``.

    :param data: JSON, whatever the Content-Type.
    :param config: limits, and policies: a reply format that is ignored is not checked.
    :raises RequestError: 400, with the field in `param`, if the request cannot be carried out.
    """
    config = config or Config()
    body = read_body(data, config.max_value_count)
    given = as_chat_body(body.fields) if is_responses_body(body.fields) else body.fields
    notices = Notices()
    check_fields(_fields(config), given, notices)
    for name in ("model", "messages"):
        if given.get(name) is None:
            raise missing(name)
    if not given["model"]:
        raise RequestError("`model` is empty: give the name or id of an agent.", param="model")
    messages = decode_messages(given["messages"], config, notices, is_mended=body.is_mended)
    tools = decode_tools(_given(given, "tools", []), config, notices)
    tools, must_call = choose_tools(tools, given.get("tool_choice"))
    metadata = given.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        notices.add("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    return ClientRequest(
        model=given["model"],
        messages=messages,
        stream=_given(given, "stream", False),
        include_usage=_includes_usage(given),
        tools=tools,
        must_call=must_call,
        response_format=_decode_response_format(given.get("response_format"), config),
        stop=_decode_stop(_given(given, "stop", [])),
        parallel_tool_calls=_given(given, "parallel_tool_calls", True),
        max_tokens=_max_tokens(given),
        metadata=metadata,
        chat_keys=choose_fields(given, metadata, config.chat_key_fields),
        speakers=choose_fields(given, metadata, config.speaker_fields),
        ignored=notices.names,
    )


def _fields(config: Config) -> Mapping[str, Field]:
    """The table of fields; what the operator has chosen is read, so it is not named as ignored."""
    chosen = (*config.chat_key_fields, *config.speaker_fields)
    return {**dict.fromkeys(chosen, _CHOSEN), **FIELDS} if chosen else FIELDS


def _max_tokens(given: Mapping[str, Any]) -> int | None:
    value = given.get("max_completion_tokens", given.get("max_tokens"))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and 0 <= value < 2**31 else None


def _given(given: Mapping[str, Any], name: str, default: _T) -> _T:
    value: _T | None = given.get(name)
    return default if value is None else value


def _includes_usage(given: Mapping[str, Any]) -> bool:
    options = object_at(_given(given, "stream_options", {}), "stream_options")
    wanted = options.get("include_usage")
    return wanted is not None and checked(flag, wanted, "stream_options.include_usage")


def _decode_response_format(value: object, config: Config) -> JsonFormat | None:
    """Decode the reply's format; None: text."""
    if value is None or value == {"type": "text"}:
        return None
    if config.enforcement is Enforcement.IGNORE:
        return JsonFormat()
    given = object_at(value, "response_format")
    match string_in(given, "type", "response_format"):
        case "text":
            return None
        case "json_object":
            return JsonFormat()
        case "json_schema":
            path = "response_format.json_schema"
            if given.get("json_schema") is None:
                raise missing(path)
            return JsonFormat(json_schema=_decode_json_schema(object_at(given["json_schema"], path), path))
    raise RequestError(
        "`response_format.type` must be text, json_object or json_schema.", param="response_format.type"
    )


def _decode_json_schema(given: Mapping[str, Any], path: str) -> JsonSchema:
    name = string_in(given, "name", path)
    check_name(name, f"{path}.name")
    description, schema = given.get("description"), given.get("schema")
    return JsonSchema(
        name=name,
        description=None if description is None else string_at(description, f"{path}.description"),
        schema=None if schema is None else read_schema(object_at(schema, f"{path}.schema"), f"{path}.schema"),
    )


def _decode_stop(value: str | list[str]) -> tuple[str, ...]:
    """Decode the stop sequences, without empty ones."""
    sequences = [value] if isinstance(value, str) else value
    if len(sequences) > _MAX_STOP_COUNT:
        raise RequestError(
            f"`stop` takes {_MAX_STOP_COUNT} strings at most, got {len(sequences)}.",
            param="stop",
        )
    if sum(map(len, sequences)) > _MAX_STOP_SIZE:
        raise RequestError(
            f"`stop` takes {_MAX_STOP_SIZE} characters at most, all strings together.",
            param="stop",
        )
    return tuple(dict.fromkeys(text for text in sequences if text))
