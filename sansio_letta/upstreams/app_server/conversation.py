"""One conversation at the App Server: what it is doing, and which of its calls wait for whose answer.

::

                 input                    a client's call waits
      IDLE ----------------> RUNNING -----------------------------> PARKED
       ^     turn_finished      |      <--- the answers ---------     |
       +------------------------+-------------------------------------+  turn_finished, after a cancel
       |                        |  the last socket is lost
       +--------- DEAD <--------+

A dead conversation takes no input until the server restarts; a fork of it does.

A call of a batch is asked about when the one before it is answered, so answers wait here until they are asked
for. A result is given by carrying out the call where this process has registered the tool; elsewhere by denying
it with the result as the reason, which the model reads word for word.
"""

from collections.abc import Iterable, Mapping
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, Protocol

from attrs import define, field

from ...turn.request import CallAnswer, Decision, Tool, ToolResult, content_text
from .agent_tools import AgentTools, Judgement
from .frames import (
    Delta,
    DeviceStatus,
    Frame,
    Json,
    LoopStatus,
    PermissionRequest,
    QueueStatus,
    ToolRequest,
    TurnEnd,
)
from .order import Order, Place
from .registration import Registration
from .sockets import Channel

if TYPE_CHECKING:
    from .connection import AppServerConnection

#: The pieces of a reply that are no call, nor the result of one.
_TEXTS: Final = frozenset({"assistant_message", "reasoning_message"})


class ConversationState(Enum):
    """What a conversation is doing."""

    IDLE = auto()
    RUNNING = auto()
    PARKED = auto()  #: a call waits for a client or a human
    DEAD = auto()  #: its stream was lost, and it takes no input


class Listener(Protocol):
    """A run that reads a conversation."""

    is_queued: bool
    """Its input waits at the server: what is received is another turn's."""

    def receive_queue(self) -> None:
        """Note that the inputs that wait at the server have changed."""

    def receive_delta(self, delta: Delta) -> None:
        """Receive a piece of the reply."""

    def receive_end(self, end: TurnEnd) -> None:
        """Receive the end of the turn."""

    def receive_waiting(self) -> None:
        """Note that calls wait for the client or for a human."""

    def receive_loss(self) -> None:
        """Note that the rest will not be received."""


@define(kw_only=True)
class Call:
    """A call that the model has made in this turn.

    :param request_id: of the server's question whether it may be carried out.
    :param asked: the arguments, as that question has them.
    :param tool_request_id: of the server's request to carry it out.
    """

    call_id: str
    name: str
    arguments: str = field(default="{}", repr=False)
    request_id: str | None = None
    tool_request_id: str | None = None
    asked: Json | None = field(default=None, repr=False)


