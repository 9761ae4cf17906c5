"""The cost of what a peer sends grows with its size and not faster: each reader gets eight times as much."""

import ast
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import orjson
import pytest
import trio
from trio.testing import memory_stream_pair

import letta_recordings
import letta_server
import sansio_letta
from drive import AGENT, AGENT_ID, DONE, PING, agent_json, encode, say, stop, want
from growth import Work, check_growth
from letta_server.access.keys import MAX_FILE_SIZE, read_keys
from letta_server.client.connection import BadRequest, ClientConnection, TooManyChunks
from letta_server.observe.log import sanitize
from sansio_letta import Signal
from sansio_letta.dialects.chat_completions.decode import decode_request
from sansio_letta.dialects.chat_completions.writer import fragments
from sansio_letta.errors import SansioLettaError
from sansio_letta.proxy.origins import OriginRules
from sansio_letta.proxy.response import header_list
from sansio_letta.proxy.routing import route
from sansio_letta.recording.compare import compare
from sansio_letta.recording.format import TextMode
from sansio_letta.recording.inspect import inspect
from sansio_letta.recording.reader import read_recording
from sansio_letta.recording.redact import StreamRedactor, redact_body, redact_keys, redact_target
from sansio_letta.recording.replay import render
from sansio_letta.sse import SSEDecoder
from sansio_letta.turn.agent import Agent, Caller
from sansio_letta.turn.approval import read_verdict
from sansio_letta.turn.json_schema import Schema
from sansio_letta.turn.reply_format import JsonReply
from sansio_letta.upstreams.app_server.connection import AppServerConnection
from sansio_letta.upstreams.app_server.messages import read_listed, to_heard
from sansio_letta.upstreams.app_server.run_events import RunEvents
from sansio_letta.upstreams.app_server.sockets import Channel
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.calls import ToolBridge
from sansio_letta.upstreams.rest.letta import ToolCall
from sansio_letta.upstreams.rest.reader import MessageReader
from sansio_letta.upstreams.rest.reply_argument import ReplyArgument

#: Bytes that a reader is given at once.
READ: Final = 4096


def pieces(data: bytes, size: int = READ) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def decoded(data: bytes, size: int = READ) -> Work:
    """The events of a stream that comes in pieces."""

    def work() -> None:
        decoder = SSEDecoder(1 << 30)
        for piece in pieces(data, size):
            decoder.receive_data(piece)
            while not isinstance(decoder.next_event(), Signal):
                pass

    return work


def messages(data: bytes, size: int = READ) -> Work:
    def work() -> None:
        reader = MessageReader(1 << 30)
        for piece in pieces(data, size):
            if reader.read_texts(piece):
                continue
            reader.receive_data(piece)
            while not isinstance(reader.next_message(), Signal):
                pass

    return work


def redacted(data: bytes, mode: TextMode, size: int = 256) -> Work:
    def work() -> None:
        redactor = StreamRedactor(mode, 1 << 30)
        for piece in pieces(data, size):
            redactor.redact(piece)
        redactor.finish()

    return work


def bridged(count: int, name: str | None, receive: str) -> Work:
    """A call whose arguments come in pieces."""

    def work() -> None:
        bridge = ToolBridge(client_tools={"mine": "mine"})
        for _ in range(count):
            fragment = ToolCall(tool_call_id="call-1", name=name, arguments="0123456789")
            for _ in getattr(bridge, receive)(fragment):
                pass
        _ = bridge.waiting

    return work


def reply_argument(fragment: str, count: int, first: str = "") -> Work:
    def work() -> None:
        reader = ReplyArgument("message")
        reader.receive(first)
        for _ in range(count):
            reader.receive(fragment)

    return work


