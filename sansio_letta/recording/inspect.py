"""What happened in a recording, for a person: each item that came from Letta, beside what became of it.

The recording is played line by line, so that the turn's events, its chunks and its commands stand beside the
one item that made them.
"""

import re
from typing import Final

from attrs import define, evolve, field

from .._signal import Signal
from ..config import Config
from ..errors import RemoteProtocolError, RequestError, SansioLettaError
from ..proxy.http import ResponseBody, ResponseHead
from ..proxy.observer import Change, LettaData, LettaFailure, LettaResponse
from ..proxy.routing import Endpoint, route
from ..sse import ServerSentEvent, SSEDecoder
from ..turn.events import Event, TurnFailed, TurnFinished
from ..turn.turn import Turn
from ..upstreams.rest import letta
from ..upstreams.rest.commands import Command
from .compare import compare
from .format import INTERRUPTED, RecordedExchange, RecordedRequest, Recording, RecordingError
from .player import Effect, Player, Step, is_stream, play, play_client, play_unchecked, undelivered_steps
from .rows import Inspection, Kind, Outcome, Part, Passage, Row
from .summaries import (
    decoded,
    error_summary,
    event_summary,
    http_message,
    laid_out,
    message_summary,
    pretty,
    request_summary,
    short,
)


def inspect(recording: Recording) -> Inspection:
    """Describe what happened in a recording. Nothing in the recording raises an error."""
    by_line = evolve(recording, exchanges=tuple(map(_cut_into_lines, recording.exchanges)))
    client = recording.client
    passages = _inspect_runs(by_line) if client is None else [_inspect_client(by_line, client, recording)]
    return Inspection(
        head=recording.head,
        passages=tuple(sorted(passages, key=lambda passage: passage.t)),
        cut_line=recording.cut_line,
    )


def _inspect_runs(recording: Recording) -> list[Passage]:
    """Return each run as a turn, and the exchanges that no turn requested."""
    passages: list[Passage] = []
    shown: set[int] = set()
    for number, player in enumerate(play(recording, Config()), 1):
        builder = _PassageBuilder(recording, player)
        builder.play(player)
        if player.first is not None and not player.used:
            builder.add_exchange(player.first)  # the turn failed before its first command
        passages.append(builder.passage(number))
        shown.update(row.x for row in builder.rows)
    for exchange in recording.exchanges:
        if exchange.x not in shown:
            builder = _PassageBuilder(recording)
            builder.add_exchange(exchange)
            passages.append(builder.passage(None))
    return passages


def _inspect_client(by_line: Recording, client: RecordedExchange, recording: Recording) -> Passage:
    """Return the passage from the client's request to the response that the client got."""
    refused = None
    try:
        player = play_unchecked(by_line, client)
    except RequestError as exc:
        refused, player = exc, play_client(by_line)
    builder = _PassageBuilder(by_line, player, refused)
    builder.play(player)
    for exchange in by_line.exchanges:
        if exchange.x > builder.last_x:
            builder.add_exchange(exchange)
    builder.add_client_end(client)
    return builder.passage(1 if _starts_turn(client) else None, as_recorded=_is_same(recording))


def _is_same(recording: Recording) -> bool | None:
    """Return whether the client would get the same today; None if that cannot be determined."""
    try:
        return compare(recording).same
    except RecordingError:
        return None


