"""The server's policies, from option, environment or file to the core."""

from enum import Enum
from pathlib import Path
from typing import Any

import attrs
import pytest

from letta_server import PolicySettings, Settings
from sansio_letta import Approvals, Config
from sansio_letta.config import NamedTools
from sansio_letta.proxy.policies import POLICIES

from ..parsed import check_refused, parsed

#: Of each policy a value that is not the default.
OTHER: dict[str, Enum] = {
    name: next(value for value in policy.values if value is not getattr(Config(), policy.field))
    for name, policy in POLICIES.items()
}
EXPECTED = PolicySettings(**{name.replace("-", "_"): value for name, value in OTHER.items()})  # type: ignore[arg-type]
EVERY = pytest.mark.parametrize(("name", "value"), OTHER.items(), ids=OTHER)


def test_there_are_those_of_the_core() -> None:
    names = {field.name.replace("_", "-") for field in attrs.fields(PolicySettings)}
    assert names == POLICIES.keys()
    assert parsed(PolicySettings) == PolicySettings()
    assert Settings().config() == Config()


def test_the_core_gets_them_all() -> None:
    expected: dict[str, Any] = {POLICIES[name].field: value for name, value in OTHER.items()}
    assert Settings(policies=EXPECTED).config() == Config(**expected)


def test_options() -> None:
    assert parsed(PolicySettings, *(f"--{name}={value.value}" for name, value in OTHER.items())) == EXPECTED


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OTHER.items():
        monkeypatch.setenv(f"LETTA_PROXY_{name.replace('-', '_').upper()}", value.value)
    assert parsed(PolicySettings) == EXPECTED
    assert parsed(PolicySettings, "--approvals", "deny") == attrs.evolve(EXPECTED, approvals=Approvals.DENY)


def test_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text("".join(f'{name} = "{value.value}"\n' for name, value in OTHER.items()), encoding="utf-8")
    assert parsed(PolicySettings, "--config", str(file)) == EXPECTED
    monkeypatch.setenv("LETTA_PROXY_APPROVALS", "deny")
    found = parsed(PolicySettings, "--config", str(file))
    assert found == attrs.evolve(EXPECTED, approvals=Approvals.DENY)


@pytest.mark.parametrize("text", ["Bash,Read", " Bash  Read"])
def test_the_agents_tools_can_be_named(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = PolicySettings(agent_tools=NamedTools(("Bash", "Read")))
    assert parsed(PolicySettings, "--agent-tools", text) == expected
    file = tmp_path / "proxy.toml"
    file.write_text(f'agent-tools = "{text}"\n', encoding="utf-8")
    assert parsed(PolicySettings, "--config", str(file)) == expected
    monkeypatch.setenv("LETTA_PROXY_AGENT_TOOLS", text)
    assert parsed(PolicySettings) == expected
    assert Settings(policies=expected).config() == Config(agent_tools=NamedTools(("Bash", "Read")))


@EVERY
@pytest.mark.parametrize("wrong", ["some times?", ""])
def test_a_value_that_there_is_not_is_told(name: str, value: Enum, wrong: str) -> None:
    check_refused(f"--{name}", wrong, "Choose from: ")