def heard_frames(count: int, *, calls: bool = False) -> Work:
    """A piece of each of many conversations that run; or all of one conversation, each a call."""
    body = '{"message_type":"assistant_message","content":"x"}'
    if calls:
        body = '{"message_type":"approval_request_message","tool_call":{"tool_call_id":"c%d","name":"f"}}'

    def work() -> None:
        connection = AppServerConnection()
        connection.ask("app_server_info", {})
        connection.socket_opened(Channel.WORK, 0.0)
        for number in range(1 if calls else count):
            connection.conversation("agent-1", f"c{number}").begin(None)
        for number in range(count):
            delta = body % number if calls else body
            name = 0 if calls else number
            frame = f'{{"type":"stream_delta","delta":{delta},"runtime":{{"conversation_id":"c{name}"}}}}'
            connection.receive_frame(Channel.WORK, frame.encode(), 0.0)
            connection.next_deadline()
            _ = connection.has_busy
        connection.receive_frame(Channel.WORK, b"{", 0.0)
        connection.socket_lost(Channel.WORK, "it was closed", 0.0)

    return work


def asked_frames(count: int) -> Work:
    """Questions, half of which are answered."""

    def work() -> None:
        connection = AppServerConnection()
        requests = [connection.ask("agent_list", {}) for _ in range(count)]
        connection.socket_opened(Channel.WORK, 0.0)
        while not isinstance(connection.next_command(0.0), Signal):
            connection.next_deadline()
        for number in range(0, count, 2):
            answer = b'{"type":"agent_list_response","request_id":"lp-%d"}' % number
            connection.receive_frame(Channel.WORK, answer, 0.0)
            connection.next_deadline()
        connection.handle_deadline(1000.0)
        assert all(request.is_done for request in requests)

    return work


def refused(work: Callable[[], object]) -> Work:
    """The same, whatever is wrong with the input."""

    def attempt() -> None:
        with suppress(SansioLettaError, BadRequest, TooManyChunks):
            work()

    return attempt


def request(**fields: Any) -> Work:
    body = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})
    return refused(lambda: decode_request(body))


def received(head: bytes, body: bytes = b"", size: int = READ) -> Work:
    """A request over HTTP."""

    async def receive() -> None:
        ours, theirs = memory_stream_pair()
        client = ClientConnection(ours, 1 << 30, 60.0, max_header_count=1 << 30, max_chunk_count=1 << 30)
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for piece in pieces(head + body, size):
                    await theirs.send_all(piece)

            nursery.start_soon(send)
            await client.receive_head()
            await client.receive_body(1 << 30)

    return refused(lambda: trio.run(receive))


def chunks(count: int) -> bytes:
    return b"1\r\nx\r\n" * count + b"0\r\n\r\n"


