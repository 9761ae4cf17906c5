"""One HTTP request of a client, answered: heads, bodies, deadlines, and the summary for the log."""

import re
from typing import Any

import orjson
import pytest

from drive import (
    AGENT_ID,
    CONFLICT,
    DONE,
    JSON,
    PING,
    RUN_ID,
    USAGE,
    agent_json,
    encode,
    error,
    say,
    stop,
    want,
)
from drive_cycle import Client, chat
from sansio_letta import Config, HttpRequest, LocalProtocolError, Proxy, ResponseBody, ResponseHead, Signal
from sansio_letta.errors import Failure
from sansio_letta.proxy.summary import Repeat
from sansio_letta.turn.events import Usage
from sansio_letta.upstreams.rest.commands import (
    CancelRun,
    CheckHealth,
    FetchAgent,
    FetchRun,
    FindAgent,
    ListAgents,
    OpenStream,
)

STOPS = (stop(), USAGE, DONE)
HELLO = (PING, say("Hello"), stop(), USAGE, DONE)


def get(target: str, method: str = "GET") -> HttpRequest:
    return HttpRequest(method=method, target=target)


# --- Chat


def test_streamed_answer() -> None:
    client = Client(chat(stream=True)).answer([agent_json()]).stream(*HELLO)
    assert client.ended
    assert (client.status, client.headers) == (
        200,
        {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
            "x-request-id": "req_abcdef12",
        },
    )
    first, *_, last = client.body.split(b"\n\n")[:-1]
    assert orjson.loads(first.removeprefix(b"data: ")) == {
        "id": "chatcmpl-abcdef12",
        "object": "chat.completion.chunk",
        "created": 1_795_332_551,
        "model": "Milo",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
    }
    assert last == b"data: [DONE]"


def test_head_waits_for_the_first_item_that_is_no_ping() -> None:
    client = Client(chat(stream=True)).answer([agent_json()]).stream(PING)
    assert client.head is None
    assert not client.cycle.responding
    client.cycle.receive_data(encode(say("Hel")), 103.0)
    client.pump()
    assert client.status == 200


