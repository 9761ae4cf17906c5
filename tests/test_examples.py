"""The examples run as they stand."""

import sys
from pathlib import Path

import orjson
import trio

from drive import DONE, PING, USAGE, agent_json, encode, say, stop

EXAMPLES = Path(__file__).parent.parent / "examples"


async def test_minimal_transport() -> None:
    agents = orjson.dumps([agent_json()])
    run = b"".join(encode(message) for message in (PING, say("Hello"), stop(), USAGE, DONE))
    answers = [(b"application/json", agents), (b"text/event-stream", run)]

    async def letta(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        kind, body = answers.pop(0)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (kind, len(body))
        await stream.send_all(head + body)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, letta, 0)
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        request = '{"model": "Milo", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'
        command = [sys.executable, str(EXAMPLES / "minimal_transport.py"), url, "/v1/chat/completions", request]
        done = await trio.run_process(command, capture_stdout=True)
        nursery.cancel_scope.cancel()
    assert done.stdout.startswith(b"200\n")
    assert b'"content":"Hello"' in done.stdout
