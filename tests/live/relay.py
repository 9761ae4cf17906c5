"""A relay between the proxy and Letta that breaks connections at a given byte."""

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
METHODS: Final = (b"GET ", b"POST ")  # a request begins; the proxy writes its head at once
STREAM_PATH: Final = b"/stream "  # in the request line of a turn, and of a run that is taken up again
LINGER_NOT: Final = struct.pack("ii", 1, 0)  # closing discards and resets


@frozen(kw_only=True)
class Cut:
    """Where the answer to a turn breaks off: behind the `count`-th time these bytes were seen."""

    after: bytes
    count: int = 1
    reset: bool = False  #: by a reset rather than by an orderly end of the connection
    times: int = 1  #: answers that are cut; those after them pass


@define(eq=False)
class _Exchange:
    """What passes on one connection."""

    is_stream: bool = False  #: what was asked for last is a run's stream
    passed: bytes = b""  #: of the answer to that, while there is a cut
    frozen: bool = False  #: nothing passes any more, and nobody is told


@define(kw_only=True, eq=False)
class Relay:
    """Passes bytes on to Letta; open, closed or frozen, and with or without a cut."""

    target: tuple[str, int]
    port: int
    cut: Cut | None = None
    cut_count: int = 0  #: answers cut since `cut_next`
    broken_count: int = 0  #: connections that ended by a break, whoever broke them
    _loop: asyncio.AbstractEventLoop = field(factory=asyncio.new_event_loop)
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(factory=set)
    _connections: set[asyncio.Task[None]] = field(factory=set)
    _exchanges: set[_Exchange] = field(factory=set)

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

    def freeze(self) -> None:
        """Let every connection there is fall silent, as if a gateway had forgotten it; new ones pass."""

        async def freeze() -> None:
            for exchange in self._exchanges:
                exchange.frozen = True

        asyncio.run_coroutine_threadsafe(freeze(), self._loop).result()

    def cut_next(self, cut: Cut) -> None:
        """Cut the answers that come from now on, and count anew."""
        self.cut, self.cut_count = cut, 0

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
        exchange = _Exchange()
        self._exchanges.add(exchange)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._requests(reader, letta_writer, exchange))
                group.create_task(self._answers(letta_reader, writer, exchange))
        except* ConnectionError:
            self.broken_count += 1
        finally:
            self._exchanges.discard(exchange)
            for each in (writer, letta_writer):
                self._writers.discard(each)
                each.close()
            self._connections.discard(connection)

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, exchange: _Exchange
    ) -> None:
        while data := await reader.read(READ_SIZE):
            if exchange.frozen:
                continue
            if data.startswith(METHODS):
                exchange.is_stream, exchange.passed = STREAM_PATH in data.partition(b"\r\n")[0], b""
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, exchange: _Exchange
    ) -> None:
        while data := await reader.read(READ_SIZE):
            if exchange.frozen:
                continue
            cut, passed = self.cut, exchange.passed
            if exchange.is_stream and cut is not None and self.cut_count < cut.times:
                end = _end_of(passed + data, cut)
                if end is not None:
                    writer.write(data[: max(0, end - len(passed))])
                    await writer.drain()
                    self._break(writer, cut)
                    return
                exchange.passed += data
            writer.write(data)
            await writer.drain()
        if not exchange.frozen:
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
