"""The state machine of a run's stream: Letta's messages in, events out.

Its inputs are the messages of the stream and `EndOfStream`. The state is what the agent was last known to be
doing. Three rules are not in the table of transitions, but in `RunStream`:

- The final event is held back until the stream ends, since a stop reason can come twice, and can be followed by
  a failure.
- A stop reason that means failure leads to FAILED even if no error message follows.
- Letta stores a turn's input when its first step has succeeded, which is visible as a tool's return or as
  another step's id (kept_nothing, kept_first_step.jsonl).
"""

from collections.abc import Iterator
from enum import Enum
from typing import Any, Final

from attrs import define, field, frozen

from ...errors import INVALID_INPUT, RemoteProtocolError, mute_agent, run_failure
from ...turn.answer import SEPARATOR
from ...turn.events import FinishReason, KeepAlive, ReasoningDelta, TextDelta, TurnStarted, Usage
from ...turn.upstream import RunEvent, RunFailed, RunState, RunStopped
from . import letta
from .calls import ReplyText, ToolBridge


@frozen(kw_only=True)
class EndOfStream:
    """The stream has ended, or its connection has."""


_ACTIVE: Final[dict[type[Any], RunState]] = {
    letta.ReasoningMessage: RunState.THINKING,
    letta.HiddenReasoningMessage: RunState.THINKING,
    letta.AssistantMessage: RunState.SPEAKING,
    letta.ToolCallMessage: RunState.WORKING,
    letta.ToolReturnMessage: RunState.WORKING,
    letta.ApprovalRequestMessage: RunState.CALLING,
    letta.StopReason: RunState.STOPPED,
    letta.ErrorMessage: RunState.FAILED,
    letta.Done: RunState.FAILED,
    EndOfStream: RunState.FAILED,
}

TRANSITIONS: Final[dict[RunState, dict[type[Any], RunState]]] = {
    RunState.WAITING: _ACTIVE,
    RunState.THINKING: _ACTIVE,
    RunState.SPEAKING: _ACTIVE,
    RunState.WORKING: _ACTIVE,
    RunState.CALLING: _ACTIVE,
    RunState.STOPPED: {
        letta.StopReason: RunState.STOPPED,
        letta.UsageStatistics: RunState.STOPPED,
        letta.ErrorMessage: RunState.FAILED,
        letta.Done: RunState.DONE,
        EndOfStream: RunState.DONE,
    },
    RunState.DONE: {},
    RunState.FAILED: {},
}

#: Messages that change no state. Unknown ones are among them, so that new versions of Letta break nothing.
_QUIET: Final[frozenset[type[Any]]] = frozenset(
    {
        letta.Ping,
        letta.UnknownMessage,
        letta.ApprovalResponseMessage,
        letta.UserMessage,
        letta.SystemMessage,
        letta.SummaryMessage,
        letta.EventMessage,
    }
)

_FINISH_REASONS: Final[dict[str, FinishReason]] = {
    "max_steps": FinishReason.LENGTH,
    "max_tokens_exceeded": FinishReason.LENGTH,
}

_FAILED_STOPS: Final = frozenset(
    {
        "error",
        "llm_api_error",
        "invalid_llm_response",
        "invalid_tool_call",
        "insufficient_credits",
        "context_window_overflow_in_system_prompt",
    }
)

#: In the detail of an error: the model of a legacy agent has not called a tool.
_NO_CALL: Final = "No tool calls found in response"


class Refusal(Enum):
    """Why Letta rejected a turn's input: it does not match the pending calls. Nothing was stored."""

    CALL_PENDING = "waiting for approval"  #: a message came while calls are pending (pending_conflict.jsonl)
    WRONG_CALLS = (
        "Invalid tool call IDs"  #: other calls are pending (parallel_partial, stale_tool_result.jsonl)
    )


#: Letta's code for CALL_PENDING, which 0.16.7 only uses if no stream was requested.
_PENDING_CODE: Final = "PENDING_APPROVAL"


def refusal_in(text: str | None, code: str | None = None) -> Refusal | None:
    """Recognise a refusal by its code, or by its text where Letta has no code for it."""
    if code == _PENDING_CODE:
        return Refusal.CALL_PENDING
    return next((refusal for refusal in Refusal if text and refusal.value in text), None)


