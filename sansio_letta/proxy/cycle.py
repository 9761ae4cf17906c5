"""One request's answer: what Letta says in, the response and commands out, with the time."""

import re
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Final, TypeAlias

from attrs import define, field, frozen

from .._signal import Signal
from ..config import Config
from ..dialects.base import Dialect, Writer
from ..dialects.chat_completions.dialect import CHAT_COMPLETIONS
from ..errors import Advice, Failure, FieldPath, RemoteProtocolError, RequestField, shutting_down
from ..turn.agent import ANYONE, Caller
from ..turn.events import (
    AgentFound,
    AgentGone,
    BackgroundRefused,
    CallArguments,
    CallsSettled,
    CallStarted,
    Event,
    KeepAlive,
    ReasoningDelta,
    TextDelta,
    ThreadGone,
    TurnFailed,
    TurnFinished,
    TurnStarted,
)
from ..turn.thread_queue import nobody, thread_busy
from ..turn.turn import Turn
from ..upstreams.rest.commands import CancelRun, Command, OpenStream, ResumeRun
from ..upstreams.rest.response import Headers
from .endpoints import Inquiry, Reply, error_reply, json_reply
from .http import ResponseBody, ResponseHead
from .memory import Memory
from .observer import Change, LettaData, LettaFailure, LettaResponse, Observation, Observer
from .summary import Repeat, Summary
from .turn_registry import KnownTurn, Listener

Item: TypeAlias = Command | ResponseHead | ResponseBody


@frozen(kw_only=True)
class Driven:
    """What a cycle needs to share its turn with repeats.

    :param fingerprint: of the request.
    """

    known: KnownTurn
    fingerprint: bytes


#: An Enum looks its members up with Python code, and these are asked for with every token.
_WAITING: Final = Signal.WAITING
_NEED_DATA: Final = Signal.NEED_DATA

_STREAM_HEADERS: Final = (("cache-control", "no-cache"), ("x-accel-buffering", "no"))


#: A turn that goes on for listeners alone looks this often whether there is one left.
_LOOK_TIMEOUT: Final = 0.25


