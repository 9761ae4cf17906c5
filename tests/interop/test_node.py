"""The official openai SDK for Node against the same server: runs the tests in `node/` by Node's own runner."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from attrs import asdict, define, field
from openai import APIStatusError

from drive import PING, RUN_ID, say
from live.asking import Call
from sansio_letta.upstreams.rest.commands import CancelRun
from server.scripted import hello, runs

from .serving import NO_PAUSES, RunningServer, serving
from .standin import StandInAgent, StandInLetta
from .test_cuts import CALLS, CUTS, ENDINGS, ENDS, TEXT, cut_agent, error_type, is_whole, retries
from .test_failures import BROKEN, CASES, breaking
from .test_models import BASES, NAMES
from .test_text import thoughtful
from .test_tools import FOUR, ONE, THREE, answered, calling, given

HERE: Final = Path(__file__).resolve().parent / "node"
#: Of the tests against a real server; its folder has another version of the SDK.
HARNESS: Final = HERE.parent.parent / "live" / "node" / "harness.mjs"
OLDEST_NODE: Final = 20
INSTALL_TIMEOUT: Final = 120.0  # seconds
RUN_TIMEOUT: Final = 60.0
FORMS: Final = ("whole", "streamed")
HELPED: Final = (*FORMS, "helper")
LEAVING: Final = ("aborts", "breaks", "helper", "whole")


def run(folder: Path, timeout: float, *command: str, **settings: str) -> str:
    """Run a program of Node's in the folder; return what it printed, or fail with it."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **settings},
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
    except subprocess.TimeoutExpired as exc:
        printed = exc.output.decode(errors="replace") if isinstance(exc.output, bytes) else exc.output
        pytest.fail(f"{' '.join(command)} did not end within {timeout:.0f} s:\n{printed}", pytrace=False)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)} failed:\n{done.stdout}", pytrace=False)
    return done.stdout


