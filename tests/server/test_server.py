"""The server between a client on a memory stream and a scripted Letta."""

import re
from contextlib import suppress
from typing import Any

import orjson
import pytest
import trio
from attrs import define
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from drive import AGENT_ID, DONE, PING, USAGE, agent_json, encode, error, say, stop
from letta_server import Access, Server, Settings, TurnSettings, UpstreamError, serve
from sansio_letta.errors import Failure
from sansio_letta.upstreams.rest.commands import (
    CancelRun,
    CheckHealth,
    CreateConversation,
    DeleteConversation,
    FetchRun,
    FindAgent,
    FindRuns,
    ListAgents,
    OpenStream,
)

from .scripted import RawClient, Script, ask, book, cancelled, found, hello, make_server, runs

BROKEN = UpstreamError(Failure.BROKEN, "connection reset")


def unlisted() -> Script:
    """Letta has no list of runs."""
    return Script(FindRuns, [b'{"detail": "Not Found"}'], status=404)


def no_runs() -> Script:
    """There is none."""
    return Script(FindRuns, [b"[]"])


def connect(nursery: trio.Nursery, server: Server) -> RawClient:
    client, handled = memory_stream_pair()
    nursery.start_soon(server.handle, handled)
    return RawClient(client)


async def test_streamed_answer_and_the_next_on_the_same_connection(nursery: trio.Nursery) -> None:
    server, letta = make_server(found(), hello(), hello())
    client = connect(nursery, server)
    await client.send(ask())
    response = await client.receive()
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.body.endswith(b"data: [DONE]\n\n")
    await client.send(ask(stream=False))
    assert (await client.receive()).json()["choices"][0]["message"]["content"] == "Hello"
    assert [type(command) for command in letta.commands] == [FindAgent, OpenStream, OpenStream]


async def test_what_comes_in_one_read_leaves_in_one_write(nursery: trio.Nursery) -> None:
    burst = b"".join(encode(message) for message in (PING, say("a"), say("b"), say("c")))
    rest = encode(say("d")) + encode(stop()) + encode(USAGE) + encode(DONE)
    server, _ = make_server(found(), runs(burst, rest))
    client = connect(nursery, server)
    await client.send(ask())
    response = await client.receive()
    assert [chunk.count(b"data: ") for chunk in response.chunks] == [4, 3]


async def test_first_chunk_leaves_before_the_second_comes(nursery: trio.Nursery) -> None:
    gate = trio.Event()
    server, _ = make_server(found(), runs(PING, say("Hel"), gate, say("lo"), stop(), USAGE, DONE))
    client = connect(nursery, server)
    await client.send(ask())
    response = await client.receive_head()
    while b"Hel" not in response.body:
        assert await client.receive_more(response)
    gate.set()
    while await client.receive_more(response):
        pass
    assert response.body.endswith(b"data: [DONE]\n\n")


async def test_pipelined_requests_are_answered_in_order(nursery: trio.Nursery) -> None:
    server, _ = make_server(found(), hello())
    client = connect(nursery, server)
    await client.send(ask() + b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await client.receive()).body.endswith(b"[DONE]\n\n")
    assert (await client.receive("GET")).json() == {"status": "ok"}


# --- A client that leaves


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_leaving_in_mid_stream_cancels_the_run(nursery: trio.Nursery, stream: bool) -> None:
    server, letta = make_server(found(), runs(PING, say("Hel"), trio.Event()), cancelled())
    client = connect(nursery, server)
    await client.send(ask(stream=stream))
    await wait_all_tasks_blocked()
    await client.stream.aclose()
    assert isinstance(await letta.saw(CancelRun), CancelRun)


async def test_closing_only_the_sending_side_counts_as_leaving(nursery: trio.Nursery) -> None:
    server, letta = make_server(found(), runs(PING, say("Hel"), trio.Event()), cancelled())
    client, handled = memory_stream_pair()
    nursery.start_soon(server.handle, handled)
    await client.send_all(ask())
    await wait_all_tasks_blocked()
    await client.send_eof()
    await letta.saw(CancelRun)


