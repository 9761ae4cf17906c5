"""Server-sent events, bytes to values and back (WHATWG HTML, "Server-sent events").

Only what Letta and Chat Completions use of them: the event's name and its data. Data stays bytes, because its
only reader is a JSON decoder, and because a string could be split at U+2028 by mistake.
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
    """One event that was closed by its blank line."""

    data: bytes  #: the data lines joined by LF
    event: str = "message"  #: the event's name


@define
class SSEDecoder:
    """Bytes of a stream in, events out; where the bytes were cut never shows.

    :param max_size: bytes of one event; beyond it the stream is broken.
    """

    max_size: int
    _received: deque[bytes] = field(factory=deque, init=False)
    _lines: deque[bytes] = field(factory=deque, init=False)
    _tail: bytearray = field(factory=bytearray, init=False)  #: of a line that has not ended
    _skip_lf: bool = field(default=False, init=False)
    _first_line: bool = field(default=True, init=False)
    _ended: bool = field(default=False, init=False)
    _broken: RemoteProtocolError | None = field(default=None, init=False)
    _data: list[bytes] = field(factory=list, init=False)
    _data_size: int = field(default=0, init=False)
    _event: str = field(default="message", init=False)

    def receive_data(self, data: bytes) -> None:
        """Add bytes of the stream; nothing is parsed until `next_event`.

        :param data: any number of bytes, cut anywhere; ``b""`` is the end of the stream.
        :raises LocalProtocolError: after the end.
        """
        if self._ended:
            raise LocalProtocolError("receive_data called after the end of the stream")
        if data:
            self._received.append(data)
        else:
            self._ended = True

    def next_event(self) -> ServerSentEvent | Signal:
        """The next whole event, NEED_DATA if it is still incomplete, FINISHED after the last.

        What follows the last blank line when the stream ends is no event and is dropped, as the standard says.

        :raises RemoteProtocolError: if an event outgrows `max_size`; again ever after.
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
        """Whether nothing of another event has been received."""
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
        """Add the lines that these bytes end."""
        if self._skip_lf:
            # The line's CR came at the end of the bytes so far; an LF after it belongs to the same line end.
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
        # A comment has an empty name. `id` and `retry` are for readers that reconnect by themselves.


def encode_data(data: bytes) -> bytes:
    """An event without a name: a field for each line of the data, which a reader joins again."""
    if b"\n" in data:
        data = data.replace(b"\n", b"\ndata: ")
    return b"data: %b\n\n" % data


#: Ends of lines to Python's `str.splitlines`, and so to readers that use it, `requests` and httpx among them;
#: the standard knows CR and LF alone. JSON escapes the others of that kind by itself.
_LINE_ENDS: Final = tuple((end.encode(), b"\\u%04x" % ord(end)) for end in ("\u0085", "\u2028", "\u2029"))


def on_one_line(json: bytes) -> bytes:
    """JSON in which nothing ends a line for any reader: outside its strings it is ASCII."""
    if json.isascii():
        return json
    for end, escape in _LINE_ENDS:
        if end in json:
            json = json.replace(end, escape)
    return json


def encode_json(json: bytes) -> bytes:
    """An event whose data is JSON."""
    return encode_data(on_one_line(json))


def encode_comment(text: str) -> bytes:
    """A line that every reader skips and every timeout counts as life.

    :param text: one line of ASCII.
    """
    return b": %b\n\n" % text.encode("ascii")
