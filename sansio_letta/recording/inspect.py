"""What happened in a recording, for a person: each item that came from Letta, beside what became of it.

A recording of version 1 knows no client: its turns are told as if one had asked for a stream, with usage. One
of version 2 holds its client's request, which is planned anew. Either way today's turn hears what was recorded,
line by line, so that its events, chunks and commands stand beside the one item that made them.
"""

import re
from typing import Final

import orjson
from attrs import define, evolve, field

from .._signal import Signal
from ..config import Config
from ..dialects.base import RequestContext, Writer
from ..dialects.chat_completions.decode import decode_request
from ..dialects.chat_completions.request import field_name
from ..dialects.chat_completions.writer import Heading, make_writer
from ..dialects.errors import error_body
from ..dialects.new_input import plan_turn
from ..dialects.tool_display import showing_tools
from ..errors import Failure, RemoteProtocolError, RequestError, SansioLettaError, shutting_down
from ..proxy.routing import Endpoint, route
from ..sse import ServerSentEvent, SSEDecoder
from ..turn.agent import Agent
from ..turn.events import ConversationThread, Event, TurnFailed, TurnFinished
from ..turn.phases import Phase
from ..turn.turn import Turn
from ..upstreams.rest import letta
from ..upstreams.rest.commands import Command
from ..upstreams.rest.upstream import RestUpstream
from .compare import compare
from .format import INTERRUPTED, RecordedExchange, Recording, RecordingError
from .requests import planned_run
from .rows import Inspection, Kind, Outcome, Part, Passage, Row
from .summaries import (
    decoded,
    error_gist,
    event_gist,
    http_message,
    laid_out,
    message_gist,
    pretty,
    request_gist,
    short,
)


def inspect(recording: Recording) -> Inspection:
    """Tell what happened in a recording. Nothing is raised for what was recorded."""
    client = recording.client
    passages = _tell_turns(recording) if client is None else [_tell_client(recording, client)]
    return Inspection(
        head=recording.head,
        passages=tuple(sorted(passages, key=lambda passage: passage.t)),
        cut_line=recording.cut_line,
    )


def _tell_turns(recording: Recording) -> list[Passage]:
    """Each exchange that starts a run as a turn, and what no turn asked for, one by one."""
    passages: list[Passage] = []
    told: set[int] = set()
    starting = [exchange for exchange in recording.exchanges if exchange.starts_run]
    for number, exchange in enumerate(starting, 1):
        plan, pending = planned_run(recording, exchange)
        config = Config().without_pauses()
        turn = Turn(plan, RestUpstream(plan, config, _agent_of(exchange), pending), config)
        walk = _Walk(recording, turn, _writer(recording, number, plan.model))
        walk.begin()
        walk.follow(exchange)
        passages.append(walk.passage(number))
        told.update(row.x for row in walk.rows)
    for exchange in recording.exchanges:
        if exchange.x not in told:
            walk = _Walk(recording)
            walk.tell(exchange)
            passages.append(walk.passage(None))
    return passages


def _tell_client(recording: Recording, client: RecordedExchange) -> Passage:
    """The client's request, what Letta was asked for it, and the answer that the client got."""
    request, asks_turn = client.request, _asks_turn(client)
    walk = _Walk(recording, leaves=client.end_t if client.end == "client_closed" else None)
    if asks_turn:
        walk.plan(request.json)
    walk.begin()
    name, sent = f"{request.method} {request.path}", http_message(request.headers, pretty(request.json))
    walk.add(client, client.t, Kind.CLIENT, name, request_gist(request.json), sent)
    walk.follow(walk.answering())
    walk.turn = None
    for exchange in recording.exchanges:
        if exchange.x > walk.last_x:
            walk.tell(exchange)
    walk.leave()
    if client.end != "client_closed" and client.status is not None:
        walk.add(client, _end_t(client), Kind.CLIENT, *_got(client))
    return walk.passage(1 if asks_turn else None, as_recorded=_is_same(recording))


def _is_same(recording: Recording) -> bool | None:
    """Whether the client would get the same today; None if that cannot be known."""
    try:
        return compare(recording).same
    except RecordingError:
        return None


