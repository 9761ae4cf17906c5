"""Callers, the agents that exist for them, and the responses about keys and rate limits."""

from typing import Any

import orjson
import pytest

from drive import AGENT_ID, JSON
from sansio_letta import Caller, HttpRequest, Proxy, ResponseBody, ResponseHead, Signal
from sansio_letta.dialects.chat_completions.request import field_name
from sansio_letta.dialects.errors import error_body
from sansio_letta.errors import RequestError
from sansio_letta.proxy.access import RateLimitError, RateState, bearer, find_key, is_open
from sansio_letta.proxy.routing import route
from sansio_letta.turn.agent import ANYONE, Agent
from sansio_letta.upstreams.rest.commands import Command, FetchAgent, FindAgent, ListAgents
from sansio_letta.upstreams.rest.response import Headers

OTHER_ID = "agent-22222222-2222-4222-8222-222222222222"


def raw(name: str, agent_id: str = AGENT_ID) -> dict[str, Any]:
    return {"id": agent_id, "name": name, "agent_type": "letta_v1_agent", "created_at": None}


def agent(name: str, agent_id: str = AGENT_ID) -> Agent:
    return Agent(id=agent_id, name=name, agent_type="letta_v1_agent")


@pytest.mark.parametrize(
    ("entries", "name", "allowed"),
    [
        (None, "Milo", True),
        ((), "Milo", False),
        (("Milo",), "Milo", True),
        (("Milo",), "milo", False),
        (("Milo",), "Milo 2", False),
        (("Sup*",), "Support", True),
        (("*",), "two\nlines", True),
        (("a.c",), "abc", False),
        (("a**c",), "abbc", True),
        (("Otto", "M*o"), "Milo", True),
        (("[ab]", "?"), "a", False),
        ((AGENT_ID,), "Milo", True),
        ((OTHER_ID,), "Milo", False),
        ((OTHER_ID,), OTHER_ID, False),
    ],
    ids=repr,
)
def test_entries_are_ids_and_names_with_stars(
    entries: tuple[str, ...] | None, name: str, allowed: bool
) -> None:
    assert Caller(agents=entries).may_use(agent(name)) is allowed


def test_a_realm_does_not_show() -> None:
    assert "digest" not in repr(Caller(realm="digest"))


# --- What a caller sees


def play(
    proxy: Proxy, caller: Caller, request: HttpRequest, *answers: object
) -> tuple[int, Any, list[Command]]:
    """A cycle, as far as the answers go: status, body, commands. One is JSON, or a status with its JSON."""
    cycle = proxy.open(request, token="abcdef12", created=0, now=0.0, caller=caller)
    left, commands, status, body = list(answers), list[Command](), 0, b""
    while (item := cycle.next_event()) is not Signal.FINISHED:
        match item:
            case ResponseHead():
                status = item.status
            case ResponseBody(data=data):
                body += data
            case Signal.WAITING:
                cycle.handle_deadline(cycle.next_deadline())
            case Signal.NEED_DATA if not left:
                break
            case Signal.NEED_DATA:
                given = left.pop(0)
                code, value = given if isinstance(given, tuple) else (200, given)
                cycle.receive_response(code, JSON, 0.0)
                cycle.receive_data(orjson.dumps(value), 0.0)
                cycle.receive_data(b"", 0.0)
            case command:
                commands.append(command)
    # A turn that is left alone would keep its thread, and a repeat would listen to it.
    cycle.close()
    return status, orjson.loads(body) if body else None, commands


def get(target: str) -> HttpRequest:
    return HttpRequest(method="GET", target=target)


def chat(model: str) -> HttpRequest:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    return HttpRequest(method="POST", target="/v1/chat/completions", body=orjson.dumps(body))


MILO = Caller(name="alice", agents=("Milo",))


def test_only_what_may_be_used_is_listed() -> None:
    listed = [raw("Milo"), raw("Otto", OTHER_ID)]
    _, body, _ = play(Proxy(), MILO, get("/v1/models"), listed)
    assert [model["id"] for model in body["data"]] == ["Milo"]
    _, body, _ = play(Proxy(), ANYONE, get("/v1/models"), listed)
    assert [model["id"] for model in body["data"]] == ["Milo", "Otto"]