def test_collected_answer() -> None:
    answer = Client(chat()).answer([agent_json()]).stream(*HELLO).json()
    assert answer["choices"][0]["message"]["content"] == "Hello"
    assert answer["usage"]["total_tokens"] == 120


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_failure_before_the_commit_is_a_status(stream: bool) -> None:
    client = Client(chat(stream=stream)).answer([agent_json()])
    client.stream(PING, stop("llm_api_error"), error("llm_rate_limit"), DONE)
    assert (client.status, client.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert client.ended


def test_failure_after_the_commit_is_an_event() -> None:
    client = Client(chat(stream=True)).answer([agent_json()])
    client.stream(PING, say("Hel"), stop("llm_api_error"), error())
    *_, last, nothing = client.body.split(b"\n\n")
    assert nothing == b""
    assert orjson.loads(last.removeprefix(b"data: "))["error"] == {
        "message": "Letta ended the run: llm_error: It broke.",
        "type": "server_error",
        "param": None,
        "code": "upstream_error",
    }
    assert client.status == 200


def test_failure_after_some_text_is_a_status_while_collecting() -> None:
    client = Client(chat()).answer([agent_json()])
    client.stream(PING, say("Hel"), say("lo", id="m2", step="step-2"), stop("llm_api_error"), error())
    assert (client.status, client.headers["x-should-retry"]) == (424, "false")


def test_agent_is_remembered_for_a_while() -> None:
    proxy = Proxy(Config(agent_ttl=10.0))
    Client(chat(), proxy).answer([agent_json()], now=100.0).stream(*HELLO)
    assert type(Client(chat(), proxy).stream(*HELLO).commands[0]) is OpenStream
    late = proxy.open(chat(content="later"), token="abcdef12", created=0, now=111.0)
    assert type(late.next_event()) is FindAgent


def test_agent_that_is_gone_is_forgotten() -> None:
    proxy = Proxy()
    Client(chat(), proxy).answer([agent_json()]).stream(*HELLO)
    gone = Client(chat(), proxy).answer({"detail": "not found"}, 404)
    assert [type(command) for command in gone.commands] == [OpenStream, FindAgent]
    gone.answer([])
    assert gone.status == 404
    assert type(Client(chat(), proxy).commands[0]) is FindAgent


def test_ignored_fields_are_named_in_a_header() -> None:
    odd: dict[str, Any] = {"evil\r\nx-a: b": 1, "ünicode": 2}
    client = Client(chat(temperature=0, **odd)).answer([agent_json()]).stream(*HELLO)
    assert client.headers["x-ignored-parameters"] == "temperature, evil??x-a:?b, ?nicode"


def test_stale_results_are_named_in_a_header() -> None:
    body = {
        "model": "Milo",
        "messages": [
            {"role": "assistant", "content": "x"},
            {"role": "tool", "tool_call_id": "call-9", "content": "18 C"},
            {"role": "user", "content": "and?"},
        ],
    }
    request = HttpRequest(method="POST", target="/v1/chat/completions", body=orjson.dumps(body))
    client = Client(request).answer([agent_json("call-1")]).answer([]).stream(*HELLO)
    assert client.headers["x-ignored-parameters"] == "messages.tool_call_id"
    assert client.cycle.summary.settled is not None
    assert client.cycle.summary.settled.denied == ("call-1",)


@pytest.mark.parametrize(
    ("body", "param"),
    [(b"{", None), (b"{}", "model"), (orjson.dumps({"model": "Milo", "messages": []}), "messages")],
)
def test_bad_request(body: bytes, param: str | None) -> None:
    client = Client(HttpRequest(method="POST", target="/v1/chat/completions", body=body))
    assert (client.status, client.json()["error"]["param"]) == (400, param)
    assert client.commands == []
    assert client.cycle.summary.outcome in ("invalid_json", "missing_required_parameter", "invalid_value")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("content-length", "99999999999")], 413),
        ([("content-encoding", "gzip")], 415),
        ([("content-type", "multipart/form-data; boundary=x")], 400),
        ([("content-encoding", "identity"), ("content-type", "text/plain"), ("content-length", "3")], None),
        ([("content-length", "many")], None),
    ],
)
def test_heads_that_are_refused_before_the_body(headers: list[tuple[str, str]], status: int | None) -> None:
    request = HttpRequest(method="POST", target="/v1/chat/completions", headers=headers)
    refusal = Proxy().refuse(request)
    assert (refusal and refusal.status_hint) == status
    if refusal:
        assert Client(request).status == status


def test_rejected_request_is_answered_in_the_same_form() -> None:
    proxy = Proxy(Config(max_request_size=10))
    cycle = proxy.reject(proxy.too_large(), chat(), token="abcdef12", now=0.0)
    head, body = cycle.next_event(), cycle.next_event()
    assert isinstance(head, ResponseHead)
    assert isinstance(body, ResponseBody)
    assert (head.status, orjson.loads(body.data)["error"]["code"]) == (413, "request_too_large")
    assert cycle.next_event() is Signal.FINISHED


# --- Everything else


def test_models() -> None:
    proxy = Proxy(Config(agent_page_count=2))
    other = agent_json() | {"id": AGENT_ID.replace("11", "22"), "name": "Ada"}
    client = Client(get("/v1/models"), proxy)
    assert client.commands == [ListAgents(limit=2)]
    client.answer([agent_json(), other])
    assert client.commands[1] == ListAgents(limit=2, after=other["id"])
    client.answer([])
    assert [model["id"] for model in client.json()["data"]] == ["Milo", "Ada"]


def test_model() -> None:
    client = Client(get("/v1/models/Milo")).answer([agent_json()])
    assert client.json() == {"id": "Milo", "object": "model", "created": 1795334433, "owned_by": "letta"}
    by_id = Client(get(f"/models/{AGENT_ID}"))
    assert by_id.commands == [FetchAgent(agent_id=AGENT_ID)]
    assert by_id.answer(agent_json()).json()["name"] == "Milo"


