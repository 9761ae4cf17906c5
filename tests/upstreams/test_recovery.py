"""Runs whose stream was lost, and retries of requests whose turn ended early."""

from typing import Any

import pytest

from drive import (
    AGENT,
    AGENT_ID,
    DONE,
    PING,
    RUN_ID,
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
    think,
    turn_request,
    want,
)
from sansio_letta import Config, Kept, LocalProtocolError, Signal, Turn
from sansio_letta.errors import Failure, RemoteProtocolError
from sansio_letta.turn.events import (
    CallArguments,
    CallStarted,
    Event,
    FinishReason,
    ReasoningDelta,
    ServerToolReturned,
    TextDelta,
    TurnFailed,
    TurnFinished,
    TurnStarted,
    Usage,
)
from sansio_letta.turn.thread_queue import ThreadQueue, Ticket
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.commands import (
    CancelRun,
    Command,
    FetchKept,
    FetchRun,
    FetchUsage,
    OpenStream,
    ResumeRun,
)
from sansio_letta.upstreams.rest.live_run import LettaMemory
from sansio_letta.upstreams.rest.recovery import EarlierTurn

CANCEL = CancelRun(agent_id=AGENT_ID, run_id=RUN_ID)
EARLIER = EarlierTurn(run_id="run-0")
USED = Usage(prompt_tokens=100, completion_tokens=20, total_tokens=120)
HEARD = {"message_type": "user_message", "content": "hi"}
RETURNED = {
    "message_type": "tool_return_message",
    "id": "message-3",
    "step_id": "step-1",
    "tool_call_id": "call-1",
    "tool_return": "18 C",
    "status": "success",
}


def numbered(message: dict[str, Any], seq_id: int) -> dict[str, Any]:
    """An item of a background run."""
    return message | {"seq_id": seq_id}


def opened(*, background: bool = False, config: Config | None = None) -> Turn:
    turn = make_turn(turn_request("hi", tools=[WEATHER]), config or Config(), AGENT, background=background)
    drain(turn)
    return turn


def lose(turn: Turn) -> list[Event | Command]:
    """The connection breaks."""
    turn.receive_failure(Failure.BROKEN, "connection reset")
    return drain(turn)


def book(turn: Turn, status: str, reason: str | None, *messages: dict[str, Any]) -> list[Event | Command]:
    """Letta's books say how the run ended, and what was kept of it."""
    assert answer(turn, {"id": RUN_ID, "status": status, "stop_reason": reason}) == [FetchKept(run_id=RUN_ID)]
    items = answer(turn, list(messages))
    if items == [FetchUsage(run_id=RUN_ID)]:
        items = answer(turn, USAGE)
    return items


# --- A run that is not in the background


def test_the_rest_of_a_lost_run_is_told_when_it_has_ended() -> None:
    turn = opened()
    stream(turn, PING, think("Let me"), say("Hel"), end=False)
    assert lose(turn) == [FetchRun(run_id=RUN_ID)]
    assert answer(turn, {"id": RUN_ID, "status": "running", "stop_reason": None}) == []
    assert (turn.next_event(), turn.pause) == (Signal.WAITING, 0.25)
    turn.end_pause()
    assert drain(turn) == [FetchRun(run_id=RUN_ID)]
    items = book(
        turn, "completed", "end_turn", HEARD, think("Let me see"), say("Hello Sam"), say("More", id="m-2")
    )
    assert items == [
        ReasoningDelta(text=" see"),
        TextDelta(text="lo Sam"),
        TextDelta(text="\n\nMore"),
        TurnFinished(reason=FinishReason.STOP, usage=USED),
    ]
    assert (turn.next_event(), turn.state.resume_count) == (Signal.FINISHED, 1)


def test_calls_of_a_lost_run_are_told_once() -> None:
    turn = opened()
    stream(turn, PING, want("call-1", "get_weather", None), want("call-1", None, '{"ci'), end=False)
    lose(turn)
    calls = [want("call-1", "get_weather", '{"city": 1}'), want("call-2", "get_weather", "{}")]
    assert book(turn, "completed", "requires_approval", HEARD, *calls) == [
        CallArguments(index=0, fragment='ty": 1}'),
        CallStarted(index=1, call_id="call-2", name="get_weather"),
        CallArguments(index=1, fragment="{}"),
        TurnFinished(reason=FinishReason.TOOL_CALLS, usage=USED),
    ]


