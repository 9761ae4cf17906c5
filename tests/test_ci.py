"""CI: its packages, its steps and their order, its last lines, with its commands replaced."""

import importlib.util
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from attrs import define, field, frozen

ROOT = Path(__file__).parent.parent
TOOLS = ("bash", "dirname")


@frozen(kw_only=True)
class Machine:
    """A machine whose commands are these few."""

    commands: Path
    cache: Path

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
        environment = {"PATH": str(self.commands), "XDG_CACHE_HOME": str(self.cache)}
        command = (self.commands / "bash", ROOT / ".ci" / script)
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=30)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine that has what every Unix has."""
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / tool).symlink_to(found)
    (tmp_path / "python3").symlink_to(os.path.realpath(sys.executable))
    return Machine(commands=tmp_path, cache=tmp_path / "cache")


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


def ready(machine: Machine) -> None:
    """All commands are there, and take no time."""
    for name in ("chromium", "redis-server", "make"):
        machine.has(name)
    machine.has("git", "echo 00000000aaaa")


def test_the_last_lines_name_and_count_the_steps(machine: Machine) -> None:
    ready(machine)
    done = machine.run("run")
    assert (done.returncode, done.stderr) == (0, "")
    *_, steps, count = done.stdout.splitlines()
    assert steps.startswith("=== steps, ")
    assert "what the tests take from Debian (passed in 0 s); check (passed in 0 s); docs" in steps
    calls = machine.calls("make")
    assert calls[:3] == ["check", "docs", "live PART=1/8"]
    assert count == f"{len(calls) + 1} passed, 0 failed"


def test_a_step_that_fails_fails_the_run_behind_all_others(machine: Machine) -> None:
    ready(machine)
    machine.has("make", '[ "$1" != docs ]')
    done = machine.run("run")
    assert done.returncode == 1
    *_, steps, count = done.stdout.splitlines()
    assert "docs, built strictly (FAILED (exit 1) after 0 s); live" in steps
    calls = machine.calls("make")
    assert (calls[0], calls[-1]) == ("check", "live-clients")
    assert count == f"{len(calls)} passed, 1 failed"


def test_whose_turn_it_was_is_kept_outside_the_clone(machine: Machine) -> None:
    ready(machine)
    for number in (1, 2):
        machine.run("run")
        noted = json.loads((machine.cache / "letta-proxy" / "ci.json").read_text())
        assert (noted["run"], set(noted["last"].values())) == (number, {number})


@pytest.mark.parametrize("content", ["", "[]", "{", '{"run": "x", "last": {}}', '{"run": 1, "last": [1]}'])
def test_a_file_that_cannot_be_read_is_none(machine: Machine, content: str) -> None:
    ready(machine)
    kept = machine.cache / "letta-proxy" / "ci.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(content)
    assert machine.run("run").returncode == 0
    assert json.loads(kept.read_text())["run"] == 1


def test_where_nothing_can_be_kept_the_run_goes_on_and_says_so(machine: Machine) -> None:
    ready(machine)
    machine.cache.write_text("a file")
    done = machine.run("run")
    assert done.returncode == 0
    assert "whose turn it was is not kept" in done.stdout


# --- The time, which is played as well


@define
class Clock:
    """A machine so much slower than a fast one, on which steps take their time."""

    ci: Any
    slowness: float = 1.0
    fails: str = ""
    hangs: str = ""
    now: float = 0.0
    names: list[str] = field(factory=list)
    has: set[str] = field(factory=set)
    last: list[str] = field(factory=list)

    def call(self, command: Sequence[str], limit: float) -> str | None:
        steps = {step.command: step for step in (*self.ci.ALWAYS, *self.ci.SLOW)}
        if (step := steps.get(tuple(command))) is None:
            return None
        self.names.append(step.name)
        ups = sum(self.ci.SET_UPS[name] for name in step.needs if name not in self.has)
        self.has.update(step.needs)
        # The seconds of `check` are those that say how slow it is.
        usual = self.ci.CHECK_SECONDS if step.name == "check" else step.seconds + ups
        took = limit if step.name == self.hangs else self.slowness * usual
        self.now += min(took, limit)
        return "exit 1" if step.name == self.fails or took >= limit else None


@pytest.fixture
def ci(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """The script as a module, with a file of its own to note turns in."""
    spec = importlib.util.spec_from_file_location("ci_steps", ROOT / ".ci" / "steps.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ci_steps", module)
    spec.loader.exec_module(module)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module.signal, "signal", lambda *_: None)
    return module


@pytest.fixture
def played(ci: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run CI once on a played machine: the exit code and the clock with the steps and last lines."""

    def run(*, start: int = 0, **more: Any) -> tuple[int, Clock]:
        clock = Clock(ci=ci, **more)
        monkeypatch.setattr(ci, "call", clock.call)
        monkeypatch.setattr(ci, "starting_point", lambda: start)
        monkeypatch.setattr(ci.time, "monotonic", lambda: clock.now)
        monkeypatch.setattr(ci.sys.stdout, "reconfigure", lambda **_: None, raising=False)
        code = ci.main()
        clock.last = capsys.readouterr().out.splitlines()[-3:]
        return code, clock

    return run


