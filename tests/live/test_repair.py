"""`letta-proxy repair` on a real Letta server: agents that are stuck in each way take messages again."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest
import trio

from letta_server.cli import letta as cli
from letta_server.settings.server import Settings
from live.asking import TOOLS, ask, sync_client
from live.conftest import MakeAgent
from live.letta_api import Agent, LettaApi
from live.proxy import serving
from live.rig import Rig, without_settings
from live.test_approvals import SOURCE
from live.test_legacy import ROME, TYPES, WEATHER
from sansio_letta.turn.settlement import NO_RESULT, NOT_ALLOWED
from sansio_letta.upstreams.rest.repair import RepairOptions

#: Of a name that no other test's tool has: Letta has one tool of a name.
THERMOMETER: Final = SOURCE.replace("live_thermometer", "repair_thermometer")
BERN: Final = 'call repair_thermometer {"city": "Bern"}'
CALL: Final = 'call get_weather {"city": "Bern"}'
LONG: Final = "slow 1\nwords 150"
CHAT: Final = {"X-Letta-Chat-Key": "stuck"}
LATER: Final = 120  # seconds: nothing that was left now is young by then


_numbers = itertools.count(1)


def repair(rig: Rig, agent: Agent, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """Run the command as a person does; return its exit code and what it found."""
    command = (sys.executable, "-m", "letta_server", "repair", agent.name, "--json", "--letta-url", rig.url)
    done = subprocess.run(
        [*command, *options],
        env=without_settings(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)["found"]


def repair_later(rig: Rig, agent: Agent, **options: Any) -> dict[str, Any]:
    """Run the same in this process, with its clock ahead."""
    with pytest.MonkeyPatch.context() as patch:
        now = int(time.time()) + LATER
        patch.setattr("letta_server.cli.letta.time.time", lambda: now)
        status, body = trio.run(
            cli.repair_agent, Settings(letta_url=rig.url), agent.name, RepairOptions(**options)
        )
    assert status == 200, body
    report: dict[str, Any] = json.loads(body)
    return report


def outcomes(found: list[dict[str, Any]]) -> list[tuple[str, str | None, str]]:
    return sorted((item["kind"], item["tool"], item["outcome"]) for item in found)


@pytest.fixture
def stuck(letta: LettaApi, url: str, make_agent: MakeAgent) -> Iterator[Agent]:
    """An agent with a call in its own thread, one in a chat, and an approval in another chat."""
    agent = make_agent(f"live-repair-{os.getpid()}-{next(_numbers)}")
    tool_id = letta.create_tool(THERMOMETER, needs_approval=True)
    letta.attach_tool(agent, tool_id)
    assert ask(url, "sync", agent.name, CALL, tools=TOOLS).calls
    with sync_client(url) as client:
        for key, text in (("stuck", CALL), ("asked", BERN)):
            client.chat.completions.create(
                model=agent.name,
                messages=[{"role": "user", "content": text}],
                tools=list(TOOLS),  # type: ignore[arg-type]
                extra_headers={"X-Letta-Chat-Key": key},
            )
    yield agent
    letta.delete_tool(tool_id)


EVERYTHING: Final = (("approval", "repair_thermometer"), ("call", "get_weather"), ("call", "get_weather"))


def test_calls_and_approvals_in_all_threads(rig: Rig, letta: LettaApi, url: str, stuck: Agent) -> None:
    threads = [None, *letta.conversations(stuck)]
    waiting = [letta.pending_call_ids(stuck, thread) for thread in threads]
    run_count, asked = len(letta.runs(stuck)), letta.asked_count(CALL)

    code, found = repair(rig, stuck)
    assert (code, outcomes(found)) == (1, [(*each, "left") for each in EVERYTHING])
    assert {item["reason"] for item in found} == {"younger than 60 s"}
    code, found = repair(rig, stuck, "--force", "--dry-run")
    assert (code, outcomes(found)) == (1, [(*each, "planned") for each in EVERYTHING])
    assert outcomes(repair_later(rig, stuck, is_dry_run=True)["found"]) == outcomes(found)
    assert [letta.pending_call_ids(stuck, thread) for thread in threads] == waiting
    assert len(letta.runs(stuck)) == run_count

    report = repair_later(rig, stuck)
    assert (report["remaining"], outcomes(report["found"])) == (0, [(*each, "settled") for each in EVERYTHING])
    assert [letta.pending_call_ids(stuck, thread) for thread in threads] == [[], [], []]
    returns = [text for thread in threads[1:] for _, text, _ in letta.tool_returns(stuck, thread)]
    assert sorted(returns) == [f"Error: request to call tool denied. User reason: {NOT_ALLOWED}", NO_RESULT]
    assert letta.asked_count(CALL) == asked  # the agent has not been made to speak
    assert repair(rig, stuck) == (0, [])

    assert ask(url, "sync", stuck.name, "say Free again.").text == "Free again."
    with sync_client(url) as client:
        for key in ("stuck", "asked"):
            answer = client.chat.completions.create(
                model=stuck.name,
                messages=[{"role": "user", "content": "say Here, too."}],
                extra_headers={"X-Letta-Chat-Key": key},
            )
            assert answer.choices[0].message.content == "Here, too."


def test_one_chat_alone(rig: Rig, letta: LettaApi, stuck: Agent) -> None:
    code, found = repair(rig, stuck, "--chat", "stuck", "--force")
    assert (code, outcomes(found)) == (0, [("call", "get_weather", "settled")])
    assert found[0]["chat"] == "stuck"
    assert letta.pending_call_ids(stuck, found[0]["conversation_id"]) == []
    assert len(letta.pending_call_ids(stuck)) == 1
    code, found = repair(rig, stuck, "--conversation", "default", "--force")
    assert (code, outcomes(found)) == (0, [("call", "get_weather", "settled")])
    assert letta.pending_call_ids(stuck) == []


def left_by_a_killed_proxy(rig: Rig, agent: Agent) -> None:
    """Leave a run in a chat without a reader."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(AssertionError))  # it does not end well
        proxy = stack.enter_context(serving(rig.url))
        client = stack.enter_context(sync_client(proxy.base_url))
        next(
            client.chat.completions.create(
                model=agent.name,
                messages=[{"role": "user", "content": LONG}],
                stream=True,
                extra_headers=CHAT,
            )
        )
        proxy.process.kill()
        proxy.process.wait()


