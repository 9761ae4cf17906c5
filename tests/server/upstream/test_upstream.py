"""The connection pool, between the core's commands and a raw HTTP stand-in over real sockets."""

import errno
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio
import trustme
from attrs import define, field
from trio.testing import wait_all_tasks_blocked

from drive import AGENT_ID
from letta_server import LettaPool, Settings, UpstreamError, UpstreamExchange
from sansio_letta.errors import Failure
from sansio_letta.turn.events import AgentThread
from sansio_letta.upstreams.rest.commands import CancelRun, CheckHealth, Command, OpenStream
from sansio_letta.upstreams.rest.letta import MessageCreate, StreamRequest

JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
HEALTH = JSON_HEAD + b"content-length: 2\r\n\r\n{}"
OPEN = OpenStream(
    thread=AgentThread(agent_id=AGENT_ID), request=StreamRequest(messages=(MessageCreate(content="hi"),))
)


@define(eq=False)
class RawLetta:
    """Answers each request on each connection with the next of these bytes; closes where they run out."""

    answers: list[bytes]
    requests: list[bytes] = field(factory=list)
    connection_count: int = 0
    closing: bool = True

    async def handle(self, stream: trio.abc.Stream) -> None:
        self.connection_count += 1
        with suppress(trio.BrokenResourceError):
            while self.answers and (request := await stream.receive_some(65536)):
                self.requests.append(bytes(request))
                await stream.send_all(self.answers.pop(0))
            if not self.closing:
                await stream.receive_some(1)
            await stream.aclose()


@asynccontextmanager
async def pool(letta: RawLetta, **settings: object) -> AsyncIterator[LettaPool]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, letta.handle, 0)
        port = listeners[0].socket.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        made = LettaPool(Settings(**{"letta_url": url, **settings}))  # type: ignore[arg-type]
        await nursery.start(made.run)
        try:
            yield made
        finally:
            made.stop()
            nursery.cancel_scope.cancel()


async def whole(exchange: UpstreamExchange) -> tuple[int, bytes]:
    body = b""
    try:
        status, _ = await exchange.receive_head()
        while data := await exchange.receive_data():
            body += data
    finally:
        exchange.release()
    return status, body


async def ask(letta: LettaPool, command: Command | None = None) -> tuple[int, bytes]:
    return await whole(await letta.send(command or CheckHealth()))


async def test_requests_go_over_one_connection() -> None:
    letta = RawLetta([HEALTH, HEALTH])
    async with pool(letta, letta_api_key="sk-1", letta_project="home") as made:
        assert await ask(made) == (200, b"{}")
        assert await ask(made, CancelRun(agent_id=AGENT_ID, run_id="run-1")) == (200, b"{}")
    assert letta.connection_count == 1
    first, second = letta.requests
    assert first.startswith(b"GET /v1/health/ HTTP/1.1\r\n")
    assert b"authorization: Bearer sk-1\r\n" in first.lower().replace(b"bearer", b"Bearer")
    assert b"x-project: home\r\n" in first.lower()
    assert second.endswith(b'\r\n\r\n{"run_ids":["run-1"]}')


async def test_second_exchange_that_is_given_up_before_its_answer_is_closed() -> None:
    letta = RawLetta([HEALTH, HEALTH])
    async with pool(letta) as made:
        await ask(made)
        exchange = await made.send(CheckHealth())
        exchange.release()
        await wait_all_tasks_blocked()
        assert exchange._socket.fileno() == -1


async def test_base_url_may_have_a_path_and_end_in_v1() -> None:
    letta = RawLetta([HEALTH])
    async with pool(letta) as made:
        port = made.settings.letta_url.rpartition(":")[2]
        prefixed = LettaPool(Settings(letta_url=f"http://127.0.0.1:{port}/letta/v1/"))
        await ask(prefixed)  # not running: it keeps nothing
    assert letta.requests[0].startswith(b"GET /letta/v1/health/ ")


async def test_connection_that_was_closed_meanwhile_is_not_used() -> None:
    letta = RawLetta([HEALTH], closing=True)
    async with pool(letta) as made:
        await ask(made)
        (idle,) = made._idle
        # Closed by Letta after its last answer: the end of the stream makes the socket readable.
        await trio.lowlevel.wait_readable(idle.connection._socket)
        letta.answers.append(HEALTH)
        assert await ask(made) == (200, b"{}")
    assert letta.connection_count == 2


