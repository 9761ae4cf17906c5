"""The examples run as they stand."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest

from drive import DONE, PING, USAGE, agent_json, encode, say, stop, want

EXAMPLES = Path(__file__).parent.parent / "examples"

CALL = [PING, want("call-1", "get_weather", '{"city": "Rome"}'), stop("requires_approval"), USAGE, DONE]
ANSWER = [PING, say("It is "), say("sunny."), stop(), USAGE, DONE]


@contextmanager
def letta() -> Iterator[str]:
    """An agent that wants the weather first, and answers once it has it."""
    pending: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            agent = agent_json(*pending)
            self._send("application/json", orjson.dumps([agent] if "name=" in self.path else agent))

        def do_POST(self) -> None:
            body = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
            messages: list[Any] = (
                CALL if body.get("client_tools") and "approvals" not in body["messages"][0] else ANSWER
            )
            pending[:] = ["call-1"] if messages is CALL else []
            self._send("text/event-stream", b"".join(encode(message) for message in messages))

        def _send(self, kind: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(*arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_minimal_transport() -> None:
    request = '{"model": "Milo", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'
    with letta() as url:
        shown = run("minimal_transport.py", url, "/v1/chat/completions", request)
        assert '"id":"Milo"' in run("minimal_transport.py", url, "/v1/models/Milo")
    assert shown.startswith("200\n")
    assert '"content":"sunny."' in shown


@pytest.mark.parametrize("example", ["tool_loop.py", "tool_loop_async.py"])
def test_tool_loop(example: str) -> None:
    with letta() as url:
        shown = run(example, url, "Milo", "How is the weather in Rome?")
    assert shown == "get_weather: 18 C and sunny in Rome\nIt is sunny.\n"


def test_recording_in_a_test_of_ones_own() -> None:
    assert "2 passed" in run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_with_a_recording.py")


def test_every_example_is_run() -> None:
    source = Path(__file__).read_text()
    assert all(path.name in source for path in EXAMPLES.glob("*.py"))
