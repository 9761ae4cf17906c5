"""One turn: a chat request, from resolving the agent to the last event.

This is its interface: responses in, events and commands out, in one queue. The conversation with the upstream
is in `script`, its phases are in `phases`. The turn resumes the script when what it waits for has arrived, and
throws an `Interrupted` into it when the turn must end. While a run is read, the script is suspended, and the
turn passes on the run's events itself.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from attrs import define, field

from .._signal import Signal
from ..config import Approvals, Config
from ..errors import Failure, LocalProtocolError, SansioLettaError
from .answer import Answer
from .buffered_reply import BufferedReply
from .events import Event, TextDelta, TurnStarted
from .phases import ENDING, OVER, UNNAMED, Phase
from .reply_format import CallReply
from .request import Throwaway, TurnRequest
from .script import RecallEarlier, TurnScript, nothing_earlier
from .state import (
    RecallCancelled,
    RecallHeard,
    RecallReserved,
    RecallWaiting,
    TurnState,
    nothing_heard,
    nothing_reserved,
    nothing_waits,
)
from .thread_queue import Ticket
from .trimming import Trimmer
from .upstream import (
    ClientDisconnected,
    Command,
    Exchange,
    Follow,
    Interrupted,
    Pause,
    Run,
    RunEnd,
    RunRef,
    Script,
    ShutDown,
    Step,
    TimedOut,
    Upstream,
    Wait,
)

#: Looking up a member of an Enum runs Python code, and these are needed for every token.
_STREAMING: Final = Phase.STREAMING
_NEED_DATA: Final = Signal.NEED_DATA


@define
class Turn:
    """One turn of the agent: an upstream's responses in, events and commands out.

    The transport carries out each command as one exchange and passes in the response, with `receive_response`
    and `receive_data` (``b""`` at the end), or `receive_failure`. It calls `next_event` in between. A new
    command ends the exchange before it: the rest of that response is ignored, though reading it to the end lets
    the upstream finish its work.

    :param request: what the client wants.
    :param upstream: the server where agents live, for this turn alone.
    :param config: limits and policies.
    :param ticket: for the queue of the agent's thread; by default, the turn waits for no others.
    :param earlier: finds the run of an earlier turn for the same request that broke off.
    :param recall_earlier: returns the same once the turn may start; until then, that turn may still be running.
    :param is_retry: whether the client has sent the request before, to another process or too long ago.
    :param recall_waiting: returns the calls that the last turn in a thread left pending.
    :param recall_heard: returns what is remembered of a thread.
    :param recall_reserved: returns for how many more seconds a thread is reserved for the results of calls.
    :param recall_cancelled: returns for how many more seconds a cancelled run may store something there.
    """

    request: TurnRequest
    upstream: Upstream
    config: Config = field(factory=Config)
    ticket: Ticket = field(factory=Ticket, kw_only=True)
    _earlier: RunRef | None = field(default=None, alias="earlier", kw_only=True)
    _recall_earlier: RecallEarlier = field(default=nothing_earlier, alias="recall_earlier", kw_only=True)
    _is_retry: bool = field(default=False, alias="is_retry", kw_only=True)
    _recall_waiting: RecallWaiting = field(default=nothing_waits, alias="recall_waiting", kw_only=True)
    _recall_heard: RecallHeard = field(default=nothing_heard, alias="recall_heard", kw_only=True)
    _recall_reserved: RecallReserved = field(default=nothing_reserved, alias="recall_reserved", kw_only=True)
    _recall_cancelled: RecallCancelled = field(default=nothing_reserved, alias="recall_cancelled", kw_only=True)
    state: TurnState = field(init=False)  #: what the turn knows and has done so far
    _items: deque[Event | Command] = field(factory=deque, init=False)
    _running: Script[None] = field(init=False)
    _step: Step | None = field(default=None, init=False)  #: what the script waits for
    _exchange: Exchange | None = field(default=None, init=False)  #: the last
    _unsent: Exchange | None = field(default=None, init=False)  #: if its command was not handed out yet
    _is_cut: bool = field(default=False, init=False)  #: the exchange before the last one had not ended
    _plain: Run | None = field(default=None, init=False)  #: the run that is read, if its texts are not filtered
    _pending: Interrupted | None = field(default=None, init=False)  #: until the script may be interrupted
    _is_hurried: bool = field(default=False, init=False)  #: see `hurry`

    def __attrs_post_init__(self) -> None:
        request, approvals = self.request, self.config.approvals
        has_reader = request.reply_format is None and not isinstance(request.thread, Throwaway)
        trimmer = None
        if request.stop or request.one_call:
            trimmer = Trimmer(request.stop, request.one_call, isinstance(request.reply_format, CallReply))
        self.state = TurnState(
            request=request,
            config=self.config,
            upstream=self.upstream,
            ticket=self.ticket,
            answer=Answer(
                None if request.reply_format is None else BufferedReply(request.reply_format), trimmer
            ),
            # A program that reads the reply cannot answer a question for a human.
            approvals=approvals if has_reader or approvals is not Approvals.ASK else Approvals.DENY,
            items=self._items,
            earlier=self._earlier,
            is_retry=self._is_retry,
            recall_waiting=self._recall_waiting,
            recall_heard=self._recall_heard,
            recall_reserved=self._recall_reserved,
            recall_cancelled=self._recall_cancelled,
        )
        self._running = TurnScript(self.state, self._recall_earlier).converse()
        self._resume()

    @property
    def phase(self) -> Phase:
        """What the turn is doing."""
        return self.state.phase

    @property
    def earlier(self) -> RunRef | None:
        """What a retry of the request must look up; None if nothing was sent to the agent."""
        return self.state.ref

    @property
    def agent_id(self) -> str | None:
        """The agent's id, once known."""
        return None if self.upstream.agent is None else self.upstream.agent.id

    @property
    def seeks_run(self) -> bool:
        """Whether all that is left is to cancel a run whose id is not known yet."""
        return self.state.is_detached and self.phase in UNNAMED

    @property
    def pause(self) -> float | None:
        """Seconds to wait before `end_pause`, while `next_event` returns WAITING.

        None if the turn waits to be woken, by its `ticket` or its upstream. It may be woken early in any case.
        """
        return self._step.seconds if isinstance(self._step, Pause | Wait) else None

    # --- In -----------------------------------------------------------------------------------------------

    def receive_response(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        """Receive the head of the response to the last command.

        :param status: the HTTP status.
        :param headers: pairs of lower-case name and value.
        :raises LocalProtocolError: if no response is expected.
        """
        exchange = self._under_way("receive_response")
        if not self._is_stale:
            exchange.receive_response(status, headers)

    def receive_data(self, data: bytes) -> None:
        """Receive bytes of the response's body.

        :param data: any number of bytes, split anywhere; ``b""`` is the end of the body.
        :raises LocalProtocolError: if called before `receive_response` or after the end.
        """
        # A short path for the most frequent case: bytes that contain more text and nothing else. They are not
        # stale, since an unsent command would be among the items.
        run = None if self._items or self.state.phase is not _STREAMING else self._plain
        if run is not None and (texts := run.read_texts(data)):
            self.state.answer.add_texts(texts)
            self._items.extend([TextDelta(text=text) for text in texts])
            return
        if self._is_stale:
            return
        if self._exchange is None:
            raise LocalProtocolError("receive_data called before the first command: no body is awaited")
        self._exchange.receive_data(data)

    def receive_failure(self, failure: Failure, reason: str) -> None:
        """Receive the failure of the exchange, which ends it.

        :param failure: how far the exchange got.
        :param reason: for the client, like "connection refused"; without keys and private addresses.
        :raises LocalProtocolError: if no exchange is under way.
        """
        exchange = self._under_way("receive_failure")
        if not self._is_stale:
            exchange.receive_failure(failure, reason)

    def _under_way(self, method: str) -> Exchange:
        if self._exchange is None or self._step is None or isinstance(self._step, Pause | Wait):
            raise LocalProtocolError(
                f"{method} called in {self.phase.name}: no exchange is under way, no answer is awaited"
            )
        return self._exchange

    @property
    def _is_stale(self) -> bool:
        """Whether what is received belongs to an exchange that was ended, unknown to the transport.

        A turn may be ended while another task or thread reads for it.
        """
        return self._is_cut and self._unsent is not None

    def end_pause(self) -> None:
        """End the pause, and continue.

        :raises LocalProtocolError: if there is no pause.
        """
        if self.pause is None:
            raise LocalProtocolError(f"end_pause called in {self.phase.name}: there is no pause")
        self._resume()

    def time_out(self, error: SansioLettaError) -> None:
        """Fail because the turn has taken too long: its run is cancelled.

        A turn that is ending already skips the step that it waits for.

        :param error: for the client, if it has not disconnected.
        """
        if self.phase not in OVER:
            self._throw(TimedOut(error))

    def client_disconnected(self) -> None:
        """End the turn because the client has disconnected: no more events, and its run is cancelled.

        Continue until FINISHED: `next_event` returns the command that cancels the run as soon as the run's id
        is known. May be called at any time, and repeatedly.
        """
        state = self.state
        if state.is_detached or self.phase in OVER:
            return
        state.is_detached = True
        for item in [item for item in self._items if isinstance(item, Event)]:
            self._items.remove(item)
        if self.phase not in ENDING:
            self._interrupt(ClientDisconnected())
            if self._pending is not None:
                state.leave()

    def shut_down(self, error: SansioLettaError) -> None:
        """End the turn because the proxy is shutting down: its run is cancelled, and the turn fails.

        Continue until FINISHED. A run whose id is needed to find it is cancelled as soon as its id is known.

        :param error: for the client, if nothing was stored.
        """
        state = self.state
        if state.interruption is not None or state.is_detached or self.phase in OVER:
            return
        state.interruption = error
        if self.phase not in ENDING:
            self._interrupt(ShutDown(error))

    def hurry(self) -> None:
        """End the turn with little time left: a run whose id is not known yet is searched for at once.

        If the turn is being shut down, it fails now, with what is known so far.
        """
        state = self.state
        if self.phase in (Phase.CLEANING, *OVER):
            return
        if state.interruption is not None and not state.is_detached:
            state.report_interruption()
            state.leave()
        if state.is_detached:
            self._is_hurried = True
            self._interrupt(self._pending)

    # --- Out ----------------------------------------------------------------------------------------------

    def next_event(self) -> Event | Command | Signal:
        """Return the next event or command.

        NEED_DATA until more is received, WAITING while there is nothing to receive (see `pause`), FINISHED
        after the last one. Invalid data raises nothing: the last event is then `TurnFailed`.
        """
        items = self._items
        while not items:
            signal = self._advance()
            if signal is not None:
                return signal
        item = items.popleft()
        if type(item) is TextDelta:
            return item
        if type(item) is TurnStarted:
            self.state.started = True
        elif self._unsent is not None and item is self._unsent.command:
            self._unsent.was_sent, self._unsent = True, None
        return item

    def take_texts(self) -> list[TextDelta]:
        """Return all that is ready, if it is texts only: then not each of them needs a call."""
        items = self._items
        if not items:
            return []
        texts = [item for item in items if type(item) is TextDelta]
        if len(texts) < len(items):
            return []
        items.clear()
        return texts

    # --- The script ---------------------------------------------------------------------------------------

    def _advance(self) -> Signal | None:
        """Take one step with what was received so far. Return a signal if that is not possible."""
        step = self._step
        if isinstance(step, Follow):
            return self._read(step.run)
        if step is None:
            return Signal.FINISHED
        if isinstance(step, Pause):
            return Signal.WAITING
        if isinstance(step, Wait):
            self._resume()
            return Signal.WAITING if isinstance(self._step, Wait) else None
        if not step.is_ready:
            return _NEED_DATA
        self._resume()
        return None

    def _read(self, run: Run) -> Signal | None:
        """Pass on one event of the run."""
        try:
            event = run.next_event()
        except SansioLettaError as error:
            self._resume(error=error)
            return None
        if type(event) is TextDelta and self._pending is None:
            if not self.state.is_detached:
                self._items.extend(self.state.answer.add(event))
            return None
        signal = None
        if isinstance(event, Signal):
            signal = event
        elif isinstance(event, RunEnd):
            self._resume(event)
            return None
        elif not self.state.is_detached:
            self._items.extend(self.state.answer.add(event))
        if self._pending is not None and run.is_named:
            self._interrupt(self._pending)
            return None
        return signal

    def _resume(self, value: RunEnd | None = None, *, error: BaseException | None = None) -> None:
        """Continue the script until it waits again."""
        try:
            while True:
                step = self._running.send(value) if error is None else self._running.throw(error)
                self._step, value, error = step, None, None
                if self._pending is None or self._must_finish(step, is_unsent=True):
                    break
                error, self._pending = self._pending, None
        except StopIteration:
            self._step = self._plain = self._pending = None
            return
        self._plain = step.run if isinstance(step, Follow) and self.state.answer.is_plain else None
        if not isinstance(step, Pause | Wait | Follow):
            self._is_cut = self._exchange is not None and not self._exchange.has_ended
            self._exchange = self._unsent = self.state.exchange = step
            self._items.append(step.command)

    def _interrupt(self, why: Interrupted | None) -> None:
        """Interrupt the script, now or once it may be interrupted."""
        if why is None or self.phase in ENDING:
            return
        if self._must_finish(self._step, is_unsent=self._unsent is not None, why=why):
            self._pending = why
        else:
            self._throw(why)

    def _throw(self, why: Interrupted) -> None:
        self._pending = None
        if self._unsent is not None:
            # The command is never handed out.
            self._items.remove(self._unsent.command)
            self._unsent = None
        self._resume(error=why)

    def _must_finish(self, step: Step | None, *, is_unsent: bool, why: Interrupted | None = None) -> bool:
        """Whether the script must not be interrupted yet.

        An exchange that creates something for this turn alone, or starts a run, is awaited. So is a run's id,
        unless time is short and the run can be found without it.
        """
        if self.phase in ENDING:
            return True
        is_urgent = self._is_hurried or isinstance(why or self._pending, ShutDown)
        run = self.state.run
        can_seek = is_urgent and run is not None and run.ref is not None
        if isinstance(step, Follow):
            return not (step.run.is_named or can_seek)
        if step is None or isinstance(step, Pause | Wait) or is_unsent or not step.must_finish:
            return False
        return not (can_seek and self.phase in (Phase.SENDING, Phase.LEAVING))