@pytest.mark.parametrize(("slowness", "minutes"), [(1.0, 30), (2.0, 60), (3.0, 85), (6.0, 90)])
def test_it_ends_in_time_however_slow_the_machine_is(played: Any, slowness: float, minutes: int) -> None:
    code, clock = played(slowness=slowness)
    assert clock.now < minutes * 60
    if slowness <= 3:
        assert (code, len(clock.names) > 5) == (0, True)


def test_who_had_no_turn_is_named_and_goes_first_the_next_time(ci: Any, played: Any) -> None:
    every, runs = [step.name for step in ci.SLOW], list[list[str]]()
    for _ in range(7):
        code, clock = played()
        waiting = [name for name in every if name not in clock.names]
        assert code == 0
        _, named, count = clock.last
        assert named.startswith("=== no time was left for these, which go first the next time: ")
        assert sorted(named.split(": ", 1)[1].split("; ")) == sorted(waiting)
        assert count == f"{len(clock.names)} passed, 0 failed"
        if runs:
            # None of those that had their turn comes before one that had not.
            first = [name for name in clock.names[3:] if name in runs[-1]]
            assert clock.names[3 : 3 + len(first)] == first
        runs.append(waiting)
    assert set.intersection(*map(set, runs)) == set()


def test_on_machines_without_a_memory_each_step_gets_its_turn(
    ci: Any, played: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = set()
    for start in range(len(ci.SLOW)):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(start)))
        _, clock = played(start=start)
        assert clock.names[3] == ci.SLOW[start].name
        seen |= set(clock.names)
    assert seen >= {step.name for step in ci.SLOW}


def test_a_slow_step_that_fails_fails_the_run_and_keeps_nobody_back(ci: Any, played: Any) -> None:
    name = ci.SLOW[2].name
    code, clock = played(fails=name)
    assert code == 1
    assert clock.names.index(name) < len(clock.names) - 1
    steps, _, count = clock.last
    assert f"{name} (FAILED (exit 1) after" in steps
    assert count == f"{len(clock.names) - 1} passed, 1 failed"


@pytest.mark.parametrize("slowness", [1.0, 3.0])
def test_a_step_that_hangs_is_ended_before_it_costs_the_run(ci: Any, played: Any, slowness: float) -> None:
    code, clock = played(hangs=ci.SLOW[0].name, slowness=slowness)
    assert code == 1
    assert clock.now < 90 * 60


def test_what_a_step_has_started_ends_with_it(ci: Any, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert ci.call(("bash", "-c", f"exec 3>{pipe}; sleep 60 & sleep 60"), 0.5) == "not over within 0 s"
    # While one of them lives, the pipe has a writer and no end.
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    assert poll.poll(10_000)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_command_that_is_not_there_is_a_failure(ci: Any) -> None:
    assert "No such file" in ci.call(("/nowhere/make", "check"), 1.0)
