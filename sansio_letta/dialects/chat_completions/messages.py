"""The messages of a chat request. New ones are checked strictly; older ones are decoded by `history`.

A client sends its whole history with each request. What follows its last assistant message is new, and is sent
to the agent, so it must be valid.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import islice
from typing import Any, Final

from ..._convert import WrongType
from ...config import Config
from ...errors import RequestError
from ...turn.request import Content, Image, Part, Text
from ..fields import (
    Notices,
    array_at,
    missing,
    object_at,
    string_at,
    string_in,
    too_many,
    wrong_type,
)
from ..items import InstructionMessage, Message, ToolMessage, UserMessage
from ..pictures import EXPECTED, picture_url
from .history import MAX_ODD_COUNT, TEXTS, History, note_of_part

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

#: Hints inside a part that are ignored without a notice.
_QUIET_PART_FIELDS: Final = frozenset({"type", "prompt_cache_breakpoint", "cache_control"})


def decode_messages(
    value: object, config: Config, notices: Notices, *, is_mended: bool = False
) -> tuple[Message, ...]:
    """Decode all messages of a request. Those after the last assistant message are new.

    :param is_mended: whether lone surrogates were replaced in the request.
    :raises RequestError: if a new message cannot be sent to the agent as it is.
    """
    items = array_at(value, "messages")
    if not items:
        raise RequestError("`messages` is empty.", param="messages")
    if len(items) > config.max_message_count:
        raise too_many("messages", len(items), config.max_message_count)
    new = _first_new(items)
    odd: dict[str, None] = {}  # each name once
    old_messages = History(config, odd).decode(items[:new])
    new_messages = tuple(_New(items, new, config, odd).decode())
    for name in odd:
        notices.add(name)
    if is_mended and any(_has_mark(message.content) for message in new_messages):
        notices.add("messages.content.surrogate")
    return old_messages + new_messages


def _has_mark(content: Content | None) -> bool:
    if content is None or isinstance(content, str):
        return "\ufffd" in (content or "")
    return any(isinstance(part, Text) and "\ufffd" in part.text for part in content)


def _first_new(items: Sequence[object]) -> int:
    for index in range(len(items) - 1, -1, -1):
        item = items[index]
        if type(item) is dict and item.get("role") == "assistant":
            return index + 1
    return 0


class _New:
    """Decodes the messages after the last assistant message."""

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
                if type(content) is str:  # the most frequent form, and there may be very many
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
                    parts.append(Text(text=text))
                    continue
            if is_result and type(part) is dict and (note := self._note_of_result(part, allowed)) is not None:
                parts.append(Text(text=note))
                continue
            parts.append(self._part(part, f"{path}[{index}]", allowed))
        return tuple(parts)

    def _note_of_result(self, part: Mapping[str, Any], allowed: tuple[str, ...]) -> str | None:
        """Make a note in place of a part of a result that Letta does not support; None if it does.

        A client has no influence on what a tool returns, so this is not an error.
        """
        kind, text = part.get("type"), part.get("text")
        if type(kind) is not str or kind in allowed:
            return None
        if kind in TEXTS and type(text) is str:
            return text
        return note_of_part(part, kind, self._odd)

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
            return Text(text=self._text(raw, path))
        where = f"{path}.image_url"
        if "image_url" not in raw:
            raise missing(where)
        image = raw["image_url"]
        if type(image) is not str:
            image = string_in(object_at(image, where), "url", where)
        url = picture_url(image)
        if url is None:
            raise RequestError(f"`{where}`: {EXPECTED}.", param=where)
        return Image(url=url)

    def _name_odd(self, raw: Mapping[str, object], names: Set[str], path: str) -> None:
        # Sorting a million takes a second, so only some are sorted.
        for name in sorted(islice(names, MAX_ODD_COUNT)):
            if raw[name] is not None and len(self._odd) < MAX_ODD_COUNT:
                self._odd[f"{path}.{name}"] = None

    def _text(self, raw: Mapping[str, object], path: str) -> str:
        if "text" not in raw:
            raise missing(f"{path}.text")
        return string_at(raw["text"], f"{path}.text")

    def _called(self, name: object, path: str) -> str:
        """Find the call that a message of the deprecated role ``function`` answers, by the tool's name."""
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
    """Ids of calls of the last assistant message without a result, by tool, the last call first."""
    answered = {
        item["tool_call_id"]
        for item in items[first:]
        if type(item) is dict and type(item.get("tool_call_id")) is str
    }
    calls: dict[str, list[str]] = {}
    caller = items[first - 1] if first else None
    given = caller.get("tool_calls") if isinstance(caller, dict) else None
    for call in reversed(given) if isinstance(given, list) else ():
        match call:
            case {"id": str(call_id), "function": {"name": str(name)}} if call_id not in answered:
                calls.setdefault(name, []).append(call_id)
    return calls