def test_a_hidden_namesake_makes_no_name_ambiguous() -> None:
    by_id = Caller(agents=(OTHER_ID,))
    twins = [raw("Milo"), raw("Milo", OTHER_ID)]
    _, body, _ = play(Proxy(), by_id, get("/v1/models"), twins)
    assert [model["id"] for model in body["data"]] == ["Milo"]
    status, body, _ = play(Proxy(), by_id, get("/v1/models/Milo"), twins)
    assert (status, body["id"]) == (200, "Milo")
    status, body, _ = play(Proxy(), ANYONE, get("/v1/models/Milo"), twins)
    assert status == 400


@pytest.mark.parametrize("ask", [chat, lambda model: get(f"/v1/models/{model}")], ids=["chat", "model"])
@pytest.mark.parametrize(
    ("model", "answer"), [("Otto", [raw("Otto", OTHER_ID)]), (OTHER_ID, raw("Otto", OTHER_ID))]
)
def test_a_hidden_agent_is_as_one_that_is_not_there(ask: Any, model: str, answer: object) -> None:
    status, hidden, commands = play(Proxy(), MILO, ask(model), answer)
    nobody = (404, {"detail": "no"}) if model == OTHER_ID else []
    absent_status, absent, _ = play(Proxy(), MILO, ask(model), nobody)
    assert (status, hidden) == (absent_status, absent)
    assert (status, hidden["error"]["code"]) == (404, "model_not_found")
    assert type(commands[0]) is (FetchAgent if model == OTHER_ID else FindAgent)
    assert len(commands) == 1


def test_what_one_caller_found_another_does_not_remember() -> None:
    proxy = Proxy()
    play(proxy, ANYONE, chat("Milo"), [raw("Milo")])
    _, _, commands = play(proxy, ANYONE, chat("Milo"))
    assert type(commands[0]) is not FindAgent
    for other in (Caller(agents=("Otto",)), Caller(realm="one"), Caller(realm="two")):
        _, _, commands = play(proxy, other, chat("Milo"))
        assert type(commands[0]) is FindAgent
    _, _, commands = play(proxy, Caller(name="another name"), chat("Milo"))
    assert type(commands[0]) is not FindAgent


def test_a_pending_call_of_an_agent_that_was_renamed_away_is_not_looked_at() -> None:
    proxy = Proxy()
    body = orjson.dumps({"model": "Milo", "messages": [{"role": "tool", "tool_call_id": "c", "content": "x"}]})
    request = HttpRequest(method="POST", target="/v1/chat/completions", body=body)
    play(proxy, MILO, chat("Milo"), [raw("Milo")])
    status, told, _ = play(proxy, MILO, request, raw("Secret"))
    assert (status, told["error"]["code"]) == (404, "model_not_found")


# --- The client's own key at Letta


@pytest.mark.parametrize(
    ("ask", "command"),
    [(chat("Milo"), FindAgent), (get("/v1/models"), ListAgents), (get("/v1/models/Milo"), FindAgent)],
    ids=["chat", "models", "model"],
)
def test_letta_refuses_the_clients_own_key(ask: HttpRequest, command: type) -> None:
    passing = Caller(key_is_lettas=True)
    status, body, commands = play(Proxy(), passing, ask, (401, {"detail": "Unauthorized"}))
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    assert body["error"]["message"].startswith("Incorrect API key provided")
    assert type(commands[0]) is command
    status, body, _ = play(Proxy(), passing, ask, (403, {"detail": "no"}))
    assert (status, body["error"]["code"]) == (403, "insufficient_permissions")
    status, body, _ = play(Proxy(), ANYONE, ask, (401, {"detail": "Unauthorized"}))
    assert (status, body["error"]["code"]) == (502, "letta_unauthorized")


