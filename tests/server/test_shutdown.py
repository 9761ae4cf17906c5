"""Shutdown: which clients still get their answer, which are interrupted, and what they get."""

import signal
from collections.abc import Iterator
from typing import IO, Any

import httpx2
import orjson
import pytest
import trio
from attrs import define, field
from openai import APIError, OpenAI, Stream
from openai.types.chat import ChatCompletionChunk
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from drive import DONE, PING, RUN_ID, USAGE, encode, say, stop
from letta_server import Server, UpstreamError
from letta_server.shutdown import Stage
from sansio_letta.errors import Failure
from sansio_letta.upstreams.rest.commands import CancelRun, FetchKept, FetchRun

from .commands import command
from .gated_letta import GatedLetta, gated_letta
from .scripted import RawClient, Script, ScriptedLetta, ask, found, hello, make_server, runs


@define(eq=False)
class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    """Clients come through memory."""

    closed: bool = field(default=False, init=False)
    _sender: trio.MemorySendChannel[trio.abc.Stream] = field(init=False)
    _receiver: trio.MemoryReceiveChannel[trio.abc.Stream] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._sender, self._receiver = trio.open_memory_channel[trio.abc.Stream](10)

    def connect(self) -> RawClient:
        client, served = memory_stream_pair()
        self._sender.send_nowait(served)
        return RawClient(client)

    async def accept(self) -> trio.abc.Stream:
        return await self._receiver.receive()

    async def aclose(self) -> None:
        self.closed = True
        self._sender.close()
        self._receiver.close()
        await trio.lowlevel.checkpoint()


@define(eq=False)
class Running:
    """A server that runs, its listener, and its end."""

    server: Server
    letta: ScriptedLetta
    listener: MemoryListener
    over: trio.Event = field(factory=trio.Event)

    async def run(self) -> None:
        await self.server.run([self.listener])
        self.over.set()


def begin(nursery: trio.Nursery, *script: Script, **settings: Any) -> Running:
    running = Running(*make_server(*script, **settings), MemoryListener())
    nursery.start_soon(running.run)
    return running


def cancel_confirmed(**more: Any) -> Script:
    return Script(CancelRun, [orjson.dumps({RUN_ID: "cancelled"})], **more)


def endless(*before: Any) -> Script:
    return runs(PING, *before, trio.Event())


async def test_turns_may_finish(nursery: trio.Nursery) -> None:
    gate = trio.Event()
    rest = b"".join(encode(message) for message in (say("lo"), stop(), USAGE, DONE))
    running = begin(nursery, found(), runs(PING, say("Hel"), gate, rest))
    client = running.listener.connect()
    await client.send(ask())
    response = await client.receive_head()
    assert "connection" not in response.headers  # it began before
    running.server.end()
    await wait_all_tasks_blocked()
    assert running.listener.closed
    assert not running.over.is_set()
    gate.set()
    while await client.receive_more(response):
        pass
    assert response.body.endswith(b"data: [DONE]\n\n")
    assert await client.ended()
    await running.over.wait()


async def test_idle_connections_are_closed_at_once(nursery: trio.Nursery) -> None:
    running = begin(nursery)
    fresh, used = running.listener.connect(), running.listener.connect()
    assert (await used.get()).status == 200
    await wait_all_tasks_blocked()
    running.server.end()
    assert await fresh.ended()
    assert await used.ended()
    await running.over.wait()