@define
class _PassageBuilder:
    """Builds a passage row by row.

    :param player: that of its cycle; None: the passage is an exchange that no cycle requests.
    :param error: why the client's request was refused.
    """

    recording: Recording
    player: Player | None = None
    _error: SansioLettaError | None = None
    rows: list[Row] = field(factory=list, init=False)
    last_x: int = field(default=0, init=False)  #: number of the last exchange that was added
    _unanswered: Command | None = field(default=None, init=False)
    _last: TurnFinished | TurnFailed | None = field(default=None, init=False)
    _left: bool = field(default=False, init=False)
    _runs: bool = field(default=False, init=False)
    _decoder: SSEDecoder | None = field(default=None, init=False)  #: of the current exchange, if it is a stream
    _rest: bytearray = field(factory=bytearray, init=False)  #: its data that has not made an event yet
    # Since the last row:
    _outcomes: list[Outcome] = field(factory=list, init=False)
    _delivered: bool = field(default=False, init=False)

    def play(self, player: Player) -> None:
        """Add everything that the player's cycle requests."""
        client = self.recording.client
        if client is None:
            for step in player.steps():
                self._add_step(step)
        else:
            steps = player.steps()
            opened = next(steps)
            self._collect(opened)
            if self._error is not None:
                name, text = type(self._error).__name__, error_summary(self._error)
                self._outcomes.append(Outcome(part=Part.FAILURE, name=name, text=text))
            request = client.request
            sent = http_message(request.headers, pretty(request.json))
            name = f"{request.method} {request.path}"
            self._add_row(client, client.t, Kind.CLIENT, name, request_summary(request.json), sent)
            for step in steps:
                self._add_step(step)
        self._unanswered = player.unanswered

    def add_exchange(self, exchange: RecordedExchange) -> None:
        """Add an exchange that no cycle requests."""
        for step in undelivered_steps(exchange, reads=self.recording.client is None):
            self._add_step(step)

    def add_client_end(self, client: RecordedExchange) -> None:
        """Add the response that the client got, unless it disconnected before."""
        if client.end != "client_closed" and client.status is not None:
            self._add_row(client, _end_t(client), Kind.CLIENT, *_describe_response(client))
        elif client.end == "client_closed" and not self._left:
            self._add_disconnect(client, _end_t(client))

    def _add_disconnect(self, client: RecordedExchange, t: float) -> None:
        self._left = True
        name, text, payload = _describe_response(client)
        self._add_row(client, t, Kind.CLIENT, "left", f"{name}, {text}", payload)

    def passage(self, number: int | None, *, as_recorded: bool | None = None) -> Passage:
        """Return the finished passage."""
        last = self._last
        finished = last if isinstance(last, TurnFinished) else None
        failed = last if isinstance(last, TurnFailed) else None
        return Passage(
            number=number,
            rows=tuple(self.rows),
            finish=finished.reason.value if finished else None,
            usage=finished.usage if finished else None,
            error=failed.error if failed else self._error,
            kept=failed.kept if failed else None,
            left=self._left,
            unanswered=self._unanswered,
            as_recorded=as_recorded,
        )

    # --- Steps ------------------------------------------------------------------------------------------------

    def _add_step(self, step: Step) -> None:
        """Add the rows of one step."""
        exchange, t = step.exchange, step.t
        if exchange is None:
            # The first command has no row that it resulted from; it gets a row of its own.
            self._collect(step)
            self._outcomes = [outcome for outcome in self._outcomes if outcome.part is not Part.COMMAND]
            return
        if exchange is self.recording.client:
            self._collect(step)
            if step.cause is Change.CLIENT_DISCONNECTED:
                self._add_disconnect(exchange, t)
            return
        match step.cause:
            case RecordedRequest() as request:
                self._collect(step)
                self.last_x, self._decoder = exchange.x, None
                self._rest.clear()
                self._runs = self._runs or exchange.starts_run
                name = f"{request.method} {request.path}"
                self._add_row(
                    exchange, t, Kind.REQUEST, name, request_summary(request.json), pretty(request.json)
                )
            case LettaResponse(status=status, headers=headers):
                self._collect(step)
                self._decoder = SSEDecoder(Config().max_event_size) if is_stream(headers) else None
                kind = next((value for name, value in headers if name == "content-type"), "")
                self._add_row(exchange, t, Kind.HEAD, str(status), kind, http_message(headers))
            case LettaData(data=data) if data:
                self._collect(step)
                self._add_data(exchange, t, data)
            case _:
                self._add_ending(exchange, step)

    def _add_data(self, exchange: RecordedExchange, t: float, data: bytes) -> None:
        self._rest += data
        if self._decoder is not None and (event := _next_event(self._decoder, data)):
            summary = message_summary(event.data)
            kind = Kind.PING if summary.name == "ping" else Kind.MESSAGE
            self._add_row(exchange, t, kind, summary.name, summary.text, laid_out(event.data), summary.whole)
            self._rest.clear()

    def _add_ending(self, exchange: RecordedExchange, step: Step) -> None:
        is_whole = isinstance(step.cause, LettaData)
        if self._decoder is None and is_whole:
            self._collect(step)
        if exchange.status is not None:
            self._add_rest(exchange, step.t if is_whole else _last_t(exchange))
        if not is_whole or self._decoder is not None:
            self._collect(step)
            self._left = self._left or (step.cause is Change.CLIENT_DISCONNECTED and step.is_delivered)
            self._add_row(exchange, step.t, Kind.END, *_describe_ending(exchange, step, self.recording))

    def _add_rest(self, exchange: RecordedExchange, t: float) -> None:
        """Add the data that has not made an event: a complete body, or the end of a stream."""
        body = bytes(self._rest)
        if self._decoder is None:
            text = short(letta.decode_error_body(body).text or decoded(body), _MAX_BODY)
            self._add_row(exchange, t, Kind.ANSWER, f"{len(body)} bytes", text, laid_out(body))
        elif body.strip():
            self._add_row(
                exchange, _last_t(exchange), Kind.REST, "no event", short(decoded(body)), decoded(body)
            )

    def _collect(self, step: Step) -> None:
        """Collect the effects of a step for the next row."""
        self._delivered = self._delivered or step.is_delivered
        for effect in step.effects:
            if isinstance(effect, TurnFinished | TurnFailed):
                self._last = effect
        self._outcomes += _outcomes(step.effects)

    def _add_row(
        self,
        exchange: RecordedExchange,
        t: float,
        kind: Kind,
        name: str,
        text: str = "",
        payload: str = "",
        whole: str | None = None,
    ) -> None:
        """Add a row with the effects collected so far."""
        turn = self._turn if self._delivered else None
        self.rows.append(
            Row(
                x=exchange.x,
                t=t,
                gap=max(0.0, t - self.rows[-1].t) if self.rows else 0.0,
                kind=kind,
                name=name,
                text=text,
                payload=payload,
                phase=turn.phase if turn else None,
                # There is no other access to the state of the run.
                run_state=turn.state.run_state if turn and self._runs else None,
                outcomes=tuple(self._outcomes),
                whole=whole,
            )
        )
        self._outcomes, self._delivered = [], False

    @property
    def _turn(self) -> Turn | None:
        return None if self.player is None else self.player.cycle.turn