# --- Keys and rates


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("Bearer sk-1", "sk-1"),
        ("bearer  sk-1 ", "sk-1"),
        (None, None),
        ("", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Basic c2s6", None),
        ("Bearer a b", None),
        ("Bearer \u00e9", None),
        ("Bearer a\r\nx: y", None),
        ("Bearer " + "x" * 5000, None),
    ],
)
def test_bearer(header: str | None, key: str | None) -> None:
    assert bearer(header) == key


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], None),
        ([("accept", "*/*")], None),
        ([("authorization", "Bearer sk-1")], "sk-1"),
        ([("api-key", "sk-1")], "sk-1"),
        ([("x-api-key", " sk-1\t")], "sk-1"),
        ([("api-key", "sk-1"), ("authorization", "Bearer sk-1"), ("x-api-key", "sk-1")], "sk-1"),
        ([("x-api-key", ""), ("authorization", "Bearer sk-1")], "sk-1"),
        ([("authorization", "Bearer "), ("api-key", "sk-1")], "sk-1"),
        ([("authorization", "Basic c2s6"), ("api-key", "sk-1")], "sk-1"),
        ([("authorization", "Bearer sk-1"), ("authorization", "Bearer sk-1")], "sk-1"),
        ([("api-key", "")], None),
    ],
)
def test_a_key_in_any_header_that_programs_use(headers: Headers, key: str | None) -> None:
    assert find_key(headers) == key


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ([("authorization", "Basic c2s6")], "provided."),
        ([("authorization", "Bearer ")], "provided."),
        ([("x-api-key", "a b")], "provided."),
        ([("api-key", "Bearer sk-1")], "provided."),
        ([("x-api-key", "x" * 5000)], "provided."),
        ([("api-key", "sk-1"), ("x-api-key", "sk-2")], "two that differ"),
        ([("authorization", "Bearer sk-1"), ("api-key", "sk-2")], "two that differ"),
        ([("authorization", "Bearer sk-1"), ("authorization", "Bearer sk-2")], "two that differ"),
        ([("authorization", "Bearer sk-1"), ("authorization", "Basic c2s6")], "two that differ"),
        ([("authorization", "Bearer sk-1"), ("x-api-key", "\u00e9")], "two that differ"),
    ],
)
def test_a_key_that_can_be_none(headers: Headers, why: str) -> None:
    with pytest.raises(RequestError) as caught:
        find_key(headers)
    assert (caught.value.status_hint, caught.value.code) == (401, "invalid_api_key")
    assert why in caught.value.message
    assert "sk-" not in caught.value.message


def test_what_needs_no_key() -> None:
    asked = [
        ("GET", "/"),
        ("HEAD", "/health"),
        ("GET", "/ready"),
        ("GET", "/healthz"),
        ("GET", "/livez"),
        ("GET", "/readyz"),
        ("OPTIONS", "/v1/models"),
        ("GET", "/v1/models"),
    ]
    assert [is_open(route(*each)) for each in asked] == [True] * (len(asked) - 1) + [False]


@pytest.mark.parametrize(
    ("seconds", "retry_after", "should_retry", "written"),
    [
        (0.0, "1", None, "0ms"),
        (0.12, "1", None, "120ms"),
        (1.0, "1", None, "1s"),
        (6.2, "7", None, "7s"),
        (59.5, "59", None, "1m0s"),
        (118.0, "59", None, "1m58s"),
        (360.0, "59", "false", "6m0s"),
        (86_399.5, "59", "false", "24h0m0s"),
    ],
)
def test_a_rate_that_is_used_up(
    seconds: float, retry_after: str, should_retry: str | None, written: str
) -> None:
    state = RateState(limit=60, remaining=0, reset_timeout=seconds)
    error = RateLimitError(state, "60 per 1 minute")
    headers = dict(error.headers())
    assert (headers["retry-after"], headers.get("x-should-retry")) == (retry_after, should_retry)
    assert (error.status_hint, error_body(error, field_name)["error"]["type"], error.code) == (
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
    )
    assert state.headers() == [
        ("x-ratelimit-limit-requests", "60"),
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", written),
    ]
