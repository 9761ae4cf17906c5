"""Measure letta-proxy against its budgets: `python tests/bench/run.py [--quick] [--json OUT]`.

Everything runs on loopback: the stand-in for Letta (fast_letta.py), the proxy, nginx if it is installed, and
the meter (load.py), a process of its own for each measurement. Ours and nginx's take turns, so that a busy
minute of the machine hits both; a figure is the median of several. Exit code 1 says that something broke, not
that a budget was missed: figures are for people to judge.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from attrs import Factory, define, frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE: Final = Path(__file__).resolve().parent
START_TIMEOUT: Final = 20.0
STOP_TIMEOUT: Final = 10.0
MEASUREMENT_TIMEOUT: Final = 120.0
#: 500 streams are 1,000 connections in the proxy; the usual soft limit of 1,024 would be the figure measured.
OPEN_FILES_COUNT: Final = 8192
LETTA_URL: Final = re.compile(r"http://127\.0\.0\.1:\d+")
PROXY_URL: Final = re.compile(r"http://127\.0\.0\.1:\d+(?=/v1)")
#: What an event costs to parse on the machine the budgets were set on: tells how fast this one is.
REFERENCE_LOADS_US: Final = 0.54

NGINX_CONF: Final = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000;
    upstream letta {{ server {letta}; keepalive 512; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /v1/chat/completions {{
            proxy_pass http://letta/v1/agents/agent-00000000-0000-4000-8000-000000000000/messages/stream;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 1h;
        }}
    }}
}}
"""


class Broken(Exception):
    """A process did not start or a measurement did not come about."""


class Running(NamedTuple):
    """A server that listens."""

    url: str
    pid: int
    start_seconds: float


@frozen(kw_only=True)
class Figure:
    """One line of the table, taken from what a work's measurements tell."""

    key: str
    title: str
    unit: str
    budget: float | None = None


@frozen(kw_only=True)
class Work:
    """One kind of load: arguments of the meter, how often, and what is read off."""

    name: str
    load: tuple[str, ...]
    quick_load: tuple[str, ...]
    repeat_count: int
    quick_repeat_count: int
    figures: tuple[Figure, ...]
    fresh: bool = False  #: in processes just started: memory that is used again would not show


CORE: Final = Work(
    name="core",
    load=(),
    quick_load=(),
    repeat_count=3,
    quick_repeat_count=1,
    figures=(
        Figure(key="event_us", title="core alone, one text event, 64 a read", unit="us", budget=12),
        Figure(key="event_single_us", title="  the same, one event a read", unit="us", budget=12),
        Figure(key="fresh_us", title="  one that does not repeat the last", unit="us", budget=12),
    ),
)
WORKS: Final = (
    Work(
        name="burst",
        load=("burst", "1000", "20"),
        quick_load=("burst", "1000", "10"),
        repeat_count=7,
        quick_repeat_count=3,
        figures=(Figure(key="cpu_us_per_chunk", title="burst of 1,000, CPU per chunk", unit="us", budget=20),),
    ),
    Work(
        name="paced",
        load=("paced", "100", "160", "25"),
        quick_load=("paced", "100", "80", "25"),
        repeat_count=3,
        quick_repeat_count=1,
        figures=(
            Figure(key="cpu_us_per_chunk", title="100 streams of 40/s, CPU per chunk", unit="us", budget=100),
            Figure(key="latency_p50_ms", title="  added latency p50", unit="ms", budget=3),
            Figure(key="latency_p99_ms", title="  added latency p99", unit="ms", budget=20),
        ),
    ),
    Work(
        name="paced --together",
        load=("paced", "100", "160", "25", "--together"),
        quick_load=("paced", "100", "80", "25", "--together"),
        repeat_count=3,
        quick_repeat_count=1,
        figures=(
            Figure(key="cpu_us_per_chunk", title="all 100 in step, CPU per chunk", unit="us", budget=100),
            Figure(key="latency_p50_ms", title="  added latency p50", unit="ms", budget=3),
            Figure(key="latency_p99_ms", title="  added latency p99", unit="ms", budget=20),
        ),
    ),
    Work(
        name="first",
        load=("first", "300"),
        quick_load=("first", "150"),
        repeat_count=5,
        quick_repeat_count=1,
        figures=(
            Figure(key="first_chunk_p50_ms", title="first chunk, connection kept, p50", unit="ms", budget=2),
            Figure(key="first_chunk_p99_ms", title="  p99", unit="ms"),
            Figure(key="cpu_us_per_request", title="  CPU per request", unit="us"),
        ),
    ),
    Work(
        name="first --close",
        load=("first", "300", "--close"),
        quick_load=("first", "150", "--close"),
        repeat_count=5,
        quick_repeat_count=1,
        figures=(
            Figure(key="first_chunk_p50_ms", title="first chunk, new connection, p50", unit="ms", budget=2),
        ),
    ),
    Work(
        name="quiet",
        load=("quiet", "500"),
        quick_load=("quiet", "500"),
        repeat_count=3,
        quick_repeat_count=1,
        figures=(
            Figure(key="kib_per_stream", title="500 quiet streams, memory of one", unit="KiB", budget=40),
            Figure(key="process_kib", title="  process before them", unit="KiB"),
        ),
        fresh=True,
    ),
)
START_UP: Final = Work(
    name="start-up",
    load=(),
    quick_load=(),
    repeat_count=7,
    quick_repeat_count=3,
    figures=(Figure(key="start_seconds", title="start until it listens", unit="s", budget=1.0),),
)


