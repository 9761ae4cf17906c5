"""The core behind every fault that an answer of Letta's can have, at every place of every recording.

What must hold, whatever breaks:

- The client is told the whole answer, or an error after a part of it: one end, and never none.
- No text is told twice.
- A client that sends its request again, whenever it is told that it may, is not heard twice: nothing stands in
  the agent's memory more than once.
- A run does not go on without a reader, whether its reader was told its id or not.
"""

import os
import random
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Final

import pytest

from support import THOROUGH

from .core import CoreClient
from .keeping import HTML, Break, Fault, KeepingAgent, KeepingLetta, RunState, parse
from .scenes import SCENES, STREAMED, Scene, spoken
from .told import Told, check_against

IN_STREAM: Final = (Break.ENDS, Break.RESETS, Break.STALLS, Break.BABBLES)
JSON_500: Final = (500, "application/json", b'{"detail": "An unknown error occurred"}')

#: What can come instead of an answer. `began`: Letta had heard the message all the same.
INSTEAD: Final = {
    "unreachable": Fault(how=Break.UNREACHABLE),
    "no answer": Fault(how=Break.RESETS),
    "no answer, and the run ends": Fault(how=Break.RESETS, ahead=True),
    "silence": Fault(how=Break.STALLS, ahead=True),
    "Letta fails": Fault(answer=JSON_500, began=False),
    "Letta is starting": Fault(answer=(503, "application/json", b'{"detail": "busy"}'), began=False),
    "gateway without Letta": Fault(answer=(502, "text/html", HTML), began=False),
    "gateway lost Letta": Fault(answer=(502, "text/html", HTML), ahead=True),
    "gateway gave up": Fault(answer=(504, "text/html", HTML), ahead=True),
    "a page": Fault(answer=(200, "text/html", HTML), began=False),
    "half a status": Fault(answer=(500, "application/json", b'{"det'), began=False),
}
CANCELS: Final = {
    "cancel fails": Fault(answer=JSON_500, began=False),
    "cancel at a gateway": Fault(answer=(502, "text/html", HTML), began=False),
    "cancel unreachable": Fault(how=Break.UNREACHABLE),
    "cancel broken": Fault(how=Break.RESETS, began=False),
    "cancel broken behind Letta": Fault(how=Break.RESETS),
    "cancel stalls": Fault(how=Break.STALLS, began=False),
}
#: In recordings of more items than this some boundaries stand for all; `THOROUGH=1` looks at each nevertheless.
LONG_COUNT: Final = 10_000 if THOROUGH else 60
SAMPLE_COUNT: Final = 8
#: Random faults: `FAULT_SEEDS=1000` for more of them, from `FAULT_SEED` on.
FIRST_SEED: Final = int(os.environ.get("FAULT_SEED", "0"))
SEEDS: Final = range(FIRST_SEED, FIRST_SEED + int(os.environ.get("FAULT_SEEDS", "12")))
CASES_A_SEED: Final = 50

scenes = pytest.mark.parametrize("scene", SCENES, ids=str)
streamed = pytest.mark.parametrize("scene", STREAMED, ids=str)


@cache
def reference(scene: Scene, *, stream: bool = True) -> Told:
    """What the client is told if nothing breaks."""
    letta = KeepingLetta()
    agent = letta.add(scene.script, pending=scene.pending)
    return CoreClient(letta).ask(scene.request(agent.name, stream=stream))


def try_fault(
    scene: Scene,
    faults: Sequence[Fault],
    where: str,
    *,
    stream: bool = True,
    size: int = 1 << 30,
    cancel: Fault | None = None,
) -> tuple[Told, KeepingAgent]:
    """One request with these faults of the first streams, repeated while the client may; all is checked."""
    letta = KeepingLetta()
    agent = letta.add(scene.script, pending=scene.pending)
    agent.faults, agent.cancel_fault = dict(enumerate(faults)), cancel
    answers = CoreClient(letta, size).ask_stubbornly(scene.request(agent.name, stream=stream))
    whole = reference(scene, stream=stream)
    for told in answers:
        check_against(told, whole, where, cancelled=scene.cancelled)
    check_memory(agent, where)
    check_runs(agent, where)
    assert letta.open_count == 0, f"{where}: an exchange is left open"
    return answers[0], agent


def check_memory(agent: KeepingAgent, where: str) -> None:
    """Nothing is there twice."""
    texts = list(map(str, agent.kept))
    assert len(set(texts)) == len(texts), f"{where}: kept twice: {texts}"
    assert len(set(agent.results)) == len(agent.results), f"{where}: kept twice: {agent.results}"