@define
class RunStream:
    """Converts the messages of one run to events, the last of which is `RunStopped` or `RunFailed`.

    :param bridge: classifies the run's calls.
    :param mute_type: the agent's type, if its model can only call tools and it has no tool to reply with.
    """

    bridge: ToolBridge
    mute_type: str | None = None
    state: RunState = field(default=RunState.WAITING, init=False)
    started: bool = field(default=False, init=False)  #: `TurnStarted` has been returned
    run_id: str | None = field(default=None, init=False)
    step_kept: bool = field(default=False, init=False)
    _step_id: str | None = field(default=None, init=False)
    _text_id: str | None = field(default=None, init=False)
    _reasoning_id: str | None = field(default=None, init=False)
    _stop_reason: str | None = field(default=None, init=False)
    _usage: Usage | None = field(default=None, init=False)

    @property
    def has_ended(self) -> bool:
        """Whether the stream may end here: no further message could change the result.

        A stop reason that means success may be followed by one that means failure, until the usage has arrived
        (legacy_ephemeral_tool.jsonl, exchange 4). A cancelled run has no usage (cancelled.jsonl).
        """
        if self.state is not RunState.STOPPED:
            return False
        return self._usage is not None or self._stop_reason == "cancelled" or self._stop_reason in _FAILED_STOPS

    def receive_message(self, message: letta.Message | EndOfStream) -> Iterator[RunEvent]:
        """Convert one message to events. Its transition is complete when the last event has been taken.

        :raises RemoteProtocolError: if the message is not allowed in this state, which is FAILED afterwards.
        """
        run_id = getattr(message, "run_id", None)
        if run_id is not None:
            self.run_id = run_id
        tag = type(message)
        if tag in _QUIET:
            if tag is letta.Ping:
                yield KeepAlive()
            return
        following = TRANSITIONS[self.state].get(tag)
        if following is None:
            raise self._fail(
                RemoteProtocolError(f"Letta sent a {_tag(message)} while the run was {self.state.name}.")
            )
        self.state = following
        step_id = getattr(message, "step_id", None)
        if step_id is not None and step_id != self._step_id:
            self.step_kept = self.step_kept or self._step_id is not None
            self._step_id = step_id
        match message:
            case letta.AssistantMessage(id=id, content=content):
                if not self.started:
                    yield from self._start()
                if content:
                    yield self._text(id, content)
            case letta.ReasoningMessage(id=id, reasoning=reasoning):
                yield from self._start()
                if reasoning:
                    joint = SEPARATOR if self._reasoning_id not in (None, id) else ""
                    self._reasoning_id = id
                    yield ReasoningDelta(text=joint + reasoning)
            case letta.ApprovalRequestMessage(tool_calls=calls):
                yield from self._start()
                for call in calls:
                    yield from self.bridge.receive_request(call)
            case letta.ToolCallMessage(tool_calls=calls):
                yield from self._start()
                for call in calls:
                    for event in self.bridge.receive_call(call):
                        yield self._text(event.call_id, event.text) if isinstance(event, ReplyText) else event
            case letta.HiddenReasoningMessage():
                yield from self._start()
            case letta.ToolReturnMessage():
                self.step_kept = True
                yield from self._start()
                yield from self.bridge.receive_returns(message)
            case letta.StopReason(stop_reason=reason):
                self._stop_reason = reason
            case letta.UsageStatistics():
                self._usage = _usage(message)
            case letta.ErrorMessage(error_type=kind, message=text, detail=detail):
                yield self._failure(kind, text, detail)
            case _:
                yield from self._end()

    def _text(self, id: str, text: str) -> TextDelta:
        joint = SEPARATOR if self._text_id not in (None, id) else ""
        self._text_id = id
        return TextDelta(text=joint + text)

    def _start(self) -> Iterator[TurnStarted]:
        if not self.started:
            self.started = True
            yield TurnStarted()

    def _failure(self, kind: str, text: str, detail: str | None) -> RunFailed:
        if self.mute_type is not None and _NO_CALL in (detail or ""):
            return RunFailed(error=mute_agent(self.mute_type))
        is_input = detail is not None and detail.startswith(f"{INVALID_INPUT}:")
        refusal = None if self.started else refusal_in(text) or refusal_in(detail)
        error = run_failure(INVALID_INPUT if is_input else kind, text)
        return RunFailed(error=error, is_refusal=refusal is not None)

    def _end(self) -> Iterator[RunEvent]:
        if self.state is RunState.FAILED or self._stop_reason is None:
            raise self._fail(RemoteProtocolError("Letta's stream ended before the run had stopped."))
        if self._stop_reason in _FAILED_STOPS:
            self.state = RunState.FAILED
            yield RunFailed(error=run_failure(self._stop_reason, None))
            return
        try:
            closing = list(self.bridge.close())
        except RemoteProtocolError as exc:
            raise self._fail(exc) from None
        yield from self._start()
        yield from closing
        is_waiting = self._stop_reason == "requires_approval"
        calls = self.bridge.client_call_ids if is_waiting else ()
        reason = _FINISH_REASONS.get(self._stop_reason, FinishReason.STOP)
        yield RunStopped(
            reason=FinishReason.TOOL_CALLS if calls else reason,
            usage=self._usage,
            calls=calls,
            waiting=self.bridge.waiting if is_waiting and not calls else (),
            was_cancelled=self._stop_reason == "cancelled",
        )

    def _fail(self, error: RemoteProtocolError) -> RemoteProtocolError:
        self.state = RunState.FAILED
        return error


def _usage(message: letta.UsageStatistics) -> Usage:
    return Usage(
        prompt_tokens=message.prompt_tokens,
        completion_tokens=message.completion_tokens,
        total_tokens=message.total_tokens,
        cached_input_tokens=message.cached_input_tokens,
        cache_write_tokens=message.cache_write_tokens,
        reasoning_tokens=message.reasoning_tokens,
        context_tokens=message.context_tokens,
        step_count=message.step_count,
    )


def _tag(message: letta.Message | EndOfStream) -> str:
    tags = {cls: tag for tag, cls in letta.MESSAGE_TYPES.items()}
    return tags.get(type(message), type(message).__name__)
