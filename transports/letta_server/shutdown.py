"""Shutdown of a server: report not ready, stop listening, let turns finish, interrupt the rest.

::

    SERVING --begin()--> NOT_READY --shutdown_delay--> DRAINING --shutdown_timeout--> INTERRUPTING --> done
                             |                            |                              ^
                             +----------------------------+------ begin() again ---------+

- NOT_READY: ``/ready`` answers 503, and everything else continues, so that load balancers stop sending
  requests.
- DRAINING: the listeners are closed, idle connections too; turns may finish.
- INTERRUPTING: runs are cancelled at Letta and their clients get an error, within `cancel_timeout`. Connections
  left after that are cancelled here, with the same time once more for their own cancel requests.

A response that begins after SERVING has ``connection: close``. Cancelling the serving task skips all of this:
runs are cancelled, and clients see their connection end.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Final, Protocol

import trio
from attrs import define, field

from .settings.server import Settings

#: Share of `cancel_timeout` that clients wait for the result of cancelling their runs.
_RESPONSE_SHARE: Final = 0.7


class Stage(Enum):
    """Stages of the shutdown."""

    SERVING = auto()
    NOT_READY = auto()
    DRAINING = auto()
    INTERRUPTING = auto()


class Interruptible(Protocol):
    """A response in progress."""

    def interrupt(self, timeout: float) -> None:
        """End the response now, with an error for the client.

        :param timeout: seconds after which the client gets its response, whatever is known by then.
        """
        ...


@define(eq=False)
class Shutdown:
    """The shutdown of one server: `begin` starts it, `run` carries it out."""

    settings: Settings
    stage: Stage = field(default=Stage.SERVING, init=False)
    _responses: set[Interruptible] = field(factory=set, init=False)
    _idle: set[trio.CancelScope] = field(factory=set, init=False)
    _begun: trio.Event = field(factory=trio.Event, init=False)
    _hurried: trio.Event = field(factory=trio.Event, init=False)

    def begin(self) -> None:
        """Shut down after the current turns have finished; a second call interrupts them."""
        if self.begun:
            self._hurried.set()
        else:
            self.stage = Stage.NOT_READY
            self._begun.set()

    @property
    def begun(self) -> bool:
        """Whether the shutdown has begun."""
        return self.stage is not Stage.SERVING

    @property
    def response_count(self) -> int:
        """Number of responses in progress."""
        return len(self._responses)

    async def run(self, accepting: trio.CancelScope, connections: trio.CancelScope) -> None:
        """Wait for `begin`, then carry out the shutdown. Cancel this when all connections have ended.

        :param accepting: around the listeners.
        :param connections: around all connections.
        """
        settings = self.settings
        await self._begun.wait()
        with trio.move_on_after(settings.shutdown_delay):
            await self._hurried.wait()
        self.stage = Stage.DRAINING
        accepting.cancel()
        for scope in self._idle:
            scope.cancel()
        with trio.move_on_after(settings.shutdown_timeout):
            await self._hurried.wait()
        self.stage = Stage.INTERRUPTING
        for response in self._responses:
            response.interrupt(self._response_timeout)
        await trio.sleep(settings.cancel_timeout)
        connections.cancel()

    @property
    def _response_timeout(self) -> float:
        """Seconds until each client gets a response; the rest of `cancel_timeout` is for sending it."""
        return self.settings.cancel_timeout * _RESPONSE_SHARE

    @contextmanager
    def waiting(self, scope: trio.CancelScope) -> Iterator[None]:
        """Wrap a wait for a client's next request: the shutdown does not wait for it.

        :param scope: cancelled to cut the wait short.
        """
        if self.stage in (Stage.DRAINING, Stage.INTERRUPTING):
            scope.cancel()
        self._idle.add(scope)
        try:
            yield
        finally:
            self._idle.discard(scope)

    @contextmanager
    def responding(self, response: Interruptible) -> Iterator[None]:
        """Wrap a response, from its beginning to its end."""
        self._responses.add(response)
        try:
            if self.stage is Stage.INTERRUPTING:
                response.interrupt(self._response_timeout)
            yield
        finally:
            self._responses.discard(response)
