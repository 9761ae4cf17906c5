"""Accepts connections, up to a limit, and does TLS handshakes."""

import errno
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import inf
from typing import Final

import structlog
import trio
from attrs import define, field

from ..open_files import affordable_connection_count
from ..settings.server import Settings
from .admission import reload
from .tls import Certificate

_log: Final = structlog.get_logger("letta_server")


#: Seconds between two log lines about refused connections, and after an `accept` that failed.
_LOG_PERIOD: Final = 1.0
_ACCEPT_PAUSE: Final = 0.1
#: Errors of `accept` when the system has run out of something that may be freed again.
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


@define(eq=False)
class ConnectionLimiter:
    """Limits the number of connections: one beyond the limit replaces the one that has waited longest.

    A connection waits while it has no request: before the first, between two, and while the head of one
    arrives. If none waits, the new connection is closed.

    :raises SettingsError: if the certificate cannot be used.
    """

    settings: Settings
    certificate: Certificate | None = field(init=False)
    limit: int = field(init=False)  #: connections
    _count: int = field(default=0, init=False)
    _peers: Counter[str] = field(factory=Counter, init=False)
    _plain: dict[trio.abc.Stream, trio.SocketStream] = field(factory=dict, init=False)
    _waiting: dict[trio.SocketStream, None] = field(factory=dict, init=False)  #: the longest first
    _logged: float = field(default=-inf, init=False)

    def __attrs_post_init__(self) -> None:
        self.certificate = certificate_of(self.settings)
        self.limit = min(self.settings.max_connection_count, affordable_connection_count())

    def reload(self) -> None:
        """Read the certificate again; if it is invalid, the old one stays."""
        if self.certificate is not None:
            reload("certificate", self.certificate.load)

    def accepting(self, listener: trio.abc.Listener[trio.abc.Stream]) -> trio.abc.Listener[trio.abc.Stream]:
        """Wrap a listener so that it survives the process running out of open files."""
        return _Accepting(listener, self)

    async def serve_connection(
        self, stream: trio.SocketStream, serve: Callable[[trio.abc.Stream], Awaitable[None]]
    ) -> None:
        """Serve one connection until its end."""
        peer = _address(stream)
        if self._is_full_for(peer):
            self.log("too many connections from one address", limit="max_peer_connection_count")
            await trio.aclose_forcefully(stream)
            return
        if self._count >= self.limit:
            self.log("too many connections, the longest idle ones are closed", limit=str(self.limit))
            if not self.close_longest_waiting():
                await trio.aclose_forcefully(stream)
                return
        self._count += 1
        self._peers[peer] += 1
        try:
            with self._waits(stream):
                secure = stream if self.certificate is None else await self._wrap(self.certificate, stream)
            if secure is not None:
                self._plain[secure] = stream
                try:
                    await serve(secure)
                finally:
                    del self._plain[secure]
        finally:
            self._count -= 1
            self._peers[peer] -= 1
            if not self._peers[peer]:
                del self._peers[peer]

    def waiting(self, stream: trio.abc.Stream) -> AbstractContextManager[None]:
        """Wrap a wait in which the connection may be closed in favour of a new one.

        :param stream: the one that `serve_connection` passed to `serve`.
        """
        plain = self._plain.get(stream)
        return nullcontext() if plain is None else self._waits(plain)

    @contextmanager
    def _waits(self, stream: trio.SocketStream) -> Iterator[None]:
        self._waiting[stream] = None
        try:
            yield
        finally:
            self._waiting.pop(stream, None)

    def close_longest_waiting(self) -> bool:
        """Close the connection that has waited longest; return False if none waits."""
        longest = next(iter(self._waiting), None)
        if longest is None:
            return False
        del self._waiting[longest]
        # Its descriptor is free at once, and its task finds it closed.
        longest.socket.close()
        return True

    def log(self, event: str, **fields: str) -> None:
        """Log a refused connection: at most one line a second, however many there are."""
        now = trio.current_time()
        if now >= self._logged + _LOG_PERIOD:
            self._logged = now
            _log.warning(event, **fields)

    async def _wrap(self, certificate: Certificate, stream: trio.SocketStream) -> trio.abc.Stream | None:
        return await certificate.wrap(stream, self.settings.handshake_timeout)

    def _is_full_for(self, peer: str) -> bool:
        most = self.settings.max_peer_connection_count
        return bool(peer) and most is not None and self._peers[peer] >= most


@define(eq=False)
class _Accepting(trio.abc.Listener[trio.abc.Stream]):
    """A listener that closes an idle connection when the process has no file descriptor left.

    Trio's own logs a traceback each time.
    """

    listener: trio.abc.Listener[trio.abc.Stream]
    connections: ConnectionLimiter

    async def accept(self) -> trio.abc.Stream:
        """See `trio.abc.Listener.accept`."""
        while True:
            try:
                return await self.listener.accept()
            except OSError as exc:
                if exc.errno not in _OUT_OF_RESOURCES:
                    raise
                self.connections.log("cannot accept a connection", reason=os.strerror(exc.errno or 0).lower())
                if not self.connections.close_longest_waiting():
                    await trio.sleep(_ACCEPT_PAUSE)

    async def aclose(self) -> None:
        """See `trio.abc.AsyncResource.aclose`."""
        await self.listener.aclose()


def certificate_of(settings: Settings) -> Certificate | None:
    """Load the certificate that the settings name, if any.

    :raises SettingsError: if it cannot be used.
    """
    access = settings.access
    if access.tls_cert is None or access.tls_key is None:
        return None
    return Certificate(access.tls_cert, access.tls_key)


def _address(stream: trio.SocketStream) -> str:
    """The peer's address; empty if it is unknown, and then no limit for one address applies."""
    if stream.socket.family == socket.AF_UNIX:
        # Clients of a Unix socket have no addresses: they all come through the program in front of us.
        return ""
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        # It has disconnected already.
        return ""
