"""Writes recordings: a cycle as before, and beside it all that passed, line by line."""

import base64
from collections.abc import Callable
from math import inf
from typing import Any, Final, TypeAlias

import orjson
from attrs import asdict, define, evolve, field

from .._signal import Signal
from ..errors import Failure, RemoteProtocolError
from ..proxy.cycle import Cycle, Item
from ..proxy.http import HttpRequest, ResponseBody, ResponseHead
from ..proxy.summary import Summary
from ..upstreams.rest.commands import Command
from ..upstreams.rest.response import Headers
from .format import INTERRUPTED, RecordingHead, TextMode
from .redact import (
    StreamRedactor,
    redact_body,
    redact_headers,
    redact_json,
    redact_keys,
    redact_target,
)

#: Takes one whole line, its end included.
Sink: TypeAlias = Callable[[bytes], None]

_CLIENT: Final = 0


@define
class RecordingWriter:
    """Writes the lines of one recording, each as it happens: a crash loses nothing but the line under way.

    :param sink: takes each line.
    :param head: the first line; its `text` decides what is written of texts.
    :param max_event_size: bytes of an event that has not ended; of a larger one nothing is written.
    """

    sink: Sink
    head: RecordingHead
    max_event_size: int = 8 * 1024 * 1024
    _mode: TextMode = field(init=False)
    _streams: dict[int, StreamRedactor] = field(factory=dict, init=False)
    _bodies: dict[int, bytearray] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._mode = TextMode(self.head.text)
        self._write(asdict(self.head))

    def request(
        self, x: int, t: float, method: str, path: str, body: bytes | None, headers: Headers = ()
    ) -> None:
        """An exchange begins. 0 is the client's own.

        :param body: JSON, or nothing.
        """
        line: dict[str, Any] = {"x": x, "t": t, "dir": "request", "method": method}
        line["path"] = redact_target(path)
        if body:
            try:
                line["json"] = redact_json(orjson.loads(body), self._mode)
            except orjson.JSONDecodeError:
                line["json"] = redact_body(body, self._mode).decode("utf-8", "replace")
        if headers:
            line["headers"] = redact_headers(headers)
        self._write(line)

    def response(self, x: int, t: float, status: int, headers: Headers) -> None:
        """Its answer begins."""
        kind = next((value for name, value in headers if name == "content-type"), "")
        if kind.startswith("text/event-stream"):
            self._streams[x] = StreamRedactor(self._mode, self.max_event_size)
        else:
            # A whole body can be read only when it is whole.
            self._bodies[x] = bytearray()
        self._write({"x": x, "t": t, "dir": "response", "status": status, "headers": redact_headers(headers)})

    def data(self, x: int, t: float, data: bytes) -> None:
        """Bytes of the answer's body."""
        if x in self._bodies:
            self._bodies[x] += data
            return
        try:
            redacted = self._streams[x].redact(data)
        except RemoteProtocolError:
            redacted = b""
        if redacted:
            self._data(x, t, redacted)

    def waited(self, t: float) -> None:
        """The client had waited for long enough to be given a comment."""
        self._write({"x": _CLIENT, "t": t, "dir": "waited"})

    def end(self, x: int, t: float, how: str = "end", **more: str) -> None:
        """The exchange is over.

        :param how: ``end``, ``client_closed`` or ``failed``.
        :param more: of ``failed``: ``failure`` and ``reason``.
        """
        body = self._bodies.pop(x, None)
        if body:
            self._data(x, t, redact_body(bytes(body), self._mode))
        stream = self._streams.pop(x, None)
        if stream is not None and (rest := stream.finish()):
            self._data(x, t, rest)
        self._write({"x": x, "t": t, "dir": how, **{key: redact_keys(text) for key, text in more.items()}})

    def _data(self, x: int, t: float, data: bytes) -> None:
        line: dict[str, Any] = {"x": x, "t": t, "dir": "data"}
        try:
            line["text"] = data.decode()
        except UnicodeDecodeError:
            line["b64"] = base64.b64encode(data).decode()
        self._write(line)

    def _write(self, line: dict[str, Any]) -> None:
        if "t" in line:
            line["t"] = round(line["t"], 4)
        self.sink(orjson.dumps(line) + b"\n")


