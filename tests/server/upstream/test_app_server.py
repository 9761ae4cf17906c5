"""The sockets to an App Server, between the connection of the core and a WebSocket peer on loopback."""

import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import orjson
import pytest
import trio
import trustme
from attrs import define, field
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from letta_server import Settings, UpstreamError
from letta_server.upstream import app_server
from letta_server.upstream.app_server import AppServerTransport
from sansio_letta.errors import SansioLettaError
from sansio_letta.upstreams.app_server.connection import AppServerConnection
from sansio_letta.upstreams.app_server.connection import Request as Question
from sansio_letta.upstreams.app_server.sockets import Channel
from sansio_letta.upstreams.rest.commands import CheckHealth

KEY = "a-key-of-the-app-server"
BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)


@define(eq=False)
class Socket:
    """One client of the peer."""

    stream: trio.abc.Stream
    protocol: ServerProtocol = field(factory=ServerProtocol)
    pongs: list[bytes] = field(factory=list)

    async def send(self, *frames: Frame) -> None:
        for frame in frames:
            self.protocol.send_frame(frame)
        await self.flush()

    async def flush(self) -> None:
        with suppress(*BROKEN):
            for data in self.protocol.data_to_send():
                if data:
                    await self.stream.send_all(data)


def text(data: bytes, *, opcode: Opcode = Opcode.TEXT, fin: bool = True) -> Frame:
    return Frame(opcode, data, fin)


def answer(asked: dict[str, str], **more: object) -> bytes:
    return orjson.dumps({"type": f"{asked['type']}_response", "request_id": asked["request_id"], **more})


@define(eq=False)
class Peer:
    """A WebSocket server of the least.

    :param status: of the answer to a handshake, if it is refused.
    :param unasked: frames that come in one piece with the handshake.
    :param replies: what follows a question; by default, one frame with the answer.
    """

    status: int | None = None
    unasked: tuple[Frame, ...] = ()
    replies: Callable[[dict[str, str]], Iterator[Frame]] | None = None
    heads: list[Request] = field(factory=list)
    sockets: list[Socket] = field(factory=list)
    asked: list[dict[str, str]] = field(factory=list)
    changed: trio.Event = field(factory=trio.Event)

    async def handle(self, stream: trio.abc.Stream) -> None:
        socket = Socket(stream)
        self.sockets.append(socket)
        with suppress(*BROKEN):
            while data := await stream.receive_some(65536):
                socket.protocol.receive_data(data)
                for event in socket.protocol.events_received():
                    self.receive(socket, event)
                await socket.flush()
                self.changed.set()
                self.changed = trio.Event()
                if self.status is not None:
                    break
        await trio.aclose_forcefully(stream)

    def receive(self, socket: Socket, event: object) -> None:
        if isinstance(event, Request):
            self.heads.append(event)
            refused = self.status is not None
            response = (
                socket.protocol.reject(self.status or 0, "") if refused else socket.protocol.accept(event)
            )
            socket.protocol.send_response(response)
            for frame in () if refused else self.unasked:
                socket.protocol.send_frame(frame)
        elif isinstance(event, Frame) and event.opcode is Opcode.PONG:
            socket.pongs.append(bytes(event.data))
        elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
            asked = orjson.loads(event.data)
            self.asked.append(asked)
            frames = self.replies(asked) if self.replies else iter([text(answer(asked))])
            for frame in frames:
                socket.protocol.send_frame(frame)

    async def until(self, is_so: Callable[[], bool]) -> None:
        with trio.fail_after(10):
            while not is_so():
                await self.changed.wait()


@define(eq=False)
class Door:
    """A transport in front of a peer."""

    transport: AppServerTransport
    answered: trio.Event = field(factory=trio.Event)

    def begin(self, channel: Channel = Channel.WORK) -> Question:
        self.answered = trio.Event()
        # Nothing else is asked on the guarding socket, nor read from it while the other is open.
        kind = "sync" if channel is Channel.GUARD else "app_server_info"
        return self.transport.connection.ask(kind, {}, wake=lambda: self.answered.set(), channel=channel)

    async def ask(self, channel: Channel = Channel.WORK) -> Question:
        question = self.begin(channel)
        with trio.fail_after(10):
            await self.answered.wait()
        return question

    async def error(self) -> str:
        error = (await self.ask()).error
        assert isinstance(error, SansioLettaError)
        return error.message


@asynccontextmanager
async def door(url: str, **settings: object) -> AsyncIterator[Door]:
    made = AppServerTransport(Settings(**{"letta_url": url, **settings}), f"{url}/ws")  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        try:
            yield Door(made)
        finally:
            made.stop()


@asynccontextmanager
async def served(handle: Callable[..., object], **settings: object) -> AsyncIterator[Door]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, handle, 0)
        port = listeners[0].socket.getsockname()[1]
        async with door(f"ws://127.0.0.1:{port}", **settings) as made:
            yield made
        nursery.cancel_scope.cancel()


# --- Opening --------------------------------------------------------------------------------------------------


