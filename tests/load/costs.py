"""What one request can cost all the others: ``python tests/load/costs.py``.

A server is asked, one after the other, what once kept it busy for seconds. Of each request the table shows its
size, the status of its answer, the server's CPU time, and how long another client that asks for ``/health`` all
the while had to wait at most: the loop was held for as long. ``--root`` measures another checkout the same way.
"""

import argparse
import http.client
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import orjson
from attrs import define, frozen

sys.path.insert(0, str(Path(__file__).parents[1]))

from drive import AGENT_ID, DONE, PING, USAGE, agent_json, encode, say, stop

ROOT: Final = Path(__file__).parents[2]
PATH: Final = "/v1/chat/completions"
MB: Final = 1_000_000


# --- The requests ---------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Row:
    """One request.

    :param make: its bytes.
    :param reply: what the agent says to it.
    :param chunk_size: of Letta's answers.
    :param arguments: of the server.
    """

    name: str
    make: Callable[[], bytes]
    reply: str = "{}"
    chunk_size: int | None = None
    arguments: tuple[str, ...] = ()


def chat(**fields: Any) -> bytes:
    """A chat request with these fields."""
    body = orjson.dumps({"model": "Milo", "messages": [{"role": "user", "content": "hi"}], **fields})
    return sized(body)


def sized(body: bytes) -> bytes:
    """A body in one piece."""
    return (
        b"POST %b HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n\r\n" % (PATH.encode(), len(body)) + body
    )


def in_chunks(body: bytes, size: int) -> bytes:
    """A body in small pieces."""
    head = b"POST %b HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n" % PATH.encode()
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def get(target: str, headers: bytes = b"") -> bytes:
    """A question."""
    return b"GET %b HTTP/1.1\r\nhost: 127.0.0.1\r\n%b\r\n" % (target.encode(), headers)


def tools(count: int) -> dict[str, Any]:
    """As many tools, all of them allowed."""
    named = [{"type": "function", "function": {"name": f"tool_{number}"}} for number in range(count)]
    return {
        "tools": named,
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": named}},
    }


def schema(raw: dict[str, Any]) -> dict[str, Any]:
    """A reply that must satisfy it."""
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "reply", "schema": raw}}}


def unknown(count: int) -> bytes:
    """A request of fields that nobody knows."""
    return chat(**{f"x{number}": 1 for number in range(count)})


DOUBLED: Final = {f"d{number}": {"anyOf": [{"$ref": f"#/$defs/d{number - 1}"}] * 2} for number in range(1, 40)}
TEXT_PARTS: Final = [{"type": "text", "text": ""}]
OBJECTS: Final = orjson.dumps([{"a": number} for number in range(20_000)]).decode()

ROWS: Final = [
    Row(name="a short request", make=chat, reply="Hello."),
    Row(name="allowed_tools: 8,000 of 8,000 tools", make=lambda: chat(**tools(8000))),
    Row(
        name="900,000 content parts",
        make=lambda: chat(messages=[{"role": "user", "content": TEXT_PARTS * 900_000}]),
    ),
    Row(name="1,000,000 unknown fields", make=lambda: unknown(1_000_000)),
    Row(
        name="validate: a fence and 40,000 blanks",
        make=lambda: chat(response_format={"type": "json_object"}),
        reply="```\n" + " " * 40_000 + "x",
    ),
    Row(
        name="recorded: a query of 20,000 ?",
        make=lambda: get("/v1/models?" + "?" * 20_000),
        arguments=("--record", "recorded"),
    ),
    Row(name="1 MB in chunks of one byte", make=lambda: in_chunks(chat(x="y" * MB)[90:], 1)),
    Row(name="a head of 16,000 lines", make=lambda: get("/health", b"a:\r\n" * 16_000)),
    Row(name="Letta: chunks of one byte", make=chat, reply="word " * 40_000, chunk_size=1),
    Row(
        name="schema: 20,000 unique objects",
        make=lambda: chat(**schema({"uniqueItems": True})),
        reply=OBJECTS,
    ),
    Row(
        name="schema: anyOf doubled 39 times",
        make=lambda: chat(**schema({"$defs": {"d0": {"type": "integer"}, **DOUBLED}, "$ref": "#/$defs/d39"})),
        reply=orjson.dumps("x" * 5000).decode(),
    ),
]


# --- Letta ----------------------------------------------------------------------------------------------------


@define(eq=False)
class SayingLetta:
    """Says what it is told to."""

    reply: str = ""
    chunk_size: int | None = None

    def answer(self, method: str, path: str) -> tuple[str, bytes]:
        """Media type and body."""
        if "/messages" in path and method == "POST" and not path.endswith("cancel"):
            words: list[dict[str, Any] | str] = [PING, say(self.reply), stop(), USAGE, DONE]
            return "text/event-stream", b"".join(map(encode, words))
        if path.startswith("/v1/agents/?"):
            return "application/json", orjson.dumps([agent_json()])
        if path.startswith(f"/v1/agents/{AGENT_ID}"):
            return "application/json", orjson.dumps(agent_json())
        return "application/json", b"[]"


