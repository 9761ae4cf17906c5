"""A stand-in for Letta with scripted responses that fails on any other request, and a raw HTTP client."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import h11
import orjson
import trio
from attrs import define, field

from drive import DONE, JSON, PING, RUN_ID, SSE, USAGE, agent_json, encode, say, stop
from letta_server import Access, Server, Settings, UpstreamError
from letta_server.upstream.base import Headers
from sansio_letta.upstreams.rest.commands import (
    CancelRun,
    Command,
    FetchKept,
    FetchRun,
    FetchUsage,
    FindAgent,
    FindRuns,
    OpenStream,
)

#: What a scripted answer consists of: bytes, an error, a pause in seconds, or an event to wait for.
Piece: TypeAlias = bytes | Exception | float | trio.Event


@define(eq=False)
class Script:
    """One command that is expected, and how it is answered."""

    command: type[Any]
    pieces: Sequence[Piece] = ()
    status: int = 200
    headers: Headers = field(factory=lambda: list(JSON))
    sending: UpstreamError | None = None  #: raised instead of an answer
    heading: Piece | None = None  #: waited for before the head
    released: bool = False
    _until: float | None = field(default=None, init=False)

    async def receive_head(self) -> tuple[int, Headers]:
        if self.heading is not None:
            await _play(self.heading)
        await trio.lowlevel.checkpoint()
        return self.status, self.headers

    async def receive_data(self) -> bytes:
        # A server that stops waiting and comes back finds the same piece.
        while self.pieces:
            if isinstance(self.pieces[0], float):
                self._until = self._until or trio.current_time() + self.pieces[0]
                await trio.sleep_until(self._until)
                data, self._until = b"", None
            else:
                data = await _play(self.pieces[0])
            self.pieces = self.pieces[1:]
            if data:
                return data
        await trio.lowlevel.checkpoint()
        return b""

    def release(self) -> None:
        self.released = True


async def _play(piece: Piece) -> bytes:
    await trio.lowlevel.checkpoint()
    if isinstance(piece, Exception):
        raise piece
    if isinstance(piece, trio.Event):
        await piece.wait()
    return piece if isinstance(piece, bytes) else b""


@define(eq=False)
class ScriptedLetta:
    """Answers commands in the order of its script."""

    script: list[Script]
    commands: list[Command] = field(factory=list, init=False)
    _changed: trio.Condition = field(factory=trio.Condition, init=False)

    async def send(self, command: Command) -> Script:
        if isinstance(command, FindRuns) and not (self.script and self.script[0].command is FindRuns):
            # Letta does not tell which runs there are.
            await trio.lowlevel.checkpoint()
            return Script(FindRuns, [b'{"detail": "Not Found"}'], status=404)
        self.commands.append(command)
        async with self._changed:
            self._changed.notify_all()
        assert self.script, f"a surprise: {command}"
        expected = self.script.pop(0)
        assert type(command) is expected.command, f"expected {expected.command}, got {command}"
        if expected.sending is not None:
            raise expected.sending
        return expected

    async def saw(self, kind: type[Any]) -> Command:
        """Wait for a command of this kind."""
        async with self._changed:
            while not (found := [command for command in self.commands if type(command) is kind]):
                await self._changed.wait()
            return found[0]


def found() -> Script:
    """The agent is found."""
    return Script(FindAgent, [orjson.dumps([agent_json()])])


def runs(*pieces: Piece | dict[str, Any] | str, heading: Piece | None = None) -> Script:
    """A run's stream, message by message."""
    encoded = [encode(piece) if isinstance(piece, dict | str) else piece for piece in pieces]
    return Script(OpenStream, encoded, headers=list(SSE), heading=heading)


def cancelled() -> Script:
    """The run is cancelled."""
    return Script(CancelRun, [b"{}"])


def book(status: str = "failed", reason: str | None = "error", *messages: dict[str, Any]) -> list[Script]:
    """What Letta's books say of the run: how it ended, and what was kept."""
    run = {"id": RUN_ID, "status": status, "stop_reason": reason}
    kept = [Script(FetchKept, [orjson.dumps(messages)])]
    cost = [Script(FetchUsage, [orjson.dumps(USAGE)])] if messages else []
    return [Script(FetchRun, [orjson.dumps(run)]), *kept, *cost]


def hello() -> Script:
    """A short reply."""
    return runs(PING, say("Hel"), say("lo"), stop(), USAGE, DONE)


def ask(*, stream: bool = True, **more: Any) -> bytes:
    """A chat request's bytes."""
    body = orjson.dumps(
        {"model": "Milo", "messages": [{"role": "user", "content": "hi"}], "stream": stream, **more}
    )
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    return head + body


@define(eq=False)
class Response:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    chunks: list[bytes] = field(factory=list)  #: as they were framed

    def json(self) -> Any:
        return orjson.loads(self.body)


@define(eq=False)
class RawClient:
    """One connection."""

    stream: trio.abc.Stream
    _h11: h11.Connection = field(factory=lambda: h11.Connection(h11.CLIENT), init=False)

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def get(self, target: str = "/health", method: str = "GET") -> Response:
        """One whole exchange."""
        await self.send(f"{method} {target} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        return await self.receive(method)

    async def receive_head(self, method: str = "POST") -> Response:
        """The head of the next response."""
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()
        self._h11.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        self._h11.send(h11.EndOfMessage())
        while not isinstance(event := await self._next_event(), h11.Response):
            pass
        return Response(event.status_code, {k.decode(): v.decode() for k, v in event.headers})

    async def receive(self, method: str = "POST") -> Response:
        """The next response, whole."""
        response = await self.receive_head(method)
        while await self.receive_more(response):
            pass
        return response

    async def receive_more(self, response: Response) -> bool:
        """The next piece of a body; False at its end."""
        event = await self._next_event()
        if isinstance(event, h11.Data):
            response.body += event.data
            response.chunks.append(bytes(event.data))
            return True
        return False

    async def _next_event(self) -> Any:
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            self._h11.receive_data(bytes(await self.stream.receive_some(65536)))
        return event

    async def ended(self) -> bool:
        """Whether the server closes without another byte."""
        return await self.stream.receive_some(1) == b""


def make_server(*script: Script, **settings: Any) -> tuple[Server, ScriptedLetta]:
    """A server in front of a script."""
    letta = ScriptedLetta(list(script))
    options = {"letta_url": "http://letta.invalid", "access": Access(allowed_host=("x",)), **settings}
    return Server(Settings(**options), letta, log=lambda *_: None), letta
