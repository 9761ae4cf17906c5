"""A stand-in for Letta over HTTP, in a thread, for programs that run in their own processes."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def http_letta(answer: Callable[[str, bytes], tuple[str, bytes | Iterable[bytes]]]) -> Iterator[str]:
    """Serve until the block ends.

    :param answer: makes a content type and a body of a request's path and body; a GET has an empty one. A body
        in pieces is sent piece by piece.
    :return: the address.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            size = int(self.headers["content-length"] or 0)
            kind, body = answer(self.path, self.rfile.read(size))
            self.send_response(200)
            self.send_header("content-type", kind)
            if isinstance(body, bytes):
                self.send_header("content-length", str(len(body)))
                body = [body]
            self.end_headers()
            for piece in body:
                self.wfile.write(piece)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
