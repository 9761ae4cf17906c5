"""A stand-in for Letta over HTTP whose agent says one word, and continues when the test lets it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
from attrs import define, field

from drive import DONE, PING, RUN_ID, USAGE, agent_json, encode, say, stop

PATIENCE = 30.0  # seconds until something that should have happened has not


@define(eq=False)
class GatedLetta:
    """Its agent Milo, and what was asked of it.

    :param url: where it listens.
    """

    url: str = ""
    gate: threading.Event = field(factory=threading.Event)  #: set: turns go on to their end
    cancelled: list[str] = field(factory=list)  #: runs
    headers: list[dict[str, str]] = field(factory=list)  #: of each request for a turn
    conversations: list[Any] = field(factory=list)  #: that it has, whatever is looked for
    _ended: threading.Event = field(factory=threading.Event)

    def turn(self) -> Iterator[bytes]:
        """A run's stream."""
        yield encode(PING) + encode(say("Hel"))
        while not self.gate.wait(0.02):
            if self._ended.is_set() or self.cancelled:
                return
        yield encode(say("lo")) + encode(stop()) + encode(USAGE) + encode(DONE)

    def answer(self, path: str, body: Any) -> Any:
        """Any other request's JSON."""
        if path.startswith("/v1/health"):
            return {"version": "0.16.7", "status": "ok"}
        if path.endswith("/messages/cancel"):
            self.cancelled += body["run_ids"]
            return {RUN_ID: "cancelled"}
        if path.startswith("/v1/conversations/?"):
            return self.conversations
        if "/messages?" in path:
            return []
        agent = agent_json()
        return [agent] if path.startswith("/v1/agents/?") else agent

    def end(self) -> None:
        """Let go of all turns."""
        self._ended.set()


@contextmanager
def gated_letta() -> Iterator[GatedLetta]:
    """Serve until the block ends."""
    letta = GatedLetta()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            size = int(self.headers["content-length"] or 0)
            body = orjson.loads(self.rfile.read(size) or b"null")
            if self.path.endswith("/messages/stream"):
                letta.headers.append({name.lower(): value for name, value in self.headers.items()})
                self._send("text/event-stream", letta.turn())
            else:
                self._send("application/json", [orjson.dumps(letta.answer(self.path, body))])

        do_POST = do_GET

        def _send(self, kind: str, pieces: Any) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.end_headers()
            try:
                for piece in pieces:
                    self.wfile.write(piece)
                    self.wfile.flush()
            except OSError:
                pass  # nobody reads any more

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    letta.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield letta
    finally:
        letta.end()
        server.shutdown()
        thread.join()
        server.server_close()
