"""Keys, TLS and the configuration file, as a user uses them."""

import os
import re
import signal
import ssl
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx2
import openai
import pytest
import trustme
from openai import OpenAI

from recordings import FIXTURES

from ..commands import COMMAND, run

REPLAY = ("serve", "--replay", str(FIXTURES / "recordings"), "--no-replay-pauses", "--log-format", "json")


@contextmanager
def serving(
    *arguments: str, env: Mapping[str, str] | None = None
) -> Iterator[tuple[str, int, list[str], IO[str]]]:
    """A server: its base URL, its process id, what it says first, and its log."""
    process = subprocess.Popen(
        [*COMMAND, *REPLAY, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        head = [process.stdout.readline() for _ in range(4)]
        url = re.search(r"https?://\S+:\d+/v1", head[1])
        assert url is not None, (head, process.stderr.read())
        yield url.group(), process.pid, head, process.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def new_key(name: str, file: Path, *more: str) -> str:
    """`keys new`, its lines put into a file."""
    made = run("keys", "new", name, *more)
    assert made.returncode == 0
    with file.open("a", encoding="utf-8") as out:
        out.write(made.stdout)
    file.chmod(0o600)
    return made.stderr.splitlines()[-1]


def models(url: str, key: str) -> list[str]:
    with OpenAI(base_url=url, api_key=key, max_retries=0) as client:
        return sorted(model.id for model in client.models.list())


def test_a_new_key_opens_what_it_says(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    alice = new_key("alice", file, "--agent", "text", "--agent", "rea*", "--rate", "100/minute")
    bob = new_key("bob", file)
    assert tomllib.loads(file.read_text())["keys"]["alice"]["rate"] == "100/minute"
    assert alice not in file.read_text()
    with serving("--port", "0", "--keys", str(file)) as (url, pid, head, log):
        assert "with one of the proxy's keys" in head[1]
        assert models(url, alice) == ["reasoning", "text"]
        assert len(models(url, bob)) > 10
        with pytest.raises(openai.AuthenticationError) as wrong:
            models(url, "lp-wrong")
        assert wrong.value.code == "invalid_api_key"
        with OpenAI(base_url=url, api_key=alice, max_retries=0) as client:
            with pytest.raises(openai.NotFoundError) as hidden:
                client.chat.completions.create(model="unicode", messages=[{"role": "user", "content": "hi"}])
            assert hidden.value.code == "model_not_found"
            raw = client.chat.completions.with_raw_response.create(
                model="text", messages=[{"role": "user", "content": "hi"}]
            )
            assert raw.headers["x-ratelimit-limit-requests"] == "100"
        carol = new_key("carol", file)
        os.kill(pid, signal.SIGHUP)
        lines = []
        while "keys reloaded" not in (line := log.readline()):
            lines.append(line)
        assert models(url, carol)
        said = "".join(lines)
        assert '"caller": "alice"' in said
        assert not any(key in said for key in (alice, bob, carol))


def thought(url: str, key: str, **headers: str) -> set[str]:
    """In which fields an answer has reasoning."""
    with OpenAI(base_url=url, api_key=key, max_retries=0, default_headers=headers) as client:
        reply = client.chat.completions.create(model="reasoning", messages=[{"role": "user", "content": "hi"}])
    return {name for name in reply.choices[0].message.model_dump() if name.startswith("reasoning")}


def test_each_key_has_its_policies(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    alice = new_key("alice", file, "--policy", "reasoning=off", "--policy", "tasks=refuse")
    bob = new_key("bob", file)
    assert tomllib.loads(file.read_text())["keys"]["alice"]["policies"] == {
        "reasoning": "off",
        "tasks": "refuse",
    }
    arguments = ("--port", "0", "--reasoning", "reasoning", "--keys", str(file))
    with serving(*arguments) as (url, pid, _, log):
        assert thought(url, alice) == set()
        assert thought(url, bob) == {"reasoning"}
        header = {"X-Letta-Policy-Reasoning": "Reasoning_Content"}
        assert thought(url, bob, **header) == {"reasoning_content"}
        with pytest.raises(openai.BadRequestError, match="It is off here") as refused:
            thought(url, alice, **header)
        assert refused.value.param == "x-letta-policy-reasoning"
        with pytest.raises(openai.BadRequestError) as task:
            thought(url, alice, **{"X-OpenWebUI-Task": "title_generation"})
        assert task.value.code == "task_refused"
        file.write_text(file.read_text().replace('"off"', '"reasoning_content"'))
        os.kill(pid, signal.SIGHUP)
        while "keys reloaded" not in log.readline():
            pass
        assert thought(url, alice) == {"reasoning_content"}
        file.write_text(file.read_text().replace('"reasoning_content"', '"loud"'))
        os.kill(pid, signal.SIGHUP)
        while "keys not reloaded" not in (line := log.readline()):
            pass
        assert "keys.alice.policies.reasoning: expected one of reasoning_content, reasoning, off" in line
        assert thought(url, alice) == {"reasoning_content"}


def test_a_policy_that_there_is_not_ends_the_command(tmp_path: Path) -> None:
    made = run("keys", "new", "alice", "--policy", "approvals=maybe")
    assert (made.returncode, made.stdout) == (2, "")
    assert "policy approvals: expected one of allow, ask, deny" in made.stderr
    file = tmp_path / "keys.toml"
    file.write_text('[keys.alice]\nkey = "alices-plain-long-key"\npolicies = { approvals = "maybe" }\n')
    done = run("serve", "--port", "0", "--keys", str(file))
    assert done.returncode == 2
    assert f"{file}: keys.alice.policies.approvals: expected one of allow, ask, deny" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_rate_is_answered_as_the_sdk_expects(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    key = new_key("alice", file, "--rate", "1/hour")
    with serving("--port", "0", "--keys", str(file)) as (url, *_):
        assert models(url, key)
        with pytest.raises(openai.RateLimitError) as refused:
            models(url, key)
        assert refused.value.code == "rate_limit_exceeded"
        assert refused.value.response.headers["retry-after"] == "59"
        assert refused.value.response.headers["x-should-retry"] == "false"


def test_flags_beat_the_environment_and_that_the_file(tmp_path: Path) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text(
        'host = "127.0.0.2"\nport = 1\nreasoning = "off"\ncors-origin = ["https://chat.example"]\n'
        '[keys.alice]\nkey = "alices-plain-long-key"\n',
        encoding="utf-8",
    )
    config.chmod(0o600)
    env = {
        "LETTA_PROXY_HOST": "127.0.0.3",
        "LETTA_PROXY_KEYS": "bob=bobs-plain-long-key",
        "LETTA_PROXY_PORT": "2",
    }
    with serving("--config", str(config), "--port", "0", env=env) as (url, *_):
        assert url.startswith("http://127.0.0.3:")
        assert models(url, "alices-plain-long-key") == models(url, "bobs-plain-long-key")
        page = httpx2.get(url + "/models", headers={"origin": "https://chat.example"})
        assert (page.status_code, page.headers["access-control-allow-origin"]) == (401, "https://chat.example")
        with OpenAI(base_url=url, api_key="bobs-plain-long-key") as client:
            reply = client.chat.completions.create(
                model="reasoning", messages=[{"role": "user", "content": "hi"}]
            )
            assert "reasoning_content" not in reply.choices[0].message.model_dump()


def test_a_file_without_keys_asks_for_none(tmp_path: Path) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text("port = 0\nallowed_host = ['proxy.lan']\n", encoding="utf-8")
    with serving(env={"LETTA_PROXY_CONFIG": str(config)}) as (url, _, head, _):
        assert "any API key will do" in head[1]
        assert models(url, "none")
        for host, status in [("proxy.lan", 200), ("host.docker.internal", 403), ("evil.example", 403)]:
            assert httpx2.get(url + "/models", headers={"host": host}).status_code == status


def test_https_with_a_certificate_of_ones_own(tmp_path: Path) -> None:
    ca = trustme.CA()
    made = ca.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made.cert_chain_pems[0].write_to_path(str(cert))
    made.private_key_pem.write_to_path(str(key))
    context = ssl.create_default_context()
    ca.configure_trust(context)
    with serving("--port", "0", "--tls-cert", str(cert), "--tls-key", str(key)) as (url, _, head, _):
        assert url.startswith("https://127.0.0.1:")
        assert "listens on https://" in head[0]
        http = httpx2.Client(verify=context)
        with OpenAI(base_url=url, api_key="none", http_client=http, max_retries=0) as client:
            stream = client.chat.completions.create(
                model="text", messages=[{"role": "user", "content": "hi"}], stream=True
            )
            said = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        assert "Sam" in said


def test_passing_keys_on_says_so() -> None:
    with serving("--port", "0", "--pass-through") as (url, _, head, _):
        assert "each with its own Letta key" in head[1]
        with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided"):
            models(url, "two words")
        assert models(url, "any")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("port = 'x'", "port"),
        ("prot = 1", "prot"),
        ("port = ", "expected TOML: "),
        ("[keys.alice]\nkey = 'short'", "keys.alice.key: expected at least 16 characters"),
        ("[keys]\n", "keys: expected a table [keys.NAME] for each key, found none"),
        ("allow-anyone = false\nhost = '0.0.0.0'", "host: 0.0.0.0 can be reached from other machines"),
        ("tls-cert = '/nowhere'\ntls-key = '/nowhere'", "tls_cert: /nowhere: no such file or directory"),
        ("rate = 'often'", 'rate: expected "60/minute"'),
        ("cors-origin = ['chat.example']", "cors_origin: expected https://NAME"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, text: str, told: str) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text(text, encoding="utf-8")
    done = run(*REPLAY, "--config", str(config))
    assert done.returncode != 0
    assert told in re.sub(r"[│\s]+", " ", done.stderr + done.stdout)
    assert "Traceback" not in done.stderr
    assert "short" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("keys", "new", "a b"), "keys.a b: expected a name of up to 64 letters"),
        (("keys", "new", "alice", "--rate", "often"), 'rate: expected "60/minute"'),
        (("serve", "--config", "/nowhere.toml"), "/nowhere.toml: no such file or directory"),
        (("serve", "--keys", "/nowhere.toml"), "/nowhere.toml: no such file or directory"),
        (("serve", "--tls-cert", "c.pem"), "tls_key: expected a file, since tls_cert is given"),
    ],
)
def test_arguments_that_are_wrong(arguments: tuple[str, ...], told: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr
