"""A recording through today's turn: what a client would have got of it, the same every time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import orjson
from attrs import define, field, frozen

from .. import sse
from .._signal import Signal
from ..config import Config
from ..dialects.chat_completions.request import field_name
from ..dialects.chat_completions.writer import Heading, make_writer
from ..dialects.errors import error_body
from ..dialects.tool_display import showing_tools
from ..errors import Failure, RemoteProtocolError
from ..proxy.http import ResponseBody, ResponseHead
from ..sse import SSEDecoder
from ..turn.agent import PendingCall
from ..turn.events import CallsSettled, Event, TurnFailed, TurnStarted
from ..turn.request import CallAnswer, Decision, Message, Tool, ToolResult, TurnRequest, UserMessage
from ..turn.turn import Turn
from ..upstreams.rest import letta
from ..upstreams.rest.commands import Command
from ..upstreams.rest.upstream import RestUpstream
from .compare import ReplayedClient
from .format import RecordedExchange, Recording
from .remembered import agent_of


@frozen(kw_only=True)
class Replayed:
    """One item of a replayed turn."""

    t: float  #: seconds since the recording began
    item: Event | Command


@define
class ReplayedTurn:
    """One turn of a recording: iterate over its items.

    :param recording: the whole of it: the turn may need exchanges beyond its first.
    :param exchange: the one that starts the run.
    """

    recording: Recording
    exchange: RecordedExchange
    config: Config = field(factory=Config)
    unanswered: Command | None = field(default=None, init=False)  #: where the recording knows no further
    used: set[int] = field(factory=set, init=False)  #: the numbers of the exchanges that it has taken so far
    _turn: Turn = field(init=False)
    _last_x: int = field(init=False)

    def __iter__(self) -> Iterator[Replayed]:
        """:raises LocalProtocolError: never for what was recorded."""
        plan, pending = plan_recorded(self.recording, self.exchange)
        agent = agent_of(self.exchange, self.recording.scenario)
        config = self.config.without_pauses()
        self._turn = Turn(plan, RestUpstream(plan, config, agent, pending), config)
        self._last_x = self.exchange.x - 1
        answer: Iterator[float] = iter(())
        t = self.exchange.t
        while (item := self._turn.next_event()) is not Signal.FINISHED:
            if isinstance(item, Signal):
                following = next(answer, None)
                if following is None:
                    return
                t = following
                continue
            yield Replayed(t=t, item=item)
            if isinstance(item, Command):
                found = self._answering(item)
                if found is None:
                    self.unanswered = item
                    return
                self._last_x = found.x
                self.used.add(found.x)
                answer = self._feed(found)

    def _answering(self, command: Command) -> RecordedExchange | None:
        """The next recorded exchange that asked the same."""
        if self._last_x < self.exchange.x:
            return self.exchange
        for exchange in self.recording.exchanges:
            same = exchange.asks(command.method, command.target)
            if exchange.x > self._last_x and same and exchange.request.json in (None, _json(command)):
                return exchange
        return None

    def _feed(self, exchange: RecordedExchange) -> Iterator[float]:
        """Tell the turn what was recorded, piece by piece; each yield is a moment of the recording."""
        turn = self._turn
        if exchange.status is None:
            turn.receive_failure(Failure.BROKEN, "the recording has no answer")
            yield exchange.t
            return
        turn.receive_response(exchange.status, exchange.headers)
        yield exchange.head_t if exchange.head_t is not None else exchange.t
        for piece in exchange.data:
            turn.receive_data(piece.data)
            yield piece.t
        match exchange.end:
            case "end":
                turn.receive_data(b"")
            case "client_closed":
                turn.client_disconnected()
            case _:
                turn.receive_failure(Failure.BROKEN, "the recording ends here")
        yield exchange.end_t if exchange.end_t is not None else exchange.t


def replay(recording: Recording, config: Config | None = None) -> Iterator[ReplayedTurn]:
    """Each turn of a recording, in order. A turn that sent its request twice is one."""
    used: set[int] = set()
    for exchange in recording.exchanges:
        if exchange.starts_run and exchange.x not in used:
            turn = ReplayedTurn(recording, exchange, config or Config())
            yield turn
            used |= turn.used


@frozen(kw_only=True)
class Rendered:
    """Bytes of a replay's text."""

    t: float  #: seconds since the recording began
    data: bytes


