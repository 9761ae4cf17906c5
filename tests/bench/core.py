"""The core alone, bytes of Letta's stream in, bytes for the client out: `python core.py` prints a line of JSON.

Microseconds per text event, the best of several rounds (what else the machine does can only add). `event_us` is
the whole way with 64 events a read, `event_single_us` with one, `fresh_us` with one that does not repeat the
last, so that no way is short. Its stages, each measured alone: `sse_us`, `message_us` (JSON to a typed
message; `loads_us` is the bare `orjson.loads` in it), `run_us` (message to event) and `writer_us` (event to a
chunk's bytes). What is left is the walk of turn and cycle.

`app_server_us` is the whole way of a text delta from an App Server, a frame of 430 bytes at a time, with the
second socket that hears the same; `app_server_ratio` compares it with `event_single_us`, the two measured in
turns. `app_server_read_us` is the frame alone.
"""

import json
import time
from collections.abc import Callable
from typing import Final

import orjson

from sansio_letta import Config, HttpRequest, Proxy, ResponseBody, Signal, SSEDecoder
from sansio_letta.dialects.chat_completions.writer import ChunkWriter, Heading
from sansio_letta.proxy.cycle import Cycle
from sansio_letta.turn.events import TextDelta
from sansio_letta.upstreams.app_server.connection import AppServerConnection
from sansio_letta.upstreams.app_server.frames import read_frame
from sansio_letta.upstreams.app_server.sockets import Channel, OpenSocket, SendFrame
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.calls import ToolBridge
from sansio_letta.upstreams.rest.run import RunStream

EVENT_COUNT: Final = 2048
ROUND_COUNT: Final = 15
REQUEST: Final = b'{"model": "Milo", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'
AGENTS: Final = b'[{"id": "agent-1", "name": "Milo", "agent_type": "letta_v1_agent"}]'
PAYLOAD: Final = json.dumps(
    {
        "id": "message-3a1c5e70-9b2d-4f68-8c01-5d7e9fa2b4c6",
        "date": "2026-11-22T08:00:19+00:00",
        "name": None,
        "message_type": "assistant_message",
        "otid": "3a1c5e70-9b2d-4f68-8c01-5d7e9fa2b400",
        "sender_id": None,
        "step_id": "step-c44e1f0a-61d7-4b3c-9a58-0e2f7d6b1a93",
        "is_err": None,
        "seq_id": None,
        "run_id": "run-7be20d14-3c85-4f96-b1a7-d90c6e58f2a1",
        "content": "remembers ",
    },
    separators=(",", ":"),
).encode()
EVENT: Final = b"data: " + PAYLOAD + b"\n\n"
#: Of a numbered stream: no two of its events begin with the same bytes.
FRESH: Final = [EVENT.replace(b'"seq_id":null', b'"seq_id":%d' % number) for number in range(EVENT_COUNT)]

#: What an App Server answers, by the question.
ANSWERS: Final[dict[str, dict[str, object]]] = {
    "agent_list": {"agents": [{"id": "agent-local-1", "name": "Milo"}]},
    "conversation_list": {"conversations": []},
    "conversation_create": {"conversation": {"id": "local-conv-1"}},
    "conversation_messages_list": {"messages": []},
}
DELTA: Final = (
    '{"type":"stream_delta","delta":{"id":"ui-msg-2:assistant:1","date":"2026-11-27T19:14:48.983Z",'
    '"message_type":"assistant_message","content":[{"type":"text","text":"remembers "}],"run_id":"local-run-1",'
    '"seq_id":%d,"type":"message"},"runtime":{"agent_id":"agent-local-1","conversation_id":"local-conv-1"},'
    '"event_seq":%d,"emitted_at":"2026-11-27T19:14:48.985Z",'
    '"idempotency_key":"stream_delta:13:a8cd0538-0c45-4b66-9716-c68036569d85"}'
)
DELTAS: Final = [(DELTA % (number, number)).encode() for number in range(1, EVENT_COUNT + 1)]


