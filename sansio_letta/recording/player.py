"""Plays recordings: gives a cycle Letta's recorded responses, and yields everything that results.

A recording with a client is played as one cycle, opened for the client's request. One without a client is
played as a cycle for each run, as if a client had requested a stream with usage.
"""

from collections import deque
from collections.abc import Iterator
from math import inf
from typing import TypeAlias

import orjson
from attrs import define, evolve, field, frozen

from .._signal import Signal
from ..config import Config
from ..dialects.base import RequestContext
from ..dialects.chat_completions.dialect import CHAT_COMPLETIONS
from ..dialects.items import ClientRequest
from ..errors import Failure, RequestError
from ..proxy.cycle import Cycle
from ..proxy.deadlines import Deadlines
from ..proxy.http import ResponseBody, ResponseHead
from ..proxy.memory import Memory
from ..proxy.observer import Change, LettaData, LettaFailure, LettaResponse, Observation
from ..proxy.proxy import Proxy
from ..proxy.response import Response
from ..proxy.summary import Summary
from ..turn.events import ConversationThread, Event, Thread
from ..turn.ledger import ThreadKnowledge
from ..turn.request import TurnRequest
from ..turn.turn import Turn
from ..upstreams.rest.commands import Command
from ..upstreams.rest.response import Headers
from ..upstreams.rest.upstream import RestUpstream
from .format import (
    INTERRUPTED,
    RecordedExchange,
    RecordedRequest,
    RecordedState,
    Recording,
    RecordingError,
    RecordingHead,
)
from .requests import client_request, client_turn_request, run_turn_request

#: What is given to a cycle.
Cause: TypeAlias = LettaResponse | LettaData | LettaFailure | Change
#: What results from it.
Effect: TypeAlias = Event | Command | ResponseHead | ResponseBody


@frozen(kw_only=True)
class Moment:
    """A recorded thing that is given to the cycle."""

    exchange: RecordedExchange
    t: float
    line: float  #: its number in the file, which determines the order of moments
    cause: Cause


@frozen(kw_only=True)
class Step:
    """One thing that is given to the cycle, and everything that results.

    :param exchange: the exchange that it was recorded in; None: the cycle was opened.
    :param cause: the exchange's request, or a part of its response; None: the cycle was opened.
    :param is_delivered: whether it was given to the cycle. What follows the cycle's next command is not.
    """

    t: float  #: seconds since the recording began
    exchange: RecordedExchange | None = None
    cause: Cause | RecordedRequest | None = None
    effects: tuple[Effect, ...] = ()
    is_delivered: bool = True


@frozen(kw_only=True)
class Played:
    """One result of playing a recording."""

    t: float  #: seconds since the recording began
    seen: Effect


