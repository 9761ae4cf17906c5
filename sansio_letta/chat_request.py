"""The Chat Completions wire, incoming: a request's body as typed values, or an error that names the field."""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from attrs import field, frozen

from ._convert import json_name
from .chat_fields import (
    FIELDS,
    Notices,
    Treatment,
    check_fields,
    checked,
    missing,
    string,
    structure,
    tag,
)
from .chat_messages import (
    AssistantMessage,
    Content,
    ImagePart,
    ImageUrl,
    InstructionMessage,
    MadeCall,
    Message,
    Part,
    RefusalPart,
    TextPart,
    ToolMessage,
    UserMessage,
    decode_messages,
)
from .chat_tools import FunctionTool, check_depth, check_name, choose_tools, decode_tools
from .errors import RequestError

__all__ = [
    "FIELDS",
    "AssistantMessage",
    "ChatRequest",
    "Content",
    "FunctionTool",
    "ImagePart",
    "ImageUrl",
    "InstructionMessage",
    "JsonFormat",
    "JsonSchema",
    "MadeCall",
    "Message",
    "Part",
    "RefusalPart",
    "StreamOptions",
    "TextPart",
    "ToolMessage",
    "Treatment",
    "UserMessage",
    "decode_request",
]

_MAX_METADATA_COUNT, _MAX_METADATA_KEY, _MAX_METADATA_VALUE = 16, 64, 512
#: OpenAI's, too.
_MAX_STOP_COUNT: Final = 4
#: Characters of all stop sequences together: each costs a table of its size.
_MAX_STOP_SIZE: Final = 16 * 1024


@frozen(kw_only=True)
class StreamOptions:
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


@frozen(kw_only=True)
class JsonSchema:
    """What JSON must satisfy; whether that is a schema at all is not checked here."""

    name: str
    description: str | None = None
    schema: Mapping[str, Any] | None = field(default=None, repr=False)
    strict: bool | None = None


@frozen(kw_only=True)
class JsonFormat:
    """The reply must be JSON.

    :param json_schema: what it must satisfy; None: any object will do.
    """

    json_schema: JsonSchema | None = None


@frozen(kw_only=True)
class ChatRequest:
    """One valid request."""

    model: str
    messages: tuple[Message, ...]
    stream: bool = False
    include_usage: bool = False
    tools: tuple[FunctionTool, ...] = ()  #: those that `tool_choice` leaves
    must_call: bool = False  #: `tool_choice` forces a call of one of them
    parallel_tool_calls: bool = True  #: otherwise calls are told one at a time
    stop: tuple[str, ...] = ()  #: the text ends before the first of these
    response_format: JsonFormat | None = None  #: None: text
    max_tokens: int | None = None  #: of the reply; what tells a gateway's probe, and is not honoured
    metadata: Mapping[str, str] = field(factory=dict, repr=False)
    ignored: tuple[str, ...] = ()  #: fields that were given and have no effect, each once


def decode_request(data: bytes) -> ChatRequest:
    """The body of ``POST /v1/chat/completions``.

    :param data: JSON, whatever the Content-Type said.
    :raises RequestError: 400, with the field in `param`, if it cannot be carried out as it stands.
    """
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise RequestError(f"The body is not valid JSON: {exc}.", code="invalid_json") from None
    if type(raw) is not dict:
        raise RequestError(f"The body must be a JSON object, got {json_name(raw)}.", code="invalid_type")
    given = {name: value for name, value in raw.items() if value is not None}
    notices = Notices()
    check_fields(given, notices)
    for name in ("model", "messages"):
        if name not in given:
            raise missing(name)
    if not given["model"]:
        raise RequestError("`model` is empty: give the name or id of an agent.", param="model")
    options = structure(given.get("stream_options", {}), StreamOptions, "stream_options")
    messages = decode_messages(given["messages"], notices)
    tools = decode_tools(given.get("tools", []), notices)
    tools, must_call = choose_tools(tools, given.get("tool_choice"))
    return ChatRequest(
        model=given["model"],
        messages=messages,
        stream=given.get("stream", False),
        include_usage=bool(options.include_usage),
        tools=tools,
        must_call=must_call,
        parallel_tool_calls=given.get("parallel_tool_calls", True),
        stop=_decode_stop(given.get("stop", [])),
        response_format=_decode_response_format(given.get("response_format")),
        max_tokens=_max_tokens(given),
        metadata=_check_metadata(given.get("metadata", {})),
        ignored=tuple(notices.names),
    )


def _max_tokens(given: Mapping[str, Any]) -> int | None:
    value = given.get("max_completion_tokens", given.get("max_tokens"))
    return int(value) if isinstance(value, int | float) and 0 <= value < 2**31 else None


def _decode_response_format(value: Mapping[str, Any] | None) -> JsonFormat | None:
    """What the reply must be; None: text."""
    if value is None:
        return None
    match tag(value, "type", "response_format"):
        case "text":
            return None
        case "json_object":
            return JsonFormat()
        case "json_schema":
            path = "response_format.json_schema"
            if value.get("json_schema") is None:
                raise missing(path)
            wanted = structure(value["json_schema"], JsonSchema, path)
            check_name(wanted.name, f"{path}.name")
            check_depth(wanted.schema, f"{path}.schema")
            return JsonFormat(json_schema=wanted)
    raise RequestError(
        "`response_format.type` must be text, json_object or json_schema.", param="response_format.type"
    )


def _decode_stop(value: str | list[str]) -> tuple[str, ...]:
    """The stop sequences; an empty one would stop nothing."""
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


def _check_metadata(value: Mapping[str, object]) -> Mapping[str, str]:
    if len(value) > _MAX_METADATA_COUNT:
        raise RequestError(f"`metadata` holds more than {_MAX_METADATA_COUNT} pairs.", param="metadata")
    pairs = {}
    for key, item in value.items():
        path = f"metadata.{key[:_MAX_METADATA_KEY]}"
        if len(key) > _MAX_METADATA_KEY:
            raise RequestError(
                f"A key of `metadata` is longer than {_MAX_METADATA_KEY} characters.", param=path
            )
        checked(string, item, path)
        pairs[key] = str(item)
        if len(pairs[key]) > _MAX_METADATA_VALUE:
            raise RequestError(f"`{path}` is longer than {_MAX_METADATA_VALUE} characters.", param=path)
    return pairs
