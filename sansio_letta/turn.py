"""The turn machine: one chat request, from the question which agent is meant to the last event.

Two machines work together. This one walks through the exchanges with Letta, one at a time::

    FINDING --> (LOOKING) --> SENDING --> STREAMING --> DONE
                   ^                          |
                   +---- refused, once -------+

- FINDING asks Letta which agent has the name, unless the caller remembers.
- LOOKING asks what the agent waits for. Results are never sent unlooked: with nothing pending Letta does not
  refuse them but runs a turn of its own (stale_tool_result.jsonl). A message is sent unlooked, to save the
  round trip; if calls are pending Letta refuses it, and the turn looks, denies the calls in the same request
  as the message, and sends again (pending_denied_with_message.jsonl).
- STREAMING belongs to the second machine, `RunStream`, which turns the run's messages into events.
- CANCELLING ends a run that nobody reads: Letta goes on without a reader (disconnect.jsonl). The run must be
  named, and its name comes with the first ping, so a client that leaves before that is LEAVING until then.

A failure while Letta works on the turn ends as `kept_failure` says if anything was, or may have been, kept:
no answer may invite a repeat that the agent would hear twice.
"""

from collections import deque
from collections.abc import Iterable
from enum import Enum, auto
from typing import Final

from attrs import define, field, frozen

from . import letta
from ._signal import Signal
from .bridge import ToolBridge, settle
from .config import Config
from .errors import (
    Advice,
    Kept,
    LettaError,
    LocalProtocolError,
    RemoteProtocolError,
    RequestError,
    SansioLettaError,
    kept_failure,
    unknown_model,
)
from .events import (
    AgentFound,
    AgentGone,
    AgentThread,
    CallsSettled,
    CancelRun,
    Command,
    Event,
    Failure,
    FetchAgent,
    OpenStream,
    TurnFailed,
    TurnStarted,
)
from .exchange import Answer, Headers, find_agent, found_agent
from .sse import SSEDecoder
from .stream import EndOfStream, RunState, RunStream, refusal_in


@frozen(kw_only=True)
class Plan:
    """What a client's request asks of Letta, made before the agent is known.

    :param model: the agent's name or id, as asked.
    :param messages: the new input, in order.
    :param results: the results of calls that the client brings, in order.
    :param client_tools: the tools that the client offers for this turn.
    """

    model: str
    messages: tuple[letta.MessageCreate, ...] = ()
    results: tuple[letta.ToolReturn | letta.Approval, ...] = ()
    client_tools: tuple[letta.ClientTool, ...] = ()
    thread: AgentThread | None = None  #: None: the agent's own, once the agent is known


class Phase(Enum):
    """Which exchange with Letta is under way."""

    READY = auto()
    FINDING = auto()
    LOOKING = auto()
    SENDING = auto()
    STREAMING = auto()
    LEAVING = auto()
    CANCELLING = auto()
    DONE = auto()
    FAILED = auto()


class Step(Enum):
    """What moves the turn from one phase to the next."""

    FIND = auto()  #: the agent is not known
    LOOK = auto()  #: results came, and what is pending is not known
    SEND = auto()  #: all is known
    OPENED = auto()  #: the run's stream has begun
    GONE = auto()  #: the remembered agent does not exist any more
    REFUSED = auto()  #: what is pending does not fit the input
    ENDED = auto()
    CANCEL = auto()  #: the run must be ended
    ABANDON = auto()  #: the client left before the run had a name
    FAIL = auto()


_ENDS: Final = {Step.FAIL: Phase.FAILED, Step.ENDED: Phase.DONE}

TRANSITIONS: Final[dict[Phase, dict[Step, Phase]]] = {
    Phase.READY: {**_ENDS, Step.FIND: Phase.FINDING, Step.LOOK: Phase.LOOKING, Step.SEND: Phase.SENDING},
    Phase.FINDING: {**_ENDS, Step.SEND: Phase.SENDING},
    Phase.LOOKING: {**_ENDS, Step.SEND: Phase.SENDING, Step.GONE: Phase.FINDING},
    Phase.SENDING: {
        **_ENDS,
        Step.OPENED: Phase.STREAMING,
        Step.GONE: Phase.FINDING,
        Step.REFUSED: Phase.LOOKING,
        Step.ABANDON: Phase.LEAVING,
    },
    Phase.STREAMING: {
        **_ENDS,
        Step.REFUSED: Phase.LOOKING,
        Step.CANCEL: Phase.CANCELLING,
        Step.ABANDON: Phase.LEAVING,
    },
    Phase.LEAVING: {**_ENDS, Step.CANCEL: Phase.CANCELLING},
    Phase.CANCELLING: _ENDS,
    Phase.DONE: {},
    Phase.FAILED: {},
}

