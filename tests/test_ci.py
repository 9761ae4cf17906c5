"""What CI runs: its packages, its steps, its last lines. The commands that it calls are played."""

import shutil
import subprocess
from pathlib import Path

import pytest
from attrs import frozen

ROOT = Path(__file__).parent.parent
TOOLS = ("bash", "dirname", "timeout")


@frozen(kw_only=True)
class Machine:
    """A machine whose commands are these few."""

    commands: Path

    def has(self, name: str, script: str = "exit 0") -> None:
        """Add a command; what it is called with goes to its file of calls."""
        path = self.commands / name
        path.write_text(f'#!{shutil.which("bash")}\necho "$*" >> "$0.calls"\n{script}\n')
        path.chmod(0o755)

    def calls(self, name: str) -> list[str]:
        """Return the arguments of each call of a command."""
        path = self.commands / f"{name}.calls"
        return path.read_text().splitlines() if path.exists() else []

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script of CI there."""
        environment = {"PATH": str(self.commands)}
        command = (self.commands / "bash", ROOT / ".ci" / script)
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=30)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine that has what every Unix has."""
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / tool).symlink_to(found)
    return Machine(commands=tmp_path)


def as_root(machine: Machine) -> None:
    machine.has("id", "echo 0")
    machine.has("apt-get")


def test_what_is_there_is_not_installed(machine: Machine) -> None:
    as_root(machine)
    machine.has("google-chrome")
    machine.has("redis-server")
    done = machine.run("packages")
    assert (done.returncode, machine.calls("apt-get")) == (0, [])
    assert "nothing to install" in done.stdout


def test_root_installs_what_is_missing(machine: Machine) -> None:
    as_root(machine)
    machine.has("redis-server")
    done = machine.run("packages")
    assert (done.returncode, done.stdout) == (0, "missing, so installed now: chromium\n")
    update, install = machine.calls("apt-get")
    assert update.split()[0] == "update"
    assert install.split()[0] == "install"
    assert install.split()[-1] == "chromium"


def test_an_installation_that_fails_fails_the_step(machine: Machine) -> None:
    machine.has("id", "echo 0")
    machine.has("apt-get", '[ "$1" = update ]')
    assert machine.run("packages").returncode != 0


def test_who_is_not_root_is_told_what_to_install(machine: Machine) -> None:
    machine.has("id", "echo 1000")
    machine.has("apt-get")
    done = machine.run("packages")
    assert done.returncode == 1
    assert "missing: chromium redis-server; install them as root" in done.stderr
    assert machine.calls("apt-get") == []


def test_so_is_root_without_apt_get(machine: Machine) -> None:
    machine.has("id", "echo 0")
    done = machine.run("packages")
    assert done.returncode == 1
    assert "missing: chromium redis-server; install them as root" in done.stderr


def test_the_last_lines_name_and_count_the_steps(machine: Machine) -> None:
    machine.has("chromium")
    machine.has("redis-server")
    machine.has("make")
    done = machine.run("run")
    assert done.returncode == 0
    *_, steps, count = done.stdout.splitlines()
    assert steps.startswith("=== steps: what the tests take from Debian (passed); check (passed); docs")
    assert count == f"{len(machine.calls('make')) + 1} passed, 0 failed"


def test_a_step_that_fails_fails_the_run_behind_all_others(machine: Machine) -> None:
    machine.has("chromium")
    machine.has("redis-server")
    machine.has("make", '[ "$1" != docs ]')
    done = machine.run("run")
    assert done.returncode == 1
    *_, steps, count = done.stdout.splitlines()
    assert "docs, built strictly (FAILED); fuzzing" in steps
    calls = machine.calls("make")
    assert (calls[0], calls[-1]) == ("check", "open-webui")
    assert count == f"{len(calls)} passed, 1 failed"
