"""Chat keys with special characters of Letta's search: each finds its conversation again after a restart."""

from typing import Any

from live.asking import fetch
from live.conftest import MakeAgent
from live.letta_api import Agent, LettaApi
from live.proxy import serving
from live.rig import Rig
from sansio_letta.upstreams.thread_names import chat_summary

KEYS = ["CORP\\alice", "CORP_alice", "corp_alice", "100%", "%", "_", 'a "quoted" one', "back\\\\slashes\\"]
#: Their conversations exist already, as earlier versions have made them.
EARLIER = ["CORP\\bob", "50%_off"]


def say(base_url: str, agent: Agent, key: str, text: str) -> None:
    body: dict[str, Any] = {"model": agent.name, "messages": [{"role": "user", "content": f"say {text}"}]}
    answer = fetch(base_url, "POST", "/chat/completions", body, headers={"X-Letta-Chat-Key": key})
    assert answer.status == 200, answer.body


def test_any_key_finds_its_conversation_again(rig: Rig, letta: LettaApi, make_agent: MakeAgent) -> None:
    agent = make_agent("chat-keys")
    for key in EARLIER:
        letta.create_conversation(agent, f'letta-proxy chat: "{key}"')
    keys = [*KEYS, *EARLIER]
    for text in ("One.", "Two."):
        with serving(rig.url) as proxy:
            for key in keys:
                say(proxy.base_url, agent, key, text)
    chats = letta.chats(agent)
    assert len(letta.conversations(agent)) == len(keys)
    assert chats.keys() == {*map(chat_summary, KEYS), *(f'letta-proxy chat: "{key}"' for key in EARLIER)}
    for conversation in chats.values():
        assert letta.assistant_texts(agent, conversation) == ["One.", "Two."]
