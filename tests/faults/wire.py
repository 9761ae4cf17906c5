"""The stand-in with a memory in front of the real server: as its `Upstream`, and over sockets."""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any, Final

import h11
import orjson
import trio
from attrs import define, field

from letta_server import Access, Server, Settings, UpstreamError, serve
from letta_server.upstream.base import Headers
from sansio_letta.errors import Failure
from sansio_letta.upstreams.rest.commands import Command
from server.scripted import RawClient

from .keeping import Exchange, Happening, Head, KeepingLetta, Silence
from .told import Told, read

_LINGER_NOT: Final = struct.pack("ii", 1, 0)  # closing discards and resets
#: Virtual seconds until something that should have ended has not: above all timeouts of the server together.
PATIENCE: Final = 1000.0


@define(eq=False)
class LettaLine:
    """An `Upstream`: the core's commands to a Letta that remembers.

    :param size: see `KeepingLetta.answer`.
    :param hold_at: the number of the happening, counted over all exchanges, before which Letta takes its time
        until `let_go`; a cancel is not held back.
    :param pace: seconds before each happening of a run from then on.
    """

    letta: KeepingLetta
    size: int = 0
    hold_at: int | None = None
    pace: float = 0.0
    count: int = 0
    held: trio.Event = field(factory=trio.Event)
    let_go: trio.Event = field(factory=trio.Event)

    async def send(self, command: Command) -> "LineExchange":
        """See `Upstream.send`."""
        await self.pass_hold(type(command).__name__)
        return LineExchange(
            self,
            self.letta.answer(command.method, command.target, command.body, size=self.size),
            type(command).__name__,
        )

    async def pass_hold(self, kind: str) -> None:
        """Wait, if this is where Letta takes its time."""
        await trio.lowlevel.checkpoint()
        if kind == "CancelRun":
            return
        # Whoever is cancelled here and comes back finds the same place.
        if self.count == self.hold_at:
            self.held.set()
            await self.let_go.wait()
        if self.let_go.is_set() and kind == "OpenStream":
            await trio.sleep(self.pace)
        self.count += 1


@define(eq=False)
class LineExchange:
    """One exchange."""

    line: LettaLine
    exchange: Exchange
    kind: str

    async def receive_head(self) -> tuple[int, Headers]:
        """See `UpstreamExchange`."""
        head = await self._next()
        assert isinstance(head, Head)
        return head.status, list(head.headers)

    async def receive_data(self) -> bytes:
        """See `UpstreamExchange`."""
        data = await self._next()
        assert isinstance(data, bytes)
        return data

    async def _next(self) -> Happening:
        await self.line.pass_hold(self.kind)
        happening = next(self.exchange, Silence.FOR_EVER)
        if isinstance(happening, Silence):
            await trio.sleep_forever()
        if isinstance(happening, Failure):
            raise UpstreamError(happening, "it broke")
        return happening

    def release(self) -> None:
        """See `UpstreamExchange`."""
        getattr(self.exchange, "close", lambda: None)()


class Severance(Enum):
    """How a connection to Letta breaks on the wire."""

    RESET = "reset"
    CLOSED = "closed"  #: without the chunk that ends the body
    HALF_CHUNK = "half a chunk"


