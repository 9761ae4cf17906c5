"""Importing a transport only needs its own library, and nothing of the server."""

import subprocess
import sys

import pytest

SERVERS = ("trio", "h11", "cyclopts", "structlog", "letta_server", "letta_client", "openai")


@pytest.mark.parametrize(("package", "other"), [("letta_httpx", "httpx2"), ("letta_httpx2", "httpx")])
def test_importing_one_imports_no_more(package: str, other: str) -> None:
    code = f"import sys, {package}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    assert package in loaded
    assert not loaded & {other, *SERVERS}


def test_the_shared_part_knows_neither() -> None:
    code = "import sys, letta_inprocess._transports; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not set(done.stdout.split()) & {"httpx", "httpx2", *SERVERS}
