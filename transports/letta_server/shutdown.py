"""How a server ends: it says so, stops accepting, lets turns finish, and interrupts the rest.

::

    SERVING --begin()--> LEAVING --shutdown_delay--> DRAINING --shutdown_timeout--> INTERRUPTING --> over
                            |                           |                              ^
                            +---------------------------+------ begin() again ---------+

- LEAVING: ``/ready`` answers 503, and all else goes on, so that a balancer can look away first.
- DRAINING: nobody listens any more; idle connections are closed, turns may finish.
- INTERRUPTING: runs are cancelled at Letta and their clients told, within `cancel_timeout`. What is left after
  that is cancelled here, and has as long once more for its own cancel requests.

A response that begins after SERVING says ``connection: close``. Cancelling the task that serves skips all this:
runs are cancelled, and their clients see the connection end.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Final, Protocol

import trio
from attrs import define, field

from .settings.server import Settings

#: Of the time in which runs are cancelled: until then clients wait to hear whether theirs was.
_ANSWER_SHARE: Final = 0.7


class Stage(Enum):
    """How far the end has come."""

    SERVING = auto()
    LEAVING = auto()
    DRAINING = auto()
    INTERRUPTING = auto()


class Interruptible(Protocol):
    """An answer under way."""

    def interrupt(self, timeout: float) -> None:
        """Come to an end now, and tell the client.

        :param timeout: seconds after which it is told what is known by then.
        """
        ...


@define(eq=False)
class Ending:
    """The end of one server: `begin` starts it, `run` carries it out."""

    settings: Settings
    stage: Stage = field(default=Stage.SERVING, init=False)
    _answers: set[Interruptible] = field(factory=set, init=False)
    _idle: set[trio.CancelScope] = field(factory=set, init=False)
    _begun: trio.Event = field(factory=trio.Event, init=False)
    _hurried: trio.Event = field(factory=trio.Event, init=False)

    def begin(self) -> None:
        """End as soon as the turns under way have finished; a second call ends at once."""
        if self.begun:
            self._hurried.set()
        else:
            self.stage = Stage.LEAVING
            self._begun.set()

    @property
    def begun(self) -> bool:
        """Whether the server is going to end."""
        return self.stage is not Stage.SERVING

    @property
    def answer_count(self) -> int:
        """How many requests are being answered."""
        return len(self._answers)

    async def run(self, accepting: trio.CancelScope, connections: trio.CancelScope) -> None:
        """Once the end has begun, carry it out. To be cancelled when all connections have ended.

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
        for answer in self._answers:
            answer.interrupt(self._answer_timeout)
        await trio.sleep(settings.cancel_timeout)
        connections.cancel()

    @property
    def _answer_timeout(self) -> float:
        """Seconds in which each client is told something; what is left is for its way there."""
        return self.settings.cancel_timeout * _ANSWER_SHARE

    @contextmanager
    def waiting(self, scope: trio.CancelScope) -> Iterator[None]:
        """Around a wait for a client's next request, which the end need not wait for.

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
    def answering(self, answer: Interruptible) -> Iterator[None]:
        """Around a request's answer, from its begin to its end."""
        self._answers.add(answer)
        try:
            if self.stage is Stage.INTERRUPTING:
                answer.interrupt(self._answer_timeout)
            yield
        finally:
            self._answers.discard(answer)
