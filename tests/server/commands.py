"""Runs `letta-proxy` as a person does."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from attrs import define

COMMAND = (sys.executable, "-m", "letta_server")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command to its end."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)


@define(eq=False)
class Command:
    """A server that runs."""

    process: subprocess.Popen[str]
    stdout: IO[str]
    url: str  #: its base URL

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code.

        :raises subprocess.TimeoutExpired: if it does not end by itself.
        """
        return self.process.wait(timeout=20)


@contextmanager
def command(*arguments: str) -> Iterator[Command]:
    """A server on a free port, killed at the end of the block if it is still there."""
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        head = [process.stdout.readline(), process.stdout.readline()]
        url = re.search(r"http://127\.0\.0\.1:\d+/v1", head[1])
        assert url is not None, (head, process.stderr.read())
        yield Command(process, process.stdout, url.group())
        if process.poll() is not None:
            assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@contextmanager
def running(*arguments: str) -> Iterator[tuple[str, IO[str]]]:
    """A server's base URL and its standard output; it must end by itself on SIGTERM."""
    with command(*arguments) as running:
        yield running.url, running.stdout
        running.send_signal(signal.SIGTERM)
        assert running.wait() == 0
