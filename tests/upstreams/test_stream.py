"""The events of a run's messages: the table of transitions, and the rules that are not in it."""

from typing import Any

import orjson
import pytest

from drive import (
    DONE,
    PING,
    RUN_ID,
    TOOL_RETURN,
    USAGE,
    error,
    say,
    server_call,
    stop,
    think,
    want,
)
from sansio_letta import RemoteProtocolError
from sansio_letta.turn.agent import PendingCall
from sansio_letta.turn.events import (
    CallArguments,
    CallStarted,
    FinishReason,
    KeepAlive,
    ReasoningDelta,
    ServerToolArguments,
    ServerToolStarted,
    TextDelta,
    TurnStarted,
    Usage,
)
from sansio_letta.turn.upstream import RunEvent, RunFailed, RunState, RunStopped
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.calls import ToolBridge
from sansio_letta.upstreams.rest.run import (
    TRANSITIONS,
    EndOfStream,
    Refusal,
    RunStream,
    refusal_in,
)

INPUTS = {*letta.MESSAGE_TYPES.values(), letta.Done, letta.UnknownMessage, EndOfStream}


def run(
    *messages: dict[str, Any] | str | EndOfStream, tools: tuple[str, ...] = ("get_weather",)
) -> list[RunEvent]:
    """All events of a run, but for those that only keep a client waiting."""
    words = feed(RunStream(ToolBridge({name: name for name in tools})), *messages)
    return [word for word in words if word != KeepAlive()]


def feed(stream: RunStream, *messages: dict[str, Any] | str | EndOfStream) -> list[RunEvent]:
    words: list[RunEvent] = []
    for message in messages:
        words += stream.receive_message(message if isinstance(message, EndOfStream) else decode(message))
    return words


def decode(message: dict[str, Any] | str) -> letta.Message:
    return letta.decode_message(message.encode() if isinstance(message, str) else orjson.dumps(message))


def finished(words: list[RunEvent]) -> RunStopped:
    assert isinstance(words[-1], RunStopped)
    return words[-1]


def failed(words: list[RunEvent]) -> RunFailed:
    assert isinstance(words[-1], RunFailed)
    return words[-1]


def test_text() -> None:
    assert run(PING, say("Hel"), say("lo"), stop(), USAGE, DONE) == [
        TurnStarted(),
        TextDelta(text="Hel"),
        TextDelta(text="lo"),
        RunStopped(
            reason=FinishReason.STOP,
            usage=Usage(prompt_tokens=100, completion_tokens=20, total_tokens=120),
        ),
    ]


def test_texts_of_two_messages_are_told_apart() -> None:
    words = run(say("One."), say("Two.", id="message-9"), say(" More.", id="message-9"))
    assert words[1:] == [TextDelta(text="One."), TextDelta(text="\n\nTwo."), TextDelta(text=" More.")]


def test_thoughts_of_two_messages_are_told_apart() -> None:
    words = run(think("One."), say("Text."), think("Two.", id="message-9"))
    assert words[1:] == [ReasoningDelta(text="One."), TextDelta(text="Text."), ReasoningDelta(text="\n\nTwo.")]


def test_empty_fragments_say_nothing() -> None:
    assert run(say(""), think(""), say("x", id="message-9")) == [TurnStarted(), TextDelta(text="x")]


@pytest.mark.parametrize(
    "first",
    [
        {"message_type": "hidden_reasoning_message", "id": "message-1", "state": "redacted"},
        server_call("call-1", "memory_insert", None),
        TOOL_RETURN,
        think("Hm"),
        want("call-1", "get_weather", None),
    ],
    ids=["hidden reasoning", "server tool", "tool return", "reasoning", "call"],
)
def test_whatever_comes_first_begins_the_reply(first: dict[str, Any]) -> None:
    assert run(PING, first)[0] == TurnStarted()


def test_pings_keep_alive() -> None:
    words = feed(RunStream(ToolBridge({})), PING, say("x"), PING)
    assert words == [KeepAlive(), TurnStarted(), TextDelta(text="x"), KeepAlive()]


@pytest.mark.parametrize(
    "tag",
    [
        "user_message",
        "system_message",
        "summary_message",
        "event_message",
        "approval_response_message",
        "something_new",
    ],
)
def test_messages_that_are_not_for_the_client_change_nothing(tag: str) -> None:
    stream = RunStream(ToolBridge({}))
    feed(stream, say("x"))
    assert feed(stream, {"message_type": tag, "id": "message-7"}) == []
    assert stream.state is RunState.SPEAKING


