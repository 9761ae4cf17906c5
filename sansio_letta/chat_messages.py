"""The messages of a chat request."""

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

from attrs import field, fields, frozen

from ._convert import WrongType
from .chat_fields import Notices, array, checked, missing, object_at, string, structure, tag, wrong_type
from .errors import RequestError


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
    """Text, or parts of text and images.

    :param name: of the person, where several speak.
    """

    content: Content = field(repr=False)
    name: str | None = None


@frozen(kw_only=True)
class AssistantMessage:
    """What the agent said before, as the client remembers it; null or absent beside calls. Letta has a memory:
    the text counts for a new conversation, and where it asks for an approval."""

    content: Content | None = field(default=None, repr=False)
    calls: tuple["MadeCall", ...] = ()  #: of the client's tools


@frozen(kw_only=True)
class MadeCall:
    """A call that the agent made before, as the client remembers it."""

    call_id: str
    name: str
    arguments: str = field(default="", repr=False)


@frozen(kw_only=True)
class ToolMessage:
    """The result of one call: text, or text parts."""

    tool_call_id: str
    content: Content = field(repr=False)


Message: TypeAlias = InstructionMessage | UserMessage | AssistantMessage | ToolMessage


#: Hints inside a part that nobody needs to hear about.
_QUIET_PART_FIELDS: Final = frozenset({"type", "prompt_cache_breakpoint", "cache_control"})

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


def decode_messages(value: object, notices: Notices) -> tuple[Message, ...]:
    items = array(value, "messages")
    if not items:
        raise RequestError("`messages` is empty.", param="messages")
    return tuple(_decode_message(item, f"messages[{index}]", notices) for index, item in enumerate(items))


def _decode_message(value: object, path: str, notices: Notices) -> Message:
    raw = object_at(value, path)
    role = tag(raw, "role", path)
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
            content=None if said is None else _decode_content(said, f"{path}.content", _ROLES[role], notices),
            calls=_made_calls(raw.get("tool_calls")),
        )
    known = {"role", "content", {"tool": "tool_call_id", "user": "name"}.get(role, "role")}
    for name in sorted(raw.keys() - known):
        if raw[name] is not None:
            notices.add(f"messages.{name}")
    if raw.get("content") is None:
        raise missing(f"{path}.content")
    content = _decode_content(raw["content"], f"{path}.content", _ROLES[role], notices)
    match role:
        case "user":
            speaker = raw.get("name")
            return UserMessage(content=content, name=speaker if isinstance(speaker, str) and speaker else None)
        case "tool":
            if raw.get("tool_call_id") is None:
                raise missing(f"{path}.tool_call_id")
            checked(string, raw["tool_call_id"], f"{path}.tool_call_id")
            return ToolMessage(tool_call_id=raw["tool_call_id"], content=content)
        case _:
            return InstructionMessage(content=content)


def _made_calls(value: object) -> tuple[MadeCall, ...]:
    """The calls of an earlier reply. What cannot be read is left out: Letta knows what was called."""
    calls = []
    for item in value if isinstance(value, list) else []:
        match item:
            case {"id": str(call_id), "function": {"name": str(name), **rest}}:
                arguments = rest.get("arguments")
                given = arguments if isinstance(arguments, str) else ""
                calls.append(MadeCall(call_id=call_id, name=name, arguments=given))
    return tuple(calls)


def _decode_content(value: object, path: str, allowed: tuple[str, ...], notices: Notices) -> Content:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise wrong_type(path, WrongType(value, "a string or an array of parts"))
    return tuple(_decode_part(part, f"{path}[{index}]", allowed, notices) for index, part in enumerate(value))


def _decode_part(value: object, path: str, allowed: tuple[str, ...], notices: Notices) -> Part:
    raw = object_at(value, path)
    kind = tag(raw, "type", path)
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
    part = structure(raw, cls, path)
    if isinstance(part, ImagePart) and not _IMAGE_URL.match(part.image_url.url):
        raise RequestError(
            f"`{path}.image_url` must be an https: URL, or a data: URL with a base64 png, jpeg, gif or webp.",
            param=f"{path}.image_url",
        )
    return part
