"""Which conversation a request comes to with a real Letta server: by transcript, by body, by header."""

import json
from typing import Any

from live.asking import fetch
from live.conftest import MakeAgent
from live.letta_api import Agent, LettaApi
from live.proxy import serving
from live.rig import Rig

TRANSCRIPT = ("--threads", "transcript")


def ask(base_url: str, agent: Agent, *texts: str, headers: dict[str, str] | None = None, **more: Any) -> str:
    """Send a transcript, the user and the agent in turns; return the answer."""
    roles = ("user", "assistant")
    messages = [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]
    body = {"model": agent.name, "messages": messages, **more}
    answer = fetch(base_url, "POST", "/chat/completions", body, headers=headers or {})
    assert answer.status == 200, answer.body
    text: str = json.loads(answer.body)["choices"][0]["message"]["content"]
    return text


def threads(letta: LettaApi, agent: Agent) -> list[list[Any]]:
    """What users have said in each conversation."""
    return sorted(letta.user_texts(agent, conversation) for conversation in letta.conversations(agent))


def test_two_chats_that_begin_with_the_same_word(rig: Rig, letta: LettaApi, make_agent: MakeAgent) -> None:
    agent = make_agent("live-transcripts")
    with serving(rig.url, *TRANSCRIPT) as proxy:
        for _ in range(2):
            assert ask(proxy.base_url, agent, "say Hi.") == "Hi."
        ask(proxy.base_url, agent, "say Hi.", "Hi.", "say Cats.")
    # Each request comes to another process, which knows nothing.
    for texts in (
        ("say Hi.", "Hi.", "say Dogs."),
        ("say Hi.", "Hi.", "say Cats.", "Cats.", "say More."),
        ("say Hi.", "Hi.", "say Dogs.", "Dogs.", "say More."),
    ):
        with serving(rig.url, *TRANSCRIPT) as proxy:
            ask(proxy.base_url, agent, *texts)
    assert threads(letta, agent) == [
        ["say Hi.", "say Cats.", "say More."],
        ["say Hi.", "say Dogs.", "say More."],
    ]


def test_an_edit_begins_a_conversation_with_the_history(
    rig: Rig, letta: LettaApi, make_agent: MakeAgent
) -> None:
    agent = make_agent("live-edited-transcript")
    with serving(rig.url, *TRANSCRIPT) as proxy:
        ask(proxy.base_url, agent, "say Hi.")
        ask(proxy.base_url, agent, "say Hi.", "Hi.", "say Cats.")
        ask(proxy.base_url, agent, "say Hi.", "Hi.", "say Dogs.")
        # The main thread can be asked for all the same.
        ask(proxy.base_url, agent, "say Own.", headers={"X-Letta-Conversation-Id": "default"})
    assert threads(letta, agent) == [["say Hi.", "say Cats."], ["say Hi.", "say Dogs."]]


def test_a_retry_comes_to_the_conversation_of_its_first_attempt(
    rig: Rig, letta: LettaApi, make_agent: MakeAgent
) -> None:
    agent = make_agent("live-retried-transcript")
    for count in ("0", "1"):
        with serving(rig.url, *TRANSCRIPT) as proxy:
            answer = ask(proxy.base_url, agent, "say Hi.", headers={"X-Stainless-Retry-Count": count})
            assert answer == "Hi."
    assert threads(letta, agent) == [["say Hi."]]


def test_the_body_names_the_chat_and_the_person(rig: Rig, letta: LettaApi, make_agent: MakeAgent) -> None:
    agent = make_agent("live-body-keys")
    with serving(rig.url, "--chat-key-field", "metadata.room", "--speaker-field", "user") as proxy:
        for room, person in (("a", "ann"), ("b", "bob"), ("a", "bob")):
            ask(proxy.base_url, agent, f"say {room}.", metadata={"room": room}, user=person)
        for person in ("ann", "bob"):
            ask(proxy.base_url, agent, "say own.", user=person)
    assert threads(letta, agent) == [["say a.", "say a."], ["say b."]]
    assert [name for name, text in letta.speakers(agent) if text == "say own."] == ["ann", "bob"]


def test_a_header_names_the_agent_s_own_thread(url: str, letta: LettaApi, agent: Agent) -> None:
    for name in ("default", agent.id):
        ask(url, agent, "say Own.", headers={"X-Letta-Conversation-Id": name, "X-Litellm-Session-Id": "s-1"})
    assert letta.conversations(agent) == []
    ask(url, agent, "say Session.", headers={"X-Litellm-Session-Id": "s-1"})
    assert threads(letta, agent) == [["say Session."]]