_OVER: Final = (Phase.DONE, Phase.FAILED)
_READING_STREAM: Final = (Phase.STREAMING, Phase.SENDING, Phase.LEAVING)


@define
class Turn:
    """One turn of the agent: Letta's answers in, events and commands out.

    The transport carries out each command as one HTTP exchange, reports its answer through `receive_response`
    and `receive_data` (``b""`` at the end), or `receive_failure`, and asks `next_event` in between. A command
    ends the exchange before it: what is left of that answer is of no interest, but reading it to its end lets
    Letta close its books.

    :param plan: what to ask of Letta.
    :param config: limits.
    :param agent: the agent, if the caller remembers it.
    :param pending: what the agent waits for, if the caller has just looked.
    """

    plan: Plan
    config: Config = field(factory=Config)
    _agent: letta.Agent | None = field(default=None, alias="agent")
    _pending: letta.PendingApproval | None = field(default=None, alias="pending")
    phase: Phase = field(default=Phase.READY, init=False)
    started: bool = field(default=False, init=False)  #: `TurnStarted` was handed over: no status line any more
    _found: bool = field(default=False, init=False)  #: Letta named the agent in this turn
    _items: deque[Event | Command] = field(factory=deque, init=False)
    _run: RunStream = field(init=False)
    _resent: bool = field(default=False, init=False)
    _results_sent: bool = field(default=False, init=False)
    _abandoned: bool = field(default=False, init=False)
    _failure: RemoteProtocolError | None = field(default=None, init=False)  #: told once the run is cancelled
    # The exchange under way:
    _answer: Answer | None = field(default=None, init=False)
    _sse: SSEDecoder | None = field(default=None, init=False)
    _ended: bool = field(default=False, init=False)
    _error: SansioLettaError | None = field(default=None, init=False)  #: why it ended too soon

    def __attrs_post_init__(self) -> None:
        self._run = self._new_run()
        try:
            if self._agent is None:
                self._find(Step.FIND)
            elif self.plan.results and self._pending is None:
                self._look(Step.LOOK)
            else:
                self._send(self._pending)
        except RequestError as exc:
            self._fail(exc)

    @property
    def run_state(self) -> RunState:
        """What the agent was doing when it was last heard of in the run under way."""
        return self._run.state

    # --- In -----------------------------------------------------------------------------------------------

    def receive_response(self, status: int, headers: Headers) -> None:
        """Letta's answer to the last command has begun.

        :param status: the HTTP status.
        :param headers: pairs of lower-case name and value.
        :raises LocalProtocolError: if no answer is awaited.
        """
        if self.phase in _OVER or self._answer is not None or self._ended:
            raise LocalProtocolError(f"receive_response called in {self.phase.name}: no answer is awaited")
        self._answer = Answer(status=status, headers=headers, max_size=self.config.max_answer_size)

    def receive_data(self, data: bytes) -> None:
        """Add bytes of the answer's body; nothing is parsed until `next_event`.

        :param data: any number of bytes, cut anywhere; ``b""`` is the end of the body.
        :raises LocalProtocolError: if called before `receive_response` or after the end.
        """
        if self._answer is None or self._ended:
            raise LocalProtocolError(f"receive_data called in {self.phase.name}: no body is awaited")
        if self._sse is not None:
            self._sse.receive_data(data)
        else:
            self._answer.receive_data(data)
        self._ended = not data

    def receive_failure(self, failure: Failure, reason: str) -> None:
        """The exchange went wrong; nothing more will come of it.

        :param failure: how far it had come.
        :param reason: for the client, like "connection refused"; no key, no address of an inner network.
        :raises LocalProtocolError: if no exchange is under way.
        """
        if self.phase in _OVER or self._ended:
            raise LocalProtocolError(f"receive_failure called in {self.phase.name}: no exchange is under way")
        self._ended = True
        # Raised only when what had arrived before is read: the run may have stopped already.
        self._error = _transport_error(failure, reason)

    def abandon(self) -> None:
        """The client has left: no more events, and the run, if there is one, must end.

        Go on as before until FINISHED: `next_event` hands out a CancelRun as soon as the run has a name. May be
        called at any time, and again.
        """
        if self._abandoned or self.phase in _OVER:
            return
        self._abandoned = True
        commands = [item for item in self._items if isinstance(item, OpenStream | CancelRun)]
        self._items.clear()
        if self.phase is Phase.CANCELLING:
            self._items.extend(commands)
        elif self.phase not in _READING_STREAM or commands:
            self._move(Step.ENDED)
        elif self._run.run_id is not None:
            self._cancel()
        else:
            self._move(Step.ABANDON)

    # --- Out ----------------------------------------------------------------------------------------------

    def next_event(self) -> Event | Command | Signal:
        """The next event or command; NEED_DATA while Letta must speak first, FINISHED after the last.

        Nothing is raised for what Letta sent: it ends the turn as `TurnFailed`, once and last.
        """
        while not self._items:
            if self.phase in _OVER:
                return Signal.FINISHED
            try:
                if not self._advance():
                    return Signal.NEED_DATA
            except SansioLettaError as exc:
                self._fail(exc)
        item = self._items.popleft()
        if type(item) is TurnStarted:
            self.started = True
        return item

    # --- The walk -----------------------------------------------------------------------------------------

    def _advance(self) -> bool:
        """Take one step with what Letta has said so far; False if there is nothing to take it with."""
        if self.phase in _READING_STREAM and (self._sse is not None or self._opened()):
            return self._read_stream()
        if not self._ended:
            return False
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        match self.phase:
            case Phase.FINDING:
                self._take_agent(self._answer)
            case Phase.LOOKING:
                self._take_pending(self._answer)
            case Phase.CANCELLING:
                # Whether it came in time matters to nobody here: the run is not read any more.
                self._end_cancelled()
            case _:
                self._take_refusal(self._answer)
        return True

    def _move(self, step: Step) -> None:
        following = TRANSITIONS[self.phase].get(step)
        assert following is not None, f"{step} in {self.phase}"
        self.phase = following

    def _ask(self, command: Command) -> None:
        self._answer = self._sse = self._error = None
        self._ended = False
        self._items.append(command)

    def _find(self, step: Step) -> None:
        self._move(step)
        self._ask(find_agent(self.plan.model, with_pending=bool(self.plan.results)))

    def _take_agent(self, answer: Answer) -> None:
        self._found = True
        self._agent = found_agent(self.plan.model, answer)
        self._items.append(AgentFound(model=self.plan.model, agent=self._agent))
        self._send(pending=self._agent.pending_approval)

    def _look(self, step: Step) -> None:
        self._move(step)
        assert self._agent is not None
        self._ask(FetchAgent(agent_id=self._agent.id))

    def _take_pending(self, answer: Answer) -> None:
        assert self._agent is not None
        if answer.status == 404 and not self._found:
            self._forget_agent(self._agent)
            return
        self._agent = found_agent(self._agent.id, answer)
        self._send(pending=self._agent.pending_approval)

    def _send(self, pending: letta.PendingApproval | None) -> None:
        agent, plan = self._agent, self.plan
        assert agent is not None
        if plan.client_tools and not agent.takes_client_tools:
            raise RequestError(
                f"The agent is of type {agent.agent_type}, which cannot be given a client's tools: leave "
                "`tools` out, or use an agent of type letta_v1_agent.",
                param="tools",
                code="unsupported_parameter",
            )
        settlement = settle(
            pending,
            plan.results,
            client_tools={tool.name for tool in plan.client_tools},
            has_message=bool(plan.messages),
        )
        if not settlement.approvals and not plan.messages:
            raise RequestError(
                "The agent waits for none of these results: the calls were answered before, or its run has "
                "ended. Send a new user message to go on.",
                param="messages",
            )
        self._move(Step.SEND)
        if settlement.calls != CallsSettled():
            self._items.append(settlement.calls)
        self._results_sent = any(type(answer) is letta.ToolReturn for answer in settlement.approvals)
        approvals = (letta.ApprovalCreate(approvals=settlement.approvals),) if settlement.approvals else ()
        self._run = self._new_run()
        self._ask(
            OpenStream(
                thread=plan.thread or AgentThread(agent_id=agent.id),
                request=letta.StreamRequest(
                    messages=(*approvals, *plan.messages), client_tools=plan.client_tools
                ),
            )
        )

    def _take_refusal(self, answer: Answer) -> None:
        """The turn's request was answered with something other than a stream."""
        assert self._agent is not None
        if self._abandoned:
            self._move(Step.ENDED)
        elif answer.status == 404:
            if self._found:
                raise unknown_model(self.plan.model)
            self._forget_agent(self._agent)
        elif answer.status == 409 and refusal_in(answer.detail) and not self._resent:
            self._resent = True
            self._look(Step.REFUSED)
        elif answer.status == 200:
            kind = answer.content_type or "no content type"
            raise RemoteProtocolError(f"Letta answered with {kind} instead of an event stream.")
        elif answer.status == 502 and answer.detail is None:
            # A gateway's, whose connection to Letta ended: Letta may have taken the message before.
            raise RemoteProtocolError(answer.error().message)
        else:
            raise answer.error()

    def _forget_agent(self, agent: letta.Agent) -> None:
        """What was remembered is out of date: an agent of this name may live on under another id."""
        self._items.append(AgentGone(agent_id=agent.id))
        self._find(Step.GONE)

    def _opened(self) -> bool:
        """Whether the run's stream is being read; from its head on it is."""
        answer = self._answer
        if answer is None or answer.status != 200 or answer.content_type != "text/event-stream":
            return False
        if self.phase is Phase.SENDING:
            self._move(Step.OPENED)
        self._sse = SSEDecoder(self.config.max_event_size)
        if data := answer.take():
            self._sse.receive_data(data)
        return True

    def _read_stream(self) -> bool:
        assert self._sse is not None
        run, event = self._run, self._sse.next_event()
        if not isinstance(event, Signal):
            self._emit(run.receive_message(letta.decode_message(event.data)))
        elif not self._ended:
            return False
        elif self._error is not None and run.state is not RunState.STOPPED:
            raise self._error
        else:
            self._emit(run.receive_message(EndOfStream()))
        if run.state is RunState.FAILED:
            self._take_run_failure(run)
        elif run.state is RunState.DONE:
            self._move(Step.ENDED)
        elif self.phase is Phase.LEAVING and run.run_id is not None:
            self._cancel()
        return True

    def _emit(self, words: Iterable[Event]) -> None:
        for word in words:
            if not self._abandoned:
                self._items.append(word)

    def _take_run_failure(self, run: RunStream) -> None:
        if run.refusal is not None and not self._resent and not self._abandoned:
            self._resent = True
            self._look(Step.REFUSED)
            return
        assert run.error is not None
        kept = run.step_kept or (self._results_sent and run.refusal is None)
        self._end_failed(run.error, Kept.SOMETHING if kept else Kept.NOTHING)

    def _cancel(self) -> None:
        assert self._agent is not None
        assert self._run.run_id is not None
        self._move(Step.CANCEL)
        self._ask(CancelRun(agent_id=self._agent.id, run_id=self._run.run_id))

    def _end_cancelled(self) -> None:
        if self._failure is not None:
            self._end_failed(self._failure, Kept.UNKNOWN)
        else:
            self._move(Step.ENDED)

    def _new_run(self) -> RunStream:
        return RunStream(ToolBridge(frozenset(tool.name for tool in self.plan.client_tools)))

    # --- Failing ------------------------------------------------------------------------------------------

    def _fail(self, error: SansioLettaError) -> None:
        if self.phase is Phase.CANCELLING:
            self._end_cancelled()
        elif self.phase in _READING_STREAM and isinstance(error, RemoteProtocolError):
            # Letta was told, and what it does now we cannot see. A run that may be going on is ended first.
            if self._run.run_id is not None:
                self._failure = error
                self._cancel()
            else:
                self._end_failed(error, Kept.UNKNOWN)
        else:
            self._end_failed(error, Kept.NOTHING)

    def _end_failed(self, error: SansioLettaError, kept: Kept) -> None:
        self._move(Step.FAIL)
        if not self._abandoned:
            told = error if kept is Kept.NOTHING else kept_failure(error)
            self._items.append(TurnFailed(error=told, kept=kept))


def _transport_error(failure: Failure, reason: str) -> SansioLettaError:
    if failure is Failure.NOT_SENT:
        return LettaError(f"Letta cannot be reached: {reason}.")
    if failure is Failure.BROKEN:
        return RemoteProtocolError(f"The connection to Letta broke: {reason}.")
    return RemoteProtocolError(
        f"Letta fell silent: {reason}.",
        advice=Advice(status=504, type="server_error", code="upstream_timeout"),
    )
