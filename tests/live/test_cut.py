"""Connections to Letta that break during a turn: the run is followed to its end, and nothing is sent twice."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attrs import field, frozen
from openai import APIError

from live.asking import FORMS, PAIR, STREAMED, TOOLS, Answer, Form, ask, attempt, result, user
from live.embedded import Embedded, embedding
from live.letta_api import Agent, LettaApi
from live.proxy import SHORT_WAIT, serving
from live.relay import Cut, Relay, relaying
from live.rig import Rig, free_port
from live.test_tools import quoted_results
from sansio_letta import Config
from sansio_letta.config import Background

REASONING = "Let me see."
TEXT = "One two three four five six."
ARGUMENTS = '{"city": "Reykjavik by night"}'
SCRIPT = f"think {REASONING}\nsay {TEXT}\ncall get_weather {ARGUMENTS}"
SERVER_TOOL = 'say Working.\ncall memory_insert {"label": "human", "new_string": "Likes tea."}'

#: Before the first ping has come whole the run has no name: it is found by the mark of its request.
UNNAMED = {
    "in the head": b"HTTP/1.1 200 OK\r\n",
    "before the first item": b"\r\n\r\n",
    "in the ping": b'"message_type":"ping"',
}
NAMED = {
    "behind the ping": b"}\n\n",
    "behind reasoning": b'"reasoning":"see."',
    "in text": b'"content":"two ',
    "behind text": b'"content":"six."}',
    "in the call": b'"name":"get_weather"',
    "in its arguments": b"ykjavi",
    "in the stop": b'"stop_reason":"requires_approval"',
    "in the usage": b'"message_type":"usage_statistics"',
}
#: How the proxy runs, the form of the request, and whether the connection is reset. A run of the command's is
#: in Letta's background if its answer is not streamed.
WAYS: tuple[tuple[str, Form, bool], ...] = (
    ("command", "async", False),
    ("command", "sync-stream", True),
    ("foreground", "async", True),
    ("foreground", "sync-stream", False),
    ("background", "sync", False),
    ("background", "async-stream", True),
)
#: Some of these tests leave a call pending and go on as another client.
CONFIGS = {
    "foreground": Config(background=Background.NEVER, pending_call_timeout=0.5),
    "background": Config(background=Background.ALWAYS, pending_call_timeout=0.5),
}


@frozen(kw_only=True)
class Ways:
    """Proxies that reach Letta through the relay, by how they run."""

    command_url: str
    embedded: dict[str, Embedded] = field(factory=dict)

    def url(self, way: str) -> str:
        return self.embedded[way].base_url if way in self.embedded else self.command_url


@pytest.fixture(scope="module")
def open_relay(rig: Rig) -> Iterator[Relay]:
    """A relay in front of Letta, open."""
    with relaying(rig.url, free_port()) as relay:
        relay.open()
        yield relay


@pytest.fixture
def relay(open_relay: Relay) -> Iterator[Relay]:
    """The same; nothing is cut any more after the test."""
    yield open_relay
    open_relay.cut = None


@pytest.fixture(scope="module")
def ways(open_relay: Relay) -> Iterator[Ways]:
    with contextlib.ExitStack() as stack:
        embedded = {
            way: stack.enter_context(embedding(open_relay.url, config)) for way, config in CONFIGS.items()
        }
        command = stack.enter_context(serving(open_relay.url, *SHORT_WAIT))
        yield Ways(command_url=command.base_url, embedded=embedded)


# --- The run is known


@pytest.mark.parametrize(("way", "form", "reset"), WAYS, ids=[f"{way}-{form}" for way, form, _ in WAYS])
@pytest.mark.parametrize("position", NAMED)
def test_the_client_notices_nothing(
    ways: Ways,
    relay: Relay,
    letta: LettaApi,
    agent: Agent,
    way: str,
    form: Form,
    reset: bool,
    position: str,
) -> None:
    url = ways.url(way)
    relay.cut_next(Cut(after=NAMED[position], reset=reset))
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if form in STREAMED else {}
    answer = ask(url, form, agent.name, SCRIPT, tools=TOOLS, max_retries=2, **options)
    assert relay.cut_count == 1
    assert (answer.reasoning, answer.text, answer.finish_reason) == (REASONING, TEXT, "tool_calls")
    [call] = answer.calls
    assert (call.name, call.arguments) == ("get_weather", ARGUMENTS)
    assert answer.request_count == 1
    assert answer.usage is not None
    assert answer.usage.total_tokens == 120
    check_one_ending(answer)
    check_one_run(letta, agent)
    assert letta.user_texts(agent) == [SCRIPT]
    assert letta.assistant_texts(agent) == [TEXT]
    assert letta.pending_call_ids(agent) == [call.id]

    history = [user(SCRIPT), answer.message, result(call, "3 C")]
    assert quoted_results(ask(url, form, agent.name, history, tools=TOOLS).text) == ["3 C"]
    assert letta.tool_returns(agent) == [(call.id, "3 C", "success")]
    if way in ways.embedded:
        lost, _ = ways.embedded[way].turns()[-2:]
        assert lost.resume_count == 1
        assert lost.cancel_count == 0


@pytest.mark.parametrize(("way", "form", "reset"), WAYS, ids=[f"{way}-{form}" for way, form, _ in WAYS])
@pytest.mark.parametrize("after", [b'"message_type":"tool_return_message"', b'"content":"results: '])
def test_between_the_steps_of_a_server_tool(
    ways: Ways, relay: Relay, letta: LettaApi, agent: Agent, way: str, form: Form, reset: bool, after: bytes
) -> None:
    relay.cut_next(Cut(after=after, reset=reset))
    answer = ask(ways.url(way), form, agent.name, SERVER_TOOL, max_retries=2)
    assert relay.cut_count == 1
    assert (answer.calls, answer.finish_reason, answer.request_count) == ([], "stop", 1)
    check_one_ending(answer)
    check_one_run(letta, agent)
    assert letta.user_texts(agent) == [SERVER_TOOL]
    working, results = letta.assistant_texts(agent)
    assert (working, results.startswith("results: ")) == ("Working.", True)
    assert answer.text == f"{working}\n\n{results}"
    assert letta.memory(agent).count("Likes tea.") == 1


@pytest.mark.parametrize(("way", "form", "reset"), WAYS, ids=[f"{way}-{form}" for way, form, _ in WAYS])
def test_after_results(
    ways: Ways, relay: Relay, letta: LettaApi, agent: Agent, way: str, form: Form, reset: bool
) -> None:
    url = ways.url(way)
    asked = ask(url, form, agent.name, SCRIPT, tools=TOOLS)
    relay.cut_next(Cut(after=b'"content":"results: ', reset=reset))
    history = [user(SCRIPT), asked.message, result(asked.calls[0], "3 C, rain")]
    answer = ask(url, form, agent.name, history, tools=TOOLS, max_retries=2)
    assert relay.cut_count == 1
    assert quoted_results(answer.text) == ["3 C, rain"]
    assert answer.request_count == 1
    assert letta.tool_returns(agent) == [(asked.calls[0].id, "3 C, rain", "success")]
    assert letta.assistant_texts(agent) == [TEXT, answer.text]


@pytest.mark.parametrize("form", PAIR)
def test_again_and_again(ways: Ways, relay: Relay, letta: LettaApi, agent: Agent, form: Form) -> None:
    """Each time that the background run is taken up its stream breaks again, a little later."""
    words = " ".join(f"w{number}" for number in range(20))
    relay.cut_next(Cut(after=b'"content":"w', count=4, times=4))
    answer = ask(ways.url("background"), form, agent.name, "slow 0.1\nwords 20", max_retries=2)
    assert relay.cut_count == 4
    assert (answer.text, answer.finish_reason, answer.request_count) == (words, "stop", 1)
    check_one_ending(answer)
    check_one_run(letta, agent)
    assert letta.assistant_texts(agent) == [words]
    assert ways.embedded["background"].turns()[-1].resume_count == 4


# --- Letta is away for a while


@pytest.mark.parametrize("away", ["closed", "frozen"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("background", [Background.NEVER, Background.ALWAYS])
def test_letta_is_away_for_a_while(
    rig: Rig, relay: Relay, letta: LettaApi, agent: Agent, form: Form, background: Background, away: str
) -> None:
    """It refuses connections for three seconds, or those there are fall silent as behind a gateway's table."""
    config = Config(background=background, letta_silence_timeout=1.5, letta_answer_timeout=1.5)
    words = " ".join(f"w{number}" for number in range(30))
    timers: list[threading.Timer] = []

    def leave() -> None:
        letta.wait_for_run(agent)
        time.sleep(1.0)  # some of its words have come by now
        if away == "frozen":
            relay.freeze()
        else:
            relay.close()
            timers.append(threading.Timer(3.0, relay.open))
            timers[0].start()

    with embedding(relay.url, config) as embedded, beside(leave):
        answer = ask(embedded.base_url, form, agent.name, "slow 0.1\nwords 30", max_retries=2)
        for timer in timers:
            timer.join()
        [summary] = embedded.turns()
    assert (answer.text, answer.finish_reason, answer.request_count) == (words, "stop", 1)
    check_one_ending(answer)
    check_one_run(letta, agent)
    assert letta.user_texts(agent) == ["slow 0.1\nwords 30"]
    assert letta.assistant_texts(agent) == [words]
    assert summary.resume_count >= 1
    assert summary.cancel_count == 0