@define(eq=False, kw_only=True)
class Conversation:
    """One conversation, as this process knows it."""

    agent_id: str
    conversation_id: str
    connection: "AppServerConnection"
    state: ConversationState = ConversationState.IDLE
    followed_by: set[Channel] = field(factory=set)
    calls: dict[str, Call] = field(factory=dict)  #: of the turn under way, in order
    listener: Listener | None = None
    queued: tuple[tuple[str, str], ...] = ()  #: inputs that wait at the server: item and message ids
    memory_directory: str | None = None
    tools: AgentTools = field(factory=AgentTools)
    has_idled: bool = True  #: it was last said to wait for input
    last_end: TurnEnd | None = None  #: of its last turn; None: not known, or a turn is under way
    was_cut: bool = False
    """The sockets were lost while it was busy. After a restart the server runs the input again by itself."""
    _answers: dict[str, CallAnswer] = field(factory=dict)
    registration: Registration = field(factory=Registration)
    is_ours: bool = False  #: a run of this process began the turn under way, or has gone on with it
    _order: Order = field(factory=Order)

    @property
    def runtime(self) -> Json:
        """What names it in a frame."""
        return {"agent_id": self.agent_id, "conversation_id": self.conversation_id}

    @property
    def is_busy(self) -> bool:
        """Whether a turn is under way."""
        return self.state in (ConversationState.RUNNING, ConversationState.PARKED)

    @property
    def is_running(self) -> bool:
        """Whether a turn is under way that neither waits for answers nor is over, whoever has begun it."""
        if self.state is ConversationState.IDLE:
            return bool(self.queued) or not self.has_idled
        return self.state is ConversationState.RUNNING

    @property
    def wants_device(self) -> bool:
        """Whether it is not known yet where the agent's memory is."""
        return self.memory_directory is None and self.is_busy and self.tools.needs_directory

    @property
    def open_calls(self) -> tuple[Call, ...]:
        """The calls that wait for an answer."""
        return tuple(call for call in self.calls.values() if call.call_id not in self._answers)

    # --- For the run --------------------------------------------------------------------------------------

    def note_started(self, tools: tuple[Tool, ...]) -> None:
        """Note that the server was told of the conversation and of the client's tools."""
        self.followed_by.add(Channel.WORK)
        self.registration.note(tools)

    def begin(self, listener: Listener | None) -> None:
        """Have a run read what comes from now on."""
        self.listener = listener
        self.is_ours, self.last_end = True, None
        self._enter(ConversationState.RUNNING)
        self.connection.guard(self)

    def answer(self, answers: Mapping[str, CallAnswer]) -> None:
        """Give the answers to pending calls, those that are asked about later included."""
        self._answers.update(answers)
        for call_id in answers:
            if (call := self.calls.get(call_id)) is not None:
                self._settle(call)

    def release(self, listener: Listener) -> None:
        """End what a run reads, if it still does."""
        if self.listener is listener:
            self.listener = None

    def learn_calls(self, calls: Iterable[Mapping[str, Any]]) -> None:
        """Note calls of the turn under way that another process has seen. The server asks about one at a time.

        :param calls: in order, as they are listed.
        """
        known, self.calls = self.calls, {}
        for body in calls:
            call_id = str(body.get("tool_call_id"))
            call = known.get(call_id) or Call(call_id=call_id, name=str(body.get("name")))
            call.arguments = str(body.get("arguments") or "{}")
            self.calls[call_id] = call
        self.calls |= known

    # --- For the connection -------------------------------------------------------------------------------

    def receive(self, frame: Frame) -> bool:
        """Receive a frame of this conversation.

        :return: whether none before it is missing.
        """
        if type(frame) is Delta:
            return self._receive_delta(frame)
        match frame:
            case PermissionRequest():
                self._receive_permission_request(frame)
            case ToolRequest():
                call = self._call(frame.call_id, frame.tool)
                call.tool_request_id = frame.request_id
                self._settle(call)
            case TurnEnd() if self._order.is_repeated(frame):
                return True  # the other socket had it
            case TurnEnd() if self.listener is not None and self.listener.is_queued:
                self.calls.clear()
            case TurnEnd():
                listener, self.listener = self.listener, None
                self._reset(ConversationState.DEAD if frame.is_dead else ConversationState.IDLE)
                self.last_end, self.was_cut, self.has_idled = frame, False, True
                if listener is not None:
                    listener.receive_end(frame)
            case LoopStatus():
                self.has_idled = frame.is_idle
            case QueueStatus(items=items):
                self.queued = items
                if self.listener is not None:
                    self.listener.receive_queue()
            case DeviceStatus(memory_directory=directory):
                self.memory_directory = directory or self.memory_directory
                self.connection.note_state(self)
        return True

    def lose_socket(self, channel: Channel) -> None:
        """Note that a socket was lost."""
        self.followed_by.discard(channel)
        if channel is Channel.WORK:
            self.registration.forget()
        for call in self.calls.values():
            if channel is Channel.WORK:
                call.tool_request_id = None
        if self.followed_by or not self.is_busy:
            return
        # The server cancels what waits for results, and loses what runs.
        was_running = self.state is ConversationState.RUNNING
        self.was_cut, self.has_idled, self.queued = True, True, ()
        self._lose(ConversationState.DEAD if was_running else ConversationState.IDLE)

    def note_gap(self) -> None:
        """Note that a frame is missing which may have been one of this conversation."""
        if self.listener is not None and self.state is ConversationState.RUNNING:
            self.listener.receive_loss()

    def note_missed_end(self) -> None:
        """Note that the turn is over, by what the server says of the conversation."""
        if self.is_busy:
            self._lose(ConversationState.IDLE)
            # Nothing says that it has failed.
            self.last_end = TurnEnd(conversation_id=self.conversation_id, stop_reason="end_turn")

    # --- Within -------------------------------------------------------------------------------------------

    def _enter(self, state: ConversationState) -> None:
        if state is not self.state or state is ConversationState.RUNNING:
            self.state = state
            self.connection.note_state(self)

    def _reset(self, state: ConversationState) -> None:
        self.is_ours = False
        self._enter(state)
        self.calls.clear()
        self._answers.clear()

    def _lose(self, state: ConversationState) -> None:
        """End a turn whose rest, or whose end, will not be received."""
        listener, self.listener = self.listener, None
        self._reset(state)
        if listener is not None:
            listener.receive_loss()

    def _call(self, call_id: str, name: str) -> Call:
        if (call := self.calls.get(call_id)) is None:
            call = self.calls[call_id] = Call(call_id=call_id, name=name)
        return call

    def _receive_delta(self, delta: Delta) -> bool:
        place = self._order.place(delta.body, from_start=self.is_ours)
        if place is Place.REPEATED:
            return True
        is_next = place is Place.NEXT
        if not is_next:
            self.note_gap()
        if delta.kind not in _TEXTS:
            self._note_call(delta)
        if self.listener is not None:
            self.listener.receive_delta(delta)
        return is_next

    def _note_call(self, delta: Delta) -> None:
        body = delta.body
        if delta.kind == "approval_request_message" and isinstance(asked := body.get("tool_call"), dict):
            call = self._call(str(asked.get("tool_call_id")), str(asked.get("name")))
            call.arguments = str(asked.get("arguments") or "{}")
        if delta.kind == "tool_return_message":
            self.calls.pop(str(body.get("tool_call_id")), None)
        if isinstance(denied := body.get("auto_denied_tool_call_ids"), list):
            for call_id in denied:
                self.calls.pop(str(call_id), None)

    def _receive_permission_request(self, request: PermissionRequest) -> None:
        call = self._call(request.call_id, request.tool)
        if call.request_id == request.request_id:
            return  # said again to a socket that has just begun to follow
        call.request_id, call.asked = request.request_id, request.arguments
        self._settle(call)

    def _settle(self, call: Call) -> None:
        """Answer what the server asks about a call, if the answer is known."""
        answer = self._answers.get(call.call_id)
        if answer is None:
            answer = self._judge(call)
        if answer is None:
            if call.request_id is not None or call.tool_request_id is not None:
                self._enter(ConversationState.PARKED)
                if self.listener is not None:
                    self.listener.receive_waiting()
            return
        if call.tool_request_id is not None:
            self._give_result(call, answer)
        elif call.request_id is not None:
            self._decide(call, answer)

    def _judge(self, call: Call) -> CallAnswer | None:
        """Decide about a call of one of the agent's own tools; None if the client or a human must.

        The calls of another process's turn are judged there.
        """
        is_ours = self.is_ours and not (self.listener is not None and self.listener.is_queued)
        if call.asked is None or not is_ours:
            return None
        match self.tools.judge(call.name, call.asked, self.memory_directory):
            case Judgement.ALLOW:
                return Decision(call_id=call.call_id, approve=True)
            case Judgement(reason=reason) if reason is not None:
                return Decision(call_id=call.call_id, approve=False, reason=reason)
        return None

    def _decide(self, call: Call, answer: CallAnswer) -> None:
        self._enter(ConversationState.RUNNING)
        request_id, call.request_id = call.request_id, None
        decision: dict[str, Any] = {"behavior": "allow"}
        match answer:
            case ToolResult() if not self.registration.may_carry_out(call.name, answer):
                decision = {"behavior": "deny", "message": content_text(answer.content)}
            case Decision(approve=False, reason=reason):
                decision = {"behavior": "deny", "message": reason or "The user denied this call."}
        payload = {"kind": "approval_response", "request_id": request_id, "decision": decision}
        self.connection.ask("input", {"runtime": self.runtime, "payload": payload})

    def _give_result(self, call: Call, answer: CallAnswer) -> None:
        self._enter(ConversationState.RUNNING)
        request_id, call.tool_request_id = call.tool_request_id, None
        response: dict[str, Any] = {"request_id": request_id}
        if isinstance(answer, ToolResult):
            text = {"type": "text", "text": content_text(answer.content)}
            response["result"] = {"content": [text], "is_error": answer.is_error}
        else:
            response["error"] = answer.reason or "The user denied this call."
        self.connection.tell("external_tool_call_response", response)
