"""The server's response to the same request, which the transports are compared with."""

from typing import Any

import orjson
import trio
import trio.testing

from inprocess.kit import Client
from sansio_letta import Proxy
from server.scripted import RawClient, Response, Script, make_server


async def _ask_server(
    data: bytes, method: str, script: tuple[Script, ...], settings: dict[str, Any]
) -> Response:
    server, _ = make_server(*script, **settings)
    # A script has no second answer to the same question.
    server.proxy = Proxy(server.settings.config().without_pauses())
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.handle, theirs)
        client = RawClient(ours)
        await client.send(data)
        response = await client.receive(method)
        await ours.aclose()
    return response


def from_server(
    method: str,
    target: str,
    *script: Script,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    **settings: Any,
) -> Response:
    """One request to the server, in front of a script."""
    lines = [f"{method} {target} HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    data = "\r\n".join((*lines, "", "")).encode() + body
    return trio.run(_ask_server, data, method, script, settings)


async def from_transport(
    client: Client, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> Response:
    """The same request to a transport."""
    reply = await client.send(method, target, body, headers)
    return Response(reply.status, reply.headers, await reply.read())


#: What HTTP framing adds, and what is another each time.
_FRAMING = {"date", "connection", "transfer-encoding", "content-length", "x-request-id", "server", "keep-alive"}


def shown(response: Response) -> tuple[int, dict[str, str], Any]:
    """What an answer says, without what differs from one to the next."""
    headers = {name: value for name, value in response.headers.items() if name not in _FRAMING}
    try:
        body = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        body = response.body
    return response.status, headers, body