@pytest.mark.parametrize("form", PAIR)
def test_letta_is_away_for_too_long(relay: Relay, letta: LettaApi, agent: Agent, form: Form) -> None:
    """The client is told, once, and may not repeat it; the run goes on, and the agent is not stuck."""
    with embedding(relay.url, Config(resume_timeout=1.0)) as embedded:
        url = embedded.base_url

        def leave() -> None:
            letta.wait_for_run(agent)
            time.sleep(1.0)
            relay.close()

        with beside(leave):
            answer = attempt(url, form, agent.name, "slow 0.1\nwords 30", max_retries=2)
        relay.open()
        assert isinstance(answer.error, APIError)
        assert answer.error.type == "upstream_error"
        assert answer.request_count == 1
        assert letta.ended_runs(agent)
        assert ask(url, form, agent.name, "say Well again.").text == "Well again."
    assert letta.user_texts(agent) == ["slow 0.1\nwords 30", "say Well again."]


# --- The run has no name yet


@pytest.mark.parametrize(("way", "form", "reset"), WAYS, ids=[f"{way}-{form}" for way, form, _ in WAYS])
@pytest.mark.parametrize("position", UNNAMED)
def test_before_the_run_is_named(
    ways: Ways,
    relay: Relay,
    letta: LettaApi,
    agent: Agent,
    way: str,
    form: Form,
    reset: bool,
    position: str,
) -> None:
    """Letta has taken the message: its run is found by the mark of the request, and told to its end."""
    url = ways.url(way)
    relay.cut_next(Cut(after=UNNAMED[position], reset=reset))
    answer = attempt(url, form, agent.name, SCRIPT, tools=TOOLS, max_retries=2)
    assert relay.cut_count == 1
    assert answer.error is None
    assert answer.text == TEXT
    check_one_ending(answer)
    assert answer.request_count == 1
    check_one_run(letta, agent)
    assert ask(url, "sync-stream", agent.name, "say Well again.").text == "Well again."
    assert letta.user_texts(agent) == [SCRIPT, "say Well again."]
    assert letta.pending_call_ids(agent) == []


# --- What all have in common


def check_one_ending(answer: Answer) -> None:
    """Make sure that a streamed answer begins once and ends once."""
    choices = [choice for chunk in answer.chunks for choice in chunk.choices]
    assert [choice.delta.role for choice in choices if choice.delta.role] == ["assistant"] * bool(choices)
    assert sum(choice.finish_reason is not None for choice in choices) == bool(choices)


def check_one_run(letta: LettaApi, agent: Agent) -> None:
    """Make sure that there was one run, and that nobody cancelled it."""
    assert [run["status"] for run in letta.ended_runs(agent)] == ["completed"]


@contextlib.contextmanager
def beside(act: Callable[[], None]) -> Iterator[None]:
    """Have something happen in a thread of its own while the block runs; what it raises is raised."""
    caught: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as exc:
            caught.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if caught:
        raise caught[0]
