"""The examples run as they are."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import orjson
import pytest
from attrs import evolve

from drive import DONE, PING, USAGE, agent_json, encode, say, stop, want
from http_letta import http_letta
from sansio_letta import Config, HttpRequest, Proxy

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
def letta(asked: list[str] | None = None) -> Iterator[str]:
    """An agent that wants the weather first, and answers once it has it.

    :param asked: gets the path of each request.
    """
    pending: list[str] = []

    def answer(path: str, body: bytes) -> tuple[str, bytes]:
        if asked is not None:
            asked.append(path)
        if path.endswith("/messages/cancel"):
            return "application/json", b"{}"
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


def minimal_transport() -> ModuleType:
    spec = spec_from_file_location("minimal_transport", EXAMPLES / "minimal_transport.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hello() -> HttpRequest:
    body = {"model": "Milo", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    return HttpRequest(method="POST", target="/v1/chat/completions", body=orjson.dumps(body))


def test_minimal_transport_waits_before_it_tries_again() -> None:
    """Pauses are the core's; nobody listens at this address, and none will within them."""
    proxy = Proxy(Config(connect_retry_timeout=0.01))
    head, body = minimal_transport().answer(proxy, "http://127.0.0.1:1", hello())
    assert head.status == 502
    assert b"Letta cannot be reached: ConnectionRefusedError." in body.data


def test_minimal_transport_waits_for_the_turn_before() -> None:
    """In one thread nobody else goes on meanwhile, so patience runs out; the first one goes on then."""
    transport, proxy = minimal_transport(), Proxy(Config(queue_timeout=0.01))
    with letta() as url:
        first = transport.answer(proxy, url, hello())
        assert next(first).status == 200
        assert (
            next(transport.answer(proxy, url, evolve(hello(), headers=[("idempotency-key", "b")]))).status
            == 409
        )
        assert b'"content":"sunny."' in b"".join(piece.data for piece in first)
        assert next(transport.answer(proxy, url, hello())).status == 200


def test_minimal_transport_ends_the_run_of_a_client_that_leaves() -> None:
    asked: list[str] = []
    with letta(asked) as url:
        answer = minimal_transport().answer(Proxy(), url, hello())
        assert next(answer).status == 200
        answer.close()
    assert [path.rpartition("/")[2] for path in asked[1:]] == ["stream", "cancel"]


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