def render(recording: Recording, config: Config | None = None) -> Iterator[Rendered]:
    """All turns of a recording as the streams that their clients would have got.

    Between the events stand comments, lines that begin with a colon: which turn it is, what was asked of Letta,
    and the status of a failure that came before the first chunk.
    """
    if recording.client is not None:
        yield from _render_client(recording)
        return
    config = config or Config()
    for number, turn in enumerate(replay(recording, config), 1):
        heading = Heading(completion_id=f"chatcmpl-{number}", created=0, model=recording.scenario)
        writer = make_writer(heading, config, stream=True, include_usage=True)
        writer = showing_tools(writer, config.server_tools)
        t = turn.exchange.t
        yield Rendered(t=t, data=_comment(f"turn {number} of {recording.scenario}"))
        started = False
        for replayed in turn:
            t, item = replayed.t, replayed.item
            data = b""
            if isinstance(item, Command):
                data = _asked(item)
            else:
                started = started or isinstance(item, TurnStarted)
                if isinstance(item, CallsSettled):
                    data = _comment(str(item))
                elif isinstance(item, TurnFailed) and not started:
                    headers = "".join(f", {name}: {value}" for name, value in item.error.headers())
                    data = _comment(f"status {item.error.status_hint}{headers}, not a stream")
                    data += sse.encode_data(orjson.dumps(error_body(item.error, field_name)))
                else:
                    data += writer.write(item)
            if data:
                yield Rendered(t=t, data=data)
        if turn.unanswered is not None:
            yield Rendered(t=t, data=_UNANSWERED)


def _render_client(recording: Recording) -> Iterator[Rendered]:
    """The client's own answer, byte for byte, with what was asked of Letta as comments."""
    client = ReplayedClient(recording)
    yield Rendered(t=0.0, data=_comment(f"the client of {recording.scenario}"))
    t = 0.0
    for found in client:
        t = found.t
        match found.item:
            case ResponseBody(data=data):
                yield Rendered(t=t, data=data)
            case ResponseHead(status=status):
                yield Rendered(t=t, data=_comment(f"status {status}"))
            case command:
                yield Rendered(t=t, data=_asked(command))
    if client.unanswered is not None:
        yield Rendered(t=t, data=_UNANSWERED)


_UNANSWERED: Final = b": the recording has no answer to this\n\n"


def _asked(command: Command) -> bytes:
    body = command.body
    return _comment(f"{command.method} {command.target}{' ' + body.decode() if body else ''}")


def _comment(text: str) -> bytes:
    return b": " + text.encode() + b"\n\n"


def plan_recorded(
    recording: Recording, exchange: RecordedExchange
) -> tuple[TurnRequest, tuple[PendingCall, ...] | None]:
    """The plan whose request is the recorded one, and what must have been pending for it."""
    body: Mapping[str, Any] = exchange.request.json if isinstance(exchange.request.json, dict) else {}
    results: list[CallAnswer] = []
    messages: list[Message] = []
    for message in _objects(body.get("messages")):
        approvals = _objects(message.get("approvals"))
        results.extend(_result(approval) for approval in approvals)
        if not approvals:
            # Content and role have no part in the answer.
            messages.append(UserMessage(content=str(message.get("content") or message.get("reason"))))
    tools = tuple(
        Tool(name=str(tool.get("name")), parameters=tool.get("parameters") or {})
        for tool in _objects(body.get("client_tools"))
    )
    pending = None
    if results:
        pending = tuple(PendingCall(call_id=result.call_id, request_id="recorded") for result in results)
    plan = TurnRequest(
        model=recording.scenario, messages=tuple(messages), results=tuple(results), client_tools=tools
    )
    return plan, pending


def pending_after(exchange: RecordedExchange) -> letta.PendingApproval | None:
    """The calls that the agent waits for after an exchange, as its stream told them."""
    decoder = SSEDecoder(Config().max_event_size)
    decoder.receive_data(exchange.body)
    calls: dict[str, letta.ToolCall] = {}
    message_id, run_id, waits = "", None, False
    while not isinstance(event := decoder.next_event(), Signal):
        try:
            message = letta.decode_message(event.data)
        except RemoteProtocolError:
            return None
        match message:
            case letta.ApprovalRequestMessage():
                message_id, run_id = message.id, message.run_id
                for fragment in message.tool_calls:
                    known = calls.get(fragment.tool_call_id)
                    calls[fragment.tool_call_id] = letta.ToolCall(
                        tool_call_id=fragment.tool_call_id,
                        name=fragment.name or (known.name if known else None),
                        arguments=((known.arguments if known else None) or "") + (fragment.arguments or ""),
                    )
            case letta.StopReason(stop_reason=reason):
                waits = reason == "requires_approval"
    return (
        letta.PendingApproval(id=message_id, tool_calls=tuple(calls.values()), run_id=run_id) if waits else None
    )


def _result(approval: Mapping[str, Any]) -> CallAnswer:
    call_id = str(approval.get("tool_call_id"))
    if approval.get("type") == "tool":
        return ToolResult(
            call_id=call_id,
            content=str(approval.get("tool_return")),
            is_error=approval.get("status") == "error",
        )
    return Decision(call_id=call_id, approve=approval.get("approve") is True)


def _objects(value: object) -> Sequence[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _json(command: Command) -> object:
    return orjson.loads(command.body) if command.body else None
