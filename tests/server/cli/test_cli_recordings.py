"""The commands for recordings, and the server that writes and serves them."""

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
from openai import APIStatusError, OpenAI

from drive import DONE, PING, RUN_ID, USAGE, agent_json, encode, error, say, stop
from http_letta import http_letta
from recordings import FIXTURES
from sansio_letta.recording.reader import read_recording

from ..commands import run, running, started

RECORDINGS = FIXTURES / "recordings"
OBJECT = {"type": "json_object"}


# --- replay


@pytest.mark.parametrize(
    ("view", "lines"),
    [
        ("text", ["Hello Sam, how can I help you today?"]),
        ("json", ['{"id":"chatcmpl-1","object":"chat.completion","created":0,"model":"text"']),
        (
            "events",
            ['{"turn":1,"t":0.0001,"item":"OpenStream"', '{"turn":1,"t":0.2173,"item":"', "TurnFinished"],
        ),
    ],
)
def test_views_of_a_replay(view: str, lines: list[str]) -> None:
    shown = run("replay", "--as", view, str(RECORDINGS / "text.jsonl")).stdout
    for line in lines[:1] + lines[2:]:
        assert line in shown


def test_events_of_a_replay_are_json(tmp_path: Path) -> None:
    shown = run("replay", "--as", "events", str(RECORDINGS / "kept_first_step.jsonl")).stdout
    events = [json.loads(line) for line in shown.splitlines()]
    assert events[0]["body"]["stream_tokens"] is True
    assert (events[-1]["item"], events[-1]["status"], events[-1]["kept"]) == ("TurnFailed", 424, "something")


def test_failures_show_in_texts_and_answers() -> None:
    path = str(RECORDINGS / "error_llm_429.jsonl")
    assert run("replay", "--as", "text", path).stdout.startswith("[rate_limit_exceeded: ")
    assert json.loads(run("replay", "--as", "json", path).stdout)["error"]["code"] == "rate_limit_exceeded"


def test_speed_shortens_the_pauses() -> None:
    path = str(RECORDINGS / "step_streaming.jsonl")  # a minute long
    assert "Looking." in run("replay", "--as", "text", "--timing", "--speed", "1000", path).stdout


@pytest.mark.parametrize("arguments", [("--speed", "0"), ("--as", "poem")])
def test_wrong_options_are_told(arguments: tuple[str, ...]) -> None:
    done = run("replay", *arguments, str(RECORDINGS / "text.jsonl"))
    assert done.returncode != 0
    assert "Traceback" not in done.stderr + done.stdout


# --- serve --replay and --record, diff


def test_recordings_are_served_recorded_and_compared(tmp_path: Path) -> None:
    folder = tmp_path / "recorded"
    arguments = ("serve", "--replay", str(RECORDINGS), "--no-replay-pauses", "--record", str(folder))
    with running(*arguments, "--record-text", "keep") as (url, output):
        assert "the recordings of" in output.readline()
        with OpenAI(base_url=url, api_key="sk-secret-key-of-mine", max_retries=0) as client:
            chunks = client.chat.completions.create(
                model="server_tool", messages=[{"role": "user", "content": "hi"}], stream=True
            )
            said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            assert said.startswith("Let me note that.\n\nresults:")
            client.chat.completions.create(model="text", messages=[{"role": "user", "content": "hi"}])
    files = sorted(folder.glob("*.jsonl"))
    assert len(files) == 2
    for path in files:
        assert path.stat().st_mode & 0o777 == 0o600
        assert b"sk-secret" not in path.read_bytes()
        assert read_recording(path.read_bytes()).client is not None
        assert run("diff", str(path)).stdout == "the same\n"
        assert run("diff", str(path), str(path)).stdout == "the same\n"
    different = run("diff", *map(str, files))
    assert different.returncode == 1
    assert "+text: " in different.stdout


def test_diff_shows_what_changed(tmp_path: Path) -> None:
    folder = tmp_path / "recorded"
    with running("serve", "--replay", str(RECORDINGS), "--no-replay-pauses", "--record", str(folder)) as (
        url,
        _,
    ):
        OpenAI(base_url=url, api_key="x").chat.completions.create(
            model="text", messages=[{"role": "user", "content": "hi"}]
        )
    (path,) = folder.glob("*.jsonl")
    assert b"Hello Sam" not in path.read_bytes()
    assert b"xxxxx xxxx" in path.read_bytes()
    path.write_bytes(
        path.read_bytes().replace(b'\\"finish_reason\\":\\"stop\\"', b'\\"finish_reason\\":\\"length\\"')
    )
    done = run("diff", str(path))
    assert done.returncode == 1
    assert '"finish_reason":"length"' in done.stdout


