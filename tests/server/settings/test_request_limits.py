"""Limits of a request, from option or environment to the core."""

import pytest

from letta_server.settings.server import Settings
from letta_server.settings.service import ServiceOptions
from sansio_letta import Config

from ..parsed import check_refused, parsed

LIMITS = ("max_request_size", "max_value_count", "max_message_count", "max_part_count", "max_tool_count")


def option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@pytest.mark.parametrize("name", LIMITS)
def test_an_option_and_a_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert getattr(parsed(ServiceOptions), name) == getattr(Config(), name)
    monkeypatch.setenv(f"LETTA_PROXY_{name.upper()}", "3000")
    assert getattr(parsed(ServiceOptions), name) == 3000
    assert getattr(parsed(ServiceOptions, option(name), "20"), name) == 20


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_that_nothing_keeps_is_refused(name: str) -> None:
    check_refused(option(name), "0", "1")
    with pytest.raises(ValueError, match=name):
        Settings(**{name: 0})  # type: ignore[arg-type]


def test_the_core_gets_them_all() -> None:
    config = Settings(**{name: number for number, name in enumerate(LIMITS, 1)}).config()  # type: ignore[arg-type]
    assert [getattr(config, name) for name in LIMITS] == [1, 2, 3, 4, 5]
