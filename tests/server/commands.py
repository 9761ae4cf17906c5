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
    stderr: IO[str]
    url: str  #: its base URL

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ends_well(self) -> None:
        """Wait for its end, which must come by itself, with success and without a traceback."""
        code, printed = self.process.wait(timeout=20), self.stderr.read()
        assert (code, "Traceback" in printed) == (0, False), printed


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command under way, for a block that sees it end."""
    with subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


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
        yield Command(process, process.stdout, process.stderr, url.group())
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
        running.ends_well()