@define
class RecordedCycle:
    """A cycle that is recorded: the same methods, the same items.

    :param cycle: the cycle, of which nothing was taken yet.
    :param request: the client's.
    :param began: monotonic seconds.
    """

    cycle: Cycle
    writer: RecordingWriter
    request: HttpRequest
    began: float
    _t: float = field(default=0.0, init=False)
    _x: int = field(default=_CLIENT, init=False)
    _open: bool = field(default=False, init=False)  #: the exchange `_x` with Letta has not ended
    _ended: bool = field(default=False, init=False)
    _interrupted: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        request = self.request
        self.writer.request(_CLIENT, 0.0, request.method, request.target, request.body, request.headers)
        # It may be large, and the turn may take long.
        self.request = evolve(request, body=b"")

    @property
    def summary(self) -> Summary:
        """See `Cycle`."""
        return self.cycle.summary

    @property
    def responding(self) -> bool:
        """See `Cycle`."""
        return self.cycle.responding

    @property
    def is_told(self) -> bool:
        """See `Cycle`."""
        return self.cycle.is_told

    def receive_response(self, status: int, headers: Headers, now: float) -> None:
        """See `Cycle`."""
        self._t = now - self.began
        self.writer.response(self._x, self._t, status, headers)
        self.cycle.receive_response(status, headers, now)

    def receive_data(self, data: bytes, now: float) -> None:
        """See `Cycle`."""
        self._t = now - self.began
        if data:
            self.writer.data(self._x, self._t, data)
        else:
            self._end("end")
        self.cycle.receive_data(data, now)

    def receive_failure(self, failure: Failure, reason: str, now: float) -> None:
        """See `Cycle`."""
        self._t = now - self.began
        self._end("failed", failure=failure.value, reason=reason)
        self.cycle.receive_failure(failure, reason, now)

    def abandon(self, now: float) -> None:
        """See `Cycle`."""
        self._t = now - self.began
        if not self._ended:
            self._ended = True
            self.writer.end(_CLIENT, self._t, "end" if self.is_told else "client_closed")
        self.cycle.abandon(now)

    def stop(self, now: float) -> None:
        """See `Cycle`."""
        self.abandon(now)
        self.cycle.stop(now)

    @property
    def goes_on(self) -> bool:
        """See `Cycle`."""
        return self.cycle.goes_on

    @property
    def wake(self) -> Callable[[], None]:
        """See `Cycle`."""
        return self.cycle.wake

    @wake.setter
    def wake(self, wake: Callable[[], None]) -> None:
        self.cycle.wake = wake

    def close(self) -> None:
        """See `Cycle`."""
        self._end("client_closed")
        self.cycle.close()

    def interrupt(self, now: float, timeout: float = inf) -> None:
        """See `Cycle`."""
        self._t = now - self.began
        self._interrupted = True
        self.cycle.interrupt(now, timeout)

    def hurry(self, now: float) -> None:
        """See `Cycle`."""
        self.stop(now)
        self.cycle.hurry(now)

    @property
    def seeks_run(self) -> bool:
        """See `Cycle`."""
        return self.cycle.seeks_run

    def next_deadline(self) -> float:
        """See `Cycle`."""
        return self.cycle.next_deadline()

    def handle_deadline(self, now: float) -> str | None:
        """See `Cycle`."""
        self._t = now - self.began
        due = self.cycle.comment_deadline
        reason = self.cycle.handle_deadline(now)
        if reason is not None:
            self._end("failed", failure=Failure.SILENT.value, reason=reason)
        elif now >= due != self.cycle.comment_deadline:
            self.writer.waited(self._t)
        return reason

    def next_event(self) -> Item | Signal:
        """See `Cycle`."""
        item = self.cycle.next_event()
        match item:
            case ResponseHead(status=status, headers=headers):
                self.writer.response(_CLIENT, self._t, status, headers)
            case ResponseBody(data=data):
                self.writer.data(_CLIENT, self._t, data)
            case Signal.FINISHED:
                self._end("client_closed")
                if not self._ended:
                    self._ended = True
                    self.writer.end(_CLIENT, self._t)
            case Signal.NEED_DATA | Signal.WAITING:
                pass
            case command:
                self._begin(command)
        return item

    def _begin(self, command: Command) -> None:
        # The answer before was read as far as it was of interest.
        self._end("client_closed")
        self._x += 1
        self._open = True
        self.writer.request(self._x, self._t, command.method, command.target, command.body)

    def _end(self, how: str, **more: str) -> None:
        if self._open:
            self._open = False
            if self._interrupted and how == "client_closed":
                # A replay must interrupt the turn where it was interrupted: at the end of this exchange.
                how, more = "failed", {"failure": INTERRUPTED, "reason": "the proxy was shut down"}
                self._interrupted = False
            self.writer.end(self._x, self._t, how, **more)


def record(cycle: Cycle, request: HttpRequest, head: RecordingHead, sink: Sink, *, now: float) -> RecordedCycle:
    """Record a cycle.

    :param cycle: just opened for `request`; nothing was taken of it.
    :param now: monotonic seconds, the time at which it was opened.
    """
    return RecordedCycle(cycle, RecordingWriter(sink, head), request, now)
