"""SIGHUP: reloads the keys and the certificate while the server is running."""

import signal

import trio

from ..server import Server


async def reload_on_sighup(server: Server) -> None:
    """Reload keys and certificate at each SIGHUP, until cancelled.

    Without either, the signal keeps its usual effect: the process ends when its terminal is closed.
    """
    access = server.settings.access
    if not access.key_files and access.tls_cert is None:
        return
    with trio.open_signal_receiver(signal.SIGHUP) as hangups:
        async for _ in hangups:
            server.admission.reload()
            server.connections.reload()
