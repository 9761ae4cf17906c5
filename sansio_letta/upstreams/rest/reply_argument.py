"""Read the text of an agent that replies by calling a tool, from fragments of the call's arguments."""

import re
from enum import Enum, auto
from typing import Final

from attrs import define, field

#: The next character of interest in a string, and between strings. Both match one character, so they are
#: linear.
_IN_STRING: Final = re.compile(r'["\\]')
_BETWEEN: Final = re.compile(r'["{}\[\],:]')
_HEX: Final = re.compile(r"[0-9a-fA-F]{4}")
_ESCAPES: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
#: Replaces half of a surrogate pair, and an invalid escape.
_UNREADABLE: Final = "\ufffd"
#: Length of a Unicode escape. At most two of them are held back.
_UNIT: Final = len("\\ud83d")


class _String(Enum):
    """Which string is being read."""

    NONE = auto()
    KEY = auto()
    TEXT = auto()  #: the value of the argument to read
    OTHER = auto()


@define
class ReplyArgument:
    """Reads one string argument of a call from JSON that is split anywhere.

    The text is empty if the JSON is not an object, or has no such string. If the argument occurs twice, the
    first one counts.

    :param name: the name of the argument.
    """

    name: str
    is_over: bool = field(default=False, init=False)  #: there will be no more text
    _depth: int = field(default=0, init=False)
    _string: _String = field(default=_String.NONE, init=False)
    _is_value: bool = field(default=False, init=False)  #: at depth 1: a value comes next, not a key
    _key: str = field(default="", init=False)
    _held: str = field(default="", init=False)  #: the beginning of an incomplete escape

    def receive(self, fragment: str) -> str:
        """Take the next fragment of the arguments, and return the text in it."""
        data, at, texts = self._held + fragment, 0, list[str]()
        self._held = ""
        while at < len(data) and not self.is_over:
            if self._string is _String.NONE:
                at = self._read_between(data, at)
            else:
                at = self._read_string(data, at, texts)
        return "".join(texts)

    def _read_between(self, data: str, at: int) -> int:
        found = _BETWEEN.search(data, at)
        if found is None:
            return len(data)
        match found[0]:
            case '"':
                self._begin_string()
            case "{" | "[":
                self._depth += 1
                self.is_over = self._depth == 1 and found[0] == "["
            case "}" | "]":
                self._depth -= 1
                self.is_over = self._depth <= 0
            case mark if self._depth == 1:
                self._is_value = mark == ":"
        return found.end()

    def _begin_string(self) -> None:
        if self._depth != 1:
            self._string = _String.OTHER
            self.is_over = self._depth == 0
        elif not self._is_value:
            self._string, self._key = _String.KEY, ""
        else:
            self._string = _String.TEXT if self._key == self.name else _String.OTHER

    def _read_string(self, data: str, at: int, texts: list[str]) -> int:
        found = _IN_STRING.search(data, at)
        end = found.start() if found else len(data)
        self._take(data[at:end], texts)
        if found is None:
            return end
        if found[0] == '"':
            self.is_over = self._string is _String.TEXT
            self._string = _String.NONE
            return end + 1
        size, text = _escape(data, end)
        if not size:
            self._held = data[end:]
            return len(data)
        self._take(text, texts)
        return end + size

    def _take(self, text: str, texts: list[str]) -> None:
        if self._string is _String.TEXT:
            texts.append(text)
        elif self._string is _String.KEY and len(self._key) <= len(self.name):
            # A longer key cannot be the one that is wanted.
            self._key += text[: len(self.name) + 1]


def _escape(data: str, at: int) -> tuple[int, str]:
    """Return the size of the escape that begins at `at`, or 0 if it is incomplete, and its character."""
    kind = data[at + 1 : at + 2]
    if kind != "u":
        return (2, _ESCAPES.get(kind, kind)) if kind else (0, "")
    if len(data) < at + _UNIT:
        return 0, ""
    first = _unit(data, at)
    if first is None:
        return 2, _UNREADABLE
    if not 0xD800 <= first < 0xE000:
        return _UNIT, chr(first)
    following = data[at + _UNIT : at + 2 * _UNIT]
    if first < 0xDC00 and len(following) < _UNIT and "\\u".startswith(following[:2]):
        return 0, ""
    second = _unit(data, at + _UNIT) if following.startswith("\\u") else None
    if first >= 0xDC00 or second is None or not 0xDC00 <= second < 0xE000:
        return _UNIT, _UNREADABLE
    return 2 * _UNIT, chr(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00))


def _unit(data: str, at: int) -> int | None:
    digits = _HEX.match(data, at + 2)
    return int(digits[0], 16) if digits else None