def recorded(count: int) -> bytes:
    """A turn of so many tokens, with its client."""
    head = {
        "v": 2,
        "kind": "letta-v1",
        "server": "x",
        "scenario": "x",
        "note": "",
        "token": "0123456789",
        "created": 7,
        "text": "keep",
    }
    body = {"model": "Milo", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    kind = [["content-type", "text/event-stream"]]
    path = f"/v1/agents/{AGENT_ID}/messages/stream"
    lines: list[dict[str, Any]] = [
        head,
        {"x": 0, "t": 0, "dir": "request", "method": "POST", "path": "/v1/chat/completions", "json": body},
        {"x": 1, "t": 0, "dir": "request", "method": "GET", "path": "/v1/agents/?name=Milo"},
        {"x": 1, "t": 0, "dir": "response", "status": 200, "headers": [["content-type", "application/json"]]},
        {"x": 1, "t": 0, "dir": "data", "text": orjson.dumps([agent_json()]).decode()},
        {"x": 1, "t": 0, "dir": "end"},
        {"x": 2, "t": 0, "dir": "request", "method": "POST", "path": path, "json": {}},
        {"x": 2, "t": 0, "dir": "response", "status": 200, "headers": kind},
        {"x": 0, "t": 0, "dir": "response", "status": 200, "headers": kind},
    ]
    told = [
        encode(PING),
        *[encode(say(f"word {number} ")) for number in range(count)],
        encode(stop()),
        encode(DONE),
    ]
    for event in told:
        lines.append({"x": 2, "t": 1, "dir": "data", "text": event.decode()})
        lines.append({"x": 0, "t": 1, "dir": "data", "text": 'data: {"choices":[]}\n\n'})
    lines += [{"x": 2, "t": 2, "dir": "end"}, {"x": 0, "t": 2, "dir": "end"}]
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


def keys(count: int, folder: Path) -> Work:
    path = folder / f"keys-{count}.toml"
    path.write_text("".join(f'[keys.k{number}]\nkey = "key-{number:020}"\n' for number in range(count)))
    assert path.stat().st_size <= MAX_FILE_SIZE
    return lambda: read_keys([path])


TOKENS: Final = encode(say("word "))
OBJECTS: Final = Schema({"uniqueItems": True, "items": {"properties": {"a": {"type": "integer"}}}})
BIG: Final = 1 << 30

#: Reader -> what makes its work for an input of a size, and the size.
READERS: dict[str, tuple[Callable[[int], Work], int]] = {
    "HTTP head: headers": (
        lambda n: received(b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * n + b"\r\n"),
        2000,
    ),
    "HTTP head: a long line, byte by byte": (
        lambda n: received(b"GET /" + b"x" * n + b" HTTP/1.1\r\nhost: x\r\n\r\n", size=64),
        20_000,
    ),
    "HTTP body: chunks": (
        lambda n: received(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", chunks(n)),
        2000,
    ),
    "HTTP body: small reads": (
        lambda n: received(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % n, b"x" * n, 64),
        40_000,
    ),
    "routing": (lambda n: refused(lambda: route("GET", "/v1/models/" + "%41?/#" * n)), 40_000),
    "routing: an absolute target": (lambda n: refused(lambda: route("GET", "http://x/" + "a/" * n)), 400_000),
    "origins": (
        lambda n: lambda: OriginRules(hosts=()).refuse("GET", "/", [("host", "[" + ":1." * n + "]")]),
        40_000,
    ),
    "request: messages": (lambda n: request(messages=[{"role": "user", "content": "hi"}] * n), 2000),
    "request: parts": (
        lambda n: request(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}] * n}]),
        2000,
    ),
    "request: unknown fields": (lambda n: request(**{f"x{number}": 1 for number in range(n)}), 20_000),
    "request: tools": (
        lambda n: request(tools=[{"type": "function", "function": {"name": f"f{i}"}} for i in range(n)]),
        1000,
    ),
    "request: depth": (lambda n: request(x=orjson.loads(b"[" * 200 + b"]" * 200), y=["[]" * n]), 100_000),
    "request: stop sequences and metadata": (
        lambda n: request(stop=["x"] * n, metadata={f"k{number}": "v" for number in range(n)}),
        20_000,
    ),
    "stream: tokens": (lambda n: decoded(TOKENS * n), 1500),
    "stream: one event, in small pieces": (lambda n: decoded(b"data: " + b"x" * n + b"\n\n", 64), 200_000),
    "stream: many data lines": (lambda n: decoded(b"data: x\n" * n + b"\n"), 10_000),
    "stream: line ends": (lambda n: decoded(b"\r\n\r" * n), 20_000),
    "stream: comments": (lambda n: decoded(b": x\n\n" * n), 10_000),
    "messages: tokens": (lambda n: messages(TOKENS * n, len(TOKENS) * 16), 5000),
    "messages: small pieces": (lambda n: messages(encode(say("x" * n)), 64), 200_000),
    "messages: calls": (lambda n: messages(encode(want("call-1", "f", "{}")) * n), 500),
    "call: arguments without a name": (lambda n: bridged(n, None, "receive_request"), 10_000),
    "call: arguments of the server's tool": (lambda n: bridged(n, "its", "receive_request"), 10_000),
    "call: arguments of the client's tool": (lambda n: bridged(n, "mine", "receive_request"), 5_000),
    "call: a call of Letta's without a name": (lambda n: bridged(n, None, "receive_call"), 10_000),
    "call: what is said in arguments": (
        lambda n: reply_argument("a\\n" * 100, n // 100, first='{"message":"'),
        20_000,
    ),
    "call: a long key of arguments": (lambda n: reply_argument("k", n, first='{"'), 20_000),
    "Letta: agents": (lambda n: lambda: letta.decode_agents(orjson.dumps([agent_json()] * n)), 300),
    "Letta: conversations": (
        lambda n: lambda: letta.decode_conversations(orjson.dumps([{"id": "c", "summary": "s"}] * n)),
        1000,
    ),
    "Letta: messages of a conversation": (
        lambda n: lambda: letta.decode_last_message(orjson.dumps([say("x")] * n)),
        500,
    ),
    "Letta: messages of a run": (
        lambda n: lambda: letta.decode_kept_messages(orjson.dumps([say("x")] * n)),
        500,
    ),
    "Letta: an error": (
        lambda n: lambda: letta.decode_error_body(b'{"detail": "%b"}' % (b"x" * n)),
        1_000_000,
    ),
    "names against a key's patterns": (
        lambda n: (
            lambda: Caller(agents=("*a*a*a*a*b",)).may_use(
                Agent(id=AGENT.id, name="a" * n, agent_type="letta_v1_agent")
            )
        ),
        1_000_000,
    ),
    "App Server: pieces of many conversations": (heard_frames, 2000),
    "App Server: a batch of calls": (lambda n: heard_frames(n, calls=True), 1000),
    "App Server: answers and deadlines": (asked_frames, 2000),
    "App Server: messages of a conversation": (
        lambda n: (
            lambda: to_heard(
                read_listed({"messages": [{"message_type": "tool_return_message", "tool_call_id": "c"}] * n}),
                "c",
                is_whole=True,
            )
        ),
        2000,
    ),
    "App Server: a failure": (
        lambda n: lambda: RunEvents({}).failure("error", "429: " + '{"error":' * n),
        200_000,
    ),
    "verdict": (lambda n: lambda: read_verdict(["deny" + " -" * n + " x"], None), 100_000),
    "writer: a long text": (lambda n: lambda: fragments("\x01é" * n, 1024), 60_000),
    "header list": (lambda n: lambda: header_list(["ö" * n] * 50), 1000),
    "log line": (lambda n: lambda: sanitize(None, "", {"ignored": ["x" * 100] * n, "a": "y" * n}), 1_000_000),
    "redact: a query": (lambda n: lambda: redact_target("/v1/models?" + "?" * n), 20_000),
    "redact: a query of names": (lambda n: lambda: redact_target("/a?" + "key" * n), 20_000),
    "redact: what looks like keys": (lambda n: lambda: redact_keys("sk- Bearer " * n), 10_000),
    "redact: a body": (
        lambda n: lambda: redact_body(orjson.dumps({"text": ["x y"] * n}), TextMode.DROP),
        5_000,
    ),
    "redact: a stream of one word": (lambda n: redacted(b"x" * n, TextMode.KEEP), 500_000),
    "redact: a stream of Bearers": (lambda n: redacted(b"Bearer " * n, TextMode.KEEP), 40_000),
    "redact: a stream of text": (lambda n: redacted(b"data: a b\n\n" * n, TextMode.KEEP), 20_000),
    "redact: a stream of events": (lambda n: redacted(TOKENS * n, TextMode.HASH), 1000),
    "fence: blanks": (lambda n: lambda: JsonReply().check("```\n" + " " * n + "x"), 2_000_000),
    "fence: fences": (lambda n: lambda: JsonReply().check("```\n" * n), 400_000),
    "schema: objects": (
        lambda n: lambda: OBJECTS.problems([{"a": number} for number in range(n)]),
        500,
    ),
    "recording": (lambda n: (lambda data: lambda: read_recording(data))(recorded(n)), 500),
    "recording: inspected": (
        lambda n: (lambda found: lambda: inspect(found))(read_recording(recorded(n))),
        150,
    ),
    "recording: replayed": (
        lambda n: (lambda found: lambda: list(render(found)))(read_recording(recorded(n))),
        300,
    ),
    "recording: compared": (
        lambda n: (lambda found: lambda: compare(found))(read_recording(recorded(n))),
        300,
    ),
}