@contextmanager
def letta_of(letta: SayingLetta) -> Iterator[str]:
    """Serve it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers["content-length"] or 0))
            kind, body = letta.answer(self.command, self.path)
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            size = letta.chunk_size or len(body)
            pieces = (body[at : at + size] for at in range(0, len(body), size))
            with suppress(OSError):
                self.wfile.write(
                    b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
                )

        do_POST = do_DELETE = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# --- The server -----------------------------------------------------------------------------------------------


@define(eq=False)
class Served:
    """`letta-proxy serve`, and what its process has used."""

    process: subprocess.Popen[str]
    port: int

    @property
    def cpu_seconds(self) -> float:
        """CPU time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, name: str = "VmRSS") -> float:
        """Memory in MB, now or at its peak (``VmHWM``)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{name}:")[2].split()[0]) / 1000

    def send(self, data: bytes) -> int | None:
        """Send a request: the status of its answer; None if the connection was closed without one."""
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            client.settimeout(120)

            def write() -> None:
                # A request that is refused need not be read to its end.
                with suppress(OSError):
                    client.sendall(data)

            writing = threading.Thread(target=write)
            writing.start()
            response = http.client.HTTPResponse(client)
            try:
                response.begin()
                response.read()
            except (OSError, http.client.HTTPException):
                return None
            finally:
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
                writing.join()
            return response.status


@contextmanager
def serving(root: Path, letta_url: str, *arguments: str, files: int | None = None) -> Iterator[Served]:
    """Serve from a checkout.

    :param files: how many the process may have open.
    """
    limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))) if files else None
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "letta_server", "serve", "--port", "0", "--letta-url", letta_url),
                *("--enforcement", "validate", *arguments),
            ],
            env={**os.environ, "PYTHONPATH": f"{root}:{root / 'transports'}"},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            preexec_fn=limit,  # no thread of ours holds a lock that the child needs
        )
        try:
            assert process.stdout is not None
            served = Served(process, int(process.stdout.readline().rpartition(":")[2]))
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield served
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def probing(served: Served) -> Iterator[list[float]]:
    """Ask for ``/health`` again and again; the seconds that each answer took."""
    waits, done = list[float](), threading.Event()

    def probe() -> None:
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            while not done.is_set():
                began = time.perf_counter()
                client.sendall(get("/health"))
                client.recv(4096)
                waits.append(time.perf_counter() - began)
                done.wait(0.002)

    prober = threading.Thread(target=probe)
    prober.start()
    time.sleep(0.2)
    waits.clear()
    yield waits
    done.set()
    prober.join()


# --- The table ------------------------------------------------------------------------------------------------


def measure_requests(root: Path) -> None:
    """The rows, each on a server of its own."""
    print(f"{'request':38} {'MB':>6} {'status':>6} {'CPU s':>7} {'held ms':>8} {'+MB RSS':>8}")
    for row in ROWS:
        letta = SayingLetta(reply=row.reply, chunk_size=row.chunk_size)
        with letta_of(letta) as url, serving(root, url, *row.arguments) as served:
            served.send(chat(stream=False))  # what is imported and remembered on first use
            data = row.make()
            with probing(served) as waits:
                cpu, memory = served.cpu_seconds, served.memory()
                status = served.send(data)
                time.sleep(0.2)
                cpu, memory = served.cpu_seconds - cpu, served.memory() - memory
            longest = max(waits, default=0.0) * 1000
            print(
                f"{row.name:38} {len(data) / MB:6.2f} {status!s:>6} {cpu:7.2f} {longest:8.0f} {memory:8.0f}",
                flush=True,
            )


def measure_bodies(root: Path) -> None:
    """Twenty bodies of 10 MB at once."""
    letta = SayingLetta(reply="Hello.")
    with letta_of(letta) as url, serving(root, url) as served:
        served.send(chat())
        before, data = served.memory(), chat(x="y" * 10 * MB)
        statuses: list[int | None] = []
        threads = [threading.Thread(target=lambda: statuses.append(served.send(data))) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(2)
        counts = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
        print(
            f"20 bodies of 10 MB at once: {before:.0f} MB before, {served.memory('VmHWM'):.0f} at most, "
            f"{served.memory():.0f} two seconds after; answers {counts}",
            flush=True,
        )


def measure_connections(root: Path) -> None:
    """Three hundred connections that say nothing, where 256 files may be open."""
    with letta_of(SayingLetta()) as url, serving(root, url, files=256) as served:
        idle = []
        for _ in range(300):
            with suppress(OSError):
                idle.append(socket.create_connection(("127.0.0.1", served.port), timeout=2))
        time.sleep(0.5)
        began, cpu = time.perf_counter(), served.cpu_seconds
        answered = None
        while answered is None and time.perf_counter() - began < 90:
            with suppress(OSError), socket.create_connection(("127.0.0.1", served.port), timeout=5) as client:
                client.sendall(get("/health"))
                answered = client.recv(4096).split(b" ")[1]
        seconds = time.perf_counter() - began
        print(
            f"300 idle connections, 256 files: a newcomer has its answer ({answered!r}) after {seconds:.1f} s, "
            f"CPU {served.cpu_seconds - cpu:.2f} s",
            flush=True,
        )
        for each in idle:
            each.close()


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to measure")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    arguments = parser.parse_args()
    ROWS[:] = [row for row in ROWS if arguments.only in row.name]
    measure_requests(arguments.root)
    if not arguments.only:
        measure_bodies(arguments.root)
        measure_connections(arguments.root)


if __name__ == "__main__":
    main()
