"""A proxy that is started anew when a script in a browser asks for it, at the same address."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from attrs import define, field

from live.proxy import Proxy, serving
from live.rig import free_port

IDLE_TIMEOUT: Final = 10.0  # seconds until a quiet connection is closed


@define(kw_only=True, eq=False)
class RestartableProxy:
    """A serving proxy, and another one after each restart, which knows nothing of it.

    :param arguments: of each of them.
    """

    letta_url: str
    arguments: tuple[str, ...]
    port: int = field(factory=free_port)
    restart_url: str = ""  #: a POST restarts it, and is answered once it serves again
    _running: contextlib.ExitStack = field(factory=contextlib.ExitStack)
    _proxy: Proxy = field(init=False)

    def start(self) -> None:
        """Start it and wait until it serves."""
        self._proxy = self._running.enter_context(serving(self.letta_url, *self.arguments, port=self.port))

    def stop(self) -> None:
        """End it as a service manager does."""
        self._running.close()

    @property
    def base_url(self) -> str:
        """The base URL that clients are given."""
        return self._proxy.base_url


@contextlib.contextmanager
def restartable(letta_url: str, *arguments: str) -> Iterator[RestartableProxy]:
    """Have a proxy up inside the block, whichever process it is."""
    proxy = RestartableProxy(letta_url=letta_url, arguments=arguments)

    class Handler(BaseHTTPRequestHandler):
        timeout = IDLE_TIMEOUT

        def do_POST(self) -> None:  # the name is http.server's
            proxy.stop()
            proxy.start()
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        proxy.restart_url = f"http://127.0.0.1:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            proxy.start()
            yield proxy
        finally:
            server.shutdown()
            thread.join()
            proxy.stop()
