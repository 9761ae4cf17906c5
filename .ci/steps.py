"""What CI runs, and how the time is shared out.

Three steps always run: Debian's packages, `make check`, the docs. The slow steps share what is left of BUDGET.
A step begins only if there is time for it; what did not get its turn is named at the end, and goes first then.
The order is kept in a file outside the clone. On a machine that has no such file the commit decides which step
begins, so that each gets its turn some time.

A step that fails does not keep the others from running. Times are those of a fast machine: how long `make
check` took tells how much slower this one is, and the budget grows by as much, up to LAST_CALL.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: Seconds for everything on a fast machine.
BUDGET = 1_680.0
#: Seconds after which no step begins, however slow the machine is, and after which none goes on.
LAST_CALL, CLOSING = 4_800.0, 5_100.0
#: Seconds that `make check` takes on a fast machine, and how much slower another may be.
CHECK_SECONDS, MAX_SLOWNESS = 240.0, 3.0
#: How many times its usual time a step is given before it is ended.
PATIENCE = 4.0
#: Seconds for what several steps need: the first of them installs it.
SET_UPS = {"letta": 180.0, "letta-code": 60.0, "node": 60.0, "open-webui": 180.0}


@dataclass(frozen=True)
class Step:
    """One command, and the seconds that it usually takes on a fast machine.

    :param needs: which of SET_UPS it uses.
    :param after: what is run when it had to be ended.
    """

    name: str
    command: Sequence[str]
    seconds: float
    needs: Sequence[str] = ()
    after: Sequence[str] = ()


def live(name: str, *command: str) -> Step:
    """A step with a real Letta, which is stopped whatever happens."""
    stop = (".venv/bin/python", "tests/live/rig.py", "down")
    return Step(f"live, {name}", command, 260, needs=("letta",), after=stop)


ALWAYS = (
    Step("what the tests take from Debian", (".ci/packages",), 200),
    Step("check", ("make", "check"), 300),
    Step("docs, built strictly", ("make", "docs"), 100),
)
APP_SERVER = Step(
    "live, an App Server",
    ("make", "live-app-server"),
    260,
    needs=("letta-code",),
    after=(".venv/bin/python", "tests/app_server_live/rig.py", "down"),
)
#: By what they are worth, and mixed: those that fit into one run should be of several kinds.
SLOW = (
    live("part 1 of 8", "make", "live", "PART=1/8"),
    Step("thorough, with coverage", ("make", "thorough"), 800),
    live("part 2 of 8", "make", "live", "PART=2/8"),
    Step("load: 1,000 streams, 2 minutes of mixed traffic", ("make", "load", "MINUTES=2"), 210),
    Step("programs, part 1 of 3", ("make", "programs", "PART=1/3"), 260, needs=("letta", "node")),
    live("part 3 of 8", "make", "live", "PART=3/8"),
    Step("client libraries in-process", ("make", "clients"), 150),
    live("part 4 of 8", "make", "live", "PART=4/8"),
    Step("fuzzing, 25 s a target", ("make", "fuzz", "SECONDS=25"), 150),
    live("part 5 of 8", "make", "live", "PART=5/8"),
    APP_SERVER,
    Step("Open WebUI in a headless browser", ("make", "open-webui"), 340, needs=("letta", "open-webui")),
    Step("programs, part 2 of 3", ("make", "programs", "PART=2/3"), 260, needs=("letta", "node")),
    live("part 6 of 8", "make", "live", "PART=6/8"),
    Step("programs, part 3 of 3", ("make", "programs", "PART=3/3"), 260, needs=("letta", "node")),
    live("part 7 of 8", "make", "live", "PART=7/8"),
    live("part 8 of 8", "make", "live", "PART=8/8"),
    live("client libraries in-process", "make", "live-clients"),
)


@dataclass
class Turns:
    """In which run each slow step had its turn last, in a file that outlives the clone."""

    path: Path
    run: int = 1
    last: dict[str, int] = field(default_factory=dict)

    def read(self) -> None:
        """Take up what earlier runs have noted; what cannot be read is as if there was none."""
        try:
            noted = json.loads(self.path.read_text())
            self.run, self.last = int(noted["run"]) + 1, {name: int(run) for name, run in noted["last"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return

    def note(self, name: str) -> None:
        """A step has its turn now."""
        self.last[name] = self.run
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = self.path.with_suffix(".new")
            new.write_text(json.dumps({"run": self.run, "last": self.last}, indent=1))
            new.replace(self.path)
        except OSError as exc:
            print(f"=== whose turn it was is not kept: {exc}")

    def order(self, steps: Sequence[Step], start: int) -> list[Step]:
        """The steps, those that have waited longest first; of equals, those from `start` on."""
        turned = [steps[(start + number) % len(steps)] for number in range(len(steps))]
        return sorted(turned, key=lambda step: self.last.get(step.name, 0))


@dataclass
class Run:
    """One run of CI: what has passed, what has failed, and how much time there is.

    :param slowness: of this machine, as `make check` has shown it.
    """

    began: float
    slowness: float = 1.0
    results: list[str] = field(default_factory=list)
    passed: int = 0
    failed: int = 0
    has: set[str] = field(default_factory=set)

    @property
    def used(self) -> float:
        return time.monotonic() - self.began

    def expected(self, step: Step) -> float:
        """Seconds that a step will take here."""
        return self.slowness * (
            step.seconds + sum(SET_UPS[name] for name in step.needs if name not in self.has)
        )

    def fits(self, step: Step) -> bool:
        """Whether there is time for it."""
        return self.used + self.expected(step) <= min(BUDGET * self.slowness, LAST_CALL)

    def carry_out(self, step: Step) -> float:
        """Run a step within its limit; return the seconds that it took."""
        limit = max(1.0, min(PATIENCE * self.expected(step), CLOSING - self.used))
        print(f"\n=== {step.name} (at most {limit:.0f} s): {' '.join(step.command)}")
        began = time.monotonic()
        failure = call(step.command, limit)
        took = time.monotonic() - began
        if failure is None:
            self.passed += 1
            self.has.update(step.needs)
        else:
            self.failed += 1
            if step.after:
                call(step.after, 60.0)
        result = f"passed in {took:.0f} s" if failure is None else f"FAILED ({failure}) after {took:.0f} s"
        print(f"=== {step.name}: {result}")
        self.results.append(f"{step.name} ({result})")
        return took


def call(command: Sequence[str], limit: float) -> str | None:
    """Run a command with all that it starts; return how it failed."""
    try:
        process = subprocess.Popen(command, start_new_session=True)
    except OSError as exc:
        return str(exc)
    try:
        code = process.wait(limit)
        return f"exit {code}" if code else None
    except subprocess.TimeoutExpired:
        end(process)
        return f"not over within {limit:.0f} s"
    except BaseException:
        end(process)
        raise


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a command and what it has started: with a warning first."""
    for number, patience in ((signal.SIGTERM, 30.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def state_file() -> Path:
    """Where the order is kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "letta-proxy" / "ci.json"


def starting_point() -> int:
    """A number that differs from commit to commit, or else from day to day."""
    try:
        head = subprocess.run(("git", "rev-parse", "HEAD"), capture_output=True, text=True, check=True).stdout
        return int(head.strip()[:8], 16)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return int(time.time() // 86_400)


def main() -> int:
    """Run all that there is time for; the exit code says whether something failed."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what steps print comes between
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the step under way, too
    run, turns = Run(time.monotonic()), Turns(state_file())
    turns.read()
    for step in ALWAYS:
        took = run.carry_out(step)
        if step.name == "check":
            run.slowness = min(max(1.0, took / CHECK_SECONDS), MAX_SLOWNESS)
            print(f"=== this machine counts as {run.slowness:.1f} times slower than a fast one")
    waiting = []
    for step in turns.order(SLOW, starting_point()):
        if run.fits(step):
            turns.note(step.name)
            run.carry_out(step)
        else:
            waiting.append(step.name)
    print(f"\n=== steps, {run.used:.0f} s in all: {'; '.join(run.results)}")
    if waiting:
        print(f"=== no time was left for these, which go first the next time: {'; '.join(waiting)}")
    print(f"{run.passed} passed, {run.failed} failed")
    return int(run.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