def test_run_is_named_by_its_first_ping() -> None:
    stream = RunStream(ToolBridge({}))
    feed(stream, PING)
    assert stream.run_id == RUN_ID


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", FinishReason.STOP),
        ("no_tool_call", FinishReason.STOP),
        ("tool_rule", FinishReason.STOP),
        ("cancelled", FinishReason.STOP),
        ("max_steps", FinishReason.LENGTH),
        ("max_tokens_exceeded", FinishReason.LENGTH),
        ("a_new_reason", FinishReason.STOP),
    ],
)
def test_stop_reasons(reason: str, expected: FinishReason) -> None:
    assert finished(run(say("x"), stop(reason), DONE)).reason is expected


def test_stop_reason_comes_twice() -> None:
    assert finished(run(say("x"), stop(), stop(), USAGE, DONE)).reason is FinishReason.STOP


def test_cancelled_run_ends_without_done_or_usage() -> None:
    assert finished(run(say("x"), stop("cancelled"), EndOfStream())).usage is None


def test_reply_may_be_empty() -> None:
    assert [type(word) for word in run(PING, stop(), USAGE, DONE)] == [TurnStarted, RunStopped]


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("error", "upstream_error"),
        ("llm_api_error", "upstream_error"),
        ("invalid_llm_response", "upstream_error"),
        ("invalid_tool_call", "upstream_error"),
        ("insufficient_credits", "insufficient_quota"),
        ("context_window_overflow_in_system_prompt", "context_length_exceeded"),
    ],
)
def test_stop_reasons_that_mean_failure(reason: str, code: str) -> None:
    stream = RunStream(ToolBridge({}))
    failure = failed(feed(stream, PING, stop(reason), DONE))
    assert stream.state is RunState.FAILED
    assert failure.error.code == code


def test_failure_is_told_by_its_error_message() -> None:
    stream = RunStream(ToolBridge({}))
    told = error("llm_timeout", "Too slow.", "sk-secret")
    failure = failed(feed(stream, PING, say("x"), stop("llm_api_error"), told))
    assert failure.error.message == "Letta ended the run: llm_timeout: Too slow."
    assert not failure.is_refusal


def test_an_input_that_letta_cannot_take_is_the_clients_to_mend() -> None:
    detail = "INVALID_ARGUMENT: Failed to fetch image from https://example.com/a.png: 404"
    stream = RunStream(ToolBridge({}))
    failure = failed(feed(stream, PING, stop("error"), error("internal_error", "An error occurred.", detail)))
    assert (failure.error.status_hint, failure.error.code) == (400, "invalid_value")
    assert "example.com" not in failure.error.message


def test_refusals_are_recognised_while_nothing_was_said() -> None:
    stream = RunStream(ToolBridge({}))
    wrong = error("internal_error", "unknown", "Invalid tool call IDs. Expected")
    assert failed(feed(stream, PING, stop("error"), wrong)).is_refusal
    spoken, pending = RunStream(ToolBridge({})), error("internal_error", "The agent is waiting for approval")
    assert not failed(feed(spoken, say("x"), stop("error"), pending)).is_refusal
    assert refusal_in("The agent is waiting for approval") is Refusal.CALL_PENDING
    assert refusal_in("Invalid tool call IDs. Expected") is Refusal.WRONG_CALLS
    assert refusal_in(None) is None


def test_an_agent_that_can_only_call_tools_and_has_none_to_speak_by() -> None:
    no_call = error("internal_error", "It broke.", "No tool calls found in response")
    failure = failed(feed(RunStream(ToolBridge({}), "memgpt_agent"), PING, stop("error"), no_call))
    assert failure.error.code == "unsupported_agent"


def test_step_is_kept_when_another_begins() -> None:
    stream = RunStream(ToolBridge({}))
    feed(stream, say("a"), say("b"), PING)
    assert not stream.step_kept
    feed(stream, say("c", id="message-9", step="step-2"))
    assert stream.step_kept


