"""The log line of a request."""

import orjson
import pytest
import structlog
from attrs import evolve, fields

from letta_server.observe.log import configure_log, log_request
from letta_server.settings.log import LogFormat
from sansio_letta import Summary
from sansio_letta.proxy.summary import Repeat
from sansio_letta.turn.events import CallsSettled, Matched, Usage

WHOLE = Summary(
    request_id="req_1",
    method="POST",
    path="/v1/chat/completions",
    caller="alice",
    thread="chat",
    status=200,
    stream=True,
    model="Milo",
    agent_id="agent-1",
    outcome="stop",
    kept="nothing",
    failure="broken",
    chunk_count=7,
    call_count=1,
    cancel_count=1,
    usage=Usage(prompt_tokens=100, completion_tokens=20, total_tokens=120),
    ignored=("temperature",),
    matched=Matched.CAUGHT_UP,
    settled=CallsSettled(missing=("call-1", "call-2"), denied=("call-3",)),
    waited=True,
    repeat=Repeat.JOINED,
    resume_count=1,
)


@pytest.fixture(autouse=True)
def _reset() -> object:
    yield
    structlog.reset_defaults()


def test_json_line_has_all_that_the_summary_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert all(getattr(WHOLE, field.name) != field.default for field in fields(Summary))
    configure_log(LogFormat.JSON)
    log_request(WHOLE, 1.23456, 0.1)
    line = orjson.loads(capsys.readouterr().err)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "request",
        "level": "info",
        "request_id": "req_1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "caller": "alice",
        "thread": "chat",
        "status": 200,
        "stream": True,
        "model": "Milo",
        "agent_id": "agent-1",
        "outcome": "stop",
        "kept": "nothing",
        "failure": "broken",
        "chunk_count": 7,
        "call_count": 1,
        "cancel_count": 1,
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "ignored": ["temperature"],
        "matched": "caught-up",
        "missing_calls": 2,
        "denied_calls": 1,
        "waited": True,
        "repeat": "joined",
        "resume_count": 1,
        "first_seconds": 0.1,
        "seconds": 1.2346,
    }


def test_what_is_not_known_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_log(LogFormat.JSON)
    log_request(Summary(request_id="req_1", method="GET", path="/health", status=200), 0.001, None)
    line = orjson.loads(capsys.readouterr().err)
    assert line.keys() == {
        "event", "level", "timestamp", "request_id", "method", "path", "status", "seconds",
    }  # fmt: skip


def test_console_line_is_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    configure_log(LogFormat.CONSOLE)
    log_request(WHOLE, 1.2, 0.1)
    [line] = capsys.readouterr().err.splitlines()
    assert "request" in line
    assert "Milo" in line


def test_a_client_that_names_much_does_not_fill_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    configure_log(LogFormat.JSON)
    log_request(evolve(WHOLE, ignored=("x" * 1000,) * 100_000, model="m" * 100_000), 1.0, 0.1)
    printed = capsys.readouterr().err
    assert len(printed) < 4000
    ignored = orjson.loads(printed)["ignored"]
    assert ignored == ["x" * 64 + "..."] * 20 + ["... and 99980 more"]
