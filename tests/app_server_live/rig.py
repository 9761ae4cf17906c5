#!/usr/bin/env python3
"""A real App Server, which is Letta Code's server, on this machine, with a scripted model behind it.

::

    python tests/app_server_live/rig.py up     install (once), start, wait until it answers, print its URL
    python tests/app_server_live/rig.py down   stop what `up` started
    python tests/app_server_live/rig.py log    print the end of each log

Options: ``--root DIR``, ``--port N``, ``--model-port N``; their defaults can be set in the environment, as
APP_SERVER_LIVE_ROOT, APP_SERVER_LIVE_PORT and APP_SERVER_LIVE_MODEL_PORT, for the tests, too.

Everything lives under the root: an environment with Letta Code from PyPI, which brings its own node, a home
folder for the server, logs, and ``rig.json`` with the processes. Each start has a new home folder, without
agents and conversations; `restart` keeps it. The model is that of the rig for the V1 server.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))

from live.rig import Process, Rig, main, process_stamp, stop, without_settings  # noqa: E402

REQUIREMENTS: Final = HERE / "requirements.txt"
LETTA_VERSION: Final = "0.34.12"

# The server ends itself, silently, within a second of its parent's end, unless it had none from the start. So
# the program begins once it belongs to the process that adopts orphans.
START_DETACHED: Final = """
import os
import sys
import time

starter = os.getpid()
if child := os.fork():
    print(child, flush=True)
    os._exit(0)
os.setsid()
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(log, 1)
os.dup2(log, 2)
while os.getppid() == starter:
    time.sleep(0.01)
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, kw_only=True)
class AppServerRig(Rig):
    """Where the rig lives and which ports it takes."""

    @property
    def url(self) -> str:
        """The server's base URL for requests, such as those about its health."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        """The server's URL as the proxy takes it."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def letta(self) -> Path:
        """Letta Code's command."""
        return self.root / "venv" / "bin" / "letta"

    @property
    def home(self) -> Path:
        """The home folder of the server: its agents, conversations and settings."""
        return self.root / "home"

    def install(self) -> None:
        """Make the environment, unless these very requirements are installed already.

        :raises RigError: if a step fails.
        """
        wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + LETTA_VERSION.encode()).hexdigest()
        mark = self.root / "installed"
        if mark.exists() and mark.read_text() == wanted:
            return
        mark.unlink(missing_ok=True)
        print(f"installing Letta Code {LETTA_VERSION} into {self.root}: about a minute, once", file=sys.stderr)
        self._run("install", sys.executable, "-m", "venv", "--clear", self.root / "venv")
        install = (self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        self._run("install", *install, f"letta=={LETTA_VERSION}", "--requirement", REQUIREMENTS)
        mark.write_text(wanted)

    def restart(self) -> None:
        """Stop the server alone, and start it again with the agents and conversations that it has.

        :raises RigError: if it does not answer in time.
        """
        with self._locked():
            stop([self._read_state()["letta"]])
            self._start_server()
            self._wait_until_ready()

    def _start_all(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir()
        model = HERE.parent / "live" / "scripted_model.py"
        self._start("model", self.python, model, str(self.model_port), environment=self._environment)
        self._wait_until_ready(f"{self.model_url}/v1/models")
        # Without a local backend's provider there is no model; the key is not read.
        provider = ("connect", "openai-compatible", "--base-url", f"{self.model_url}/v1", "--api-key", "none")
        command = (self.letta, *provider, "--backend", "local")
        self._run("connect", *command, environment=self._environment)
        self._start_server()
        self._wait_until_ready()

    def _start_server(self) -> None:
        listening = ("--backend", "local", "--listen", self.ws_url)
        self._start("letta", self.letta, "server", *listening, environment=self._environment)

    @property
    def _environment(self) -> dict[str, str]:
        # A home of its own keeps that of the user clean; without a key nothing goes to Letta Cloud.
        own = {"HOME": str(self.home), "LETTA_CODE_TELEM": "0", "DISABLE_AUTOUPDATER": "1", "NO_COLOR": "1"}
        return {**without_settings(os.environ), **own}

    def _start(self, name: str, *command: str | Path, environment: Mapping[str, str]) -> None:
        log = self._log_path(name)
        log.unlink(missing_ok=True)
        done = subprocess.run(
            (sys.executable, "-c", START_DETACHED, log, *command),
            cwd=self.home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        pid = int(done.stdout)
        self._note(name, Process(pid=pid, stamp=process_stamp(pid)))

    def _ready_urls(self) -> tuple[str, ...]:
        return f"{self.url}/healthz", f"{self.model_url}/v1/models"


def from_environment() -> AppServerRig:
    """Describe the rig of this machine: the defaults, or what the environment says."""
    root = os.environ.get("APP_SERVER_LIVE_ROOT") or Path(tempfile.gettempdir()) / "app-server-live"
    port = int(os.environ.get("APP_SERVER_LIVE_PORT") or 4540)
    model_port = int(os.environ.get("APP_SERVER_LIVE_MODEL_PORT") or 9110)
    return AppServerRig(root=Path(root).resolve(), port=port, model_port=model_port)


if __name__ == "__main__":
    sys.exit(main(from_environment(), __doc__))
