"""Retries: after an error status, after a client's own timeout, and while the agent is busy."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from attrs import field, frozen
from openai import APIError, APIStatusError, APITimeoutError

from live.asking import FORMS, PAIR, STREAMED, TOOLS, Form, Message, ask, attempt, result, user
from live.embedded import Embedded, embedding
from live.letta_api import Agent, LettaApi
from live.proxy import serving
from live.relay import relaying
from live.rig import Rig, free_port
from live.test_tools import quoted_results
from sansio_letta import Config
from sansio_letta.config import Background

SECOND_STEP = 'say Working.\ncall memory_insert {"label": "human", "new_string": "fail 500"}'


@pytest.fixture(scope="module")
def impatient(rig: Rig) -> Iterator[Embedded]:
    """A server whose turns do not wait long for one another."""
    with embedding(rig.url, Config(queue_timeout=0.5)) as embedded:
        yield embedded


# --- Each status that Letta can be made to give, with the SDK's repeats on


@frozen(kw_only=True)
class Case:
    """What is asked, and what comes of it."""

    script: str
    status: int
    type: str
    code: str
    should_retry: str | None = None
    request_count: int = 1
    model: str | None = None
    fields: dict[str, Any] = field(factory=dict)


CASES = {
    "400": Case(
        script="say Hello.",
        status=400,
        type="invalid_request_error",
        code="unsupported_value",
        fields={"n": 2},
    ),
    "404": Case(
        script="say Hello.", status=404, type="invalid_request_error", code="model_not_found", model="nobody"
    ),
    "413": Case(
        script="x" * Config().max_request_size,
        status=413,
        type="invalid_request_error",
        code="request_too_large",
    ),
    "415": Case(
        script="say Hello.",
        status=415,
        type="invalid_request_error",
        code="unsupported_media_type",
        fields={"extra_headers": {"Content-Encoding": "gzip"}},
    ),
    "429": Case(
        script="fail 429", status=429, type="rate_limit_error", code="rate_limit_exceeded", request_count=3
    ),
    "502 of the model": Case(
        script="fail 500", status=502, type="server_error", code="upstream_error", request_count=3
    ),
    "502 that stays": Case(
        script="fail 401", status=502, type="server_error", code="llm_authentication", should_retry="false"
    ),
}


@pytest.mark.parametrize("form", PAIR)
@pytest.mark.parametrize("name", CASES)
def test_a_status_is_repeated_or_not(url: str, letta: LettaApi, agent: Agent, form: Form, name: str) -> None:
    case = CASES[name]
    answer = attempt(url, form, case.model or agent.name, case.script, max_retries=2, **case.fields)
    error = answer.error
    assert isinstance(error, APIStatusError)
    assert (error.status_code, error.type, error.code) == (case.status, case.type, case.code)
    assert error.response.headers.get("x-should-retry") == case.should_retry
    assert error.request_id
    assert answer.request_count == case.request_count
    assert letta.history(agent) == []


@pytest.mark.parametrize("form", PAIR)
def test_what_was_kept_is_not_repeated(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    """Conformance F16: 424, or the error in the stream, and one request."""
    answer = attempt(url, form, agent.name, SECOND_STEP, max_retries=2)
    error = answer.error
    assert isinstance(error, APIError)
    assert error.type == "upstream_error"
    if form not in STREAMED:
        assert isinstance(error, APIStatusError)
        assert error.status_code == 424
        assert error.response.headers["x-should-retry"] == "false"
    assert answer.request_count == 1
    assert len(letta.runs(agent)) == 1
    assert letta.user_texts(agent) == [SECOND_STEP]


@pytest.mark.parametrize("form", PAIR)
def test_letta_is_not_there(rig: Rig, letta: LettaApi, agent: Agent, form: Form) -> None:
    """Tried thrice by the SDK; once Letta is back, the SDK succeeds alone."""
    with relaying(rig.url, free_port()) as relay, serving(relay.url) as proxy:
        answer = attempt(proxy.base_url, form, agent.name, "say Hello.", max_retries=2)
        assert isinstance(answer.error, APIStatusError)
        assert (answer.error.status_code, answer.error.type) == (502, "server_error")
        assert answer.request_count == 3
        count = len(proxy.lines)
        with ThreadPoolExecutor() as pool:
            asking = pool.submit(ask, proxy.base_url, form, agent.name, "say Hello!", max_retries=2)
            while not any('"failure"' in line for line in proxy.lines[count:]):
                assert not asking.done()
                time.sleep(0.02)
            relay.open()
            assert asking.result().text == "Hello!"
    assert letta.user_texts(agent) == ["say Hello!"]


@pytest.mark.parametrize("form", PAIR)
def test_letta_is_silent(rig: Rig, letta: LettaApi, agent: Agent, form: Form) -> None:
    """No byte for longer than Letta may take: its run is still followed, and nothing is said twice."""
    with embedding(rig.url, Config(background=Background.NEVER, letta_silence_timeout=1.0)) as embedded:
        answer = ask(embedded.base_url, form, agent.name, "wait 3\nsay Late.", max_retries=2)
    assert (answer.text, answer.request_count) == ("Late.", 1)
    assert letta.user_texts(agent) == ["wait 3\nsay Late."]
    assert [run["status"] for run in letta.runs(agent)] == ["completed"]


# --- Busy


@pytest.mark.parametrize("form", PAIR)
def test_who_comes_second_waits(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    """Conformance F14, with the queue: nobody is refused, and one speaks after the other."""
    scripts = [f"slow 0.2\nwords 10\nsay {number}." for number in range(3)]
    with ThreadPoolExecutor() as pool:
        asked = []
        for script in scripts:
            asked.append(pool.submit(ask, url, form, agent.name, script, max_retries=0))
            letta.wait_for_run(agent)
        answers = [each.result() for each in asked]
    assert [answer.text.splitlines()[-1] for answer in answers] == ["0.", "1.", "2."]
    said = letta.user_texts(agent)
    assert (said[0], sorted(said)) == (scripts[0], scripts)
    kept = [item["message_type"] for item in letta.history(agent)]
    assert kept == ["user_message", "assistant_message"] * 3


@pytest.mark.parametrize("form", FORMS)
def test_busy_and_then_free(impatient: Embedded, letta: LettaApi, agent: Agent, form: Form) -> None:
    """Conformance F14, without patience: 409 with Retry-After, and the SDK succeeds alone."""
    long = "slow 0.2\nwords 15"
    with ThreadPoolExecutor() as pool:
        first = pool.submit(ask, impatient.base_url, form, agent.name, long)
        letta.wait_for_run(agent)
        error = attempt(impatient.base_url, form, agent.name, "say No.").error
        second = ask(impatient.base_url, form, agent.name, "say Hello.", max_retries=2)
        assert first.result().finish_reason == "stop"
    assert isinstance(error, APIStatusError)
    assert (error.status_code, error.type, error.code) == (409, "conflict_error", "agent_busy")
    assert 1 <= int(error.response.headers["retry-after"]) <= 59
    assert (second.text, second.request_count) == ("Hello.", 2)
    assert letta.user_texts(agent) == [long, "say Hello."]


# --- The client's own timeout


@pytest.mark.parametrize("form", FORMS)
def test_a_timeout_shorter_than_the_turn(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    """Conformance F15: one second of patience, a turn of three, two repeats, one message in Letta."""
    answer = ask(url, form, agent.name, "wait 3\nsay Late.", timeout=1.0, max_retries=2)
    assert (answer.text, answer.finish_reason) == ("Late.", "stop")
    assert answer.request_count in (2, 3)
    assert letta.user_texts(agent) == ["wait 3\nsay Late."]
    assert letta.assistant_texts(agent) == ["Late."]
    assert [run["status"] for run in letta.ended_runs(agent)] == ["completed"]


@pytest.mark.parametrize("form", FORMS)
def test_results_are_not_given_twice(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    """The same with a tool's result, after which the agent thinks for three seconds."""
    asked = ask(url, form, agent.name, "call read_file", tools=TOOLS)
    history: list[Message] = [user("call read_file"), asked.message, result(asked.calls[0], "wait 3")]
    answer = ask(url, form, agent.name, history, tools=TOOLS, timeout=1.0, max_retries=2)
    assert quoted_results(answer.text) == ["wait 3"]
    assert letta.tool_returns(agent) == [(asked.calls[0].id, "wait 3", "success")]
    assert len(letta.runs(agent)) == 2


@pytest.mark.parametrize("form", PAIR)
def test_all_repeats_run_out(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    """Nobody is left to answer: the run is ended soon after, and asked again the agent hears it once."""
    answer = attempt(url, form, agent.name, "wait 8\nsay Late.", timeout=1.0, max_retries=1)
    assert isinstance(answer.error, APITimeoutError)
    assert answer.request_count == 2
    assert {run["status"] for run in letta.ended_runs(agent, timeout=6.0)} == {"cancelled"}
    assert letta.history(agent) == []
    assert ask(url, form, agent.name, "wait 8\nsay Late.").text == "Late."
    assert letta.user_texts(agent) == ["wait 8\nsay Late."]
