"""One client request from its opening to its end: Letta's responses in, commands and the response out."""

from collections.abc import Callable, Sequence
from math import inf
from typing import Final, TypeAlias

from attrs import define, field

from .._signal import Signal
from ..config import Config
from ..dialects.base import Dialect
from ..errors import Advice, Failure, FieldPath, RemoteProtocolError, RequestField, shutting_down
from ..turn.agent import ANYONE, Caller
from ..turn.events import (
    AgentFound,
    AgentGone,
    CallArguments,
    CallsSettled,
    CallStarted,
    Event,
    ReasoningDelta,
    TextDelta,
    ThreadGone,
    TurnFailed,
    TurnFinished,
)
from ..turn.thread_queue import no_wake, thread_busy
from ..turn.turn import Turn
from ..upstreams.rest.commands import CancelRun, Command, OpenStream, ResumeRun
from .deadlines import Deadlines
from .endpoints import HandlerRunner
from .http import ResponseBody, ResponseHead
from .memory import Memory
from .observer import Change, LettaData, LettaFailure, LettaResponse, Observation, Observer
from .response import Reply, Response
from .summary import Repeat, Summary
from .turn_registry import Follower, TurnOwnership

Item: TypeAlias = Command | ResponseHead | ResponseBody


#: An Enum looks its members up with Python code, and these are asked for with every token.
_WAITING: Final = Signal.WAITING
_NEED_DATA: Final = Signal.NEED_DATA

#: A turn that goes on for followers alone checks this often whether there is one left.
_FOLLOWER_CHECK_TIMEOUT: Final = 0.25