async def test_two_sockets_with_the_key() -> None:
    peer = Peer()
    async with served(peer.handle, letta_api_key=KEY) as made:
        for channel in Channel:
            assert (await made.ask(channel)).answer is not None
            assert made.transport.connection.is_open(channel)
        assert len(peer.sockets) == 2
        for head in peer.heads:
            assert head.path == "/ws"
            assert head.headers["Authorization"] == f"Bearer {KEY}"
            # The server would refuse it.
            assert "Origin" not in head.headers
            assert "Sec-WebSocket-Extensions" not in head.headers


async def test_without_a_key_none_is_sent() -> None:
    peer = Peer()
    async with served(peer.handle) as made:
        await made.ask()
    assert "Authorization" not in peer.heads[0].headers


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, "it answers 401: it refuses the proxy's key, so check LETTA_API_KEY where the proxy runs."),
        (403, "it answers 403: it refuses the proxy's key, so check LETTA_API_KEY where the proxy runs."),
        (404, "it answers 404 instead of opening a WebSocket, so check the address of --letta-url."),
        (426, "it answers 426 instead of opening a WebSocket, so check the address of --letta-url."),
    ],
)
async def test_a_refusal_is_told_with_what_to_do(status: int, told: str) -> None:
    peer = Peer(status=status)
    async with served(peer.handle, letta_api_key=KEY) as made:
        error = await made.error()
        assert error == f"The App Server cannot be reached: {told}"
        # The next question tries again.
        peer.status = None
        assert (await made.ask()).answer is not None


async def _silent(stream: trio.SocketStream) -> None:
    while await stream.receive_some(65536):
        pass


async def _closing(stream: trio.SocketStream) -> None:
    await stream.receive_some(65536)
    await stream.aclose()


async def _babbling(stream: trio.SocketStream) -> None:
    await stream.receive_some(65536)
    with suppress(*BROKEN):
        await stream.send_all(b"220 mail.example ESMTP\r\n\r\n")
        await stream.receive_some(1)


async def _plain(stream: trio.SocketStream) -> None:
    await stream.receive_some(65536)
    with suppress(*BROKEN):
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await stream.receive_some(1)


@pytest.mark.parametrize(
    ("handle", "told"),
    [
        (_silent, "it did not answer in time"),
        (_closing, "it was closed"),
        (_babbling, "it does not speak WebSocket"),
        (_plain, "it answers 200 instead of opening a WebSocket, so check the address of --letta-url"),
    ],
)
async def test_what_is_no_app_server_is_told(handle: Callable[..., object], told: str) -> None:
    async with served(handle, connect_timeout=0.2) as made:
        assert await made.error() == f"The App Server cannot be reached: {told}."


async def test_nothing_listens() -> None:
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with door(f"ws://127.0.0.1:{port}") as made:
            assert await made.error() == "The App Server cannot be reached: connection refused."
        # Two addresses, each of which refuses.
        async with door(f"ws://localhost:{port}") as made:
            assert await made.error() == "The App Server cannot be reached: connection refused."


async def test_it_takes_no_commands_of_the_rest_api() -> None:
    async with served(Peer().handle) as made:
        with pytest.raises(UpstreamError, match="it is an App Server"):
            await made.transport.send(CheckHealth())


# --- TLS ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def served_by_tls(peer: Peer, authority: trustme.CA, name: str) -> AsyncIterator[int]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    async with trio.open_nursery() as nursery:

        async def handle(stream: trio.SocketStream) -> None:
            with suppress(*BROKEN):
                await peer.handle(trio.SSLStream(stream, context, server_side=True))

        listeners = await nursery.start(trio.serve_tcp, handle, 0)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority, peer = trustme.CA(), Peer()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with served_by_tls(peer, authority, "127.0.0.1") as port, door(f"wss://127.0.0.1:{port}") as made:
        assert (await made.ask()).answer is not None


async def test_a_certificate_that_is_not_trusted_is_told() -> None:
    authority, peer = trustme.CA(), Peer()
    async with served_by_tls(peer, authority, "127.0.0.1") as port, door(f"wss://127.0.0.1:{port}") as made:
        error = await made.error()
    assert error.startswith("The App Server cannot be reached: its certificate is not valid: ")
    assert peer.asked == []


async def test_tls_where_there_is_none() -> None:
    async with served(_plain) as plain:
        url = plain.transport.settings.letta_url.replace("ws:", "wss:")
        async with door(url) as made:
            assert await made.error() == "The App Server cannot be reached: TLS failed."


# --- Frames ---------------------------------------------------------------------------------------------------