@define
class Samples:
    """What was measured: by work, by subject (ours, nginx), one dict of figures a repeat."""

    taken: dict[str, dict[str, list[dict[str, float]]]] = Factory(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    broken: list[str] = Factory(list)

    def add(self, work: Work, subject: str, figures: dict[str, float]) -> None:
        self.taken[work.name][subject].append(figures)

    def median(self, work: Work, subject: str, key: str) -> float | None:
        values = [figures[key] for figures in self.taken[work.name][subject] if key in figures]
        return statistics.median(values) if values else None


@contextlib.contextmanager
def process(argv: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server, its output in a file: a full pipe would stop it. It is ended by its pid."""
    with log.open("wb") as output:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            print(f"{argv[0]} {argv[1]} did not end within {STOP_TIMEOUT:.0f} s of SIGTERM", file=sys.stderr)
            child.kill()
            child.wait()


def can_connect(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


@contextlib.contextmanager
def listening(argv: list[str], log: Path, announced: re.Pattern[str], url: str = "") -> Iterator[Running]:
    """Run a server and wait until it accepts connections, at `url` or where its output says.

    :raises Broken: if it ends, or does not listen in time.
    """
    began_at = time.monotonic()
    with process(argv, log) as child:
        while True:
            found = announced.search(url or log.read_text(errors="replace"))
            if found and can_connect(found[0]):
                break
            elapsed = time.monotonic() - began_at
            if child.poll() is not None or elapsed > START_TIMEOUT:
                raise Broken(f"{' '.join(argv)} does not listen:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.002)
        yield Running(found[0], child.pid, time.monotonic() - began_at)


class Bench:
    """Starts the parts and takes the measurements."""

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self.nginx = shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
        self.samples = Samples()
        self._folder = folder
        self._quick = quick
        self._subjects = ("ours", "nginx") if self.nginx else ("ours",)

    def letta(self) -> contextlib.AbstractContextManager[Running]:
        argv = [sys.executable, str(HERE / "fast_letta.py")]
        return listening(argv, self._folder / "letta.log", LETTA_URL)

    def subject(self, name: str, letta: Running) -> contextlib.AbstractContextManager[Running]:
        """Start the proxy or nginx in front of the stand-in."""
        if name == "ours":
            argv = [sys.executable, "-m", "letta_server", "serve", "--port", "0", "--letta-url", letta.url]
            return listening(argv, self._folder / "proxy.log", PROXY_URL)
        assert self.nginx is not None
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        conf = self._folder / "nginx.conf"
        conf.write_text(
            NGINX_CONF.format(folder=self._folder, port=port, letta=letta.url.removeprefix("http://"))
        )
        argv = [
            self.nginx,
            "-e",
            str(self._folder / "nginx-error.log"),
            "-p",
            str(self._folder),
            "-c",
            str(conf),
        ]
        return listening(argv, self._folder / "nginx.log", LETTA_URL, f"http://127.0.0.1:{port}")

    def core(self) -> None:
        with self._may_break(CORE.name):
            for _ in self._repeats(CORE):
                self.samples.add(CORE, "ours", self._json_of([sys.executable, str(HERE / "core.py")]))

    def start_up(self, letta: Running) -> None:
        with self._may_break(START_UP.name):
            for _ in self._repeats(START_UP):
                for name in self._subjects:
                    with self.subject(name, letta) as running:
                        self.samples.add(START_UP, name, {"start_seconds": running.start_seconds})

    def loads(self, letta: Running) -> None:
        """Take all measurements under load; what needs no fresh process shares one."""
        with self._may_break("serve"), contextlib.ExitStack() as stack:
            running = {name: stack.enter_context(self.subject(name, letta)) for name in self._subjects}
            for work in (work for work in WORKS if not work.fresh):
                with self._may_break(work.name):
                    for _ in self._repeats(work):
                        for name in self._subjects:
                            self._load(work, name, running[name])
        for work in (work for work in WORKS if work.fresh):
            with self._may_break(work.name):
                for _ in self._repeats(work):
                    for name in self._subjects:
                        with self.subject(name, letta) as fresh:
                            self._load(work, name, fresh)

    def _load(self, work: Work, name: str, running: Running) -> None:
        url = f"{running.url}/v1/chat/completions"
        load = work.quick_load if self._quick else work.load
        argv = [sys.executable, str(HERE / "load.py"), url, str(running.pid), *load]
        self.samples.add(work, name, self._json_of(argv))

    def _repeats(self, work: Work) -> Iterator[None]:
        repeat_count = work.quick_repeat_count if self._quick else work.repeat_count
        for number in range(repeat_count):
            if sys.stderr.isatty():
                print(f"\r\033[K{work.name} {number + 1}/{repeat_count}", end="", file=sys.stderr, flush=True)
            yield

    @contextlib.contextmanager
    def _may_break(self, what: str) -> Iterator[None]:
        """Go on with the next work when one breaks: half a table is better than none."""
        try:
            yield
        except (Broken, subprocess.TimeoutExpired) as exc:
            self.samples.broken.append(f"{what}: {exc}")

    def _json_of(self, argv: list[str]) -> dict[str, float]:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=MEASUREMENT_TIMEOUT, check=False)
        if done.returncode:
            raise Broken(f"{' '.join(argv[1:])}\n{done.stderr[-2000:]}")
        figures: dict[str, float] = json.loads(done.stdout)
        return figures


def shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(samples: Samples) -> list[list[str]]:
    """Put ours beside the budget and beside nginx."""
    rows = [["work", "unit", "ours", "budget", "nginx", "ratio", "verdict"]]
    for work in (CORE, *WORKS, START_UP):
        for figure in work.figures:
            ours, nginx = (samples.median(work, subject, figure.key) for subject in ("ours", "nginx"))
            verdict = ""
            if ours is None:
                verdict = "broke"
            elif figure.budget is not None:
                over = ours / figure.budget - 1
                verdict = f"over by {over:.0%}" if over > 0 else "within"
            ratio = f"{ours / nginx:.1f}" if ours and nginx else "-"
            rows.append([figure.title, figure.unit, *map(shown, (ours, figure.budget, nginx)), ratio, verdict])
    return rows


def show(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells[1:-1], row[-1]]).rstrip())


def machine() -> dict[str, str | float | None]:
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpu_count": os.cpu_count(),
        "load_before": os.getloadavg()[0],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats: 25 seconds, coarser figures")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every single measurement there")
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = OPEN_FILES_COUNT if hard == resource.RLIM_INFINITY else min(OPEN_FILES_COUNT, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    about, began_at = machine(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="letta-proxy-bench-") as folder:
        bench = Bench(Path(folder), quick=args.quick)
        try:
            bench.core()
            with bench.letta() as letta:
                bench.loads(letta)
                bench.start_up(letta)
        except Broken as exc:
            bench.samples.broken.append(str(exc))
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    rows = table(bench.samples)
    show(rows)
    loads_us = bench.samples.median(CORE, "ours", "loads_us")
    print(
        f"\nCPython {about['python']}, {about['cpu_count']} cores, load {about['load_before']:.1f} before; "
        f"orjson.loads of an event {shown(loads_us)} us, {REFERENCE_LOADS_US} where the budgets were set; "
        f"{time.monotonic() - began_at:.0f} s"
    )
    if not bench.nginx:
        print("nginx is not installed, so its column is empty")
    for what in bench.samples.broken:
        print(f"\nBROKE {what}")
    if args.json:
        outcome = {
            "machine": about,
            "table": rows,
            "samples": bench.samples.taken,
            "broken": bench.samples.broken,
        }
        args.json.write_text(json.dumps(outcome, indent=1))
    return 1 if bench.samples.broken else 0


if __name__ == "__main__":
    sys.exit(main())
