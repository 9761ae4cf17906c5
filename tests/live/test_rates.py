"""Rate limits that two servers share. Needs redis-server on the path, but no Letta."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest

ROOT = Path(__file__).parent.parent.parent
KEY = "alices-key-is-long-enough"

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


@contextmanager
def redis(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A store of its own, in memory."""
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
    process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=20)


@contextmanager
def server(store: str) -> Iterator[str]:
    """One of several servers with the same keys: the address of its models."""
    process = subprocess.Popen(
        [sys.executable, "-m", "letta_server", "serve", "--replay", str(ROOT / "fixtures" / "recordings"),
         "--port", "0", "--rate-store", store, "--rate", "4/hour"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={"LETTA_PROXY_KEYS": f"alice={KEY}"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        head = process.stdout.readline() + process.stdout.readline()
        found = re.search(r"http://\S+/v1", head)
        assert found is not None, process.stderr.read()
        yield f"{found.group()}/models"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
        said = process.stderr.read()
        process.stdout.close()
        process.stderr.close()
        assert KEY not in said
        assert "Traceback" not in said


def ask(url: str) -> tuple[int, str]:
    response = httpx2.get(url, headers={"authorization": f"Bearer {KEY}"})
    return response.status_code, response.headers["x-ratelimit-remaining-requests"]


def test_two_servers_count_together_and_alone_while_the_store_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ExitStack() as stack:
        store = stack.enter_context(redis(port))
        one, two = (stack.enter_context(server(f"redis://127.0.0.1:{port}/0")) for _ in range(2))
        assert [ask(url) for url in (one, two, one, two, one, two)] == [
            (200, "3"),
            (200, "2"),
            (200, "1"),
            (200, "0"),
            (429, "0"),
            (429, "0"),
        ]
        store.terminate()
        store.wait(timeout=20)
        assert [ask(url) for url in (one, two)] == [(200, "3"), (200, "3")]
