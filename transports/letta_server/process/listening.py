"""Listening sockets, bound here or passed by systemd before the server starts, so that workers share them."""

import os
import socket
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from typing import Final

import trio

_FIRST_FD: Final = 3  # sd_listen_fds(3)


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on all addresses of a host, as trio does.

    :param port: 0 chooses a free one.
    :raises OSError: if an address cannot be bound.
    """
    listeners: list[trio.SocketListener] = trio.run(partial(trio.open_tcp_listeners, port, host=host))
    return [socket.socket(fileno=listener.socket.detach()) for listener in listeners]


def inherited_sockets() -> list[tuple[str, socket.socket]]:
    """Return the sockets that systemd passes by socket activation, with their names."""
    count, names = os.environ.get("LISTEN_FDS", "0"), os.environ.get("LISTEN_FDNAMES", "").split(":")
    ours = os.environ.get("LISTEN_PID") == str(os.getpid())
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)  # not for our own child processes
    if not ours or not count.isdecimal():
        return []
    return [
        (name, socket.socket(fileno=fd))
        for fd, name in zip_longest(range(_FIRST_FD, _FIRST_FD + int(count)), names, fillvalue="")
        if isinstance(fd, int)
    ]


def as_listeners(sockets: Sequence[socket.socket]) -> list[trio.SocketListener]:
    """Wrap sockets as trio's listeners."""
    return [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in sockets]


def address(listening: socket.socket) -> tuple[str, int]:
    """Return host and port of a socket; path and 0 for a Unix socket."""
    name = listening.getsockname()
    return (str(name), 0) if listening.family == socket.AF_UNIX else (str(name[0]), int(name[1]))
