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
    InputMatched,
    ReasoningDelta,
    TextDelta,
    ThreadGone,
    TurnFailed,
    TurnFinished,
)
from ..turn.phases import Phase
from ..turn.request import TranscriptChat
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


#: Looking up a member of an Enum runs Python code, and these are needed for every token.
_WAITING: Final = Signal.WAITING
_NEED_DATA: Final = Signal.NEED_DATA
_STREAMING: Final = Phase.STREAMING

#: How often a turn that continues only for its followers checks whether any is left.
_FOLLOWER_CHECK_TIMEOUT: Final = 0.25


@define
class Cycle:
    """One client request: Letta's responses in, commands and the response out.

    It has the methods of a turn, plus the time: `now` is in monotonic seconds and never decreases. A
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
    """Seconds that the turn continues if the client disconnects before the response began: it may retry."""
    wake: Callable[[], None] = field(default=no_wake, kw_only=True)
    """Called, from within another cycle, when a cycle that is WAITING may continue before its deadline."""
    observer: Observer | None = field(default=None, init=False)
    """Observes everything, if it is set before the first call of `next_event`."""
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
            case HandlerRunner() as runner:
                runner.wake = wake_up

    @property
    def turn(self) -> Turn | None:
        """The turn that this cycle drives; None if it follows another cycle's, or needs none."""
        return self._source if isinstance(self._source, Turn) else None

    @property
    def dialect(self) -> Dialect:
        """The client's dialect."""
        return self._response.dialect

    def _observe(self, seen: Observation) -> None:
        if self.observer is not None:
            self.observer.observe(seen, self._deadlines.now)

    @property
    def responding(self) -> bool:
        """Whether the response has begun, so that no other can be sent."""
        return self._response.has_begun

    @property
    def is_complete(self) -> bool:
        """Whether the response is complete; only clean-up in Letta may be left."""
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
        """Note that the client has disconnected. Continue until FINISHED: a run may have to be cancelled."""
        if self._response.is_disconnected:
            return
        self._deadlines.now = now
        # Both have the entry of the turn that answers the request.
        shared = self._source if isinstance(self._source, Follower) else self._owned
        if shared is not None and not self._response.has_begun:
            shared.entry.expect_client(now + self._reconnect_grace)
        if self._owned is None or not self._owned.entry.is_wanted(now):
            self.cancel(now)
            return
        self.is_detached = True
        self._disconnect()

    def cancel(self, now: float) -> None:
        """End the turn, even if retries follow it or a retry is expected. Continue until FINISHED."""
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
        """End the turn because the process exits. Continue until FINISHED.

        A run is cancelled. The client gets 503 with ``retry-after`` if Letta has stored nothing of the turn,
        and otherwise an error that it must not retry: 424, or an error in the stream. Retries that follow the
        turn get the same.

        :param timeout: seconds after which the client gets its response, whatever is known by then.
        """
        self._deadlines.now, self._deadlines.shutdown_at = now, now + timeout
        self._observe(Change.INTERRUPTED)
        self._source.shut_down(shutting_down())
        self.wake()

    def hurry(self, now: float) -> None:
        """Cancel with little time left: if the id of the run is not known yet, look the run up at once."""
        self.cancel(now)
        if isinstance(self._source, Turn):
            self._source.hurry()

    @property
    def seeks_run(self) -> bool:
        """Whether all that is left to do is to cancel a run whose id is not known yet."""
        return isinstance(self._source, Turn) and self._source.seeks_run

    def close(self) -> None:
        """Release the cycle's resources: no more commands will be carried out. May be called repeatedly."""
        self._response.items.clear()
        if isinstance(self._source, Turn):
            self._source.ticket.leave()
            # Else the two would refer to each other, and only the garbage collector could free them.
            self._source.ticket.wake = no_wake
        else:
            self._source.client_disconnected()
        self._end_turn()
        if not self._closed:
            self._closed = True
            self._observe(Change.CLOSED)

    def next_deadline(self) -> float:
        """Return when to call `handle_deadline` if nothing happens until then."""
        deadline = min(self._deadlines.next(), self._response.comment_at)
        return min(deadline, self._deadlines.now + _FOLLOWER_CHECK_TIMEOUT) if self.is_detached else deadline

    def handle_deadline(self, now: float) -> str | None:
        """Do what is due; after WAITING, also call this when `wake` was called.

        Due may be the end of a pause, a comment for a waiting client, or the end of a turn that takes too long.

        :return: the reason, if the exchange with Letta has failed as SILENT.
        """
        deadlines = self._deadlines
        deadlines.now = now
        reason, may_begin = None, True
        if self.is_detached and not (self._owned and self._owned.entry.is_wanted(now)):
            # The turn ends; what else was due may no longer apply.
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
        # A failure that was due as well can still be a status, as long as nothing was sent.
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
        """End a turn that has exceeded `turn_timeout`."""
        reason = f"The turn was not over within {self.config.turn_timeout:g} seconds."
        advice = Advice(status=504, type="server_error", code="turn_timeout", should_retry=False)
        # Time to cancel the run and to detach tools. If another cycle drives the turn, that one times out in a
        # moment, too.
        self._deadlines.extend_turn()
        match self._source:
            case Turn() as turn:
                turn.time_out(RemoteProtocolError(reason, advice=advice))
            case Follower() as follower:
                follower.wake()
            case handler:
                handler.receive_failure(Failure.SILENT, reason)

    def next_event(self) -> Item | Signal:
        """Return the next item.

        NEED_DATA until more arrives from Letta; WAITING until `wake` is called or the deadline has come, when
        `handle_deadline` must be called; FINISHED when there is nothing left to do.
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
            if item is _WAITING and type(self._source) is Turn and self._source.state.phase is _STREAMING:
                return item  # its upstream wakes it
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
        elif signal is Signal.WAITING and isinstance(self._source, Turn):
            pause = self._source.pause
            if pause is None:
                if self._deadlines.resume_at is not None or not self._source.ticket.is_queued:
                    # It waits already, or its upstream wakes it.
                    return
                pause = self.config.queue_timeout
            self.summary.waited = True
            self._deadlines.pause(pause)

    def _end_turn(self) -> None:
        """Store how the turn has ended, for a retry of the request."""
        if self._owned is None or (turn := self._owned.entry.turn) is None:
            return
        self.summary.resume_count = turn.state.resume_count
        if turn.state.reviewed_earlier:
            self.summary.repeat = Repeat.TAKEN_UP
        self._memory.threads.learn_sent(turn, self._deadlines.now)
        self._memory.turns.end(self._owned.fingerprint, self._owned.entry, self._deadlines.now)

    def _take_text(self, event: TextDelta) -> ResponseBody | None:
        """Send a piece of text, together with the rest of the text from the same read, as one item.

        :return: None if the client has disconnected, or the response is not streamed.
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
            case InputMatched(how=how):
                summary.matched = how
            case CallStarted():
                summary.call_count += 1
            case TurnFinished(reason=reason, usage=usage):
                summary.outcome, summary.usage = reason.value, usage
                if isinstance(self._source, Turn):
                    is_unnamed = isinstance(self._source.request.thread, TranscriptChat)
                    reply = self._owned.entry.text if self._owned and is_unnamed else None
                    memory.threads.learn(self._source, self._caller.scope, now, reply)
            case TurnFailed(error=error, kept=kept):
                summary.outcome, summary.kept = error.code, kept.value
                if isinstance(self._source, Turn):
                    memory.threads.learn_sent(self._source, now)
        self._response.write(event)