@pytest.mark.parametrize(("make", "size"), READERS.values(), ids=READERS)
def test_the_time_grows_with_the_input(make: Callable[[int], Work], size: int) -> None:
    check_growth(make, size)


def test_the_time_for_a_file_of_keys_grows_with_their_number(tmp_path: Path) -> None:
    check_growth(lambda count: keys(count, tmp_path), 500)


def test_what_is_quadratic_is_found() -> None:
    def joined(count: int) -> Work:
        class Holder:
            text = ""

        def work() -> None:
            holder = Holder()
            for _ in range(count):
                holder.text += "x" * 20

        return work

    with pytest.raises(AssertionError, match="times as much"):
        check_growth(joined, 10_000, attempts=4)


# --- Regular expressions --------------------------------------------------------------------------------------


def modules() -> Iterator[ModuleType]:
    import importlib
    import pkgutil

    for package in (sansio_letta, letta_server, letta_recordings):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


def patterns() -> dict[str, re.Pattern[Any]]:
    """Every compiled pattern of the core and the server."""
    found = {}
    for module in modules():
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern):
                found[f"{module.__name__}.{name}"] = value
    return found


SIZE: Final = 10_000
METHODS: Final = ("search", "match", "fullmatch", "sub", "split", "findall", "finditer")
SOURCES: Final = "\n".join(
    path.read_text(encoding="utf-8")
    for package in (sansio_letta, letta_server, letta_recordings)
    for path in sorted(Path(package.__path__[0]).rglob("*.py"))
)


