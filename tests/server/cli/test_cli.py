"""The command `letta-proxy`, as a user runs it."""

import re
import socket
import subprocess
import sys

import httpx2
import pytest
from openai import OpenAI

from recordings import FIXTURES, SCENARIOS, expected_path

from ..commands import run, running


def test_help_shows_the_commands_and_an_example() -> None:
    assert {"demo", "serve", "replay"} <= set(run("--help").stdout.split())
    assert "letta-proxy serve --letta-url http://127.0.0.1:8283" in run("serve", "--help").stdout


def test_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", run("--version").stdout)


@pytest.mark.parametrize("scenario", ["client_tool", "unicode", "error_llm_500"])
def test_replay_prints_what_was_reviewed(scenario: str) -> None:
    assert scenario in SCENARIOS
    path = FIXTURES / "recordings" / f"{scenario}.jsonl"
    assert run("replay", str(path)).stdout == expected_path(scenario).read_bytes().decode()


def test_replay_keeps_the_pauses_if_asked_to() -> None:
    path = FIXTURES / "recordings" / "error_llm_401.jsonl"
    assert "llm_authentication" in run("replay", "--timing", str(path)).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("replay", "/nowhere.jsonl"), "letta-proxy: /nowhere.jsonl: no such file or directory"),
        (("serve", "--letta-url", "ftp://x"), "expected an address like http://127.0.0.1:8283"),
        (("serve", "--letta-api-key", "a\nb"), "letta_api_key: expected printable ASCII"),
        (("serve", "--letta-api-key", "a b"), "letta_api_key: expected printable ASCII"),
        (("serve", "--host", "0.0.0.0"), "use --allow-anyone"),
        (("demo", "--host", "0.0.0.0"), "can be reached from other machines"),
    ],
)
def test_wrong_arguments_are_told(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_recording_that_cannot_be_read(tmp_path: object) -> None:
    done = run("replay", __file__)
    assert done.returncode == 2
    assert "line 1: expected one JSON object" in done.stderr


def test_port_in_use_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("serve", "--letta-url", "http://127.0.0.1:1", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_letta_that_is_away_is_told_and_served_anyway() -> None:
    with running("serve", "--letta-url", "http://127.0.0.1:1") as (url, output):
        assert "does not answer: Letta cannot be reached: connection refused." in output.readline()
        assert "Serving anyway" in output.readline()
        assert httpx2.get(url.removesuffix("/v1") + "/health").status_code == 200
        assert httpx2.get(url.removesuffix("/v1") + "/ready").status_code == 503


def test_demo_does_what_it_says() -> None:
    with running("demo") as (url, output):
        lines = []
        while (line := output.readline()) and not line.startswith("    print(chunk"):
            lines.append(line)
        pasted = "".join([*lines, line])
        curl = next(line for line in lines if line.startswith("curl "))
        streamed = subprocess.run(
            ["bash", "-c", curl], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        assert '"reasoning_content"' in streamed
        assert streamed.endswith("data: [DONE]\n\n")
        snippet = pasted[pasted.index("from openai import OpenAI") :]
        done = subprocess.run(
            [sys.executable, "-c", snippet], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.startswith('get_weather {"city": "Paris", "units": "C"}\n')
        assert "18 C, sunny" in done.stdout
        client = OpenAI(base_url=url, api_key="none")
        assert "demo-weather" in [model.id for model in client.models.list()]


def test_demo_agent_with_a_pending_call_takes_a_message_instead() -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    with running("demo") as (url, _), OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        for _ in range(2):
            reply = client.chat.completions.create(
                model="demo-weather",
                messages=[{"role": "user", "content": "How is the weather?"}],
                tools=[tool],  # type: ignore[list-item]  # a plain dict is what people write
            )
        assert reply.choices[0].finish_reason in ("tool_calls", "stop")