@pytest.mark.parametrize("broken", [True, False], ids=["breaks", "ends"])
def test_a_stream_that_is_lost_between_two_stop_reasons(broken: bool) -> None:
    """The second one says that the run has failed: legacy_ephemeral_tool.jsonl, exchange 4."""
    turn = opened()
    assert stream(turn, PING, stop("no_tool_call"), end=False) == []
    if broken:
        lose(turn)
    else:
        turn.receive_data(b"")
        assert drain(turn) == [FetchRun(run_id=RUN_ID)]
    [failure] = book(turn, "failed", "llm_api_error")
    assert isinstance(failure, TurnFailed)
    assert (failure.kept, failure.error.status_hint) == (Kept.NOTHING, 502)


def test_a_stream_that_is_lost_behind_its_stop_reason() -> None:
    turn = opened()
    stream(turn, PING, say("Hello"), stop(), end=False)
    lose(turn)
    [finish] = book(turn, "completed", "end_turn", HEARD, say("Hello"))
    assert finish == TurnFinished(reason=FinishReason.STOP, usage=USED)


@pytest.mark.parametrize("ending", [(stop(), USAGE), (stop("cancelled"),)], ids=["usage", "cancelled"])
def test_a_stream_that_breaks_behind_its_end_is_whole(ending: tuple[dict[str, Any], ...]) -> None:
    turn = opened()
    stream(turn, PING, say("Hello"), *ending, end=False)
    turn.receive_failure(Failure.BROKEN, "connection reset")
    [finish] = drain(turn)
    assert isinstance(finish, TurnFinished)
    assert (turn.next_event(), turn.state.resume_count) == (Signal.FINISHED, 0)


def test_a_stream_that_breaks_behind_a_failed_stop_is_a_failure() -> None:
    turn = opened()
    stream(turn, PING, stop("llm_api_error"), end=False)
    turn.receive_failure(Failure.BROKEN, "connection reset")
    [failure] = drain(turn)
    assert isinstance(failure, TurnFailed)
    assert (failure.kept, failure.error.status_hint) == (Kept.NOTHING, 502)


def test_a_lost_run_of_which_nothing_was_said() -> None:
    turn = opened()
    stream(turn, PING, end=False)
    lose(turn)
    items = book(turn, "completed", "end_turn", HEARD, say("Hello"))
    assert items[:2] == [TurnStarted(), TextDelta(text="Hello")]
    assert isinstance(items[-1], TurnFinished)


@pytest.mark.parametrize("reason", ["llm_api_error", "error"])
def test_a_lost_run_that_failed_and_kept_nothing(reason: str) -> None:
    turn = opened()
    stream(turn, PING, say("Hel"), end=False)
    lose(turn)
    [failure] = book(turn, "failed", reason)
    assert isinstance(failure, TurnFailed)
    assert (failure.kept, failure.error.advice.type) == (Kept.NOTHING, "server_error")


def test_a_lost_run_that_failed_and_kept_its_first_step() -> None:
    turn = opened()
    stream(turn, PING, say("Hel"), end=False)
    lose(turn)
    rest, returned, failure = book(turn, "completed", "llm_api_error", HEARD, say("Hello"), RETURNED)
    assert rest == TextDelta(text="lo")
    assert isinstance(returned, ServerToolReturned)
    assert isinstance(failure, TurnFailed)
    assert (failure.kept, failure.error.status_hint) == (Kept.SOMETHING, 424)


def test_a_lost_run_that_letta_does_not_know() -> None:
    turn = opened()
    stream(turn, PING, end=False)
    lose(turn)
    [failure] = answer(turn, {"detail": "not found"}, 404)
    assert isinstance(failure, TurnFailed)
    assert (failure.kept, failure.error.status_hint) == (Kept.NOTHING, 502)
    assert "connection reset" in failure.error.message


def test_letta_restarts_meanwhile() -> None:
    turn = opened()
    stream(turn, PING, end=False)
    lose(turn)
    waited = 0.0
    for _ in range(4):
        turn.receive_failure(Failure.NOT_SENT, "connection refused")
        assert turn.next_event() is Signal.WAITING
        waited += turn.pause or 0.0
        turn.end_pause()
        assert drain(turn) == [FetchRun(run_id=RUN_ID)]
    assert waited == 3.75
    assert answer(turn, {}, 503) == []
    turn.end_pause()
    drain(turn)
    assert isinstance(book(turn, "completed", "end_turn", HEARD, say("Hello"))[-1], TurnFinished)