@define
class Cycle:
    """One client request: Letta's responses in, commands and the response out.

    Its methods are those of a turn, with the time: `now` is monotonic seconds, never smaller than before. A
    transport that stops before FINISHED must call `close`.
    """

    _source: Turn | HandlerRunner | Follower
    _response: Response
    _deadlines: Deadlines
    _memory: Memory
    summary: Summary
    config: Config
    """The limits and policies in force: the proxy's, with those of the client's key and of the request."""
    _owned: TurnOwnership | None = field(default=None, kw_only=True)
    _caller: Caller = field(default=ANYONE, kw_only=True)
    _reconnect_grace: float = field(default=0.0, kw_only=True)
    """Seconds that the turn continues after a client has left before the response began: it may retry."""
    wake: Callable[[], None] = field(default=no_wake, kw_only=True)
    """Called when a cycle that is WAITING may continue before its deadline, while another one is at work."""
    observer: Observer | None = field(default=None, init=False)
    """Sees all that happens, if it is set before the first item is taken."""
    is_detached: bool = field(default=False, init=False)
    """The client has disconnected, and the turn continues without it, however long that takes."""
    _finished: bool = field(default=False, init=False)
    _closed: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        def wake_up() -> None:
            self.wake()

        match self._source:
            case Turn(ticket=ticket):
                ticket.wake = wake_up
            case Follower() as follower:
                follower.wake = wake_up

    @property
    def turn(self) -> Turn | None:
        """The turn that it drives; None if it joins another cycle's, or needs none."""
        return self._source if isinstance(self._source, Turn) else None

    @property
    def dialect(self) -> Dialect:
        """The client's."""
        return self._response.dialect

    def _observe(self, seen: Observation) -> None:
        if self.observer is not None:
            self.observer.observe(seen, self._deadlines.now)

    @property
    def responding(self) -> bool:
        """Whether the head was handed over: no other response can be sent."""
        return self._response.has_begun

    @property
    def is_complete(self) -> bool:
        """Whether the response is complete: what the cycle still wants is between Letta and itself."""
        return self._response.is_complete

    def receive_response(self, status: int, headers: Sequence[tuple[str, str]], now: float) -> None:
        """See `Turn.receive_response`."""
        self._deadlines.received(now)
        if self.observer is not None:
            self._observe(LettaResponse(status=status, headers=headers))
        self._source.receive_response(status, headers)

    def receive_data(self, data: bytes, now: float) -> None:
        """See `Turn.receive_data`."""
        self._deadlines.received_data(now)
        if self.observer is not None:
            self._observe(LettaData(data=data))
        self._source.receive_data(data)

    def receive_failure(self, failure: Failure, reason: str, now: float) -> None:
        """See `Turn.receive_failure`."""
        self._deadlines.received(now)
        self.summary.failure = failure.value
        self._observe(LettaFailure(failure=failure, reason=reason))
        self._source.receive_failure(failure, reason)

    def client_disconnected(self, now: float) -> None:
        """Tell that the client has disconnected. Continue until FINISHED: a run may have to be cancelled."""
        if self._response.is_disconnected:
            return
        self._deadlines.now = now
        # Both have the entry of the turn that answers the request, whichever cycle drives it.
        shared = self._source if isinstance(self._source, Follower) else self._owned
        if shared is not None and not self._response.has_begun:
            shared.entry.expect_client(now + self._reconnect_grace)
        if self._owned is None or not self._owned.entry.is_wanted(now):
            self.cancel(now)
            return
        self.is_detached = True
        self._disconnect()

    def cancel(self, now: float) -> None:
        """End the turn, even if retries follow it or one is expected; continue until FINISHED."""
        self._deadlines.now = now
        self._disconnect()
        self.is_detached = False
        if self._owned is not None:
            self._owned.entry.is_cancelled = True
        self._source.client_disconnected()

    def _disconnect(self) -> None:
        if not self._response.is_disconnected:
            self._observe(Change.CLIENT_DISCONNECTED)
        self._response.disconnect()
        self.summary.outcome = self.summary.outcome or "abandoned"

    def shut_down(self, now: float, timeout: float = inf) -> None:
        """End the turn because the process exits; continue until FINISHED.

        A run is cancelled. The client gets 503 with ``retry-after`` if Letta has kept nothing of the turn;
        otherwise an error that it must not retry: 424, or an error in the stream. Retries that follow the turn
        get the same.

        :param timeout: seconds after which the client is sent what is known by then, which may be nothing.
        """
        self._deadlines.now, self._deadlines.shutdown_at = now, now + timeout
        self._observe(Change.INTERRUPTED)
        self._source.shut_down(shutting_down())
        self.wake()

    def hurry(self, now: float) -> None:
        """As `cancel`, with little time left: a run whose id is not known yet is searched for at once."""
        self.cancel(now)
        if isinstance(self._source, Turn):
            self._source.hurry()

    @property
    def seeks_run(self) -> bool:
        """Whether all that is left is to end a run whose id is not known yet."""
        return isinstance(self._source, Turn) and self._source.seeks_run

    def close(self) -> None:
        """Release what the cycle holds: no more commands will be carried out. May be called again."""
        self._response.items.clear()
        if isinstance(self._source, Turn):
            self._source.ticket.leave()
        else:
            self._source.client_disconnected()
        self._end_turn()
        if not self._closed:
            self._closed = True
            self._observe(Change.CLOSED)

    def next_deadline(self) -> float:
        """When `handle_deadline` should be called if nothing happens until then."""
        deadline = min(self._deadlines.next(), self._response.comment_at)
        return min(deadline, self._deadlines.now + _FOLLOWER_CHECK_TIMEOUT) if self.is_detached else deadline

    def handle_deadline(self, now: float) -> str | None:
        """Do what is due; after WAITING, also if `wake` was called.

        That is: the end of a pause, a comment for a client that waits, the end of a turn that takes too long.

        :return: the reason, if the exchange with Letta has failed as SILENT.
        """
        deadlines = self._deadlines
        deadlines.now = now
        reason, may_begin = None, True
        if self.is_detached and not (self._owned and self._owned.entry.is_wanted(now)):
            # It ends: what was due may have been for the turn as it was.
            self.cancel(now)
        elif now >= deadlines.turn_at:
            self._time_out()
            may_begin = False
        elif now >= deadlines.shutdown_at:
            deadlines.shutdown_at, may_begin = inf, False
            if isinstance(self._source, Turn):
                self._source.hurry()
        elif deadlines.is_waiting:
            deadlines.received(now)
            if deadlines.resume_at is not None and now >= deadlines.resume_at:
                self._resume()
                may_begin = False
        elif now >= deadlines.exchange_at:
            reason = deadlines.silence
            self.receive_failure(Failure.SILENT, reason, now)
        # What else was due may be a failure, and that is a status as long as nothing was sent.
        if reason is None and (may_begin or self._response.has_begun) and now >= self._response.comment_at:
            self._observe(Change.COMMENT_DUE)
            self._response.write_comment()
        return reason

    def _resume(self) -> None:
        self._deadlines.resume_at = None
        source = self._source
        assert isinstance(source, Turn)
        if source.pause is not None:
            source.end_pause()
        elif source.ticket.is_queued:
            source.time_out(thread_busy(f"its turn did not come within {self.config.queue_timeout:g} seconds"))

    def _time_out(self) -> None:
        """The turn has taken as long as any may."""
        reason = f"The turn was not over within {self.config.turn_timeout:g} seconds."
        advice = Advice(status=504, type="server_error", code="turn_timeout", should_retry=False)
        # A run must be cancelled, and what was attached is detached. If another cycle drives the turn, it times
        # out in a moment, too.
        self._deadlines.extend_turn()
        match self._source:
            case Turn() as turn:
                turn.time_out(RemoteProtocolError(reason, advice=advice))
            case Follower() as follower:
                follower.wake()
            case handler:
                handler.receive_failure(Failure.SILENT, reason)

    def next_event(self) -> Item | Signal:
        """The next item.

        NEED_DATA while Letta must speak first; WAITING until `wake` is called or the deadline has come, and
        `handle_deadline` is next; FINISHED when the response is whole.
        """
        deadlines, response = self._deadlines, self._response
        while not response.items:
            item = self._source.next_event()
            if type(item) is TextDelta:
                deadlines.is_waiting = False
                if (body := self._take_text(item)) is not None:
                    if self.observer is not None:
                        self._observe(body)
                    return body
                continue
            deadlines.is_waiting = item is _WAITING
            if item is _NEED_DATA:
                return item
            if isinstance(item, Signal):
                self._take_signal(item)
                return item
            if isinstance(item, Event):
                self._observe(item)
                if self._owned is not None:
                    self._owned.entry.add(item)
                self._take(item)
            elif isinstance(item, Reply):
                response.reply(item)
            else:
                deadlines.command_sent(opens_stream=isinstance(item, OpenStream | ResumeRun))
                self.summary.cancel_count += isinstance(item, CancelRun)
                self._observe(item)
                return item
        made = response.items.popleft()
        self._observe(made)
        return made

    def _take_signal(self, signal: Signal) -> None:
        if signal is Signal.FINISHED:
            self._end_turn()
            if not self._finished:
                self._finished = True
                self._observe(Change.FINISHED)
        elif signal is Signal.WAITING and self._deadlines.resume_at is None and isinstance(self._source, Turn):
            pause = self._source.pause
            if pause is None:
                if not self._source.ticket.is_queued:
                    # Its upstream wakes it.
                    return
                pause = self.config.queue_timeout
            self.summary.waited = True
            self._deadlines.pause(pause)

    def _end_turn(self) -> None:
        """Note how the turn has ended, for a retry of the request."""
        if self._owned is not None:
            turn = self._owned.entry.turn
            if turn is not None:
                self.summary.resume_count = turn.state.resume_count
                if turn.state.took_up:
                    self.summary.repeat = Repeat.TAKEN_UP
            if isinstance(self._source, Turn):
                self._memory.threads.learn_sent(self._source)
            self._memory.turns.end(self._owned.fingerprint, self._owned.entry, self._deadlines.now)

    def _take_text(self, event: TextDelta) -> ResponseBody | None:
        """Send more of a text, and all of it that came in the same read, as one item.

        :return: None if the client has left, or the answer is collected.
        """
        source, texts = self._source, [event]
        if type(source) is Turn:
            texts += source.take_texts()
        if self.observer is not None:
            for text in texts:
                self._observe(text)
        if self._owned is not None:
            self._owned.entry.add_texts(texts)
        return self._response.write_texts(texts)

    def _take(self, event: Event) -> None:
        summary, memory, now = self.summary, self._memory, self._deadlines.now
        match event:
            case ReasoningDelta() | CallArguments():
                pass
            case AgentFound(model=model, agent=agent):
                summary.agent_id = agent.id
                memory.agents.remember(model, agent, now, self._caller)
            case AgentGone(agent_id=agent_id):
                memory.agents.forget(agent_id)
            case ThreadGone(thread=thread):
                memory.threads.forget(thread)
            case CallsSettled(stale=stale):
                summary.settled = event
                if stale:
                    summary.ignored += (self._response.dialect.field_name(FieldPath(RequestField.CALL_ID)),)
            case CallStarted():
                summary.call_count += 1
            case TurnFinished(reason=reason, usage=usage):
                summary.outcome, summary.usage = reason.value, usage
                if isinstance(self._source, Turn):
                    memory.threads.learn(self._source, self._caller.scope, now)
            case TurnFailed(error=error, kept=kept):
                summary.outcome, summary.kept = error.code, kept.value
                if isinstance(self._source, Turn):
                    memory.threads.learn_sent(self._source)
        self._response.write(event)