async def test_idle_connection_is_not_kept_long(monkeypatch: pytest.MonkeyPatch) -> None:
    letta = RawLetta([HEALTH, HEALTH])
    async with pool(letta) as made:
        await ask(made)
        now = trio.current_time()
        monkeypatch.setattr(trio, "current_time", lambda: now + 5.0)
        assert await ask(made) == (200, b"{}")
        monkeypatch.undo()
    assert letta.connection_count == 2


async def test_exchange_that_outlives_the_pool_is_closed() -> None:
    letta = RawLetta([HEALTH])
    async with pool(letta) as made:
        exchange = await made.send(CheckHealth())
    exchange.release()


async def test_answer_that_was_not_read_is_drained_for_the_next_request() -> None:
    head = JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n"
    letta = RawLetta([head + b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n", HEALTH])
    async with pool(letta) as made:
        exchange = await made.send(CheckHealth())
        await exchange.receive_head()
        exchange.release()
        exchange.release()
        await wait_all_tasks_blocked(0.01)
        assert await ask(made) == (200, b"{}")
    assert letta.connection_count == 1


async def test_data_of_one_read_comes_together() -> None:
    chunks = b"".join(b"3\r\nabc\r\n" for _ in range(5))
    letta = RawLetta([JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"])
    async with pool(letta) as made:
        exchange = await made.send(CheckHealth())
        await exchange.receive_head()
        assert await exchange.receive_data() == b"abc" * 5
        assert await exchange.receive_data() == b""
        exchange.release()


async def test_early_hints_are_passed_over() -> None:
    letta = RawLetta([b"HTTP/1.1 103 Early Hints\r\n\r\n" + HEALTH])
    async with pool(letta) as made:
        assert await ask(made) == (200, b"{}")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed without a response"),
        (b"nonsense\r\n\r\n", "illegal"),
        (JSON_HEAD + b"content-length: 9\r\n\r\n{}", "closed connection"),
        (JSON_HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n", "illegal"),
        (JSON_HEAD + b"x: " + b"y" * 200_000 + b"\r\n\r\n", "too long"),
    ],
    ids=["nothing", "nonsense", "half a body", "bad chunk", "huge header"],
)
async def test_answers_that_break(answer: bytes, reason: str) -> None:
    async with pool(RawLetta([answer])) as made:
        with pytest.raises(UpstreamError, match=reason) as caught:
            await ask(made, OPEN)
    assert caught.value.failure is Failure.BROKEN


async def test_body_that_ends_with_the_connection() -> None:
    async with pool(RawLetta([JSON_HEAD + b"connection: close\r\n\r\n{}"])) as made:
        assert await ask(made) == (200, b"{}")


async def test_nobody_listens() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    with pytest.raises(UpstreamError, match="connection refused") as caught:
        await LettaPool(Settings(letta_url=f"http://127.0.0.1:{port}")).send(OPEN)
    assert caught.value.failure is Failure.NOT_SENT


async def test_connecting_takes_too_long(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def never(*_: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(trio, "open_tcp_stream", never)
    with pytest.raises(UpstreamError, match="no connection within 10 seconds"):
        await LettaPool(Settings(letta_url="http://127.0.0.1:1")).send(OPEN)


async def test_tls() -> None:
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server_context)
    letta = RawLetta([HEALTH], closing=False)
    serve = partial(
        trio.serve_ssl_over_tcp, letta.handle, 0, server_context, host="localhost", https_compatible=True
    )
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(serve)
        port = listeners[0].transport_listener.socket.getsockname()[1]
        made = LettaPool(Settings(letta_url=f"https://localhost:{port}"))
        with pytest.raises(UpstreamError, match=r"TLS failed: .*certificate verify failed"):
            await made.send(CheckHealth())
        assert made._tls is not None
        authority.configure_trust(made._tls)
        assert await ask(made) == (200, b"{}")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("command", [OPEN, CheckHealth()])
async def test_a_connection_that_breaks_while_it_is_sent_to(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of it may have gone out, whatever it is: only the core knows what follows from that."""

    async def reset(self: object, data: bytes) -> None:
        raise trio.BrokenResourceError from ConnectionResetError(errno.ECONNRESET, "reset")

    async with pool(RawLetta([])) as made:
        monkeypatch.setattr(trio.SocketStream, "send_all", reset)
        with pytest.raises(UpstreamError, match="reset") as caught:
            await made.send(command)
    assert caught.value.failure is Failure.BROKEN