def test_letta_does_not_come_back() -> None:
    turn = opened(config=Config(resume_timeout=1.0))
    stream(turn, PING, end=False)
    lose(turn)
    while drain(turn) != [CANCEL]:
        turn.receive_failure(Failure.NOT_SENT, "connection refused")
        if turn.next_event() is Signal.WAITING:
            turn.end_pause()
            assert drain(turn) == [FetchRun(run_id=RUN_ID)]
        else:
            break
    for _ in range(2):
        turn.receive_failure(Failure.NOT_SENT, "connection refused")
        assert turn.next_event() is Signal.WAITING
        turn.end_pause()
        assert drain(turn) == [CANCEL]
    turn.receive_failure(Failure.NOT_SENT, "connection refused")
    [failure] = drain(turn)
    assert isinstance(failure, TurnFailed)
    assert (failure.kept, failure.error.status_hint) == (Kept.UNKNOWN, 424)
    assert "connection reset" in failure.error.message


def test_the_client_leaves_while_a_lost_run_is_looked_for() -> None:
    turn = opened()
    stream(turn, PING, end=False)
    lose(turn)
    answer(turn, {"id": RUN_ID, "status": "running"})
    turn.client_disconnected()
    assert drain(turn) == [CANCEL]
    assert answer(turn, {}) == []
    assert turn.next_event() is Signal.FINISHED


def test_a_lost_run_takes_too_long() -> None:
    turn = opened()
    stream(turn, PING, end=False)
    lose(turn)
    answer(turn, {"id": RUN_ID, "status": "running"})
    turn.time_out(RemoteProtocolError("too long"))
    assert drain(turn) == [CANCEL]
    [failure] = answer(turn, {})
    assert isinstance(failure, TurnFailed)
    assert (failure.error.message, failure.kept) == ("too long", Kept.UNKNOWN)


def test_a_lost_run_that_does_not_end_is_ended() -> None:
    turn = opened(config=Config(lost_run_timeout=1.5))
    stream(turn, PING, say("Hel"), end=False)
    assert lose(turn) == [FetchRun(run_id=RUN_ID)]
    running = {"id": RUN_ID, "status": "running"}
    for pause in (0.25, 0.5, 1.0):
        assert answer(turn, running) == []
        assert turn.pause == pause
        turn.end_pause()
        assert drain(turn) == [FetchRun(run_id=RUN_ID)]
    assert answer(turn, running) == [CANCEL]
    [failure] = answer(turn, {RUN_ID: "cancelled"})
    assert isinstance(failure, TurnFailed)
    assert (failure.kept, failure.error.status_hint) == (Kept.UNKNOWN, 424)
    assert "connection reset" in failure.error.message


def test_an_earlier_turn_that_does_not_end_is_waited_for_no_longer() -> None:
    turn = make_turn(turn_request("hi"), Config(lost_run_timeout=0.1), AGENT, earlier=EARLIER)
    drain(turn)
    assert answer(turn, {"id": "run-0", "status": "running"}) == []
    turn.end_pause()
    drain(turn)
    [failure] = answer(turn, {"id": "run-0", "status": "running"})
    assert isinstance(failure, TurnFailed)
    assert (failure.error.status_hint, failure.error.advice.should_retry) == (424, False)


# --- A background run


def test_a_background_run_is_read_on_behind_its_last_item() -> None:
    turn = opened(background=True)
    items = stream(turn, numbered(PING, 1), numbered(say("Hel"), 2), end=False)
    assert lose(turn) == [FetchRun(run_id=RUN_ID)]
    assert answer(turn, {"id": RUN_ID, "status": "running"}) == [ResumeRun(run_id=RUN_ID, seq_id=2)]
    items += stream(turn, numbered(say("lo"), 3), end=False)
    assert turn.next_event() is Signal.NEED_DATA
    lose(turn)
    assert answer(turn, {"id": RUN_ID, "status": "completed"}) == [ResumeRun(run_id=RUN_ID, seq_id=3)]
    items += stream(turn, stop(), USAGE, DONE)
    assert [item.text for item in items if isinstance(item, TextDelta)] == ["Hel", "lo"]
    assert items[-1] == TurnFinished(reason=FinishReason.STOP, usage=USED)
    assert turn.state.resume_count == 2


