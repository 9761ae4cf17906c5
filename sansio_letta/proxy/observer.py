"""What an observer of a cycle sees: all that goes in and comes out of it, as values, in order."""

from collections.abc import Mapping
from enum import Enum
from typing import Protocol, TypeAlias

from attrs import field, frozen

from ..config import Config
from ..errors import Failure
from ..turn.agent import Agent
from ..turn.events import ConversationThread, Event
from ..upstreams.rest.commands import Command
from ..upstreams.rest.response import Headers
from .http import HttpRequest, ResponseBody, ResponseHead
from .summary import Summary


@frozen(kw_only=True)
class InitialState:
    """What the proxy knew when a request came, so that it need not ask Letta."""

    agent: Agent | None = None  #: the agent that `model` resolves to
    threads: Mapping[str, ConversationThread] = field(factory=dict)  #: of the request's chat, by agent id
    has_background: bool = True  #: False: this Letta has refused background runs


@frozen(kw_only=True)
class CycleOpened:
    """The first that an observer sees."""

    request: HttpRequest = field(repr=False)
    token: str
    created: int  #: Unix time, seconds
    config: Config  #: with the policies of the key and of the request
    summary: Summary  #: filled in as the cycle goes on
    initial: InitialState


@frozen(kw_only=True)
class LettaResponse:
    """The status line and the headers of Letta's response to the last command."""

    status: int
    headers: Headers


@frozen(kw_only=True)
class LettaData:
    """More of its body; nothing at its end."""

    data: bytes = field(repr=False)


@frozen(kw_only=True)
class LettaFailure:
    """The exchange with Letta went wrong."""

    failure: Failure
    reason: str


class Change(Enum):
    """What happens to a cycle without any bytes."""

    COMMENT_DUE = "comment due"
    """The client has waited for so long that it gets a comment, which is the next item."""
    CLIENT_DISCONNECTED = "client left"
    """The client has disconnected, or it has the whole response and does not wait for the clean-up."""
    INTERRUPTED = "interrupted"
    """The proxy shuts down."""
    FINISHED = "finished"
    """The cycle has nothing left to do."""
    CLOSED = "closed"
    """The last that an observer sees: nothing more will be carried out."""


#: What goes into a cycle and what comes out of it, events of its turn included.
Observation: TypeAlias = (
    CycleOpened
    | Command
    | LettaResponse
    | LettaData
    | LettaFailure
    | Event
    | ResponseHead
    | ResponseBody
    | Change
)


class Observer(Protocol):
    """Sees what happens in one cycle, and changes nothing: a recorder, metrics, traces.

    It is passed to `Proxy.open`. What goes in is seen before it takes effect, what comes out when it is handed
    over. An exception that an observer raises comes out of the method of the cycle that called it.
    """

    def observe(self, seen: Observation, now: float) -> None:
        """Take note of one thing.

        :param now: monotonic seconds: the time of the last call that told the cycle one.
        """


@frozen
class _Observers:
    """Several observers of one cycle."""

    observers: tuple[Observer, ...]

    def observe(self, seen: Observation, now: float) -> None:
        for observer in self.observers:
            observer.observe(seen, now)


def join_observers(*observers: Observer | None) -> Observer | None:
    """Several observers as one; None if there are none."""
    found = tuple(observer for observer in observers if observer is not None)
    if len(found) > 1:
        return _Observers(found)
    return found[0] if found else None
