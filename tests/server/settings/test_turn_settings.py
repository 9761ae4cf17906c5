"""Settings of turns, from option, environment or file to the core."""

from pathlib import Path
from typing import Any

import attrs
import pytest
from openai import ConflictError, OpenAI

from letta_server import Settings, TurnSettings
from sansio_letta import ClientTools, Config

from ..commands import command, run
from ..gated_letta import gated_letta
from ..parsed import check_refused, parsed

#: Each with a value that is not its default, as a person writes it.
OTHER: dict[str, tuple[str, Any]] = {
    "queue_timeout": ("7.5", 7.5),
    "max_queue_count": ("3", 3),
    "pending_call_timeout": ("5", 5.0),
    "lookback_count": ("20", 20),
    "turn_timeout": ("90", 90.0),
    "early_response_timeout": ("2.5", 2.5),
    "keepalive_timeout": ("5", 5.0),
    "client_tools": ("attach", ClientTools.ATTACH),
    "client_tool_ttl": ("20", 20.0),
    "resume_timeout": ("0", 0.0),
    "repeat_ttl": ("0", 0.0),
}
#: Of which the name of the option is not the field's.
OPTIONS = {"early_response_timeout": "early_response", "keepalive_timeout": "keepalive"}
EXPECTED = TurnSettings(**{name: value for name, (_, value) in OTHER.items()})


def test_the_core_gets_them_all() -> None:
    assert OTHER.keys() == {field.name for field in attrs.fields(TurnSettings)}
    config = Settings(turns=EXPECTED).config()
    assert {name: getattr(config, name) for name in OTHER} == {
        name: value for name, (_, value) in OTHER.items()
    }


def test_by_default_they_are_the_cores_own() -> None:
    assert Settings().config() == Config()
    assert parsed(TurnSettings) == TurnSettings()


def test_options() -> None:
    words = [f"--{OPTIONS.get(name, name).replace('_', '-')}={text}" for name, (text, _) in OTHER.items()]
    assert parsed(TurnSettings, *words) == EXPECTED


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (text, _) in OTHER.items():
        monkeypatch.setenv(f"LETTA_PROXY_{OPTIONS.get(name, name).upper()}", text)
    assert parsed(TurnSettings) == EXPECTED
    assert parsed(TurnSettings, "--turn-timeout", "60") == attrs.evolve(EXPECTED, turn_timeout=60.0)


def test_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text(
        "queue-timeout = 7.5\nmax-queue-count = 3\nturn-timeout = 90\nresume-timeout = 0\nrepeat-ttl = 0\n"
        'client-tools = "attach"\nclient-tool-ttl = 20\nearly-response = 2.5\nkeepalive = 5\n'
        "pending-call-timeout = 5\nlookback-count = 20\n",
        encoding="utf-8",
    )
    assert parsed(TurnSettings, "--config", str(file)) == EXPECTED
    monkeypatch.setenv("LETTA_PROXY_QUEUE_TIMEOUT", "8")
    assert parsed(TurnSettings, "--config", str(file)) == attrs.evolve(EXPECTED, queue_timeout=8.0)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--queue-timeout", "-1", "Must be >= 0"),
        ("--queue-timeout", "nan", "Must be >= 0"),
        ("--max-queue-count", "-1", "Must be >= 0"),
        ("--turn-timeout", "0", "Must be > 0"),
        ("--early-response", "-1", "Must be >= 0"),
        ("--keepalive", "0", "Must be > 0"),
        ("--resume-timeout", "-0.1", "Must be >= 0"),
        ("--repeat-ttl", "soon", "unable to convert"),
    ],
)
def test_a_value_that_makes_no_sense_is_told(option: str, value: str, told: str) -> None:
    check_refused(option, value, told)


def test_a_wrong_value_ends_the_command() -> None:
    done = run("serve", "--turn-timeout", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "for --turn-timeout. Must be > 0." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        {"queue_timeout": -1.0},
        {"max_queue_count": -1},
        {"turn_timeout": 0.0},
        {"resume_timeout": -1.0},
        {"repeat_ttl": float("nan")},
    ],
)
def test_in_python_such_a_value_is_refused_by_its_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TurnSettings(**wrong)


def test_nobody_waits_if_the_operator_says_so() -> None:
    arguments = ("serve", "--max-queue-count", "0")
    with gated_letta() as letta, command(*arguments, "--letta-url", letta.url) as process:
        client = OpenAI(base_url=process.url, api_key="none", max_retries=0)
        with (
            client,
            client.chat.completions.create(
                model="Milo", messages=[{"role": "user", "content": "first"}], stream=True
            ) as first,
        ):
            while not next(first).choices[0].delta.content:
                pass
            with pytest.raises(ConflictError) as busy:
                client.chat.completions.create(model="Milo", messages=[{"role": "user", "content": "second"}])
            assert busy.value.code == "agent_busy"
            assert busy.value.response.headers["retry-after"] == "5"
            letta.gate.set()
            assert [chunk.choices[0].finish_reason for chunk in first][-1] == "stop"