def test_a_stream_that_is_lost_again_and_again_is_asked_for_more_slowly() -> None:
    turn = opened(background=True, config=Config(resume_timeout=1.0))
    stream(turn, numbered(PING, 1), end=False)
    assert lose(turn) == [FetchRun(run_id=RUN_ID)]
    pauses = []
    while True:
        assert answer(turn, {"id": RUN_ID, "status": "running"}) == [ResumeRun(run_id=RUN_ID, seq_id=1)]
        stream(turn, end=False)
        if lose(turn) == [CANCEL]:
            break
        pauses.append(turn.pause)
        turn.end_pause()
        assert drain(turn) == [FetchRun(run_id=RUN_ID)]
    assert pauses == [0.25, 0.5, 0.25]


def test_a_ping_stands_for_the_end_that_letta_forgot() -> None:
    turn = opened(background=True)
    stream(turn, numbered(PING, 1), numbered(say("Hel"), 2), end=False)
    lose(turn)
    answer(turn, {"id": RUN_ID, "status": "failed"})
    assert stream(turn, PING, end=False) == [FetchRun(run_id=RUN_ID)]
    [failure] = book(turn, "failed", "error")
    assert isinstance(failure, TurnFailed)


def test_a_stream_of_nothing_but_pings_is_believed_no_longer() -> None:
    turn = opened(background=True)
    stream(turn, numbered(PING, 1), numbered(say("Hel"), 2), PING, PING, PING, PING, end=False)
    assert lose(turn) == [FetchRun(run_id=RUN_ID)]
    assert answer(turn, {"id": RUN_ID, "status": "running"}) == [ResumeRun(run_id=RUN_ID, seq_id=2)]
    assert stream(turn, PING, PING, PING, numbered(say("lo"), 3), end=False)[-1] == TextDelta(text="lo")
    keepalives = 3
    assert len(more(turn, *[PING] * keepalives, end=False)) == keepalives
    assert more(turn, PING, end=False) == [FetchRun(run_id=RUN_ID)]
    assert book(turn, "completed", "end_turn", HEARD, say("Hello Sam"))[0] == TextDelta(text=" Sam")


def test_a_stream_that_cannot_be_resumed_is_read_from_the_books() -> None:
    turn = opened(background=True)
    stream(turn, numbered(PING, 1), numbered(say("Hel"), 2), end=False)
    lose(turn)
    answer(turn, {"id": RUN_ID, "status": "completed"})
    assert answer(turn, {"detail": "gone"}, 400) == [FetchRun(run_id=RUN_ID)]
    assert book(turn, "completed", "end_turn", HEARD, say("Hello"))[0] == TextDelta(text="lo")


def test_letta_without_background_streams_is_asked_again_without() -> None:
    memory = LettaMemory()
    turn = make_turn(turn_request("hi"), agent=AGENT, background=True, memory=memory)
    [asked] = drain(turn)
    assert isinstance(asked, OpenStream)
    assert b'"background":true' in asked.body
    [again] = answer(turn, {"detail": "Redis is not configured"}, 503)
    assert isinstance(again, OpenStream)
    assert b"background" not in again.body
    [failure] = answer(turn, {"detail": "down"}, 503)
    assert isinstance(failure, TurnFailed)
    assert failure.error.status_hint == 503
    [next_asked] = drain(make_turn(turn_request("hi"), agent=AGENT, background=True, memory=memory))
    assert isinstance(next_asked, OpenStream)
    assert b"background" not in next_asked.body


# --- Trying again


def test_a_turn_that_was_not_sent_is_sent_again() -> None:
    turn = opened()
    pauses = []
    for _ in range(2):
        turn.receive_failure(Failure.NOT_SENT, "connection refused")
        assert turn.next_event() is Signal.WAITING
        with pytest.raises(LocalProtocolError):
            turn.receive_failure(Failure.NOT_SENT, "nothing is under way")
        pauses.append(turn.pause)
        turn.end_pause()
        assert type(drain(turn)[0]) is OpenStream
    assert pauses == [0.25, 0.5]
    turn.receive_failure(Failure.NOT_SENT, "connection refused")
    assert isinstance(drain(turn)[0], TurnFailed)


def test_a_pause_ends_once() -> None:
    turn = opened()
    with pytest.raises(LocalProtocolError, match="there is no pause"):
        turn.end_pause()


def test_lettas_lock_is_waited_for() -> None:
    turn = opened(config=Config(queue_timeout=1.0))
    for expected in (0.25, 0.5, 0.25):
        assert answer(turn, {"detail": "busy with run-9"}, 409) == []
        assert turn.pause == expected
        turn.end_pause()
        assert type(drain(turn)[0]) is OpenStream
    [failure] = answer(turn, {"detail": "busy with run-9"}, 409)
    assert isinstance(failure, TurnFailed)
    assert (failure.error.status_hint, failure.kept) == (409, Kept.NOTHING)


def test_leaving_in_a_pause_sends_nothing() -> None:
    turn = opened()
    turn.receive_failure(Failure.NOT_SENT, "connection refused")
    drain(turn)
    turn.client_disconnected()
    assert turn.next_event() is Signal.FINISHED


# --- Others in the thread


def test_a_turn_waits_for_the_one_before_it_and_then_looks() -> None:
    queue = ThreadQueue(5)
    first = make_turn(turn_request("hi"), agent=AGENT, ticket=Ticket(queue))
    woken: list[str] = []
    second = make_turn(
        turn_request(results=["call-1"], tools=[WEATHER]), ticket=Ticket(queue, lambda: woken.append("second"))
    )
    drain(first)
    drain(second)
    answer(second, [agent_json("call-1")])
    assert (second.next_event(), second.pause) == (Signal.WAITING, None)
    stream(first, PING, say("Hello"), stop(), DONE)
    assert woken == ["second"]
    # What it saw pending before its turn came may have been answered by the other.
    assert "pending_approval" in drain(second)[0].target  # type: ignore[union-attr]
    [failure] = answer(second, agent_json())
    assert isinstance(failure, TurnFailed)


def test_a_place_is_given_up_when_the_client_leaves() -> None:
    queue = ThreadQueue(5)
    first, second = (make_turn(turn_request("hi"), agent=AGENT, ticket=Ticket(queue)) for _ in range(2))
    drain(first)
    assert second.next_event() is Signal.WAITING
    second.client_disconnected()
    assert second.next_event() is Signal.FINISHED
    first.client_disconnected()
    assert queue.waiting_count == 0


def test_a_run_that_is_cancelled_keeps_its_place_until_it_has_ended() -> None:
    queue = ThreadQueue(5)
    first, second = (make_turn(turn_request("hi"), agent=AGENT, ticket=Ticket(queue)) for _ in range(2))
    drain(first)
    stream(first, PING, say("Hel"), end=False)
    first.client_disconnected()
    assert drain(first) == [CANCEL]
    assert second.next_event() is Signal.WAITING
    answer(first, {})
    assert type(second.next_event()) is OpenStream


def test_too_many_wait() -> None:
    queue = ThreadQueue(0)
    drain(make_turn(turn_request("hi"), agent=AGENT, ticket=Ticket(queue)))
    [failure] = drain(make_turn(turn_request("hi"), agent=AGENT, ticket=Ticket(queue)))
    assert isinstance(failure, TurnFailed)
    assert failure.error.code == "agent_busy"


# --- A request whose turn broke off


def again(*, results: bool = False) -> Turn:
    asked = (
        turn_request("hi", results=["call-1"], tools=[WEATHER])
        if results
        else turn_request("hi", tools=[WEATHER])
    )
    turn = make_turn(asked, agent=AGENT, earlier=EARLIER)
    assert drain(turn) == [FetchRun(run_id="run-0")]
    return turn


def earlier(turn: Turn, status: str, reason: str, *messages: dict[str, Any]) -> list[Event | Command]:
    answer(turn, {"id": "run-0", "status": status, "stop_reason": reason})
    items = answer(turn, list(messages))
    return answer(turn, USAGE) if items == [FetchUsage(run_id="run-0")] else items


def test_nothing_was_kept_so_it_is_said_again() -> None:
    [command] = earlier(again(), "cancelled", "cancelled")
    assert isinstance(command, OpenStream)
    assert command.request.messages == (letta.MessageCreate(content="hi"),)


def test_all_was_done_so_the_answer_is_told() -> None:
    items = earlier(again(), "completed", "end_turn", HEARD, say("Hello"))
    finished = TurnFinished(reason=FinishReason.STOP, usage=USED)
    assert items == [TurnStarted(), TextDelta(text="Hello"), finished]


