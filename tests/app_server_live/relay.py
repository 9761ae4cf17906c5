"""A relay between the proxy and the App Server that cuts one of the sockets between them."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Final

from attrs import define, field

READ_SIZE: Final = 65_536  # bytes


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
    _pairs: list[_Pair] = field(factory=list)
    _loop: asyncio.AbstractEventLoop = field(factory=asyncio.new_event_loop)

    @property
    def ws_url(self) -> str:
        """What the proxy takes for the server's URL."""
        return f"ws://127.0.0.1:{self.port}"

    def cut(self, number: int) -> None:
        """Cut one of the connections there are, by its place in their order; resets it on both sides."""
        asyncio.run_coroutine_threadsafe(self._cut(number), self._loop).result()

    async def _cut(self, number: int) -> None:
        pair = self._pairs[number]
        for end in (pair.client, pair.server):
            end.transport.abort()

    async def _open(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target)
        pair = _Pair(writer, server_writer)
        self._pairs.append(pair)
        try:
            with contextlib.suppress(ConnectionError):
                await asyncio.gather(_pass(reader, server_writer), _pass(server_reader, writer))
        finally:
            self._pairs.remove(pair)
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
        relay._loop.call_soon_threadsafe(relay._loop.stop)
        thread.join()
        _end(relay._loop)


def _end(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
