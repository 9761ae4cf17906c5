"""Third-party programs: installed once, in environments of their own, and run in a scratch folder.

They get no network but this machine's: whatever they ask of another host ends at a closed port. Their home is
in the scratch folder, too, and of our own environment they see the search path alone.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import frozen

from live.rig import answers

INSTALL_TIMEOUT: Final = 1_200.0  # seconds; Open WebUI brings seven gigabytes, the others take a minute
RUN_TIMEOUT: Final = 120.0  # seconds; each run here takes about ten
START_TIMEOUT: Final = 120.0  # seconds; Open WebUI takes about forty
STOP_TIMEOUT: Final = 20.0  # seconds from SIGTERM to SIGKILL
POLL_INTERVAL: Final = 0.2
UV: Final = "uv==0.13.9"
OLDEST_NODE: Final = 20
SCRIPTS: Final = Path(__file__).with_name("inside")
NOWHERE: Final = "http://127.0.0.1:9"  # the port of discard, which nobody serves any more
ONLY_THIS_MACHINE: Final = {
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), NOWHERE),
    **dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost"),
}


def install_pypi(root: Path, *requirements: str, python: str = sys.executable) -> Path:
    """Return the folder with the commands of these packages, installed below `root` on first use.

    uv installs them: it finds in seconds which versions fit together, where pip takes ten minutes for some.

    :param requirements: with their versions, e.g. ``aider-chat==0.86.2``.
    :param python: which Python they run with.
    """
    folder = root / _key(*requirements, python, sys.version)
    if not _is_whole(folder):
        uv = _uv(root)
        _step(root, requirements, uv, "venv", "--quiet", "--clear", "--seed", "--python", python, str(folder))
        _step(root, requirements, uv, "pip", "install", "--quiet", "--python", str(folder), *requirements)
        _mark_whole(folder)
    return folder / "bin"


def find_python(*versions: str) -> str | None:
    """Return a Python of one of these versions, e.g. ``3.12``, that is installed here, or None."""
    for version in versions:
        found = [shutil.which(f"python{version}")]
        found += map(str, sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))
        for path in found:
            # A shim of pyenv's is there for versions that are not chosen, too, and fails.
            if path and subprocess.run((path, "--version"), capture_output=True).returncode == 0:
                return path
    return None


def _uv(root: Path) -> str:
    folder = root / _key(UV)
    if not _is_whole(folder):
        _step(root, (UV,), sys.executable, "-m", "venv", "--clear", str(folder))
        pip = (str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        _step(root, (UV,), *pip, UV)
        _mark_whole(folder)
    return str(folder / "bin" / "uv")


def install_npm(root: Path, *requirements: str) -> Path:
    """Return the folder whose ``node_modules`` has these packages, installed below `root` on first use.

    :param requirements: with their versions, e.g. ``opencode-ai@1.18.33``.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.fail(
            f"{requirements[0]} needs node {OLDEST_NODE} or later, and npm: install them", pytrace=False
        )
    version = subprocess.run((node, "--version"), capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        pytest.fail(f"{requirements[0]} needs node {OLDEST_NODE} or later, this is {version}", pytrace=False)
    folder = root / _key(*requirements, version)
    if not _is_whole(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package.json").write_text('{"private": true, "type": "module"}\n')
        _step(folder, requirements, npm, "install", "--no-audit", "--no-fund", *requirements)
        _mark_whole(folder)
    return folder


@frozen(kw_only=True)
class Desk:
    """Where a program works: a folder of files, and a home of its own."""

    home: Path
    files: Path

    @classmethod
    def inside(cls, folder: Path) -> "Desk":
        """Make an empty desk in a folder."""
        desk = cls(home=folder / "home", files=folder / "files")
        desk.home.mkdir()
        desk.files.mkdir()
        return desk

    def write(self, name: str, text: str) -> Path:
        """Put a file on the desk."""
        path = self.files / name
        path.write_text(text, encoding="utf-8")
        return path

    def environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Return the settings, with a home, the search path, and no way to other machines."""
        own = {"HOME": str(self.home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TERM": "dumb"}
        return {**own, **ONLY_THIS_MACHINE, **settings}

    def run(self, *command: str | Path, said: str = "", settings: Mapping[str, str] | None = None) -> str:
        """Run a program to its end; return what it printed to both outputs.

        :param said: its standard input.
        :param settings: its environment, beside its home and the search path.
        :raises Failed: if it ends with an error, or not within `RUN_TIMEOUT` seconds; with what it printed.
        """
        name = Path(command[0]).name
        process = subprocess.Popen(
            command,
            cwd=self.files,
            env=self.environment(settings or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # a group of its own: it is ended with what it starts
        )
        try:
            printed, _ = process.communicate(said, timeout=RUN_TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            printed, _ = process.communicate()
            pytest.fail(f"{name} did not end within {RUN_TIMEOUT:.0f} s:\n{printed}", pytrace=False)
        if process.returncode != 0:
            pytest.fail(f"{name} ended with {process.returncode}:\n{printed}", pytrace=False)
        return printed

    def run_script(
        self, programs: Path, name: str, *arguments: str, settings: Mapping[str, str] | None = None
    ) -> Any:
        """Run one of our scripts in a library's environment; return the JSON that it prints behind ``=>``.

        :param programs: the folder with that environment's Python, as `install_pypi` returns it.
        :param name: of a file in ``inside``.
        :raises Failed: as `run` does.
        """
        printed = self.run(programs / "python", SCRIPTS / name, *arguments, settings=settings)
        (result,) = [line.removeprefix("=> ") for line in printed.splitlines() if line.startswith("=> ")]
        return json.loads(result)


@contextlib.contextmanager
def serving(desk: Desk, *command: str | Path, ready_url: str, settings: Mapping[str, str]) -> Iterator[None]:
    """Have a server of somebody else's up inside the block.

    :param ready_url: what answers with success once it is.
    :raises Failed: if it ends before, or is not up within `START_TIMEOUT` seconds; with what it printed.
    """
    name, log = Path(command[0]).name, desk.home / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=desk.files,
            env=desk.environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while not answers(ready_url):
            if process.poll() is not None or time.monotonic() > deadline:
                printed = log.read_text(errors="replace")
                pytest.fail(f"{name} is not up within {START_TIMEOUT:.0f} s:\n{printed}", pytrace=False)
            time.sleep(POLL_INTERVAL)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _step(folder: Path, requirements: Sequence[str], *command: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    wanted = " ".join(requirements)
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            timeout=INSTALL_TIMEOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        pytest.fail(f"{wanted} could not be installed within {INSTALL_TIMEOUT:.0f} s", pytrace=False)
    if done.returncode != 0:
        pytest.fail(f"{wanted} cannot be installed:\n{done.stdout[-4000:]}", pytrace=False)


def _key(*parts: str) -> str:
    name = "".join(letter if letter.isalnum() else "-" for letter in parts[0]).strip("-")
    return f"{name}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:8]}"


def _is_whole(folder: Path) -> bool:
    return (folder / "whole").exists()


def _mark_whole(folder: Path) -> None:
    (folder / "whole").touch()
