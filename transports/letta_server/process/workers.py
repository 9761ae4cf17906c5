"""Worker processes that serve one port, and the parent that starts, restarts and ends them.

The parent binds the sockets and does not serve; its workers inherit them and accept from one queue, so that no
waiting connection is lost when a worker ends. (With a queue for each, SO_REUSEPORT, those in its queue would be
lost.) The parent sends orders through a pipe, because signals may also reach workers directly: Ctrl-C goes to
the whole terminal, and systemd may signal the whole group. If the pipe ends, the parent has died.

====================  =====================================================
parent to worker      worker to parent
====================  =====================================================
``announce``          ``ready``: it is listening
``end``               number of responses in progress, in digits
``now``
====================  =====================================================
"""

import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any, Final

import structlog
import trio
from attrs import define, field

from ..server import Server
from .run import Service, announce_shutdown, announce_start, run_server

_log: Final = structlog.get_logger("letta_server")

#: More restarts within this time mean that restarting does not help; systemd's limit is 5 in 10 s.
_MAX_RESTART_COUNT: Final = 5
_RESTART_PERIOD: Final = 60.0
#: A worker that takes this much longer than the settings allow counts as hung, and is killed.
_KILL_TIMEOUT: Final = 5.0

_FORK: Final = multiprocessing.get_context("fork")


@define(eq=False)
class _Worker:
    """A worker process, from the view of its parent."""

    process: ForkProcess
    pipe: Connection
    ready: bool = False
    response_count: int | None = None  #: responses in progress, once it is shutting down

    def tell(self, order: bytes) -> None:
        with suppress(OSError):  # it has ended, as its sentinel shows too
            self.pipe.send_bytes(order)


