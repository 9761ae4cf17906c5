"""The interface of an upstream, which carries out the core's commands."""

import os
import socket
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Protocol, TypeAlias, runtime_checkable

from sansio_letta.errors import Failure
from sansio_letta.upstreams.app_server.connection import AppServerConnection
from sansio_letta.upstreams.rest.commands import Command

Headers: TypeAlias = list[tuple[str, str]]


#: Additional headers for the current task's requests to Letta, set by observers of a turn.
letta_headers: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("letta_headers", default=())


class UpstreamError(Exception):
    """An exchange with Letta failed.

    :param failure: how far it had got.
    :param reason: a description for the client, without addresses.
    """

    def __init__(self, failure: Failure, reason: str) -> None:
        super().__init__(reason)
        self.failure = failure
        self.reason = reason


class UpstreamExchange(Protocol):
    """A request to Letta, and its response."""

    async def receive_head(self) -> tuple[int, Headers]:
        """Wait for the status and the headers, their names in lower case.

        :raises UpstreamError: BROKEN.
        """
        ...

    async def receive_data(self) -> bytes:
        """Wait for more of the body: all that has arrived, ``b""`` at its end.

        :raises UpstreamError: BROKEN.
        """
        ...

    def release(self) -> None:
        """Stop reading; the connection may be reused."""
        ...


class Upstream(Protocol):
    """Carries out the core's commands: a Letta server, or recordings of one."""

    async def send(self, command: Command) -> UpstreamExchange:
        """Send a command's request.

        :raises UpstreamError: NOT_SENT if there is no connection, BROKEN if it failed while sending.
        """
        ...


@runtime_checkable
class FramedUpstream(Upstream, Protocol):
    """An upstream that carries the frames of an App Server, which belong to no single request."""

    connection: AppServerConnection
    on_defect: Callable[[], None]
    """Called for an unexpected exception while it is handled; the socket that met it is closed."""


@runtime_checkable
class KeyedUpstream(Protocol):
    """An upstream that takes a client's own key."""

    def with_key(self, key: str) -> Upstream:
        """Return the same upstream for one client.

        :param key: sent to Letta as its key.
        """
        ...


def os_reason(exc: BaseException) -> str:
    """Describe an error of the operating system, without the addresses that libraries add to it."""
    causes = [cause for cause in (exc, *_causes(exc)) if isinstance(cause, OSError) and cause.errno]
    if not causes:
        return str(exc)[:200] or type(exc).__name__
    # The error numbers of the resolver are its own.
    if isinstance(causes[-1], socket.gaierror):
        return str(causes[-1].strerror).lower()
    return os.strerror(causes[-1].errno or 0).lower()


def _causes(exc: BaseException) -> Iterator[BaseException]:
    cause = exc.__cause__
    if isinstance(cause, BaseExceptionGroup):
        yield from cause.exceptions
    elif cause is not None:
        yield cause
        yield from _causes(cause)