async def test_leaving_before_the_run_has_a_name_waits_for_it(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    server, letta = make_server(found(), runs(2.0, PING, say("x")), cancelled())
    client = connect(nursery, server)
    await client.send(ask())
    await wait_all_tasks_blocked()
    await client.stream.aclose()
    await letta.saw(CancelRun)


async def test_leaving_while_the_agent_is_looked_up_asks_nothing_more(nursery: trio.Nursery) -> None:
    server, letta = make_server(Script(FindAgent, heading=trio.Event()))
    client = connect(nursery, server)
    await client.send(ask())
    await wait_all_tasks_blocked()
    await client.stream.aclose()
    await wait_all_tasks_blocked()
    assert [type(command) for command in letta.commands] == [FindAgent]


@define(eq=False)
class BreakingStream(trio.abc.Stream):
    """A client's connection that is found broken when an answer's bytes are sent, and not before."""

    inner: trio.abc.Stream
    fine_count: int = 0  #: how many times it still takes something

    async def send_all(self, data: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.fine_count -= 1
        if self.fine_count < 0:
            raise trio.BrokenResourceError

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self.inner.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self.inner.aclose()


@pytest.mark.parametrize("fine_count", range(2))
async def test_a_command_behind_a_flush_that_fails_is_not_lost(
    nursery: trio.Nursery, fine_count: int, autojump_clock: MockClock
) -> None:
    """A task's conversation is deleted, wherever its client's connection turns out to be broken."""
    made = Script(CreateConversation, [orjson.dumps({"id": "conv-9", "agent_id": AGENT_ID})])
    server, letta = make_server(found(), made, hello(), Script(DeleteConversation, [b"null"]))
    client, handled = memory_stream_pair()
    nursery.start_soon(server.handle, BreakingStream(handled, fine_count))
    await client.send_all(ask(stream=False, messages=[{"role": "user", "content": "### Task:\nGive a title."}]))
    await trio.sleep(5.0)
    assert type(letta.commands[-1]) is DeleteConversation
    await client.aclose()


async def test_cancel_that_hangs_is_given_up(autojump_clock: MockClock) -> None:
    stuck = Script(CancelRun, heading=trio.Event())
    server, _ = make_server(found(), runs(PING, say("Hel"), trio.Event()), stuck, cancel_timeout=5.0)
    client, handled = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.handle, handled)
        await client.send_all(ask())
        await wait_all_tasks_blocked()
        began = trio.current_time()
        await client.aclose()
    assert trio.current_time() - began == pytest.approx(5.0, abs=0.5)


async def test_ending_the_server_cancels_the_runs_under_way() -> None:
    server, letta = make_server(found(), runs(PING, say("Hel"), trio.Event()), cancelled())
    async with trio.open_nursery() as nursery:
        client = connect(nursery, server)
        await client.send(ask())
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert type(letta.commands[-1]) is CancelRun


async def test_client_that_does_not_read_is_dropped(autojump_clock: MockClock) -> None:
    """A comment was due long ago by then, and does not stop the cancel."""
    server, letta = make_server(found(), runs(PING, say("x"), 1.0, say("y"), trio.Event()), cancelled())
    client, handled = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.handle, handled)
        await client.send_all(ask())
    assert type(letta.commands[-1]) is CancelRun
    assert not letta.script


# --- Time


async def test_comments_while_letta_thinks(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    server, _ = make_server(found(), runs(PING, say("x"), 40.0, say("y"), stop(), USAGE, DONE))
    client = connect(nursery, server)
    await client.send(ask())
    assert (await client.receive()).body.count(b": keepalive\n\n") == 2


@pytest.mark.parametrize(
    ("turns", "came_at"),
    [
        (TurnSettings(), [15.0, 30.0, 45.0, 60.0, 75.0, 78.0]),
        (TurnSettings(early_response_timeout=5.0, keepalive_timeout=40.0), [5.0, 45.0, 78.0]),
        (TurnSettings(early_response_timeout=0.0), [78.0]),
    ],
    ids=["by default", "as set", "never"],
)
async def test_bytes_come_in_time_from_an_agent_that_thinks_first(
    turns: TurnSettings, came_at: list[float], autojump_clock: MockClock
) -> None:
    server, _ = make_server(found(), runs(PING, 78.0, say("x"), stop(), USAGE, DONE), turns=turns)
    client, handled = memory_stream_pair()
    times, came = list[float](), b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.handle, handled)
        began = trio.current_time()
        await client.send_all(ask().replace(b"host: x", b"host: x\r\nconnection: close"))
        while data := await client.receive_some():
            came += data
            times.append(round(trio.current_time() - began, 2))
    assert sorted(set(times)) == came_at
    assert came.startswith(b"HTTP/1.1 200")
    assert came.count(b": keepalive\n\n") == len(came_at) - 1
    assert b"data: [DONE]\n\n" in came


