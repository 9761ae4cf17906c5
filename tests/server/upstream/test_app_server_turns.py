"""A server in front of a fake App Server, over real sockets: turns, shutdown, and what a person is told."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
import pytest
import trio
import trio.testing
from attrs import define, field
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from letta_server import Server, Settings, serve
from letta_server.process.announce import announce_letta
from letta_server.settings.access import Access
from letta_server.settings.errors import SettingsError
from sansio_letta.upstreams.app_server.sockets import Channel
from upstreams.app_server.fake_server import FakeAppServer

Json = dict[str, Any]


@define(eq=False)
class Letta:
    """The fake App Server behind WebSockets: the first is the one that works, the second guards."""

    fake: FakeAppServer = field(factory=FakeAppServer)
    status: int | None = None
    sockets: dict[Channel, tuple[ServerProtocol, trio.SocketStream]] = field(factory=dict)
    sending: trio.Lock = field(factory=trio.Lock)
    changed: trio.Event = field(factory=trio.Event)

    async def handle(self, stream: trio.SocketStream) -> None:
        protocol = ServerProtocol()
        channel = next(each for each in Channel if each not in self.sockets)
        self.sockets[channel] = protocol, stream
        try:
            while data := await stream.receive_some(65536):
                protocol.receive_data(data)
                for event in protocol.events_received():
                    if isinstance(event, Request) and self.status is not None:
                        protocol.send_response(protocol.reject(self.status, ""))
                    elif isinstance(event, Request):
                        protocol.send_response(protocol.accept(event))
                        self.fake.connect(channel)
                    elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                        self.fake.receive(channel, bytes(event.data))
                await self.flush()
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(stream)
            self.fake.lose(channel)
            del self.sockets[channel]
            self.note()

    async def flush(self) -> None:
        for channel, data in self.fake.take():
            self.sockets[channel][0].send_text(data)
        async with self.sending:
            for protocol, stream in list(self.sockets.values()):
                for data in protocol.data_to_send():
                    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        if data:
                            await stream.send_all(data)
        self.note()

    def note(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def until_heard(self, kind: str) -> None:
        with trio.fail_after(10):
            while kind not in self.kinds:
                await self.changed.wait()

    @property
    def kinds(self) -> list[str]:
        return [frame["type"] for frame in self.fake.received]


@define(eq=False)
class Running:
    letta: Letta
    server: Server
    port: int

    async def ask(self, *messages: Json, **more: Any) -> Json:
        """A request of a client, to the end of its answer."""
        body = orjson.dumps({"model": "Milo", "messages": messages, **more})
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            f"X-Letta-Chat-Key: k1\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with trio.fail_after(20):
            stream = await trio.open_tcp_stream("127.0.0.1", self.port)
            async with stream:
                await stream.send_all(head.encode() + body)
                received = b""
                while data := await stream.receive_some(65536):
                    received += data
        found = orjson.loads(received.partition(b"\r\n\r\n")[2])
        assert isinstance(found, dict)
        return found


@asynccontextmanager
async def running(letta: Letta | None = None, **more: Any) -> AsyncIterator[Running]:
    letta = letta or Letta()
    async with trio.open_nursery() as nursery:
        peers = await nursery.start(trio.serve_tcp, letta.handle, 0)
        url = f"ws://127.0.0.1:{peers[0].socket.getsockname()[1]}"
        server, listeners = await nursery.start(serve, Settings(letta_url=url, port=0, **more))
        yield Running(letta, server, listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


def user(text: str) -> Json:
    return {"role": "user", "content": text}


TOOLS = [{"type": "function", "function": {"name": "get_weather"}}]


def text_of(answer: Json) -> str:
    text = answer["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


async def test_a_tool_loop_over_two_requests() -> None:
    async with running() as made:
        first = user('call get_weather {"city":"Paris"}')
        asked = (await made.ask(first, tools=TOOLS))["choices"][0]["message"]
        result = {"role": "tool", "tool_call_id": asked["tool_calls"][0]["id"], "content": "18 C"}
        assert text_of(await made.ask(first, asked, result, tools=TOOLS)) == "results: 18 C"
        assert set(made.letta.sockets) == set(Channel)


# --- Shutdown -------------------------------------------------------------------------------------------------


async def test_a_turn_ends_in_peace_while_the_server_shuts_down() -> None:
    letta = Letta()
    letta.fake.pause = True
    answers: list[Json] = []
    async with running(letta) as made, trio.open_nursery() as clients:

        async def ask() -> None:
            answers.append(await made.ask(user("say Hello!")))

        clients.start_soon(ask)
        await letta.until_heard("input")
        made.server.end()
        await trio.testing.wait_all_tasks_blocked()
        letta.fake.go_on()
        await letta.flush()
    assert [text_of(answer) for answer in answers] == ["Hello!"]
    assert "abort_message" not in letta.kinds


async def test_a_turn_that_is_interrupted_is_aborted_before_the_sockets_close() -> None:
    """A conversation whose last socket is lost while it runs takes no input any more."""
    letta = Letta()
    letta.fake.pause = True
    answers: list[Json] = []
    async with running(letta, shutdown_timeout=0.0) as made, trio.open_nursery() as clients:

        async def ask() -> None:
            answers.append(await made.ask(user("say Hello!")))

        clients.start_soon(ask)
        await letta.until_heard("input")
        made.server.end()
    [talk] = letta.fake.talks.values()
    assert letta.kinds.count("abort_message") == 1
    assert (talk.is_running, talk.is_dead) == (False, False)
    assert answers[0]["error"]["code"] == "shutting_down"


async def test_calls_that_wait_are_left_to_the_server() -> None:
    """Another process may follow their conversation. If none does, the server ends them."""
    letta = Letta()
    async with running(letta, shutdown_timeout=0.0) as made:
        await made.ask(user("call get_weather {}"), tools=TOOLS)
        made.server.end()
        with trio.fail_after(10):
            while letta.sockets:
                await letta.changed.wait()
    [talk] = letta.fake.talks.values()
    assert "abort_message" not in letta.kinds
    assert (talk.is_running, talk.is_dead) == (False, False)
    assert talk.messages[-1]["tool_return"] == "User interrupted the stream"


# --- What a person is told ------------------------------------------------------------------------------------


class OtherServer(FakeAppServer):
    """One of another backend, and of another version of the protocol."""

    def _app_server_info(self, channel: Channel, frame: Json) -> None:
        self._answer(channel, frame, letta_code_version="9.0.0", backend="api", protocol_version=2)


async def told(made: Running, capsys: pytest.CaptureFixture[str]) -> list[str]:
    await announce_letta(made.server, "")
    return [line.strip() for line in capsys.readouterr().out.splitlines()]


async def test_an_app_server_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    async with running() as made:
        letta, agents = await told(made, capsys)
    assert letta.endswith(", an App Server of Letta Code 0.34.12")
    assert agents == "agents    1: Milo"


async def test_what_is_unusual_about_it_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    async with running(Letta(OtherServer())) as made:
        lines = await told(made, capsys)
        assert text_of(await made.ask(user("say Hello!"))) == "Hello!"
    assert lines[1] == (
        "Its backend is api: it was started without --backend local, and its agents are Letta Cloud's."
    )
    assert lines[2] == "It speaks version 2 of its protocol, unknown here: requests may fail."


async def test_a_wrong_key_is_announced_and_told_to_clients(capsys: pytest.CaptureFixture[str]) -> None:
    async with running(Letta(status=401), letta_api_key="wrong-key-of-mine") as made:
        lines = await told(made, capsys)
        error = (await made.ask(user("say Hello!")))["error"]
    assert "check LETTA_API_KEY where the proxy runs" in lines[0]
    assert "check LETTA_API_KEY where the proxy runs" in error["message"]
    assert "wrong-key-of-mine" not in f"{lines} {error}"


def test_clients_cannot_bring_keys_of_an_app_server() -> None:
    with pytest.raises(SettingsError, match="an App Server: it has one key for all agents"):
        Settings(letta_url="ws://127.0.0.1:4500", access=Access(pass_through=True))
