"""The meter: loads a proxy and tells what it costs, as one line of JSON.

    python load.py URL PID burst EVENTS REPEAT          CPU per chunk of one stream as fast as it comes
    python load.py URL PID paced STREAMS EVENTS MS      CPU per chunk and latency, streams side by side,
              [--together]                              spread as people are, or all started at one time
    python load.py URL PID first REPEAT [--close]       time from the request to the first chunk
    python load.py URL PID quiet STREAMS                memory of a stream that is open and says nothing

URL is where chat requests go; PID is the proxy's process, whose children count too. Connections are kept and
used again, except with --close, which opens one for each request and counts the opening. What is counted are
events whose content starts with a digit, the stamps of fast_letta.py, in chunks of Chat Completions and in
Letta's own events alike, so the same meter serves a proxy that only passes bytes on. A lost, doubled or
reordered event, a missing [DONE] and any status but 200 end the measurement with exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import statistics
import sys
import time
from itertools import count, pairwise
from pathlib import Path
from typing import Final, cast
from urllib.parse import urlsplit

STAMP: Final = re.compile(rb'"content": ?"(\d+)')
QUIET_TIMEOUT: Final = 60.0
Figures = dict[str, float]


class MeasurementError(Exception):
    """What came back is not what was asked for, so no figure would mean anything."""


def process_tree(pid: int) -> list[int]:
    """List a process and all its descendants."""
    tree = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            tree += process_tree(int(child))
    return tree


def cpu_seconds(pid: int) -> float:
    """Tell the CPU time a process tree has used.

    The kernel's clock of each process, in nanoseconds: /proc/PID/stat counts in steps of 10 ms, and nginx
    passes a thousand chunks in one.
    """
    return sum(time.clock_gettime((~member << 3) | 2) for member in process_tree(pid))


def pss_kib(pid: int) -> float:
    """Tell the memory of a process tree, pages shared with others counted by their share."""
    total = 0
    for member in process_tree(pid):
        rollup = Path(f"/proc/{member}/smaps_rollup").read_text()
        total += int(rollup.split("\nPss:", 1)[1].split(None, 1)[0])
    return total


class Dechunker:
    """Takes the framing off a chunked body, cut anywhere."""

    def __init__(self) -> None:
        self._raw = b""
        self.done = False

    def decode(self, data: bytes) -> bytes:
        """Return the payload of all chunks that are whole by now."""
        raw, at, parts = self._raw + data, 0, []
        while (line_end := raw.find(b"\r\n", at)) >= 0:
            size = int(raw[at:line_end], 16)
            if len(raw) < line_end + size + 4:
                break
            parts.append(raw[line_end + 2 : line_end + 2 + size])
            at = line_end + size + 4
            if not size:
                self.done = True
                break
        self._raw = raw[at:]
        return b"".join(parts)


class Stream(asyncio.Protocol):
    """One connection to the proxy, for one answer after the other."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def start(self, request: bytes) -> None:
        """Send a request; what comes is noted from here on."""
        self.sent_at = time.monotonic_ns()
        self.first_at = 0
        self.latencies: list[int] = []
        self.stamps: list[int] = []
        self._head = b""
        self._in_body = False
        self._body = Dechunker()
        self._text = self._last = b""
        self.first = self._loop.create_future()
        self.finished = self._loop.create_future()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if not self._in_body:
            head, separator, data = (self._head + data).partition(b"\r\n\r\n")
            if not separator:
                self._head = head
                return
            self._in_body = True
            if not head.startswith(b"HTTP/1.1 200 ") or b"\r\ntransfer-encoding: chunked" not in head.lower():
                self._fail(f"no chunked 200: {(head + separator + data)[:500]!r}")
                return
        # Most reads are one whole event, so nothing is kept from one to the next but an event's beginning.
        text = self._text + self._body.decode(data)
        end = text.rfind(b"\n\n") + 2
        if end >= 2:
            for stamp in STAMP.findall(text, 0, end):
                written_at = int(stamp)
                self.stamps.append(written_at)
                self.latencies.append(now - written_at)
            if self.stamps and not self.first_at:
                self.first_at = now
                self.first.set_result(None)
        self._text = text[end:] if end >= 2 else text
        self._last = text or self._last
        if self._body.done and not self.finished.done():
            self.finished.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._fail(f"the connection ended: {exc}")

    def _fail(self, what: str) -> None:
        if hasattr(self, "finished"):
            for future in (self.first, self.finished):
                if not future.done():
                    future.set_exception(MeasurementError(what))
                    future.exception()  # the two are never both awaited; asyncio would complain of the other

    def check(self, event_count: int) -> None:
        """Insist on each event having come once and in order, and on the end of the stream."""
        if len(self.stamps) != event_count or not self._last.endswith(b"data: [DONE]\n\n"):
            raise MeasurementError(
                f"{len(self.stamps)} of {event_count} events, the last: {self._last[-200:]!r}"
            )
        if any(after < before for before, after in pairwise(self.stamps)):
            raise MeasurementError("events out of order")


