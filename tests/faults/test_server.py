"""The real server behind the same faults: over memory streams with commands, and over sockets with its pool.

The invariants are those of `test_core`. The clock is virtual: a Letta that says nothing takes no time. In
front of sockets it waits a moment of real time before it jumps, since the kernel passes bytes on in its own.
"""

import random
from typing import Final

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from server.scripted import RawClient

from .core import RETRY_COUNT
from .keeping import Break, Fault, KeepingAgent, KeepingLetta
from .scenes import STREAMED, Scene
from .test_core import (
    CANCELS,
    INSTEAD,
    SEEDS,
    check_memory,
    check_runs,
    random_fault,
    reference,
)
from .told import check_against
from .wire import PATIENCE, Severance, SocketLetta, ask, make_server, socket_server

CASES_A_SEED: Final = 25
SOCKET_CASES_A_SEED: Final = 12


async def ask_stubbornly(
    client: RawClient, scene: Scene, agent: KeepingAgent, stream: bool, where: str
) -> None:
    """Ask as often as the client is told that it may; check what it is told."""
    whole = reference(scene, stream=stream)
    for attempt in range(RETRY_COUNT + 1):
        told = await ask(client, scene.request(agent.name, stream=stream), attempt=attempt)
        check_against(told, whole, where, cancelled=scene.cancelled)
        if not told.retried:
            return


@pytest.mark.parametrize("seed", SEEDS)
async def test_commands_at_random(seed: int, autojump_clock: MockClock) -> None:
    chance = random.Random(f"commands {seed}")
    for number in range(CASES_A_SEED):
        scene = chance.choice(STREAMED)
        letta = KeepingLetta()
        agent = letta.add(scene.script, pending=scene.pending)
        agent.faults = {at: random_fault(scene, chance) for at in range(chance.choice((1, 1, 2)))}
        agent.cancel_fault = chance.choice((None, None, *CANCELS.values()))
        server, line = make_server(letta)
        line.size = chance.choice((0, 1 << 30, chance.randint(16, 4000)))
        where = f"seed {seed}, case {number}, {scene}: {agent.faults}, cancel: {agent.cancel_fault}"
        ours, theirs = memory_stream_pair()
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.handle, theirs)
                await ask_stubbornly(RawClient(ours), scene, agent, chance.random() < 0.7, where)
                await ours.aclose()
        check_memory(agent, where)
        check_runs(agent, where)
        assert letta.open_count == 0, where


@pytest.mark.parametrize("severance", Severance, ids=lambda severance: severance.value)
@pytest.mark.parametrize("seed", [*SEEDS][:4])
async def test_sockets_at_random(seed: int, severance: Severance, patient_clock: MockClock) -> None:
    chance = random.Random(f"sockets {severance} {seed}")
    letta = SocketLetta(KeepingLetta(), severance)
    async with socket_server(letta) as listener:
        for number in range(SOCKET_CASES_A_SEED):
            scene = chance.choice(STREAMED)
            agent = letta.letta.add(scene.script, pending=scene.pending)
            fault = random_fault(scene, chance)
            while fault.how is Break.UNREACHABLE:  # this Letta listens
                fault = random_fault(scene, chance)
            agent.faults = {0: fault}
            where = f"seed {seed}, case {number}, {scene}: {fault}"
            client = RawClient(await trio.testing.open_stream_to_socket_listener(listener))
            await ask_stubbornly(client, scene, agent, chance.random() < 0.7, where)
            await client.stream.aclose()
            check_memory(agent, where)
            check_runs(agent, where)


@pytest.mark.parametrize("scene", [STREAMED[0], STREAMED[2], STREAMED[3]], ids=str)
async def test_sockets_that_stall(scene: Scene, patient_clock: MockClock) -> None:
    letta = SocketLetta(KeepingLetta())
    async with socket_server(letta) as listener:
        for at in (None, *scene.boundaries[::3]):
            agent = letta.letta.add(scene.script, pending=scene.pending)
            agent.faults = {0: Fault(how=Break.STALLS, at=at)}
            agent.cancel_fault = Fault(how=Break.STALLS) if at and at % 2 else None
            client = RawClient(await trio.testing.open_stream_to_socket_listener(listener))
            with trio.fail_after(PATIENCE):
                await ask_stubbornly(client, scene, agent, stream=True, where=f"{scene}: stalls at {at}")
            await client.stream.aclose()
            check_memory(agent, str(at))
            check_runs(agent, str(at))


@pytest.mark.parametrize("fault", INSTEAD.values(), ids=INSTEAD.keys())
async def test_instead_of_an_answer(fault: Fault, patient_clock: MockClock) -> None:
    scene = STREAMED[2]
    letta = SocketLetta(KeepingLetta())
    async with socket_server(letta) as listener:
        agent = letta.letta.add(scene.script, pending=scene.pending)
        agent.faults = {0: fault}
        client = RawClient(await trio.testing.open_stream_to_socket_listener(listener))
        with trio.fail_after(PATIENCE):
            await ask_stubbornly(client, scene, agent, stream=True, where=str(fault))
        await client.stream.aclose()
        check_memory(agent, str(fault))


async def test_letta_that_is_not_there(autojump_clock: MockClock) -> None:
    """Nothing listens: a status at once, that a client may repeat."""
    scene = STREAMED[2]
    letta = KeepingLetta()
    agent = letta.add(scene.script)
    agent.faults = dict.fromkeys(range(3), INSTEAD["unreachable"])
    server, _ = make_server(letta)
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.handle, theirs)
        told = await ask(RawClient(ours), scene.request(agent.name))
        assert (told.status, told.retried) == (502, True)
        await ours.aclose()
    assert agent.kept == []
