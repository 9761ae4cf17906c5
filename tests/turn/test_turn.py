"""One turn, through all its exchanges with Letta."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from drive import (
    AGENT,
    AGENT_ID,
    CONFLICT,
    DONE,
    JSON,
    PING,
    RUN_ID,
    SSE,
    TOOL_RETURN,
    USAGE,
    WEATHER,
    agent,
    agent_json,
    answer,
    drain,
    error,
    make_turn,
    more,
    say,
    server_call,
    stop,
    stream,
    turn_request,
    want,
)
from legacy_letta import name_of
from sansio_letta import Config, Kept, LocalProtocolError, Signal, Turn, TurnRequest
from sansio_letta.config import ClientTools
from sansio_letta.errors import Failure, FieldPath, RequestField, shutting_down
from sansio_letta.turn.events import (
    AgentFound,
    AgentGone,
    CallsSettled,
    CallStarted,
    Event,
    FinishReason,
    TextDelta,
    TurnFailed,
    TurnFinished,
    TurnStarted,
    Usage,
)
from sansio_letta.turn.phases import TRANSITIONS, Phase
from sansio_letta.turn.reply_format import CallReply
from sansio_letta.turn.request import SystemMessage, Tool, UserMessage
from sansio_letta.turn.settlement import NO_RESULT_YET, TAKEN, Waiting
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.commands import (
    CancelRun,
    Command,
    FetchAgent,
    FetchKept,
    FetchRun,
    FindAgent,
    OpenStream,
)

HELLO = (PING, say("Hello"), stop(), USAGE, DONE)
CANCEL = CancelRun(agent_id=AGENT_ID, run_id=RUN_ID)
#: Nothing is tried again.
AT_ONCE = Config(queue_timeout=0, connect_retry_timeout=0, resume_timeout=0)


def opened(items: list[Event | Command]) -> OpenStream:
    (command,) = [item for item in items if isinstance(item, OpenStream)]
    return command


def failed(items: list[Event | Command]) -> TurnFailed:
    assert isinstance(items[-1], TurnFailed)
    return items[-1]


# --- Which agent
def test_unknown_name_is_looked_up_and_told() -> None:
    turn = make_turn(turn_request("hi"))
    assert drain(turn) == [FindAgent(name="Milo")]
    items = answer(turn, [agent_json()])
    assert [type(item) for item in items] == [AgentFound, OpenStream]
    assert opened(items).target == f"/v1/agents/{AGENT_ID}/messages/stream"
    assert stream(turn, *HELLO)[-1] == TurnFinished(
        reason=FinishReason.STOP,
        usage=Usage(prompt_tokens=100, completion_tokens=20, total_tokens=120),
    )
    assert turn.next_event() is Signal.FINISHED


def test_id_is_fetched() -> None:
    turn = make_turn(turn_request("hi", model=AGENT_ID))
    assert drain(turn) == [FetchAgent(agent_id=AGENT_ID)]
    assert type(answer(turn, agent_json())[-1]) is OpenStream


def test_remembered_agent_is_not_looked_up() -> None:
    assert [type(item) for item in drain(make_turn(turn_request("hi"), agent=AGENT))] == [OpenStream]


@pytest.mark.parametrize("found", [[], [agent_json() | {"name": "milo"}]], ids=["none", "other case"])
def test_no_such_agent(found: list[object]) -> None:
    turn = make_turn(turn_request("hi"))
    drain(turn)
    advice = failed(answer(turn, found)).error
    assert (advice.status_hint, advice.code, advice.field) == (
        404,
        "model_not_found",
        FieldPath(RequestField.MODEL),
    )


def test_unknown_id() -> None:
    turn = make_turn(turn_request("hi", model=AGENT_ID))
    drain(turn)
    assert failed(answer(turn, {"detail": "not found"}, 404)).error.code == "model_not_found"


def test_ambiguous_name_lists_the_ids() -> None:
    turn = make_turn(turn_request("hi"))
    drain(turn)
    other = AGENT_ID.replace("1111111", "2222222")
    failure = failed(answer(turn, [agent_json(), agent_json() | {"id": other}]))
    assert failure.error.status_hint == 400
    assert AGENT_ID in failure.error.message
    assert other in failure.error.message


def test_remembered_agent_that_is_gone_is_looked_up_again() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    assert answer(turn, {"detail": "not found"}, 404) == [AgentGone(agent_id=AGENT_ID), FindAgent(name="Milo")]
    assert opened(answer(turn, [agent_json()]))
    assert failed(answer(turn, {"detail": "not found"}, 404)).error.code == "model_not_found"


def test_remembered_agent_that_is_gone_when_results_come() -> None:
    turn = make_turn(turn_request(results=["call-1"]), agent=AGENT)
    drain(turn)
    assert answer(turn, {"detail": "not found"}, 404) == [
        AgentGone(agent_id=AGENT_ID),
        FindAgent(name="Milo", with_pending=True),
    ]


def test_legacy_agent_takes_no_tools_with_a_request() -> None:
    legacy = agent(agent_type="memgpt_v2_agent")
    config = Config(client_tools=ClientTools.NATIVE)
    failure = failed(drain(make_turn(turn_request("hi", tools=[WEATHER]), config, agent=legacy)))
    assert (failure.error.status_hint, failure.error.field) == (400, FieldPath(RequestField.TOOLS))
    turn = make_turn(turn_request("hi", tools=[WEATHER]), config)
    drain(turn)
    assert failed(answer(turn, [agent_json() | {"agent_type": "memgpt_agent"}])).error.field == FieldPath(
        RequestField.TOOLS
    )


# --- Pending calls
def messages(command: OpenStream) -> list[dict[str, object]]:
    found: list[dict[str, object]] = orjson.loads(command.body)["messages"]
    return found


def test_results_are_looked_up_before_they_are_sent() -> None:
    turn = make_turn(turn_request(results=["call-1"]), agent=AGENT)
    assert drain(turn) == [FetchAgent(agent_id=AGENT_ID)]
    assert messages(opened(answer(turn, agent_json("call-1")))) == [
        {
            "type": "approval",
            "approvals": [
                {"type": "tool", "tool_call_id": "call-1", "tool_return": "18 C", "status": "success"}
            ],
        }
    ]


def test_lookup_by_name_tells_what_is_pending_too() -> None:
    turn = make_turn(turn_request(results=["call-1"]))
    assert drain(turn) == [FindAgent(name="Milo", with_pending=True)]
    assert len(messages(opened(answer(turn, [agent_json("call-1")])))) == 1


def test_missing_results_are_filled_and_stale_ones_dropped() -> None:
    turn = make_turn(turn_request("and?", results=["call-1", "call-9"], tools=[WEATHER]), agent=AGENT)
    drain(turn)
    items = answer(turn, agent_json("call-1", "call-2"))
    assert items[0] == CallsSettled(missing=("call-2",), stale=("call-9",))
    approval, message = messages(opened(items))
    assert [(item["tool_call_id"], item["status"]) for item in approval["approvals"]] == [  # type: ignore[attr-defined]
        ("call-1", "success"),
        ("call-2", "error"),
    ]
    assert message["content"] == "and?"


def test_stale_results_alone_are_refused() -> None:
    turn = make_turn(turn_request(results=["call-9"]), agent=AGENT)
    drain(turn)
    failure = failed(answer(turn, agent_json("call-1")))
    assert (failure.error.status_hint, failure.kept) == (400, Kept.NOTHING)


def test_stale_results_with_a_message_send_the_message() -> None:
    turn = make_turn(turn_request("hi", results=["call-9"]), agent=AGENT)
    drain(turn)
    items = answer(turn, agent_json())
    assert items[0] == CallsSettled(stale=("call-9",))
    assert [message["content"] for message in messages(opened(items))] == ["hi"]


def test_message_instead_of_an_approval_denies_it_in_the_same_request() -> None:
    turn = make_turn(turn_request("never mind"), agent=AGENT)
    drain(turn)
    assert stream(turn, PING, stop("error"), CONFLICT, DONE) == [FetchAgent(agent_id=AGENT_ID)]
    items = answer(turn, agent_json("call-1"))
    assert items[0] == CallsSettled(denied=("call-1",))
    denial, message = messages(opened(items))
    assert denial["approvals"][0]["approve"] is False  # type: ignore[index]
    assert message["content"] == "never mind"
    assert TextDelta(text="Hello") in stream(turn, *HELLO)


def test_conflict_is_settled_once() -> None:
    turn = make_turn(turn_request("never mind"), agent=AGENT)
    drain(turn)
    stream(turn, PING, stop("error"), CONFLICT, DONE)
    answer(turn, agent_json("call-1"))
    failure = failed(stream(turn, PING, stop("error"), CONFLICT, DONE))
    assert (failure.error.status_hint, failure.kept) == (502, Kept.NOTHING)


def test_a_clients_tool_named_as_one_of_the_agents_own_does_not_take_its_place() -> None:
    own = (letta.OwnTool(name="memory_insert", tool_type="letta_sleeptime_core"),)
    schema = {"type": "object", "properties": {}, "required": list[str]()}
    tools = [Tool(name=name, description="Mine.", parameters=schema) for name in ("memory_insert", "f")]
    reply_format = CallReply(names=("memory_insert", "f"))
    given = evolve(
        turn_request("hi", tools=tools),
        reply_format=reply_format,
        preamble=(SystemMessage(content=reply_format.prompt),),
    )
    turn = make_turn(given, agent=agent(tools=own))
    body = orjson.loads(opened(drain(turn)).body)
    renamed, other = body["client_tools"]
    assert (renamed["name"], other["name"]) == (name_of(tools[0]), "f")
    assert renamed["name"].endswith("_memory_insert")
    assert "calls it memory_insert" in renamed["description"]
    assert other["description"] == "Mine."
    assert f"one of {renamed['name']}, f:" in body["messages"][0]["content"]
    calls = [want("call-1", renamed["name"], "{}"), want("call-2", "f", "{}")]
    told = stream(turn, PING, *calls, stop("requires_approval"), USAGE, DONE)
    assert [item.name for item in told if isinstance(item, CallStarted)] == ["memory_insert", "f"]
    # Its own tool of that name is carried out by Letta, and no word of it goes to the client.
    turn = make_turn(given, agent=agent(tools=own))
    drain(turn)
    told = stream(
        turn, PING, server_call("call-1", "memory_insert", "{}"), want("call-2", "f", "{}"), end=False
    )
    assert [item.name for item in told if isinstance(item, CallStarted)] == ["f"]


@pytest.mark.parametrize("how", ["remembered", "in the history"])
@pytest.mark.parametrize(("is_forced", "text"), [(True, TAKEN), (False, NO_RESULT_YET)])
def test_a_call_that_is_known_to_wait_is_looked_for_first(how: str, is_forced: bool, text: str) -> None:
    """A message that is sent unlooked would be refused, and leave a failed run at Letta."""
    waiting = Waiting(is_forced=is_forced) if how == "remembered" else None
    given = evolve(turn_request("Observation: 18 C", tools=[WEATHER]), leaves_calls=how == "in the history")
    if waiting is None:
        given = evolve(given, forces_call=is_forced)
    turn = make_turn(given, agent=AGENT, recall_waiting=lambda _: waiting)
    assert drain(turn) == [FetchAgent(agent_id=AGENT_ID)]
    settled, message = messages(opened(answer(turn, agent_json("call-1"))))
    approval = {"type": "tool", "tool_call_id": "call-1", "tool_return": text, "status": "success"}
    assert settled["approvals"] == [approval]
    assert message["content"] == "Observation: 18 C"
    # What was said in place of a result is no reason not to say the message again.
    failure = failed(stream(turn, PING, stop("llm_api_error"), error("llm_error"), DONE))
    assert failure.kept is Kept.NOTHING


def test_a_call_that_does_not_wait_any_more_is_no_matter() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT, recall_waiting=lambda _: Waiting(is_forced=True))
    drain(turn)
    assert [message["content"] for message in messages(opened(answer(turn, agent_json())))] == ["hi"]


WAITING = {"message": CONFLICT["message"], "pending_request_id": "message-2"}


@pytest.mark.parametrize(
    "detail",
    [CONFLICT["message"], {"code": "PENDING_APPROVAL", **WAITING}, WAITING, {"code": "PENDING_APPROVAL"}],
    ids=["words", "code and words", "words in an object", "code"],
)
def test_conflict_as_a_status_is_settled_once(detail: object) -> None:
    turn = make_turn(turn_request("never mind"), agent=AGENT)
    drain(turn)
    assert answer(turn, {"detail": detail}, 409) == [FetchAgent(agent_id=AGENT_ID)]
    denial, message = messages(opened(answer(turn, agent_json("call-1"))))
    assert denial["approvals"][0]["tool_call_id"] == "call-1"  # type: ignore[index]
    assert message["content"] == "never mind"
    # Whoever brought the agent to wait again is faster than we are: it is no good to go on asking.
    failure = failed(answer(turn, {"detail": detail}, 409))
    assert (failure.error.status_hint, failure.kept) == (409, Kept.NOTHING)


def test_calls_that_changed_may_be_refused_by_a_status() -> None:
    turn = make_turn(turn_request(results=["call-1"]), agent=AGENT)
    drain(turn)
    answer(turn, agent_json("call-1"))
    wrong = {"detail": "Invalid tool call IDs. Expected '['call-2']', but received '['call-1']'."}
    assert answer(turn, wrong, 400) == [FetchAgent(agent_id=AGENT_ID)]


def test_a_thread_that_is_busy_is_waited_for() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    assert answer(turn, {"detail": "CONFLICT: Another request is processed.", "run_id": RUN_ID}, 409) == []
    assert turn.pause is not None


def test_calls_that_changed_since_the_lookup_are_looked_up_again() -> None:
    turn = make_turn(turn_request(results=["call-1", "call-2"]), agent=AGENT)
    drain(turn)
    answer(turn, agent_json("call-1"))
    wrong = error("internal_error", "unknown", "Invalid tool call IDs. Expected '['call-1', 'call-2']'")
    assert stream(turn, PING, stop("error"), wrong, DONE) == [FetchAgent(agent_id=AGENT_ID)]
    (approval,) = messages(opened(answer(turn, agent_json("call-1", "call-2"))))
    assert len(approval["approvals"]) == 2  # type: ignore[arg-type]


def test_server_tool_among_the_pending_is_asked_about() -> None:
    turn = make_turn(turn_request(results=["call-1"], tools=[WEATHER]), agent=AGENT)
    drain(turn)
    agent = agent_json("call-1")
    agent["pending_approval"]["tool_calls"].append({"tool_call_id": "call-2", "name": "rm", "arguments": "{}"})
    started, question, finished = answer(turn, agent)
    assert started == TurnStarted()
    assert isinstance(question, TextDelta)
    assert "- rm({})" in question.text
    assert "get_weather" not in question.text
    usage = Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0)
    assert finished == TurnFinished(reason=FinishReason.STOP, usage=usage), "no run: nothing was used"
    assert turn.next_event() is Signal.FINISHED


# --- Failures
def test_nothing_is_kept_of_a_first_step() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    failure = failed(stream(turn, PING, stop("llm_api_error"), error("llm_rate_limit"), DONE))
    assert (failure.error.status_hint, failure.kept) == (429, Kept.NOTHING)
    assert not turn.state.started


@pytest.mark.parametrize(
    "seen", [(TOOL_RETURN,), (say("a"), say("b", id="message-9", step="step-2"))], ids=["return", "step"]
)
def test_earlier_steps_are_kept(seen: tuple[dict[str, object], ...]) -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    failure = failed(stream(turn, PING, *seen, stop("llm_api_error"), error()))
    assert (failure.error.status_hint, failure.error.advice.type) == (424, "upstream_error")
    assert (failure.kept, turn.state.started) == (Kept.SOMETHING, True)


def test_results_are_kept_even_if_the_step_after_them_fails() -> None:
    turn = make_turn(turn_request(results=["call-1"]), agent=AGENT)
    drain(turn)
    answer(turn, agent_json("call-1"))
    failure = failed(stream(turn, PING, stop("llm_api_error"), error(), DONE))
    assert (failure.error.status_hint, failure.error.headers()) == (424, [("x-should-retry", "false")])


def test_denials_do_not_make_a_message_kept() -> None:
    turn = make_turn(turn_request("never mind"), agent=AGENT)
    drain(turn)
    stream(turn, PING, stop("error"), CONFLICT, DONE)
    answer(turn, agent_json("call-1"))
    assert failed(stream(turn, PING, stop("llm_api_error"), error(), DONE)).kept is Kept.NOTHING


# --- The proxy's own end


def test_an_interruption_waits_for_the_runs_name() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    turn.shut_down(shutting_down())
    assert drain(turn) == []
    assert CancelRun(agent_id=AGENT_ID, run_id=RUN_ID) in stream(turn, PING, end=False)
    assert answer(turn, {RUN_ID: "cancelled"}) == []
    turn.end_pause()
    assert drain(turn) == [FetchKept(run_id=RUN_ID)]
    failure = failed(answer(turn, []))
    assert (failure.error.status_hint, failure.kept) == (503, Kept.NOTHING)


def test_an_interruption_before_anything_was_sent_leaves_nothing() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    turn.shut_down(shutting_down())
    assert failed(drain(turn)).kept is Kept.NOTHING
    looking = make_turn(turn_request("hi"))
    drain(looking)
    looking.shut_down(shutting_down())
    assert failed(drain(looking)).kept is Kept.NOTHING


@pytest.mark.parametrize(
    ("cancel_answer", "status"),
    [({RUN_ID: "failed"}, 200), ([], 200), ({RUN_ID: "cancelled"}, 500)],
    ids=["over", "unreadable", "refused"],
)
def test_an_interruption_that_nobody_confirms_may_have_left_something(cancel_answer: Any, status: int) -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    stream(turn, PING, end=False)
    turn.shut_down(shutting_down())
    drain(turn)
    assert failed(answer(turn, cancel_answer, status)).kept is Kept.UNKNOWN


def test_an_interruption_after_results_were_sent_has_left_them() -> None:
    turn = make_turn(turn_request(results=["call-1"]), agent=AGENT)
    drain(turn)
    answer(turn, agent_json("call-1"))
    stream(turn, PING, end=False)
    turn.shut_down(shutting_down())
    drain(turn)
    failure = failed(answer(turn, {RUN_ID: "cancelled"}))
    assert (failure.error.status_hint, failure.kept) == (424, Kept.UNKNOWN)


def test_an_interruption_whose_cancel_breaks_is_told_all_the_same() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    stream(turn, PING, end=False)
    turn.shut_down(shutting_down())
    turn.shut_down(shutting_down())
    assert drain(turn) == [CancelRun(agent_id=AGENT_ID, run_id=RUN_ID)]
    turn.receive_failure(Failure.SILENT, "no byte came")
    assert failed(drain(turn)).error.code == "shutting_down"
    turn.shut_down(shutting_down())
    assert turn.next_event() is Signal.FINISHED


def test_a_turn_that_ends_by_itself_is_not_interrupted() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    turn.shut_down(shutting_down())
    nameless = [{**message, "run_id": None} for message in (say("Hello"), stop())]
    assert type(stream(turn, *nameless, DONE)[-1]) is TurnFinished


@pytest.mark.parametrize(
    ("status", "expected"),
    [(401, 502), (402, 429), (409, 409), (422, 400), (429, 429), (500, 502), (503, 503), (307, 502)],
)
def test_refusals_by_status(status: int, expected: int) -> None:
    turn = make_turn(turn_request("hi"), AT_ONCE, AGENT)
    drain(turn)
    failure = failed(answer(turn, {"detail": "No."}, status))
    assert (failure.error.status_hint, failure.kept) == (expected, Kept.NOTHING)


@pytest.mark.parametrize(
    ("status", "body", "code", "text"),
    [
        (402, {"error": "Rate limited", "reasons": ["no-credits"]}, "insufficient_quota", "(no-credits)"),
        (403, {"message": "Model not allowed on this plan"}, "letta_forbidden", "not allowed on this plan"),
        (403, {"detail": "Forbidden"}, "letta_unauthorized", "LETTA_API_KEY"),
        (429, {"error": {"type": "rate", "message": "Slow down."}}, "rate_limit_exceeded", "Slow down."),
    ],
)
def test_the_reason_of_a_refusal_reaches_the_client(
    status: int, body: dict[str, object], code: str, text: str
) -> None:
    turn = make_turn(turn_request("hi"), AT_ONCE, AGENT)
    drain(turn)
    failure = failed(answer(turn, body, status))
    assert (failure.error.code, failure.kept) == (code, Kept.NOTHING)
    assert text in failure.error.message


@pytest.mark.parametrize("body", [b"<html>504</html>", b'{"detail": "Gateway Timeout"}'])
def test_gateway_that_gave_up_may_have_passed_the_message_on(body: bytes) -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    turn.receive_response(504, JSON)
    turn.receive_data(body)
    turn.receive_data(b"")
    failure = failed(drain(turn))
    assert (failure.error.status_hint, failure.kept) == (424, Kept.UNKNOWN)
    assert dict(failure.error.headers()) == {"x-should-retry": "false"}


def test_a_question_that_a_gateway_gave_up_may_be_repeated() -> None:
    turn = make_turn(turn_request("hi"))
    drain(turn)
    failure = failed(answer(turn, {"detail": "Gateway Timeout"}, 504))
    assert (failure.error.status_hint, failure.kept, failure.error.headers()) == (504, Kept.NOTHING, [])


def test_gateway_that_lost_letta_may_have_passed_the_message_on() -> None:
    told = {}
    for body in (b"<html>502 Bad Gateway</html>", b'{"detail": "The model cannot be reached."}'):
        turn = make_turn(turn_request("hi"), agent=AGENT)
        drain(turn)
        turn.receive_response(502, JSON)
        turn.receive_data(body)
        turn.receive_data(b"")
        failure = failed(drain(turn))
        told[body[:1]] = (failure.error.status_hint, failure.kept)
    assert told == {b"<": (424, Kept.UNKNOWN), b"{": (502, Kept.NOTHING)}


@pytest.mark.parametrize(
    ("failure", "status", "kept"),
    [
        (Failure.NOT_SENT, 502, Kept.NOTHING),
        (Failure.BROKEN, 424, Kept.UNKNOWN),
        (Failure.SILENT, 424, Kept.UNKNOWN),
    ],
)
def test_exchange_goes_wrong_before_any_answer(failure: Failure, status: int, kept: Kept) -> None:
    turn = make_turn(turn_request("hi"), AT_ONCE, AGENT)
    drain(turn)
    turn.receive_failure(failure, "connection refused")
    told = failed(drain(turn))
    assert (told.error.status_hint, told.kept) == (status, kept)
    assert "connection refused" in told.error.message


def test_lookup_goes_wrong() -> None:
    turn = make_turn(turn_request("hi"), AT_ONCE)
    drain(turn)
    turn.receive_failure(Failure.BROKEN, "connection reset")
    told = failed(drain(turn))
    assert (told.error.status_hint, told.kept) == (502, Kept.NOTHING)


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, [("content-type", "text/html")], b"<html>"),
        (200, [], b""),
        (200, JSON, b"{}"),
    ],
    ids=["html", "nothing", "json"],
)
def test_answer_that_is_no_stream(status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    turn.receive_response(status, headers)
    if body:
        turn.receive_data(body)
    turn.receive_data(b"")
    told = failed(drain(turn))
    assert (told.error.status_hint, told.kept) == (424, Kept.UNKNOWN)


def test_html_instead_of_agents() -> None:
    turn = make_turn(turn_request("hi"))
    drain(turn)
    turn.receive_response(200, [("content-type", "text/html")])
    turn.receive_data(b"<html>")
    turn.receive_data(b"")
    assert failed(drain(turn)).error.status_hint == 502


def test_answer_too_large() -> None:
    turn = make_turn(turn_request("hi"), Config(max_answer_size=10))
    drain(turn)
    assert "larger than 10 bytes" in failed(answer(turn, [agent_json()])).error.message


@pytest.mark.parametrize(
    "bad", ["nonsense", '{"message_type": "assistant_message", "content": null}', "[1]"], ids=str
)
def test_nonsense_in_the_stream_cancels_the_run_before_it_is_told(bad: str) -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    items = stream(turn, PING, say("Hel"), bad, end=False)
    assert [type(item) for item in items] == [TurnStarted, TextDelta, CancelRun]
    told = failed(answer(turn, {RUN_ID: "cancelled"}))
    assert (told.error.advice.type, told.kept) == ("upstream_error", Kept.UNKNOWN)
    assert turn.next_event() is Signal.FINISHED


def test_stream_breaks_and_the_cancel_too() -> None:
    turn = make_turn(turn_request("hi"), AT_ONCE, AGENT)
    drain(turn)
    stream(turn, PING, say("Hel"), end=False)
    turn.receive_failure(Failure.BROKEN, "connection reset")
    assert drain(turn) == [FetchRun(run_id=RUN_ID)]
    turn.receive_failure(Failure.NOT_SENT, "connection refused")
    assert drain(turn) == [CANCEL]
    turn.receive_failure(Failure.NOT_SENT, "connection refused")
    assert "connection reset" in failed(drain(turn)).error.message


def test_stream_ends_before_the_run_has_a_name() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    assert failed(stream(turn)).kept is Kept.UNKNOWN


def test_stream_ends_too_soon() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    assert stream(turn, PING, say("Hel"))[-1] == FetchRun(run_id=RUN_ID)


def test_stream_breaks_after_the_run_has_stopped() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    stream(turn, PING, say("Hello"), stop("cancelled"), end=False)
    turn.receive_failure(Failure.BROKEN, "connection reset")
    assert drain(turn) == [TurnFinished(reason=FinishReason.STOP, usage=None)]


def test_event_too_large() -> None:
    turn = make_turn(turn_request("hi"), Config(max_event_size=200), agent=AGENT)
    drain(turn)
    stream(turn, PING, end=False)
    turn.receive_data(b"data: " + b"x" * 300)
    assert drain(turn) == [CANCEL]


# --- A client that leaves
def test_leaving_while_the_agent_is_looked_up() -> None:
    turn = make_turn(turn_request("hi"))
    drain(turn)
    turn.client_disconnected()
    assert turn.next_event() is Signal.FINISHED


def test_leaving_before_the_request_was_handed_over() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    turn.client_disconnected()
    assert turn.next_event() is Signal.FINISHED


def test_leaving_before_the_run_has_a_name_waits_for_it() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    turn.client_disconnected()
    assert turn.next_event() is Signal.NEED_DATA
    assert stream(turn, PING, end=False) == [CANCEL]
    assert answer(turn, {RUN_ID: "cancelled"}) == []
    assert turn.next_event() is Signal.FINISHED


def test_leaving_in_mid_stream() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    stream(turn, PING, say("Hel"), end=False)
    turn.client_disconnected()
    turn.client_disconnected()
    assert drain(turn) == [CANCEL]
    turn.receive_failure(Failure.SILENT, "no byte came")
    assert turn.next_event() is Signal.FINISHED


def test_leaving_with_events_still_to_take() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    turn.receive_response(200, SSE)
    turn.receive_data(b"data: " + orjson.dumps(PING) + b"\n\ndata: " + orjson.dumps(say("Hel")) + b"\n\n")
    assert isinstance(turn.next_event(), TurnStarted)
    turn.client_disconnected()
    assert drain(turn) == [CANCEL]


def test_leaving_while_the_cancel_is_under_way() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    stream(turn, PING, "nonsense", end=False)
    turn.client_disconnected()
    assert answer(turn, {}) == []
    assert turn.next_event() is Signal.FINISHED


def test_leaving_while_the_cancel_is_not_handed_over_yet() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    turn.receive_response(200, SSE)
    turn.receive_data(b"data: " + orjson.dumps(PING) + b"\n\n")
    assert turn.next_event() is Signal.NEED_DATA
    turn.receive_failure(Failure.BROKEN, "connection reset")
    turn.client_disconnected()
    assert drain(turn) == [CANCEL]


@pytest.mark.parametrize(
    "rest",
    [(say("x"), stop(), USAGE, DONE), (stop("error"), error()), (stop("error"), CONFLICT, DONE)],
    ids=["ends", "fails", "is refused"],
)
def test_leaving_from_a_run_without_a_name(rest: tuple[dict[str, object] | str, ...]) -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    turn.client_disconnected()
    nameless = [{**item, "run_id": None} if isinstance(item, dict) else item for item in rest]
    assert stream(turn, *nameless) == []
    assert turn.next_event() is Signal.FINISHED


@pytest.mark.parametrize("status", [200, 404, 500])
def test_leaving_before_a_refusal(status: int) -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    turn.client_disconnected()
    assert answer(turn, {}, status) == []
    assert turn.next_event() is Signal.FINISHED


@pytest.mark.parametrize("end", [Turn.client_disconnected, lambda turn: turn.shut_down(shutting_down())])
def test_a_turn_that_ends_in_a_pause_has_none_left(end: Callable[[Turn], None]) -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    turn.receive_failure(Failure.NOT_SENT, "refused")
    assert turn.next_event() is Signal.WAITING
    end(turn)
    assert turn.pause is None
    assert not any(isinstance(item, Command) for item in drain(turn))
    assert turn.next_event() is Signal.FINISHED
    with pytest.raises(LocalProtocolError, match="there is no pause"):
        turn.end_pause()


def test_leaving_after_the_end_changes_nothing() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    stream(turn, *HELLO)
    turn.client_disconnected()
    assert turn.next_event() is Signal.FINISHED


# --- The contract
def test_wrong_order_of_calls_is_the_callers_fault() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    with pytest.raises(LocalProtocolError, match="no body is awaited"):
        turn.receive_data(b"x")
    drain(turn)
    turn.receive_response(200, SSE)
    with pytest.raises(LocalProtocolError, match="no answer is awaited"):
        turn.receive_response(200, SSE)
    more(turn, *HELLO)
    with pytest.raises(LocalProtocolError, match="no exchange is under way"):
        turn.receive_failure(Failure.BROKEN, "late")
    with pytest.raises(LocalProtocolError, match="no answer is awaited"):
        turn.receive_response(200, SSE)


def test_data_before_the_stream_is_asked_for_is_kept() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    turn.receive_response(200, SSE)
    turn.receive_data(b"data: " + orjson.dumps(PING)[:10])
    turn.receive_data(orjson.dumps(PING)[10:] + b"\n\n")
    assert turn.next_event() is Signal.NEED_DATA
    assert more(turn, say("Hello"), stop(), DONE)[1] == TextDelta(text="Hello")


def test_commit_shows_when_it_is_handed_over() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    drain(turn)
    turn.receive_response(200, SSE)
    turn.receive_data(b"data: " + orjson.dumps(say("Hel")) + b"\n\n")
    assert not turn.state.started
    assert isinstance(turn.next_event(), TurnStarted)
    assert turn.state.started


def test_every_phase_ends_and_every_one_is_reached() -> None:
    assert set(TRANSITIONS) == set(Phase)
    assert {phase for row in TRANSITIONS.values() for phase in row} == set(Phase) - {Phase.READY}
    reached = {Phase.DONE, Phase.FAILED}
    for _ in Phase:
        reached |= {phase for phase, row in TRANSITIONS.items() if reached & set(row)}
    assert reached == set(Phase)


@given(st.lists(st.binary(max_size=60), max_size=6), st.booleans())
def test_any_bytes_end_in_a_whole_reply_or_one_failure(pieces: list[bytes], named: bool) -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    items = drain(turn)
    turn.receive_response(200, SSE)
    for piece in ([b"data: " + orjson.dumps(PING) + b"\n\n"] if named else []) + pieces:
        if piece and turn.phase in (Phase.SENDING, Phase.STREAMING):
            turn.receive_data(piece)
            items += drain(turn)
    if turn.phase in (Phase.SENDING, Phase.STREAMING):
        turn.receive_data(b"")
        items += drain(turn)
    if turn.phase is Phase.RECOVERING:
        items += answer(turn, {}, 404)
    if turn.phase is Phase.CANCELLING:
        items += answer(turn, {})
    assert sum(isinstance(item, TurnFailed | TurnFinished) for item in items) == 1
    assert isinstance(items[-1], TurnFailed | TurnFinished)
    assert turn.next_event() is Signal.FINISHED


@given(st.text(max_size=200), st.text(max_size=100), st.data())
def test_texts_and_arguments_arrive_as_they_were(text: str, arguments: str, data: st.DataObject) -> None:
    def cut(whole: str) -> list[str]:
        at = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
        return [whole[a:b] for a, b in zip([0, *at], [*at, len(whole)], strict=True)]

    turn = make_turn(
        TurnRequest(model="Milo", messages=(UserMessage(content="x"),), client_tools=(WEATHER,)),
        agent=AGENT,
    )
    drain(turn)
    calls = [want("call-1", "get_weather", None), *[want("call-1", None, piece) for piece in cut(arguments)]]
    items = stream(
        turn, PING, *[say(piece) for piece in cut(text)], *calls, stop("requires_approval"), USAGE, DONE
    )
    assert "".join(item.text for item in items if isinstance(item, TextDelta)) == text
    joined = "".join(getattr(item, "fragment", "") for item in items)
    assert joined == (arguments or "{}")
