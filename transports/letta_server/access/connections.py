"""How connections come in: counted, and with TLS only after a handshake."""

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

from ..open_files import connection_room
from ..settings.server import Settings
from .admission import reload
from .tls import Certificate

_log: Final = structlog.get_logger("letta_server")


#: Seconds between two lines of the log about connections that find no room, and after an accept that failed.
_LOG_PERIOD: Final = 1.0
_ACCEPT_PAUSE: Final = 0.1
#: What `accept` fails with when something has run out that may come back.
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


@define(eq=False)
class Door:
    """Lets connections in, as many as there may be; one more takes the place of the one that waits longest.

    A connection waits as long as no request of it is known: between two requests, before the first, and while
    the head of one comes. If none waits, the new one is closed.

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
        self.limit = min(self.settings.max_connection_count, connection_room())

    def reload(self) -> None:
        """Read the certificate again; if it is no good, the old one stays."""
        if self.certificate is not None:
            reload("certificate", self.certificate.load)

    def accepting(self, listener: trio.abc.Listener[trio.abc.Stream]) -> trio.abc.Listener[trio.abc.Stream]:
        """The listener, which goes on when the process runs out of files."""
        return _Accepting(listener, self)

    async def let_in(
        self, stream: trio.SocketStream, serve: Callable[[trio.abc.Stream], Awaitable[None]]
    ) -> None:
        """Serve one connection until its end."""
        peer = _address(stream)
        if self._is_full_for(peer):
            self.log("too many connections of one address", limit="max_peer_connection_count")
            await trio.aclose_forcefully(stream)
            return
        if self._count >= self.limit:
            self.log("too many connections, those that wait longest are closed", limit=str(self.limit))
            if not self.make_room():
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
        """Around a wait in which the connection may be closed for a new one.

        :param stream: as it was given to serve.
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

    def make_room(self) -> bool:
        """Close the connection that has waited longest; False if none waits."""
        longest = next(iter(self._waiting), None)
        if longest is None:
            return False
        del self._waiting[longest]
        # Its descriptor is free at once, and its task finds it closed.
        longest.socket.close()
        return True

    def log(self, event: str, **fields: str) -> None:
        """A line about connections that find no room: one a second, however many they are."""
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
    """A listener that makes room when the process has no files left; trio's logs a traceback each time."""

    listener: trio.abc.Listener[trio.abc.Stream]
    door: Door

    async def accept(self) -> trio.abc.Stream:
        """See `trio.abc.Listener.accept`."""
        while True:
            try:
                return await self.listener.accept()
            except OSError as exc:
                if exc.errno not in _NO_ROOM:
                    raise
                self.door.log("cannot accept a connection", reason=os.strerror(exc.errno or 0).lower())
                if not self.door.make_room():
                    await trio.sleep(_ACCEPT_PAUSE)

    async def aclose(self) -> None:
        """See `trio.abc.AsyncResource.aclose`."""
        await self.listener.aclose()


def certificate_of(settings: Settings) -> Certificate | None:
    """:raises SettingsError: if there is one and it cannot be used."""
    access = settings.access
    if access.tls_cert is None or access.tls_key is None:
        return None
    return Certificate(access.tls_cert, access.tls_key)


def _address(stream: trio.SocketStream) -> str:
    """Whose connection it is; empty if nobody can tell, and then it counts for nobody."""
    if stream.socket.family == socket.AF_UNIX:
        # Its clients have no addresses: what they have in common is the program in front of us.
        return ""
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        # It has left already.
        return ""