def test_a_run_without_a_reader(rig: Rig, letta: LettaApi, url: str, agent: Agent) -> None:
    left_by_a_killed_proxy(rig, agent)
    code, found = repair(rig, agent)
    assert (code, outcomes(found)) == (1, [("run", None, "left")])
    assert [run["status"] for run in letta.runs(agent)] == ["running"]
    report = repair_later(rig, agent)
    assert (report["remaining"], outcomes(report["found"])) == (0, [("run", None, "settled")])
    assert report["found"][0]["reason"] == "the proxy that started it has ended"
    assert [run["status"] for run in letta.ended_runs(agent)] == ["cancelled"]
    with sync_client(url) as client:
        answer = client.chat.completions.create(
            model=agent.name, messages=[{"role": "user", "content": "say Free again."}], extra_headers=CHAT
        )
    assert answer.choices[0].message.content == "Free again."


def test_a_run_that_is_read_is_left(rig: Rig, letta: LettaApi, url: str, agent: Agent) -> None:
    with sync_client(url) as client:
        stream = client.chat.completions.create(
            model=agent.name, messages=[{"role": "user", "content": "slow 1\nwords 5"}], stream=True
        )
        next(stream)
        report = repair_later(rig, agent)
        assert outcomes(report["found"]) == [("run", None, "left")]
        assert report["found"][0]["reason"].startswith("a proxy may be reading it")
        assert [chunk.choices[0].finish_reason for chunk in stream if chunk.choices][-1] == "stop"


def test_a_young_call_in_the_own_thread_keeps_runs(rig: Rig, letta: LettaApi, url: str, agent: Agent) -> None:
    """Cancelling a run in a chat would deny it: so does Letta 0.16.7."""
    left_by_a_killed_proxy(rig, agent)
    assert ask(url, "sync", agent.name, CALL, tools=TOOLS).calls
    waiting = letta.pending_call_ids(agent)
    report = repair_later(rig, agent, chat="stuck")
    assert outcomes(report["found"]) == [("run", None, "left")]
    assert letta.pending_call_ids(agent) == waiting
    report = repair_later(rig, agent)
    assert outcomes(report["found"]) == [("call", "get_weather", "settled"), ("run", None, "settled")]
    assert [text for _, text, _ in letta.tool_returns(agent)] == [NO_RESULT]


@pytest.mark.parametrize("agent_type", TYPES)
def test_a_legacy_agent(rig: Rig, letta: LettaApi, url: str, make_agent: MakeAgent, agent_type: str) -> None:
    agent = make_agent(f"live-repair-legacy-{os.getpid()}", agent_type=agent_type)
    assert ask(url, "sync", agent.name, f"call {WEATHER} {ROME}", tools=TOOLS).calls
    assert letta.pending_call_ids(agent)
    code, found = repair(rig, agent, "--force")
    assert (code, outcomes(found)) == (0, [("call", WEATHER, "settled")])
    assert letta.pending_call_ids(agent) == []
    assert ask(url, "sync", agent.name, "say Free again.").text == "Free again."
