"""Sockets to an App Server: websockets' sans-IO protocol over trio."""

import ssl
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import urlsplit

import trio
from attrs import define, field
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus, PayloadTooBig, ProtocolError, WebSocketException
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from sansio_letta import PRODUCT_ID, Signal
from sansio_letta.errors import Failure
from sansio_letta.upstreams.app_server.connection import AppServerConnection
from sansio_letta.upstreams.app_server.sockets import Channel, OpenSocket, SendFrame, SocketCommand
from sansio_letta.upstreams.rest.commands import Command

from ..settings.server import Settings
from .base import UpstreamError, UpstreamExchange, os_reason

#: The largest message that is accepted, in bytes; the server's own limit.
_MAX_MESSAGE_SIZE: Final = 100 * 1024 * 1024
_READ_SIZE: Final = 64 * 1024
_BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class _Lost(Exception):
    """A socket cannot be used.

    :param reason: for the client, without addresses and keys.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@define(eq=False)
class _Socket:
    """One WebSocket, from its opening on.

    :param silence_timeout: seconds without data after which it counts as lost. The server pings every 30.
    """

    protocol: ClientProtocol
    stream: trio.abc.Stream
    silence_timeout: float
    _changed: trio.Event = field(factory=trio.Event)
    _fragments: bytearray = field(factory=bytearray)  #: of a message that is not complete

    def send(self, data: bytes) -> None:
        """Send a text frame, soon; nothing if the socket is closing, which its reader is about to see."""
        if self.protocol.state is State.OPEN:
            self.protocol.send_text(data)
            self._changed.set()

    async def open(self, headers: dict[str, str]) -> None:
        """Do the handshake."""
        request = self.protocol.connect()
        request.headers.update(headers)
        self.protocol.send_request(request)
        await self._flush()
        while self.protocol.state is State.CONNECTING and self.protocol.handshake_exc is None:
            await self.read()
        if (problem := self.protocol.handshake_exc) is not None:
            raise _Lost(_refusal(problem))

    def messages(self) -> Iterator[bytes]:
        """Return the messages that are complete. The first may have come with the answer to the handshake.

        :raises _Lost: behind the last one, if no more will come.
        """
        for event in self.protocol.events_received():
            # Letta sends text only; a binary message would hold the same.
            if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                if event.fin and not self._fragments:
                    yield bytes(event.data)
                    continue
                self._fragments += event.data
                if event.fin:
                    yield bytes(self._fragments)
                    self._fragments = bytearray()
        # Answers to pings.
        self._changed.set()
        if self.protocol.state is not State.OPEN:
            raise _Lost(self._end)

    @property
    def _end(self) -> str:
        """Why it is closing."""
        if isinstance(self.protocol.parser_exc, PayloadTooBig):
            return f"it sent a message of more than {self.protocol.max_message_size} bytes"
        if isinstance(self.protocol.parser_exc, ProtocolError | UnicodeDecodeError):
            return "it sent what is not WebSocket"
        closed = self.protocol.close_rcvd
        return f"it was closed with code {closed.code}" if closed is not None else "it was closed"

    async def read(self) -> None:
        """Wait for data.

        :raises _Lost: if none comes any more.
        """
        with trio.move_on_after(self.silence_timeout) as waiting:
            data = await self.stream.receive_some(_READ_SIZE)
        if waiting.cancelled_caught:
            raise _Lost(f"it was silent for {self.silence_timeout:g} seconds")
        if data:
            self.protocol.receive_data(data)
        else:
            self.protocol.receive_eof()
            if self.protocol.handshake_exc is None:
                raise _Lost(self._end)

    async def write(self, send_timeout: float) -> None:
        """Send what there is to send, until cancelled."""
        while True:
            with trio.fail_after(send_timeout):
                await self._flush()
            await self._changed.wait()
            self._changed = trio.Event()

    async def _flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                await self.stream.send_all(data)


def _refusal(problem: Exception) -> str:
    if isinstance(problem, InvalidStatus):
        status = problem.response.status_code
        if status in (401, 403):
            return (
                f"it answers {status}: it refuses the proxy's key, so check LETTA_API_KEY where the proxy runs"
            )
        return f"it answers {status} instead of opening a WebSocket, so check the address of --letta-url"
    if isinstance(problem, EOFError) or isinstance(problem.__cause__, EOFError):
        return "it was closed"
    return "it does not speak WebSocket"


def _reraise() -> None:
    raise  # it is called while an exception is handled


@define(eq=False)
class AppServerTransport:
    """Carries the frames of an `AppServerConnection`. `run` must be running while it is used, until `stop`.

    :param url: of the server, ``ws:`` or ``wss:``.
    """

    settings: Settings
    url: str
    connection: AppServerConnection = field(factory=AppServerConnection)
    on_defect: Callable[[], None] = field(default=_reraise, kw_only=True)
    """Called for an unexpected exception while it is handled; the socket that met it is closed."""
    _sockets: dict[Channel, _Socket] = field(factory=dict, init=False)
    _woken: trio.Event = field(factory=trio.Event, init=False)
    _scope: trio.CancelScope = field(factory=lambda: trio.CancelScope(shield=True), init=False)

    async def send(self, command: Command) -> UpstreamExchange:
        """Fail: an App Server takes no commands of Letta's REST API."""
        raise UpstreamError(Failure.NOT_SENT, "it is an App Server")

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do what the connection asks for, until `stop`."""
        connection = self.connection
        connection.wake = self._wake
        with self._scope:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    while (command := connection.next_command(trio.current_time())) is not Signal.WAITING:
                        assert not isinstance(command, Signal)
                        self._carry_out(command, nursery)
                    with trio.move_on_at(connection.next_deadline()):
                        await self._woken.wait()
                    self._woken = trio.Event()
                    connection.handle_deadline(trio.current_time())

    def stop(self) -> None:
        """End `run`, and close the sockets."""
        self._scope.cancel()

    def _wake(self) -> None:
        self._woken.set()

    def _carry_out(self, command: SocketCommand, nursery: trio.Nursery) -> None:
        match command:
            case OpenSocket(channel=channel):
                nursery.start_soon(self._serve, channel)
            case SendFrame(channel=channel, data=data):
                if (socket := self._sockets.get(channel)) is not None:
                    socket.send(data)

    async def _serve(self, channel: Channel) -> None:
        """Open a socket, and read it until it is lost."""
        reason = "it was closed"
        stream: trio.abc.Stream | None = None
        try:
            with trio.fail_after(self.settings.connect_timeout):
                stream = await self._connect()
                protocol = ClientProtocol(parse_uri(self.url), max_size=_MAX_MESSAGE_SIZE)
                socket = _Socket(protocol, stream, self.settings.letta_timeout)
                await socket.open(self._headers)
            self._sockets[channel] = socket
            self.connection.socket_opened(channel, trio.current_time())
            self._wake()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(socket.write, self.settings.send_timeout)
                await self._read(channel, socket)
        except* (trio.TooSlowError, *_BROKEN) as group:
            reason = _reason(group.exceptions[0])
        except* WebSocketException:
            reason = "it does not speak WebSocket"
        except* _Lost as lost:
            first = lost.exceptions[0]
            reason = first.reason if isinstance(first, _Lost) else reason
        except* Exception:
            reason = "the proxy failed to read it"
            self.on_defect()
        finally:
            self._sockets.pop(channel, None)
            if stream is not None:
                await trio.aclose_forcefully(stream)
            self.connection.socket_lost(channel, reason, trio.current_time())
            self._wake()

    async def _read(self, channel: Channel, socket: _Socket) -> None:
        while True:
            try:
                for data in socket.messages():
                    self.connection.receive_frame(channel, data, trio.current_time())
            finally:
                self._wake()
            await socket.read()

    async def _connect(self) -> trio.abc.Stream:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        is_secure = parts.scheme == "wss"
        stream: trio.abc.Stream
        stream = await trio.open_tcp_stream(parts.hostname, parts.port or (443 if is_secure else 80))
        if is_secure:
            stream = trio.SSLStream(stream, ssl.create_default_context(), server_hostname=parts.hostname)
        return stream

    @property
    def _headers(self) -> dict[str, str]:
        headers = {"User-Agent": PRODUCT_ID}
        if self.settings.letta_api_key:
            headers["Authorization"] = f"Bearer {self.settings.letta_api_key}"
        return headers


def _reason(error: BaseException) -> str:
    """Describe why a socket was lost, without addresses."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, trio.TooSlowError):
        return "it did not answer in time"
    problem = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
    if isinstance(problem, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {problem.verify_message}"
    if isinstance(problem, ssl.SSLError):
        return "TLS failed"
    return os_reason(problem) if isinstance(problem, OSError) else "it was closed"