def written_in_place() -> dict[str, tuple[re.Pattern[Any], list[str]]]:
    """Those that are given to `re` where they are used."""
    found = {}
    for node in ast.walk(ast.parse(SOURCES)):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="re"), attr=method), args=[ast.Constant(value=text), *_]
            ) if method in METHODS and isinstance(text, str | bytes):
                found[str(text)] = (re.compile(text), [method])
    return found


def uses(name: str) -> list[str]:
    """How the sources use a pattern: one that must match from the start need not be linear from each place."""
    return [method for method in METHODS if f"{name.rpartition('.')[2]}.{method}(" in SOURCES]


#: Of each pattern how it is used.
PATTERNS: Final = {
    **{name: (pattern, uses(name)) for name, pattern in patterns().items()},
    **written_in_place(),
}
#: What a pattern's own characters stand for, and others that classes hold.
ALPHABET: Final = "aZ0_ \t\n\r-.:;,/?&#=\"'`{}[]<>@!%\\é"


def is_slow(pattern: re.Pattern[Any], methods: list[str], text: str) -> bool:
    """Whether using it takes too long."""
    data: Any = text if isinstance(pattern.pattern, str) else text.encode()
    began = time.process_time()
    for method in methods:
        if method in ("search", "match", "fullmatch"):
            getattr(pattern, method)(data)
        else:
            pattern.findall(data)
    return time.process_time() - began > 0.08


def adversaries(pattern: str, size: int) -> Iterator[str]:
    """Texts that begin as the pattern does, go on with one character or a piece of it, and end elsewhere."""
    bare = re.sub(r"\\[A-Za-z]|[()\[\]{}?*+|^$\\]", "", pattern)
    for char in dict.fromkeys(ALPHABET + pattern):
        for start in ("", bare[:8], bare[:3], bare):
            yield start + char * size + "\x00"
    for piece in (bare, bare[:4], bare[-4:], "ab", "a ", " \n", "a.", "::", '""', "``"):
        if piece:
            yield piece * (size // len(piece)) + "\x00"


@pytest.mark.parametrize("name", PATTERNS)
def test_no_pattern_takes_more_than_linear_time(name: str) -> None:
    """A quadratic one takes 50 million steps for such a text, half a second; a linear one 10,000."""
    pattern, methods = PATTERNS[name]
    assert methods, "nothing uses it"
    source = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode()
    slow = [text for text in adversaries(source, SIZE) if is_slow(pattern, methods, text)]
    # Something else may have had the machine.
    assert not [text[:40] for text in slow if all(is_slow(pattern, methods, text) for _ in range(3))]


def test_a_quadratic_pattern_is_found() -> None:
    pattern = re.compile(r"([?&][^=&]*(?:key|token)=)[^&#]+")
    assert any(is_slow(pattern, ["sub"], text) for text in adversaries(pattern.pattern, SIZE))
