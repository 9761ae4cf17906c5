"""How connections come in: counted, and with TLS only after a handshake."""

import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio
from attrs import define, field

from ._gate import reload
from ._settings import Settings
from ._tls import Certificate

_log: Final = structlog.get_logger("letta_server")


@define(eq=False)
class Door:
    """Lets connections in, as many as there may be; one too many is closed at once.

    :raises SettingsError: if the certificate cannot be used.
    """

    settings: Settings
    certificate: Certificate | None = field(init=False)
    _count: int = field(default=0, init=False)
    _peers: Counter[str] = field(factory=Counter, init=False)
    _full: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.certificate = certificate_of(self.settings)

    def reload(self) -> None:
        """Read the certificate again; if it is no good, the old one stays."""
        if self.certificate is not None:
            reload("certificate", self.certificate.load)

    async def let_in(
        self, stream: trio.SocketStream, serve: Callable[[trio.abc.Stream], Awaitable[None]]
    ) -> None:
        """Serve one connection until its end."""
        peer = _address(stream)
        limit = self._reached_limit(peer)
        if limit is not None:
            if not self._full:
                _log.warning("too many connections, new ones are closed", limit=limit)
            self._full = True
            await trio.aclose_forcefully(stream)
            return
        self._full = False
        self._count += 1
        self._peers[peer] += 1
        try:
            secure = stream if self.certificate is None else await self._wrap(self.certificate, stream)
            if secure is not None:
                await serve(secure)
        finally:
            self._count -= 1
            self._peers[peer] -= 1
            if not self._peers[peer]:
                del self._peers[peer]

    async def _wrap(self, certificate: Certificate, stream: trio.SocketStream) -> trio.abc.Stream | None:
        return await certificate.wrap(stream, self.settings.handshake_timeout)

    def _reached_limit(self, peer: str) -> str | None:
        settings = self.settings
        if self._count >= settings.max_connection_count:
            return "max_connection_count"
        most = settings.max_peer_connection_count
        return "max_peer_connection_count" if peer and most is not None and self._peers[peer] >= most else None


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
