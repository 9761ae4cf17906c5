"""How a server shuts down: it reports not ready, stops listening, lets turns finish, and interrupts the rest.

::

    SERVING --begin()--> NOT_READY --shutdown_delay--> DRAINING --shutdown_timeout--> INTERRUPTING --> done
                             |                            |                              ^
                             +----------------------------+------ begin() again ---------+

- NOT_READY: ``/ready`` answers 503 and everything else goes on, so that a load balancer can look away first.
- DRAINING: the listeners are closed, idle connections too; turns may finish.
- INTERRUPTING: runs are cancelled at Letta and their clients get an error, within `cancel_timeout`. Connections
  left after that are cancelled here, with the same time once more for their own cancel requests.

A response that begins after SERVING has ``connection: close``. Cancelling the task that serves skips all this:
runs are cancelled, and their clients see the connection end.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Final, Protocol

import trio
from attrs import define, field

from .settings.server import Settings

#: Share of `cancel_timeout` for which a client waits to hear whether its run was cancelled.
_RESPONSE_SHARE: Final = 0.7


class Stage(Enum):
    """How far the shutdown has come."""

    SERVING = auto()
    NOT_READY = auto()
    DRAINING = auto()
    INTERRUPTING = auto()


class Interruptible(Protocol):
    """A response under way."""

    def interrupt(self, timeout: float) -> None:
        """End the response now, with an error for the client.

        :param timeout: seconds after which the client gets what is known by then.
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
        """End once the turns under way have finished; a second call ends at once."""
        if self.begun:
            self._hurried.set()
        else:
            self.stage = Stage.NOT_READY
            self._begun.set()

    @property
    def begun(self) -> bool:
        """Whether the server is going to end."""
        return self.stage is not Stage.SERVING

    @property
    def response_count(self) -> int:
        """Responses under way."""
        return len(self._responses)

    async def run(self, accepting: trio.CancelScope, connections: trio.CancelScope) -> None:
        """Wait for `begin`, then carry the shutdown out. Cancel this when all connections have ended.

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
        """Seconds until each client is sent something; the rest of `cancel_timeout` is for sending it."""
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
        """Wrap a response, from its begin to its end."""
        self._responses.add(response)
        try:
            if self.stage is Stage.INTERRUPTING:
                response.interrupt(self._response_timeout)
            yield
        finally:
            self._responses.discard(response)