@define
class _Walk:
    """A passage while it is told.

    :param turn: hears what was recorded; None: nobody does.
    :param leaves: when the client left, if it did.
    """

    recording: Recording
    turn: Turn | None = None
    _writer: Writer | None = None
    _leaves: float | None = None
    rows: list[Row] = field(factory=list, init=False)
    last_x: int = field(default=0, init=False)  #: of the exchange that was told last
    _unanswered: Command | None = field(default=None, init=False)
    _last: TurnFinished | TurnFailed | None = field(default=None, init=False)
    _error: SansioLettaError | None = field(default=None, init=False)
    _left: bool = field(default=False, init=False)
    _runs: bool = field(default=False, init=False)
    # Since the last row:
    _command: Command | None = field(default=None, init=False)  #: asked, so the exchange is heard no further
    _outcomes: list[Outcome] = field(factory=list, init=False)
    _heard: bool = field(default=False, init=False)

    def plan(self, json: object) -> None:
        """Make the turn that the client's request asks for, or keep the error that it is."""
        run = next((exchange for exchange in self.recording.exchanges if exchange.starts_run), None)
        try:
            given = self._circumstances()
            plan = plan_turn(decode_request(_json_bytes(json), given.config), given).plan
        except RequestError as exc:
            if run is None:
                self._error = exc
                self._outcomes.append(Outcome(part=Part.FAILURE, name=type(exc).__name__, text=error_gist(exc)))
                return
            # Its texts were not recorded, so that it reads as a bad one; what it asked of Letta is there.
            plan, _ = planned_run(self.recording, run)
        if not self.recording.head.has_texts:
            # There is nothing to check or to search: what was said is shown as if nothing had been wished.
            plan = evolve(plan, wish=None, stop=())
        raw = json if isinstance(json, dict) else {}
        options = raw.get("stream_options")
        include_usage = isinstance(options, dict) and options.get("include_usage") is True
        stream = raw.get("stream") is True
        self._writer = _writer(self.recording, 1, plan.model, stream=stream, include_usage=include_usage)
        initial = self.recording.head.initial
        thread = next(map(_conversation, initial.threads.values()), None)
        agent = None if initial.agent is None else initial.agent.agent
        config = self.recording.head.config
        self.turn = Turn(plan, RestUpstream(plan, config, agent, thread=thread), config)

    def _circumstances(self) -> RequestContext:
        head, client = self.recording.head, self.recording.client
        headers = dict(client.request.headers) if client is not None else {}
        return RequestContext(config=head.config, headers=headers, token=head.token or "")

    def begin(self) -> None:
        """Take what the turn asks first."""
        if self.turn is not None:
            self._heard = True
            self._take(self.turn)

    def follow(self, exchange: RecordedExchange | None) -> None:
        """Tell this exchange, and those that answer what the turn asks in it, as far as the recording knows."""
        if self.recording.client is None:
            # There is no row yet that the first command came of: it is one itself.
            self._outcomes = [outcome for outcome in self._outcomes if outcome.part is not Part.COMMAND]
        while exchange is not None:
            self.tell(exchange)
            exchange = self.answering()
        self._unanswered = self._command

    def answering(self) -> RecordedExchange | None:
        """The next recorded exchange that asked what the turn now asks."""
        command = self._command
        if command is None:
            return None
        body = orjson.loads(command.body) if command.body else None
        for exchange in self.recording.exchanges:
            request = exchange.request
            same = exchange.asks(command)
            # Beside a client's, texts may have been left out.
            known = self.recording.client is not None or request.json in (None, body)
            if exchange.x > self.last_x and same and known:
                return exchange
        return None

    def tell(self, exchange: RecordedExchange) -> None:
        """Add the rows of one exchange; the turn hears of it as long as it listens."""
        self.last_x, self._command = exchange.x, None
        self._heard = self.turn is not None
        self._runs = self._runs or exchange.starts_run
        request, status = exchange.request, exchange.status
        name = f"{request.method} {request.path}"
        self.add(exchange, exchange.t, Kind.REQUEST, name, request_gist(request.json), pretty(request.json))
        if status is not None:
            t = exchange.head_t if exchange.head_t is not None else exchange.t
            self._leave(t)
            if turn := self._hear():
                turn.receive_response(status, exchange.headers)
                self._take(turn)
            kind = next((value for name, value in exchange.headers if name == "content-type"), "")
            self.add(exchange, t, Kind.HEAD, str(status), kind, http_message(exchange.headers))
            if kind.startswith("text/event-stream"):
                self._tell_stream(exchange)
            else:
                self._tell_answer(exchange)
        self._tell_end(exchange)

    def _tell_stream(self, exchange: RecordedExchange) -> None:
        decoder, rest = SSEDecoder(Config().max_event_size), bytearray()
        for piece in exchange.data:
            # One line ends one event at most: what comes of it is known before the next is read.
            for line in _LINES.findall(piece.data):
                self._receive(piece.t, line)
                rest += line
                if event := _next_event(decoder, line):
                    gist = message_gist(event.data)
                    kind = Kind.PING if gist.name == "ping" else Kind.MESSAGE
                    payload = laid_out(event.data)
                    self.add(exchange, piece.t, kind, gist.name, gist.text, payload, gist.whole)
                    rest.clear()
        if rest.strip():
            text = decoded(bytes(rest))
            self.add(exchange, exchange.data[-1].t, Kind.REST, "no event", short(text), text)
        if exchange.end == "end":
            self._receive(_end_t(exchange), b"")
            self.add(exchange, _end_t(exchange), Kind.END, "end")

    def _tell_answer(self, exchange: RecordedExchange) -> None:
        for piece in exchange.data:
            self._receive(piece.t, piece.data)
        t, body = exchange.data[-1].t if exchange.data else exchange.t, exchange.body
        if exchange.end == "end":
            t = _end_t(exchange)
            self._receive(t, b"")
        text = short(letta.decode_error_answer(body).text or decoded(body), _MAX_BODY)
        self.add(exchange, t, Kind.ANSWER, f"{len(body)} bytes", text, laid_out(body))

    def _tell_end(self, exchange: RecordedExchange) -> None:
        """How an exchange ended that did not end well."""
        t = _end_t(exchange)
        match exchange.end:
            case "client_closed":
                self._leave(t, closing=True)
                if self.recording.client is None and (turn := self._hear()):
                    self._abandon(turn)
                reader = "reader" if self.recording.client is None else "proxy"
                self.add(exchange, t, Kind.END, "closed", f"by the {reader}")
            case "failed":
                known = [failure for failure in Failure if failure.value == exchange.failure]
                failure, reason = known[0] if known else Failure.BROKEN, exchange.reason or "no reason recorded"
                self._leave(t)
                if turn := self._hear():
                    if exchange.failure == INTERRUPTED:
                        turn.shut_down(shutting_down())
                    else:
                        turn.receive_failure(failure, reason)
                    self._take(turn)
                told = INTERRUPTED if exchange.failure == INTERRUPTED else failure.value
                self.add(exchange, t, Kind.END, told, reason)
            case None:
                self.add(exchange, t, Kind.END, "cut", "the recording ends here")

    def leave(self) -> None:
        """Tell that the client left, if it did and that was not told yet."""
        if self._leaves is not None:
            self._leave(self._leaves, closing=True)

    def add(
        self,
        exchange: RecordedExchange,
        t: float,
        kind: Kind,
        name: str,
        text: str = "",
        payload: str = "",
        whole: str | None = None,
    ) -> None:
        """Add a row, with what came of it."""
        turn = self.turn if self._heard else None
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
                # The turn has no other window on its run.
                run_state=turn.state.run_state if turn and self._runs else None,
                outcomes=tuple(self._outcomes),
                whole=whole,
            )
        )
        self._outcomes, self._heard = [], False

    def passage(self, number: int | None, *, as_recorded: bool | None = None) -> Passage:
        """All that was told."""
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

    # --- The turn ---------------------------------------------------------------------------------------------

    def _hear(self) -> Turn | None:
        """The turn if it listens; what comes of the next item belongs to the next row."""
        turn = self.turn
        if turn is None or self._command is not None or turn.phase in (Phase.DONE, Phase.FAILED):
            return None
        self._heard = True
        return turn

    def _receive(self, t: float, data: bytes) -> None:
        self._leave(t)
        if turn := self._hear():
            turn.receive_data(data)
            self._take(turn)

    def _leave(self, t: float, *, closing: bool = False) -> None:
        """The client leaves, if it did before this moment; at the same, Letta's data had come first."""
        at, client = self._leaves, self.recording.client
        if at is None or client is None or at > t or (at == t and not closing):
            return
        self._leaves = None
        if self.turn is not None:
            self._heard = True
            self._abandon(self.turn)
        name, text, payload = _got(client)
        self.add(client, at, Kind.CLIENT, "left", f"{name}, {text}", payload)

    def _abandon(self, turn: Turn) -> None:
        self._left = True
        turn.client_disconnected()
        self._take(turn)

    def _take(self, turn: Turn) -> None:
        while not isinstance(item := turn.next_event(), Signal) or item is Signal.WAITING:
            if isinstance(item, Signal):
                # How long it paused shows in the times of what was recorded next.
                turn.end_pause()
                continue
            if isinstance(item, Command):
                self._command = item
                self._outcomes.append(_told_command(item))
                continue
            assert self._writer is not None
            if isinstance(item, TurnFinished | TurnFailed):
                self._last = item
            self._outcomes.append(_told_event(item, turn, self._writer))


