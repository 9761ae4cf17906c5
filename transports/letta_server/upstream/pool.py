"""A pool of connections to Letta: h11 over trio, with or without TLS."""

import select
import ssl
from collections import deque
from typing import Final
from urllib.parse import urlsplit

import h11
import trio
from attrs import define, field, frozen

from sansio_letta import PRODUCT_ID
from sansio_letta.errors import Failure
from sansio_letta.upstreams.rest.commands import Command

from ..http_head import head_line_count
from ..settings.server import Settings
from ..sockets import receive_some
from .base import Headers, Upstream, UpstreamError, letta_headers, os_reason

#: Letta's server, uvicorn, closes a connection after 5 idle seconds: one idle for longer is not reused.
_IDLE_TIMEOUT: Final = 4.0
_MAX_IDLE_COUNT: Final = 32
#: After [DONE] Letta takes a moment to end its response; a connection that is read to the end can be reused.
_DRAIN_TIMEOUT: Final = 5.0
#: Exceptions of a broken connection.
_BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError)
_MAX_HEAD_SIZE: Final = 64 * 1024
_MAX_HEAD_LINES: Final = 1000
#: Chunks of one response, plus one for each of these bytes: a chunk takes h11 some 10 us, whatever its size.
_MAX_CHUNK_COUNT: Final = 10_000
_CHUNK_SIZE: Final = 16
#: Pieces read before other tasks run.
_PIECE_COUNT: Final = 256


@frozen(eq=False)
class _Idle:
    connection: "_Connection"
    since: float


@define(eq=False)
class LettaPool:
    """Connections to one Letta server. `run` must be running while the pool is used, until `stop`.

    Cancelling `run` does not end it: when everything else is cancelled, runs must still be cancelled at Letta.
    """

    settings: Settings
    _idle: deque[_Idle] = field(factory=deque, init=False)
    _nursery: trio.Nursery | None = field(default=None, init=False)
    _scope: trio.CancelScope = field(factory=lambda: trio.CancelScope(shield=True), init=False)
    _host: str = field(init=False)
    _port: int = field(init=False)
    _prefix: str = field(init=False)
    _tls: ssl.SSLContext | None = field(init=False)
    _headers: list[tuple[str, str]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        parts = urlsplit(self.settings.letta_url)
        secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if secure else 80)
        # Some base URLs end in /v1, and every path of a command begins with it.
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._tls = ssl.create_default_context() if secure else None
        self._headers = [
            ("host", parts.netloc),
            ("user-agent", PRODUCT_ID),
            ("accept", "application/json, text/event-stream"),
        ]
        if self.settings.letta_api_key:
            self._headers.append(("authorization", f"Bearer {self.settings.letta_api_key}"))
        if self.settings.letta_project:
            self._headers.append(("x-project", self.settings.letta_project))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drain released connections until `stop`; then close the idle ones."""
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        while self._idle:
            self._idle.pop().connection.drop()

    def stop(self) -> None:
        """End `run`; connections that are released later are closed."""
        self._nursery = None
        self._scope.cancel()

    def with_key(self, key: str) -> Upstream:
        """See `KeyedUpstream`. Connections are shared; each request has its client's key."""
        return _WithKey(self, key)

    async def send(self, command: Command, key: str | None = None) -> "_Connection":
        """See `Upstream.send`.

        :param key: the client's own, if the pool has none.
        """
        connection = await self._connect()
        body = command.body
        headers = [*self._headers, *letta_headers.get()]
        if key is not None:
            headers.append(("authorization", f"Bearer {key}"))
        if body is not None:
            headers += [("content-type", "application/json"), ("content-length", str(len(body)))]
        request = h11.Request(method=command.method, target=self._prefix + command.target, headers=headers)
        data = connection.http.send(request) or b""
        if body:
            data += connection.http.send(h11.Data(data=body)) or b""
        data += connection.http.send(h11.EndOfMessage()) or b""
        try:
            await connection.stream.send_all(data)
        except _BROKEN as exc:
            connection.drop()
            # Part of it may have been sent; the core decides what that means.
            raise UpstreamError(Failure.BROKEN, _reason(exc)) from exc
        except BaseException:
            connection.drop()
            raise
        return connection

    async def _connect(self) -> "_Connection":
        while self._idle:
            idle = self._idle.pop()
            if trio.current_time() - idle.since < _IDLE_TIMEOUT and idle.connection.is_alive():
                return idle.connection
            await trio.aclose_forcefully(idle.connection.stream)
        try:
            with trio.fail_after(self.settings.connect_timeout):
                return _Connection(await self._open_stream(), self)
        except trio.TooSlowError:
            seconds = f"{self.settings.connect_timeout:g}"
            raise UpstreamError(Failure.NOT_SENT, f"no connection within {seconds} seconds") from None
        except OSError as exc:
            raise UpstreamError(Failure.NOT_SENT, os_reason(exc)) from exc
        except trio.BrokenResourceError as exc:
            raise UpstreamError(Failure.NOT_SENT, f"TLS failed: {exc.__cause__ or exc}") from exc

    async def _open_stream(self) -> trio.abc.Stream:
        plain = await trio.open_tcp_stream(self._host, self._port)
        if self._tls is None:
            return plain
        secure = trio.SSLStream(plain, self._tls, server_hostname=self._host, https_compatible=True)
        try:
            await secure.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(plain)
            raise
        return secure

    def reclaim(self, connection: "_Connection") -> None:
        """Take back a connection whose response has been read, or is about to end."""
        if self._nursery is None:
            connection.drop()
        elif connection.is_reusable():
            self._keep(connection)
        else:
            self._nursery.start_soon(self._drain, connection)

    async def _drain(self, connection: "_Connection") -> None:
        try:
            with trio.move_on_after(_DRAIN_TIMEOUT):
                while await connection.receive_data():
                    pass
        except UpstreamError:
            connection.broken = True
        finally:
            if connection.is_reusable():
                self._keep(connection)
            else:
                connection.drop()

    def _keep(self, connection: "_Connection") -> None:
        connection.begin_next()
        self._idle.append(_Idle(connection, trio.current_time()))
        if len(self._idle) > _MAX_IDLE_COUNT and self._nursery is not None:
            self._nursery.start_soon(trio.aclose_forcefully, self._idle.popleft().connection.stream)


