"""Put letta-proxy under load: `python tests/load/run.py [--minutes M] [--streams N] [--json OUT] [--seed S]`.

Two parts, each in front of a proxy just started, everything on loopback:

- crowd: N streams at once for a minute, one event a second each (fast_letta.py and load.py of tests/bench).
- mixed: M minutes of people, tools, faults, repeats, rubbish, leaving and slow clients (traffic.py, letta.py).

What fails it, with exit code 1: an error that was not asked for; a text that an agent's memory has twice; a
run that goes on without a reader; a task, or more sockets than the pool keeps, that is left; memory that grows
by more than its bound; a defect in the log. A table comes to stdout, and JSON to OUT.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field, frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE: Final = Path(__file__).resolve().parent
BENCH: Final = HERE.parent / "bench"
START_TIMEOUT: Final = 30.0
SETTLE_TIMEOUT: Final = 30.0  #: until what was left behind has ended: more than a cancel and a drain may take
#: Runs that go on without a reader.
MAX_LOST_RUNS: Final = 0
#: 1,000 streams are 2,000 sockets in the proxy.
OPEN_FILES_COUNT: Final = 16_384
#: What `LettaPool` keeps for the next request: these sockets are no leak.
POOL_COUNT: Final = 32
#: Share of the time until memory is expected to be level: pools, caches and the allocator's arenas fill first.
WARM_UP_SHARE: Final = 0.4
#: What is remembered for repeats is forgotten after five minutes: a long run is level once that has begun.
WARM_UP_SECONDS: Final = 330.0
#: Growth beyond it is a leak: an answer is kept, a task or a buffer for each so many requests. An answer of the
#: mixed traffic has 5 KiB on the average, so one kept for each request is found within a minute. CPython gives
#: arenas back late, and a run of two minutes has that much noise. Turns that broke off, and answers for clients
#: that say when they repeat, are remembered for five minutes: a short run ends before they are forgotten.
MAX_GROWTH_PER_REQUEST_KIB: Final = 2.0
#: While a turn runs, what it has said is kept for a repeat that may join: 60 events of some 130 bytes a minute.
MAX_GROWTH_PER_STREAM_KIB: Final = 8.0
#: Or in sum, for long runs at any rate: 32 MiB an hour fill no machine in a day.
MAX_GROWTH_PER_HOUR_KIB: Final = 32 * 1024
LONG_MINUTES: Final = 10.0  #: from here on the second bound holds as well
WORKER_COUNT: Final = 40


@frozen
class Sample:
    """One look at the proxy's process."""

    at: float
    rss_kib: int