def test_a_reply_that_was_checked_is_not_replayed_without_its_text(tmp_path: Path) -> None:
    folder = tmp_path / "recorded"
    arguments = ("serve", "--replay", str(RECORDINGS), "--no-replay-pauses", "--enforcement", "validate")
    with running(*arguments, "--record", str(folder)) as (url, _):
        body = {"model": "text", "messages": [{"role": "user", "content": "hi"}], "response_format": OBJECT}
        with OpenAI(base_url=url, api_key="x") as client, pytest.raises(APIStatusError, match="cannot be used"):
            client.post("/chat/completions", body=body, cast_to=object)
    (path,) = folder.glob("*.jsonl")
    for command in ("replay", "diff"):
        done = run(command, str(path))
        assert done.returncode == 2
        assert "record with --record-text keep" in done.stderr
        assert "Traceback" not in done.stderr
    assert run("inspect", str(path)).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("diff", str(RECORDINGS / "text.jsonl")), "a recording without a client"),
        (("serve", "--replay", "/nowhere"), "/nowhere: no such file or directory"),
        (("serve", "--replay", str(FIXTURES / "expected")), "contains no recording of a turn"),
        (("serve", "--record", "/dev/null/recordings"), "/dev/null/recordings: not a directory"),
        (("serve", "--record", "/proc/recordings"), "record: expected a folder that can be written"),
        (("inspect", "/nowhere.jsonl"), "no such file or directory"),
        (("record", "Milo", "x.jsonl", "--text", "hi", "--expect", "joy=1"), "expected one of status="),
    ],
)
def test_what_cannot_be_done_is_told(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_recording_that_broke_off_is_told(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl"
    path.write_bytes((RECORDINGS / "text.jsonl").read_bytes()[:2000])
    done = run("replay", "--as", "text", str(path))
    assert "was not written to its end" in done.stderr
    assert done.stdout.startswith("Hello")


# --- record


@contextmanager
def letta(*messages: dict[str, object] | str) -> Iterator[str]:
    """A Letta that has one agent and always says this."""

    def answer(path: str, body: bytes) -> tuple[str, bytes]:
        if body:
            return "text/event-stream", b"".join(encode(message) for message in messages)
        return "application/json", orjson.dumps({"status": "ok"} if "health" in path else [agent_json()])

    with http_letta(answer) as url:
        yield url


def test_record_saves_what_shows_what_it_should(tmp_path: Path) -> None:
    out = tmp_path / "hello.jsonl"
    tool = tmp_path / "tool.json"
    tool.write_text('{"type": "function", "function": {"name": "read_file"}}')
    with letta(PING, say("Hello"), stop(), USAGE, DONE) as url:
        arguments = ("record", "Milo", str(out), "--text", "hi", "--letta-url", url, "--note", "A greeting.")
        tools = ("--tool", "get_weather", "--tool", str(tool))
        expected = ("--expect", "text=Hell", "--expect", "finish=stop", "--expect", "status=200")
        done = run(*arguments, *tools, *expected)
        assert (done.returncode, done.stderr) == (0, "")
        assert run(*arguments, *expected).stderr.endswith("hello.jsonl: already exists\n")
    recording = read_recording(out.read_bytes())
    assert (recording.scenario, recording.head.note) == ("hello", "A greeting.")
    assert len(recording.exchanges[-1].request.json["client_tools"]) == 2
    assert run("diff", str(out)).stdout == "the same\n"


@pytest.mark.parametrize(
    ("expected", "seen"),
    [
        ("call=get_weather", "got []"),
        ("text=Bye", "got 'Hello'"),
        ("error=x", "got None"),
        ("finish=x", "'stop'"),
    ],
)
def test_record_refuses_what_does_not(tmp_path: Path, expected: str, seen: str) -> None:
    out = tmp_path / "hello.jsonl"
    with letta(PING, say("Hello"), stop(), USAGE, DONE) as url:
        done = run("record", "Milo", str(out), "--text", "hi", "--letta-url", url, "--expect", expected)
    assert done.returncode == 2
    assert "not saved" in done.stderr
    assert seen in done.stderr
    assert not out.exists()


def test_record_of_a_failure(tmp_path: Path) -> None:
    out = tmp_path / "limit.jsonl"
    with letta(PING, stop("llm_api_error"), error("llm_rate_limit"), DONE) as url:
        arguments = ("record", "Milo", str(out), "--text", "hi", "--letta-url", url)
        done = run(*arguments, "--expect", "status=429", "--expect", "error=rate_limit_exceeded")
    assert done.returncode == 0, done.stderr
    assert read_recording(out.read_bytes()).client is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_record_that_is_interrupted_ends_its_run(tmp_path: Path, number: signal.Signals) -> None:
    asked, may_end = threading.Event(), threading.Event()
    cancelled: list[object] = []

    def slow() -> Iterator[bytes]:
        yield encode(PING) + encode(say("Hel"))
        asked.set()
        may_end.wait(60)

    def answer(path: str, body: bytes) -> tuple[str, bytes | Iterator[bytes]]:
        if path.endswith("/cancel"):
            cancelled.append(orjson.loads(body))
        elif body:
            return "text/event-stream", slow()
        return "application/json", orjson.dumps({"status": "ok"} if "health" in path else [agent_json()])

    out = tmp_path / "hello.jsonl"
    with http_letta(answer) as url:
        arguments = ("record", "Milo", str(out), "--text", "hi", "--letta-url", url, "--expect", "status=200")
        with started(*arguments) as process:
            assert asked.wait(30)
            process.send_signal(number)
            printed, told = process.communicate(timeout=30)
        may_end.set()
    assert (process.returncode, printed, told) == (128 + number, "", "letta-proxy: not saved: interrupted\n")
    assert cancelled == [{"run_ids": [RUN_ID]}]
    assert not out.exists()


# --- inspect


def test_inspect_in_the_terminal_and_as_a_page(tmp_path: Path) -> None:
    path, page = RECORDINGS / "client_tool.jsonl", tmp_path / "page.html"
    assert "approval_request_message" in run("inspect", str(path)).stdout
    assert run("inspect", "--html", str(page), str(path)).stdout == f"{page}: open it in a browser\n"
    assert page.read_text().startswith("<!doctype html>")
    assert "no such file or directory" in run("inspect", "--html", "/nowhere/x.html", str(path)).stderr


# --- what the start-up says


def test_start_up_tells_of_letta_and_its_agents() -> None:
    with letta(PING) as url, running("serve", "--letta-url", url) as (_, output):
        assert output.readline() == f"  Letta     {url}, version unknown\n"
        assert output.readline() == "  agents    1: Milo\n"