@define(eq=False)
class Workers:
    """The parent of the workers.

    :param count: number of processes.
    """

    service: Service
    count: int
    _workers: list[_Worker] = field(factory=list, init=False)
    _restarts: deque[float] = field(factory=deque, init=False)
    _announced: bool = field(default=False, init=False)
    _ending: int = field(default=0, init=False)  #: how often a shutdown was requested
    _shutdown_announced: bool = field(default=False, init=False)
    _failed: bool = field(default=False, init=False)
    _kill_deadline: float = field(default=float("inf"), init=False)

    def run(self) -> int:
        """Serve until SIGTERM or Ctrl-C; a second one ends at once.

        :return: the exit code: 1 if workers died and could not be replaced.
        """
        with _signals() as signals, _metrics_folder(self.service):
            self._workers += [self._start() for _ in range(self.count)]
            while self._workers:
                self._wait(signals)
        return 1 if self._failed else 0

    def _wait(self, signals: socket.socket) -> None:
        by_handle: dict[Any, _Worker] = {}
        for worker in self._workers:
            by_handle |= {worker.process.sentinel: worker, worker.pipe: worker}
        timeout = max(0.0, self._kill_deadline - time.monotonic())
        happened = wait([signals, *by_handle], None if timeout == float("inf") else timeout)
        if not happened:
            for worker in self._workers:
                worker.process.kill()
        if signals in happened:
            for _ in signals.recv(64):
                self._end()
        for worker in self._workers[:]:
            if worker.pipe in happened:
                self._receive(worker)
            if worker.process.sentinel in happened:
                self._reap(worker)
        self._announce_shutdown()

    def _start(self) -> _Worker:
        ours, its = _FORK.Pipe()
        others = [worker.pipe for worker in self._workers]
        process = _FORK.Process(target=_run_worker, args=(self.service, its, [ours, *others]))
        process.start()
        its.close()
        return _Worker(process, ours)

    def _receive(self, worker: _Worker) -> None:
        try:
            said = worker.pipe.recv_bytes()
        except (EOFError, OSError):
            return  # it has ended
        if said != b"ready":
            worker.response_count = int(said)
            return
        worker.ready = True
        if not self._announced and all(each.ready for each in self._workers):
            self._announced = True
            announce_start(self.service, self.count)
            self._workers[0].tell(b"announce")

    def _reap(self, worker: _Worker) -> None:
        """Remove a worker that has ended, and replace it unless that does not help."""
        worker.process.join()
        self._workers.remove(worker)
        worker.pipe.close()
        pid, code = worker.process.pid, worker.process.exitcode
        worker.process.close()
        _forget_metrics(pid)
        if self._ending:
            return
        now = time.monotonic()
        while self._restarts and self._restarts[0] < now - _RESTART_PERIOD:
            self._restarts.popleft()
        if not worker.ready:
            self._fail("a worker ended before it listened", pid, code)
        elif len(self._restarts) >= _MAX_RESTART_COUNT:
            self._fail("workers end too often", pid, code)
        else:
            _log.warning("a worker ended and is replaced", pid=pid, exit_code=code)
            self._restarts.append(now)
            self._workers.append(self._start())

    def _fail(self, reason: str, pid: int | None, code: int | None) -> None:
        _log.error(f"{reason}: ending", pid=pid, exit_code=code)
        self._failed = True
        self._end()

    def _end(self) -> None:
        settings = self.service.settings
        self._ending += 1
        for worker in self._workers:
            worker.tell(b"end" if self._ending == 1 else b"now")
        # The workers close theirs. While ours are open, new connections would wait without being accepted.
        for listening in self.service.sockets:
            listening.close()
        grace = settings.shutdown_delay + settings.shutdown_timeout if self._ending == 1 else 0.0
        self._kill_deadline = time.monotonic() + grace + 2 * settings.cancel_timeout + _KILL_TIMEOUT

    def _announce_shutdown(self) -> None:
        counts = [worker.response_count for worker in self._workers]
        if self._ending and not self._shutdown_announced and None not in counts:
            self._shutdown_announced = True
            announce_shutdown(self.service.settings, sum(filter(None, counts)))


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """Receive SIGINT and SIGTERM as bytes on a socket, instead of their usual effect."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    signal.set_wakeup_fd(writer.fileno())
    try:
        with reader, writer:
            yield reader
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _metrics_folder(service: Service) -> Iterator[None]:
    """Make a folder for the metrics of all workers, so that each of them can show the sum."""
    if not service.metrics_sockets:
        yield
        return
    folder = tempfile.mkdtemp(prefix="letta-proxy-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    try:
        yield
    finally:
        del os.environ["PROMETHEUS_MULTIPROC_DIR"]
        shutil.rmtree(folder, ignore_errors=True)


def _forget_metrics(pid: int | None) -> None:
    """Drop the gauges of a worker that has ended, but not its counters."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(pid)  # type: ignore[no-untyped-call]  # as the library has it


# --- In the worker --------------------------------------------------------------------------------------------


def _run_worker(service: Service, pipe: Connection, others: list[Connection]) -> None:
    signal.set_wakeup_fd(-1)  # inherited from the parent; trio sets its own
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for other in others:
        other.close()  # a copy of the parent's end would hide the end of the parent

    async def run() -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:

            async def control(server: Server) -> None:
                _send_report(pipe, b"ready")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_follow_parent, service, server, pipe)
                    async for _ in signals:
                        _begin_end(server, pipe)

            await run_server(service, control)

    trio.run(run)


async def _follow_parent(service: Service, server: Server, pipe: Connection) -> None:
    announcing = trio.CancelScope()

    async def announce() -> None:
        with announcing:
            await service.announce(server, service.url)

    async with trio.open_nursery() as nursery:
        while True:
            await trio.lowlevel.wait_readable(pipe.fileno())
            try:
                order = pipe.recv_bytes()
            except (EOFError, OSError):
                order = b"end"
                nursery.cancel_scope.cancel()  # nothing more will come
            if order == b"announce":
                nursery.start_soon(announce)
                continue
            announcing.cancel()
            _begin_end(server, pipe)
            if order == b"now":
                server.end()


def _begin_end(server: Server, pipe: Connection) -> None:
    if not server.shutdown.begun:
        server.end()
    _send_report(pipe, b"%d" % server.shutdown.response_count)


def _send_report(pipe: Connection, what: bytes) -> None:
    with suppress(OSError):  # the parent has ended, as the pipe is about to show
        pipe.send_bytes(what)
