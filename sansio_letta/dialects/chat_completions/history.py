"""The older messages of a chat request, up to the last assistant message. Nothing in them is an error.

They are used for the results and the instructions in them, and for a newly created conversation. They stay in
the chat's history forever, so an error would make the whole chat unusable. Content that cannot be sent becomes
a note, like ``[file a.pdf]``.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final

import orjson

from ...config import Config
from ...turn.request import Content, Image, Text
from ..items import AssistantMessage, InstructionMessage, MadeCall, Message, ToolMessage, UserMessage
from ..pictures import picture_url

#: Names of unsupported parts of messages that are noted.
MAX_ODD_COUNT: Final = 1000

_INSTRUCTING: Final = ("system", "developer")
_OLD_ROLES: Final = frozenset({"user", "assistant", "system", "developer", "tool"})
#: Types of parts that contain text.
TEXTS: Final = ("text", "input_text", "output_text", None)
#: Types of parts that are left out: reasoning, and calls and results, which are in other fields.
_LEFT_OUT: Final = frozenset(
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
#: Parts of an old message that are kept separate: making a million objects takes a second.
_MAX_KEPT_COUNT: Final = 16


class History:
    """Decodes the older messages, starting with the last one, so that the limits apply to the oldest."""

    def __init__(self, config: Config, odd: dict[str, None]) -> None:
        self._odd = odd
        self._odd_part_count = config.max_part_count  #: how many more are noted
        self._call_count = config.max_part_count  #: how many more are decoded
        self._has_user = False

    def decode(self, items: Sequence[object]) -> tuple[Message, ...]:
        messages = [message for item in reversed(items) if (message := self._message(item)) is not None]
        return tuple(reversed(messages))

    def _message(self, value: object) -> Message | None:
        """Decode a message; None if nothing in it is used."""
        if type(value) is not dict:
            self._odd["messages"] = None
            return None
        role, content = value.get("role"), value.get("content")
        if type(role) is not str or role not in _OLD_ROLES:
            return self._of_unknown_role(role, content)
        if type(content) is not str and content is not None:
            # Programs add their own prompts after other parts of these messages.
            keeps_parts = role in _INSTRUCTING or (role == "user" and not self._has_user)
            content = self._decode_content(
                content, has_pictures=role in ("user", "tool"), keeps_parts=keeps_parts
            )
        if role == "assistant":
            calls, deprecated = value.get("tool_calls"), value.get("function_call")
            if not calls and deprecated:
                calls = [{"id": "", "function": deprecated}]
            if not calls and not content:
                content = _other_content(value) or content
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
        """Decode calls. Invalid ones are left out, since Letta knows what was called."""
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
        """Decode a message of an unknown role as a user's. Results in the deprecated form are dropped."""
        if role == "function":
            return None
        self._odd["messages.role"] = None
        if content is not None and type(content) is not str:
            content = self._decode_content(content, has_pictures=False)
        if not content:
            return None
        speaker = Text(text=_note(role))
        return UserMessage(
            content=(speaker, Text(text=content)) if type(content) is str else (speaker, *content)
        )

    def _decode_content(self, content: object, *, has_pictures: bool, keeps_parts: bool = True) -> Content:
        """Decode content that is not a string: its text, its images, and notes about anything else.

        :param has_pictures: whether images can be sent; otherwise they become notes as well.
        :param keeps_parts: whether to keep the parts separate; otherwise adjacent texts are joined.
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
            decoded = self._decode_part(item)
            if isinstance(decoded, str) or (decoded is not None and has_pictures):
                parts.append(decoded)
            elif decoded is not None:
                parts.append("[image]")
        if not keeps_parts or len(parts) > _MAX_KEPT_COUNT:
            parts = _joined(parts)
        if len(parts) == 1 and isinstance(parts[0], str):
            return parts[0]
        return tuple(Text(text=part) if isinstance(part, str) else part for part in parts)

    def _decode_part(self, part: object) -> str | Image | None:
        """Decode a part that is not text; None if it is left out."""
        if type(part) is str or part is None:
            return part
        kind = part.get("type") if type(part) is dict else None
        if type(part) is not dict or type(kind) is not str:
            return _json(part)
        if kind in _LEFT_OUT:
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


def _other_content(message: Mapping[str, Any]) -> str | None:
    """Decode what an assistant message has in place of content."""
    refusal, audio = message.get("refusal"), message.get("audio")
    if type(refusal) is str:
        return refusal
    if type(audio) is not dict:
        return None
    transcript = audio.get("transcript")
    return transcript if type(transcript) is str and transcript else _note("audio")


def _joined(parts: Sequence[str | Image]) -> list[str | Image]:
    """Join adjacent texts."""
    joined: list[str | Image] = []
    for is_text, group in groupby(parts, lambda part: isinstance(part, str)):
        if is_text:
            joined.append("\n".join(part for part in group if isinstance(part, str)))
        else:
            joined.extend(group)
    return joined


def note_of_part(part: Mapping[str, Any], kind: str, odd: dict[str, None]) -> str:
    """Make a note in place of a part that cannot be sent, and add its type to the unsupported parts."""
    if len(odd) < MAX_ODD_COUNT:
        odd[f"messages.content.{kind}"] = None
    return _note("file", _file_name(part)) if kind in _FILES else _note(_NOTES.get(kind, kind))


def _file_name(part: Mapping[str, Any]) -> object:
    inner = part.get("file")
    places = (inner, part) if isinstance(inner, dict) else (part,)
    names = (place.get(key) for place in places for key in ("filename", "name", "title"))
    return next((name for name in names if isinstance(name, str) and name), None)


def _note(*words: object) -> str:
    """Make a note for the agent, in one short line."""
    text = " ".join(word for word in words if isinstance(word, str)) or "?"
    return f"[{''.join(char if char.isprintable() else ' ' for char in text[:_MAX_NOTE_SIZE])}]"


def _json(value: object) -> str:
    """Write a value as JSON."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # nested too deeply
        return "[...]"
