"""SIGHUP: keys and certificate are read again, and nothing else stops for it."""

import signal

import trio

from ..server import Server


async def reload_on_hangup(server: Server) -> None:
    """Read again at each SIGHUP, for ever.

    Without anything to read the signal keeps its usual meaning: the end, when a terminal is closed.
    """
    access = server.settings.access
    if not access.key_files and access.tls_cert is None:
        return
    with trio.open_signal_receiver(signal.SIGHUP) as hangups:
        async for _ in hangups:
            server.gate.reload()
            server.door.reload()
