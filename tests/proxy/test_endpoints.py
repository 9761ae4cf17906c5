"""Endpoints that need no turn: models, health, readiness."""

from typing import Any

import orjson
import pytest

from sansio_letta._signal import Signal
from sansio_letta.config import Config
from sansio_letta.dialects.chat_completions.request import field_name
from sansio_letta.dialects.errors import error_body
from sansio_letta.errors import Failure, LettaError, LocalProtocolError, RequestError
from sansio_letta.proxy.endpoints import (
    Handler,
    HandlerRunner,
    health,
    list_models,
    readiness,
    retrieve_model,
    root,
)
from sansio_letta.proxy.response import Reply, error_reply, json_reply
from sansio_letta.upstreams.rest.commands import CheckHealth, Command, FetchAgent, FindAgent, ListAgents

AGENT_ID = "agent-c52d0716-1824-4a78-9f84-e5b39a7bad99"
JSON = ("content-type", "application/json")


def raw_agent(name: str, agent_id: str) -> dict[str, str]:
    return {"id": agent_id, "name": name, "agent_type": "letta_v1_agent"}


def answer(inquiry: HandlerRunner, value: object, status: int = 200) -> None:
    """Letta's whole answer, in two pieces."""
    data = value if isinstance(value, bytes) else orjson.dumps(value)
    inquiry.receive_response(status, ())
    inquiry.receive_data(data[:1])
    assert inquiry.next_event() is Signal.NEED_DATA
    inquiry.receive_data(data[1:])
    inquiry.receive_data(b"")


def ask(questions: Handler | Reply, *answers: object) -> tuple[list[Command], Reply]:
    """The commands of an inquiry, answered one by one, and its reply."""
    inquiry, commands, left = HandlerRunner(questions, 10_000), [], list(answers)
    while not isinstance(item := inquiry.next_event(), Reply):
        assert not isinstance(item, Signal)
        commands.append(item)
        assert inquiry.next_event() is Signal.NEED_DATA
        answer(inquiry, left.pop(0))
    assert not left
    assert inquiry.next_event() is Signal.FINISHED
    return commands, item


def body(reply: Reply) -> Any:
    assert JSON in reply.headers
    return orjson.loads(reply.body)


# --- Models ---------------------------------------------------------------------------------------------------

PAGED = Config(agent_page_count=2, max_agent_count=4)

PAGES: dict[str, tuple[list[list[str]], list[str | None]]] = {
    "no agents": ([[]], [None]),
    "less than a page": ([["a"]], [None]),
    "just a page": ([["a", "b"], []], [None, "agent-b"]),
    "more than a page": ([["a", "b"], ["c"]], [None, "agent-b"]),
    "as many as allowed": ([["a", "b"], ["c", "d"]], [None, "agent-b"]),
}


@pytest.mark.parametrize(("pages", "after"), PAGES.values(), ids=PAGES)
def test_all_agents_are_listed_page_after_page(pages: list[list[str]], after: list[str | None]) -> None:
    answers = [[raw_agent(name, f"agent-{name}") for name in page] for page in pages]
    commands, reply = ask(list_models(PAGED), *answers)
    assert commands == [ListAgents(limit=2, after=last) for last in after]
    assert reply.status == 200
    assert [model["id"] for model in body(reply)["data"]] == [name for page in pages for name in page]


def test_a_page_that_repeats_its_predecessor_is_the_last() -> None:
    page = [raw_agent("a", "agent-a"), raw_agent("b", "agent-b")]
    commands, reply = ask(list_models(Config(agent_page_count=2)), page, page)
    assert len(commands) == 2
    assert [model["id"] for model in body(reply)["data"]] == ["a", "b"]


def test_no_more_agents_are_listed_than_allowed() -> None:
    pages = [[raw_agent(name, f"agent-{name}") for name in page] for page in ("ab", "cd")]
    _, reply = ask(list_models(Config(agent_page_count=2, max_agent_count=3)), *pages)
    assert [model["id"] for model in body(reply)["data"]] == ["a", "b", "c"]