async def test_ready_says_so_before_the_listeners_close(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    running = begin(nursery, shutdown_delay=7.0)
    probe = running.listener.connect()
    began = trio.current_time()
    running.server.end()
    assert (await probe.get("/ready")).status == 503
    assert not running.listener.closed
    late = await running.listener.connect().get("/health")
    assert (late.status, late.headers["connection"]) == (200, "close")
    await running.over.wait()
    assert trio.current_time() - began == pytest.approx(7.0, abs=0.1)


async def test_request_that_is_being_read_is_answered_as_the_last(nursery: trio.Nursery) -> None:
    running = begin(nursery, found(), hello())
    client = running.listener.connect()
    data = ask()
    await client.send(data[:30])
    await wait_all_tasks_blocked()
    running.server.end()
    await wait_all_tasks_blocked()
    await client.send(data[30:] + ask())
    response = await client.receive()
    assert response.headers["connection"] == "close"
    assert response.body.endswith(b"data: [DONE]\n\n")
    assert await client.ended()
    await running.over.wait()


async def test_what_takes_too_long_is_interrupted_and_told(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    running = begin(nursery, found(), endless(say("Hel")), cancel_confirmed(), shutdown_timeout=12.0)
    client = running.listener.connect()
    await client.send(ask())
    response = await client.receive_head()
    began = trio.current_time()
    running.server.end()
    while await client.receive_more(response):
        pass
    last = orjson.loads(response.body.rstrip().rpartition(b"data: ")[2])["error"]
    assert (last["type"], last["code"]) == ("upstream_error", "shutting_down")
    await running.over.wait()
    assert trio.current_time() - began == pytest.approx(12.0, abs=0.1)
    assert [type(command) for command in running.letta.commands][-1] is CancelRun


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_interrupted_before_the_first_word_is_a_503(
    nursery: trio.Nursery, autojump_clock: MockClock, stream: bool
) -> None:
    nothing = Script(FetchKept, [b"[]"])
    running = begin(nursery, found(), endless(), cancel_confirmed(), nothing, shutdown_timeout=10.0)
    client = running.listener.connect()
    await client.send(ask(stream=stream))
    await wait_all_tasks_blocked()
    running.server.end()
    response = await client.receive()
    assert (response.status, response.headers["retry-after"]) == (503, "1")
    assert response.headers["connection"] == "close"
    await running.over.wait()


async def test_the_second_call_ends_at_once(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    running = begin(nursery, found(), endless(say("Hel")), cancel_confirmed(), shutdown_delay=60.0)
    client = running.listener.connect()
    await client.send(ask())
    await client.receive_head()
    began = trio.current_time()
    running.server.end()
    await wait_all_tasks_blocked()
    running.server.end()
    await running.over.wait()
    assert trio.current_time() == began
    assert running.server.shutdown.stage is Stage.INTERRUPTING
    assert type(running.letta.commands[-1]) is CancelRun


async def test_request_that_comes_whole_only_after_the_interruption(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    running = begin(nursery, Script(CancelRun))
    client = running.listener.connect()
    data = ask()
    await client.send(data[:30])
    await wait_all_tasks_blocked()
    running.server.end()
    await wait_all_tasks_blocked()
    running.server.end()
    await wait_all_tasks_blocked()
    await client.send(data[30:])
    assert (await client.receive()).status == 503
    assert running.letta.commands == []


async def test_who_joined_a_turn_is_told_as_well_though_its_first_client_has_left(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    running = begin(nursery, found(), endless(say("Hel")), cancel_confirmed())
    first, second = running.listener.connect(), running.listener.connect()
    await first.send(ask())
    await wait_all_tasks_blocked()
    await second.send(ask())
    response = await second.receive_head()
    await first.stream.aclose()
    await trio.sleep(20.0)  # longer than a client waits for a comment
    assert running.server.shutdown.response_count == 2
    running.server.end()
    while await second.receive_more(response):
        pass
    assert b'"code":"shutting_down"' in response.body
    await running.over.wait()
    assert type(running.letta.commands[-1]) is CancelRun


async def test_a_turn_that_waits_for_another_may_be_repeated_elsewhere(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    running = begin(nursery, found(), endless(say("Hel")), cancel_confirmed(), shutdown_timeout=3.0)
    first, second = running.listener.connect(), running.listener.connect()
    await first.send(ask())
    await wait_all_tasks_blocked()
    await second.send(ask(messages=[{"role": "user", "content": "another"}]))
    await wait_all_tasks_blocked()
    running.server.end()
    response = await second.receive()
    assert (response.status, response.headers["retry-after"]) == (503, "1")
    await running.over.wait()


async def test_a_run_whose_stream_was_lost_is_cancelled(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    broken = UpstreamError(Failure.BROKEN, "connection reset")
    looks = [Script(FetchRun, status=503) for _ in range(3)]
    running = begin(nursery, found(), runs(PING, broken), *looks, cancel_confirmed(), shutdown_timeout=1.0)
    client = running.listener.connect()
    await client.send(ask())
    await wait_all_tasks_blocked()
    running.server.end()
    response = await client.receive()
    assert (response.status, response.json()["error"]["code"]) == (424, "shutting_down")
    await running.over.wait()


async def test_cancel_that_hangs_is_bounded(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    stuck = Script(CancelRun, heading=trio.Event())
    running = begin(nursery, found(), endless(say("Hel")), stuck, shutdown_timeout=1.0, cancel_timeout=5.0)
    client = running.listener.connect()
    await client.send(ask())
    await client.receive_head()
    began = trio.current_time()
    running.server.end()
    await running.over.wait()
    assert trio.current_time() - began == pytest.approx(1.0 + 2 * 5.0, abs=0.5)


# --- The command


@pytest.fixture
def letta() -> Iterator[GatedLetta]:
    with gated_letta() as letta:
        yield letta


def streaming(url: str) -> tuple[OpenAI, Stream[ChatCompletionChunk]]:
    """A client that has had its first word."""
    client = OpenAI(base_url=url, api_key="none", max_retries=0)
    stream = client.chat.completions.create(
        model="Milo", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    while not next(stream).choices[0].delta.content:
        pass
    return client, stream


def read_until(output: IO[str], words: str) -> str:
    while words not in (line := output.readline()):
        assert line, f"the process ended without {words!r}"
    return line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_a_turn_finish(letta: GatedLetta, number: int) -> None:
    with command("serve", "--letta-url", letta.url) as process:
        client, stream = streaming(process.url)
        with client, stream:
            process.send_signal(number)
            line = read_until(process.stdout, "letta-proxy ends")
            assert line == (
                "letta-proxy ends once 1 turn has finished, in 30 s at most. "
                "Ctrl-C or SIGTERM again: at once.\n"
            )
            with pytest.raises(httpx2.ConnectError):
                httpx2.get(f"{process.url}/models")
            letta.gate.set()
            assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "stop"
        process.ends_well()
    assert letta.cancelled == []


def test_second_signal_interrupts(letta: GatedLetta) -> None:
    with command("serve", "--letta-url", letta.url) as process:
        client, stream = streaming(process.url)
        with client, stream:
            process.send_signal(signal.SIGTERM)
            read_until(process.stdout, "letta-proxy ends")
            process.send_signal(signal.SIGTERM)
            with pytest.raises(APIError) as caught:
                list(stream)
        assert (caught.value.type, caught.value.code) == ("upstream_error", "shutting_down")
        process.ends_well()
    assert letta.cancelled == [RUN_ID]


def test_time_runs_out(letta: GatedLetta) -> None:
    with command("serve", "--letta-url", letta.url, "--shutdown-timeout", "0") as process:
        client, stream = streaming(process.url)
        with client, stream:
            process.send_signal(signal.SIGTERM)
            with pytest.raises(APIError, match="shutting down"):
                list(stream)
        process.ends_well()
    assert letta.cancelled == [RUN_ID]


def test_signal_with_nothing_to_wait_for(letta: GatedLetta) -> None:
    with command("serve", "--letta-url", letta.url) as process:
        process.send_signal(signal.SIGTERM)
        read_until(process.stdout, "letta-proxy ends.")
        process.ends_well()