def check_runs(agent: KeepingAgent, where: str) -> None:
    """No run goes on whose end could have been asked for."""
    for run in agent.running():
        assert agent.cancel_fault is not None, f"{where}: {run.id} goes on"
        assert run.id in agent.cancels, f"{where}: nobody tried to end {run.id}"


def boundaries(scene: Scene) -> Iterable[int]:
    """The ends of all items; of a long recording a sample, with the last ones, where a run stops."""
    every = scene.boundaries
    if len(every) <= LONG_COUNT:
        return every
    return sorted({*every[:: len(every) // SAMPLE_COUNT], *every[-6:]})


@scenes
def test_without_a_fault(scene: Scene) -> None:
    """The yardstick of the other tests has a yardstick of its own: the items, read by hand."""
    told, agent = try_fault(scene, [], "no fault")
    assert told.text.startswith(spoken(scene)) or not told.whole
    assert told.text.removeprefix(spoken(scene)).strip()[:30] in ("", "[The agent asks for approval t")
    stops = [parse(item).get("stop_reason") for item in scene.script.items]
    if told.whole and "cancelled" not in stops:
        assert [*agent.kept, *agent.results]
    collected = reference(scene, stream=False)
    assert (collected.whole, collected.calls if collected.whole else []) == (
        told.whole,
        told.calls if told.whole else [],
    )


@streamed
def test_at_every_boundary(scene: Scene) -> None:
    for how in IN_STREAM:
        for at in boundaries(scene):
            for ahead in (False, True):
                try_fault(scene, [Fault(how=how, at=at, ahead=ahead)], f"{scene}: {how.value} at {at}")


@streamed
def test_at_every_boundary_collected(scene: Scene) -> None:
    """The same for `stream: false`, and item by item."""
    for how in IN_STREAM:
        for at in boundaries(scene):
            fault = Fault(how=how, at=at, ahead=True)
            try_fault(scene, [fault], f"{scene}: {how.value} at {at}", stream=False, size=0)


@pytest.mark.parametrize("fault", INSTEAD.values(), ids=INSTEAD.keys())
def test_instead_of_an_answer(fault: Fault) -> None:
    for scene in SCENES:
        for stream in (True, False):
            for times in (1, 3):
                try_fault(scene, [fault] * times, f"{scene}, {times} times", stream=stream)


@pytest.mark.parametrize("cancel", CANCELS.values(), ids=CANCELS.keys())
def test_cancel_that_fails(cancel: Fault) -> None:
    """The client is told the same, and as soon as the cancel is known to have failed."""
    for scene in STREAMED:
        for at in [*boundaries(scene)][::3]:
            fault = Fault(how=Break.RESETS, at=at)
            told, _ = try_fault(scene, [fault], f"{scene}: reset at {at}", cancel=cancel)
            alone = told_of_reset(scene, at)
            assert (told.status, told.text, told.error) == (alone.status, alone.text, alone.error)


@cache
def told_of_reset(scene: Scene, at: int) -> Told:
    """What the client is told of a reset there, if the run can be cancelled."""
    return try_fault(scene, [Fault(how=Break.RESETS, at=at)], f"{scene}: reset at {at}")[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_at_random(seed: int) -> None:
    """Any byte, any fault, any cut of the bytes before it, several faults one after the other."""
    chance = random.Random(seed)
    for number in range(CASES_A_SEED):
        scene = chance.choice(STREAMED)
        faults = [random_fault(scene, chance) for _ in range(chance.choice((1, 1, 2, 3)))]
        try_fault(
            scene,
            faults,
            f"seed {seed}, case {number}, {scene}: {faults}",
            stream=chance.random() < 0.7,
            size=chance.choice((0, 1 << 30, chance.randint(16, 4000))),
            cancel=chance.choice((None, None, *CANCELS.values())),
        )


def random_fault(scene: Scene, chance: random.Random) -> Fault:
    if chance.random() < 0.15:
        return chance.choice(list(INSTEAD.values()))
    at = chance.randint(0, len(scene.script.body))
    return Fault(how=chance.choice(IN_STREAM), at=at, ahead=chance.random() < 0.5)


@streamed
def test_client_leaves_at_every_step(scene: Scene) -> None:
    """Whenever the client leaves: the run, if its id was known or comes to be, is ended; nothing hangs."""
    steps = 0
    whole = False
    while not whole:
        letta = KeepingLetta()
        agent = letta.add(scene.script, pending=scene.pending)
        told = CoreClient(letta, size=0).begin(scene.request(agent.name), leaves_at=steps)
        whole = told is not None
        check_memory(agent, f"{scene}: left at step {steps}")
        check_runs(agent, f"{scene}: left at step {steps}")
        assert letta.open_count == 0
        steps += 1 if steps < LONG_COUNT else 97
    assert all(run.state is RunState.ENDED for run in agent.runs)