@define
class Player:
    """Plays one cycle: iterate over all results, or over `steps`.

    :param recording: the complete recording.
    :param cycle: a cycle that was just opened.
    :param first: the exchange that answers the first command, whatever that is.
    """

    recording: Recording
    cycle: Cycle
    first: RecordedExchange | None = None
    unanswered: Command | None = field(default=None, init=False)  #: the command that was not recorded
    used: set[int] = field(factory=set, init=False)  #: numbers of the exchanges played so far
    t: float = field(default=0.0, init=False)  #: the time of what was given last
    is_stream: bool = field(default=False, init=False)  #: whether the client's response is a stream
    _last_x: int = field(default=0, init=False)
    _given: Moment | None = field(default=None, init=False)
    _effects: list[Effect] = field(factory=list, init=False)
    _moments: deque[Moment] = field(factory=deque, init=False)  #: those of the current exchange
    _client: deque[Moment] = field(init=False)  #: those of the client's exchange

    def __attrs_post_init__(self) -> None:
        self.cycle.observer = self
        self._client = deque(_client_moments(self.recording.client))
        if self.first is not None:
            self.t, self._last_x = self.first.t, self.first.x - 1

    def observe(self, seen: Observation, now: float) -> None:
        """See `Observer`."""
        if isinstance(seen, ResponseHead):
            self.is_stream = is_stream(seen.headers)
        if isinstance(seen, ResponseHead | ResponseBody | Event | Command):
            self._effects.append(seen)

    def __iter__(self) -> Iterator[Played]:
        for step in self.steps():
            for seen in step.effects:
                yield Played(t=step.t, seen=seen)

    def steps(self) -> Iterator[Step]:
        """Yield what was recorded, step by step, as far as the cycle requests it."""
        cycle = self.cycle
        while (item := cycle.next_event()) is not Signal.FINISHED:
            if item is Signal.WAITING:
                # The times of what was recorded next include the pause.
                cycle.handle_deadline(cycle.next_deadline())
            elif item is Signal.NEED_DATA:
                yield from self._take_step()
                if not self._moments:
                    return
                self._give(self._next_moment())
            elif isinstance(item, Command):
                yield from self._take_step()
                yield from self._rest()
                found = self._answer(item)
                if found is None:
                    self.unanswered = item
                    return
                yield Step(t=found.t, exchange=found, cause=found.request)
        yield from self._take_step()
        yield from self._rest()

    def _take_step(self) -> Iterator[Step]:
        given, effects = self._given, tuple(self._effects)
        self._given = None
        self._effects.clear()
        if given is not None:
            yield Step(t=given.t, exchange=given.exchange, cause=given.cause, effects=effects)
        elif effects:
            yield Step(t=self.t, effects=effects)

    def _rest(self) -> Iterator[Step]:
        """Yield what was recorded of an exchange after the cycle had moved on."""
        for moment in self._moments:
            yield Step(t=moment.t, exchange=moment.exchange, cause=moment.cause, is_delivered=False)
        self._moments.clear()

    def _answer(self, command: Command) -> RecordedExchange | None:
        """Find the recorded exchange that answers a command."""
        found = self.first if self.first is not None and not self.used else self._find(command)
        if found is None:
            return None
        self._last_x = found.x
        self.used.add(found.x)
        self._moments = deque(_moments(found, reads=self.recording.client is None))
        return found

    def _find(self, command: Command) -> RecordedExchange | None:
        body = orjson.loads(command.body) if command.body else None
        for exchange in self.recording.exchanges:
            # In a recording with a client, texts may be redacted.
            fits = self.recording.client is not None or exchange.request.json in (None, body)
            if exchange.x > self._last_x and fits and exchange.matches(command):
                return exchange
        return None

    def _next_moment(self) -> Moment:
        """Return the next moment of the client or of Letta, in recorded order."""
        client_first = self._client and self._client[0].line < self._moments[0].line
        return (self._client if client_first else self._moments).popleft()

    def _give(self, moment: Moment) -> None:
        cycle, self.t, self._given = self.cycle, moment.t, moment
        match moment.cause:
            case LettaResponse(status=status, headers=headers):
                cycle.receive_response(status, headers, moment.t)
            case LettaData(data=data):
                cycle.receive_data(data, moment.t)
            case LettaFailure(failure=failure, reason=reason):
                cycle.receive_failure(failure, reason, moment.t)
            case Change.INTERRUPTED:
                cycle.shut_down(moment.t)
            case Change.CLIENT_DISCONNECTED:
                cycle.client_disconnected(moment.t)
            case _:
                due = cycle.next_deadline()
                if due < inf:
                    # Recorded times are rounded, so it might not be due yet.
                    cycle.handle_deadline(max(moment.t, due))


def is_stream(headers: Headers) -> bool:
    """Return whether the body of a response is an event stream."""
    return any(name == "content-type" and value.startswith("text/event-stream") for name, value in headers)


