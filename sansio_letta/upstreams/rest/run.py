"""The stream machine: one run of Letta's, from its first message to its end, as events.

Inputs are the messages of the wire and one of our own, `EndOfStream`. The state says what the agent was
doing when it was last heard of. Three things cannot be read from the table and stand in `RunStream` below it:

- The finish is held back to the stream's end. A stop reason can come twice, and a failure comes after it.
- A stop reason that means failure ends in FAILED even if no error message follows.
- Whether Letta has kept anything: a turn's input is kept when its first step has ended well, which shows in a
  tool's return or another step's id (kept_nothing, kept_first_step.jsonl).
"""

from collections.abc import Iterator
from enum import Enum, auto
from typing import Any, Final, TypeAlias

from attrs import asdict, define, field, fields, frozen

from ...errors import INVALID_INPUT, LettaError, RemoteProtocolError, run_failure
from ...turn.agent import PendingCall
from ...turn.approval import approval_question
from ...turn.events import (
    CallArguments,
    CallStarted,
    FinishReason,
    KeepAlive,
    ReasoningDelta,
    TextDelta,
    TurnFinished,
    TurnStarted,
    Usage,
)
from . import letta
from .attached_tools import is_our_name
from .calls import ServerToolWord, Spoken, ToolBridge

Word: TypeAlias = (
    TurnStarted
    | ReasoningDelta
    | TextDelta
    | CallStarted
    | CallArguments
    | ServerToolWord
    | KeepAlive
    | TurnFinished
)


class RunState(Enum):
    """What the agent was doing when it was last heard of."""

    WAITING = auto()  #: nothing yet but pings
    THINKING = auto()
    SPEAKING = auto()
    WORKING = auto()  #: a tool of Letta's is called or has returned
    CALLING = auto()  #: somebody else is to carry out a call
    STOPPED = auto()  #: a stop reason came; usage, an error or the end may follow
    DONE = auto()
    FAILED = auto()

    # The transitions are looked up for every message: Enum's own hash is Python code.
    __hash__ = object.__hash__


@frozen(kw_only=True)
class EndOfStream:
    """The bytes ended, or the connection did."""


