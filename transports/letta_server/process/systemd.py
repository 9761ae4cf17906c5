"""Notifications for systemd: one datagram per message, as in sd_notify(3)."""

import os
import socket
from contextlib import suppress


def notify(*states: str) -> None:
    """Notify the service manager, if there is one; errors are ignored.

    :param states: assignments like ``READY=1``.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    name = "\0" + path[1:] if path.startswith("@") else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.sendto("\n".join(states).encode(), name)
