"""The Chat Completions wire, incoming: a request's body as typed values, or an error that names the field.

What becomes of each field stands in `FIELDS`, one line each. *Honour* and *map* fields are read by name below;
a *notice* is ignored and named in the answer's ``x-ignored-parameters``; *quiet* fields are ignored without a
word; *refuse* means that the answer would not be what the client asked for. ``null`` in an optional field means
absent, SDKs send it. Unknown fields are a notice: clients add their own.
"""

import re
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any, Final, TypeAlias, TypeVar

import orjson
from attrs import field, fields, frozen
from cattrs import BaseValidationError, Converter

from ._convert import WrongType, exactly, first_error, json_name, strict_converter
from .errors import RequestError

_T = TypeVar("_T")

# --- Values ---------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class TextPart:
    text: str = field(repr=False)


@frozen(kw_only=True)
class ImageUrl:
    """A ``data:`` URL with an image, or an ``https:`` one."""

    url: str = field(repr=False)
    detail: str | None = None


@frozen(kw_only=True)
class ImagePart:
    image_url: ImageUrl


@frozen(kw_only=True)
class RefusalPart:
    refusal: str = field(repr=False)


Part: TypeAlias = TextPart | ImagePart | RefusalPart
Content: TypeAlias = str | tuple[Part, ...]


@frozen(kw_only=True)
class InstructionMessage:
    """A system or developer message: text, or text parts."""

    content: Content = field(repr=False)


@frozen(kw_only=True)
class UserMessage:
    """Text, or parts of text and images."""

    content: Content = field(repr=False)


@frozen(kw_only=True)
class AssistantMessage:
    """What the agent said before, as the client remembers it; null or absent beside calls. Letta has a memory:
    the text counts for a new conversation, and where it asks for an approval."""

    content: Content | None = field(default=None, repr=False)


@frozen(kw_only=True)
class ToolMessage:
    """The result of one call: text, or text parts."""

    tool_call_id: str
    content: Content = field(repr=False)


Message: TypeAlias = InstructionMessage | UserMessage | AssistantMessage | ToolMessage


@frozen(kw_only=True)
class FunctionTool:
    """A tool that the client carries out."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = field(default=None, repr=False)
    strict: bool | None = None


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
    metadata: Mapping[str, str] = field(factory=dict, repr=False)
    ignored: tuple[str, ...] = ()  #: fields that were given and have no effect, each once


# --- The fields -----------------------------------------------------------------------------------------------


class Treatment(Enum):
    HONOUR = auto()
    NOTICE = auto()
    QUIET = auto()


def _string(value: object) -> str:
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
    "model": Field(_HONOUR, _string),
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
    "verbosity": Field(_NOTICE, _string),
    "reasoning_effort": Field(_NOTICE, _string),
    "max_completion_tokens": Field(_NOTICE, _integer),
    "max_tokens": Field(_NOTICE, _integer),
    "prediction": Field(_NOTICE, _object),
    "web_search_options": Field(_NOTICE, _object),
    "moderation": Field(_NOTICE, _anything),
    "store": Field(_NOTICE, _flag),
    "user": Field(_QUIET, _string),
    "safety_identifier": Field(_QUIET, _string),
    "prompt_cache_key": Field(_QUIET, _string),
    "service_tier": Field(_QUIET, _string),
    "prompt_cache_options": Field(_QUIET, _anything),
    "prompt_cache_retention": Field(_QUIET, _anything),
}

#: Values that ask for what happens anyway: nothing was ignored.
_HARMLESS: Final[Mapping[str, object]] = {"store": False}

#: Hints inside a part that nobody needs to hear about.
_QUIET_PART_FIELDS: Final = frozenset({"type", "prompt_cache_breakpoint", "cache_control"})

_MAX_METADATA_COUNT, _MAX_METADATA_KEY, _MAX_METADATA_VALUE = 16, 64, 512
#: OpenAI's, too.
_MAX_STOP_COUNT: Final = 4
#: Characters of all stop sequences together: each costs a table of its size.
_MAX_STOP_SIZE: Final = 16 * 1024
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


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
    notices = _Notices()
    _check_fields(given, notices)
    for name in ("model", "messages"):
        if name not in given:
            raise _missing(name)
    if not given["model"]:
        raise RequestError("`model` is empty: give the name or id of an agent.", param="model")
    options = _structure(given.get("stream_options", {}), StreamOptions, "stream_options")
    messages = _decode_messages(given["messages"], notices)
    tools = _decode_tools(given.get("tools", []), notices)
    tools, must_call = _choose_tools(tools, given.get("tool_choice"))
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
        metadata=_check_metadata(given.get("metadata", {})),
        ignored=tuple(notices.names),
    )


class _Notices:
    """Names of ignored fields, each once, in the order in which they came."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}

    def add(self, name: str) -> None:
        self.names[name] = None