class Meter:
    """Measures one proxy."""

    def __init__(self, url: str, pid: int) -> None:
        self._url = urlsplit(url)
        self._host, self._port = self._url.hostname or "127.0.0.1", self._url.port or 80
        self._pid = pid
        self._serial = count()

    async def connect(self) -> Stream:
        _, stream = await asyncio.get_running_loop().create_connection(Stream, self._host, self._port)
        return stream

    def request(self, text: str, *, agent: int = 0, close: bool = False) -> bytes:
        """Write a chat request. Each is another text: a proxy may take an equal one for a repeat."""
        body = json.dumps(
            {
                "model": f"Milo-{agent}" if agent else "Milo",
                "stream": True,
                "messages": [{"role": "user", "content": f"{text} and this is request {next(self._serial)}"}],
            }
        )
        return (
            f"POST {self._url.path} HTTP/1.1\r\nhost: {self._url.netloc}\r\nauthorization: Bearer bench\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"{'connection: close' + chr(13) + chr(10) if close else ''}\r\n{body}"
        ).encode()

    async def ask(self, stream: Stream, text: str, event_count: int, *, agent: int = 0) -> None:
        """Have one whole answer on an open connection."""
        stream.start(self.request(text, agent=agent))
        await stream.finished
        stream.check(event_count)

    async def burst(self, event_count: int, repeat_count: int) -> Figures:
        stream = await self.connect()
        await self.ask(stream, "burst 64", 64)
        cpu, began_at = cpu_seconds(self._pid), time.monotonic()
        for _ in range(repeat_count):
            await self.ask(stream, f"burst {event_count}", event_count)
        chunk_count = event_count * repeat_count
        return {
            "cpu_us_per_chunk": (cpu_seconds(self._pid) - cpu) / chunk_count * 1e6,
            "chunks_per_s": chunk_count / (time.monotonic() - began_at),
        }

    async def paced(
        self, stream_count: int, event_count: int, milliseconds: float, *, together: bool
    ) -> Figures:
        # An agent per stream: turns of one agent's thread may have to wait for one another.
        streams = [await self.connect() for _ in range(stream_count)]
        for number, stream in enumerate(streams, 1):
            await self.ask(stream, "hi", 5, agent=number)

        async def one(number: int, stream: Stream) -> None:
            if not together:  # spread over a second and over the phases of the pace
                await asyncio.sleep(number / stream_count + number * 0.618 % 1 * milliseconds / 1e3)
            await self.ask(stream, f"paced {event_count} {milliseconds}", event_count, agent=number)

        cpu = cpu_seconds(self._pid)
        await asyncio.gather(*(one(number, stream) for number, stream in enumerate(streams, 1)))
        cpu = cpu_seconds(self._pid) - cpu
        latencies = sorted(latency for stream in streams for latency in stream.latencies)
        return {
            "cpu_us_per_chunk": cpu / len(latencies) * 1e6,
            "latency_p50_ms": latencies[len(latencies) // 2] / 1e6,
            "latency_p99_ms": latencies[len(latencies) * 99 // 100] / 1e6,
            "latency_max_ms": latencies[-1] / 1e6,
        }

    async def first(self, repeat_count: int, *, close: bool) -> Figures:
        stream = await self.connect()
        await self.ask(stream, "hi", 5)
        firsts = []
        cpu = cpu_seconds(self._pid)
        for _ in range(repeat_count):
            began_at = time.monotonic_ns()
            if close:
                stream.transport.close()
                stream = await self.connect()
            stream.start(self.request("hi", close=close))
            await stream.finished
            stream.check(5)
            firsts.append((stream.first_at - began_at) / 1e6)
        return {
            "first_chunk_p50_ms": statistics.median(firsts),
            "first_chunk_p99_ms": sorted(firsts)[len(firsts) * 99 // 100],
            "cpu_us_per_request": (cpu_seconds(self._pid) - cpu) / repeat_count * 1e6,
        }

    async def quiet(self, stream_count: int) -> Figures:
        await self.ask(await self.connect(), "burst 64", 64)
        await asyncio.sleep(0.2)
        before = pss_kib(self._pid)
        streams = []
        for number in range(1, stream_count + 1):
            stream = await self.connect()
            stream.start(self.request("paced 2 600000", agent=number))
            streams.append(stream)
            await asyncio.sleep(2 / stream_count)
        await asyncio.wait_for(asyncio.gather(*(stream.first for stream in streams)), QUIET_TIMEOUT)
        await asyncio.sleep(0.5)
        after = pss_kib(self._pid)
        for stream in streams:
            if stream.closed or len(stream.stamps) != 1:
                raise MeasurementError("a quiet stream ended or spoke")
            stream.transport.close()
        return {"kib_per_stream": (after - before) / stream_count, "process_kib": before}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS
    )
    parser.add_argument("url")
    parser.add_argument("pid", type=int)
    parser.add_argument("work", choices=["burst", "paced", "first", "quiet"])
    parser.add_argument("numbers", type=int, nargs="+")
    parser.add_argument("--close", action="store_true")
    parser.add_argument("--together", action="store_true")
    args = parser.parse_args()
    meter = Meter(args.url, args.pid)
    match args.work, args.numbers:
        case "burst", [event_count, repeat_count]:
            measurement = meter.burst(event_count, repeat_count)
        case "paced", [stream_count, event_count, milliseconds]:
            measurement = meter.paced(stream_count, event_count, milliseconds, together=args.together)
        case "first", [repeat_count]:
            measurement = meter.first(repeat_count, close=args.close)
        case "quiet", [stream_count]:
            measurement = meter.quiet(stream_count)
        case _:
            parser.error(f"wrong numbers for {args.work}")
    try:
        print(json.dumps(asyncio.run(measurement)))
    except (MeasurementError, OSError, TimeoutError) as exc:
        sys.exit(f"{args.work}: {exc!r}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
