"""What is fuzzed: functions from bytes to nothing, each of which opens with its invariant.

An input's first byte chooses how the rest arrives, so that a fuzzer finds cuts as it finds contents. Whoever
feeds these functions, hypothesis or atheris, they raise `AssertionError` or whatever else is a defect.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import h11
import orjson
import structlog
import trio
from attrs import evolve
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from drive import AGENT, SSE, WEATHER, agent_json, make_turn, turn_request
from faults.keeping import KeepingLetta, Script
from faults.scenes import STREAMED
from faults.wire import LettaLine
from letta_server import Server, Settings
from sansio_letta import (
    Config,
    Enforcement,
    HttpRequest,
    Proxy,
    RemoteProtocolError,
    ResponseBody,
    ResponseHead,
    Signal,
)
from sansio_letta.dialects.chat_completions.writer import ChunkWriter, CompletionWriter, Heading
from sansio_letta.errors import Failure
from sansio_letta.sse import ServerSentEvent, SSEDecoder
from sansio_letta.turn.events import (
    CallArguments,
    CallStarted,
    Event,
    KeepAlive,
    ReasoningDelta,
    TextDelta,
    TurnFailed,
    TurnFinished,
    TurnStarted,
)
from sansio_letta.turn.reply_format import CallReply, JsonReply, ReplyFormat
from sansio_letta.turn.turn import Turn
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.commands import Command, OpenStream

Target = Callable[[bytes], None]

MAX_EVENT_SIZE: Final = 4096
MAX_COMMAND_COUNT: Final = 8
MAX_PIECE_COUNT: Final = 300
_HEADING: Final = Heading(completion_id="chatcmpl-1", created=0, model="Milo")


def pieces(data: bytes) -> tuple[int, list[bytes]]:
    """The first byte, and the rest cut as it says: whole, or in pieces of its value, a few hundred at most."""
    how, rest = data[0] if data else 0, data[1:]
    size = max(how, len(rest) // MAX_PIECE_COUNT, 1) if how else len(rest) or 1
    return how, [rest[at : at + size] for at in range(0, len(rest), size)]


# --- Server-sent events


def sse(data: bytes) -> None:
    """Any bytes in any cuts give the events that they give as a whole, or the same RemoteProtocolError."""
    _, parts = pieces(data)
    whole, cut = _events([b"".join(parts)]), _events(parts)
    assert whole[0] == cut[0][: len(whole[0])] or cut[1]
    assert whole[1] == cut[1], "one is refused, and the other is not"
    if not whole[1]:
        assert whole[0] == cut[0]
    for event in whole[0]:
        assert b"\r" not in event.data
        assert len(event.data) <= min(MAX_EVENT_SIZE, len(data))


def _events(parts: Iterable[bytes]) -> tuple[list[ServerSentEvent], bool]:
    decoder, events = SSEDecoder(MAX_EVENT_SIZE), []
    try:
        for part in (*filter(None, parts), b""):
            decoder.receive_data(part)
            while isinstance(event := decoder.next_event(), ServerSentEvent):
                events.append(event)
            assert event is (Signal.NEED_DATA if part else Signal.FINISHED)
    except RemoteProtocolError:
        return events, True
    return events, False


# --- JSON


_DECODERS: Final[tuple[Callable[[bytes], object], ...]] = (
    letta.decode_message,
    letta.decode_agents,
    letta.decode_agent,
    letta.decode_health,
)


def message(data: bytes) -> None:
    """Any bytes are a message, an answer, or a RemoteProtocolError that says what was expected."""
    for decode in _DECODERS:
        try:
            value = decode(data)
        except RemoteProtocolError as error:
            assert " that cannot be read: " in error.message
            assert error.status_hint == 502
        else:
            _check_texts(value)
    text = letta.decode_error_body(data).text
    assert text is None or text


def _check_texts(value: object) -> None:
    """Fields of text hold text, as declared: nothing was taken for what it isn't."""
    for name in ("id", "run_id", "step_id", "content", "reasoning", "message", "error_type", "name"):
        assert isinstance(getattr(value, name, None), str | None), name


# --- The turn

_REPLY_FORMATS: Final[tuple[ReplyFormat | None, ...]] = (
    None,
    None,
    JsonReply(),
    CallReply(names=(WEATHER.name,)),
)


