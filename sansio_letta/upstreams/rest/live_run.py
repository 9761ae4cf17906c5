"""A run in Letta: start it, read its stream, recover it if the stream is lost, cancel it.

A run continues without a reader (disconnect.jsonl). Cancelling it takes its id, which comes with the first item
of its stream. The stream of a background run can be resumed after the last item that was read
(background_resume.jsonl). For other runs, the proxy waits for the end and reads the stored messages.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from attrs import define, evolve, field

from ..._signal import Signal
from ...errors import Failure, Kept, RemoteProtocolError, SansioLettaError
from ...turn.agent import Agent
from ...turn.events import AgentGone, ThreadGone
from ...turn.request import Message, StandingInstruction
from ...turn.upstream import (
    Gone,
    Interrupted,
    Located,
    Pause,
    Refused,
    RunEvent,
    RunLost,
    RunState,
    Script,
)
from . import letta
from .calls import ToolBridge
from .commands import CancelRun, FetchKept, FetchRun, FindRuns, OpenStream, ResumeRun
from .exchange import Exchange, Exchanges
from .lookup import RunCriteria, find_run, kept_nothing
from .reader import MessageReader
from .recovery import EarlierTurn, KeptRun, StreamPosition, read_run
from .response import Response
from .run import EndOfStream, RunStream, refusal_in
from .run_request import NewRun
from .tool_attachment import CreatedTools, Prepared, ToolAttachment, prepare

#: Enum looks up members with Python code, and this one is needed for every token.
_NEED_DATA: Final = Signal.NEED_DATA


@define
class LettaMemory:
    """What the turns of one process know about their Letta server, and have created there."""

    created_tools: CreatedTools = field(factory=CreatedTools)
    has_background: bool = True  #: False once Letta has responded that it has no background streams


@define(kw_only=True)
class RunContext:
    """What all runs of one turn have in common.

    :param client_tools: the client's names of its tools, by their names in Letta.
    :param result_ids: ids of the calls for which the client has sent results.
    """

    agent: Agent
    exchanges: Exchanges
    client_tools: Mapping[str, str]
    result_ids: frozenset[str]

    def stream(self, names: Mapping[str, str]) -> RunStream:
        """Return a new stream, which converts a run's messages to events.

        :param names: names of tools that were called before the run, by the ids of the calls.
        """
        can = self.agent.capabilities
        bridge = ToolBridge(
            self.client_tools,
            self.result_ids,
            names,
            can.exact_arguments,
            can.replies_by_tool,
            can.reads_reply_tool,
        )
        return RunStream(bridge, None if can.text_replies else self.agent.agent_type)


@define(kw_only=True, eq=False)
class RestRun:
    """One run. See `turn.upstream.Run`.

    :param new_run: the command that starts it.
    :param attachment: tools to attach before it.
    :param names: names of tools that were called before it, by the ids of the calls.
    :param has_results: whether tool results are sent with it.
    :param criteria: how to find it without its id; None if it cannot be found.
    :param compares_runs: whether it is found by comparing the agent's runs before and after.
    :param forget: forgets the thread, or else the agent, because it no longer exists.
    :param forget_agent: forgets the agent, because it no longer exists.
    :param memory: remembers whether Letta has background streams.
    """

    context: RunContext
    new_run: NewRun
    attachment: ToolAttachment | None = None
    names: Mapping[str, str]
    has_results: bool = False
    compares_runs: bool = False
    _criteria: RunCriteria | None = field(default=None, alias="criteria")
    _forget: Callable[[], AgentGone | ThreadGone] = field(alias="forget")
    _forget_agent: Callable[[], AgentGone] = field(alias="forget_agent")
    _memory: LettaMemory = field(alias="memory")
    stream: RunStream = field(init=False)
    _may_exist: bool = field(default=False, init=False)  #: Letta may have started it
    _background: bool = field(init=False)
    _position: StreamPosition = field(factory=StreamPosition, init=False)  #: in its stream, if that is numbered
    _exchange: Exchange | None = field(default=None, init=False)  #: whose response is its stream
    _reader: MessageReader | None = field(default=None, init=False)
    _events: deque[RunEvent] = field(factory=deque, init=False)

    def __attrs_post_init__(self) -> None:
        self.stream = self.context.stream(self.names)
        self._background = self.new_run.command.request.background

    @property
    def ref(self) -> EarlierTurn | None:
        """How a later turn finds the run."""
        if self.stream.run_id is not None:
            return EarlierTurn(run_id=self.stream.run_id)
        return EarlierTurn(criteria=self._criteria) if self._may_exist and self._criteria is not None else None

    @property
    def is_named(self) -> bool:
        """Whether its id is known."""
        return self.stream.run_id is not None

    @property
    def run_id(self) -> str | None:
        """Its id in Letta, or None before the first item of its stream."""
        return self.stream.run_id

    @property
    def state(self) -> RunState:
        """What the agent was last known to be doing."""
        return self.stream.state

    @property
    def has_kept(self) -> bool:
        """Whether Letta has stored its input."""
        return self.stream.step_kept

    @property
    def sent(self) -> tuple[Message, ...]:
        """Its messages that stay in the thread."""
        return self.new_run.sent

    @property
    def instructions_sent(self) -> tuple[StandingInstruction, ...]:
        """Instructions that are sent with it and need not be repeated in its thread."""
        return self.new_run.instructions_sent

    # --- Before it ----------------------------------------------------------------------------------------

    def prepare(self) -> Script[None] | None:
        """Attach tools, send answers ahead and list the existing runs, as far as needed."""
        before = None
        if self.compares_runs:
            before = FindRuns(agent_id=self.context.agent.id)
        if self.attachment is None and self.new_run.answers_ahead is None and before is None:
            return None
        exchanges, steps = self.context.exchanges, prepare(self.attachment, self.new_run.answers_ahead, before)
        return self._prepare(exchanges.drive(steps, partial(exchanges.send, must_finish=True)))

    def _prepare(self, steps: Script[Prepared]) -> Script[None]:
        prepared = yield from steps
        if prepared.is_agent_gone:
            raise Gone(self._forget_agent())
        if self._criteria is not None:
            known = prepared.runs
            self._criteria = None if known is None else evolve(self._criteria, before=known)

    # --- Starting it --------------------------------------------------------------------------------------

    def start(self) -> Script[Refused | None]:
        """Send the request until Letta accepts or rejects it."""
        exchanges, command = self.context.exchanges, self.new_run.command
        exchanges.reset_pauses()
        while True:
            exchange = self._exchange = exchanges.new(command, may_stream=True, must_finish=True)
            self._may_exist = True
            try:
                yield exchange
            except (Interrupted, SansioLettaError):
                self._may_exist = exchange.was_sent
                raise
            if exchange.has_stream:
                self._reader = exchange.read_stream(exchanges.config.max_event_size)
                return None
            if exchange.error is not None:
                self._may_exist = exchange.failure is not Failure.NOT_SENT
                limit = exchanges.config.connect_retry_timeout
                pause = None if self._may_exist else exchanges.next_pause(limit)
                if pause is None:
                    raise exchange.error
                yield pause
                continue
            assert exchange.response is not None
            if command.is_followed and exchange.response.status == 200:
                self.stream.run_id = letta.decode_run(exchange.response.data).id
                return None
            following = self._take_refusal(exchange.response, command)
            if isinstance(following, Refused):
                return following
            if following is None:
                pause = exchanges.next_pause(exchanges.config.queue_timeout)
                if pause is None:
                    raise exchange.response.error()
                yield pause
            else:
                command = following

    def _take_refusal(self, response: Response, command: OpenStream) -> Refused | OpenStream | None:
        """Handle a response that is not a stream.

        :return: the command to send instead, or None to send the same one after a pause.
        """
        refusal = response.refusal
        if response.status == 504 or (response.status == 502 and refusal.text is None):
            # From a gateway that timed out or lost its connection to Letta: Letta may have accepted the
            # request.
            raise RemoteProtocolError(response.error().message)
        if response.status == 200:
            kind = response.content_type or "no content type"
            raise RemoteProtocolError(f"Letta answered with {kind} instead of an event stream.")
        self._may_exist = False
        if response.status == 404:
            raise Gone(self._forget())
        if response.status in (400, 409, 422) and refusal_in(refusal.message, refusal.code) is not None:
            return Refused(error=response.error())
        if response.status == 409:
            # The conversation is busy, through another process: Letta has stored nothing.
            return None
        if response.status == 503 and self._background:
            self._background = False
            self._memory.has_background = False
            return evolve(command, request=evolve(command.request, background=False))
        raise response.error()

    # --- Reading it ---------------------------------------------------------------------------------------

    def next_event(self) -> RunEvent | Signal:
        """Return the next event, or NEED_DATA.

        :raises RemoteProtocolError: if the stream violates the protocol.
        """
        events = self._events
        while not events:
            reader, exchange = self._reader, self._exchange
            if reader is None or exchange is None:
                ended = RemoteProtocolError("It is unknown how Letta's run ended.")
                return RunLost(error=ended, had_stream=False)
            message = reader.next_message()
            if isinstance(message, Signal):
                if not exchange.has_ended:
                    return _NEED_DATA
                if (lost := self._end(exchange)) is not None:
                    return lost
            elif self._background and self._position.advance(message):
                return RunLost(error=RemoteProtocolError("Letta forgot how the run ended."))
            else:
                events.extend(self.stream.receive_message(message))
        return events.popleft()

    def _end(self, exchange: Exchange) -> RunLost | None:
        """Handle the end of the stream. Return an event if the run has been lost."""
        if not self.stream.has_ended:
            if self.is_named:
                error = exchange.error or RemoteProtocolError(
                    "Letta's stream ended before the run had stopped."
                )
                return RunLost(error=error)
            if self.ref is not None:
                ended = RemoteProtocolError("Letta's stream ended before it contained the id of the run.")
                return RunLost(error=exchange.error or ended)
            if exchange.error is not None:
                raise exchange.error
        self._events.extend(self.stream.receive_message(EndOfStream()))
        return None

    def read_texts(self, data: bytes) -> Sequence[str]:
        """Read the texts from bytes that contain nothing else. See `MessageReader.read_texts`."""
        exchange, reader = self._exchange, self._reader
        if reader is None or exchange is None or exchange.has_ended or self._events:
            return ()
        return reader.read_texts(data)

    # --- Recovering and cancelling it ---------------------------------------------------------------------

    def locate(self) -> Script[Located]:
        """Search the agent's runs for it."""
        assert self._criteria is not None
        self._reader = None
        exchanges = self.context.exchanges
        timeout = exchanges.config.first_item_timeout
        found = yield from exchanges.drive_lookup(find_run(self._criteria, timeout))
        if found.run is None:
            if found.is_sure:
                self._criteria = None
            return Located.NEVER_BEGUN if found.is_sure else Located.UNKNOWN
        self.stream.run_id = found.run.id
        return Located.OVER if found.run.is_over else Located.RUNNING

    def recover(self) -> Script[KeptRun | None]:
        """Resume its stream, or wait for its end."""
        exchanges, position, run_id = self.context.exchanges, self._position, self.stream.run_id
        assert run_id is not None
        self._reader = None
        if self._background and not self.new_run.command.is_followed and not position.is_over:
            if position.note_loss():
                exchanges.reset_pauses()
            else:
                pause = exchanges.next_pause(exchanges.config.resume_timeout)
                if pause is None:
                    raise RemoteProtocolError("The stream of Letta's run was lost too often.")
                yield pause
            response = yield from exchanges.send(FetchRun(run_id=run_id), is_lookup=True)
            run = letta.decode_run(response.data)
            position.is_over = run.is_over
            if (yield from self._resume(ResumeRun(run_id=run.id, seq_id=position.seq_id))):
                return None
        # The stream cannot be resumed, but the stored messages of the run can be read.
        ended = yield from exchanges.drive_lookup(read_run(run_id, exchanges.config.lost_run_timeout))
        self.stream = self.context.stream(self.names)
        self.stream.run_id = run_id
        return KeptRun(ended, self.stream)

    def _resume(self, command: ResumeRun) -> Script[bool]:
        """Return whether its stream could be resumed."""
        exchanges = self.context.exchanges
        while True:
            exchange = self._exchange = exchanges.new(command, may_stream=True)
            yield exchange
            if exchange.has_stream:
                self._reader = exchange.read_stream(exchanges.config.max_event_size)
                return True
            pause = None
            if exchange.error is not None or (exchange.response and exchange.response.status >= 500):
                pause = exchanges.next_pause(exchanges.config.resume_timeout)
            if pause is None:
                if exchange.error is not None:
                    raise exchange.error
                return False
            yield pause

    def cancel(self, *, must_know: bool) -> Script[Kept]:
        """Cancel it. Letta stores nothing of a run that is cancelled in its first step (kept_nothing.jsonl).

        But a step that ends before Letta notices is kept, though the run counts as cancelled from then on.
        Seen with 0.16.7: it looks when it hands out an item of the stream, at most every half second, and a
        step that ends before is stored and listed. Nothing shows that an interrupted run has stopped: the
        cancel itself sets its status, its end and its duration (`total_duration_ns`, in lists of runs alone),
        and its step remains "pending". So what was kept is looked up some time later.
        """
        exchanges, run_id = self.context.exchanges, self.stream.run_id
        assert run_id is not None
        exchanges.reset_pauses()
        command = CancelRun(agent_id=self.context.agent.id, run_id=run_id)
        response = yield from exchanges.send(command)
        if not must_know or self.has_results or self.has_kept or not response.cancelled(run_id):
            return Kept.UNKNOWN
        if (seconds := exchanges.config.cancelled_run_timeout) > 0:
            yield Pause(seconds=seconds)
        response = yield from exchanges.send(FetchKept(run_id=run_id))
        return Kept.NOTHING if kept_nothing(response) else Kept.UNKNOWN
