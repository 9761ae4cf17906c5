"""The official SDK in front, with the two repeats it makes by itself, and a Letta whose answers break.

What the SDK repeats on its own must not be heard twice: nothing stands in the agent's memory more than once.
Real sockets and a real clock, so Letta never stalls here.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import pytest
from attrs import evolve
from openai._base_client import BaseClient

from interop.serving import RunningServer, serving
from live.asking import FORMS, PAIR, Answer, Form, attempt
from support import matrix

from .keeping import Break, Fault, KeepingLetta
from .scenes import STREAMED, Scene
from .test_core import SEEDS, check_memory, check_runs, random_fault, reference
from .wire import LettaLine

CASES_A_SEED: Final = 8


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy in between, no certificates to read, and no pause before a repeat."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setattr(BaseClient, "_calculate_retry_timeout", lambda *_, **__: 0.0)


@pytest.fixture
def line() -> LettaLine:
    """A Letta without agents."""
    return LettaLine(KeepingLetta())


@pytest.fixture
def server(line: LettaLine) -> Iterator[RunningServer]:
    """A server in front of it, which looks for a run that is not there for a second."""
    with serving(cast("Any", line), first_item_timeout=1.0) as running:
        yield running


def ask(server: RunningServer, scene: Scene, model: str, form: Form) -> Answer:
    """One request by the SDK, its repeats included."""
    request = scene.request(model)
    del request["stream"], request["model"]
    return attempt(server.base_url, form, model, request.pop("messages"), max_retries=2, **request)


def check(answer: Answer, scene: Scene, faults: list[Fault], where: str) -> None:
    """The whole text, or an error of the SDK behind a beginning of it."""
    whole = reference(scene)
    if answer.error is None and not scene.cancelled:
        assert whole.whole, where
        assert answer.text == whole.text, where
        assert answer.finish_reason is not None, where
        calls = [[call.id, call.name, call.arguments] for call in answer.calls]
        assert calls == whole.calls, where
    else:
        assert whole.text.startswith(answer.text), where
    assert 1 <= answer.request_count <= 3, where


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
@pytest.mark.parametrize("seed", [*SEEDS][:3])
def test_at_random(server: RunningServer, line: LettaLine, seed: int, form: Form) -> None:
    chance = random.Random(f"sdk {form} {seed}")
    for number in range(CASES_A_SEED):
        scene = chance.choice(STREAMED)
        agent = line.letta.add(scene.script, pending=scene.pending)
        faults: list[Fault] = []
        while len(faults) < chance.choice((1, 1, 2, 3)):
            fault = random_fault(scene, chance)
            if fault.how is not Break.STALLS:
                faults.append(evolve(fault, ahead=True))  # nobody has to wait for the run
        agent.faults = dict(enumerate(faults))
        where = f"seed {seed}, case {number}, {scene}: {faults}"
        check(ask(server, scene, agent.name, form), scene, faults, where)
        server.settle()
        check_memory(agent, where)
        check_runs(agent, where)


def test_a_failure_that_left_no_trace_is_repeated(server: RunningServer, line: LettaLine) -> None:
    """What the other tests must not forbid: the SDK or the server tries again, and the answer is whole."""
    scene = next(scene for scene in STREAMED if scene.name == "text-1")
    agent = line.letta.add(scene.script)
    agent.faults = {0: Fault(how=Break.UNREACHABLE), 1: Fault(how=Break.UNREACHABLE)}
    answer = ask(server, scene, agent.name, "sync-stream")
    assert (answer.error, answer.text) == (None, reference(scene).text)
    assert agent.stream_count == 3
    assert agent.kept == list(scene.texts)
