"""Failures before and after the first chunk: what the SDK raises, and whether it retries."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import pytest
from attrs import frozen
from openai import (
    APIError,
    APIStatusError,
    BadRequestError,
    ConflictError,
    InternalServerError,
    NotFoundError,
    RateLimitError,
)

from drive import DONE, PING, TOOL_RETURN, error, say, server_call, stop, think
from letta_server import UpstreamError
from live.asking import FORMS, PAIR, STREAMED, WHOLE, Form, attempt, fetch, sync_client, user
from sansio_letta import Summary
from sansio_letta.errors import Failure
from sansio_letta.upstreams.rest.commands import FindAgent, OpenStream
from server.scripted import Script, hello, runs
from support import matrix

from .asking import HELPERS, HelperForm, helped
from .serving import MAX_REQUEST_SIZE, NO_PAUSES, RunningServer, serving
from .standin import StandInLetta, refuses

RETRIES = 2


@frozen(kw_only=True)
class Case:
    """One way in which a request fails before its first chunk.

    :param script: makes Letta's answer to the run; None if it does not come to one.
    :param retried: whether the SDK must ask again, as often as it may.
    """

    cls: type[APIStatusError]
    status: int
    type: str
    code: str
    param: str | None = None
    retried: bool = False
    header: str | None = None  #: ``x-should-retry``
    retry_after: str | None = None
    script: Callable[[], Script] | None = None
    request: Mapping[str, Any] = MappingProxyType({})


def ended(reason: str, kind: str | None = None) -> Callable[[], Script]:
    """The run ends badly in its first step, before the agent says anything."""
    return lambda: runs(PING, stop(reason), *([error(kind)] if kind else []), DONE)


def unsendable(failure: Failure) -> Callable[[], Script]:
    return lambda: Script(OpenStream, sending=UpstreamError(failure, "connection refused"))


INVALID, SERVER, RATE = "invalid_request_error", "server_error", "rate_limit_error"

CASES: Final = {
    "400 value": Case(
        cls=BadRequestError, status=400, type=INVALID, code="unsupported_value", param="n", request={"n": 2}
    ),
    "400 type": Case(
        cls=BadRequestError, status=400, type=INVALID, code="invalid_type", param="stop", request={"stop": 1}
    ),
    "400 parameter": Case(
        cls=BadRequestError,
        status=400,
        type=INVALID,
        code="unsupported_parameter",
        param="functions",
        request={"functions": [{"name": "f"}]},
    ),
    "400 nothing new": Case(
        cls=BadRequestError,
        status=400,
        type=INVALID,
        code="invalid_value",
        param="messages",
        request={"messages": [user("hi"), {"role": "assistant", "content": "Hello"}]},
    ),
    "400 context": Case(
        cls=BadRequestError,
        status=400,
        type=INVALID,
        code="context_length_exceeded",
        script=ended("context_window_overflow_in_system_prompt"),
    ),
    "400 of Letta's": Case(
        cls=BadRequestError, status=400, type=INVALID, code="invalid_value", script=lambda: refuses(422)
    ),
    "404": Case(
        cls=NotFoundError,
        status=404,
        type=INVALID,
        code="model_not_found",
        param="model",
        request={"model": "nobody"},
    ),
    "409": Case(
        cls=ConflictError,
        status=409,
        type="conflict_error",
        code="agent_busy",
        retried=True,
        retry_after="5",
        script=lambda: refuses(409, "Another run is active."),
    ),
    "409 for long": Case(
        cls=ConflictError,
        status=409,
        type="conflict_error",
        code="agent_busy",
        retried=True,
        retry_after="59",
        script=lambda: refuses(409, retry_after=600),
    ),
    "413 of Letta's": Case(
        cls=APIStatusError, status=413, type=INVALID, code="request_too_large", script=lambda: refuses(413)
    ),
    "429": Case(
        cls=RateLimitError,
        status=429,
        type=RATE,
        code="rate_limit_exceeded",
        retried=True,
        script=ended("llm_api_error", "llm_rate_limit"),
    ),
    "429 of Letta's": Case(
        cls=RateLimitError,
        status=429,
        type=RATE,
        code="rate_limit_exceeded",
        retried=True,
        retry_after="7",
        script=lambda: refuses(429, retry_after=7),
    ),
    "429 quota": Case(
        cls=RateLimitError,
        status=429,
        type=RATE,
        code="insufficient_quota",
        header="false",
        script=ended("insufficient_credits"),
    ),
    "502 model": Case(
        cls=InternalServerError,
        status=502,
        type=SERVER,
        code="upstream_error",
        retried=True,
        script=ended("llm_api_error", "llm_error"),
    ),
    "502 model's key": Case(
        cls=InternalServerError,
        status=502,
        type=SERVER,
        code="llm_authentication",
        header="false",
        script=ended("llm_api_error", "llm_authentication"),
    ),
    "502 our key": Case(
        cls=InternalServerError,
        status=502,
        type=SERVER,
        code="letta_unauthorized",
        header="false",
        script=lambda: refuses(401),
    ),
    "502 of Letta's": Case(
        cls=InternalServerError,
        status=502,
        type=SERVER,
        code="upstream_error",
        retried=True,
        script=lambda: refuses(500),
    ),
    "502 not sent": Case(
        cls=InternalServerError,
        status=502,
        type=SERVER,
        code="upstream_error",
        retried=True,
        script=unsendable(Failure.NOT_SENT),
    ),
    "503": Case(
        cls=InternalServerError,
        status=503,
        type=SERVER,
        code="upstream_error",
        retried=True,
        script=lambda: refuses(503),
    ),
    "504 model": Case(
        cls=InternalServerError,
        status=504,
        type=SERVER,
        code="llm_timeout",
        retried=True,
        script=ended("llm_api_error", "llm_timeout"),
    ),
    "424 gateway that gave up": Case(
        cls=APIStatusError,
        status=424,
        type="upstream_error",
        code="upstream_error",
        header="false",
        script=lambda: refuses(504),
    ),
    "424 broken while sending": Case(
        cls=APIStatusError,
        status=424,
        type="upstream_error",
        code="upstream_error",
        header="false",
        script=unsendable(Failure.BROKEN),
    ),
    "424 not a stream": Case(
        cls=APIStatusError,
        status=424,
        type="upstream_error",
        code="upstream_error",
        header="false",
        script=lambda: Script(OpenStream, [b"<html>"], headers=[("content-type", "text/html")]),
    ),
}

case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def check(exc: APIError | None, case: Case) -> None:
    """The SDK raised what the case says."""
    assert type(exc) is case.cls, repr(exc)
    assert isinstance(exc, APIStatusError)
    assert (exc.status_code, exc.type, exc.code, exc.param) == (case.status, case.type, case.code, case.param)
    assert exc.request_id is not None
    assert exc.request_id.startswith("req_")
    assert isinstance(exc.body, dict)
    assert set(exc.body) == {"message", "type", "code", "param"}
    assert exc.body["message"]
    assert exc.body["message"] in exc.message
    headers = exc.response.headers
    assert headers["content-type"] == "application/json"
    assert (headers.get("x-should-retry"), headers.get("retry-after")) == (case.header, case.retry_after)


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    """A server that waits neither for an agent that is busy nor for a Letta that is away."""
    with serving(StandInLetta(), **NO_PAUSES) as running:
        yield running


# --- F7, F13


@case
@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_before_the_first_chunk(
    server: RunningServer,
    url: str,
    letta: StandInLetta,
    served: list[Summary],
    pauses: list[float],
    form: Form,
    case: Case,
) -> None:
    count = 1 + RETRIES if case.retried else 1
    agent = letta.add(*([case.script() for _ in range(count)] if case.script else []))
    fields = {"model": agent.name, "messages": [user("hi")], **case.request}
    model, messages = fields.pop("model"), fields.pop("messages")
    answer = attempt(url, form, model, messages, max_retries=RETRIES, **fields)
    check(answer.error, case)
    assert answer.request_count == count
    assert len(agent.requests) == (count if case.script else 0)
    assert answer.chunks == []
    server.settle()
    assert [(summary.status, summary.outcome) for summary in served] == [(case.status, case.code)] * count
    assert len(pauses) == count - 1
    if case.retry_after is not None:
        assert pauses == [float(case.retry_after)] * RETRIES


@pytest.mark.parametrize("form", matrix(HELPERS, HELPERS[0]))
@pytest.mark.parametrize("name", ["400 value", "404", "429 quota", "502 model's key"])
def test_before_the_first_chunk_through_the_helper(
    url: str, letta: StandInLetta, form: HelperForm, name: str
) -> None:
    case = CASES[name]
    agent = letta.add(*([case.script()] if case.script else []))
    fields = {"model": agent.name, **case.request}
    got = helped(url, form, fields.pop("model"), max_retries=RETRIES, **fields)
    check(got.error, case)
    assert got.events == []


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_several_agents_of_one_name(url: str, letta: StandInLetta, form: Form) -> None:
    first, second = letta.add(hello(), name="Twin"), letta.add(hello(), name="Twin")
    answer = attempt(url, form, "Twin", "hi", max_retries=RETRIES)
    check(
        answer.error,
        Case(cls=BadRequestError, status=400, type=INVALID, code="invalid_value", param="model"),
    )
    assert first.id in str(answer.error)
    assert second.id in str(answer.error)
    assert answer.request_count == 1
    assert attempt(url, form, second.id, "hi").text == "Hello"


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
@pytest.mark.parametrize("failure", [Failure.NOT_SENT, Failure.BROKEN])
def test_letta_is_away(
    url: str, letta: StandInLetta, pauses: list[float], form: Form, failure: Failure
) -> None:
    """Nothing was sent to the agent, so that a repeat is welcome, and it succeeds once Letta is back."""
    agent = letta.add(hello())

    def away() -> Script:
        if len(pauses) == 1:
            letta.failing = None
        return Script(FindAgent, sending=UpstreamError(failure, "connection refused"))

    letta.failing = away
    answer = attempt(url, form, agent.name, "hi", max_retries=RETRIES)
    assert (answer.text, answer.request_count) == ("Hello", 3)
    assert agent.texts == ["hi"]


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
@pytest.mark.parametrize("name", ["409", "429", "502 model", "503"])
def test_repeat_that_succeeds(
    url: str, letta: StandInLetta, pauses: list[float], form: Form, name: str
) -> None:
    script = CASES[name].script
    assert script is not None
    agent = letta.add(script(), script(), hello())
    answer = attempt(url, form, agent.name, "hi", max_retries=RETRIES)
    assert (answer.text, answer.request_count, len(pauses)) == ("Hello", 3, 2)


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_body_beyond_the_limit(url: str, letta: StandInLetta, form: Form) -> None:
    agent = letta.add(hello())
    answer = attempt(url, form, agent.name, "x" * (MAX_REQUEST_SIZE + 1), max_retries=RETRIES)
    check(answer.error, Case(cls=APIStatusError, status=413, type=INVALID, code="request_too_large"))
    assert answer.request_count == 1
    assert agent.commands == []


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_coded_body(url: str, letta: StandInLetta, form: Form) -> None:
    agent = letta.add(hello())
    coded = {"Content-Encoding": "gzip"}
    answer = attempt(url, form, agent.name, "hi", max_retries=RETRIES, extra_headers=coded)
    check(answer.error, Case(cls=APIStatusError, status=415, type=INVALID, code="unsupported_media_type"))
    assert answer.request_count == 1


def test_methods_and_paths(url: str) -> None:
    with sync_client(url, max_retries=RETRIES) as client:
        with pytest.raises(APIStatusError) as refused:
            client.delete("/models", cast_to=object)
        check(refused.value, Case(cls=APIStatusError, status=405, type=INVALID, code="method_not_allowed"))
        assert refused.value.response.headers["allow"] == "GET, HEAD, OPTIONS"
        with pytest.raises(NotFoundError) as unknown:
            client.embeddings.create(model="x", input="hi")
        check(unknown.value, Case(cls=NotFoundError, status=404, type=INVALID, code="unknown_url"))


def test_body_that_is_no_json(url: str) -> None:
    response = fetch(url, "POST", "/chat/completions", b'{"model": ')
    assert (response.status, response.error["code"]) == (400, "invalid_json")


# --- F8


@frozen(kw_only=True)
class Broken:
    """How a run fails after the agent has begun to speak, and what the error says."""

    reason: str = "llm_api_error"
    kind: str | None = "llm_error"
    kept: bool = False
    type: str
    code: str


BROKEN: Final = {
    "model": Broken(type=SERVER, code="upstream_error"),
    "rate": Broken(kind="llm_rate_limit", type=SERVER, code="rate_limit_exceeded"),
    "quota": Broken(
        reason="insufficient_credits", kind=None, type="upstream_error", code="insufficient_quota"
    ),
    "model, kept": Broken(kept=True, type="upstream_error", code="upstream_error"),
    "rate, kept": Broken(kind="llm_rate_limit", kept=True, type="upstream_error", code="rate_limit_exceeded"),
    "context, kept": Broken(
        reason="context_window_overflow_in_system_prompt",
        kind=None,
        kept=True,
        type=INVALID,
        code="context_length_exceeded",
    ),
}  # fmt: skip

broken = pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())


def breaking(broken: Broken) -> Script:
    step = [server_call("call-9", "search", "{}"), TOOL_RETURN] if broken.kept else []
    told = [error(broken.kind)] if broken.kind else []
    return runs(PING, think("Hm."), *step, say("Hel"), say("lo"), stop(broken.reason), *told, DONE)


@broken
@pytest.mark.parametrize("form", matrix(STREAMED, *PAIR))
def test_after_the_first_chunk(url: str, letta: StandInLetta, form: Form, broken: Broken) -> None:
    agent = letta.add(breaking(broken))
    answer = attempt(url, form, agent.name, "hi", max_retries=RETRIES)
    assert type(answer.error) is APIError
    assert (answer.error.type, answer.error.code, answer.error.param) == (broken.type, broken.code, None)
    assert answer.error.message
    assert (answer.reasoning, answer.text, answer.finish_reason) == ("Hm.", "Hello", None)
    assert answer.request_count == 1
    assert agent.texts == ["hi"]


@broken
@pytest.mark.parametrize("form", matrix(HELPERS, HELPERS[0]))
def test_after_the_first_chunk_through_the_helper(
    url: str, letta: StandInLetta, form: HelperForm, broken: Broken
) -> None:
    agent = letta.add(breaking(broken))
    got = helped(url, form, agent.name, max_retries=RETRIES)
    assert type(got.error) is APIError
    assert (got.error.type, got.error.code, got.error.param) == (broken.type, broken.code, None)
    assert got.snapshot is not None
    assert got.snapshot.choices[0].message.content == "Hello"
    assert got.of("content.done") == []
    assert agent.texts == ["hi"]


@broken
@pytest.mark.parametrize("form", matrix(WHOLE, *PAIR))
def test_same_failure_of_a_whole_answer(url: str, letta: StandInLetta, form: Form, broken: Broken) -> None:
    agent = letta.add(breaking(broken), breaking(broken))
    whole = attempt(url, form, agent.name, "hi")
    streamed = attempt(url, STREAMED[0], agent.name, "hi")
    assert isinstance(whole.error, APIStatusError)
    assert isinstance(streamed.error, APIError)
    # A status tells more than an event can: the types may differ, and nothing else does.
    assert isinstance(whole.error.body, dict)
    assert isinstance(streamed.error.body, dict)
    bodies = [{**body, "type": None} for body in (whole.error.body, streamed.error.body)]
    assert bodies[0] == bodies[1]


# --- F16


@pytest.mark.parametrize("form", matrix(WHOLE, *PAIR))
@pytest.mark.parametrize(
    "name", [name for name, broken in BROKEN.items() if broken.kept and broken.type != INVALID]
)
def test_nobody_repeats_what_was_kept(
    url: str, letta: StandInLetta, pauses: list[float], form: Form, name: str
) -> None:
    agent = letta.add(breaking(BROKEN[name]))
    answer = attempt(url, form, agent.name, "hi", max_retries=RETRIES)
    assert isinstance(answer.error, APIStatusError)
    assert (answer.error.status_code, answer.error.type) == (424, "upstream_error")
    assert answer.error.response.headers["x-should-retry"] == "false"
    assert answer.request_count == 1
    assert agent.texts == ["hi"]
    assert pauses == []


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_results_are_kept_at_once(url: str, letta: StandInLetta, pauses: list[float], form: Form) -> None:
    """The step after the results fails, and the results are in the agent's memory all the same."""
    agent = letta.add(runs(PING, stop("llm_api_error"), error("llm_error"), DONE), pending=["call-1"])
    calls = [{"id": "call-1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}]
    history = [
        user("hi"),
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call-1", "content": "18 C"},
    ]
    answer = attempt(url, form, agent.name, history, max_retries=RETRIES)
    assert isinstance(answer.error, APIStatusError)
    assert (answer.error.status_code, answer.error.type) == (424, "upstream_error")
    assert answer.request_count == len(agent.requests) == 1
