"""Writes recordings: the lines of the format, and an observer that records a cycle."""

import base64
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import orjson
from attrs import asdict, define, evolve, field

from ..errors import RemoteProtocolError, RequestError
from ..proxy.http import HttpRequest, ResponseBody, ResponseHead
from ..proxy.observer import (
    Change,
    CycleOpened,
    LettaData,
    LettaFailure,
    LettaResponse,
    Observation,
)
from ..turn.events import TurnFailed, TurnFinished
from ..upstreams.rest.commands import Command
from ..upstreams.rest.response import Headers
from .format import (
    COMMANDS,
    INTERRUPTED,
    ExchangeKind,
    RecordedAgent,
    RecordedState,
    RecordingHead,
    TextMode,
)
from .heard import RecordedThread, redacted_digests
from .redact import (
    StreamRedactor,
    redact_body,
    redact_headers,
    redact_json,
    redact_keys,
    redact_target,
)
from .requests import decode_turn_request

#: Takes one line, including its newline.
Sink: TypeAlias = Callable[[bytes], None]

_CLIENT: Final = 0


@define
class RecordingWriter:
    """Writes the lines of one recording at once: a crash loses only the current line.

    :param sink: called with each line.
    :param head: the first line; its `text` determines how texts are written.
    :param max_event_size: maximum size of an event in bytes; a larger one is not written.
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

    def request(self, request: HttpRequest) -> None:
        """Write the client's request, which begins exchange 0."""
        line: dict[str, Any] = {"x": _CLIENT, "t": 0.0, "dir": "request", "method": request.method}
        if request.headers:
            line["headers"] = redact_headers(request.headers)
        self._request(line, request.target, request.body)

    def command(self, x: int, t: float, command: Command) -> None:
        """Write a request to Letta, which begins an exchange."""
        line: dict[str, Any] = {"x": x, "t": t, "dir": "request", "kind": ExchangeKind.HTTP.value}
        line |= {"command": COMMANDS[type(command)], "method": command.method}
        self._request(line, command.target, command.body)

    def _request(self, line: dict[str, Any], path: str, body: bytes | None) -> None:
        line["path"] = redact_target(path)
        if body:
            try:
                line["json"] = redact_json(orjson.loads(body), self._mode)
            except orjson.JSONDecodeError:
                line["json"] = redact_body(body, self._mode).decode("utf-8", "replace")
        self._write(line)

    def response(self, x: int, t: float, status: int, headers: Headers) -> None:
        """Write the status and headers of a response."""
        kind = next((value for name, value in headers if name == "content-type"), "")
        if kind.startswith("text/event-stream"):
            self._streams[x] = StreamRedactor(self._mode, self.max_event_size)
        else:
            # JSON can be redacted only when it is complete.
            self._bodies[x] = bytearray()
        self._write({"x": x, "t": t, "dir": "response", "status": status, "headers": redact_headers(headers)})

    def data(self, x: int, t: float, data: bytes) -> None:
        """Write bytes of a response's body."""
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
        """Write that the client had waited for so long that a comment was due."""
        self._write({"x": _CLIENT, "t": t, "dir": "waited"})

    def end(self, x: int, t: float, how: str = "end", **more: str) -> None:
        """Write the end of an exchange.

        :param how: ``end``, ``client_closed`` or ``failed``.
        :param more: for ``failed``: ``failure`` and ``reason``.
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
class Recorder:
    """An observer that records its cycle; pass it to `Proxy.open`.

    :param sink: called with each line.
    :param server: the version of the Letta server, or the name of the program that records.
    :param text: how texts are written.
    :param scenario: the recording's name; by default, made from the time and the token.
    :param note: a description; by default, the request's method and path.
    """

    sink: Sink
    server: str
    text: TextMode
    scenario: str | None = None
    note: str | None = None
    _writer: RecordingWriter = field(init=False)
    _began: float = field(default=0.0, init=False)
    _x: int = field(default=_CLIENT, init=False)
    _is_open: bool = field(default=False, init=False)  #: the exchange `_x` with Letta has not ended
    _is_complete: bool = field(default=False, init=False)  #: the client has got the end of the turn
    _has_ended: bool = field(default=False, init=False)  #: the client's own exchange
    _is_interrupted: bool = field(default=False, init=False)

    def observe(self, seen: Observation, now: float) -> None:
        """See `Observer`."""
        t = now - self._began
        match seen:
            case LettaData(data=data) if data:
                self._writer.data(self._x, t, data)
            case LettaData():
                self._end(t, "end")
            case ResponseBody(data=data):
                self._writer.data(_CLIENT, t, data)
            case TurnFinished() | TurnFailed():
                self._is_complete = True
            case LettaResponse(status=status, headers=headers):
                self._writer.response(self._x, t, status, headers)
            case LettaFailure(failure=failure, reason=reason):
                self._end(t, "failed", failure=failure.value, reason=reason)
            case ResponseHead(status=status, headers=headers):
                self._writer.response(_CLIENT, t, status, headers)
            case CycleOpened():
                self._begin(seen, now)
            case Change():
                self._change(seen, t)
            case _ if isinstance(seen, Command):
                # The previous response was read only as far as needed.
                self._end(t, "client_closed")
                self._x += 1
                self._is_open = True
                self._writer.command(self._x, t, seen)

    def _begin(self, opened: CycleOpened, now: float) -> None:
        self._began, request = now, opened.request
        head = RecordingHead.begin(
            server=self.server,
            scenario=self.scenario or f"{opened.created}-{opened.token[:12]}",
            note=self.note if self.note is not None else f"{request.method} {_path(request.target)}",
            token=opened.token,
            created=opened.created,
            config=opened.config,
            initial=_recorded_state(opened, self.text),
            text=self.text,
        )
        self._writer = RecordingWriter(self.sink, head)
        self._writer.request(request)

    def _change(self, change: Change, t: float) -> None:
        match change:
            case Change.COMMENT_DUE:
                self._writer.waited(t)
            case Change.CLIENT_DISCONNECTED:
                self._end_client(t, "end" if self._is_complete else "client_closed")
            case Change.INTERRUPTED:
                self._is_interrupted = True
            case Change.FINISHED:
                self._end(t, "client_closed")
                self._end_client(t, "end")
            case Change.CLOSED:
                self._end(t, "client_closed")

    def _end_client(self, t: float, how: str) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._writer.end(_CLIENT, t, how)

    def _end(self, t: float, how: str, **more: str) -> None:
        if self._is_open:
            self._is_open = False
            if self._is_interrupted and how == "client_closed":
                # A replay must interrupt the turn at the same point: the end of this exchange.
                how, more = "failed", {"failure": INTERRUPTED, "reason": "the proxy was shut down"}
                self._is_interrupted = False
            self._writer.end(self._x, t, how, **more)


def _recorded_state(opened: CycleOpened, mode: TextMode) -> RecordedState:
    initial = opened.initial
    heard = tuple(RecordedThread.of(thread, known) for thread, known in initial.heard.items())
    if heard and mode is not TextMode.KEEP:
        digests = _redacted_digests(opened, mode)
        heard = tuple(known.translate(digests) for known in heard)
    return RecordedState(
        agent=None if initial.agent is None else RecordedAgent.of(initial.agent),
        threads={agent_id: thread.conversation_id for agent_id, thread in initial.threads.items()},
        heard=heard,
        background=initial.has_background,
    )


def _redacted_digests(opened: CycleOpened, mode: TextMode) -> dict[str, str]:
    request, config = opened.request, opened.config
    redacted = evolve(request, body=redact_body(request.body, mode))
    try:
        real, other = (decode_turn_request(each, config) for each in (request, redacted))
    except RequestError:
        return {}
    return {} if real is None or other is None else redacted_digests(real[1], other[1])


def _path(target: str) -> str:
    return target.partition("?")[0][:200]