def _outcomes(effects: tuple[Effect, ...]) -> list[Outcome]:
    """Return events and commands, each event with the bytes that it added to the response."""
    outcomes: list[Outcome] = []
    for effect in effects:
        if isinstance(effect, Command):
            text, payload = f"{effect.method} {effect.target}", laid_out(effect.body or b"")
            name = type(effect).__name__
            outcomes.append(Outcome(part=Part.COMMAND, name=name, text=text, payload=payload))
        elif isinstance(effect, ResponseBody):
            if outcomes and outcomes[-1].part is not Part.COMMAND:
                outcomes[-1] = _with_bytes(outcomes[-1], effect.data)
        elif not isinstance(effect, ResponseHead):
            outcomes.append(_event_outcome(effect))
    return outcomes


def _event_outcome(event: Event) -> Outcome:
    part = Part.FAILURE if isinstance(event, TurnFailed) else Part.EVENT
    return Outcome(part=part, name=type(event).__name__, text=event_summary(event))


def _with_bytes(outcome: Outcome, data: bytes) -> Outcome:
    if outcome.part is Part.FAILURE:
        return evolve(outcome, payload=laid_out(data))
    payload = outcome.payload + decoded(data)
    return evolve(outcome, payload=payload, chunk_count=_chunk_count(payload))


# --- What was recorded ----------------------------------------------------------------------------------------

_LINES: Final = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_CHUNK: Final = re.compile(r'^data: \{(?!"error")', re.MULTILINE)
#: Characters of a body that are shown in a row.
_MAX_BODY: Final = 120


def _cut_into_lines(exchange: RecordedExchange) -> RecordedExchange:
    """Split a stream into lines: a line ends one event at most, so its effects can be attributed."""
    if not is_stream(exchange.headers):
        return exchange
    lines = (evolve(piece, data=line) for piece in exchange.data for line in _LINES.findall(piece.data))
    return evolve(exchange, data=tuple(lines))


def _describe_ending(exchange: RecordedExchange, step: Step, recording: Recording) -> tuple[str, str]:
    """Return how an exchange ended, in a word, and why."""
    match exchange.end:
        case "end":
            return "end", ""
        case "client_closed":
            return "closed", f"by the {'reader' if recording.client is None else 'proxy'}"
        case None:
            return "cut", "the recording ends here"
    cause = step.cause.failure.value if isinstance(step.cause, LettaFailure) else INTERRUPTED
    return cause, exchange.reason or "no reason recorded"


def _next_event(decoder: SSEDecoder, line: bytes) -> ServerSentEvent | None:
    decoder.receive_data(line)
    try:
        event = decoder.next_event()
    except RemoteProtocolError:
        # Too large, which the turn reports.
        return None
    return None if isinstance(event, Signal) else event


def _chunk_count(body: str) -> int:
    return len(_CHUNK.findall(body))


def _describe_response(client: RecordedExchange) -> tuple[str, str, str]:
    """Return what the client got: in a word, in short, and in full."""
    if client.status is None:
        return "got nothing", "no status", ""
    body = decoded(client.body)
    text = f"{count} chunks" if (count := _chunk_count(body)) else short(body, _MAX_BODY)
    return f"got {client.status}", text, http_message(client.headers, body)


def _last_t(exchange: RecordedExchange) -> float:
    return exchange.data[-1].t if exchange.data else exchange.t


def _end_t(exchange: RecordedExchange) -> float:
    return _last_t(exchange) if exchange.end_t is None else exchange.end_t


def _starts_turn(client: RecordedExchange) -> bool:
    try:
        return route(client.request.method, client.request.path).endpoint is Endpoint.CHAT
    except RequestError:
        return False
