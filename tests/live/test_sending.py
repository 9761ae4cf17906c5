"""Agents that speak by calling Letta's tool `send_message`, on a real server: those with sleeptime agents."""

import itertools
import json

import pytest

from live.asking import FORMS, PAIR, TOOLS, Form, ask, result, user
from live.conftest import MakeAgent
from live.letta_api import Agent, LettaApi
from live.proxy import serving
from live.rig import Rig

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