async def test_silence_of_lettas_is_an_error(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    server, _ = make_server(
        found(), runs(PING, trio.Event()), Script(FetchRun, status=403), cancelled(), letta_timeout=12.0
    )
    client = connect(nursery, server)
    await client.send(ask())
    response = await client.receive()
    assert response.status == 424
    assert "no byte came for 12 seconds" in response.json()["error"]["message"]


async def test_silence_in_a_started_stream_cancels_the_run(autojump_clock: MockClock) -> None:
    """The eighth comment is due when the silence has lasted long enough: it must not stop the cancel."""
    server, letta = make_server(
        found(), runs(PING, say("x"), trio.Event()), Script(FetchRun, status=403), cancelled()
    )
    client, handled = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.handle, handled)
        await client.send_all(ask())
        response = await RawClient(client).receive()
        await client.aclose()
    assert b"no byte came for 120 seconds" in response.body
    assert type(letta.commands[-1]) is CancelRun
    assert not letta.script


async def test_idle_connection_is_closed(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    server, _ = make_server(idle_timeout=5.0)
    client = connect(nursery, server)
    assert (await client.get()).status == 200
    began = trio.current_time()
    assert await client.ended()
    assert trio.current_time() - began == pytest.approx(5.0, abs=0.5)


@pytest.mark.parametrize("part", [b"GET /hea", ask()[:-3]], ids=["head", "body"])
async def test_request_that_never_ends_is_dropped(
    nursery: trio.Nursery, autojump_clock: MockClock, part: bytes
) -> None:
    server, _ = make_server(request_timeout=5.0)
    client = connect(nursery, server)
    await client.send(part)
    assert await client.ended()


# --- Letta's failures


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ([Script(FindAgent, sending=UpstreamError(Failure.NOT_SENT, "connection refused"))] * 3, 502),
        ([Script(FindAgent, [b"<html>"], headers=[("content-type", "text/html")])], 502),
        ([Script(FindAgent, [BROKEN]) for _ in range(3)], 502),
        ([found(), Script(OpenStream, [BROKEN], headers=[("content-type", "text/html")]), unlisted()], 424),
        ([found(), *(Script(OpenStream, [b'{"detail": "busy"}'], status=409) for _ in range(34))], 409),
        ([found(), Script(OpenStream, heading=BROKEN), unlisted()], 424),
        ([found(), Script(OpenStream, heading=BROKEN), *(no_runs() for _ in range(34))], 502),
        ([found(), runs(PING, BROKEN), *book()], 502),
        ([found(), runs(PING, BROKEN), Script(FetchRun, status=403), cancelled()], 424),
        ([found(), runs(PING, b"data: nonsense\n\n"), cancelled()], 424),
        ([found(), runs(PING, b'data: {"half'), *book()], 502),
    ],
    ids=[
        "away",
        "html",
        "reset",
        "html stream",
        "busy",
        "no head",
        "no run",
        "cut",
        "cut and forgotten",
        "nonsense",
        "half an event",
    ],
)
async def test_failures_before_the_commit(
    nursery: trio.Nursery, autojump_clock: MockClock, script: list[Script], status: int
) -> None:
    server, letta = make_server(*script, turns=TurnSettings(early_response_timeout=0.0))
    client = connect(nursery, server)
    await client.send(ask())
    response = await client.receive()
    assert (response.status, response.headers["content-type"]) == (status, "application/json")
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert letta.script == []
    assert (await client.get()).status == 200


