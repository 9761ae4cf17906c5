"""A stand-in for Letta that costs far less than any proxy in front of it: `python fast_letta.py [PORT]`.

The last user text chooses the reply; words after these are not read:

    burst N       N events, as fast as the reader takes them
    paced N MS    N events, the first at once, then one every MS milliseconds
    anything      five events at once

The content of each event is the monotonic time of its writing, in nanoseconds and always 20 digits, so that
a reader on the same machine knows how long the event was on its way. The agents are Milo and, for turns that
must not share a thread, Milo-1, Milo-2 and so on. The first line on stdout is the URL.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import Any, Final, cast
from urllib.parse import parse_qs, urlsplit

# One read of a proxy must not swallow a whole burst: a model server writes in portions too.
BATCH_COUNT: Final = 64
AGENT_NAME: Final = re.compile(r"Milo(?:-(\d{1,9}))?")
AGENT_ID: Final = re.compile(r"agent-00000000-0000-4000-8000-(\d{12})")
BODY_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
BODY_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
CLOSE: Final = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


def chunked(data: bytes) -> bytes:
    """Frame bytes as one chunk of HTTP/1.1."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def sse(**payload: object) -> bytes:
    """Write one event as Letta does."""
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


def stream_item(message_type: str, **fields: object) -> bytes:
    """Write one stream item with the fields that every item of a run has."""
    otid = "3a1c5e70-9b2d-4f68-8c01-5d7e9fa2b400"
    return sse(
        id=f"{'ping' if message_type == 'ping' else 'message'}-3a1c5e70-9b2d-4f68-8c01-5d7e9fa2b4c6",
        date="2026-11-22T08:00:19+00:00",
        name=None,
        message_type=message_type,
        otid=None if message_type == "ping" else otid,
        sender_id=None,
        step_id=None if message_type == "ping" else "step-c44e1f0a-61d7-4b3c-9a58-0e2f7d6b1a93",
        is_err=None,
        seq_id=None,
        run_id="run-7be20d14-3c85-4f96-b1a7-d90c6e58f2a1",
        **fields,
    )


PING: Final = chunked(stream_item("ping"))
#: Wants the time; 20 digits, so that the size of the chunk stands before the time is known.
EVENT: Final = chunked(stream_item("assistant_message", content="0" * 20 + " ")).replace(b"0" * 20, b"%020d")
TAIL: Final = b"".join(
    map(
        chunked,
        (
            sse(message_type="stop_reason", stop_reason="end_turn"),
            sse(
                message_type="usage_statistics",
                completion_tokens=20,
                prompt_tokens=100,
                total_tokens=120,
                step_count=1,
                run_ids=None,
                cached_input_tokens=10,
                cache_write_tokens=None,
                reasoning_tokens=5,
                context_tokens=120,
            ),
            b"data: [DONE]\n\n",
            b"",
        ),
    )
)
STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


def agent(number: int) -> dict[str, Any]:
    """Make an agent about as large as Letta reports one (7 KB), most of it nothing to a proxy."""
    return {
        "id": f"agent-00000000-0000-4000-8000-{number:012}",
        "name": f"Milo-{number}" if number else "Milo",
        "agent_type": "letta_v1_agent",
        "created_at": "2026-11-22T07:29:09.647338Z",
        "updated_at": "2026-11-22T07:29:09.647338Z",
        "system": "You are Milo, and what follows stands for a system prompt. " * 60,
        "llm_config": {f"setting_{at}": None for at in range(40)},
        "memory": {"blocks": [{"label": "human", "value": "x", "limit": 100_000}] * 10, "file_blocks": []},
        "tools": [],
        "tags": [],
        "model": "openai-proxy/gpt-4o-mini",
        "pending_approval": None,
        "last_stop_reason": None,
        "timezone": "UTC",
    }


def last_user_text(body: dict[str, Any]) -> str:
    """Find the newest user text in a request body of Letta or of Chat Completions."""
    for message in reversed(body["messages"]):
        if message.get("role") == "user":
            content = message["content"]
            return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    return ""


