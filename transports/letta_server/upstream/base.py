"""What the server needs of an upstream: something that answers the core's commands."""

from contextvars import ContextVar
from typing import Protocol, TypeAlias, runtime_checkable

from sansio_letta.errors import Failure
from sansio_letta.upstreams.rest.commands import Command

Headers: TypeAlias = list[tuple[str, str]]


#: Sent with each request to Letta that the current task makes: whoever watches a turn may set it.
letta_headers: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("letta_headers", default=())


class UpstreamError(Exception):
    """An exchange with Letta went wrong.

    :param failure: how far it had come.
    :param reason: in words, for a client; without addresses.
    """

    def __init__(self, failure: Failure, reason: str) -> None:
        super().__init__(reason)
        self.failure = failure
        self.reason = reason


class UpstreamExchange(Protocol):
    """One request to Letta that has been sent, and its answer."""

    async def receive_head(self) -> tuple[int, Headers]:
        """The status and the headers, names in lower case.

        :raises UpstreamError: BROKEN.
        """
        ...

    async def receive_data(self) -> bytes:
        """More of the body: all that has arrived, ``b""`` at its end.

        :raises UpstreamError: BROKEN.
        """
        ...

    def release(self) -> None:
        """No more will be read."""
        ...


class Upstream(Protocol):
    """Somebody who answers the core's commands: Letta, or recordings of it."""

    async def send(self, command: Command) -> UpstreamExchange:
        """Send a command's request.

        :raises UpstreamError: NOT_SENT if there is no connection, BROKEN if it failed while sending.
        """
        ...


@runtime_checkable
class KeyedUpstream(Protocol):
    """An upstream that can be asked with a client's own key."""

    def with_key(self, key: str) -> Upstream:
        """The same, for one client.

        :param key: what Letta is to be given as its key.
        """
        ...