@pytest.fixture(scope="package")
def node_folder() -> Path:
    """The tests of Node with the SDK beside them, kept outside the repository for the next run."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.fail(f"these tests need node {OLDEST_NODE} or later, and npm: install them", pytrace=False)
    version = run(HERE, INSTALL_TIMEOUT, node, "--version").strip()
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        pytest.fail(f"these tests need node {OLDEST_NODE} or later, this is {version}", pytrace=False)
    digest = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"letta-proxy-interop-{os.getuid()}-{digest}"
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.mjs"):
        path.unlink()
    for path in (*HERE.iterdir(), HARNESS):
        if path.is_file():
            shutil.copy(path, folder)
    if not (folder / "installed").exists():
        run(folder, INSTALL_TIMEOUT, npm, "ci", "--no-audit", "--no-fund")
        (folder / "installed").touch()
    return folder


@pytest.fixture
def hasty() -> Iterator[RunningServer]:
    """A server that waits neither for an agent that is busy nor for a Letta that is away."""
    with serving(StandInLetta(), **NO_PAUSES) as running:
        yield running


def test_node(node_folder: Path, server: RunningServer, hasty: RunningServer, letta: StandInLetta) -> None:
    told = Told(letta)
    arranged: dict[str, Any] = {
        "text": letta.add(*[thoughtful() for _ in range(10)]).name,
        "calls": told.calls(),
        "trips": told.trips(),
        "loops": told.loops(),
        "hasty": hasty.base_url,
        "failing": told.failing(hasty.letta),
        "breaking": told.breaking(),
        "whole": {"text": TEXT, "calls": CALLS},
        "cuts": told.cuts(),
        "leaving": told.leaving(),
        "names": told.names(),
        "bases": [base(server.root_url) for base in BASES.values()],
    }
    arranged["count"] = len(letta.agents)
    printed = run(
        node_folder,
        RUN_TIMEOUT,
        "node",
        "--test",
        "--test-concurrency=2",
        "--test-reporter=spec",
        LETTA_PROXY_BASE_URL=server.base_url,
        LETTA_PROXY_AGENTS=json.dumps(arranged),
    )
    print(printed)
    told.check()


@define(eq=False)
class Told:
    """The agents of Node's tests, and what each must have been told in the end."""

    letta: StandInLetta
    once: list[StandInAgent] = field(factory=list, init=False)
    tripped: list[tuple[StandInAgent, tuple[Call, ...]]] = field(factory=list, init=False)
    left: list[StandInAgent] = field(factory=list, init=False)

    def calls(self) -> list[dict[str, Any]]:
        """F3: each set of calls in each form."""
        asked: list[dict[str, Any]] = []
        for calls in (ONE, THREE, FOUR):
            for mixed in (False, True):
                for form in HELPED:
                    agent = self.letta.add(calling(calls, mixed=mixed))
                    expected = [asdict(call) for call in given(calls)]
                    asked.append({"model": agent.name, "calls": expected, "form": form})
                    self.once.append(agent)
        return asked

    def trips(self) -> list[dict[str, Any]]:
        """F4: calls, their results, and one more message."""
        asked: list[dict[str, Any]] = []
        for calls in (ONE, THREE):
            for form in FORMS:
                agent = self.letta.add(
                    calling(calls), hello(), hello(), waits=[[call.id for call in calls], []]
                )
                results = {call.id: f"result of {call.id}" for call in calls}
                asked.append({"model": agent.name, "form": form, "results": results})
                self.tripped.append((agent, calls))
        return asked

    def loops(self) -> dict[str, str]:
        """F4: the loop that the SDK runs by itself."""
        waits = [[call.id for call in THREE], []]
        return {form: self.letta.add(calling(THREE), hello(), waits=waits).name for form in FORMS}

    def failing(self, letta: StandInLetta) -> list[dict[str, Any]]:
        """F7: each failure in each form."""
        asked: list[dict[str, Any]] = []
        for name, case in CASES.items():
            model = {}
            for form in HELPED:
                agent = letta.add(*([case.script()] if case.script else []))
                model[form] = agent.name
                if case.script:
                    self.once.append(agent)
            asked.append(
                {
                    "name": name,
                    "model": model,
                    "request": dict(case.request),
                    "cls": "APIError" if case.cls is APIStatusError else case.cls.__name__,
                    "status": case.status,
                    "type": case.type,
                    "code": case.code,
                    "param": case.param,
                    "retry": case.header,
                }
            )
        return asked

    def breaking(self) -> list[dict[str, Any]]:
        """F8: each failure after the first chunk."""
        asked: list[dict[str, Any]] = []
        for name, broken in BROKEN.items():
            agents = {form: self.letta.add(breaking(broken)) for form in ("streamed", "helper")}
            model = {form: agent.name for form, agent in agents.items()}
            asked.append({"name": name, "model": model, "type": broken.type, "code": broken.code})
            self.once.extend(agents.values())
        return asked

    def cuts(self) -> list[dict[str, Any]]:
        """F9: some of the places where a stream can be cut."""
        asked: list[dict[str, Any]] = []
        for number, at in enumerate(CUTS):
            if number % 3 and at not in ENDS:
                continue
            ending, fate = list(ENDINGS.values())[number % len(ENDINGS)]
            agents = {form: cut_agent(self.letta, at, ending, fate) for form in HELPED}
            model = {form: agent.name for form, agent in agents.items()}
            type_ = None if is_whole(at, fate) else error_type(at, fate)
            asked.append({"at": at, "model": model, "type": type_, "retries": retries(fate)})
            self.once.extend(agents.values())
        return asked

    def leaving(self) -> dict[str, str]:
        """F17: agents that never come to an end in their first run."""
        agents = {use: self.letta.add(runs(PING, say("Hel"), trio.Event()), hello()) for use in LEAVING}
        self.left.extend(agents.values())
        return {use: agent.name for use, agent in agents.items()}

    def names(self) -> list[str]:
        """F18: names of every kind."""
        return [self.letta.add(hello(), hello(), name=name).name for name in NAMES.values()]

    def check(self) -> None:
        """Nothing was said to an agent twice, and no run was left alone."""
        for agent in self.once:
            assert len(agent.requests) == 1, agent.name
        for agent, calls in self.tripped:
            assert agent.texts == ["How is the weather?", "Thanks."]
            assert answered(agent) == [(call.id, f"result of {call.id}", "success") for call in calls]
        for agent in self.left:
            assert agent.saw(CancelRun).run_id == RUN_ID
            # In either order: a program that leaves and asks again at once may overtake itself.
            assert sorted(type(command).__name__ for command in agent.commands[1:]) == [
                "CancelRun",
                "OpenStream",
                "OpenStream",
            ]
            assert agent.texts == ["hi", "still there?"]
