"""The older messages of a chat request, up to the last assistant message: nothing in them is an error.

Results are looked up in them by their ids, instructions count, and a new conversation is told them once. They
stay in the chat for good, so nothing in them may keep the chat from going on. What cannot be told of them
becomes a note, like ``[file a.pdf]``.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final

import orjson

from ...config import Config
from ...turn.request import Content, Image, Text
from ..items import AssistantMessage, InstructionMessage, MadeCall, Message, ToolMessage, UserMessage
from ..pictures import picture_url

#: Names of odd things in messages that are counted.
MAX_ODD_COUNT: Final = 1000

_INSTRUCTING: Final = ("system", "developer")
_OLD_ROLES: Final = frozenset({"user", "assistant", "system", "developer", "tool"})
#: Types of parts that are text.
TEXTS: Final = ("text", "input_text", "output_text", None)
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


class History:
    """Reads the older messages, the last one first: the limits are spent on what came last."""

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
        """A message of a role that is not known is kept as a user's; a result in the old form is left out."""
        if role == "function":
            return None
        self._odd["messages.role"] = None
        if content is not None and type(content) is not str:
            content = self._told(content, has_pictures=False)
        if not content:
            return None
        speaker = Text(text=_note(role))
        return UserMessage(
            content=(speaker, Text(text=content)) if type(content) is str else (speaker, *content)
        )

    def _told(self, content: object, *, has_pictures: bool, keeps_parts: bool = True) -> Content:
        """Content that is no string: its text, with notes of what else there was, and its pictures.

        :param has_pictures: whether they can be told; otherwise they are a note, too.
        :param keeps_parts: whether each is needed; otherwise texts that follow each other become one.
        """
        items = content if type(content) is list else [content]
        parts: list[str | Image] = []
        for item in items:
            if type(item) is dict and type(text := item.get("text")) is str and item.get("type") in TEXTS:
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
        return tuple(Text(text=part) if isinstance(part, str) else part for part in parts)

    def _told_part(self, part: object) -> str | Image | None:
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
                return Image(url=known)
            self._odd["messages.content.image_url"] = None
            return "[image]"
        return note_of_part(part, kind, self._odd)


def _joined(parts: Sequence[str | Image]) -> list[str | Image]:
    """The same with one text where several follow each other."""
    joined: list[str | Image] = []
    for is_text, group in groupby(parts, lambda part: isinstance(part, str)):
        if is_text:
            joined.append("\n".join(part for part in group if isinstance(part, str)))
        else:
            joined.extend(group)
    return joined


def note_of_part(part: Mapping[str, Any], kind: str, odd: dict[str, None]) -> str:
    """What is said in place of a part that cannot be told; its type is among what is odd."""
    if len(odd) < MAX_ODD_COUNT:
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