def test_model_when_letta_is_away() -> None:
    client = Client(get("/v1/models/Milo"))
    client.cycle.receive_failure(Failure.NOT_SENT, "connection refused", 101.0)
    client.pump()
    assert (client.status, client.json()["error"]["message"]) == (
        502,
        "Letta cannot be reached: connection refused.",
    )


def test_ready() -> None:
    client = Client(get("/ready"))
    assert client.commands == [CheckHealth()]
    assert client.answer({"version": "0.16.7", "status": "ok"}).json() == {"status": "ready", "letta": "0.16.7"}
    away = Client(get("/ready"))
    away.cycle.receive_failure(Failure.BROKEN, "connection reset", 101.0)
    away.pump()
    assert (away.status, away.json()["reason"]) == (503, "Letta did not answer: connection reset.")


@pytest.mark.parametrize("target", ["/health", "/"])
def test_alive_without_letta(target: str) -> None:
    client = Client(get(target))
    assert (client.status, client.json()["status"], client.commands) == (200, "ok", [])


def test_head_has_no_body() -> None:
    client = Client(get("/health", "HEAD"))
    assert (client.status, client.body) == (200, b"")
    assert int(client.headers["content-length"]) > 0


def test_preflight() -> None:
    client = Client(get("/v1/chat/completions", "OPTIONS"))
    assert (client.status, client.body) == (204, b"")
    assert "content-length" not in client.headers


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [("GET", "/v1/embeddings", 404), ("DELETE", "/v1/models", 405), ("GET", "/api/ps?x=\r\n", 404)],
)
def test_paths_that_are_not_served(method: str, target: str, status: int) -> None:
    client = Client(get(target, method))
    assert client.status == status
    assert client.json()["error"]["type"] == "invalid_request_error"
    assert not re.search(r"[\r\n]", client.cycle.summary.path)


# --- Time


def test_comments_keep_a_waiting_client_alive() -> None:
    client = Client(chat(stream=True)).answer([agent_json()]).stream(PING, say("Hel"))
    assert client.cycle.next_deadline() == 117.0
    client.cycle.handle_deadline(116.0)
    client.pump()
    before = client.body
    client.cycle.handle_deadline(117.0)
    client.pump()
    assert client.body.removeprefix(before) == b": keepalive\n\n"
    assert client.cycle.next_deadline() == 132.0


ALIVE = b": keepalive\n\n"


def test_a_stream_begins_with_a_comment_if_the_agent_takes_its_time() -> None:
    client = Client(chat(stream=True)).answer([agent_json()]).stream(PING)
    assert client.cycle.next_deadline() == 115.0
    client.cycle.handle_deadline(114.9)
    client.pump()
    assert not client.cycle.responding
    client.cycle.handle_deadline(115.0)
    client.pump()
    assert (client.status, client.body) == (200, ALIVE)
    assert client.head is not None
    assert ("content-type", "text/event-stream; charset=utf-8") in client.head.headers
    assert client.cycle.next_deadline() == 130.0
    client.cycle.handle_deadline(130.0)
    client.pump()
    assert client.body == ALIVE * 2
    client.more(say("Hello"), *STOPS)
    assert client.body.startswith(ALIVE * 2 + b"data: ")
    assert client.body.endswith(b"data: [DONE]\n\n")
    assert (client.cycle.summary.status, client.cycle.summary.outcome) == (200, "stop")


@pytest.mark.parametrize(
    ("stream", "seconds"), [(False, 15.0), (True, 0.0)], ids=["a whole completion", "never"]
)
def test_nothing_is_said_before_the_head(stream: bool, seconds: float) -> None:
    house = Proxy(Config(early_response_timeout=seconds))
    client = Client(chat(stream=stream), house).answer([agent_json()]).stream(PING)
    assert client.cycle.next_deadline() == 222.0
    client.cycle.handle_deadline(200.0)
    client.pump()
    assert client.head is None