class Connection(asyncio.Protocol):
    """One kept connection; requests are answered one after the other."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._left_count = 0  #: events still to be written; above 0 a stream is open
        self._gap = 0.0  #: seconds from one event to the next; 0 is a burst
        self._next_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._left_count = 0
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._left_count and not self._gap:
            self._burst()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while not self._left_count and self._answer_next():
            pass

    def _answer_next(self) -> bool:
        """Answer the first request received, if it is here as a whole."""
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return False
        head, start = bytes(self._received[:end]), end + 4
        if BODY_CHUNKED.search(head):
            body = bytearray()
            while True:
                line_end = self._received.find(b"\r\n", start)
                size = int(self._received[start:line_end], 16) if line_end >= 0 else 0
                if line_end < 0 or len(self._received) < line_end + size + 4:
                    return False
                body += self._received[line_end + 2 : line_end + 2 + size]
                start = line_end + size + 4
                if not size:
                    break
        else:
            length = BODY_LENGTH.search(head)
            size = int(length[1]) if length else 0
            if len(self._received) < start + size:
                return False
            body = self._received[start : start + size]
            start += size
        del self._received[:start]
        self._closing = CLOSE.search(head) is not None
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        self._route(method, target, bytes(body))
        return True

    def _route(self, method: str, target: str, body: bytes) -> None:
        url = urlsplit(target)
        query = parse_qs(url.query)
        match [method, *url.path.strip("/").split("/")]:
            case ["GET", "v1", "health"]:
                self._json({"version": "0.16.7", "status": "ok"})
            case ["GET", "v1", "agents"] if "name" in query:
                name = AGENT_NAME.fullmatch(query["name"][0])
                self._json([agent(int(name[1] or 0))] if name else [])
            case ["GET", "v1", "agents"]:
                # A second page would have a reader that follows to the end ask for ever.
                self._json([] if "after" in query else [agent(0)])
            case ["GET", "v1", "agents", agent_id] if number := AGENT_ID.fullmatch(agent_id):
                self._json(agent(int(number[1])))
            case ["GET", "v1", "agents", _, "messages"]:
                self._json([])
            case ["POST", "v1", "agents", _, "messages", "stream"]:
                self._start_stream(last_user_text(json.loads(body)).split())
            case ["POST", "v1", "agents", _, "messages", "cancel"]:
                self._json(dict.fromkeys(json.loads(body or b"{}").get("run_ids") or (), "cancelled"))
            case _:
                self._json({"detail": f"{method} {target} is no part of the stand-in"}, status=b"404 Not Found")

    def _json(self, value: object, *, status: bytes = b"200 OK") -> None:
        data = json.dumps(value).encode()
        head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % (status, len(data)) + data)
        self._end_answer()

    def _start_stream(self, words: list[str]) -> None:
        self._transport.write(STREAM_HEAD + PING)
        match words:
            case ["paced", count, milliseconds, *_]:
                self._left_count, self._gap = int(count), float(milliseconds) / 1e3
                self._next_at = self._loop.time()
                self._pace()
            case ["burst", count, *_]:
                self._left_count, self._gap = int(count), 0.0
                self._burst()
            case _:
                self._left_count, self._gap = 5, 0.0
                self._burst()

    def _burst(self) -> None:
        while self._left_count and not self._paused:
            count = min(BATCH_COUNT, self._left_count)
            self._left_count -= count
            self._transport.write(b"".join([EVENT % time.monotonic_ns() for _ in range(count)]))
        if not self._left_count:
            self._end_stream()

    def _pace(self) -> None:
        self._transport.write(EVENT % time.monotonic_ns())
        self._left_count -= 1
        if not self._left_count:
            self._end_stream()
        else:
            self._next_at += self._gap
            self._timer = self._loop.call_at(self._next_at, self._pace)

    def _end_stream(self) -> None:
        self._transport.write(TAIL)
        self._end_answer()
        # Called from a timer or a write, not from a read: a request may be waiting already.
        self._loop.call_soon(self.data_received, b"")

    def _end_answer(self) -> None:
        if self._closing:
            self._transport.close()


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
