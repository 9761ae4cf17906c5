"""The agent's own tools that require human approval, and how they are shown, with a real Letta server."""

from collections.abc import Iterator
from typing import Final

import pytest

from live.asking import PAIR, TOOLS, Answer, Form, Message, ask, result, user
from live.conftest import MakeAgent
from live.letta_api import Agent, LettaApi
from live.proxy import Proxy, serving
from live.rig import Rig

#: The docstring is what Letta reads the tool's description from.
SOURCE: Final = '''
def live_thermometer(city: str) -> str:
    """Measure.

    Args:
        city (str): where

    Returns:
        str: the temperature
    """
    return f"measured 20 C in {city}"
'''
BERN: Final = 'say Measuring.\ncall live_thermometer {"city": "Bern"}'
MEASURED: Final = "measured 20 C in Bern"


@pytest.fixture
def agent(letta: LettaApi, make_agent: MakeAgent) -> Iterator[Agent]:
    """An agent with a tool that Letta does not run without a human's word."""
    agent = make_agent("live-approvals")
    tool_id = letta.create_tool(SOURCE, needs_approval=True)
    letta.attach_tool(agent, tool_id)
    yield agent
    letta.delete_tool(tool_id)


@pytest.fixture(scope="module")
def allowing(rig: Rig) -> Iterator[Proxy]:
    """A proxy that asks nobody, and shows tools among the reasoning."""
    with serving(rig.url, "--approvals", "allow", "--server-tools", "reasoning") as proxy:
        yield proxy


def asked(url: str, form: Form, agent: Agent) -> tuple[list[Message], Answer]:
    answer = ask(url, form, agent.name, BERN)
    assert 'live_thermometer({"city": "Bern"})' in answer.text
    assert answer.finish_reason == "stop"
    return [user(BERN), answer.message], answer


@pytest.mark.parametrize("form", PAIR)
def test_approved_in_the_chat(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    history, _ = asked(url, form, agent)
    answer = ask(url, form, agent.name, [*history, user("Approve.")])
    assert MEASURED in answer.text
    assert letta.pending_call_ids(agent) == []
    assert letta.user_texts(agent) == [BERN]


@pytest.mark.parametrize("form", PAIR)
def test_denied_in_the_chat(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    history, _ = asked(url, form, agent)
    answer = ask(url, form, agent.name, [*history, user("deny: too cold")])
    assert "User reason: too cold" in answer.text
    assert MEASURED not in answer.text
    assert letta.user_texts(agent) == [BERN]


@pytest.mark.parametrize("form", PAIR)
def test_another_message_denies_it(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    history, _ = asked(url, form, agent)
    answer = ask(url, form, agent.name, [*history, user("say Yes, but later.")])
    assert answer.text == "Yes, but later."
    assert letta.user_texts(agent) == [BERN, "say Yes, but later."]


@pytest.mark.parametrize("form", PAIR)
def test_with_a_clients_call_in_the_same_step(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    script = f'{BERN}\ncall get_weather {{"city": "Rome"}}'
    first = ask(url, form, agent.name, script, tools=TOOLS)
    assert [call.name for call in first.calls] == ["get_weather"]
    history = [user(script), first.message, result(first.calls[0], "18 C")]
    second = ask(url, form, agent.name, history, tools=TOOLS)
    assert "live_thermometer" in second.text
    assert len(letta.pending_call_ids(agent)) == 2
    answer = ask(url, form, agent.name, [*history, second.message, user("yes")], tools=TOOLS)
    assert MEASURED in answer.text
    assert "18 C" in answer.text


@pytest.mark.parametrize("form", PAIR)
def test_allowed_within_one_answer(allowing: Proxy, letta: LettaApi, agent: Agent, form: Form) -> None:
    answer = ask(allowing.base_url, form, agent.name, BERN)
    assert answer.text.startswith("Measuring.\n\nresults: ")
    assert MEASURED in answer.text
    assert len(letta.runs(agent)) == 2
    assert letta.user_texts(agent) == [BERN]
    if answer.reasoning:
        assert 'live_thermometer {"city": "Bern"}' in answer.reasoning
        assert f"live_thermometer -> {MEASURED}" in answer.reasoning
