"""One run of an agent at the App Server: from an input, or the answers to calls, to the end of its turn."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from attrs import define, field

from ..._signal import Signal
from ...errors import Advice, Kept, LettaError, RemoteProtocolError
from ...turn.agent import PendingCall
from ...turn.events import FinishReason, TextDelta
from ...turn.request import CallAnswer, Message, StandingInstruction, Tool
from ...turn.upstream import (
    Located,
    PastRun,
    Refused,
    RunEvent,
    RunFailed,
    RunLost,
    RunState,
    RunStopped,
    Script,
    Wait,
)
from .conversation import Conversation, ConversationState
from .frames import Delta, Json, TurnEnd
from .messages import AppServerRef, message_id, to_input
from .questions import Questions
from .registration import start_frame
from .run_events import RunEvents

#: Looking up a member of an Enum runs Python code, and this one is needed for every token.
_WAITING: Final = Signal.WAITING
#: Seconds in which a cancelled turn ends. One and a half were seen.
_END_TIMEOUT: Final = 15.0
#: Seconds between looks at what a conversation is doing.
LOOK_PAUSE: Final = 0.5
BUSY: Final = Advice(status=409, type="conflict_error", code="agent_busy", retry_after=5)


@define(eq=False, kw_only=True)
class AppServerRun:
    """One run. See `turn.upstream.Run`.

    :param answers: to calls that wait in the conversation.
    :param sent: the messages of its input that stay in the thread.
    :param messages: all of its input.
    :param queue_timeout: seconds that the input may wait at the server for the end of another turn.
    :param max_unread_size: bytes of the reply that wait for the client; beyond them the rest is read later.
    :param continues: no input is sent: the agent goes on from what it has.
    :param tools: the client's, by the agent's names.
    :param request_id: unique to the run.
    :param read_past: reads what is stored of the run.
    :param copy: copies the conversation, if the run is to go on in a copy of it.
    """

    conversation: Conversation
    questions: Questions
    wake: Callable[[], None]
    answers: Sequence[CallAnswer]
    sent: tuple[Message, ...] = field(repr=False)
    messages: tuple[Message, ...] = field(repr=False)
    continues: bool
    tools: tuple[Tool, ...] = field(repr=False)
    client_names: Mapping[str, str]
    request_id: str
    has_results: bool
    queue_timeout: float
    max_unread_size: int
    read_past: Callable[[AppServerRef], Script[PastRun]]
    copy: Callable[[], Script[Conversation]] | None
    is_named: bool = field(default=False, init=False)
    has_kept: bool = field(default=False, init=False)
    is_queued: bool = field(default=False, init=False)
    instructions_sent: tuple[StandingInstruction, ...] = field(default=(), init=False)
    _events: deque[tuple[RunEvent, int]] = field(factory=deque, init=False)  #: each with the bytes it came in
    _unread_size: int = field(default=0, init=False)  #: bytes of these
    _reading: RunEvents = field(init=False)
    _unclassified: list[Delta] = field(factory=list, init=False)
    """The client's calls that the server may yet deny by itself: it checks their arguments."""
    _is_over: bool = field(default=False, init=False)
    _was_refused: bool = field(default=False, init=False)
    _failure: RunFailed | None = field(default=None, init=False)  #: once the server has ended the turn

    def __attrs_post_init__(self) -> None:
        self._reading = RunEvents(self.client_names)

    @property
    def ref(self) -> AppServerRef | None:
        """What a later turn finds it by: the last message of its input, or else the last answer."""
        ident = self.conversation.conversation_id
        if not self.is_named:
            return None
        if self.messages:
            last = len(self.messages) - 1
            name = message_id(self.messages[last], self.request_id, last)
            return AppServerRef(conversation_id=ident, message_id=name)
        return AppServerRef(conversation_id=ident, call_id=self.answers[-1].call_id) if self.answers else None

    @property
    def run_id(self) -> str | None:
        """None: a turn of the App Server has a run for each step, and is named by its conversation."""
        return None

    @property
    def state(self) -> RunState:
        """What the agent was doing last."""
        return self._reading.state

    # --- Starting it --------------------------------------------------------------------------------------

    def prepare(self) -> Script[None] | None:
        """Tell the server of the conversation and of the client's tools, if it does not know them."""
        is_known = self.copy is None and self.conversation.registration.is_current(self.tools)
        return None if is_known else self._prepare()

    def _prepare(self) -> Script[None]:
        if self.copy is not None:
            self.conversation = yield from self.copy()
        frame = start_frame(self.conversation.runtime, self.tools)
        yield from self.questions.ask("runtime_start", frame)
        self.conversation.note_started(self.tools)

    def start(self) -> Script[Refused | None]:
        """Send the input, and the answers. What the server has accepted is kept, whatever happens then."""
        if self._is_parked and self.conversation.open_calls and not self.answers:
            # The server would queue the input behind them.
            return Refused(error=LettaError("The agent waits for answers to its calls.", advice=BUSY))
        self.is_named = True
        if self.messages or self.continues or not self.answers:
            accepted = yield from self._send_input()
            self.has_kept = not self._was_refused
            if accepted.get("disposition") == "queued" and not self.answers:
                refused = yield from self._wait_in_queue()
                if refused is not None:
                    return refused
        elif not self.conversation.is_busy:
            # The turn that made the calls has ended since they were looked up.
            raise LettaError("The agent went on meanwhile. Send a new message to hear more.")
        else:
            self.conversation.begin(self)
        if self.answers:
            self.has_kept = True
            self.conversation.answer({answer.call_id: answer for answer in self.answers})
        return None

    def _send_input(self) -> Script[Json]:
        if not self.answers:
            self.conversation.registration.begin_turn()
        self.conversation.begin(self)
        payload: dict[str, Any] = {
            "kind": "create_message",
            "messages": to_input(self.messages, self.request_id),
        }
        offered = self.conversation.tools.offered
        if offered is not None:
            payload["client_tool_allowlist"] = list(offered)
        content = {"runtime": self.conversation.runtime, "payload": payload}
        return (yield from self.questions.ask("input", content))

    def _wait_in_queue(self) -> Script[Refused | None]:
        """Wait until the server takes the input out of its queue.

        Another program's turn may be under way, or the last one of this process has hardly ended. After a
        restart the server runs an input again by itself. An input that waits too long is taken back, and so is
        one before which calls wait: their answers must come with it.
        """
        clock = self.conversation.connection
        until = clock.now + self.queue_timeout
        self.is_queued = self._place is not None
        while self.is_queued and clock.now < until and not self._is_parked:
            yield Wait(LOOK_PAUSE)
        if (item_id := self._place) is None:
            self.is_queued = False
            return None
        content = {"runtime": self.conversation.runtime, "item_id": item_id}
        yield from self.questions.ask("remove_queue_item", content)
        self.has_kept = self.is_queued = False
        self.conversation.release(self)
        busy = LettaError("The agent is busy in this conversation, through another program.", advice=BUSY)
        if self._is_parked:
            return Refused(error=busy)
        raise busy

    @property
    def _is_parked(self) -> bool:
        return self.conversation.state is ConversationState.PARKED

    @property
    def _place(self) -> str | None:
        """The input's place in the server's queue; None if it is not there."""
        ref = self.ref
        if ref is None:
            return None
        places = (item_id for item_id, otid in self.conversation.queued if otid == ref.message_id)
        return next(places, None)

    def receive_queue(self) -> None:
        """Note that the inputs that wait at the server have changed."""
        if self.is_queued and self._place is None:
            self.is_queued = False
            self.wake()

    # --- Reading it ---------------------------------------------------------------------------------------

    def receive_delta(self, delta: Delta) -> None:
        """Receive a piece of the reply."""
        if self._is_over or self.is_queued or self._failure is not None:
            return
        if text := self._reading.read_text(delta):
            self._events.append((TextDelta(text=text), delta.size))
            self._unread_size += delta.size
            if self._unread_size > self.max_unread_size:
                self._stop_reading()
            self.wake()
            return
        if delta.kind == "retry":
            # The server would append the message, and stream the reply, once more.
            self.conversation.connection.ask("abort_message", {"runtime": self.conversation.runtime})
            self._failure = RunFailed(error=self._reading.failure(str(delta.body.get("reason"))))
        elif delta.kind == "approval_request_message" and _tool_call(delta).get("name") in self.client_names:
            self._unclassified.append(delta)
        elif delta.kind == "approval_classification_end":
            self._receive_classification(delta.body)
        else:
            for event in self._reading.receive(delta):
                self._add(event, delta.size)
            if self._unread_size > self.max_unread_size:
                self._stop_reading()
        if self._events:
            self.wake()

    def receive_end(self, end: TurnEnd) -> None:
        """Receive the end of the turn."""
        if end.is_dead:
            # It may have ended before its start was noticed.
            self._was_refused, self.has_kept = True, False
        if not self._is_over:
            self._finish(self._failure or self._reading.end(end))

    def receive_waiting(self) -> None:
        """End with the calls that a human must decide about."""
        if self._is_over or self.is_queued or self._reading.client_calls:
            return
        waiting = tuple(
            PendingCall(call_id=call.call_id, name=call.name, arguments=call.arguments)
            for call in self.conversation.open_calls
        )
        self._finish(RunStopped(reason=FinishReason.STOP, usage=self._reading.usage, waiting=waiting))

    def receive_loss(self) -> None:
        """Note that the rest will not be received."""
        if not self._is_over:
            error = RemoteProtocolError("The connection to the App Server broke during the reply.")
            self._finish(self._failure or RunLost(error=error))

    def _receive_classification(self, body: Mapping[str, Any]) -> None:
        """End with the client's calls: they are carried out, or asked about one at a time, from now on.

        Those that the server has denied are no concern of the client's: the agent goes on without them.
        """
        asked = {*_ids(body, "user_input_tool_call_ids"), *_ids(body, "auto_allowed_tool_call_ids")}
        for delta in self._unclassified:
            if _tool_call(delta).get("tool_call_id") in asked:
                for event in self._reading.receive(delta):
                    self._add(event, delta.size)
        self._unclassified.clear()
        if calls := self._reading.take_calls():
            stopped = RunStopped(reason=FinishReason.TOOL_CALLS, usage=self._reading.usage, calls=calls)
            self._finish(stopped)

    def _stop_reading(self) -> None:
        """Read the rest once the client has taken what there is: the connection is shared, and cannot wait."""
        self._finish(RunLost(error=LettaError("The reply came faster than the client reads it.")))

    def _add(self, event: RunEvent, size: int = 0) -> None:
        self._events.append((event, size))
        self._unread_size += size

    def _finish(self, end: RunEvent) -> None:
        self._is_over = True
        self._add(end)
        if isinstance(end, RunStopped | RunFailed):
            self.conversation.release(self)
        self.wake()

    def next_event(self) -> RunEvent | Signal:
        """Return the next event, or WAITING."""
        if not self._events:
            return _WAITING
        event, size = self._events.popleft()
        self._unread_size -= size
        return event

    def read_texts(self, data: bytes) -> Sequence[str]:
        """Return nothing: no bytes of the turn's own arrive."""
        return ()

    # --- Recovering and cancelling it ---------------------------------------------------------------------

    def locate(self) -> Script[Located]:
        """Return that it may be running: it is named as soon as it is sent."""
        yield from ()
        return Located.UNKNOWN

    def recover(self) -> Script[PastRun | None]:
        """Wait until it is over, and read what is stored of it."""
        ref = self.ref
        if ref is None:
            raise RemoteProtocolError("The connection to the App Server broke, and the rest cannot be read.")
        return (yield from self.read_past(ref))

    def cancel(self, *, must_know: bool) -> Script[Kept]:
        """Cancel it, and wait for its end. The server keeps the input, and perhaps a part of the reply."""
        self._is_over = True
        conversation, clock = self.conversation, self.conversation.connection
        yield from self.questions.ask("abort_message", {"runtime": conversation.runtime})
        _close_calls(conversation)
        until = clock.now + _END_TIMEOUT
        while conversation.is_busy and conversation.listener is self and clock.now < until:
            yield Wait(LOOK_PAUSE)
        conversation.release(self)
        return Kept.SOMETHING if self.has_kept else Kept.UNKNOWN


def _tool_call(delta: Delta) -> Mapping[str, Any]:
    call = delta.body.get("tool_call")
    return call if isinstance(call, dict) else {}


def _ids(body: Mapping[str, Any], key: str) -> list[str]:
    found = body.get(key)
    return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []


def _close_calls(conversation: Conversation) -> None:
    """Answer calls that are being carried out: a cancelled turn ends only then."""
    for call in conversation.calls.values():
        if call.tool_request_id is not None:
            error = {"request_id": call.tool_request_id, "error": "The client has gone."}
            conversation.connection.tell("external_tool_call_response", error)
            call.tool_request_id = None