def test_a_model_is_found_by_name() -> None:
    commands, reply = ask(retrieve_model("Milo"), [raw_agent("Milo", AGENT_ID)])
    assert commands == [FindAgent(name="Milo")]
    assert body(reply) == {"id": "Milo", "object": "model", "created": 0, "owned_by": "letta"}


def test_a_model_is_found_by_id_and_shown_with_its_name() -> None:
    commands, reply = ask(retrieve_model(AGENT_ID), raw_agent("Milo", AGENT_ID))
    assert commands == [FetchAgent(agent_id=AGENT_ID)]
    assert body(reply) == {"id": AGENT_ID, "name": "Milo", "object": "model", "created": 0, "owned_by": "letta"}


def test_an_unknown_model_is_an_error() -> None:
    _, reply = ask(retrieve_model("Milo"), [])
    assert reply.status == 404
    assert body(reply)["error"]["code"] == "model_not_found"


def test_an_answer_that_makes_no_sense_is_an_error() -> None:
    _, reply = ask(list_models(PAGED), b"<html>")
    assert reply.status == 502
    assert body(reply)["error"]["code"] == "upstream_error"


def test_an_answer_that_is_too_large_is_an_error() -> None:
    _, reply = ask(list_models(PAGED), b"[" + b" " * 20_000 + b"]")
    assert reply.status == 502
    assert "larger than 10000 bytes" in body(reply)["error"]["message"]


def test_a_refusal_is_an_error_with_its_headers() -> None:
    inquiry = HandlerRunner(list_models(PAGED), 1000)
    inquiry.next_event()
    answer(inquiry, {"detail": "Unauthorized"}, 401)
    reply = inquiry.next_event()
    assert isinstance(reply, Reply)
    assert (reply.status, reply.headers) == (502, (JSON, ("x-should-retry", "false")))


# --- Letta's health -------------------------------------------------------------------------------------------


def test_the_proxy_is_ready_if_letta_answers() -> None:
    commands, reply = ask(readiness(), {"status": "ok", "version": "0.16.7"})
    assert commands == [CheckHealth()]
    assert (reply.status, body(reply)) == (200, {"status": "ready", "letta": "0.16.7"})


def test_the_proxy_is_not_ready_if_letta_makes_no_sense() -> None:
    _, reply = ask(readiness(), b"<html>")
    assert reply.status == 503
    assert body(reply) == {
        "status": "unavailable",
        "reason": "Letta sent a health report that cannot be read: not JSON.",
    }


def test_the_proxy_is_not_ready_if_letta_cannot_be_reached() -> None:
    inquiry = HandlerRunner(readiness(), 1000)
    inquiry.next_event()
    inquiry.receive_failure(Failure.NOT_SENT, "connection refused")
    reply = inquiry.next_event()
    assert isinstance(reply, Reply)
    assert reply.status == 503
    assert body(reply) == {"status": "unavailable", "reason": "Letta cannot be reached: connection refused."}
    assert inquiry.next_event() is Signal.FINISHED


SAID: dict[str, tuple[Reply, dict[str, Any]]] = {
    "alive": (health(), {"status": "ok"}),
    "where": (
        root(),
        {"status": "ok", "service": "letta-proxy", "endpoints": ["/v1/chat/completions", "/v1/models"]},
    ),
}


@pytest.mark.parametrize(("reply", "said"), SAID.values(), ids=SAID)
def test_some_answers_need_no_letta(reply: Reply, said: dict[str, Any]) -> None:
    assert ask(reply) == ([], reply)
    assert (reply.status, body(reply)) == (200, said)


# --- Replies --------------------------------------------------------------------------------------------------


def test_a_json_reply_says_what_it_is() -> None:
    assert json_reply(b"{}", 201) == Reply(status=201, body=b"{}", headers=(JSON,))


