"""The real server on a free port, in a thread."""

import concurrent.futures
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import trio
from attrs import define, evolve, field, frozen
from trio.testing import wait_all_tasks_blocked

from letta_server import Server, Settings, serve
from sansio_letta import Config, Summary

from .standin import PATIENCE, StandInLetta

#: A request's limit, low enough to be overstepped in a test.
MAX_REQUEST_SIZE = 2_000_000

#: For scripts that have no second answer to the same question: nothing is asked again after a pause.
NO_PAUSES: Final[Mapping[str, float]] = {"queue_timeout": 0.0, "connect_retry_timeout": 0.0}


@frozen(kw_only=True)
class LimitedSettings(Settings):
    """Settings with limits and policies of the core, also those that an operator cannot choose."""

    limits: Mapping[str, object] = field(factory=dict)

    def config(self) -> Config:
        """See `Settings.config`."""
        changes: dict[str, Any] = dict(self.limits)
        return evolve(super().config(), **changes)


@define(eq=False)
class RunningServer:
    """A server that listens: where clients reach it, and what it has logged."""

    letta: StandInLetta
    root_url: str
    served: list[Summary]  #: one for each answered request
    _token: trio.lowlevel.TrioToken = field(repr=False)
    _scope: trio.CancelScope = field(repr=False)

    @property
    def base_url(self) -> str:
        """What a client is given."""
        return f"{self.root_url}/v1"

    def set(self, event: trio.Event) -> None:
        """Let go what waits for the event."""
        trio.from_thread.run_sync(event.set, trio_token=self._token)

    def settle(self) -> None:
        """Wait until all requests have come to their end, or wait for something themselves."""
        trio.from_thread.run(wait_all_tasks_blocked, 0.005, trio_token=self._token)

    def stop(self) -> None:
        """End the server."""
        trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)


@contextlib.contextmanager
def serving(letta: StandInLetta, **limits: object) -> Iterator[RunningServer]:
    """Serve on a free port of the loopback interface until the block ends.

    :param limits: and policies of the core's `Config`, other than its own.
    """
    settings = LimitedSettings(
        port=0,
        letta_url="http://letta.invalid",
        max_request_size=MAX_REQUEST_SIZE,
        cancel_timeout=PATIENCE,
        limits=limits,
    )
    started: concurrent.futures.Future[RunningServer] = concurrent.futures.Future()

    async def main() -> None:
        served: list[Summary] = []
        async with trio.open_nursery() as nursery:
            listening: tuple[Server, list[trio.SocketListener]]
            listening = await nursery.start(serve, settings, letta)
            server, listeners = listening
            server.log = lambda summary, *_: served.append(summary)
            running = RunningServer(
                letta=letta,
                root_url=f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}",
                served=served,
                token=trio.lowlevel.current_trio_token(),
                scope=nursery.cancel_scope,
            )
            started.set_result(running)

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as exc:
            if started.done():
                raise
            started.set_exception(exc)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run)
        running = started.result(PATIENCE)
        try:
            yield running
        finally:
            running.stop()
            ended.result(PATIENCE)