_HEARD: Final[dict[type[Any], RunState]] = {
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
    RunState.WAITING: _HEARD,
    RunState.THINKING: _HEARD,
    RunState.SPEAKING: _HEARD,
    RunState.WORKING: _HEARD,
    RunState.CALLING: _HEARD,
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

#: Messages that mean nothing to the client and keep every state: Letta may grow without breaking us.
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

#: Letta's words in an error's detail for a legacy agent whose model has called no tool.
_NO_CALL: Final = "No tool calls found in response"

#: Joins texts of different messages: the client sees one.
SEPARATOR: Final = "\n\n"


class Refusal(Enum):
    """Why Letta refused a turn's input: what is pending does not fit it. Nothing was kept."""

    CALL_PENDING = "waiting for approval"  #: a message came while calls are pending (pending_conflict.jsonl)
    WRONG_CALLS = (
        "Invalid tool call IDs"  #: other calls are pending (parallel_partial, stale_tool_result.jsonl)
    )


#: Letta's code for the first of them, which 0.16.7 gives where no stream was asked for.
_PENDING_CODE: Final = "PENDING_APPROVAL"


def refusal_in(text: str | None, code: str | None = None) -> Refusal | None:
    """Where Letta has no code for these refusals, it has words."""
    if code == _PENDING_CODE:
        return Refusal.CALL_PENDING
    return next((refusal for refusal in Refusal if text and refusal.value in text), None)


@frozen(kw_only=True)
class SoFar:
    """What an answer holds of runs before the one under way: it goes on as if all were one run."""

    started: bool = False  #: `TurnStarted` was said
    has_text: bool = False
    has_reasoning: bool = False
    usage: Usage | None = None


@define
class RunStream:
    """The messages of one run in, events out.

    :param bridge: sorts the run's calls.
    :param before: what the answer holds already.
    :param asks: whether a person is asked about the server's tools that wait for one. Otherwise, and for tools
        that a client has offered and no longer does, such a run ends without `TurnFinished`, and `waiting` says
        for what.
    """

    bridge: ToolBridge
    before: SoFar = field(factory=SoFar)
    asks: bool = True
    state: RunState = field(default=RunState.WAITING, init=False)
    started: bool = field(init=False)  #: `TurnStarted` was said
    waiting: tuple[PendingCall, ...] = field(default=(), init=False)  #: set in DONE: see `asks`
    run_id: str | None = field(default=None, init=False)
    step_kept: bool = field(default=False, init=False)
    refusal: Refusal | None = field(default=None, init=False)  #: set in FAILED: the input may be mended
    error: LettaError | RemoteProtocolError | None = field(default=None, init=False)  #: set in FAILED
    wrote_text: bool = field(default=False, init=False)  #: set in FAILED: where only a call was allowed
    _step_id: str | None = field(default=None, init=False)
    _text_id: str | None = field(default=None, init=False)
    _reasoning_id: str | None = field(default=None, init=False)
    _stop_reason: str | None = field(default=None, init=False)
    _usage: Usage | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.started = self.before.started
        # No message has this id: what comes first now is told apart from what was said before.
        self._text_id = "" if self.before.has_text else None
        self._reasoning_id = "" if self.before.has_reasoning else None

    @property
    def has_ended(self) -> bool:
        """Whether its stream may end here: nothing that could still come would change how the run ended.

        Behind a stop reason that means success one that means failure may come (legacy_ephemeral_tool.jsonl,
        exchange 4), until the usage has. A cancelled run has no usage (cancelled.jsonl).
        """
        if self.state is not RunState.STOPPED:
            return False
        return self._usage is not None or self._stop_reason == "cancelled" or self._stop_reason in _FAILED_STOPS

    @property
    def was_cancelled(self) -> bool:
        """Whether somebody has ended it: what it says is not whole."""
        return self._stop_reason == "cancelled"

    @property
    def waits_for_client(self) -> bool:
        """Whether it has stopped for results of the client's."""
        return self._stop_reason == "requires_approval" and bool(self.bridge.client_call_count)

    @property
    def so_far(self) -> SoFar:
        """What the answer holds up to here."""
        return SoFar(
            started=self.started,
            has_text=self._text_id is not None,
            has_reasoning=self._reasoning_id is not None,
            usage=_sum(self.before.usage, self._usage),
        )

    def receive_message(self, message: letta.Message | EndOfStream) -> Iterator[Word]:
        """One message's events; the state has moved by it when the last is taken.

        :raises RemoteProtocolError: if the message has no place here; the state is FAILED then.
        """
        run_id = getattr(message, "run_id", None)
        if run_id is not None:
            self.run_id = run_id
        tag = type(message)
        if tag in _QUIET:
            if self.started and tag is letta.Ping:
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
                    yield self._say(id, content)
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
                    for word in self.bridge.receive_call(call):
                        yield self._say(word.call_id, word.text) if isinstance(word, Spoken) else word
            case letta.HiddenReasoningMessage():
                yield from self._start()
            case letta.ToolReturnMessage():
                self.step_kept = True
                yield from self._start()
                yield from self.bridge.receive_returns(message)
            case letta.StopReason(stop_reason=reason):
                self._stop_reason = reason
            case letta.UsageStatistics():
                self._usage = Usage(**asdict(message))
            case letta.ErrorMessage(error_type=kind, message=text, detail=detail):
                self.refusal = None if self.started else refusal_in(text) or refusal_in(detail)
                is_input = detail is not None and detail.startswith(f"{INVALID_INPUT}:")
                self.wrote_text = _NO_CALL in (detail or "")
                self.error = run_failure(INVALID_INPUT if is_input else kind, text)
            case _:
                yield from self._end()

    def _say(self, id: str, text: str) -> TextDelta:
        joint = SEPARATOR if self._text_id not in (None, id) else ""
        self._text_id = id
        return TextDelta(text=joint + text)

    def _start(self) -> Iterator[TurnStarted]:
        if not self.started:
            self.started = True
            yield TurnStarted()

    def _end(self) -> Iterator[Word]:
        if self.state is RunState.FAILED or self._stop_reason is None:
            raise self._fail(RemoteProtocolError("Letta's stream ended before the run had stopped."))
        if self._stop_reason in _FAILED_STOPS:
            self.state = RunState.FAILED
            self.error = run_failure(self._stop_reason, None)
            return
        try:
            closing = list(self.bridge.close())
        except RemoteProtocolError as exc:
            raise self._fail(exc) from None
        yield from self._start()
        yield from closing
        reason = _FINISH_REASONS.get(self._stop_reason, FinishReason.STOP)
        if self._stop_reason == "requires_approval":
            if self.bridge.client_call_count:
                reason = FinishReason.TOOL_CALLS
            elif waiting := self.bridge.waiting:
                if not self.asks or all(is_our_name(call.name) for call in waiting):
                    self.waiting = waiting
                    return
                joint = SEPARATOR if self._text_id is not None else ""
                yield TextDelta(text=joint + approval_question(waiting))
        yield TurnFinished(reason=reason, usage=self.so_far.usage)

    def _fail(self, error: RemoteProtocolError) -> RemoteProtocolError:
        self.state = RunState.FAILED
        self.error = error
        return error


def _sum(first: Usage | None, second: Usage | None) -> Usage | None:
    """The tokens of both; what neither knows stays unknown, and of the context the later counts."""
    if first is None or second is None:
        return first or second
    both = {}
    for attribute in fields(Usage):
        counts = [getattr(usage, attribute.name) for usage in (first, second)]
        known = [count for count in counts if count is not None]
        both[attribute.name] = sum(known) if known else None
    both["context_tokens"] = second.context_tokens
    return Usage(**both)


def _tag(message: letta.Message | EndOfStream) -> str:
    tags = {cls: tag for tag, cls in letta.MESSAGE_TYPES.items()}
    return tags.get(type(message), type(message).__name__)