async def test_failure_after_the_commit_is_the_last_event(nursery: trio.Nursery) -> None:
    server, _ = make_server(found(), runs(PING, say("Hel"), BROKEN), Script(FetchRun, status=403), cancelled())
    client = connect(nursery, server)
    await client.send(ask())
    response = await client.receive()
    last = response.body.rstrip().rpartition(b"\n\n")[2]
    assert orjson.loads(last.removeprefix(b"data: "))["error"]["type"] == "upstream_error"
    assert (await client.get()).status == 200


async def test_failure_told_by_letta(nursery: trio.Nursery) -> None:
    server, _ = make_server(found(), runs(PING, stop("llm_api_error"), error("llm_rate_limit"), DONE))
    client = connect(nursery, server)
    await client.send(ask(stream=False))
    assert (await client.receive()).status == 429


# --- Bad requests


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 200_000 + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (b"POST /v1/models HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST /v1/models HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n", 501),
    ],
    ids=["nonsense", "tls", "no host", "line", "header", "two lengths", "chunk size", "coding"],
)
async def test_bytes_that_are_no_request(nursery: trio.Nursery, data: bytes, status: int) -> None:
    server, _ = make_server()
    client = connect(nursery, server)
    await client.send(data)
    response = await client.receive()
    assert response.status == (400 if status == 501 else status)
    error = response.json()["error"]
    assert error["code"] == "invalid_http"
    # What was sent is nobody's to read in a log; neither is Python's way to write it.
    assert re.fullmatch(r"The request is not valid HTTP: [A-Za-z :-]+\.", error["message"])
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        (b"content-length: 99999999999\r\n", b"", 413),
        (b"transfer-encoding: chunked\r\n", b"8\r\n12345678\r\n8\r\n12345678\r\n0\r\n\r\n", 413),
        (b"content-length: 3\r\ncontent-encoding: gzip\r\n", b"abc", 415),
        (b"content-length: 3\r\ncontent-type: multipart/form-data\r\n", b"abc", 400),
    ],
    ids=["declared", "chunked", "coded", "multipart"],
)
async def test_bodies_that_are_refused(nursery: trio.Nursery, head: bytes, body: bytes, status: int) -> None:
    server, _ = make_server(max_request_size=10)
    client = connect(nursery, server)
    await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n" + body)
    assert (await client.receive()).status == status


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [("GET", "/nope", 404), ("DELETE", "/v1/models", 405), ("POST", "/v1/v1/models", 404)],
)
async def test_connection_survives_a_wrong_request(
    nursery: trio.Nursery, method: str, target: str, status: int
) -> None:
    server, _ = make_server()
    client = connect(nursery, server)
    assert (await client.get(target, method)).status == status
    assert (await client.get()).status == 200


async def test_request_cut_anywhere_leaves_nothing_behind() -> None:
    data = ask()
    for at in range(len(data)):
        server, letta = make_server()
        client, handled = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.handle, handled)
            await client.send_all(data[:at])
            await client.aclose()
        assert letta.commands == []


async def test_request_byte_by_byte(nursery: trio.Nursery) -> None:
    server, _ = make_server(found(), hello())
    client = connect(nursery, server)
    for byte in ask():
        await client.send(bytes([byte]))
    assert (await client.receive()).body.endswith(b"[DONE]\n\n")


async def test_continue_is_said_before_the_body(nursery: trio.Nursery) -> None:
    server, _ = make_server(found(), hello())
    client = connect(nursery, server)
    head, _, body = ask().partition(b"\r\n\r\n")
    await client.send(head + b"\r\nexpect: 100-continue\r\n\r\n")
    assert (await client.stream.receive_some(100)).startswith(b"HTTP/1.1 100 Continue\r\n")
    await client.send(body)
    assert (await client.receive()).status == 200


async def test_http_1_0_client_gets_its_stream(nursery: trio.Nursery) -> None:
    server, _ = make_server(found(), hello())
    client = connect(nursery, server)
    await client.send(ask().replace(b"HTTP/1.1", b"HTTP/1.0"))
    response = await client.receive()
    assert response.body.endswith(b"[DONE]\n\n")
    assert response.headers["connection"] == "close"