@frozen(eq=False)
class _WithKey:
    """The pool, with one client's key."""

    pool: LettaPool
    key: str = field(repr=False)

    async def send(self, command: Command) -> "_Connection":
        """See `Upstream.send`."""
        return await self.pool.send(command, self.key)


@define(eq=False)
class _Connection:
    """One connection to Letta, and the exchange under way on it."""

    stream: trio.abc.Stream
    pool: LettaPool
    http: h11.Connection = field(init=False)
    broken: bool = field(default=False, init=False)
    _released: bool = field(default=False, init=False)
    _chunk_count: int = field(default=0, init=False)
    _body_size: int = field(default=0, init=False)
    _has_more: bool = field(default=False, init=False)  #: let other tasks run before the next piece

    def __attrs_post_init__(self) -> None:
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_SIZE)

    async def receive_head(self) -> tuple[int, Headers]:
        """See `UpstreamExchange`."""
        try:
            while not isinstance(event := self.http.next_event(), h11.Response):
                if event is h11.NEED_DATA:
                    await self._receive_some()
        except _BROKEN as exc:
            raise self._broke(exc) from exc
        return event.status_code, [
            (name.decode("ascii"), value.decode("latin1")) for name, value in event.headers
        ]

    async def receive_data(self) -> bytes:
        """See `UpstreamExchange`."""
        if self._has_more:
            self._has_more = False
            await trio.lowlevel.checkpoint()
        pieces: list[bytes] = []
        try:
            while self.http.their_state is h11.SEND_BODY:
                event = self.http.next_event()
                if isinstance(event, h11.Data):
                    pieces.append(event.data)
                    self._count(event)
                    if len(pieces) == _PIECE_COUNT:
                        self._has_more = True
                        break
                elif event is h11.NEED_DATA:
                    if pieces:
                        break
                    await self._receive_some()
        except _BROKEN as exc:
            raise self._broke(exc) from exc
        return b"".join(pieces)

    async def _receive_some(self) -> None:
        data = await receive_some(self.stream)
        if not data and self.http.their_state is h11.SEND_RESPONSE:
            raise trio.BrokenResourceError("closed without a response")
        self.http.receive_data(data)
        many = self.http.their_state is h11.SEND_RESPONSE and data.count(b"\n") > _MAX_HEAD_LINES
        # Otherwise the lines may be those of a body that came with its head.
        if many and head_line_count(self.http.trailing_data[0]) > _MAX_HEAD_LINES:
            raise trio.BrokenResourceError("a response with too many headers")

    def _count(self, event: h11.Data) -> None:
        self._chunk_count += event.chunk_start
        self._body_size += len(event.data)
        if self._chunk_count > _MAX_CHUNK_COUNT + self._body_size // _CHUNK_SIZE:
            raise trio.BrokenResourceError("a response in chunks that are too small")

    def _broke(self, exc: Exception) -> UpstreamError:
        self.broken = True
        return UpstreamError(Failure.BROKEN, _reason(exc))

    def release(self) -> None:
        """See `UpstreamExchange`."""
        if not self._released:
            self._released = True
            self.pool.reclaim(self)

    def begin_next(self) -> None:
        """Prepare for the next exchange, which can be released in its turn."""
        self.http.start_next_cycle()
        self._released = False
        self._chunk_count = self._body_size = 0

    def is_reusable(self) -> bool:
        """Return whether the exchange has ended and another may begin."""
        return not self.broken and self.http.our_state is h11.DONE and self.http.their_state is h11.DONE

    def is_alive(self) -> bool:
        """Return whether an idle connection can be used: Letta has neither closed it nor sent anything."""
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        return not poll.poll(0)

    def drop(self) -> None:
        """Close at once, without waiting."""
        self._socket.close()

    @property
    def _socket(self) -> trio.socket.SocketType:
        stream = self.stream.transport_stream if isinstance(self.stream, trio.SSLStream) else self.stream
        assert isinstance(stream, trio.SocketStream)
        return stream.socket


def _reason(exc: Exception) -> str:
    """Describe why a connection broke."""
    if isinstance(exc, h11.RemoteProtocolError):
        return str(exc)[:200]
    if isinstance(exc.__cause__, OSError):
        return os_reason(exc.__cause__)
    return f"it was {exc}" if str(exc) else "it was closed"
