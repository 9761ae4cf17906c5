"""Imports are lazy: a command that does not serve does not import a server."""

import subprocess
import sys

import pytest

import letta_server

SERVERS = {"trio", "h11", "structlog", "limits"}


def imported(code: str) -> set[str]:
    code = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.splitlines()[-1].split())


def test_the_command_line_is_read_without_a_server() -> None:
    assert not imported("import letta_server.cli.app") & SERVERS


def test_a_server_is_imported_when_it_is_used() -> None:
    assert {"trio", "h11", "structlog"} <= imported("from letta_server import serve")


def test_each_public_name_can_be_imported() -> None:
    assert set(letta_server.__all__) == letta_server._MODULES.keys()
    for name in letta_server.__all__:
        assert getattr(letta_server, name).__name__ == name


def test_no_other_name_can() -> None:
    with pytest.raises(AttributeError, match="module 'letta_server' has no attribute 'nonsense'"):
        letta_server.nonsense  # type: ignore[attr-defined]  # noqa: B018
