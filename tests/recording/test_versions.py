"""Recordings of versions 1 and 2, and how they are upgraded."""

from pathlib import Path
from typing import get_args

import orjson
import pytest
from attrs import evolve

from recordings import recorded_turn, recording, translate
from sansio_letta import HttpRequest, Proxy, Recording, read_recording
from sansio_letta.recording.compare import compare
from sansio_letta.recording.format import COMMANDS, RecordedAgent, TextMode
from sansio_letta.recording.writer import Recorder
from sansio_letta.turn.agent import Agent, Capabilities
from sansio_letta.upstreams.rest import commands
from sansio_letta.upstreams.rest.commands import FetchToolbox, FindAgent, OpenStream

DATA = Path(__file__).parent / "data"


def old(version: int) -> Recording:
    """A recording as it was written by this version of the format."""
    return read_recording((DATA / f"version_{version}.jsonl").read_bytes())


@pytest.mark.parametrize(
    ("version", "today"), [(1, recording("client_tool")), (2, recorded_turn("legacy_sleeptime"))]
)
def test_an_old_recording_is_read_as_its_conversion(version: int, today: Recording) -> None:
    found = old(version)
    assert (found.head.v, today.head.v) == (version, 3)
    assert found.exchanges == today.exchanges
    assert evolve(found.head, v=3) == today.head
    assert translate(found) == translate(today)


def test_what_version_2_did_not_ask_it_knew() -> None:
    found = old(2)
    assert found.head.initial.agent is None
    assert not found.head.initial.background
    assert found.exchanges[0].request.command == "find_agent"
    known = read_recording(without_first_exchange((DATA / "version_2.jsonl").read_bytes()))
    agent = known.head.initial.agent
    assert agent is not None
    assert agent.id in known.exchanges[0].request.path
    assert not agent.agent.capabilities.event_stream
    assert compare(known).same


def without_first_exchange(data: bytes) -> bytes:
    head, *lines = data.splitlines(keepends=True)
    return head + b"".join(line for line in lines if orjson.loads(line)["x"] != 1)


def test_a_run_without_a_client_has_its_agent() -> None:
    asked, answered = old(1).exchanges
    for exchange in (asked, answered):
        assert exchange.starts_run
        assert exchange.request.agent is not None
        assert exchange.request.agent.id in exchange.request.path


def test_each_command_has_a_name_of_its_own() -> None:
    assert set(COMMANDS) == set(get_args(commands.Command))
    assert len(set(COMMANDS.values())) == len(COMMANDS)


def test_commands_are_told_apart_by_name_and_not_by_what_they_include() -> None:
    exchange = old(2).exchanges[0]
    name = exchange.request.path.partition("name=")[2].partition("&")[0]
    assert exchange.matches(FindAgent(name=name, with_pending=True))
    assert not exchange.matches(FindAgent(name="another"))
    agent_id = "agent-11111111-1111-4111-8111-111111111111"
    fetched = evolve(
        exchange, request=evolve(exchange.request, command="fetch_agent", path=f"/v1/agents/{agent_id}")
    )
    assert not fetched.matches(FetchToolbox(agent_id=agent_id))


def test_an_agent_is_written_and_read() -> None:
    agent = Agent(
        id="agent-1",
        name="Milo",
        agent_type="memgpt_v2_agent",
        tool_names=frozenset({"b", "a"}),
        capabilities=Capabilities(client_tools=False, replies_by_tool=True),
    )
    written = RecordedAgent.of(agent)
    assert written.capabilities == {"client_tools": False, "replies_by_tool": True}
    assert written.agent == agent
    later = evolve(written, capabilities={**written.capabilities, "of_a_later_version": True})
    assert later.agent == agent


def test_what_the_proxy_knew_is_in_the_head() -> None:
    proxy, lines = Proxy(), list[bytes]()
    agent = Agent(id="agent-1", name="Milo", agent_type="letta_v1_agent")
    proxy.remember("Milo", agent, now=0.0)
    proxy.remember_no_background()
    body = orjson.dumps({"model": "Milo", "messages": [{"role": "user", "content": "hi"}]})
    request = HttpRequest(method="POST", target="/v1/chat/completions", body=body)
    recorder = Recorder(lines.append, server="x", text=TextMode.DROP)
    cycle = proxy.open(request, token="0123456789", created=7, now=0.0, observer=recorder)
    assert isinstance(cycle.next_event(), OpenStream)
    found = read_recording(b"".join(lines))
    assert found.head.initial.agent == RecordedAgent.of(agent)
    assert not found.head.initial.background
    assert [exchange.request.command for exchange in found.exchanges] == ["start_run"]
