"""Runs `letta-proxy` as a user does."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from attrs import define

from letta_server.__main__ import main

COMMAND = (sys.executable, "-m", "letta_server")

#: Forks from a process that has imported the command line: an import takes a second of CPU, a fork some
#: milliseconds. What differs from `COMMAND` is the interpreter's own start, which `command` goes through.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["letta_server.cli.app", "letta_server.cli.serving", "letta_server.cli.letta"])


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command to its end."""
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder) / "stdout", Path(folder) / "stderr"
        process = _FORKS.Process(target=_main, args=(arguments, dict(os.environ), Path.cwd(), stdout, stderr))
        process.start()
        process.join(60)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, 60)
        printed = (output.read_bytes().decode() for output in (stdout, stderr))
        return subprocess.CompletedProcess(arguments, process.exitcode, *printed)


def _main(arguments: tuple[str, ...], environment: dict[str, str], folder: Path, *outputs: Path) -> None:
    """In the fork: what `python -m letta_server` does, with its own environment, folder and outputs."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, output in enumerate(outputs, start=1):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["letta-proxy", *arguments]
    main()


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