def _check_fields(given: Mapping[str, object], notices: _Notices) -> None:
    for name, value in given.items():
        rule = FIELDS.get(name)
        if rule is None:
            notices.add(name)
            continue
        if not rule.only:
            _checked(rule.check, value, name)
        elif value not in rule.only or type(value) is not type(rule.only[0]):
            code = "unsupported_value" if rule.only[0] is not None else "unsupported_parameter"
            _checked(rule.check, value, name)
            raise RequestError(f"`{name}` cannot be honoured: {rule.why}.", param=name, code=code)
        if rule.treatment is Treatment.NOTICE and _HARMLESS.get(name) is not value:
            notices.add(name)


def _checked(check: Callable[[object], _T], value: object, path: str) -> _T:
    try:
        return check(value)
    except WrongType as exc:
        raise _wrong_type(path, exc) from None


def _array(value: object, path: str) -> list[Any]:
    return _checked(lambda value: exactly(value, list), value, path)


def _object_at(value: object, path: str) -> dict[str, Any]:
    return _checked(_object, value, path)


def _tag(raw: Mapping[str, object], name: str, path: str) -> str:
    if raw.get(name) is None:
        raise _missing(f"{path}.{name}")
    return _checked(_string, raw[name], f"{path}.{name}")


def _wrong_type(path: str, exc: BaseException) -> RequestError:
    return RequestError(f"`{path}`: {exc}.", param=path, code="invalid_type")


def _missing(path: str) -> RequestError:
    return RequestError(f"`{path}` is missing.", param=path, code="missing_required_parameter")


def _structure(value: object, kind: type[_T], path: str) -> _T:
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
            raise _missing(where) from None
        raise _wrong_type(where, cause) from None


def _decode_response_format(value: Mapping[str, Any] | None) -> JsonFormat | None:
    """What the reply must be; None: text."""
    if value is None:
        return None
    match _tag(value, "type", "response_format"):
        case "text":
            return None
        case "json_object":
            return JsonFormat()
        case "json_schema":
            path = "response_format.json_schema"
            if value.get("json_schema") is None:
                raise _missing(path)
            wanted = _structure(value["json_schema"], JsonSchema, path)
            _check_name(wanted.name, f"{path}.name")
            _check_depth(wanted.schema, f"{path}.schema")
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
        _checked(_string, item, path)
        pairs[key] = str(item)
        if len(pairs[key]) > _MAX_METADATA_VALUE:
            raise RequestError(f"`{path}` is longer than {_MAX_METADATA_VALUE} characters.", param=path)
    return pairs


# --- Messages -------------------------------------------------------------------------------------------------

_ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    "system": ("text",),
    "developer": ("text",),
    "user": ("text", "image_url"),
    "assistant": ("text", "refusal"),
    "tool": ("text",),
}  #: each with the types of parts that its content may have

_PARTS: Final[Mapping[str, type[Part]]] = {"text": TextPart, "image_url": ImagePart, "refusal": RefusalPart}