@define(eq=False)
class SocketLetta:
    """The same over HTTP/1.1; what resets there breaks here as `severance` says."""

    letta: KeepingLetta
    severance: Severance = Severance.RESET
    size: int = 0
    pace: float = 0.0  #: seconds before each happening
    connection_count: int = 0  #: open now
    deserted: trio.Event = field(factory=trio.Event)  #: set while no connection is open

    def __attrs_post_init__(self) -> None:
        self.deserted.set()

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        self.connection_count += 1
        self.deserted = trio.Event()
        http = h11.Connection(h11.SERVER)
        try:
            while (request := await _request(http, stream)) is not None:
                method, target, body = request
                exchange = self.letta.answer(method, target, body, size=self.size)
                try:
                    if not await self._answer(http, stream, exchange):
                        return
                finally:
                    getattr(exchange, "close", lambda: None)()
                if http.our_state is not h11.DONE:
                    return  # the reader wants no more on this connection
                http.start_next_cycle()
        except (trio.BrokenResourceError, h11.RemoteProtocolError):
            pass  # the proxy has left
        finally:
            await trio.aclose_forcefully(stream)
            self.connection_count -= 1
            if not self.connection_count:
                self.deserted.set()

    async def _answer(self, http: h11.Connection, stream: trio.SocketStream, exchange: Exchange) -> bool:
        """One answer; False if the connection is over."""
        for happening in exchange:
            await trio.sleep(self.pace)
            match happening:
                case Head(status=status, headers=headers):
                    await stream.send_all(
                        http.send(h11.Response(status_code=status, headers=[*headers])) or b""
                    )
                case b"":
                    await stream.send_all(http.send(h11.EndOfMessage()) or b"")
                    return True
                case bytes():
                    await stream.send_all(http.send(h11.Data(data=happening)) or b"")
                case Silence():
                    await stream.receive_some(1)  # until the proxy gives up
                    return False
                case Failure():
                    await self._sever(http, stream)
                    return False
        raise AssertionError("an exchange without an end")

    async def _sever(self, http: h11.Connection, stream: trio.SocketStream) -> None:
        if self.severance is Severance.HALF_CHUNK and http.our_state is h11.SEND_BODY:
            await stream.send_all(b"400\r\ndata: {")
        if self.severance is Severance.RESET:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)


async def _request(http: h11.Connection, stream: trio.SocketStream) -> tuple[str, str, bytes] | None:
    """The next request; None if there is none."""
    request: h11.Request | None = None
    body = b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await stream.receive_some(65536))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif request is not None and isinstance(event, h11.EndOfMessage):
            return request.method.decode(), request.target.decode(), body
        else:
            return None


def request_bytes(body: dict[str, Any], *, attempt: int = 0) -> bytes:
    """A chat request as an SDK writes it."""
    data = orjson.dumps(body)
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"x-stainless-retry-count: %d\r\ncontent-length: %d\r\n\r\n%b" % (attempt, len(data), data)
    )


async def ask(client: RawClient, body: dict[str, Any], *, attempt: int = 0) -> Told:
    """One request, whole.

    :raises h11.RemoteProtocolError: if the answer is broken off: a silent end.
    """
    await client.send(request_bytes(body, attempt=attempt))
    response = await client.receive()
    return read(response.status, list(response.headers.items()), response.body)


def make_server(letta: KeepingLetta, **options: Any) -> tuple[Server, LettaLine]:
    """A server in front of a Letta that remembers."""
    line = LettaLine(letta)
    settings: dict[str, Any] = {
        "letta_url": "http://letta.invalid",
        "access": Access(allowed_host=("x",)),
        **options,
    }
    return Server(Settings(**settings), line, log=lambda *_: None), line


@asynccontextmanager
async def socket_server(letta: SocketLetta, **options: Any) -> AsyncIterator[trio.SocketListener]:
    """The whole of `letta-proxy serve` in front of it, on sockets: where clients connect to.

    At the end nothing may be left: no connection to Letta, no task.
    """
    async with trio.open_nursery() as nursery:
        upstream: list[trio.SocketListener] = await nursery.start(trio.serve_tcp, letta.handle, 0)
        port = upstream[0].socket.getsockname()[1]
        async with trio.open_nursery() as serving:
            settings: dict[str, Any] = {"port": 0, "letta_url": f"http://127.0.0.1:{port}", **options}
            listening: tuple[Server, list[trio.SocketListener]]
            listening = await serving.start(serve, Settings(**settings))
            yield listening[1][0]
            serving.cancel_scope.cancel()
        with trio.fail_after(PATIENCE):
            await letta.deserted.wait()
        nursery.cancel_scope.cancel()