def _moments(exchange: RecordedExchange, *, reads: bool) -> Iterator[Moment]:
    """Yield the moments of one exchange.

    :param reads: whether the client itself read Letta's response, so that it disconnected if it stopped
        reading.
    """
    if exchange.status is not None:
        t = exchange.head_t if exchange.head_t is not None else exchange.t
        response = LettaResponse(status=exchange.status, headers=exchange.headers)
        yield Moment(exchange=exchange, t=t, line=exchange.head_line, cause=response)
        for piece in exchange.data:
            yield Moment(exchange=exchange, t=piece.t, line=piece.line, cause=LettaData(data=piece.data))
    t = exchange.data[-1].t if exchange.data else exchange.t
    t = t if exchange.end_t is None else exchange.end_t
    line = exchange.end_line if exchange.end is not None else inf
    yield Moment(exchange=exchange, t=t, line=line, cause=_ending(exchange, reads=reads))


def undelivered_steps(exchange: RecordedExchange, *, reads: bool) -> Iterator[Step]:
    """Yield the steps of an exchange that no cycle requests.

    :param reads: see `_moments`.
    """
    yield Step(t=exchange.t, exchange=exchange, cause=exchange.request, is_delivered=False)
    for moment in _moments(exchange, reads=reads):
        yield Step(t=moment.t, exchange=exchange, cause=moment.cause, is_delivered=False)


def _ending(exchange: RecordedExchange, *, reads: bool) -> Cause:
    if exchange.end == "end" and exchange.status is not None:
        return LettaData(data=b"")
    if exchange.end == "client_closed" and reads:
        return Change.CLIENT_DISCONNECTED
    if exchange.failure == INTERRUPTED:
        return Change.INTERRUPTED
    known = exchange.failure in [failure.value for failure in Failure]
    return LettaFailure(
        failure=Failure(exchange.failure) if known else Failure.BROKEN,
        reason=exchange.reason or "the recording ends here",
    )


def _client_moments(client: RecordedExchange | None) -> Iterator[Moment]:
    if client is None:
        return
    for wait in client.waits:
        yield Moment(exchange=client, t=wait.t, line=wait.line, cause=Change.COMMENT_DUE)
    if client.end == "client_closed" and client.end_t is not None:
        yield Moment(exchange=client, t=client.end_t, line=client.end_line, cause=Change.CLIENT_DISCONNECTED)


def play(recording: Recording, config: Config | None = None) -> Iterator[Player]:
    """Yield a player for each cycle of a recording, in order. A turn that sent its request twice is one cycle.

    :param config: by default, that of the recording.
    :raises RecordingError: if texts are needed to validate or to truncate the reply, and none were recorded.
    """
    config = config or recording.head.config
    if recording.client is not None:
        yield play_client(recording, config)
        return
    used: set[int] = set()
    number = 0
    for exchange in recording.exchanges:
        if exchange.starts_run and exchange.x not in used:
            number += 1
            player = play_run(recording, exchange, config, number)
            yield player
            used |= player.used


def play_client(recording: Recording, config: Config | None = None) -> Player:
    """Return a player for the request of the recorded client.

    :raises RecordingError: if the recording has no client, or lacks the texts that are needed.
    """
    head, client = recording.head, recording.client
    if client is None:
        raise RecordingError(
            f"{recording.scenario}: a recording without a client, of exchanges with Letta alone"
        )
    config = _untimed(config or head.config)
    proxy = Proxy(config)
    try:
        built = client_turn_request(client, config)
    except RequestError:
        built = None
    if built is not None:
        _, turn_request = built
        _check_texts(recording, turn_request)
        _remember(proxy, turn_request, head)
    token, created = head.token or "replayed", head.created or 0
    cycle = proxy.open(client_request(client), token=token, created=created, now=0.0)
    return Player(recording, cycle)


def play_run(recording: Recording, exchange: RecordedExchange, config: Config, number: int) -> Player:
    """The cycle of a client that would have made a run be started.

    :param exchange: the one that starts the run.
    :param number: of the turn.
    """
    config = evolve(_untimed(config).without_pauses(), keepalive_timeout=inf, early_response_timeout=0.0)
    turn_request, pending = run_turn_request(recording, exchange)
    recorded = exchange.request.agent
    agent = None if recorded is None else evolve(recorded.agent, name=recording.scenario)
    turn = Turn(turn_request, RestUpstream(turn_request, config, agent, pending), config)
    asked = ClientRequest(model=turn_request.model, messages=(), stream=True, include_usage=True)
    return Player(recording, _open(turn, asked, str(number), 0, exchange.t), exchange)