@define
class Watch:
    """Looks at a process each second, on a thread."""

    pid: int
    samples: list[Sample] = field(factory=list)
    _ended: threading.Event = field(factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        assert self._thread is not None
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(1.0):
            self.samples.append(Sample(time.monotonic(), rss_kib(self.pid)))

    def slope(self) -> float:
        """KiB a second, by least squares over all samples after the warm-up."""
        began, ended = self.samples[0].at, self.samples[-1].at
        warm_up = WARM_UP_SHARE * (ended - began)
        if ended - began >= LONG_MINUTES * 60:
            warm_up = max(warm_up, WARM_UP_SECONDS)
        level = [item for item in self.samples if item.at >= began + warm_up]
        mean_at = sum(item.at for item in level) / len(level)
        mean = sum(item.rss_kib for item in level) / len(level)
        spread = sum((item.at - mean_at) ** 2 for item in level)
        return sum((item.at - mean_at) * (item.rss_kib - mean) for item in level) / (spread or 1.0)


def rss_kib(pid: int) -> int:
    """The resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def file_count(pid: int) -> int:
    """The open files of a process, sockets included."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@define
class Process:
    """A Python program of ours that says its URL first."""

    program: subprocess.Popen[str]
    url: str

    @property
    def pid(self) -> int:
        return self.program.pid

    def task_count(self) -> int:
        """The number of tasks in it."""
        self.program.send_signal(signal.SIGUSR1)
        assert self.program.stdout is not None
        return int(self.program.stdout.readline())


@contextlib.contextmanager
def started(*command: str | Path, **environment: str) -> Iterator[Process]:
    """Have a program running."""
    program = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert program.stdout is not None
        yield Process(program, program.stdout.readline().strip())
    finally:
        program.terminate()
        program.wait(START_TIMEOUT)
        if program.stdout is not None:
            program.stdout.close()


@contextlib.contextmanager
def proxy(letta_url: str) -> Iterator[tuple[Process, Path]]:
    """Have a proxy running, and its log."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with started(HERE / "served.py", letta_url, LOAD_LOG=str(log)) as process:
            yield process, log


def get(url: str) -> Any:
    """An answer in JSON."""
    with urllib.request.urlopen(url, timeout=START_TIMEOUT) as response:  # loopback
        return json.load(response)


@define
class Report:
    """What was seen, and what was wrong."""

    figures: dict[str, Any] = field(factory=dict)
    failures: list[str] = field(factory=list)

    def expect(self, holds: bool, what: str) -> None:
        """Note a failure unless it holds."""
        if not holds:
            self.failures.append(what)

    def note_process(self, part: str, process: Process, before: tuple[int, int], log: Path) -> None:
        """What is left in the proxy once nobody asks it any more."""
        deadline = time.monotonic() + SETTLE_TIMEOUT
        most = before[1] + POOL_COUNT
        while True:
            tasks, files = process.task_count(), file_count(process.pid)
            if (tasks <= before[0] and files <= most) or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        self.figures[f"{part}: tasks left"] = tasks - before[0]
        self.figures[f"{part}: sockets left"] = files - before[1]
        self.expect(tasks <= before[0], f"{part}: {tasks - before[0]} tasks are left")
        self.expect(files <= most, f"{part}: {files - before[1]} sockets are left")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        defects = [line for line in lines if line["level"] in ("error", "critical")]
        self.figures[f"{part}: requests logged"] = len(lines)
        self.figures[f"{part}: defects logged"] = len(defects)
        self.expect(not defects, f"{part}: {defects[:1]}")

    def note_memory(
        self, part: str, watch: Watch, request_count: int, most: float = MAX_GROWTH_PER_REQUEST_KIB
    ) -> None:
        """How memory went.

        :param most: KiB a request.
        """
        seconds = watch.samples[-1].at - watch.samples[0].at
        slope = watch.slope()
        per_request = slope * seconds / max(1, request_count)
        self.figures[f"{part}: memory at the end, MiB"] = round(watch.samples[-1].rss_kib / 1024, 1)
        self.figures[f"{part}: memory slope, KiB/s"] = round(slope, 2)
        self.figures[f"{part}: memory slope, KiB a request"] = round(per_request, 3)
        self.expect(
            per_request <= most,
            f"{part}: memory grows by {per_request:.2f} KiB a request",
        )
        if seconds >= LONG_MINUTES * 60:
            hour = slope * 3600
            self.expect(
                hour <= MAX_GROWTH_PER_HOUR_KIB, f"{part}: memory grows by {hour / 1024:.1f} MiB an hour"
            )


def crowd(report: Report, stream_count: int, seconds: int) -> None:
    """That many streams at once, each an event a second."""
    with started(BENCH / "fast_letta.py", "0") as letta, proxy(letta.url) as (process, log):
        before = process.task_count(), file_count(process.pid)
        url = f"{process.url}/v1/chat/completions"
        meter = [BENCH / "load.py", url, process.pid, "paced", stream_count, seconds, 1000]
        with Watch(process.pid) as watch:
            done = subprocess.run(
                [sys.executable, *map(str, meter)],
                capture_output=True,
                text=True,
                check=False,
                timeout=seconds * 3 + 120,
            )
        report.expect(done.returncode == 0, f"crowd: {done.stderr.strip()[-500:]}")
        report.figures |= {"crowd: streams at once": stream_count, "crowd: seconds": seconds}
        if done.returncode == 0:
            figures = json.loads(done.stdout)
            report.figures |= {f"crowd: {name}": round(value, 2) for name, value in figures.items()}
        peak = max(item.rss_kib for item in watch.samples)
        report.figures["crowd: memory at most, MiB"] = round(peak / 1024, 1)
        report.note_process("crowd", process, before, log)
        report.note_memory("crowd", watch, report.figures["crowd: requests logged"], MAX_GROWTH_PER_STREAM_KIB)


def mixed(report: Report, minutes: float, seed: int) -> None:
    """That many minutes of everything."""
    with started(HERE / "letta.py") as letta, proxy(letta.url) as (process, log):
        get(f"{process.url}/v1/models")
        before = process.task_count(), file_count(process.pid)
        command = [HERE / "traffic.py", process.url, minutes * 60, WORKER_COUNT, seed]
        with Watch(process.pid) as watch:
            done = subprocess.run(
                [sys.executable, *map(str, command)],
                stdout=subprocess.PIPE,
                text=True,
                check=False,
                timeout=minutes * 60 + 120,
            )
        report.expect(done.returncode == 0, "mixed: the traffic did not come to its end")
        counts: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        examples = counts.pop("examples", [])
        report.note_process("mixed", process, before, log)
        deadline = time.monotonic() + SETTLE_TIMEOUT
        while (told := get(f"{letta.url}/told"))["running"] and time.monotonic() < deadline:
            time.sleep(0.5)
        report.figures |= {
            "mixed: minutes": minutes,
            "mixed: clients at once": WORKER_COUNT,
            "mixed: seed": seed,
        }
        report.figures |= {f"mixed: {name}": counts[name] for name in sorted(counts)}
        report.figures |= {f"mixed: Letta's {name}": told[name] for name in sorted(told)}
        report.expect(not counts.get("unexpected"), f"mixed: errors that nobody asked for: {examples}")
        report.expect(not told["kept_twice"], f"mixed: kept twice: {told['kept_twice']}")
        report.expect(told["running"] <= MAX_LOST_RUNS, f"mixed: {told['running']} runs go on without a reader")
        report.note_memory("mixed", watch, report.figures["mixed: requests logged"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="of mixed traffic")
    parser.add_argument("--streams", type=int, default=1000, help="of the crowd; 0 leaves it out")
    parser.add_argument("--seconds", type=int, default=60, help="that the crowd's streams last")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES_COUNT, hard), hard))
    report = Report()
    if args.streams:
        crowd(report, args.streams, args.seconds)
    if args.minutes:
        mixed(report, args.minutes, args.seed)
    width = max(map(len, report.figures))
    for name, figure in report.figures.items():
        print(f"{name:<{width}}  {figure}")
    for failure in report.failures:
        print(f"FAILED  {failure}")
    if args.json:
        args.json.write_text(json.dumps({"figures": report.figures, "failures": report.failures}, indent=1))
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
