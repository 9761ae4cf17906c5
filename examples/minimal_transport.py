"""A complete transport on the standard library: one request, answered by a Letta server.

    python examples/minimal_transport.py http://127.0.0.1:8283 /v1/models
    python examples/minimal_transport.py http://127.0.0.1:8283 /v1/chat/completions \
        '{"model": "Milo", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'
"""

import http.client
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from sansio_letta import HttpRequest, Proxy, ResponseBody, ResponseHead, Signal
from sansio_letta.errors import Failure


def answer(proxy: Proxy, letta_url: str, request: HttpRequest) -> Iterator[ResponseHead | ResponseBody]:
    """Yield the response to a request as it arrives. Closing the generator early cancels the run."""
    cycle = proxy.open(request, token=secrets.token_hex(8), created=int(time.time()), now=time.monotonic())
    woken = threading.Event()
    cycle.wake = woken.set
    letta = http.client.HTTPConnection(urlsplit(letta_url).netloc, timeout=120)
    response: http.client.HTTPResponse | None = None
    while (item := cycle.next_event()) is not Signal.FINISHED:
        try:
            match item:
                case ResponseHead() | ResponseBody():
                    yield item
                case Signal.NEED_DATA if response is not None:
                    cycle.receive_data(response.read1(), time.monotonic())
                case Signal.WAITING:
                    woken.wait(max(0.0, cycle.next_deadline() - time.monotonic()))
                    woken.clear()
                    cycle.handle_deadline(time.monotonic())
                case command if not isinstance(command, Signal):
                    letta.close()
                    letta.request(
                        command.method, command.target, command.body, {"content-type": "application/json"}
                    )
                    response = letta.getresponse()
                    headers = [(name.lower(), value) for name, value in response.getheaders()]
                    cycle.receive_response(response.status, headers, time.monotonic())
        except GeneratorExit:
            cycle.cancel(time.monotonic())  # the client has disconnected: cancel the run
        except (OSError, http.client.HTTPException) as exc:
            failure = Failure.NOT_SENT if isinstance(exc, ConnectionRefusedError) else Failure.BROKEN
            cycle.receive_failure(failure, type(exc).__name__, time.monotonic())
    letta.close()
    cycle.close()


def main(letta_url: str, target: str, body: str = "") -> None:
    """Print the response."""
    request = HttpRequest(method="POST" if body else "GET", target=target, body=body.encode())
    for item in answer(Proxy(), letta_url, request):
        print(item.status if isinstance(item, ResponseHead) else item.data.decode(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
