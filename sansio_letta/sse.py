"""Server-sent events, from bytes to values and back (WHATWG HTML, "Server-sent events").

Only the parts that Letta and Chat Completions use: the event's name and its data. Data stays bytes, because it
is only passed to a JSON decoder, and because a string could be split at U+2028 by mistake.
"""

import re
from collections import deque
from typing import Final

from attrs import define, field, frozen

from ._signal import Signal
from .errors import LocalProtocolError, RemoteProtocolError

_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_BOM: Final = b"\xef\xbb\xbf"


@frozen(kw_only=True)
class ServerSentEvent:
    """A complete event, ended by its blank line."""

    data: bytes  #: the data lines joined by LF
    event: str = "message"  #: the event's name


@define
class SSEDecoder:
    """Decoder from the bytes of a stream, cut anywhere, to its events.

    :param max_size: maximum size of an event in bytes. A larger one is an error.
    """

    max_size: int
    _received: deque[bytes] = field(factory=deque, init=False)
    _lines: deque[bytes] = field(factory=deque, init=False)
    _tail: bytearray = field(factory=bytearray, init=False)  #: the start of a line that has not ended yet
    _skip_lf: bool = field(default=False, init=False)
    _first_line: bool = field(default=True, init=False)
    _ended: bool = field(default=False, init=False)
    _broken: RemoteProtocolError | None = field(default=None, init=False)
    _data: list[bytes] = field(factory=list, init=False)
    _data_size: int = field(default=0, init=False)
    _event: str = field(default="message", init=False)

    def receive_data(self, data: bytes) -> None:
        """Store bytes of the stream; nothing is parsed before `next_event`.

        :param data: any number of bytes, cut anywhere; ``b""`` marks the end of the stream.
        :raises LocalProtocolError: after the end.
        """
        if self._ended:
            raise LocalProtocolError("receive_data called after the end of the stream")
        if data:
            self._received.append(data)
        else:
            self._ended = True

    def next_event(self) -> ServerSentEvent | Signal:
        """Return the next complete event, NEED_DATA if there is none yet, or FINISHED after the last one.

        As the standard requires, an event without its blank line at the end of the stream is dropped.

        :raises RemoteProtocolError: if an event is larger than `max_size`; from then on, always.
        """
        if self._broken is not None:
            raise self._broken
        while True:
            while self._lines:
                line = self._lines.popleft()
                if line:
                    self._take_field(line)
                    continue
                data, event = self._data, self._event
                self._data, self._data_size, self._event = [], 0, "message"
                if data:
                    return ServerSentEvent(data=data[0] if len(data) == 1 else b"\n".join(data), event=event)
            if self._tail:
                self._check_size(len(self._tail))
            if not self._received:
                return Signal.FINISHED if self._ended else Signal.NEED_DATA
            self._split(self._received.popleft())

    @property
    def is_between(self) -> bool:
        """Whether no part of a further event has been received."""
        return not (
            self._received
            or self._lines
            or self._tail
            or self._data
            or self._skip_lf
            or self._event != "message"
            or self._ended
        )

    def _check_size(self, unread: int) -> None:
        if self._data_size + unread > self.max_size:
            self._broken = RemoteProtocolError(
                f"An event of Letta's stream is larger than {self.max_size} bytes."
            )
            raise self._broken

    def _split(self, data: bytes) -> None:
        """Add the lines that these bytes complete."""
        if self._skip_lf:
            # The bytes so far ended with the line's CR; an LF after it belongs to the same line ending.
            data = data.removeprefix(b"\n")
            self._skip_lf = False
        has_cr = b"\r" in data
        lines = _LINE_END.split(data) if has_cr else data.split(b"\n")
        tail = lines.pop()
        if lines:
            self._skip_lf = has_cr and data.endswith(b"\r")
            if self._tail:
                lines[0] = bytes(self._tail + lines[0])
                self._tail.clear()
            if self._first_line:
                self._first_line = False
                lines[0] = lines[0].removeprefix(_BOM)
            self._lines.extend(lines)
        if tail:
            self._tail += tail

    def _take_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._data_size += len(line)
            if self._data_size > self.max_size:
                self._check_size(0)
        elif name == b"event":
            self._event = value.removeprefix(b" ").decode("utf-8", "replace") or "message"
        # A comment has an empty name. `id` and `retry` are for clients that reconnect by themselves.


def encode_data(data: bytes) -> bytes:
    """Encode an event without a name, with one field per line of the data."""
    if b"\n" in data:
        data = data.replace(b"\n", b"\ndata: ")
    return b"data: %b\n\n" % data


#: Line endings for `str.splitlines`, and so for clients that use it, such as `requests` and httpx. The standard
#: has only CR and LF. JSON itself escapes the other characters at which `splitlines` splits.
_LINE_ENDS: Final = tuple((end.encode(), b"\\u%04x" % ord(end)) for end in ("\u0085", "\u2028", "\u2029"))


def on_one_line(json: bytes) -> bytes:
    """Escape all characters at which a client might split lines. Outside its strings, JSON is ASCII."""
    if json.isascii():
        return json
    for end, escape in _LINE_ENDS:
        if end in json:
            json = json.replace(end, escape)
    return json


def encode_json(json: bytes) -> bytes:
    """Encode an event whose data is JSON."""
    return encode_data(on_one_line(json))


def encode_comment(text: str) -> bytes:
    """Encode a comment, which clients skip, but which resets their timeouts.

    :param text: one line of ASCII.
    """
    return b": %b\n\n" % text.encode("ascii")
