"""Clients that leave, stall, close half, send ahead or dribble, at every step of a turn.

A step is one happening between proxy and Letta: a question asked, a head, an item. Letta holds still before it
until the client has done what it does. What must hold, whatever a client does:

- Every run that was begun has ended by itself, or somebody cancelled it by its id.
- No task is left: the connection's own ends. No exchange with Letta is left open.
- A client that stays gets its whole answer.
"""

import random
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from server.scripted import RawClient

from .keeping import Fault, KeepingAgent, KeepingLetta
from .scenes import STREAMED, Scene
from .test_core import CANCELS, SEEDS, check_memory, check_runs, reference
from .told import check_against, read
from .wire import PATIENCE, SocketLetta, make_server, request_bytes, socket_server

#: A reply, results, tools of Letta's in two steps, parallel calls, a failure.
SCENES: Final = {
    scene.name: scene
    for scene in STREAMED
    if scene.name in ("text-1", "client_tool-2", "max_steps-1", "parallel_tools-1", "error_llm_429-1")
}
scenes = pytest.mark.parametrize("scene", SCENES.values(), ids=str)

#: One end of trio's streams for tests, sync parts included.
ClientStream: TypeAlias = Any
#: What a client does while Letta holds still.
Deed: TypeAlias = Callable[[ClientStream], Awaitable[None]]


async def leave(stream: ClientStream) -> None:
    await stream.aclose()


async def close_half(stream: ClientStream) -> None:
    await stream.send_eof()


async def leave_in_a_request(stream: ClientStream) -> None:
    await stream.send_all(b"POST /v1/chat/comp")
    await stream.aclose()


async def leave_behind_requests(stream: ClientStream) -> None:
    await stream.send_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n" * 3)
    await stream.aclose()


async def send_rubbish(stream: ClientStream) -> None:
    await stream.send_all(b"\x16\x03\x01\r\n\r\n" * 100)
    await stream.send_eof()


DEEDS: Final[dict[str, Deed]] = {
    "leaves": leave,
    "closes half": close_half,
    "leaves in a request": leave_in_a_request,
    "leaves behind requests": leave_behind_requests,
    "sends rubbish": send_rubbish,
}


def arrange(scene: Scene) -> tuple[KeepingLetta, KeepingAgent]:
    """A Letta with one agent that plays the scene."""
    letta = KeepingLetta()
    return letta, letta.add(scene.script, pending=scene.pending)


def check_nothing_left(letta: KeepingLetta, where: str) -> None:
    """No run, no open exchange, nothing heard twice."""
    for agent in letta.agents.values():
        check_runs(agent, where)
        check_memory(agent, where)
    assert letta.open_count == 0, f"{where}: an exchange is left open"


def steps(scene: Scene) -> range:
    """The happenings of the scene's whole turn: its items, and two questions with head, body and end."""
    return range(len(scene.script.items) + 10)


async def hold_and_do(scene: Scene, step: int, deed: Deed, *, stream: bool, cancel: Fault | None) -> None:
    """One connection: ask, let Letta hold still before a step, do the deed, let Letta go on."""
    letta, agent = arrange(scene)
    agent.cancel_fault = cancel
    server, line = make_server(letta)
    # So slow afterwards that no run comes to its end before the server gives up.
    line.hold_at, line.pace = step, 4.0
    ours, theirs = memory_stream_pair()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.handle, theirs)
            await ours.send_all(request_bytes(scene.request(agent.name, stream=stream)))
            await wait_all_tasks_blocked()  # Letta holds still, or the answer was whole before
            await deed(ours)
            await wait_all_tasks_blocked()
            line.let_go.set()
    check_nothing_left(letta, f"{scene}, step {step}")


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS.keys())
@scenes
async def test_at_every_step(scene: Scene, deed: Deed, stream: bool, autojump_clock: MockClock) -> None:
    for step in steps(scene):
        await hold_and_do(scene, step, deed, stream=stream, cancel=None)


@pytest.mark.parametrize("cancel", CANCELS.values(), ids=CANCELS.keys())
@scenes
async def test_cancel_that_fails(scene: Scene, cancel: Fault, autojump_clock: MockClock) -> None:
    for step in steps(scene):
        began = trio.current_time()
        await hold_and_do(scene, step, leave, stream=True, cancel=cancel)
        assert trio.current_time() - began < 30.0, "the cancel has a time limit"


@pytest.mark.parametrize("pieces", [0, 1, 5])
@scenes
async def test_that_reads_no_further(scene: Scene, pieces: int, autojump_clock: MockClock) -> None:
    """A stalled reader holds its own turn back for a minute, and then counts as gone."""
    letta, agent = arrange(scene)
    server, _ = make_server(letta)
    ours, theirs = lockstep_stream_pair()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.handle, theirs)
            await ours.send_all(request_bytes(scene.request(agent.name)))
            for _ in range(pieces):
                await ours.receive_some(100)
    check_nothing_left(letta, f"{scene}, {pieces} reads")


