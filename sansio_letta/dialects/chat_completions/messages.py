"""The messages of a chat request: strict for what is new, and nothing of what is old can be wrong.

A client sends its whole history with each request. New is what follows its last assistant message: that is
told to the agent, so it must be what it seems. The rest is old. Of it results are looked up by their ids,
instructions count, and a new conversation is told it once; it stays in the chat for good, so nothing in it may
keep the chat from going on. What cannot be told of it becomes a note, like ``[file a.pdf]``.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import groupby, islice
from typing import Any, Final, TypeAlias

import orjson
from attrs import field, frozen

from ..._convert import WrongType
from ...config import Config
from ...errors import RequestError
from .fields import (
    Notices,
    array_at,
    missing,
    object_at,
    string_at,
    string_in,
    too_many,
    wrong_type,
)
from .pictures import EXPECTED, picture_url


@frozen(kw_only=True)
class TextPart:
    text: str = field(repr=False)


@frozen(kw_only=True)
class ImageUrl:
    """An ``http:`` or ``https:`` URL, or a ``data:`` one with an image that models take."""

    url: str = field(repr=False)


@frozen(kw_only=True)
class ImagePart:
    image_url: ImageUrl


Part: TypeAlias = TextPart | ImagePart
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
    """The result of one call: text, or parts."""

    tool_call_id: str
    content: Content = field(repr=False)


Message: TypeAlias = InstructionMessage | UserMessage | AssistantMessage | ToolMessage

#: Role -> the types of parts that a new message's content may have.
_ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    "system": ("text",),
    "developer": ("text",),
    "user": ("text", "image_url"),
    "tool": ("text", "image_url"),
    "function": ("text", "image_url"),
}

#: Roles whose messages are results of calls.
_RESULTS: Final = ("tool", "function")

#: Role -> its fields.
_READ: Final[Mapping[str, tuple[str, ...]]] = {
    "user": ("role", "content", "name"),
    "tool": ("role", "content", "tool_call_id"),
    "function": ("role", "content", "name"),
}

_NO_PART: Final[Mapping[str, str]] = {
    "input_audio": "an agent cannot hear: send what was said as text",
    "file": "there is no file store: put the text into the message",
    "video_url": "an agent cannot watch: send pictures, or text",
}

#: Hints inside a part that nobody needs to hear about.
_QUIET_PART_FIELDS: Final = frozenset({"type", "prompt_cache_breakpoint", "cache_control"})

#: Names of odd things in messages that are counted.
_MAX_ODD_COUNT: Final = 1000


def decode_messages(
    value: object, config: Config, notices: Notices, *, is_mended: bool = False
) -> tuple[Message, ...]:
    """All messages of a request, of which those behind the last assistant message are new.

    :param is_mended: halves of surrogate pairs were replaced in the request.
    :raises RequestError: if one that is new cannot be told to the agent as it is.
    """
    items = array_at(value, "messages")
    if not items:
        raise RequestError("`messages` is empty.", param="messages")
    if len(items) > config.max_message_count:
        raise too_many("messages", len(items), config.max_message_count)
    new = _first_new(items)
    odd: dict[str, None] = {}  # each name once, however often it comes
    old_messages = _Old(config, odd).decode(items[:new])
    new_messages = tuple(_New(items, new, config, odd).decode())
    for name in odd:
        notices.add(name)
    if is_mended and any(_has_mark(message.content) for message in new_messages):
        notices.add("messages.content.surrogate")
    return old_messages + new_messages


def _has_mark(content: Content | None) -> bool:
    if content is None or isinstance(content, str):
        return "\ufffd" in (content or "")
    return any(isinstance(part, TextPart) and "\ufffd" in part.text for part in content)


def _first_new(items: Sequence[object]) -> int:
    for index in range(len(items) - 1, -1, -1):
        item = items[index]
        if type(item) is dict and item.get("role") == "assistant":
            return index + 1
    return 0


# --- What is new ----------------------------------------------------------------------------------------------


class _New:
    """Decodes the messages behind the last assistant message."""

    def __init__(self, items: Sequence[object], first: int, config: Config, odd: dict[str, None]) -> None:
        self._items = items
        self._first = first
        self._odd = odd
        self._max_part_count = config.max_part_count
        self._part_count = 0
        self._calls: dict[str, list[str]] | None = None

    def decode(self) -> Iterator[Message]:
        for index in range(self._first, len(self._items)):
            raw = self._items[index]
            if type(raw) is dict and len(raw) == 2 and raw.get("role") == "user":
                content = raw.get("content")
                if type(content) is str:  # the usual one, and there may be very many
                    yield UserMessage(content=content)
                    continue
            yield self._message(raw, f"messages[{index}]")

    def _message(self, value: object, path: str) -> Message:
        raw = object_at(value, path)
        role = string_in(raw, "role", path)
        allowed = _ROLES.get(role)
        if allowed is None:
            names = ", ".join(("system", "developer", "user", "assistant", "tool"))
            raise RequestError(f"`{path}.role` must be one of {names}.", param=f"{path}.role")
        if len(raw) > 2:
            read = _READ.get(role, ("role", "content"))
            self._name_odd(raw, raw.keys() - read, "messages")
        if raw.get("content") is None:
            raise missing(f"{path}.content")
        content = self._content(raw["content"], f"{path}.content", allowed, is_result=role in _RESULTS)
        match role:
            case "user":
                name = raw.get("name")
                return UserMessage(content=content, name=name if type(name) is str and name else None)
            case "tool":
                return ToolMessage(tool_call_id=string_in(raw, "tool_call_id", path), content=content)
            case "function":
                return ToolMessage(tool_call_id=self._called(raw.get("name"), path), content=content)
            case _:
                return InstructionMessage(content=content)

    def _content(
        self, value: object, path: str, allowed: tuple[str, ...], *, is_result: bool = False
    ) -> Content:
        if type(value) is str:
            return value
        if type(value) is not list:
            raise wrong_type(path, WrongType(value, "a string or an array of parts"))
        self._part_count += len(value)
        if self._part_count > self._max_part_count:
            raise too_many(path, self._part_count, self._max_part_count)
        parts: list[Part] = []
        for index, part in enumerate(value):
            if type(part) is dict and len(part) == 2 and part.get("type") == "text":
                text = part.get("text")
                if type(text) is str:
                    parts.append(TextPart(text=text))
                    continue
            if is_result and type(part) is dict and (note := self._note_of_result(part, allowed)) is not None:
                parts.append(TextPart(text=note))
                continue
            parts.append(self._part(part, f"{path}[{index}]", allowed))
        return tuple(parts)

    def _note_of_result(self, part: Mapping[str, Any], allowed: tuple[str, ...]) -> str | None:
        """What is said in place of a result's part that Letta does not take; None: it does, or it is no part.

        A tool gives what it gives, and no client can mend it.
        """
        kind, text = part.get("type"), part.get("text")
        if type(kind) is not str or kind in allowed:
            return None
        if kind in _TEXTS and type(text) is str:
            return text
        return _note_of_part(part, kind, self._odd)

    def _part(self, value: object, path: str, allowed: tuple[str, ...]) -> Part:
        raw = object_at(value, path)
        kind = string_in(raw, "type", path)
        if kind not in allowed:
            why = _NO_PART.get(kind)
            raise RequestError(
                f"`{path}.type`: {kind} cannot be sent: {why}."
                if why
                else f"`{path}.type` must be one of {', '.join(allowed)} here.",
                param=f"{path}.type",
                code="unsupported_value" if why else "invalid_value",
            )
        if len(raw) > 2:
            self._name_odd(raw, raw.keys() - _QUIET_PART_FIELDS - {kind}, "messages.content")
        if kind == "text":
            return TextPart(text=self._text(raw, path))
        where = f"{path}.image_url"
        if "image_url" not in raw:
            raise missing(where)
        image = raw["image_url"]
        if type(image) is not str:
            image = string_in(object_at(image, where), "url", where)
        url = picture_url(image)
        if url is None:
            raise RequestError(f"`{where}`: {EXPECTED}.", param=where)
        return ImagePart(image_url=ImageUrl(url=url))

    def _name_odd(self, raw: Mapping[str, object], names: Set[str], path: str) -> None:
        # Nobody reads more than a few, and to sort a million takes a second.
        for name in sorted(islice(names, _MAX_ODD_COUNT)):
            if raw[name] is not None and len(self._odd) < _MAX_ODD_COUNT:
                self._odd[f"{path}.{name}"] = None

    def _text(self, raw: Mapping[str, object], path: str) -> str:
        if "text" not in raw:
            raise missing(f"{path}.text")
        return string_at(raw["text"], f"{path}.text")

    def _called(self, name: object, path: str) -> str:
        """The id of the call that a message of the old role ``function`` answers; it names the tool alone."""
        if self._calls is None:
            self._calls = _unanswered(self._items, self._first)
        ids = self._calls.get(name) if isinstance(name, str) else None
        if not ids:
            raise RequestError(
                f"`{path}.role`: a function message is deprecated, and this one's `name` is that of no call "
                "which the assistant message before it makes: send role tool, with the `tool_call_id`.",
                param=f"{path}.role",
                code="unsupported_value",
            )
        return ids.pop()


def _unanswered(items: Sequence[object], first: int) -> dict[str, list[str]]:
    """Calls of the last assistant message that no tool message answers: ids by tools, the last one first."""
    answered = {
        item["tool_call_id"]
        for item in items[first:]
        if type(item) is dict and type(item.get("tool_call_id")) is str
    }
    calls: dict[str, list[str]] = {}
    asking = items[first - 1] if first else None
    given = asking.get("tool_calls") if isinstance(asking, dict) else None
    for call in reversed(given) if isinstance(given, list) else ():
        match call:
            case {"id": str(call_id), "function": {"name": str(name)}} if call_id not in answered:
                calls.setdefault(name, []).append(call_id)
    return calls


# --- What is old ----------------------------------------------------------------------------------------------

_INSTRUCTING: Final = ("system", "developer")
_OLD_ROLES: Final = frozenset({"user", "assistant", "system", "developer", "tool"})
_TEXTS: Final = ("text", "input_text", "output_text", None)
#: Thoughts, and calls and results, which are known by other fields: a conversation is not told of them.
_UNTOLD: Final = frozenset(
    {
        "thinking",
        "redacted_thinking",
        "reasoning",
        "tool_use",
        "tool_call",
        "tool_calls",
        "function_call",
        "tool_result",
    }
)
_IMAGES: Final = ("image_url", "input_image", "image")
_FILES: Final = ("file", "input_file", "document")
_NOTES: Final[Mapping[str, str]] = {
    "input_audio": "audio",
    "audio": "audio",
    "video_url": "video",
    "input_video": "video",
    "video": "video",
}
_MAX_NOTE_SIZE: Final = 200
#: Parts of an old message that are kept as they are: to make a million objects of them takes a second.
_MAX_KEPT_COUNT: Final = 16


class _Old:
    """Reads the messages up to the last assistant message, the last one first: most of it is read there."""

    def __init__(self, config: Config, odd: dict[str, None]) -> None:
        self._odd = odd
        self._odd_part_count = config.max_part_count  #: that are told of still
        self._call_count = config.max_part_count  #: that are read still
        self._has_user = False

    def decode(self, items: Sequence[object]) -> tuple[Message, ...]:
        messages = [message for item in reversed(items) if (message := self._message(item)) is not None]
        return tuple(reversed(messages))

    def _message(self, value: object) -> Message | None:
        """None: there is nothing in it that is read."""
        if type(value) is not dict:
            self._odd["messages"] = None
            return None
        role, content = value.get("role"), value.get("content")
        if type(role) is not str or role not in _OLD_ROLES:
            return self._of_unknown_role(role, content)
        if type(content) is not str and content is not None:
            # Programs put prompts of their own behind other parts, into these messages.
            keeps_parts = role in _INSTRUCTING or (role == "user" and not self._has_user)
            content = self._told(content, has_pictures=role in ("user", "tool"), keeps_parts=keeps_parts)
        if role == "assistant":
            calls = value.get("tool_calls")
            return AssistantMessage(content=content, calls=self._made_calls(calls) if calls else ())
        if role == "user":
            self._has_user = True
            name = value.get("name")
            return UserMessage(content=content or "", name=name if type(name) is str and name else None)
        if role == "tool":
            call_id = value.get("tool_call_id")
            return ToolMessage(tool_call_id=call_id, content=content or "") if type(call_id) is str else None
        return InstructionMessage(content=content or "")

    def _made_calls(self, value: object) -> tuple[MadeCall, ...]:
        """What cannot be read is left out: Letta knows what was called."""
        calls = []
        for item in value[: self._call_count] if type(value) is list else ():
            function = item.get("function") if type(item) is dict else None
            if type(function) is not dict:
                continue
            call_id, name, arguments = item.get("id"), function.get("name"), function.get("arguments")
            if type(call_id) is str and type(name) is str:
                given = arguments if type(arguments) is str else ""
                calls.append(MadeCall(call_id=call_id, name=name, arguments=given))
        self._call_count -= len(calls)
        return tuple(calls)

    def _of_unknown_role(self, role: object, content: object) -> Message | None:
        """Somebody has said something; a result in the old form is none that anybody looks for."""
        if role == "function":
            return None
        self._odd["messages.role"] = None
        if content is not None and type(content) is not str:
            content = self._told(content, has_pictures=False)
        if not content:
            return None
        speaker = TextPart(text=_note(role))
        return UserMessage(
            content=(speaker, TextPart(text=content)) if type(content) is str else (speaker, *content)
        )

    def _told(self, content: object, *, has_pictures: bool, keeps_parts: bool = True) -> Content:
        """Content that is no string: its text, with notes of what else there was, and its pictures.

        :param has_pictures: whether they can be told; otherwise they are a note, too.
        :param keeps_parts: whether somebody asks for each; otherwise texts that follow each other are one.
        """
        items = content if type(content) is list else [content]
        parts: list[str | ImagePart] = []
        for item in items:
            if type(item) is dict and type(text := item.get("text")) is str and item.get("type") in _TEXTS:
                parts.append(text)
                continue
            if self._odd_part_count == 0:
                parts.append("[...]")
                break
            self._odd_part_count -= 1
            told = self._told_part(item)
            if isinstance(told, str) or (told is not None and has_pictures):
                parts.append(told)
            elif told is not None:
                parts.append("[image]")
        if not keeps_parts or len(parts) > _MAX_KEPT_COUNT:
            parts = _joined(parts)
        if len(parts) == 1 and isinstance(parts[0], str):
            return parts[0]
        return tuple(TextPart(text=part) if isinstance(part, str) else part for part in parts)

    def _told_part(self, part: object) -> str | ImagePart | None:
        """A part that is no text; None: it is not told."""
        if type(part) is str or part is None:
            return part
        kind = part.get("type") if type(part) is dict else None
        if type(part) is not dict or type(kind) is not str:
            return _json(part)
        if kind in _UNTOLD:
            return None
        if kind == "refusal":
            refusal = part.get("refusal")
            return refusal if type(refusal) is str else None
        if kind in _IMAGES:
            image = part.get("image_url")
            url = image.get("url") if type(image) is dict else image
            known = picture_url(url) if type(url) is str else None
            if known is not None:
                return ImagePart(image_url=ImageUrl(url=known))
            self._odd["messages.content.image_url"] = None
            return "[image]"
        return _note_of_part(part, kind, self._odd)


def _joined(parts: Sequence[str | ImagePart]) -> list[str | ImagePart]:
    """The same with one text where several follow each other."""
    joined: list[str | ImagePart] = []
    for is_text, group in groupby(parts, lambda part: isinstance(part, str)):
        if is_text:
            joined.append("\n".join(part for part in group if isinstance(part, str)))
        else:
            joined.extend(group)
    return joined


def _note_of_part(part: Mapping[str, Any], kind: str, odd: dict[str, None]) -> str:
    """What is said in place of a part that cannot be told; its type is among what is odd."""
    if len(odd) < _MAX_ODD_COUNT:
        odd[f"messages.content.{kind}"] = None
    return _note("file", _file_name(part)) if kind in _FILES else _note(_NOTES.get(kind, kind))


def _file_name(part: Mapping[str, Any]) -> object:
    inner = part.get("file")
    places = (inner, part) if isinstance(inner, dict) else (part,)
    names = (place.get(key) for place in places for key in ("filename", "name", "title"))
    return next((name for name in names if isinstance(name, str) and name), None)


def _note(*words: object) -> str:
    """What was there, for the agent: in one line, and short."""
    text = " ".join(word for word in words if isinstance(word, str)) or "?"
    return f"[{''.join(char if char.isprintable() else ' ' for char in text[:_MAX_NOTE_SIZE])}]"


def _json(value: object) -> str:
    """A value that is no text at all, as it was written."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # nested too deeply
        return "[...]"
