"""A relay between the proxy and Letta that breaks connections, at a byte the test chooses."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from attrs import define, field, frozen

READ_SIZE: Final = 65_536  # bytes
STREAM_PATH: Final = b"/messages/stream "  # in the request line of a turn
LINGER_NOT: Final = struct.pack("ii", 1, 0)  # closing discards and resets


@frozen(kw_only=True)
class Cut:
    """Where the answer to a turn breaks off: behind the `count`-th time these bytes were seen."""

    after: bytes
    count: int = 1
    reset: bool = False  #: by a reset rather than by an orderly end of the connection


@define(kw_only=True, eq=False)
class Relay:
    """Passes bytes on to Letta; open or closed, and with or without a cut."""

    target: tuple[str, int]
    port: int
    cut: Cut | None = None
    cut_count: int = 0  #: answers cut so far
    broken_count: int = 0  #: connections that ended by a break, whoever broke them
    _loop: asyncio.AbstractEventLoop = field(factory=asyncio.new_event_loop)
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(factory=set)
    _connections: set[asyncio.Task[None]] = field(factory=set)

    @property
    def url(self) -> str:
        """What the proxy takes for Letta's URL."""
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        """Listen; until then connections are refused."""
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    def close(self) -> None:
        """Stop listening and drop every connection."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _close(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        letta_reader, letta_writer = await asyncio.open_connection(*self.target)
        self._writers |= {writer, letta_writer}
        armed = asyncio.Event()  # set once the connection carries a turn
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._requests(reader, letta_writer, armed))
                group.create_task(self._answers(letta_reader, writer, armed))
        except* ConnectionError:
            self.broken_count += 1
        finally:
            for each in (writer, letta_writer):
                self._writers.discard(each)
                each.close()
            self._connections.discard(connection)

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, armed: asyncio.Event
    ) -> None:
        while data := await reader.read(READ_SIZE):
            if STREAM_PATH in data:
                armed.set()
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, armed: asyncio.Event
    ) -> None:
        passed = b""
        while data := await reader.read(READ_SIZE):
            if armed.is_set() and self.cut is not None:
                end = _end_of(passed + data, self.cut)
                if end is not None:
                    writer.write(data[: max(0, end - len(passed))])
                    await writer.drain()
                    self._break(writer, self.cut)
                    return
                passed += data
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    def _break(self, writer: asyncio.StreamWriter, cut: Cut) -> None:
        self.cut_count += 1
        if cut.reset:
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
            writer.transport.abort()
        else:
            writer.close()  # once what was written is out
        raise ConnectionAbortedError  # ends the other direction, too


def _end_of(data: bytes, cut: Cut) -> int | None:
    position = 0
    for _ in range(cut.count):
        position = data.find(cut.after, position)
        if position < 0:
            return None
        position += len(cut.after)
    return position


@contextlib.contextmanager
def relaying(letta_url: str, port: int) -> Iterator[Relay]:
    """Have a relay, still closed, inside the block."""
    target = urlsplit(letta_url)
    assert target.hostname is not None
    assert target.port is not None
    relay = Relay(target=(target.hostname, target.port), port=port)
    thread = threading.Thread(target=relay._loop.run_forever, daemon=True)
    thread.start()
    try:
        yield relay
    finally:
        relay.close()
        relay._loop.call_soon_threadsafe(relay._loop.stop)
        thread.join()
        relay._loop.close()
