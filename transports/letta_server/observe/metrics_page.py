"""``GET /metrics`` on a port of its own."""

from typing import Final

import orjson
import trio
from attrs import define

from sansio_letta import HttpRequest, ResponseHead

from ..client.connection import BadRequest, ClientConnection, ClientGone
from .metrics import Page

#: A scrape takes milliseconds; Prometheus scrapes every 15 to 60 seconds on one connection.
_IDLE_TIMEOUT: Final = 120.0
_REQUEST_TIMEOUT: Final = 10.0  #: Prometheus' own limit for a scrape
_MAX_HEADER_SIZE: Final = 16 * 1024


@define(eq=False)
class MetricsPage:
    """Serves the metrics, without a key.

    :param page: returns the content type and the body for an ``Accept`` header.
    """

    page: Page

    async def handle(self, stream: trio.abc.Stream) -> None:
        """Serve one connection until its end; nothing that a peer does raises an error."""
        client = ClientConnection(stream, _MAX_HEADER_SIZE, _REQUEST_TIMEOUT)
        try:
            while await self._serve_request(client):
                pass
        except (ClientGone, BadRequest):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve_request(self, client: ClientConnection) -> bool:
        waited = False
        with trio.move_on_after(_IDLE_TIMEOUT):
            waited = await client.wait_for_request()
        if not waited:
            return False
        with trio.move_on_after(_REQUEST_TIMEOUT):
            request = await client.receive_head()
            await client.receive_body(_MAX_HEADER_SIZE)
            self._answer(client, request)
            await client.flush()
            return client.start_next_cycle()
        return False

    def _answer(self, client: ClientConnection, request: HttpRequest) -> None:
        status, (kind, body) = 200, ("application/json", orjson.dumps({"error": "Metrics are at /metrics."}))
        if request.target.partition("?")[0] != "/metrics":
            status = 404
        elif request.method not in ("GET", "HEAD"):
            status = 405
        else:
            kind, body = self.page(dict(request.headers).get("accept", ""))
        headers = (("content-type", kind), ("content-length", str(len(body))), ("allow", "GET, HEAD"))
        client.write_head(ResponseHead(status=status, headers=headers))
        if request.method != "HEAD":
            client.write_body(body)
        client.write_end()
