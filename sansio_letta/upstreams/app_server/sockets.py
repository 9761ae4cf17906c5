"""What an App Server's connection asks its transport to do."""

from enum import Enum
from typing import TypeAlias

from attrs import field, frozen


class Channel(Enum):
    """The two sockets to one App Server.

    A conversation that runs, or waits for a client's results, ends when the last socket that follows it is
    lost. So a second one follows all of them, and takes over when the first breaks.
    """

    WORK = "work"
    GUARD = "guard"

    # A socket is looked up for every frame: Enum's own hash is Python code.
    __hash__ = object.__hash__


@frozen
class OpenSocket:
    """Open a socket; report `socket_opened` or `socket_lost`."""

    channel: Channel


@frozen
class SendFrame:
    """Send a text frame.

    :param request_id: of the question in it; empty if it is none.
    """

    channel: Channel
    data: bytes = field(repr=False)
    request_id: str = ""


SocketCommand: TypeAlias = OpenSocket | SendFrame