_NO_PART: Final[Mapping[str, str]] = {
    "input_audio": "an agent cannot hear",
    "file": "there is no file store: put the text into the message",
}

_IMAGE_URL: Final = re.compile(r"https://.|data:image/(png|jpeg|gif|webp);base64,.", re.IGNORECASE)


def _decode_messages(value: object, notices: _Notices) -> tuple[Message, ...]:
    items = _array(value, "messages")
    if not items:
        raise RequestError("`messages` is empty.", param="messages")
    return tuple(_decode_message(item, f"messages[{index}]", notices) for index, item in enumerate(items))


def _decode_message(value: object, path: str, notices: _Notices) -> Message:
    raw = _object_at(value, path)
    role = _tag(raw, "role", path)
    if role == "function":
        raise RequestError(
            f"`{path}.role`: function messages are deprecated: send role tool.",
            param=f"{path}.role",
            code="unsupported_value",
        )
    if role not in _ROLES:
        raise RequestError(f"`{path}.role` must be one of {', '.join(_ROLES)}.", param=f"{path}.role")
    if role == "assistant":
        said = raw.get("content")
        return AssistantMessage(
            content=None if said is None else _decode_content(said, f"{path}.content", _ROLES[role], notices)
        )
    known = {"role", "content", "tool_call_id"} if role == "tool" else {"role", "content"}
    for name in sorted(raw.keys() - known):
        if raw[name] is not None:
            notices.add(f"messages.{name}")
    if raw.get("content") is None:
        raise _missing(f"{path}.content")
    content = _decode_content(raw["content"], f"{path}.content", _ROLES[role], notices)
    match role:
        case "user":
            return UserMessage(content=content)
        case "tool":
            if raw.get("tool_call_id") is None:
                raise _missing(f"{path}.tool_call_id")
            _checked(_string, raw["tool_call_id"], f"{path}.tool_call_id")
            return ToolMessage(tool_call_id=raw["tool_call_id"], content=content)
        case _:
            return InstructionMessage(content=content)


def _decode_content(value: object, path: str, allowed: tuple[str, ...], notices: _Notices) -> Content:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise _wrong_type(path, WrongType(value, "a string or an array of parts"))
    return tuple(_decode_part(part, f"{path}[{index}]", allowed, notices) for index, part in enumerate(value))


def _decode_part(value: object, path: str, allowed: tuple[str, ...], notices: _Notices) -> Part:
    raw = _object_at(value, path)
    kind = _tag(raw, "type", path)
    if kind not in allowed:
        why = _NO_PART.get(kind)
        raise RequestError(
            f"`{path}.type`: {kind} cannot be sent: {why}."
            if why
            else f"`{path}.type` must be one of {', '.join(allowed)} here.",
            param=f"{path}.type",
            code="unsupported_value" if why else "invalid_value",
        )
    cls = _PARTS[kind]
    for name in sorted(raw.keys() - {attribute.name for attribute in fields(cls)} - _QUIET_PART_FIELDS):
        if raw[name] is not None:
            notices.add(f"messages.content.{name}")
    if cls is ImagePart and isinstance(raw.get("image_url"), str):
        raw = {**raw, "image_url": {"url": raw["image_url"]}}
    part = _structure(raw, cls, path)
    if isinstance(part, ImagePart) and not _IMAGE_URL.match(part.image_url.url):
        raise RequestError(
            f"`{path}.image_url` must be an https: URL, or a data: URL with a base64 png, jpeg, gif or webp.",
            param=f"{path}.image_url",
        )
    return part


# --- Tools ----------------------------------------------------------------------------------------------------


