"""`letta-proxy serve` as a process, as a user runs it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO, Final

from attrs import define, field

from live.rig import without_settings

START_TIMEOUT: Final = 30.0  # seconds until the base URL is printed
#: For clients that go on while another one's call is pending: they do not wait a minute.
SHORT_WAIT: Final = ("--pending-call-timeout", "1")
STOP_TIMEOUT: Final = 10.0  # seconds from SIGTERM to the end of the process
BASE_URL: Final = re.compile(r"http://127\.0\.0\.1:\d+/v1")

#: Every proxy started so far: a failed test shows what they printed.
started: "list[Proxy]" = []


@define(kw_only=True, eq=False)
class Proxy:
    """A serving proxy: where clients reach it, and what it has printed."""

    process: subprocess.Popen[str]
    base_url: str = ""
    lines: list[str] = field(factory=list)  #: of both outputs, as they came
    startup: str = ""  #: what was printed up to the base URL
    _found: threading.Event = field(factory=threading.Event)
    _readers: list[threading.Thread] = field(factory=list)

    @property
    def root_url(self) -> str:
        """The base URL without its ``/v1``."""
        return self.base_url.removesuffix("/v1")

    def wait_until_serving(self) -> None:
        """Wait for the line that names the base URL.

        :raises AssertionError: if none came in time, with what was printed instead.
        """
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        for stream, is_stdout in ((self.process.stdout, True), (self.process.stderr, False)):
            reader = threading.Thread(target=self._read, args=(stream, is_stdout), daemon=True)
            reader.start()
            self._readers.append(reader)
        self._found.wait(START_TIMEOUT)
        printed = "\n".join(self.lines)
        assert self.base_url, (
            f"`letta-proxy serve` printed no base URL within {START_TIMEOUT:.0f} s:\n{printed}"
        )

    def terminate(self) -> None:
        """Ask the process to end, as service managers do."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """Wait for the end of the process and of its output; return its exit code.

        :raises AssertionError: if it does not end by itself in time; it is killed then.
        """
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            printed = "\n".join(self.lines[-20:])
            raise AssertionError(f"the proxy did not end within {timeout:.0f} s:\n{printed}") from None
        finally:
            for reader in self._readers:
                reader.join()
        return code

    def _read(self, stream: IO[str], is_stdout: bool) -> None:
        with stream:
            for line in stream:
                self.lines.append(line.rstrip("\n"))
                if is_stdout and not self.base_url and (found := BASE_URL.search(line)):
                    self.base_url = found[0]
                    self.startup = "\n".join(self.lines)
                    self._found.set()
        self._found.set()  # nothing more will come


@contextlib.contextmanager
def serving(letta_url: str, *arguments: str, port: int = 0) -> Iterator[Proxy]:
    """Run a proxy inside the block, on a free port unless one is given; it has ended by itself afterwards.

    :raises AssertionError: if it does not start, or does not end with success.
    """
    command = (
        sys.executable,
        "-m",
        "letta_server",
        "serve",
        "--port",
        str(port),
        "--letta-url",
        letta_url,
        *arguments,
    )
    process = subprocess.Popen(
        command,
        env=without_settings(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    proxy = Proxy(process=process)
    started.append(proxy)
    try:
        proxy.wait_until_serving()
        yield proxy
    finally:
        proxy.terminate()
        code = proxy.wait()
    assert code == 0, f"the proxy ended with exit code {code}:\n" + "\n".join(proxy.lines[-20:])
