"""The turn machine: one chat request, from the question which agent is meant to the last event.

This is its surface: responses in, events and commands out, in one queue. The conversation with the upstream
stands in `script`, and its phases in `phases`. The turn resumes the script when what it waits for is there, and
throws an `Interrupted` in when the turn must end. While a run is read, the script waits, and the turn passes
the run's events on by itself.
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
from .state import RecallWaiting, TurnState, nothing_waits
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

#: An Enum looks its members up with Python code, and these are asked for with every token.
_STREAMING: Final = Phase.STREAMING
_NEED_DATA: Final = Signal.NEED_DATA


@define
class Turn:
    """One turn of the agent: an upstream's responses in, events and commands out.

    The transport carries out each command as one exchange, reports its response through `receive_response` and
    `receive_data` (``b""`` at the end), or `receive_failure`, and asks `next_event` in between. A command ends
    the exchange before it: what is left of that response is not read, but reading it to its end lets the
    upstream finish its own work.

    :param request: what the client asks.
    :param upstream: the side where agents live; for this turn alone.
    :param config: limits.
    :param ticket: in the queue for the agent's thread; without one the turn waits for no other.
    :param earlier: how the run of a turn for the same request is found that broke off.
    :param recall_earlier: the same, asked once the thread is taken: until then such a turn may have it.
    :param recall_waiting: which calls the last turn in a thread has left waiting.
    """

    request: TurnRequest
    upstream: Upstream
    config: Config = field(factory=Config)
    ticket: Ticket = field(factory=Ticket, kw_only=True)
    _earlier: RunRef | None = field(default=None, alias="earlier", kw_only=True)
    _recall_earlier: RecallEarlier = field(default=nothing_earlier, alias="recall_earlier", kw_only=True)
    _recall_waiting: RecallWaiting = field(default=nothing_waits, alias="recall_waiting", kw_only=True)
    state: TurnState = field(init=False)  #: what the turn has found out and done so far
    _items: deque[Event | Command] = field(factory=deque, init=False)
    _running: Script[None] = field(init=False)
    _step: Step | None = field(default=None, init=False)  #: what the script waits for
    _exchange: Exchange | None = field(default=None, init=False)  #: the last
    _unsent: Exchange | None = field(default=None, init=False)  #: its command was not handed out yet
    _is_cut: bool = field(default=False, init=False)  #: the exchange before it had not ended when it began
    _plain: Run | None = field(default=None, init=False)  #: the run that is read, if its texts go straight on
    _pending: Interrupted | None = field(default=None, init=False)  #: waits until the script can be interrupted
    _hurries: bool = field(default=False, init=False)  #: little more will be carried out

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
            # Without a reader the question would be the reply, and no program can answer it.
            approvals=approvals if has_reader or approvals is not Approvals.ASK else Approvals.DENY,
            items=self._items,
            earlier=self._earlier,
            recall_waiting=self._recall_waiting,
        )
        self._running = TurnScript(self.state, self._recall_earlier).converse()
        self._resume()

    @property
    def phase(self) -> Phase:
        """What the turn is doing."""
        return self.state.phase

    @property
    def earlier(self) -> RunRef | None:
        """What a repeat of this turn's request must look into; None if the agent was told nothing of it."""
        return self.state.ref

    @property
    def agent_id(self) -> str | None:
        """The agent's id, once it is known."""
        return None if self.upstream.agent is None else self.upstream.agent.id

    @property
    def seeks_run(self) -> bool:
        """Whether it only goes on to end a run of which the name is not known yet."""
        return self.state.is_detached and self.phase in UNNAMED

    @property
    def pause(self) -> float | None:
        """Seconds to wait until `end_pause`, while `next_event` says WAITING; None: the thread is taken.

        For a thread its `ticket` wakes the caller.
        """
        return self._step.seconds if isinstance(self._step, Pause) else None

    # --- In -----------------------------------------------------------------------------------------------

    def receive_response(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        """The response to the last command has begun.

        :param status: the HTTP status.
        :param headers: pairs of lower-case name and value.
        :raises LocalProtocolError: if no response is awaited.
        """
        exchange = self._under_way("receive_response")
        if not self._is_stale:
            exchange.receive_response(status, headers)

    def receive_data(self, data: bytes) -> None:
        """Add bytes of the response's body; nothing is parsed until `next_event`.

        :param data: any number of bytes, cut anywhere; ``b""`` is the end of the body.
        :raises LocalProtocolError: if called before `receive_response` or after the end.
        """
        # The short way for what comes most often: bytes that hold more of a text, and nothing else. They are
        # not stale: an unsent command would be among the items.
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
        """The exchange went wrong; nothing more will come of it.

        :param failure: how far it had come.
        :param reason: for the client, like "connection refused"; no key, no address of an inner network.
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
        """Whether what comes is of an exchange that was cut off, as the transport does not know yet.

        A turn may be ended while another task, or thread, reads for it.
        """
        return self._is_cut and self._unsent is not None

    def end_pause(self) -> None:
        """The pause is over: go on with what it was made for.

        :raises LocalProtocolError: if there was none.
        """
        if self.pause is None:
            raise LocalProtocolError(f"end_pause called in {self.phase.name}: there is no pause")
        self._resume()

    def time_out(self, error: SansioLettaError) -> None:
        """It has taken too long: the turn fails, and its run is cancelled; or its ending goes on.

        :param error: what the client is told, if it has not left.
        """
        if self.phase not in OVER:
            # What was not handed over yet never happens; what was said stays said.
            self._throw(TimedOut(error))

    def client_disconnected(self) -> None:
        """The client has left: no more events, and the run, if there is one, must end.

        Go on as before until FINISHED: `next_event` hands out the command that cancels the run as soon as the
        run has a name. May be called at any time, and again.
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
        """The proxy itself must end: cancel the run, if there is one, and tell the client why.

        Go on as before until FINISHED. A run that cannot be found without a name is cancelled as soon as it has
        one.

        :param error: what the client is told if nothing was kept.
        """
        state = self.state
        if state.interruption is not None or state.is_detached or self.phase in OVER:
            return
        state.interruption = error
        if self.phase not in ENDING:
            self._interrupt(ShutDown(error))

    def hurry(self) -> None:
        """Nothing will be carried out for long: a run that has no name yet is looked for at once.

        If the client still waits to hear how a shutdown went, it is told now what is known.
        """
        state = self.state
        if self.phase in (Phase.CLEANING, *OVER):
            return
        if state.interruption is not None and not state.is_detached:
            state.report_interruption()
            state.leave()
        if state.is_detached:
            self._hurries = True
            self._interrupt(self._pending)

    # --- Out ----------------------------------------------------------------------------------------------

    def next_event(self) -> Event | Command | Signal:
        """The next event or command.

        NEED_DATA while the upstream must speak first, WAITING while it has nothing to say (see `pause`),
        FINISHED after the last. Nothing is raised for what was received: it ends the turn as `TurnFailed`, once
        and last.
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
        """All that `next_event` would hand out at once, if it is nothing but text: no call for each."""
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
        """Take one step with what was received so far; a signal if there is nothing to take it with."""
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
        """Pass on one event of the run that is read."""
        try:
            event = run.next_event()
        except SansioLettaError as error:
            self._resume(error=error)
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
        """Let the script go on to what it waits for next."""
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
        """Interrupt the script, or let that wait until what it does is done."""
        if why is None or self.phase in ENDING:
            return
        if self._must_finish(self._step, is_unsent=self._unsent is not None, why=why):
            self._pending = why
        else:
            self._throw(why)

    def _throw(self, why: Interrupted) -> None:
        self._pending = None
        if self._unsent is not None:
            # It never happens.
            self._items.remove(self._unsent.command)
            self._unsent = None
        self._resume(error=why)

    def _must_finish(self, step: Step | None, *, is_unsent: bool, why: Interrupted | None = None) -> bool:
        """Whether the script must not be interrupted yet.

        What makes something for this turn alone, or starts a run, is awaited; so is a run's name, unless there
        is no time for that and the run can be found without.
        """
        if self.phase in ENDING:
            return True
        is_urgent = self._hurries or isinstance(why or self._pending, ShutDown)
        run = self.state.run
        can_seek = is_urgent and run is not None and run.ref is not None
        if isinstance(step, Follow):
            return not (step.run.is_named or can_seek)
        if step is None or isinstance(step, Pause | Wait) or is_unsent or not step.must_finish:
            return False
        return not (can_seek and self.phase in (Phase.SENDING, Phase.LEAVING))
