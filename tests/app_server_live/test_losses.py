"""Clients that leave, and sockets that break."""

import itertools
import time

import pytest
from openai import APIError, APITimeoutError

from app_server_live.relay import Relay
from app_server_live.server import TIMEOUT, Agent, AppServer
from live.asking import TOOLS, ask, result, sync_client, user
from live.proxy import SHORT_WAIT, serving

LONG = "slow 0.25\nwords 120"  # half a minute
TWO_CALLS = 'call get_weather {}\ncall read_file {"path":"a"}'
SOCKETS = pytest.mark.parametrize("number", [0, 1], ids=("the first", "the second"))


def test_a_client_that_leaves_in_mid_stream(url: str, server: AppServer, agent: Agent) -> None:
    """The run is aborted, and the next message is answered at once."""
    with sync_client(url) as client:
        stream = client.chat.completions.create(
            model=agent.name, messages=[{"role": "user", "content": LONG}], stream=True
        )
        with stream:
            for _ in itertools.islice(stream, 4):
                pass
    began = time.monotonic()
    conversation = server.only_conversation(agent)
    server.wait_until_idle(agent, conversation)
    assert ask(url, "sync", agent.name, "say Welcome back.").text == "Welcome back."
    assert time.monotonic() - began < 15.0
    assert server.user_texts(conversation) == [LONG, "say Welcome back."]
    assert server.history(conversation)[-1] == ("assistant", "Welcome back.")


def test_a_client_that_leaves_before_the_reply(url: str, server: AppServer, agent: Agent) -> None:
    script = "wait 8\nsay Late."
    with sync_client(url, timeout=1.5) as client, pytest.raises(APITimeoutError):
        client.chat.completions.create(model=agent.name, messages=[{"role": "user", "content": script}])
    assert ask(url, "sync", agent.name, "say Welcome back.").text == "Welcome back."
    texts = server.user_texts(server.only_conversation(agent))
    assert texts == [script, "say Welcome back."]


@SOCKETS
def test_one_socket_is_cut_in_mid_stream(relay: Relay, server: AppServer, agent: Agent, number: int) -> None:
    """The other one hears the rest."""
    script = "slow 0.1\nwords 60"
    with serving(relay.ws_url, *SHORT_WAIT) as proxy, sync_client(proxy.base_url) as client:
        stream = client.chat.completions.create(
            model=agent.name, messages=[{"role": "user", "content": script}], stream=True
        )
        texts = []
        with stream:
            for chunk in stream:
                texts.append(chunk.choices[0].delta.content or "")
                if len(texts) == 10:
                    relay.wait_for(2)
                    relay.cut(number)
        assert "".join(texts) == " ".join(f"w{index}" for index in range(60))
        assert ask(proxy.base_url, "sync", agent.name, "say Again.").text == "Again."
    assert server.user_texts(server.only_conversation(agent)) == [script, "say Again."]


@SOCKETS
def test_one_socket_is_cut_while_calls_wait(relay: Relay, server: AppServer, agent: Agent, number: int) -> None:
    """Their results are given all the same, each once."""
    with serving(relay.ws_url, *SHORT_WAIT) as proxy:
        first = user(TWO_CALLS)
        asked = ask(proxy.base_url, "sync", agent.name, [first], tools=TOOLS)
        relay.wait_for(2)
        relay.cut(number)
        relay.wait_for(2)
        texts = ("18 C", "a file")
        results = [result(call, text) for call, text in zip(asked.calls, texts, strict=True)]
        answer = ask(proxy.base_url, "sync", agent.name, [first, asked.message, *results], tools=TOOLS)
        assert answer.text == "results: 18 C | a file"
    conversation = server.only_conversation(agent)
    assert [text for kind, text in server.history(conversation) if kind == "result"] == list(texts)
    assert server.user_texts(conversation) == [TWO_CALLS]


def test_a_proxy_that_ends_aborts_its_turn(relay: Relay, server: AppServer, agent: Agent) -> None:
    """A conversation whose last socket is lost in mid-reply would take no input any more."""
    with serving(relay.ws_url, "--shutdown-timeout", "0.5") as proxy, sync_client(proxy.base_url) as client:
        stream = client.chat.completions.create(
            model=agent.name, messages=[{"role": "user", "content": LONG}], stream=True
        )
        with stream:
            for _ in itertools.islice(stream, 4):
                pass
            proxy.terminate()
            with pytest.raises(APIError) as caught:
                list(stream)
            assert caught.value.code == "shutting_down"
        assert proxy.wait() == 0
    conversation = server.only_conversation(agent)
    server.wait_until_idle(agent, conversation)
    with serving(relay.ws_url) as proxy:
        assert ask(proxy.base_url, "sync", agent.name, "say Back.", timeout=TIMEOUT).text == "Back."
    assert server.only_conversation(agent) == conversation
    assert server.user_texts(conversation) == [LONG, "say Back."]