def play_unchecked(recording: Recording, client: RecordedExchange) -> Player:
    """The cycle of the recorded client's request; without its texts as if nothing had been asked of the reply.

    :raises RequestError: if the request is refused, and no run was started for it.
    """
    head, config = recording.head, _untimed(recording.head.config)
    run = next((exchange for exchange in recording.exchanges if exchange.starts_run), None)
    try:
        built = client_turn_request(client, config)
    except RequestError:
        if run is None:
            raise
        # Without its texts it reads as a bad request; what it asked of Letta shows that it was a good one.
        turn_request, _ = run_turn_request(recording, run)
        built = (
            ClientRequest(model=turn_request.model, messages=(), stream=is_stream(client.headers)),
            turn_request,
        )
    else:
        if built is None or head.has_texts:
            return play_client(recording)
    asked, turn_request = built
    initial = head.initial
    turn_request = evolve(turn_request, reply_format=None, stop=())
    upstream = RestUpstream(
        turn_request,
        config,
        None if initial.agent is None else initial.agent.agent,
        thread=next((ConversationThread(conversation_id=each) for each in initial.threads.values()), None),
    )
    known = _known_threads(initial)
    turn = Turn(
        turn_request,
        upstream,
        config,
        recall_heard=lambda thread: known.get(thread, ThreadKnowledge()),
    )
    return Player(recording, _open(turn, asked, head.token or "replayed", head.created or 0, 0.0))


def _open(turn: Turn, asked: ClientRequest, token: str, created: int, now: float) -> Cycle:
    """A cycle of this turn, without the request of a client."""
    config, dialect = turn.config, CHAT_COMPLETIONS
    summary = Summary(request_id="", method="POST", path="", model=asked.model, stream=asked.stream)
    deadlines = Deadlines(config, now)
    writer = dialect.writer(asked, RequestContext(config=config, token=token, created=created))
    response = Response(dialect, writer, summary, deadlines)
    return Cycle(turn, response, deadlines, Memory(config), summary, config)


def _untimed(config: Config) -> Config:
    """Turn off timeouts: those that were exceeded are in the recording."""
    return evolve(
        config,
        letta_silence_timeout=inf,
        letta_answer_timeout=inf,
        first_item_timeout=inf,
        turn_timeout=inf,
        repeat_wait_timeout=0.0,
    )


def _check_texts(recording: Recording, turn_request: TurnRequest) -> None:
    if recording.head.has_texts:
        return
    what = ""
    if turn_request.reply_format is not None:
        what = "its reply was validated before it was sent, and no text was recorded to validate again"
    elif turn_request.stop:
        what = "its text was searched for stop sequences, and none was recorded to search again"
    if what:
        raise RecordingError(f"{recording.scenario}: {what}: record with --record-text keep")


def _remember(proxy: Proxy, turn_request: TurnRequest, head: RecordingHead) -> None:
    """Give the proxy the knowledge of the recorded one."""
    initial = head.initial
    if not initial.background:
        proxy.remember_no_background()
    if initial.agent is not None:
        proxy.remember(turn_request.model, initial.agent.agent, now=0.0)
    for agent_id, conversation_id in initial.threads.items():
        proxy.remember_thread(
            agent_id, turn_request.thread, ConversationThread(conversation_id=conversation_id)
        )
    for thread, knowledge in _known_threads(initial).items():
        proxy.remember_heard(thread, knowledge)


def _known_threads(initial: RecordedState) -> dict[Thread, ThreadKnowledge]:
    return {known.thread: known.knowledge for known in initial.heard if known.thread is not None}