def test_a_first_step_was_kept_so_the_agent_goes_on() -> None:
    turn = again()
    *told, command = earlier(turn, "failed", "llm_api_error", HEARD, say("Working."), RETURNED)
    assert told[:2] == [TurnStarted(), TextDelta(text="Working.")]
    assert [type(item) for item in told[2:]] == [ServerToolReturned]
    assert isinstance(command, OpenStream)
    [approval] = command.request.messages
    assert approval == letta.ApprovalCreate(
        approvals=(letta.ToolReturn(tool_call_id="call-1", tool_return="18 C"),)
    )
    items = stream(turn, PING, say("Done.", id="m-9"), stop(), DONE)
    assert [item for item in items if isinstance(item, TextDelta)] == [TextDelta(text="\n\nDone.")]
    assert isinstance(items[-1], TurnFinished)


def test_a_first_step_was_kept_and_others_have_led_to_calls_since() -> None:
    """They have spoken through another process."""
    turn = again()
    earlier(turn, "failed", "llm_api_error", HEARD, RETURNED)
    conflict = error("internal_error", "Invalid tool call IDs. Expected '['call-2']', got '['call-1']'")
    *_, failed = stream(turn, PING, stop("error"), conflict, DONE)
    assert isinstance(failed, TurnFailed)
    assert failed.kept is Kept.SOMETHING
    assert "went on meanwhile" in failed.error.message


def test_results_were_kept_and_the_message_beside_them_was_not() -> None:
    turn = again(results=True)
    echo = {"message_type": "approval_response_message"}
    [command] = earlier(turn, "failed", "llm_api_error", echo, RETURNED)
    assert isinstance(command, OpenStream)
    assert [type(message) for message in command.request.messages] == [
        letta.ApprovalCreate,
        letta.MessageCreate,
    ]
    [failure] = stream(turn, PING, stop("llm_api_error"), DONE)
    assert isinstance(failure, TurnFailed)
    assert failure.kept is Kept.SOMETHING


def test_something_was_kept_that_nothing_follows_from() -> None:
    [failure] = earlier(again(), "cancelled", "cancelled", HEARD)
    assert isinstance(failure, TurnFailed)
    assert (failure.error.status_hint, failure.error.advice.should_retry) == (424, False)


def test_the_earlier_run_is_unknown() -> None:
    turn = again()
    assert type(answer(turn, {"detail": "not found"}, 404)[0]) is OpenStream


def test_results_are_looked_up_when_nothing_of_them_was_kept() -> None:
    turn = again(results=True)
    [command] = earlier(turn, "cancelled", "cancelled")
    assert "pending_approval" in command.target  # type: ignore[union-attr]


def test_the_client_leaves_while_the_earlier_run_is_looked_at() -> None:
    turn = again()
    turn.client_disconnected()
    assert turn.next_event() is Signal.FINISHED


def test_messages_of_any_shape_are_read() -> None:
    turn = opened()
    stream(turn, PING, end=False)
    lose(turn)
    answer(turn, {"id": RUN_ID, "status": "completed", "stop_reason": "end_turn"})
    assert more(turn, end=False) == []
    assert answer(turn, [{"message_type": "news"}, 7])[-1] == CANCEL


def test_the_rest_of_what_was_said_by_calls_of_a_tool() -> None:
    """Letta's books tell the calls of one step as texts of one id; the stream told calls."""
    sender = letta.OwnTool(name="send_message", tool_type="letta_core")
    turn = make_turn(turn_request("Hello"), agent=agent(tools=(sender,)))
    drain(turn)
    first = server_call("call-1", "send_message", '{"message": "One."}')
    second = server_call("call-2", "send_message", '{"message": "Tw')
    told = stream(turn, PING, first, second, end=False)
    turn.receive_failure(Failure.BROKEN, "reset")
    drain(turn)
    answer(turn, {"id": RUN_ID, "status": "completed", "stop_reason": "tool_rule"})
    kept = [{"message_type": "user_message", "id": "message-0"}, say("One."), say("Two.")]
    answer(turn, kept)
    told += answer(turn, {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2})
    assert "".join(word.text for word in told if isinstance(word, TextDelta)) == "One.\n\nTwo."
