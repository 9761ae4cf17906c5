"""What systemd wants to be told: one datagram for each message, as sd_notify(3) has it."""

import os
import socket
from contextlib import suppress


def notify(*states: str) -> None:
    """Tell the service manager, if there is one; that it does not hear us is no reason to fail.

    :param states: like ``READY=1``.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    name = "\0" + path[1:] if path.startswith("@") else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.sendto("\n".join(states).encode(), name)