@define
class Cycle:
    """One request's answer: Letta's answers in, the response and commands out.

    Methods are those of a turn, with the time: `now` is monotonic seconds, never smaller than before. A
    transport that stops before FINISHED must call `close`.
    """

    _source: Turn | Inquiry | Listener
    _writer: Writer | None
    _memory: Memory
    summary: Summary
    _now: float
    _head_only: bool = False
    config: Config = field(kw_only=True)
    """The limits and policies that it goes by: the proxy's, with what its key and its request have chosen."""
    _dialect: Dialect = field(default=CHAT_COMPLETIONS, kw_only=True)
    _driven: Driven | None = field(default=None, kw_only=True)
    _caller: Caller = field(default=ANYONE, kw_only=True)
    _patience: float = field(default=0.0, kw_only=True)
    """Seconds that its turn goes on for a client that left before its answer began, and is expected back."""
    wake: Callable[[], None] = field(default=nobody, kw_only=True)
    """Called when a cycle that is WAITING may go on before its deadline, while another one is at work."""
    observer: Observer | None = field(default=None, init=False)
    """Sees all that happens, if it is set before the first item is taken."""
    _items: deque[Item] = field(factory=deque, init=False)
    _began: float = field(init=False)
    _turn_deadline: float = field(init=False)  #: of the turn; once that is given up, of each step of its ending
    _heard: float = field(init=False)  #: when Letta spoke last, or was spoken to
    _said: float = field(init=False)
    _silence_timeout: float = field(init=False)
    _waits: bool = field(default=False, init=False)  #: WAITING was said last
    _resume_at: float | None = field(default=None, init=False)  #: when a pause is over, or the queue's patience
    _begins: bool = field(default=False, init=False)  #: a run's stream was asked for, and nothing of it came
    _responding: bool = field(default=False, init=False)
    is_told: bool = field(default=False, init=False)
    """The response is whole: what the cycle still wants is between Letta and itself."""
    _left_at: float | None = field(default=None, init=False)  #: when the client left; the turn goes on
    _stopped: bool = field(default=False, init=False)
    _finished: bool = field(default=False, init=False)
    _closed: bool = field(default=False, init=False)
    _answer_by: float = field(default=inf, init=False)  #: when an interrupted turn's client hears what is known

    def __attrs_post_init__(self) -> None:
        self._began = self._heard = self._said = self._now
        self._silence_timeout = self.config.letta_answer_timeout
        self._turn_deadline = self._began + self.config.turn_timeout
        match self._source:
            case Turn(place=place):
                place.wake = self._wake_up
            case Listener() as listener:
                listener.wake = self._wake_up

    def _wake_up(self) -> None:
        self.wake()

    @property
    def _known(self) -> KnownTurn | None:
        """The turn that this request is answered by, whoever drives it."""
        if isinstance(self._source, Listener):
            return self._source.known
        return None if self._driven is None else self._driven.known

    @property
    def turn(self) -> Turn | None:
        """The turn that it drives; None if it joins another cycle's, or needs none."""
        return self._source if isinstance(self._source, Turn) else None

    def _tell(self, seen: Observation) -> None:
        if self.observer is not None:
            self.observer.observe(seen, self._now)

    @property
    def responding(self) -> bool:
        """Whether the head was handed over: no other answer can be given any more."""
        return self._responding

    def receive_response(self, status: int, headers: Sequence[tuple[str, str]], now: float) -> None:
        """See `Turn.receive_response`."""
        self._heard = self._now = now
        if self.observer is not None:
            self._tell(LettaResponse(status=status, headers=headers))
        self._source.receive_response(status, headers)

    def receive_data(self, data: bytes, now: float) -> None:
        """See `Turn.receive_data`."""
        self._heard = self._now = now
        if self.observer is not None:
            self._tell(LettaData(data=data))
        if self._begins:
            self._begins, self._silence_timeout = False, self.config.letta_silence_timeout
        self._source.receive_data(data)

    def receive_failure(self, failure: Failure, reason: str, now: float) -> None:
        """See `Turn.receive_failure`."""
        self._heard = self._now = now
        self.summary.failure = failure.value
        self._tell(LettaFailure(failure=failure, reason=reason))
        self._source.receive_failure(failure, reason)

    def abandon(self, now: float) -> None:
        """The client has left. Go on until FINISHED: a run may have to be cancelled, or others listen to it."""
        if self._left_at is not None or self._stopped:
            return
        self._now = now
        self._items.clear()
        self.summary.outcome = self.summary.outcome or "abandoned"
        driven, known = self._driven, self._known
        if known is not None and not self._responding:
            known.expected_until = max(known.expected_until, now + self._patience)
        if driven is not None and (driven.known.listeners or now < driven.known.expected_until):
            self._left_at = now
            self._tell(Change.CLIENT_LEFT)
        else:
            self.stop(now)

    def stop(self, now: float) -> None:
        """As `abandon`, but the turn ends whoever listens, and nobody is expected back."""
        self._now = now
        if not self._has_left:
            self._tell(Change.CLIENT_LEFT)
        self._items.clear()
        self.summary.outcome = self.summary.outcome or "abandoned"
        self._left_at, self._stopped = None, True
        if self._driven is not None:
            self._driven.known.given_up = True
        self._source.abandon()

    def interrupt(self, now: float, timeout: float = inf) -> None:
        """The proxy itself must end, and cannot wait for this answer. Go on until FINISHED.

        A run is cancelled. The client gets 503 with ``retry-after`` if nothing of the turn was kept, else what
        it must not repeat: 424, or an error in the stream. Who listens to a turn hears how it ended.

        :param timeout: seconds after which the client is told what is known by then, which may be nothing.
        """
        self._now, self._answer_by = now, now + timeout
        self._tell(Change.INTERRUPTED)
        self._source.interrupt(shutting_down())
        self.wake()

    def hurry(self, now: float) -> None:
        """As `stop`, and little more will be carried out: a run without a name yet is looked for at once."""
        self.stop(now)
        if isinstance(self._source, Turn):
            self._source.hurry()

    @property
    def seeks_run(self) -> bool:
        """Whether it only goes on to end a run of which Letta has not told the name yet."""
        return isinstance(self._source, Turn) and self._source.seeks_run

    def close(self) -> None:
        """Nothing more will be carried out: nobody waits for this cycle any longer. May be called again."""
        self._items.clear()
        if isinstance(self._source, Turn):
            self._source.place.leave()
        else:
            self._source.abandon()
        self._end_turn()
        if not self._closed:
            self._closed = True
            self._tell(Change.CLOSED)

    @property
    def goes_on(self) -> bool:
        """Whether the client has left and the turn goes on all the same, as long as that may take."""
        return self._left_at is not None

    def next_deadline(self) -> float:
        """When `handle_deadline` should be called if nothing happens until then."""
        if self._waits:
            deadline = self._turn_deadline if self._resume_at is None else self._resume_at
        else:
            deadline = self._heard + self._silence_timeout
        deadline = min(deadline, self.comment_deadline)
        if self._left_at is not None:
            deadline = min(deadline, self._now + _LOOK_TIMEOUT)
        return min(deadline, self._turn_deadline, self._answer_by)

    @property
    def comment_deadline(self) -> float:
        """When a client that waits gets a comment, if need be as the first it hears.

        Never, if its answer is no stream.
        """
        # Who has left is told nothing, so that no deadline may wait for a word to be said.
        if self._writer is None or not self._writer.streaming or self._has_left or self.is_told:
            return inf
        if self._responding:
            return self._said + self.config.keepalive_timeout
        return self._began + (self.config.early_response_timeout or inf)

    def handle_deadline(self, now: float) -> str | None:
        """Do what is due; after WAITING, also if `wake` was called.

        That is: the end of a pause, a comment for a client that waits, the end of a turn that takes too long.

        :return: the reason if the exchange with Letta was given up as SILENT.
        """
        self._now = now
        reason, may_begin = None, True
        if self._left_at is not None and not self._look_for_listeners():
            # It ends: what was due may have been for the turn as it was.
            self.stop(now)
        elif now >= self._turn_deadline:
            self._give_up_turn()
            may_begin = False
        elif now >= self._answer_by:
            self._answer_by, may_begin = inf, False
            if isinstance(self._source, Turn):
                self._source.hurry()
        elif self._waits:
            self._heard = now
            if self._resume_at is not None and now >= self._resume_at:
                self._resume()
                may_begin = False
        elif now >= self._heard + self._silence_timeout:
            reason = self._silence
            self.receive_failure(Failure.SILENT, reason, now)
        # What else was due may be a failure, and that is a status as long as nothing was said.
        if reason is None and (may_begin or self._responding) and now >= self.comment_deadline:
            assert self._writer is not None
            self._tell(Change.COMMENT_DUE)
            self._begin_stream(self._writer)
            self._say(self._writer.write(KeepAlive()))
        return reason

    @property
    def _silence(self) -> str:
        seconds = f"{self._silence_timeout:g} seconds"
        return f"it did not begin to answer within {seconds}" if self._begins else f"no byte came for {seconds}"

    def _resume(self) -> None:
        self._resume_at = None
        source = self._source
        assert isinstance(source, Turn)
        if source.pause is not None:
            source.end_pause()
        elif not source.place.granted:
            source.give_up(thread_busy(f"its turn did not come within {self.config.queue_timeout:g} seconds"))

    def _give_up_turn(self) -> None:
        """Nobody waits for a turn longer than this."""
        reason = f"The turn was not over within {self.config.turn_timeout:g} seconds."
        advice = Advice(status=504, type="server_error", code="turn_timeout", should_retry=False)
        # A run must be cancelled, and what was attached is taken back. Of a turn that this one listens to, the
        # one that drives it gives up in a moment.
        self._turn_deadline = self._now + self.config.letta_answer_timeout
        match self._source:
            case Turn() as turn:
                turn.give_up(RemoteProtocolError(reason, advice=advice))
            case Listener() as listener:
                listener.wake()
            case inquiry:
                inquiry.receive_failure(Failure.SILENT, reason)

    def _look_for_listeners(self) -> bool:
        """The client has left: is there anybody for whom the turn should go on?"""
        assert self._driven is not None
        known = self._driven.known
        if known.listeners:
            return True
        is_awaited = known.turn is not None and known.turn.place.is_awaited
        return self._now < known.expected_until and not is_awaited

    @property
    def _has_left(self) -> bool:
        """Whether the client is told nothing any more."""
        return self._left_at is not None or self._stopped

    def next_event(self) -> Item | Signal:
        """The next item.

        NEED_DATA while Letta must speak first; WAITING until `wake` is called or the deadline has come, and
        `handle_deadline` is next; FINISHED when the response is whole.
        """
        while not self._items:
            item = self._source.next_event()
            if type(item) is TextDelta:
                self._waits = False
                if (body := self._take_text(item)) is not None:
                    if self.observer is not None:
                        self._tell(body)
                    return body
                continue
            self._waits = item is _WAITING
            if item is _NEED_DATA:
                return item
            if isinstance(item, Signal):
                self._take_signal(item)
                return item
            if isinstance(item, Event):
                assert self._writer is not None
                self._tell(item)
                if self._driven is not None:
                    self._driven.known.add(item)
                self._take(item, self._writer)
            elif isinstance(item, Reply):
                self._reply(item)
            else:
                self._take_command(item)
                self._tell(item)
                return item
        made = self._items.popleft()
        self._tell(made)
        return made

    def _take_signal(self, signal: Signal) -> None:
        if signal is Signal.FINISHED:
            self._end_turn()
            if not self._finished:
                self._finished = True
                self._tell(Change.FINISHED)
        elif signal is Signal.WAITING and self._resume_at is None and isinstance(self._source, Turn):
            pause = self._source.pause
            self.summary.waited = True
            self._resume_at = self._now + (self.config.queue_timeout if pause is None else pause)

    def _take_command(self, command: Command) -> None:
        self._heard, self._resume_at = self._now, None
        self.summary.cancel_count += isinstance(command, CancelRun)
        config = self.config
        self._begins = isinstance(command, OpenStream | ResumeRun)
        self._silence_timeout = config.first_item_timeout if self._begins else config.letta_answer_timeout

    def _end_turn(self) -> None:
        """Whoever repeats the request from now on is told what became of it."""
        if self._driven is not None:
            if self._driven.known.turn is not None:
                self.summary.resume_count = self._driven.known.turn.resume_count
                if self._driven.known.turn.took_up:
                    self.summary.repeat = Repeat.TAKEN_UP
            if isinstance(self._source, Turn):
                self._memory.threads.learn_told(self._source)
            self._memory.turns.end(self._driven.fingerprint, self._driven.known, self._now)

    def _take_text(self, event: TextDelta) -> ResponseBody | None:
        """Say more of a text, and all of it that came in the same read, as one item.

        :return: None if the client has left, or the answer is collected.
        """
        source, writer, texts = self._source, self._writer, [event]
        assert writer is not None
        if type(source) is Turn:
            texts += source.take_texts()
        if self.observer is not None:
            for text in texts:
                self._tell(text)
        if self._driven is not None:
            self._driven.known.add_texts(texts)
        if data := b"".join([writer.write(text) for text in texts]):
            self.summary.chunk_count += len(texts)
            if not self._has_left:
                self._said = self._now
                return ResponseBody(data=data)
        return None

    def _take(self, event: Event, writer: Writer) -> None:
        summary = self.summary
        match event:
            case ReasoningDelta() | CallArguments():
                pass
            case AgentFound(model=model, agent=agent):
                summary.agent_id = agent.id
                self._memory.agents.remember(model, agent, self._now, self._caller)
            case AgentGone(agent_id=agent_id):
                self._memory.agents.forget(agent_id)
            case ThreadGone(thread=thread):
                self._memory.threads.forget(thread)
            case BackgroundRefused():
                self._memory.has_background = False
            case CallsSettled(stale=stale):
                summary.settled = event
                if stale:
                    summary.ignored += (self._dialect.field_name(FieldPath(RequestField.CALL_ID)),)
            case CallStarted():
                summary.call_count += 1
            case TurnFinished(reason=reason, usage=usage):
                self.is_told = True
                summary.outcome, summary.usage = reason.value, usage
                if isinstance(self._source, Turn):
                    self._memory.threads.learn(self._source, self._caller.scope, self._now)
                if not writer.streaming:
                    self._reply(json_reply(writer.write(event)))
                    return
            case TurnFailed(error=error, kept=kept):
                self.is_told = True
                summary.outcome, summary.kept = error.code, kept.value
                if isinstance(self._source, Turn):
                    self._memory.threads.learn_told(self._source)
                if not self._responding:
                    self._reply(error_reply(error, self._dialect))
                    return
            case TurnStarted():
                if writer.streaming:
                    self._begin_stream(writer)
        if data := writer.write(event):
            summary.chunk_count += 1
            self._say(data)

    def _reply(self, reply: Reply) -> None:
        length = (("content-length", str(len(reply.body))),) if reply.status != 204 else ()
        self._head(reply.status, (*reply.headers, *length))
        if reply.body and not self._head_only:
            self._say(reply.body)

    def _begin_stream(self, writer: Writer) -> None:
        if not self._responding:
            self._head(200, (("content-type", writer.content_type), *_STREAM_HEADERS))

    def _head(self, status: int, headers: Headers) -> None:
        if self._has_left:
            return
        self._responding = True
        self.summary.status = status
        ignored = self.summary.ignored
        self._items.append(
            ResponseHead(
                status=status,
                headers=(
                    *headers,
                    ("x-request-id", self.summary.request_id),
                    *([("x-ignored-parameters", _header_list(ignored))] if ignored else []),
                ),
            )
        )

    def _say(self, data: bytes) -> None:
        if self._has_left:
            return
        self._said = self._now
        self._items.append(ResponseBody(data=data))


_MORE: Final = re.compile(r"and \d{1,9} more")


def _header_list(names: Sequence[str]) -> str:
    """Names of fields come from the client: what could end a header line must not get through."""
    # The decoder names as many as somebody reads, and counts the others.
    return ", ".join(name if _MORE.fullmatch(name) else re.sub(r"[^!-+\--~]", "?", name[:64]) for name in names)
