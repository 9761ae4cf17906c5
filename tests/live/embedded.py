"""The server in a thread of the tests, for settings without an option, and to inspect its state."""

import concurrent.futures
import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Final

import trio
from attrs import define, field, frozen

from letta_server import Server, Settings, serve
from letta_server.observe.timing import TimedObserver
from sansio_letta import Config, Summary
from sansio_letta.proxy.observer import CycleOpened

START_TIMEOUT: Final = 10.0  # seconds until it listens
BOOKS_TIMEOUT: Final = 30.0  # seconds until all requests are in its books


@frozen(kw_only=True)
class ChosenSettings(Settings):
    """Settings whose part for the core is given whole."""

    core: Config = field(factory=Config)

    def config(self) -> Config:
        return self.core


@define(eq=False)
class Embedded:
    """A server that listens, and what became of each request that it has answered."""

    base_url: str
    summaries: list[Summary]
    begun_count: int = 0  #: requests
    _ended: threading.Condition = field(factory=threading.Condition)

    def observer(self) -> "Observed":
        """Notes one request."""
        return Observed(self)

    def begin(self) -> None:
        """A request is answered."""
        with self._ended:
            self.begun_count += 1

    def end(self, summary: Summary) -> None:
        """It is over."""
        with self._ended:
            self.summaries.append(summary)
            self._ended.notify_all()

    def books(self) -> list[Summary]:
        """All its requests, as soon as none is under way.

        :raises AssertionError: if one still is after `BOOKS_TIMEOUT` seconds.
        """
        with self._ended:
            done = self._ended.wait_for(lambda: len(self.summaries) == self.begun_count, BOOKS_TIMEOUT)
            assert done, f"{self.begun_count - len(self.summaries)} requests still go on"
            return list(self.summaries)

    def turns(self) -> list[Summary]:
        """The same, of requests for a turn."""
        return [summary for summary in self.books() if summary.path.endswith("/chat/completions")]


@define(eq=False)
class Observed(TimedObserver):
    """Tells an `Embedded` about one request."""

    embedded: Embedded

    def begin(self, opened: CycleOpened) -> None:
        self.embedded.begin()

    def end(self, summary: Summary, seconds: float, first: float | None) -> None:
        self.embedded.end(summary)


@contextlib.contextmanager
def embedding(letta_url: str, config: Config, **settings: Any) -> Iterator[Embedded]:
    """Serve on a free port until the block ends.

    :param config: the core's limits and policies.
    :param settings: more of the server's.
    """
    chosen = ChosenSettings(port=0, letta_url=letta_url, core=config, **settings)
    started: concurrent.futures.Future[tuple[Embedded, trio.lowlevel.TrioToken, trio.CancelScope]]
    started = concurrent.futures.Future()

    async def main() -> None:
        embedded = Embedded(base_url="", summaries=[])
        async with trio.open_nursery() as nursery:
            _, listeners = await nursery.start(_serve, chosen, embedded)
            embedded.base_url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/v1"
            started.set_result((embedded, trio.lowlevel.current_trio_token(), nursery.cancel_scope))

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as exc:
            if started.done():
                raise
            started.set_exception(exc)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run)
        embedded, token, scope = started.result(START_TIMEOUT)
        try:
            yield embedded
        finally:
            trio.from_thread.run_sync(scope.cancel, trio_token=token)
            ended.result(BOOKS_TIMEOUT)


async def _serve(
    settings: Settings,
    embedded: Embedded,
    *,
    task_status: trio.TaskStatus[tuple[Server, list[trio.SocketListener]]],
) -> None:
    await serve(settings, observers=(embedded.observer,), task_status=task_status)