async def test_head_request(nursery: trio.Nursery) -> None:
    server, _ = make_server(Script(ListAgents, [b"[]"]))
    client = connect(nursery, server)
    response = await client.get("/v1/models", "HEAD")
    assert (response.status, response.body) == (200, b"")
    assert (await client.get()).status == 200


async def test_ready(nursery: trio.Nursery) -> None:
    server, _ = make_server(
        Script(CheckHealth, [b'{"status": "ok", "version": "0.16.7"}']), Script(CheckHealth, [BROKEN])
    )
    client = connect(nursery, server)
    assert (await client.get("/ready")).json() == {"status": "ready", "letta": "0.16.7"}
    assert (await client.get("/ready")).status == 503


async def test_defect_of_ours_is_told_without_detail_and_invites_no_repeat(
    nursery: trio.Nursery, capsys: pytest.CaptureFixture[str]
) -> None:
    server, _ = make_server()
    client = connect(nursery, server)
    await client.send(ask())  # the script is empty: an AssertionError inside the server
    response = await client.receive()
    assert (response.status, response.headers["x-should-retry"]) == (500, "false")
    assert response.json()["error"]["message"] == "Internal error."
    assert (await client.get()).status == 200
    assert "a surprise" in capsys.readouterr().out


async def test_defect_of_ours_in_mid_stream_is_an_event_and_cancels_the_run(nursery: trio.Nursery) -> None:
    server, letta = make_server(found(), runs(PING, say("Hel"), ZeroDivisionError()), cancelled())
    client = connect(nursery, server)
    await client.send(ask())
    last = (await client.receive()).body.rstrip().rpartition(b"\n\n")[2]
    assert orjson.loads(last.removeprefix(b"data: "))["error"]["type"] == "upstream_error"
    assert type(letta.commands[-1]) is CancelRun


async def test_defect_is_logged_with_its_place_and_no_key(
    nursery: trio.Nursery, capsys: pytest.CaptureFixture[str]
) -> None:
    server, _ = make_server(found(), runs(PING, say("Hel"), ZeroDivisionError()), cancelled())
    client = connect(nursery, server)
    await client.send(ask().replace(b"host: x", b"host: x\r\nauthorization: Bearer sk-secret"))
    await client.receive()
    told = capsys.readouterr().out  # structlog's own choice, which nobody has changed here
    assert "request failed" in told
    assert "ZeroDivisionError" in told
    assert "server.py" in told
    assert "sk-secret" not in told


async def test_log_line_has_neither_text_nor_key(nursery: trio.Nursery) -> None:
    server, _ = make_server(found(), hello())
    lines: list[Any] = []
    server.log = lambda *line: lines.append(line)
    client = connect(nursery, server)
    await client.send(ask().replace(b"host: x", b"host: x\r\nauthorization: Bearer sk-secret"))
    await client.receive()
    await wait_all_tasks_blocked()
    ((summary, seconds, first),) = lines
    assert (summary.status, summary.outcome) == (200, "stop")
    assert 0 <= first <= seconds
    assert "sk-secret" not in repr(lines)


async def test_ending_the_server_leaves_the_pool_time_to_cancel() -> None:
    requests: list[bytes] = []
    told = trio.Event()

    async def letta(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            while request := await stream.receive_some(65536):
                requests.append(bytes(request))
                if b"GET " in request:
                    await stream.send_all(_http(orjson.dumps([agent_json()])))
                elif b"/cancel" in request:
                    await stream.send_all(_http(b"{}"))
                else:
                    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
                    await stream.send_all(head + encode(PING) + encode(say("Hel")))
                    told.set()

    async with trio.open_nursery() as outside:
        listeners = await outside.start(trio.serve_tcp, letta, 0)
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with trio.open_nursery() as nursery:
            _, served = await nursery.start(
                serve, Settings(port=0, letta_url=url, access=Access(allowed_host=("x",)))
            )
            client = await trio.open_tcp_stream("127.0.0.1", served[0].socket.getsockname()[1])
            await client.send_all(ask())
            await told.wait()
            await client.receive_some(1)
            nursery.cancel_scope.cancel()
        await client.aclose()
        outside.cancel_scope.cancel()
    assert b"/messages/cancel" in requests[-1]


def _http(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )
