"""Background prompts with a real Letta server: the agent answers them, and remembers none of them."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from openai import OpenAI

from live.conftest import MakeAgent
from live.letta_api import Agent, LettaApi
from live.proxy import serving
from live.rig import Rig

CLEANUP_TIMEOUT: Final = 10.0  #: seconds; an answer does not wait until its conversation is deleted
TOOL: Final[Any] = {"type": "function", "function": {"name": "read_file", "parameters": {"type": "object"}}}
MEMORY: Final[Any] = {
    "role": "system",
    "content": "You are now acting as the managed memory extraction subagent for an AI coding assistant.",
}


@pytest.fixture
def agent(make_agent: MakeAgent) -> Agent:
    return make_agent("live-tasks")


@pytest.fixture
def client(url: str) -> OpenAI:
    return OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)


def ask(client: OpenAI, agent: Agent, *messages: Any, **more: Any) -> Any:
    return client.chat.completions.create(model=agent.name, messages=list(messages), **more).choices[0].message


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def assert_nothing_is_left(letta: LettaApi, agent: Agent, *texts: str) -> None:
    """The agent has heard these texts in its own thread, and has no conversation beside it."""
    deadline = time.monotonic() + CLEANUP_TIMEOUT
    while (left := letta.conversations(agent)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []
    assert letta.user_texts(agent) == list(texts)


def test_a_title_and_a_probe(client: OpenAI, letta: LettaApi, agent: Agent) -> None:
    ask(client, agent, user("say hello"))
    title = "Provide a concise, 5-word-or-less title for the conversation, using title case.\nsay Cats And Dogs"
    assert ask(client, agent, user(title)).content == "Cats And Dogs"
    assert ask(client, agent, user("What's 1 + 1?"), max_tokens=5).content == "You said: What's 1 + 1?"
    assert_nothing_is_left(letta, agent, "say hello")


def test_a_summary_of_a_history_that_the_isolated_agent_sees(
    client: OpenAI, letta: LettaApi, agent: Agent
) -> None:
    prompt = "Please provide a concise summary of our conversation so far, capturing the key context\nheard"
    history = [user("say one"), {"role": "assistant", "content": "one"}, user(prompt)]
    ask(client, agent, user("say one"))
    said = ask(client, agent, *history, {"role": "assistant", "content": "Hm."}, user(prompt), tools=[TOOL])
    assert said.content == "heard 2 times"
    assert_nothing_is_left(letta, agent, "say one")


@pytest.mark.parametrize("replicas", [1, 2], ids=["one process", "two processes"])
def test_memory_extraction_with_tools(
    rig: Rig, client: OpenAI, letta: LettaApi, agent: Agent, replicas: int
) -> None:
    order = user(
        'call read_file {"path": "/a"}\ncall read_file {"path": "/b"}\nthen\ncall read_file {}\nthen\nsay done'
    )
    messages = [MEMORY, user("earlier"), {"role": "assistant", "content": "Yes."}, order]
    clients = [client]
    with serving(rig.url) as other:
        if replicas == 2:
            clients.append(OpenAI(base_url=other.base_url, api_key="none", max_retries=0, timeout=60))
        for number, count in enumerate((2, 1)):
            said = ask(clients[number % replicas], agent, *messages, tools=[TOOL])
            assert len(said.tool_calls) == count
            assert len(letta.conversations(agent)) == 1
            messages.append(said.to_dict())
            for call in said.tool_calls:
                messages.append({"role": "tool", "tool_call_id": call.id, "content": f"got {call.id}"})
            time.sleep(1.0 if replicas == 2 else 0.0)  # until the summary names the calls
        assert ask(clients[0], agent, *messages, tools=[TOOL]).content == "done"
        assert_nothing_is_left(letta, agent)


def test_four_that_only_ask_at_once_beside_a_person(client: OpenAI, letta: LettaApi, agent: Agent) -> None:
    with ThreadPoolExecutor(5) as pool:
        person = pool.submit(ask, client, agent, user("wait 20\nsay at last"))
        headers = {"X-Letta-Policy-Tasks": "all"}
        asked = [
            pool.submit(ask, client, agent, user(f"wait 2\nsay name {number}"), extra_headers=headers)
            for number in range(4)
        ]
        assert [each.result().content for each in asked] == [f"name {number}" for number in range(4)]
        assert not person.done()
        assert person.result().content == "at last"
    assert_nothing_is_left(letta, agent, "wait 20\nsay at last")


def test_a_marked_request(client: OpenAI, letta: LettaApi, agent: Agent) -> None:
    said = ask(client, agent, user("say a name"), extra_headers={"X-Letta-Task": "commit message"})
    assert said.content == "a name"
    assert_nothing_is_left(letta, agent)


def test_two_people_are_two_speakers(client: OpenAI, letta: LettaApi, agent: Agent) -> None:
    ask(client, agent, {**user("say hello"), "name": "Ann"}, {**user("say hi"), "name": "Bob Lee"})
    ask(client, agent, user("say yes"), extra_headers={"X-OpenWebUI-User-Name": "Zo%C3%AB"})
    assert letta.speakers(agent) == [("Ann", "say hello"), ("Bob_Lee", "say hi"), ("Zoë", "say yes")]
    assert_nothing_is_left(letta, agent, "say hello", "say hi", "say yes")
