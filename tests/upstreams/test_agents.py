"""The capabilities of agents."""

from typing import Any

import orjson
import pytest

from drive import agent
from recordings import recording
from sansio_letta.turn.agent import Capabilities, PendingCall
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.agents import decode_agents, pending_calls, to_agent

#: An agent of a type that an older loop of Letta's runs.
LEGACY = Capabilities(
    client_tools=False,
    conversations=False,
    token_stream=False,
    call_results=False,
    message_with_answers=False,
    exact_arguments=False,
    marked_runs=False,
)


@pytest.mark.parametrize("agent_type", ["letta_v1_agent", "sleeptime_agent"])
@pytest.mark.parametrize("enable_sleeptime", [None, False, True])
def test_agents_of_today_can_do_everything(agent_type: str, enable_sleeptime: bool | None) -> None:
    found = agent(agent_type=agent_type, enable_sleeptime=enable_sleeptime)
    assert (found.agent_type, found.capabilities) == (agent_type, Capabilities())


@pytest.mark.parametrize("agent_type", ["memgpt_v2_agent", "react_agent", ""])
def test_types_of_agents_from_before_letta_v1_agent(agent_type: str) -> None:
    assert agent(agent_type=agent_type).capabilities == LEGACY


def test_a_legacy_agent_with_a_helper_has_no_stream() -> None:
    # legacy_sleeptime.jsonl
    found = agent(agent_type="memgpt_v2_agent", enable_sleeptime=True)
    assert not found.capabilities.event_stream


@pytest.mark.parametrize(
    ("tools", "replies_by_tool", "reads_reply_tool"),
    [
        ([], False, True),
        ([{"name": "send_message", "tool_type": "letta_core"}], True, True),
        ([{"name": "send_message"}], True, True),
        ([{"name": "send_message", "tool_type": "custom"}], False, False),
        ([{"name": "send_message", "tool_type": "external_mcp"}], False, False),
        ([{"name": None}, {"name": "send_messages", "tool_type": "letta_core"}], False, True),
    ],
)
def test_how_an_agent_replies_shows_in_its_tools(
    tools: list[dict[str, Any]], replies_by_tool: bool, reads_reply_tool: bool
) -> None:
    raw = {"id": "agent-1", "name": "Milo", "agent_type": "letta_v1_agent", "tools": tools}
    [found] = decode_agents(orjson.dumps([raw]))
    assert found.capabilities == Capabilities(
        replies_by_tool=replies_by_tool, reads_reply_tool=reads_reply_tool, marked_runs=not replies_by_tool
    )
    assert found.tool_names == frozenset(tool["name"] for tool in tools if tool["name"])


@pytest.mark.parametrize(
    ("tools", "text_replies"),
    [(None, True), ((), False), ((letta.OwnTool(name="send_message", tool_type="custom"),), True)],
)
def test_a_legacy_agent_without_a_tool_to_speak_by_is_mute(
    tools: tuple[letta.OwnTool, ...] | None, text_replies: bool
) -> None:
    found = agent(agent_type="react_agent", tools=tools)
    assert found.capabilities.text_replies is text_replies
    assert (found.tool_names is None) is (tools is None)


def test_a_recorded_agent_waits_for_a_call() -> None:
    waiting = letta.decode_agent(recording("pending_stuck").exchanges[4].body)
    assert pending_calls(waiting.pending_approval) == (
        PendingCall(
            call_id="call_288267b8d8fe4fddad69",
            name="get_weather",
            arguments='{"city": "Oslo"}',
            request_id="message-e800a7d5-3878-40b2-a6eb-2897f0406682",
        ),
    )
    assert pending_calls(None) == ()


def test_what_is_shown_of_an_agent() -> None:
    raw = letta.Agent(
        id="agent-1",
        name="Milo",
        agent_type="letta_v1_agent",
        created_at="2026-11-22T08:00:19Z",
        llm_config=letta.ModelConfig(context_window=128_000),
        hidden=True,
    )
    found = to_agent(raw)
    assert (found.created_at, found.context_window, found.is_listed) == ("2026-11-22T08:00:19Z", 128_000, False)