async def test_a_frame_that_comes_with_the_handshake_is_received(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server sends a fresh socket every pending question at once."""
    received: deque[bytes] = deque()
    peer = Peer(unasked=(text(b'{"type":"control_request"}'),))
    async with served(peer.handle) as made:
        receive = AppServerConnection.receive_frame

        def note(connection: AppServerConnection, channel: Channel, data: bytes, now: float) -> None:
            received.append(data)
            receive(connection, channel, data, now)

        monkeypatch.setattr(AppServerConnection, "receive_frame", note)
        await made.ask()
    assert received[0] == b'{"type":"control_request"}'


async def test_pings_are_answered() -> None:
    peer = Peer()
    async with served(peer.handle) as made:
        await made.ask()
        [socket] = peer.sockets
        await socket.send(Frame(Opcode.PING, b"one"), Frame(Opcode.PING, b"two"))
        await peer.until(lambda: socket.pongs == [b"one", b"two"])


@pytest.mark.parametrize("first", [Opcode.TEXT, Opcode.BINARY])
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_fragments_and_binary_messages(first: Opcode, size: int) -> None:
    def replies(asked: dict[str, str]) -> Iterator[Frame]:
        data = answer(asked, more="é" * 50)
        parts = [data[at : at + size] for at in range(0, len(data), size)]
        for number, part in enumerate(parts):
            yield text(part, opcode=first if number == 0 else Opcode.CONT, fin=number == len(parts) - 1)
            yield Frame(Opcode.PING, b"between")

    peer = Peer(replies=replies)
    async with served(peer.handle) as made:
        found = (await made.ask()).answer
        assert found is not None
        assert found.body["more"] == "é" * 50
        assert made.transport.connection.gap_count == 0


async def test_many_questions_in_one_piece() -> None:
    peer = Peer()
    async with served(peer.handle) as made:
        questions = [made.begin() for _ in range(200)]
        await peer.until(lambda: len(peer.asked) == 200)
        with trio.fail_after(10):
            while any(question.answer is None for question in questions):
                await made.answered.wait()
                made.answered = trio.Event()


async def test_a_message_over_the_limit_closes_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_server, "_MAX_MESSAGE_SIZE", 1000)

    def fragments(asked: dict[str, str]) -> Iterator[Frame]:
        yield text(b"x" * 600, fin=False)
        yield text(b"x" * 600, opcode=Opcode.CONT)

    peer = Peer(replies=lambda asked: iter([text(b"x" * 1001)]))
    async with served(peer.handle) as made:
        told = "The App Server closed the connection: it sent a message of more than 1000 bytes."
        assert await made.error() == told
        peer.replies = fragments
        assert await made.error() == told
        peer.replies = lambda asked: iter([text(answer(asked, more="x" * 800))])
        assert (await made.ask()).answer is not None


async def test_what_is_not_websocket_closes_the_socket() -> None:
    peer = Peer()
    async with served(peer.handle) as made:
        await made.ask()
        peer.replies = lambda asked: iter(())
        made.begin()
        await peer.until(lambda: len(peer.asked) == 2)
        await peer.sockets[0].stream.send_all(b"\xff" * 10)
        with trio.fail_after(10):
            await made.answered.wait()
        assert not made.transport.connection.is_open(Channel.WORK)


@pytest.mark.parametrize(
    ("close", "told"),
    [
        (Frame(Opcode.CLOSE, b"\x03\xe9going"), "it was closed with code 1001"),
        (None, "it was closed"),
    ],
)
async def test_a_close_fails_what_was_asked(close: Frame | None, told: str) -> None:
    peer = Peer(replies=lambda asked: iter(()))
    async with served(peer.handle) as made:
        question = made.begin()
        await peer.until(lambda: len(peer.asked) == 1)
        [socket] = peer.sockets
        if close is not None:
            await socket.send(close)
        else:
            await trio.aclose_forcefully(socket.stream)
        with trio.fail_after(10):
            await made.answered.wait()
        assert isinstance(question.error, SansioLettaError)
        assert question.error.message == f"The App Server closed the connection: {told}."
        peer.replies = None
        assert (await made.ask()).answer is not None


async def test_silence_counts_as_a_loss() -> None:
    """The server pings every 30 seconds: a peer that says nothing for longer is gone."""
    peer = Peer(replies=lambda asked: iter(()))
    async with served(peer.handle, letta_timeout=0.2) as made:
        assert await made.error() == "The App Server closed the connection: it was silent for 0.2 seconds."


async def test_a_frame_for_a_socket_that_closes_is_dropped() -> None:
    """The reader is about to report the loss, which fails the question."""
    peer = Peer()
    async with served(peer.handle) as made:
        await made.ask()
        socket = made.transport._sockets[Channel.WORK]
        socket.protocol.send_close(1000)
        socket._changed.set()
        assert socket.protocol.state is State.CLOSING
        assert "closed the connection" in await made.error()


async def test_a_defect_closes_one_socket_and_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    defects: list[str] = []
    async with served(Peer().handle) as made:

        def fail(connection: AppServerConnection, channel: Channel, data: bytes, now: float) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(AppServerConnection, "receive_frame", fail)
        made.transport.on_defect = lambda: defects.append("defect")
        assert await made.error() == "The App Server closed the connection: the proxy failed to read it."
        assert defects == ["defect"]
        monkeypatch.undo()
        assert (await made.ask()).answer is not None