def test_a_failure_after_an_early_beginning_is_an_error_in_the_stream() -> None:
    client = Client(chat(stream=True)).answer([agent_json()]).stream(PING)
    client.cycle.handle_deadline(115.0)
    client.pump()
    client.more(error("llm_rate_limit", "slow down"), stop("error"), DONE)
    assert client.status == 200
    told = client.body.removeprefix(ALIVE)
    assert orjson.loads(told.removeprefix(b"data: "))["error"] == {
        "message": "Letta ended the run: llm_rate_limit: slow down",
        "type": "server_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert client.cycle.summary.outcome == "rate_limit_exceeded"


def test_what_fails_when_the_answer_would_begin_early_is_a_status_still() -> None:
    """Letta began to answer too late, the queue's patience and the turn's: each is due at the same moment."""
    for config in (
        Config(first_item_timeout=15.0),
        Config(letta_answer_timeout=15.0),
        Config(turn_timeout=15.0),
    ):
        client = Client(chat(stream=True), Proxy(config))
        if config.letta_answer_timeout != 15.0:
            client.answer([agent_json()])
        client.cycle.handle_deadline(115.0 + 2)
        client.pump()
        if config.letta_answer_timeout != 15.0:
            client.answer({"detail": "no such list"}, 404)  # which run it is
        assert client.status >= 400


def test_a_queue_is_waited_in_with_comments() -> None:
    house = Proxy(Config(queue_timeout=40.0))
    first = Client(chat(stream=True), house).answer([agent_json()]).stream(PING, say("Hel"))
    second = Client(chat(stream=True, content="another"), house)
    second.cycle.handle_deadline(115.0)
    second.pump()
    assert (second.status, second.body) == (200, ALIVE)
    second.cycle.handle_deadline(130.0)
    second.pump()
    assert second.body == ALIVE * 2
    second.cycle.handle_deadline(140.0)
    second.pump()
    assert b'"code":"agent_busy"' in second.body
    assert b"[DONE]" not in second.body
    first.more(*STOPS)


def test_who_joins_a_turn_that_takes_its_time_is_kept_waiting_as_well() -> None:
    house = Proxy()
    first = Client(chat(stream=True), house).answer([agent_json()]).stream(PING)
    second = Client(chat(stream=True), house)
    assert second.cycle.summary.repeat is Repeat.JOINED
    second.cycle.handle_deadline(115.0)
    second.pump()
    assert (second.status, second.body) == (200, ALIVE)
    first.more(say("Hello"), *STOPS)
    second.pump()
    assert second.body.endswith(b"data: [DONE]\n\n")


def test_no_comment_follows_an_error_while_the_turn_is_cleaned_up() -> None:
    """The body has a length, and nothing may come behind it."""
    client = Client(chat(stream=True, headers={"x-openwebui-task": "tags"}))
    client.answer([agent_json()]).answer({"id": "conv-1", "agent_id": AGENT_ID})
    client.stream(PING, error("llm_error", "no"), stop("error"), DONE)
    assert (client.status, client.commands[-1].method) == (502, "DELETE")
    told = client.body
    client.cycle.handle_deadline(116.0)
    client.cycle.handle_deadline(131.0)
    client.pump()
    assert client.body == told
    assert client.cycle.next_deadline() > 131.0


def test_an_answer_that_began_early_is_not_waited_for_by_a_client_that_comes_back() -> None:
    """No SDK repeats once it has a head: its run is cancelled."""
    client = Client(chat(stream=True, headers={"x-stainless-retry-count": "0"}))
    client.answer([agent_json()]).stream(PING)
    client.cycle.handle_deadline(115.0)
    client.pump()
    client.cycle.client_disconnected(116.0)
    assert not client.cycle.is_detached
    assert client.cycle.next_event() == CancelRun(agent_id=AGENT_ID, run_id=RUN_ID)


def test_silence_ends_the_turn_and_its_run() -> None:
    client = Client(chat(stream=True)).answer([agent_json()]).stream(PING, say("Hel"))
    client.cycle.handle_deadline(222.0)
    client.pump()
    client.answer({}, status=403, now=223.0)
    cancel = CancelRun(agent_id=AGENT_ID, run_id=RUN_ID)
    assert client.commands[-2:] == [FetchRun(run_id=RUN_ID), cancel]
    client.answer({RUN_ID: "cancelled"}, now=223.0)
    assert b"no byte came for 120 seconds" in client.body
    assert b"[DONE]" not in client.body


def test_silence_while_the_agent_is_looked_up() -> None:
    client = Client(get("/v1/models"))
    client.cycle.handle_deadline(220.0)
    client.pump()
    assert client.status == 502


# --- Leaving


def test_leaving_cancels_the_run() -> None:
    client = Client(chat(stream=True)).answer([agent_json()]).stream(PING, say("Hel"))
    client.cycle.client_disconnected(103.0)
    client.pump()
    assert client.commands[-1] == CancelRun(agent_id=AGENT_ID, run_id=RUN_ID)
    client.answer({RUN_ID: "cancelled"})
    assert client.ended
    assert client.cycle.summary.outcome == "abandoned"


def test_leaving_a_question() -> None:
    client = Client(get("/v1/models"))
    client.cycle.client_disconnected(103.0)
    client.pump()
    assert client.ended
    with pytest.raises(LocalProtocolError):
        client.cycle.receive_response(200, JSON, 101.0)


# --- The proxy's own end


def test_interrupting_a_stream_is_its_last_event_and_invites_no_repeat() -> None:
    client = Client(chat(stream=True)).answer([agent_json()]).stream(PING, say("Hel"))
    client.cycle.shut_down(104.0)
    client.pump()
    assert client.commands[-1] == CancelRun(agent_id=AGENT_ID, run_id=RUN_ID)
    client.answer({RUN_ID: "cancelled"})
    last = orjson.loads(client.body.rstrip().rpartition(b"data: ")[2])["error"]
    assert (last["type"], last["code"]) == ("upstream_error", "shutting_down")
    assert client.cycle.summary.kept == "unknown"


@pytest.mark.parametrize(
    ("answered", "kept", "status"),
    [("cancelled", [], 503), ("cancelled", [say("Hello")], 424), ("failed", None, 424)],
    ids=["nothing was kept", "a step ended before Letta noticed", "not confirmed"],
)
def test_interrupting_before_the_first_word(answered: str, kept: object, status: int) -> None:
    client = Client(chat(stream=True)).answer([agent_json()]).stream(PING)
    client.cycle.shut_down(104.0)
    client.pump()
    client.answer({RUN_ID: answered}, now=104.0)
    if kept is not None:
        assert client.waits
        client.go_on(now=105.0).answer(kept, now=105.0)
    assert (client.status, client.cycle.summary.outcome) == (status, "shutting_down")
    assert ("retry-after" in client.headers) is (status == 503)


def test_interrupting_a_question() -> None:
    client = Client(get("/v1/models"))
    client.cycle.shut_down(101.0)
    client.pump()
    assert (client.status, client.ended) == (503, True)
    client.cycle.shut_down(102.0)
    client.pump()
    assert client.status == 503


def test_ready_says_that_the_end_is_near() -> None:
    proxy = Proxy()
    proxy.ending = True
    cycle = proxy.open(get("/ready"), token="0123456789ab", created=0, now=0.0)
    head = cycle.next_event()
    assert isinstance(head, ResponseHead)
    assert head.status == 503


# --- The summary


def test_summary_tells_what_happened_without_text() -> None:
    tools = [{"type": "function", "function": {"name": "get_weather"}}]
    client = Client(chat(stream=True, content="secret words", tools=tools)).answer([agent_json()])
    client.stream(PING, stop("error"), CONFLICT, DONE).answer(agent_json("call-1"))
    client.stream(PING, want("call-2", "get_weather", "{}"), stop("requires_approval"), USAGE, DONE)
    summary = client.cycle.summary
    assert (summary.status, summary.outcome, summary.call_count) == (200, "tool_calls", 1)
    assert (summary.agent_id, summary.model, summary.stream) == (AGENT_ID, "Milo", True)
    assert summary.usage == Usage(prompt_tokens=100, completion_tokens=20, total_tokens=120)
    assert summary.settled is not None
    assert "secret words" not in repr(summary)
    assert "secret words" not in repr(client.commands)