def turn(data: bytes) -> None:
    """Whatever a run's stream says, the turn ends: with one TurnFinished or one TurnFailed, which comes last.

    Nothing is raised; TurnStarted comes once and before what it starts; both writers can write it all down.
    """
    how, parts = pieces(data)
    requested = evolve(
        turn_request("hi", tools=[WEATHER]), reply_format=_REPLY_FORMATS[how // 2 % len(_REPLY_FORMATS)]
    )
    # Every run says the same: one that wants an approval, about which nobody is asked, wants it again.
    config = Config(max_event_size=MAX_EVENT_SIZE, max_approval_count=2)
    tried = make_turn(requested, config, AGENT)
    answers = iter([(parts, how % 2 == 0)])
    _check_events([item for item in _play(tried, answers) if isinstance(item, Event)])


def _play(tried: Turn, answers: Iterator[tuple[list[bytes], bool]]) -> Iterator[Event | Command]:
    """Carry the turn's commands out: every run says the same, and every question is answered."""
    feed: Iterator[bytes | Failure] = iter(())
    parts, ends = next(answers)
    command_count = 0
    while (item := tried.next_event()) is not Signal.FINISHED:
        if isinstance(item, Signal):
            match next(feed):
                case Failure() as failure:
                    tried.receive_failure(failure, "it broke")
                case piece:
                    tried.receive_data(piece)
            continue
        yield item
        if isinstance(item, Command):
            command_count += 1
            assert command_count <= MAX_COMMAND_COUNT, "the turn never ends"
            if isinstance(item, OpenStream):
                tried.receive_response(200, SSE)
                feed = iter([*filter(None, parts), b"" if ends else Failure.BROKEN])
            else:
                tried.receive_response(200, [("content-type", "application/json")])
                feed = iter([orjson.dumps(agent_json()), b""])


def _check_events(events: list[Event]) -> None:
    *before, last = events
    assert isinstance(last, TurnFinished | TurnFailed)
    assert not any(isinstance(event, TurnFinished | TurnFailed) for event in before)
    starts = [at for at, event in enumerate(events) if isinstance(event, TurnStarted)]
    assert len(starts) <= 1
    said = (TextDelta, ReasoningDelta, CallStarted, CallArguments, KeepAlive)
    assert not any(isinstance(event, said) for event in events[: starts[0] if starts else len(events)])
    assert starts or isinstance(last, TurnFailed)
    chunks, whole = ChunkWriter(_HEADING, include_usage=True), CompletionWriter(_HEADING)
    text = ""
    for event in events:
        for line in chunks.write(event).split(b"\n\n"):
            assert b"\n" not in line
            if line.startswith(b"data: {"):
                for choice in orjson.loads(line[6:]).get("choices", ()):
                    text += choice["delta"].get("content") or ""
        body = whole.write(event)
        if isinstance(event, TurnFinished):
            assert (orjson.loads(body)["choices"][0]["message"]["content"] or "") == text


# --- The client's request


def request(data: bytes) -> None:
    """Any request line and any body get an answer: a command to Letta that is valid, or a status with JSON.

    The first line is the method, the second the target, the third a content type; the rest is the body.
    """
    method, target, kind, body = (*data.split(b"\n", 3), b"", b"", b"", b"")[:4]
    asked = HttpRequest(
        method=method.decode("latin1") or "POST",
        target=target.decode("latin1") or "/v1/chat/completions",
        headers=[("content-type", kind.decode("latin1"))],
        body=body,
    )
    # Half of them with schemas that are looked into, which else are refused as they stand.
    enforcement = Enforcement.VALIDATE if len(data) % 2 else Enforcement.REFUSE
    cycle = Proxy(Config(enforcement=enforcement)).open(asked, token="0123456789", created=0, now=0.0)
    head, said = None, b""
    while (item := cycle.next_event()) is not Signal.FINISHED:
        match item:
            case ResponseHead():
                assert head is None
                head = item
            case ResponseBody():
                said += item.data
            case Signal():
                return  # something is waited for, and has been asked
            case command:
                assert command.target.isascii()
                assert not set(command.target) & set(" \r\n")
                assert command.body is None or isinstance(orjson.loads(command.body), dict)
                return
    assert head is not None
    assert 200 <= head.status < 600
    assert head.status < 500, "a client's request is never a defect of ours"
    for name, value in head.headers:
        assert name.isascii()
        assert not set(value.encode("latin1")) & set(b"\r\n\0")
    if said:
        assert isinstance(orjson.loads(said), dict)
        assert head.status < 400 or set(orjson.loads(said)) == {"error"}


# --- The client's connection


_SCENE: Final = next(scene for scene in STREAMED if scene.name == "step_streaming-1")


def connection(data: bytes) -> None:
    """Whatever a client sends, its connection ends once it has closed; what it gets until then is valid HTTP.

    No defect is logged, no exchange with Letta is left open, no run goes on.
    """
    trio.run(_connection, *pieces(data)[1], clock=MockClock(autojump_threshold=0))


async def _connection(*parts: bytes) -> None:
    upstream = KeepingLetta()
    agent = upstream.add(Script(items=_SCENE.script.items))
    agent.name = "Milo"
    methods: list[str] = []
    server = Server(
        Settings(letta_url="http://letta.invalid", max_request_size=10_000, max_header_size=2_000),
        LettaLine(upstream),
        log=lambda summary, *_: methods.append(summary.method),
    )
    ours, theirs = memory_stream_pair()
    received = bytearray()

    async def read() -> None:
        while data := await ours.receive_some(65536):
            received.extend(data)

    with structlog.testing.capture_logs() as logged, trio.fail_after(10_000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.handle, theirs)
            nursery.start_soon(read)
            try:
                for part in parts:
                    await ours.send_all(part)
                await wait_all_tasks_blocked()
                await ours.send_eof()
            except trio.BrokenResourceError:
                pass  # the server had enough
    assert not [entry for entry in logged if entry["log_level"] == "error"], logged
    assert upstream.open_count == 0
    assert not agent.running()
    _check_http(bytes(received), methods)


def _check_http(received: bytes, methods: list[str]) -> None:
    """Responses to these requests, whole; the last may be cut where the client was gone."""
    reader = h11.Connection(h11.CLIENT)
    reader.receive_data(received)
    for method in methods:
        if reader.our_state is h11.DONE and reader.their_state is h11.DONE:
            reader.start_next_cycle()
        if reader.our_state is not h11.IDLE:
            break
        reader.send(h11.Request(method=method or "GET", target="/", headers=[("host", "x")]))
        reader.send(h11.EndOfMessage())
        while isinstance(event := reader.next_event(), h11.Response | h11.InformationalResponse | h11.Data):
            if isinstance(event, h11.Response):
                assert event.status_code < 500, "a client's request is never a defect of ours"
        if not isinstance(event, h11.EndOfMessage):
            break
    assert methods or not received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")


TARGETS: Final[Mapping[str, Target]] = {
    "sse": sse,
    "message": message,
    "turn": turn,
    "request": request,
    "connection": connection,
}
