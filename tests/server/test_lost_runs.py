"""Runs whose id arrives late or never, seen from the connection: each is cancelled, each client informed."""

import subprocess
import sys
from typing import Any

import orjson
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from drive import AGENT_ID, PING, RUN_ID
from letta_server.process_identity import has_died, own_name
from sansio_letta import Config
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.commands import CancelRun, FetchKept, FindRuns, OpenStream
from sansio_letta.upstreams.rest.lookup import read_mark

from .scripted import Piece, Script, ask, found, hello, runs
from .test_shutdown import begin, cancel_confirmed


class Listed(Script):
    """A list of runs that shows the one that was asked for last."""

    def __init__(self, running: list[Any]) -> None:
        super().__init__(FindRuns)
        self.running = running

    async def receive_data(self) -> bytes:
        if not self.running:
            return b""
        letta = self.running.pop()
        mark = [item for item in letta.commands if isinstance(item, OpenStream)][-1].request
        shown = {"assistant_message_tool_kwarg": mark.assistant_message_tool_kwarg}
        run = {"id": RUN_ID, "agent_id": AGENT_ID, "status": "created", "request_config": shown}
        return orjson.dumps([run])


def says(command: type[Any], value: object, heading: Piece | None = None) -> Script:
    return Script(command, [orjson.dumps(value)], heading=heading)


async def test_a_name_that_comes_long_after_its_client_left_still_ends_the_run(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Longer than a cancel may take; and the next turn waits for it, and until nothing more is stored."""
    running = begin(nursery, found(), runs(40.0, PING), cancel_confirmed(), hello(), cancel_timeout=5.0)
    first = running.listener.connect()
    await first.send(ask())
    await wait_all_tasks_blocked()
    began = trio.current_time()
    await first.stream.aclose()
    second = running.listener.connect()
    await second.send(ask(messages=[{"role": "user", "content": "the next"}]))
    assert (await second.receive()).status == 200
    waited = 40.0 + Config().cancelled_run_timeout
    assert trio.current_time() - began == pytest.approx(waited, abs=0.5)
    kinds = [type(command) for command in running.letta.commands]
    assert kinds[1:] == [OpenStream, CancelRun, OpenStream]


async def test_the_connection_of_a_client_that_left_does_not_wait_for_the_name(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    running = begin(nursery, found(), runs(40.0, PING), cancel_confirmed())
    client = running.listener.connect()
    await client.send(ask())
    await wait_all_tasks_blocked()
    assert isinstance(client.stream, trio.StapledStream)
    await client.stream.send_eof()
    began = trio.current_time()
    assert await client.ended()
    assert trio.current_time() - began < 1.0
    await running.letta.saw(CancelRun)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_server_that_ends_finds_a_run_whose_head_is_late(
    nursery: trio.Nursery, autojump_clock: MockClock, stream: bool
) -> None:
    late = runs(PING, heading=trio.Event())
    shown: list[Any] = []
    running = begin(
        nursery, found(), late, Listed(shown), cancel_confirmed(), says(FetchKept, []), shutdown_timeout=3.0
    )
    shown.append(running.letta)
    client = running.listener.connect()
    await client.send(ask(stream=stream))
    await wait_all_tasks_blocked()
    running.server.end()
    response = await client.receive()
    assert (response.status, response.headers["retry-after"]) == (503, "1")
    await running.over.wait()
    assert running.letta.script == []


async def test_a_server_that_ends_tells_a_client_that_nothing_is_known(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A silent end would be repeated elsewhere, though the agent may have heard the message."""
    late = runs(PING, heading=trio.Event())
    silent = Script(FindRuns, heading=trio.Event())
    running = begin(nursery, found(), late, silent, shutdown_timeout=3.0, cancel_timeout=5.0)
    client = running.listener.connect()
    await client.send(ask(stream=False))
    await wait_all_tasks_blocked()
    began = trio.current_time()
    running.server.end()
    response = await client.receive()
    assert (response.status, response.headers["x-should-retry"]) == (424, "false")
    assert trio.current_time() - began < 3.0 + 5.0
    await running.over.wait()
    assert trio.current_time() - began == pytest.approx(3.0 + 2 * 5.0, abs=0.5)


async def test_a_server_that_ends_looks_for_a_run_whose_client_has_left(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    shown: list[Any] = []
    running = begin(nursery, found(), runs(PING, heading=trio.Event()), Listed(shown), cancel_confirmed())
    shown.append(running.letta)
    client = running.listener.connect()
    await client.send(ask())
    await wait_all_tasks_blocked()
    await client.stream.aclose()
    await wait_all_tasks_blocked()
    running.server.end()
    await running.over.wait()
    assert type(running.letta.commands[-1]) is CancelRun


async def test_a_run_says_whose_it_is(nursery: trio.Nursery) -> None:
    running = begin(nursery, found(), hello())
    client = running.listener.connect()
    await client.send(ask())
    await client.receive()
    opened = running.letta.commands[-1]
    assert isinstance(opened, OpenStream)
    shown = letta.RequestConfig(assistant_message_tool_kwarg=opened.request.assistant_message_tool_kwarg)
    mark = read_mark(letta.Run(id=RUN_ID, status="running", request_config=shown))
    assert mark is not None
    assert mark.owner == own_name()
    assert not has_died(mark.owner)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of processes")
def test_a_process_that_has_ended_is_known_to_have_died() -> None:
    script = "from letta_server.process_identity import own_name; print(own_name(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert name != own_name()
        assert not has_died(name)
        process.kill()
        process.wait()
        assert has_died(name)


@pytest.mark.parametrize("name", ["", "x", "a-b-c-d", "0123-4026-1-77", "0123-4026--77", "-" * 5, "0" * 24])
def test_of_a_process_elsewhere_nothing_is_known(name: str) -> None:
    assert not has_died(name)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of processes")
def test_a_number_that_is_another_processs_now_is_known_by_its_start() -> None:
    place, _, _ = own_name().rpartition("-")
    assert has_died(f"{place}-1")
