"""What answers at an address of Letta's: its REST API, or an App Server."""

from typing import Final
from urllib.parse import urlsplit, urlunsplit

import orjson
import trio

from sansio_letta.upstreams.rest.commands import IdentifyServer

from .base import UpstreamError
from .pool import LettaPool

#: Of the answer; an App Server's has 600 bytes.
_MAX_SIZE: Final = 64 * 1024


async def is_app_server(pool: LettaPool) -> bool | None:
    """Ask what answers. None if nothing does.

    An App Server that refuses the key is one, too: who asks it next is told.
    """
    body = bytearray()
    try:
        with trio.move_on_after(pool.settings.connect_timeout):
            exchange = await pool.send(IdentifyServer())
            try:
                status, _ = await exchange.receive_head()
                while (data := await exchange.receive_data()) and len(body) < _MAX_SIZE:
                    body += data
            finally:
                exchange.release()
            return _is_app_servers(status, bytes(body))
    except UpstreamError:
        pass
    return None


def _is_app_servers(status: int, body: bytes) -> bool:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    if not isinstance(answer, dict):
        return False
    if status == 401:
        return "websocket" in str(answer.get("error"))
    return status == 200 and answer.get("type") == "app_server_info_response"


def socket_url(letta_url: str) -> str:
    """Return the address of an App Server's WebSocket, by the address that was given."""
    parts = urlsplit(letta_url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    path = parts.path.rstrip("/").removesuffix("/v1")
    path = path if path.endswith("/ws") else f"{path}/ws"
    return urlunsplit((scheme, parts.netloc, path, "", ""))