def _told_command(command: Command) -> Outcome:
    text, payload = f"{command.method} {command.target}", laid_out(command.body or b"")
    return Outcome(part=Part.COMMAND, name=type(command).__name__, text=text, payload=payload)


def _told_event(event: Event, turn: Turn, writer: Writer) -> Outcome:
    name, text, payload = type(event).__name__, event_gist(event), decoded(writer.write(event))
    if isinstance(event, TurnFailed):
        if not (turn.state.started and writer.streaming):
            payload = pretty(error_body(event.error, field_name))
        return Outcome(part=Part.FAILURE, name=name, text=text, payload=payload)
    return Outcome(part=Part.EVENT, name=name, text=text, payload=payload, chunk_count=_chunk_count(payload))


# --- What was recorded ----------------------------------------------------------------------------------------

_LINES: Final = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_CHUNK: Final = re.compile(r'^data: \{(?!"error")', re.MULTILINE)
#: Characters of a body that is told in a row.
_MAX_BODY: Final = 120


def _next_event(decoder: SSEDecoder, line: bytes) -> ServerSentEvent | None:
    decoder.receive_data(line)
    try:
        event = decoder.next_event()
    except RemoteProtocolError:
        # Too large; the turn says so.
        return None
    return None if isinstance(event, Signal) else event


