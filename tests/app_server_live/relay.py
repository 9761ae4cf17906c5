"""A relay between the proxy and the App Server that cuts one of the sockets between them."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Final

from attrs import define, field

READ_SIZE: Final = 65_536  # bytes
TIMEOUT: Final = 30.0  # seconds until a connection must be there


@define(eq=False)
class _Pair:
    """The two ends of a connection."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter


@define(kw_only=True, eq=False)
class Relay:
    """Passes bytes on to the server."""

    target: int
    port: int = 0
    _server: asyncio.Server | None = None
    _pairs: list[_Pair] = field(factory=list)
    _connections: set[asyncio.Task[None]] = field(factory=set)
    _loop: asyncio.AbstractEventLoop = field(factory=asyncio.new_event_loop)

    @property
    def ws_url(self) -> str:
        """What the proxy takes for the server's URL."""
        return f"ws://127.0.0.1:{self.port}"

    def cut(self, number: int) -> None:
        """Cut one of the connections there are, by its place in their order; resets it on both sides."""
        asyncio.run_coroutine_threadsafe(self._cut(number), self._loop).result()

    def wait_for(self, count: int) -> None:
        """Wait until there are so many connections."""
        deadline = time.monotonic() + TIMEOUT
        while len(self._pairs) < count:
            assert time.monotonic() < deadline, f"{len(self._pairs)} connections"
            time.sleep(0.05)

    async def _cut(self, number: int) -> None:
        pair = self._pairs[number]
        for end in (pair.client, pair.server):
            end.transport.abort()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for number in range(len(self._pairs)):
            await self._cut(number)
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target)
        pair = _Pair(writer, server_writer)
        self._pairs.append(pair)
        try:
            with contextlib.suppress(ConnectionError):
                await asyncio.gather(_pass(reader, server_writer), _pass(server_reader, writer))
        finally:
            self._pairs.remove(pair)
            self._connections.discard(connection)
            for end in (writer, server_writer):
                end.transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(READ_SIZE):
        writer.write(data)
        await writer.drain()
    raise ConnectionAbortedError  # ends the other direction, too


@contextlib.contextmanager
def relaying(target: int) -> Iterator[Relay]:
    """Have a relay to a port of this machine inside the block."""
    relay = Relay(target=target)
    thread = threading.Thread(target=relay._loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(relay._open(), relay._loop).result()
        yield relay
    finally:
        asyncio.run_coroutine_threadsafe(relay._close(), relay._loop).result()
        relay._loop.call_soon_threadsafe(relay._loop.stop)
        thread.join()
        relay._loop.close()
