"""An OpenAPI tool server with one tool, on this machine only, which Open WebUI calls for the agent."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from attrs import define, field

MAX_BODY: Final = 64 * 1024  # bytes of a call
IDLE_TIMEOUT: Final = 10.0  # seconds until a quiet connection is closed
SPECIFICATION: Final = {
    "openapi": "3.1.0",
    "info": {"title": "Weather", "version": "1"},
    "paths": {
        "/weather": {
            "post": {
                "operationId": "get_weather",
                "description": "Current weather of a city.",
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "properties": {"city": {"type": "string"}},
                                "required": ["city"],
                            }
                        }
                    },
                },
                "responses": {"200": {"description": "Degrees."}},
            }
        }
    },
}


@define(kw_only=True)
class ToolServer:
    """A tool server that is up, and what it was called with."""

    url: str
    calls: list[Any] = field(factory=list)  #: arguments of each call, as JSON


@contextlib.contextmanager
def tool_server() -> Iterator[ToolServer]:
    """Have a tool server up inside the block."""

    class Handler(BaseHTTPRequestHandler):
        timeout = IDLE_TIMEOUT

        def do_GET(self) -> None:  # the name is http.server's
            if self.path == "/openapi.json":
                self._answer(200, SPECIFICATION)
            else:
                self._answer(404, {"detail": "no such page"})

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length", "0"))
            if self.path != "/weather" or size > MAX_BODY:
                self._answer(404, {"detail": "no such tool, or too much for it"})
                return
            arguments = json.loads(self.rfile.read(size))
            served.calls.append(arguments)
            self._answer(200, f"18 C in {arguments['city']}")

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

        def _answer(self, status: int, value: Any) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = ToolServer(url=f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