def _decode_tools(value: object, notices: _Notices) -> tuple[FunctionTool, ...]:
    tools: dict[str, FunctionTool] = {}
    for index, item in enumerate(_array(value, "tools")):
        path = f"tools[{index}]"
        raw = _object_at(item, path)
        if _tag(raw, "type", path) != "function":
            raise RequestError(
                f"`{path}.type` must be function: other tools would have to run at the agent.",
                param=f"{path}.type",
                code="unsupported_value",
            )
        where = f"{path}.function"
        if raw.get("function") is None:
            raise _missing(where)
        tool = _structure(raw["function"], FunctionTool, where)
        _check_name(tool.name, f"{where}.name")
        if tool.name in tools:
            raise RequestError(f"`{where}.name`: {tool.name} is there twice.", param=f"{where}.name")
        _check_depth(tool.parameters, f"{where}.parameters")
        if tool.parameters is not None and "properties" in tool.parameters:
            # If they are no object, every run that has the tool breaks inside of Letta.
            _object_at(tool.parameters["properties"], f"{where}.parameters.properties")
        if tool.strict:
            notices.add("tools.function.strict")
        tools[tool.name] = tool
    return tuple(tools.values())


def _check_name(name: str, path: str) -> None:
    if not _NAME.fullmatch(name):
        raise RequestError(f"`{path}` must be 1 to 64 letters, digits, underscores or dashes.", param=path)


def _check_depth(schema: Mapping[str, Any] | None, path: str) -> None:
    """orjson reads deeper JSON than it writes, and Letta must be sent the schema, as a tool's, in a list."""
    try:
        orjson.dumps({"client_tools": [{"parameters": schema}]})
    except orjson.JSONEncodeError:
        raise RequestError(f"`{path}` is nested too deeply.", param=path) from None


def _choose_tools(tools: tuple[FunctionTool, ...], choice: object) -> tuple[tuple[FunctionTool, ...], bool]:
    """What `tool_choice` leaves, and whether one of these must be called."""
    match choice:
        case None | "auto":
            return tools, False
        case "none":
            return (), False
        case "required":
            chosen, forced = tools, True
        case {"type": "function"}:
            name = _named_tool(choice, "tool_choice", tools)
            chosen, forced = tuple(tool for tool in tools if tool.name == name), True
        case {"type": "allowed_tools", **rest}:
            chosen, forced = _allowed_tools(tools, rest.get("allowed_tools"))
        case {"type": "custom"}:
            raise RequestError(
                "`tool_choice.type` must be function or allowed_tools: other tools would have to run at the "
                "agent.",
                param="tool_choice",
                code="unsupported_value",
            )
        case _:
            raise RequestError(
                "`tool_choice` must be auto, none, required, or an object of type function or allowed_tools.",
                param="tool_choice",
            )
    if forced and not chosen:
        raise RequestError("`tool_choice` wants a tool called, and there is none.", param="tool_choice")
    return chosen, forced


def _allowed_tools(tools: tuple[FunctionTool, ...], value: object) -> tuple[tuple[FunctionTool, ...], bool]:
    path = "tool_choice.allowed_tools"
    allowed = _object_at(value, path)
    mode = allowed.get("mode")
    if mode not in ("auto", "required"):
        raise RequestError(f"`{path}.mode` must be auto or required.", param=f"{path}.mode")
    items = _array(allowed.get("tools"), f"{path}.tools")
    names = {_named_tool(item, f"{path}.tools[{index}]", tools) for index, item in enumerate(items)}
    return tuple(tool for tool in tools if tool.name in names), mode == "required"


def _named_tool(value: object, path: str, tools: tuple[FunctionTool, ...]) -> str:
    function = value.get("function") if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or name not in {tool.name for tool in tools}:
        where = f"{path}.function.name"
        raise RequestError(f"`{where}` names no tool of `tools`.", param=where)
    return name


# --- The converter --------------------------------------------------------------------------------------------


def _make_converter() -> Converter:
    converter = strict_converter()
    converter.register_structure_hook(
        Mapping[str, Any] | None, lambda value, _: None if value is None else exactly(value, dict)
    )
    return converter


_wire: Final = _make_converter()