def test_an_error_reply_has_status_headers_and_body() -> None:
    error = RequestError("Not so.", status=405, code="method_not_allowed", allow="GET")
    reply = error_reply(error)
    assert (reply.status, reply.headers) == (405, (JSON, ("allow", "GET")))
    assert body(reply) == error_body(error, field_name)


# --- Trouble on the way ---------------------------------------------------------------------------------------

FAILURES = {
    Failure.NOT_SENT: "Letta cannot be reached: why.",
    Failure.BROKEN: "Letta did not answer: why.",
    Failure.SILENT: "Letta did not answer: why.",
}


@pytest.mark.parametrize("begun", [True, False], ids=["in the answer", "before the answer"])
@pytest.mark.parametrize(("failure", "message"), FAILURES.items(), ids=lambda value: str(value))
def test_an_exchange_that_fails_is_an_error(failure: Failure, message: str, begun: bool) -> None:
    inquiry = HandlerRunner(list_models(PAGED), 1000)
    inquiry.next_event()
    if begun:
        inquiry.receive_response(200, ())
        inquiry.receive_data(b"[")
    inquiry.receive_failure(failure, "why")
    reply = inquiry.next_event()
    assert isinstance(reply, Reply)
    assert reply.status == 502
    assert body(reply)["error"]["message"] == message
    assert inquiry.next_event() is Signal.FINISHED


def test_a_handler_may_go_on_after_an_exchange_that_failed() -> None:
    def handler() -> Handler:
        with pytest.raises(LettaError):
            yield CheckHealth()
        return json_reply((yield FetchAgent(agent_id="agent-1")).data)

    inquiry = HandlerRunner(handler(), 1000)
    assert inquiry.next_event() == CheckHealth()
    inquiry.receive_failure(Failure.BROKEN, "why")
    assert inquiry.next_event() == FetchAgent(agent_id="agent-1")
    answer(inquiry, {"id": "agent-1"})
    reply = inquiry.next_event()
    assert isinstance(reply, Reply)
    assert body(reply) == {"id": "agent-1"}
    assert inquiry.next_event() is Signal.FINISHED


def test_a_client_that_leaves_ends_the_inquiry() -> None:
    inquiry = HandlerRunner(list_models(PAGED), 1000)
    inquiry.client_disconnected()
    assert inquiry.next_event() is Signal.FINISHED
    with pytest.raises(LocalProtocolError):
        inquiry.receive_response(200, ())


def test_a_client_may_leave_in_the_middle_of_an_answer() -> None:
    inquiry = HandlerRunner(list_models(PAGED), 1000)
    inquiry.next_event()
    inquiry.receive_response(200, ())
    inquiry.client_disconnected()
    assert inquiry.next_event() is Signal.FINISHED
    with pytest.raises(LocalProtocolError):
        inquiry.receive_data(b"[]")


def begun() -> HandlerRunner:
    inquiry = HandlerRunner(list_models(PAGED), 1000)
    inquiry.receive_response(200, ())
    return inquiry


def test_an_answer_begins_once() -> None:
    with pytest.raises(LocalProtocolError, match="receive_response"):
        begun().receive_response(200, ())


def test_data_comes_after_the_answer_began() -> None:
    with pytest.raises(LocalProtocolError, match="receive_data"):
        HandlerRunner(list_models(PAGED), 1000).receive_data(b"[]")


def test_data_ends_once() -> None:
    inquiry = begun()
    inquiry.receive_data(b"[]")
    inquiry.receive_data(b"")
    with pytest.raises(LocalProtocolError, match="receive_data"):
        inquiry.receive_data(b"")


@pytest.mark.parametrize("call", ["receive_response", "receive_data", "receive_failure"])
def test_nothing_is_awaited_after_the_reply(call: str) -> None:
    inquiry = HandlerRunner(health(), 1000)
    calls = {
        "receive_response": lambda: inquiry.receive_response(200, ()),
        "receive_data": lambda: inquiry.receive_data(b""),
        "receive_failure": lambda: inquiry.receive_failure(Failure.BROKEN, "why"),
    }
    with pytest.raises(LocalProtocolError, match=call):
        calls[call]()