def test_calls_of_the_client() -> None:
    words = run(
        want("call-1", "get_weather", None),
        want("call-1", None, '{"city'),
        want("call-1", None, '": "Rome"}'),
        want("call-2", "get_weather", None),
        stop("requires_approval"),
        USAGE,
        DONE,
    )
    assert words[1:-1] == [
        CallStarted(index=0, call_id="call-1", name="get_weather"),
        CallArguments(index=0, fragment='{"city'),
        CallArguments(index=0, fragment='": "Rome"}'),
        CallStarted(index=1, call_id="call-2", name="get_weather"),
        CallArguments(index=1, fragment="{}"),
    ]
    assert finished(words).reason is FinishReason.TOOL_CALLS


def test_server_tools_stay_at_the_server() -> None:
    words = run(
        say("Let me note that."),
        server_call("call-1", "memory_insert", None),
        server_call("call-1", None, "{}"),
        TOOL_RETURN,
        say("Noted.", id="message-9", step="step-2"),
        stop(),
        USAGE,
        DONE,
    )
    assert words[2:-2] == [
        ServerToolStarted(call_id="call-1", name="memory_insert"),
        ServerToolArguments(call_id="call-1", fragment="{}"),
    ]
    assert [type(word) for word in words[-2:]] == [TextDelta, RunStopped]


def test_server_tool_that_needs_a_human_waits() -> None:
    words = run(say("Hm."), want("call-1", "lab_weather", '{"city": "Bern"}'), stop("requires_approval"), DONE)
    end = finished(words)
    assert (end.reason, end.calls) == (FinishReason.STOP, ())
    assert end.waiting == (PendingCall(call_id="call-1", name="lab_weather", arguments='{"city": "Bern"}'),)


def test_waiting_run_without_any_call() -> None:
    assert finished(run(stop("requires_approval"), DONE)).reason is FinishReason.STOP


def test_end_before_the_stop() -> None:
    stream = RunStream(ToolBridge({}))
    feed(stream, say("x"))
    with pytest.raises(RemoteProtocolError, match="ended before the run had stopped"):
        feed(stream, EndOfStream())
    assert stream.state is RunState.FAILED


def test_a_call_without_a_name() -> None:
    with pytest.raises(RemoteProtocolError, match="without the name of its tool"):
        run(want("call-1", None, "{}"), stop("requires_approval"), DONE)


@pytest.mark.parametrize("state", RunState)
@pytest.mark.parametrize("kind", sorted(INPUTS, key=str))
def test_every_input_has_its_place_in_every_state(state: RunState, kind: type[Any]) -> None:
    samples: dict[type[Any], Any] = {
        letta.Ping: letta.Ping(run_id=RUN_ID),
        letta.AssistantMessage: letta.AssistantMessage(id="m", content="x"),
        letta.ReasoningMessage: letta.ReasoningMessage(id="m", reasoning="x"),
        letta.HiddenReasoningMessage: letta.HiddenReasoningMessage(id="m"),
        letta.ToolCallMessage: letta.ToolCallMessage(id="m", tool_calls=()),
        letta.ToolReturnMessage: letta.ToolReturnMessage(id="m"),
        letta.ApprovalRequestMessage: letta.ApprovalRequestMessage(id="m", tool_calls=()),
        letta.StopReason: letta.StopReason(stop_reason="end_turn"),
        letta.ErrorMessage: letta.ErrorMessage(error_type="llm_error", message="x"),
        letta.UnknownMessage: letta.UnknownMessage(message_type="new", raw={}),
    }
    stream = RunStream(ToolBridge({}))
    stream.state = state
    message = samples.get(kind) or kind()
    quiet = kind.__name__ in {
        "Ping",
        "UnknownMessage",
        "ApprovalResponseMessage",
        "UserMessage",
        "SystemMessage",
        "SummaryMessage",
        "EventMessage",
    }
    if quiet:
        assert list(stream.receive_message(message)) == ([KeepAlive()] if kind is letta.Ping else [])
        assert stream.state is state
    elif kind not in TRANSITIONS[state] or (kind in (letta.Done, EndOfStream)):
        with pytest.raises(RemoteProtocolError):
            list(stream.receive_message(message))
        assert stream.state is RunState.FAILED
    else:
        list(stream.receive_message(message))
        assert stream.state is TRANSITIONS[state][kind]


def test_every_state_can_end() -> None:
    assert set(TRANSITIONS) == set(RunState)
    reached = {RunState.DONE, RunState.FAILED}
    for _ in RunState:
        reached |= {state for state, row in TRANSITIONS.items() if reached & set(row.values())}
    assert reached == set(RunState)
