"""The server's certificate: read from files, and read again when they have changed."""

import ssl
from pathlib import Path

import trio
from attrs import define, field

from ..settings.errors import SettingsError

#: What a broken or foreign handshake raises.
_FAILED = (trio.BrokenResourceError, trio.ClosedResourceError)


@define(eq=False)
class Certificate:
    """A certificate and its key, which can be replaced while the server runs.

    A connection keeps those that it began with. `trio.SSLListener` keeps one context for good, so streams are
    wrapped here.

    :raises SettingsError: if they cannot be used.
    """

    cert: Path
    key: Path
    _context: ssl.SSLContext = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.load()

    def load(self) -> None:
        """Read the files; if they are invalid, nothing changes.

        :raises SettingsError: naming the setting, the file and what is wrong.
        """
        for name, path in (("tls_cert", self.cert), ("tls_key", self.key)):
            try:
                path.open("rb").close()
            except OSError as exc:
                raise SettingsError(f"{name}: {path}: {(exc.strerror or str(exc)).lower()}") from None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["http/1.1"])
        try:
            # Without a password it would ask the terminal for one.
            context.load_cert_chain(self.cert, self.key, password="")
        except (ssl.SSLError, ValueError, OSError) as exc:
            reason = getattr(exc, "reason", None) or str(exc)
            raise SettingsError(
                f"tls_cert, tls_key: expected a PEM certificate and its own unencrypted key, got {self.cert} "
                f"and {self.key}: {str(reason).replace('_', ' ').lower()}"
            ) from None
        self._context = context

    async def wrap(self, stream: trio.SocketStream, handshake_timeout: float) -> trio.abc.Stream | None:
        """Wrap a new connection in TLS; close it and return None if the handshake fails.

        :param handshake_timeout: seconds.
        """
        secure = trio.SSLStream(_Lingering(stream), self._context, server_side=True, https_compatible=True)
        try:
            with trio.fail_after(handshake_timeout):
                await secure.do_handshake()
        except (*_FAILED, trio.TooSlowError):
            await trio.aclose_forcefully(stream)
            return None
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return secure


#: Seconds without a byte after which the connection of a refused client is reset, and seconds that it may go on
#: to send in all: a large body takes its time on a slow line. nginx waits 5 and 30.
LINGER_TIMEOUT, LINGER_LIMIT = 2.0, 30.0


async def close_gently(stream: trio.SocketStream) -> None:
    """Close so that the client receives our last bytes; closing with its own bytes unread would reset them."""
    try:
        await stream.send_eof()
        with trio.move_on_after(LINGER_LIMIT), trio.move_on_after(LINGER_TIMEOUT) as silence:
            while await stream.receive_some(64 * 1024):
                silence.deadline = trio.current_time() + LINGER_TIMEOUT
        await stream.aclose()
    except _FAILED:
        await trio.aclose_forcefully(stream)


@define(eq=False)
class _Lingering(trio.abc.Stream):
    """A socket that is closed gently, for `trio.SSLStream`, which sends its close_notify and closes at once."""

    stream: trio.SocketStream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self.stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        await close_gently(self.stream)