def reads(size: int) -> list[bytes]:
    """The stream as a socket would give it, `size` events a read."""
    return [EVENT * size] * (EVENT_COUNT // size)


def best_us(*works: Callable[[], object]) -> list[float]:
    """Microseconds per event in the best round of each. They take turns."""
    rounds: list[list[float]] = [[] for _ in works]
    for _ in range(ROUND_COUNT):
        for taken, work in zip(rounds, works, strict=True):
            began_at = time.perf_counter()
            work()
            taken.append(time.perf_counter() - began_at)
    return [min(taken) / EVENT_COUNT * 1e6 for taken in rounds]


def translate(received: list[bytes]) -> int:
    """Do all that a transport does for a stream, but for the I/O; the size of what the client gets."""
    proxy, now = Proxy(Config()), 0.0
    request = HttpRequest(method="POST", target="/v1/chat/completions", body=REQUEST)
    cycle = proxy.open(request, token="0123456789", created=1_795_332_551, now=now)
    cycle.next_event()  # which agent is meant?
    cycle.receive_response(200, [("content-type", "application/json")], now)
    cycle.receive_data(AGENTS, now)
    cycle.receive_data(b"", now)
    cycle.next_event()  # what it says
    cycle.receive_response(200, [("content-type", "text/event-stream")], now)
    size = 0
    for data in received:
        cycle.receive_data(data, now)
        while not isinstance(item := cycle.next_event(), Signal):
            if isinstance(item, ResponseBody):
                size += len(item.data)
    return size


def answer(connection: AppServerConnection, cycle: Cycle) -> None:
    """Open the sockets and answer all questions, until the turn waits for the reply."""
    while True:
        while not isinstance(cycle.next_event(), Signal):
            pass
        if isinstance(command := connection.next_command(0.0), Signal):
            return
        if isinstance(command, OpenSocket):
            connection.socket_opened(command.channel, 0.0)
        elif isinstance(command, SendFrame):
            asked = json.loads(command.data)
            kind = "input_accepted" if asked["type"] == "input" else f"{asked['type']}_response"
            found = {"type": kind, "request_id": asked["request_id"], "accepted": True}
            body = json.dumps({**found, **ANSWERS.get(asked["type"], {})}, separators=(",", ":"))
            connection.receive_frame(command.channel, body.encode(), 0.0)


def translate_frames(received: list[bytes]) -> int:
    """Do the same for frames of an App Server, which come on both sockets."""
    connection, now = AppServerConnection(), 0.0
    proxy = Proxy(Config(), app_server=connection)
    request = HttpRequest(method="POST", target="/v1/chat/completions", body=REQUEST)
    cycle = proxy.open(request, token="0123456789", created=1_795_332_551, now=now)
    answer(connection, cycle)
    size = 0
    for data in received:
        connection.receive_frame(Channel.WORK, data, now)
        connection.receive_frame(Channel.GUARD, data, now)
        while not isinstance(item := cycle.next_event(), Signal):
            if isinstance(item, ResponseBody):
                size += len(item.data)
    return size


def decode_sse(received: list[bytes]) -> None:
    decoder = SSEDecoder(Config().max_event_size)
    for data in received:
        decoder.receive_data(data)
        while not isinstance(decoder.next_event(), Signal):
            pass


def run(message: letta.Message) -> None:
    stream = RunStream(bridge=ToolBridge(client_tools={}))
    for _ in range(EVENT_COUNT):
        list(stream.receive_message(message))


def write(event: TextDelta) -> None:
    writer = ChunkWriter(heading=Heading(completion_id="chatcmpl-1", created=1_795_332_551, model="Milo"))
    for _ in range(EVENT_COUNT):
        writer.write(event)


def main() -> None:
    batched, single = reads(64), reads(1)
    sizes = {translate(batched), translate(single)}
    if len(sizes) > 1 or min(sizes) < EVENT_COUNT * 100 or translate_frames(DELTAS) < EVENT_COUNT * 100:
        raise SystemExit("the core gives something else when the stream is cut otherwise, or nothing")
    message = letta.decode_message(PAYLOAD)
    event, event_single, app_server = best_us(
        lambda: translate(batched), lambda: translate(single), lambda: translate_frames(DELTAS)
    )
    stages: dict[str, Callable[[], object]] = {
        "fresh_us": lambda: translate(FRESH),
        "sse_us": lambda: decode_sse(batched),
        "message_us": lambda: [letta.decode_message(PAYLOAD) for _ in range(EVENT_COUNT)],
        "loads_us": lambda: [orjson.loads(PAYLOAD) for _ in range(EVENT_COUNT)],
        "run_us": lambda: run(message),
        "writer_us": lambda: write(TextDelta(text="remembers ")),
        "app_server_read_us": lambda: [read_frame(data) for data in DELTAS],
    }
    figures = {
        "event_us": event,
        "event_single_us": event_single,
        "app_server_us": app_server,
        "app_server_ratio": app_server / event_single,
        **{name: best_us(work)[0] for name, work in stages.items()},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
