"""The examples run as they stand."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from drive import DONE, PING, USAGE, agent_json, encode, say, stop, want
from http_letta import http_letta

EXAMPLES = Path(__file__).parent.parent / "examples"

CALL: list[Any] = [
    PING,
    want("call-1", "get_weather", '{"city": "Rome"}'),
    stop("requires_approval"),
    USAGE,
    DONE,
]
ANSWER: list[Any] = [PING, say("It is "), say("sunny."), stop(), USAGE, DONE]


@contextmanager
def letta() -> Iterator[str]:
    """An agent that wants the weather first, and answers once it has it."""
    pending: list[str] = []

    def answer(path: str, body: bytes) -> tuple[str, bytes]:
        if not body:
            agent = agent_json(*pending)
            return "application/json", orjson.dumps([agent] if "name=" in path else agent)
        request = orjson.loads(body)
        wants = request.get("client_tools") and "approvals" not in request["messages"][0]
        pending[:] = ["call-1"] if wants else []
        return "text/event-stream", b"".join(encode(message) for message in (CALL if wants else ANSWER))

    with http_letta(answer) as url:
        yield url


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
