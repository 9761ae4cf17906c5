"""Observers of a cycle, and what they see: everything that goes in or comes out, as values, in order."""

from collections.abc import Mapping
from enum import Enum
from typing import Protocol, TypeAlias

from attrs import field, frozen

from ..config import Config
from ..errors import Failure
from ..turn.agent import Agent
from ..turn.events import ConversationThread, Event, Thread
from ..turn.ledger import ThreadKnowledge
from ..upstreams.rest.commands import Command
from ..upstreams.rest.response import Headers
from .http import HttpRequest, ResponseBody, ResponseHead
from .summary import Summary


@frozen(kw_only=True)
class InitialState:
    """What the proxy already knew when a request arrived, and did not have to look up in Letta."""

    agent: Agent | None = None  #: the agent that `model` resolves to
    threads: Mapping[str, ConversationThread] = field(factory=dict)  #: of the request's chat, by agent id
    heard: Mapping[Thread, ThreadKnowledge] = field(factory=dict)  #: of the threads that it may be for
    has_background: bool = True  #: False: Letta has refused background runs


@frozen(kw_only=True)
class CycleOpened:
    """The first observation."""

    request: HttpRequest = field(repr=False)
    token: str
    created: int  #: Unix time, seconds
    config: Config  #: with the policies of the key and of the request
    summary: Summary  #: filled in as the cycle proceeds
    initial: InitialState


@frozen(kw_only=True)
class LettaResponse:
    """The status and the headers of Letta's response to the last command."""

    status: int
    headers: Headers


@frozen(kw_only=True)
class LettaData:
    """More of the body of Letta's response; empty at its end."""

    data: bytes = field(repr=False)


@frozen(kw_only=True)
class LettaFailure:
    """The exchange with Letta failed."""

    failure: Failure
    reason: str


class Change(Enum):
    """Events in the life of a cycle that carry no data."""

    COMMENT_DUE = "comment due"
    """The client has waited for so long that it gets a comment; the comment is the next observation."""
    CLIENT_DISCONNECTED = "client disconnected"
    """The client has disconnected, or has the whole response and does not wait for the clean-up."""
    INTERRUPTED = "interrupted"
    """The proxy is shutting down."""
    FINISHED = "finished"
    """The cycle has nothing left to do."""
    CLOSED = "closed"
    """The last observation: nothing more will be carried out."""


#: What goes into a cycle and what comes out of it, including the events of its turn.
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
    """Observes one cycle without changing it, as a recorder, metrics or traces do.

    Pass it to `Proxy.open`. Input is observed before it takes effect, output when `next_event` returns it. An
    exception raised by an observer propagates from the method of the cycle that called it.
    """

    def observe(self, seen: Observation, now: float) -> None:
        """Observe one thing.

        :param now: monotonic seconds: the time of the last call of the cycle that passed one.
        """


@frozen
class _Observers:
    """Several observers of one cycle."""

    observers: tuple[Observer, ...]

    def observe(self, seen: Observation, now: float) -> None:
        for observer in self.observers:
            observer.observe(seen, now)


def join_observers(*observers: Observer | None) -> Observer | None:
    """Join several observers into one; return None if there are none."""
    found = tuple(observer for observer in observers if observer is not None)
    if len(found) > 1:
        return _Observers(found)
    return found[0] if found else None
