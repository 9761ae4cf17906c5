"""Agents that answer by calling Letta's tool `send_message`, on a real server: those with sleeptime agents."""

import itertools
import json

import pytest
from openai import BadRequestError

from live.asking import FORMS, GET_WEATHER, PAIR, TOOLS, Form, ask, attempt, result, user
from live.conftest import MakeAgent
from live.letta_api import Agent, LettaApi
from live.proxy import serving
from live.rig import Rig
from live.test_legacy import name_of

TEXT = 'Say "hi", \\n {"a": [1]} caf\u00e9 \U0001f600.'

_numbers = itertools.count(1)


@pytest.fixture
def sleeper(make_agent: MakeAgent) -> Agent:
    """An agent with a second one that notes things down while it sleeps."""
    return make_agent(f"sleeper-{next(_numbers)}", enable_sleeptime=True)


@pytest.mark.parametrize("form", FORMS)
def test_what_it_says_is_text(url: str, letta: LettaApi, sleeper: Agent, form: Form) -> None:
    answer = ask(url, form, sleeper.name, f"say {TEXT}")
    assert (answer.text, answer.finish_reason, answer.calls) == (TEXT, "stop", [])
    if form.endswith("-stream"):
        assert len(answer.chunks) > 4
    assert ask(url, form, sleeper.name, "say Again.").text == "Again."


def test_in_a_chat_of_its_own(url: str, sleeper: Agent) -> None:
    headers = {"X-Letta-Chat-Key": "chat-1"}
    assert ask(url, "sync-stream", sleeper.name, f"say {TEXT}", extra_headers=headers).text == TEXT


@pytest.mark.parametrize("form", PAIR)
def test_several_messages_beside_a_call(url: str, sleeper: Agent, form: Form) -> None:
    said = [json.dumps({"message": text}) for text in ("One.", "Two.")]
    script = "\n".join(f"call send_message {arguments}" for arguments in said)
    history = [user(f'{script}\ncall get_weather {{"city": "Rome"}}\nthen\nsay After.')]
    asked = ask(url, form, sleeper.name, history, tools=TOOLS)
    assert (asked.text, asked.finish_reason) == ("One.\n\nTwo.", "tool_calls")
    assert [(call.name, call.arguments) for call in asked.calls] == [("get_weather", '{"city": "Rome"}')]
    history += [asked.message, result(asked.calls[0], "18 C")]
    answer = ask(url, form, sleeper.name, history, tools=TOOLS)
    assert (answer.text, answer.finish_reason) == ("After.", "stop")


def test_where_the_agents_tools_are_shown(rig: Rig, sleeper: Agent) -> None:
    with serving(rig.url, "--server-tools", "reasoning") as proxy:
        script = 'call conversation_search {"query": "tea"}\nthen\nsay Found.'
        answer = ask(proxy.base_url, "sync-stream", sleeper.name, script)
        assert answer.text == "Found."
        assert "conversation_search" in answer.reasoning
        assert "send_message" not in answer.reasoning
        assert "Sent message" not in answer.reasoning


@pytest.mark.parametrize("agent_type", ["memgpt_v2_agent", "memgpt_agent"])
def test_a_legacy_agent_that_letta_cannot_stream(
    url: str, letta: LettaApi, make_agent: MakeAgent, agent_type: str
) -> None:
    """Letta's streaming route fails for it with a TypeError of its own."""
    agent = make_agent(f"sleeper-{next(_numbers)}", agent_type=agent_type, enable_sleeptime=True)
    for form in FORMS:
        answer = ask(url, form, agent.name, f"think Hm.\nsay {TEXT}")
        assert (answer.text, answer.reasoning, answer.finish_reason) == (TEXT, "Hm.", "stop")
    assert answer.usage is None or answer.usage.total_tokens == 120
    failed = attempt(url, "sync", agent.name, "fail 500")
    assert failed.error is not None
    assert letta.user_texts(agent)[-1] == f"think Hm.\nsay {TEXT}"

    tool = name_of(GET_WEATHER)
    history = [user(f'call {tool} {{"city": "Rome"}}')]
    asked = ask(url, "sync-stream", agent.name, history, tools=TOOLS)
    assert [(call.name, call.arguments) for call in asked.calls] == [("get_weather", '{"city": "Rome"}')]
    history += [asked.message, result(asked.calls[0], "18 C")]
    assert "18 C" in ask(url, "sync-stream", agent.name, history, tools=TOOLS).text
    asked = ask(url, "sync", agent.name, history[:1], tools=TOOLS)
    # A message in place of the result: Letta refuses it, and says so in the run's record alone.
    assert ask(url, "sync", agent.name, "say Never mind.").text == "Never mind."
    assert letta.pending_call_ids(agent) == []


@pytest.mark.parametrize("agent_type", ["react_agent", "workflow_agent", "voice_sleeptime_agent"])
def test_a_type_that_cannot_answer_says_so(url: str, make_agent: MakeAgent, agent_type: str) -> None:
    agent = make_agent(f"mute-{next(_numbers)}", agent_type=agent_type)
    failed = attempt(url, "sync-stream", agent.name, "say Hello.")
    assert isinstance(failed.error, BadRequestError)
    assert agent_type in str(failed.error)
    assert "send_message" in str(failed.error)