def _chunk_count(body: str) -> int:
    return len(_CHUNK.findall(body))


def _got(client: RecordedExchange) -> tuple[str, str, str]:
    """What the client got: in a word, short, and whole."""
    if client.status is None:
        return "got nothing", "no status", ""
    body = decoded(client.body)
    text = f"{count} chunks" if (count := _chunk_count(body)) else short(body, _MAX_BODY)
    return f"got {client.status}", text, http_message(client.headers, body)


def _end_t(exchange: RecordedExchange) -> float:
    last = exchange.data[-1].t if exchange.data else exchange.t
    return last if exchange.end_t is None else exchange.end_t


def _asks_turn(client: RecordedExchange) -> bool:
    try:
        return route(client.request.method, client.request.path).endpoint is Endpoint.CHAT
    except RequestError:
        return False


def _writer(
    recording: Recording, number: int, model: str, *, stream: bool = True, include_usage: bool = True
) -> Writer:
    head, config = recording.head, recording.head.config
    heading = Heading(completion_id=f"chatcmpl-{head.token or number}", created=head.created or 0, model=model)
    writer = make_writer(heading, config, stream=stream, include_usage=include_usage)
    return showing_tools(writer, config.server_tools)


def _agent_of(exchange: RecordedExchange) -> Agent | None:
    return None if exchange.request.agent is None else exchange.request.agent.agent


def _conversation(conversation_id: str) -> ConversationThread:
    return ConversationThread(conversation_id=conversation_id)


def _json_bytes(json: object) -> bytes:
    # What the recorder could not read as JSON it wrote down as text.
    return json.encode() if isinstance(json, str) else orjson.dumps(json)