async def test_that_reads_no_further_holds_its_own_turn_back(autojump_clock: MockClock) -> None:
    """What a reader does not take is left with Letta: nothing piles up for it, and others get their answers."""
    long = next(scene for scene in STREAMED if scene.name == "long-1")
    letta, agent = arrange(long)
    other = letta.add(SCENES["text-1"].script)
    server, line = make_server(letta)
    ours, theirs = lockstep_stream_pair()
    reader, served = memory_stream_pair()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.handle, theirs)
            nursery.start_soon(server.handle, served)
            await ours.send_all(request_bytes(long.request(agent.name)))
            for _ in range(5):
                await ours.receive_some(100)
            await wait_all_tasks_blocked()
            assert line.count < 20, f"{line.count} happenings were taken from Letta"
            client = RawClient(reader)
            await client.send(request_bytes(SCENES["text-1"].request(other.name)))
            response = await client.receive()
            assert read(200, list(response.headers.items()), response.body).whole
            await reader.aclose()
    check_nothing_left(letta, "a slow reader")


@scenes
async def test_that_sends_ahead(scene: Scene, autojump_clock: MockClock) -> None:
    """Three requests at once, wherever Letta takes its time: each gets its whole answer, in their order."""
    whole = reference(scene)
    for step in steps(scene):
        letta, agents = KeepingLetta(), []
        for _ in range(3):
            agents.append(letta.add(scene.script, pending=scene.pending))
        server, line = make_server(letta)
        line.hold_at = step
        ours, theirs = memory_stream_pair()
        client = RawClient(ours)
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.handle, theirs)
                await client.send(b"".join(request_bytes(scene.request(agent.name)) for agent in agents))
                await wait_all_tasks_blocked()
                line.let_go.set()
                for agent in agents:
                    response = await client.receive()
                    told = read(response.status, list(response.headers.items()), response.body)
                    check_against(told, whole, f"{scene}, step {step}")
                    assert told.whole == whole.whole
                    assert f'"model":"{agent.name}"'.encode() in response.body or not told.whole
                await ours.aclose()
        check_nothing_left(letta, f"{scene}, step {step}")


@pytest.mark.parametrize(("pause", "answered"), [(0.01, True), (1.0, False)])
async def test_that_dribbles(pause: float, answered: bool, autojump_clock: MockClock) -> None:
    """A request byte by byte: read while it comes within its minute, dropped unheard if it doesn't."""
    scene = SCENES["text-1"]
    letta, agent = arrange(scene)
    server, _ = make_server(letta)
    ours, theirs = memory_stream_pair()
    client = RawClient(ours)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.handle, theirs)
            data = request_bytes(scene.request(agent.name))
            try:
                for at in range(len(data)):
                    await client.send(data[at : at + 1])
                    await trio.sleep(pause)
            except trio.BrokenResourceError:
                assert not answered
            else:
                response = await client.receive()
                assert read(200, list(response.headers.items()), response.body).whole
            await ours.aclose()
    assert agent.stream_count == answered
    check_nothing_left(letta, "dribbled")


@pytest.mark.parametrize("leaver", ["first", "second", "both", "nobody"])
@scenes
async def test_two_in_one_thread(scene: Scene, leaver: str, autojump_clock: MockClock) -> None:
    """Two clients talk to one agent; Letta holds still in the first one's turn, and one of them leaves."""
    for step in steps(scene):
        letta, agent = arrange(scene)
        server, line = make_server(letta)
        line.hold_at = step
        first, served_first = memory_stream_pair()
        second, served_second = memory_stream_pair()
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.handle, served_first)
                nursery.start_soon(server.handle, served_second)
                await first.send_all(request_bytes(scene.request(agent.name, mark=" of the first")))
                await wait_all_tasks_blocked()
                await second.send_all(request_bytes(scene.request(agent.name, mark=" of the second")))
                await wait_all_tasks_blocked()
                if leaver in ("first", "both"):
                    await first.aclose()
                if leaver in ("second", "both"):
                    await second.aclose()
                await wait_all_tasks_blocked()
                line.let_go.set()
                for name, stream in (("first", first), ("second", second)):
                    if leaver not in (name, "both"):
                        response = await RawClient(stream).receive()
                        read(response.status, list(response.headers.items()), response.body)
                        await stream.aclose()
        check_nothing_left(letta, f"{scene}, step {step}, {leaver} left")


@pytest.mark.parametrize("seed", [*SEEDS][:4])
async def test_sockets_at_random_moments(seed: int, patient_clock: MockClock) -> None:
    """The same over sockets: closed or reset at any moment of a turn in which each item takes a second."""
    chance = random.Random(f"moments {seed}")
    letta = SocketLetta(KeepingLetta(), pace=1.0)
    async with socket_server(letta) as listener:
        async with trio.open_nursery() as clients:
            for _ in range(20):
                scene = chance.choice(list(SCENES.values()))
                agent = letta.letta.add(scene.script, pending=scene.pending)
                stream = await trio.testing.open_stream_to_socket_listener(listener)
                await stream.send_all(request_bytes(scene.request(agent.name, stream=chance.random() < 0.7)))
                moment = chance.uniform(0, len(scene.script.items) + 12)
                clients.start_soon(leave_at, stream, moment, chance.random() < 0.5)
        await trio.sleep(30.0)  # longer than a cancel may take
    check_nothing_left(letta.letta, f"seed {seed}")


async def leave_at(stream: trio.SocketStream, moment: float, reset: bool) -> None:
    """Read until then, and close."""
    with trio.move_on_after(moment):
        while await stream.receive_some(200):
            pass
    if reset:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(stream)
