"""Connections to Letta that break in the middle of a turn: an error, never a silent end."""

from collections.abc import Iterator

import pytest
from openai import APIError, APIStatusError

from live.asking import PAIR, STREAMED, TOOLS, WHOLE, Form, ask, attempt
from live.letta_api import Agent, LettaApi
from live.proxy import Proxy, serving
from live.relay import Cut, Relay, relaying
from live.rig import Rig, free_port

SCRIPT = "think Let me see.\nsay One two three four five six.\ncall get_weather {}"
BEFORE_THE_ANSWER = {
    "in the head": b"HTTP/1.1 200 OK\r\n",
    "before the first item": b"\r\n\r\n",
    "in the ping": b'"message_type":"ping"',
}
IN_THE_ANSWER = {
    "behind reasoning": (b'"reasoning":"see."', ""),
    "in text": (b'"content":"two ', "One "),
    "behind text": (b'"content":"three "}\n\n', "One two "),
    "in the call": (b'"name":"get_weather"', "One two three four five six."),
}


@pytest.fixture(scope="module")
def relay(rig: Rig) -> Iterator[Relay]:
    """A relay in front of Letta, open."""
    with relaying(rig.url, free_port()) as relay:
        relay.open()
        yield relay


@pytest.fixture(scope="module")
def cut_proxy(relay: Relay) -> Iterator[Proxy]:
    """A proxy that reaches Letta through the relay."""
    with serving(relay.url) as proxy:
        yield proxy


@pytest.fixture
def cut_url(cut_proxy: Proxy, relay: Relay) -> Iterator[str]:
    """The base URL of that proxy; nothing is cut any more after the test."""
    yield cut_proxy.base_url
    relay.cut = None


@pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
@pytest.mark.parametrize("form", PAIR)
@pytest.mark.parametrize("after", BEFORE_THE_ANSWER.values(), ids=BEFORE_THE_ANSWER.keys())
def test_before_the_answer(
    cut_url: str, relay: Relay, letta: LettaApi, agent: Agent, form: Form, after: bytes, reset: bool
) -> None:
    relay.cut, relay.cut_count = Cut(after=after, reset=reset), 0
    answer = attempt(cut_url, form, agent.name, SCRIPT, tools=TOOLS)
    assert relay.cut_count == 1
    assert isinstance(answer.error, APIStatusError)
    assert answer.error.status_code in (424, 502)
    check_next(cut_url, relay, letta, agent)


@pytest.mark.parametrize(("form", "reset"), [("sync-stream", False), ("async-stream", True)])
@pytest.mark.parametrize(("after", "text"), IN_THE_ANSWER.values(), ids=IN_THE_ANSWER.keys())
def test_in_a_streamed_answer(
    cut_url: str,
    relay: Relay,
    letta: LettaApi,
    agent: Agent,
    form: Form,
    after: bytes,
    text: str,
    reset: bool,
) -> None:
    relay.cut, relay.cut_count = Cut(after=after, reset=reset), 0
    answer = attempt(cut_url, form, agent.name, SCRIPT, tools=TOOLS, max_retries=2)
    assert relay.cut_count == 1
    assert type(answer.error) is APIError
    assert answer.error.type in ("server_error", "upstream_error")
    assert answer.text.startswith(text)
    assert "One two three four five six.".startswith(answer.text)
    assert answer.finish_reason is None
    assert answer.request_count == 1
    check_next(cut_url, relay, letta, agent)


@pytest.mark.parametrize("form", WHOLE)
def test_in_a_whole_answer(cut_url: str, relay: Relay, letta: LettaApi, agent: Agent, form: Form) -> None:
    relay.cut = Cut(after=b'"content":"two ')
    answer = attempt(cut_url, form, agent.name, SCRIPT, tools=TOOLS)
    assert isinstance(answer.error, APIStatusError)
    assert answer.error.status_code in (424, 502)
    check_next(cut_url, relay, letta, agent)


@pytest.mark.parametrize("form", STREAMED)
@pytest.mark.parametrize(
    "after", [b'"stop_reason":"end_turn"', b'"message_type":"usage_statistics"'], ids=["stop", "usage"]
)
def test_behind_the_text(cut_url: str, relay: Relay, agent: Agent, form: Form, after: bytes) -> None:
    """All of the text is there: either the answer is finished, or the client is told that it may not be."""
    relay.cut = Cut(after=after)
    answer = attempt(cut_url, form, agent.name, "say One two three.", max_retries=2)
    assert answer.text == "One two three."
    assert answer.request_count == 1
    assert (answer.error is None) == (answer.finish_reason == "stop")


def check_next(url: str, relay: Relay, letta: LettaApi, agent: Agent) -> None:
    """Make sure that the agent is not stuck, and answers over a connection that holds."""
    relay.cut = None
    letta.ended_runs(agent)
    assert ask(url, "sync-stream", agent.name, "say Well again.").text == "Well again."
    assert letta.user_texts(agent)[-1] == "say Well again."
