"""Answers are streamed: each piece arrives before Letta has sent the next."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import orjson

import letta_httpx
from drive import DONE, PING, USAGE, WEATHER, agent_json, encode, say, stop, think, want
from inprocess.kit import (
    CHAT,
    KITS,
    STREAM,
    Hold,
    Kit,
    ask,
    asynchronously,
    everywhere,
    found,
    hello,
    runs,
    text_of,
)

PATIENCE = 5.0  # seconds until something that should have happened has not


@everywhere
async def test_a_reply(kit: Kit) -> None:
    letta = kit.letta(found(), hello())
    client = kit.client(letta)
    reply = await client.ask(stream_options={"include_usage": True})
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["x-request-id"].startswith("req_")
    assert "content-length" not in reply.headers
    body = await reply.read()
    assert text_of(body) == "Hello"
    assert body.endswith(b"data: [DONE]\n\n")
    assert b'"total_tokens":120' in body
    (said,) = letta.bodies[0]["messages"]
    assert (said["role"], said["content"]) == ("user", "hi")
    await client.close()
    assert letta.closed


@everywhere
async def test_a_whole_reply(kit: Kit) -> None:
    client = kit.client(kit.letta(found(), hello()))
    reply = await client.ask(stream=False)
    body = await reply.read()
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["content-length"] == str(len(body))
    assert orjson.loads(body)["choices"][0]["message"]["content"] == "Hello"


@everywhere
async def test_the_first_chunk_is_here_before_letta_sends_the_second(kit: Kit) -> None:
    got: list[str] = []

    def has(*texts: str) -> Callable[[], None]:
        def check() -> None:
            assert got == list(texts), "Letta was asked for more before the caller had what is there"

        return check

    letta = kit.letta(
        found(),
        runs(PING, say("one "), has("one "), say("two "), has("one ", "two "), think("three"), stop(), DONE),
    )
    reply = await kit.client(letta).ask()
    while piece := await reply.next():
        if text := text_of(piece):
            got.append(text)
    assert got == ["one ", "two "]


@asynchronously
async def test_the_first_chunk_is_here_while_letta_waits_for_the_caller(kit: Kit) -> None:
    hold = Hold()
    reply = await kit.client(kit.letta(found(), runs(PING, say("one"), hold, stop(), DONE))).ask()
    assert text_of(await reply.next()) == "one"
    assert not hold.reached.is_set()
    hold.release.set()
    assert (await reply.read()).endswith(b"data: [DONE]\n\n")


@everywhere
async def test_what_comes_together_leaves_together(kit: Kit) -> None:
    together = b"".join(map(encode, (say("a"), say("b"), say("c"))))
    reply = await kit.client(kit.letta(found(), runs(PING, together, stop(), DONE))).ask()
    assert text_of(await reply.next()) == "abc"
    await reply.read()


@everywhere
async def test_letta_is_asked_for_an_agent_once(kit: Kit) -> None:
    letta = kit.letta(found(), hello(), hello())
    client = kit.client(letta)
    assert text_of(await client.answer()) == text_of(await client.answer()) == "Hello"
    assert letta.targets == [
        "GET /v1/agents/?name=Milo&include=agent.tools",
        f"POST {STREAM}",
        f"POST {STREAM}",
    ]


@everywhere
async def test_empty_reads_are_no_end(kit: Kit) -> None:
    letta = kit.letta(found(), runs(PING, b"", say("still here"), b"", stop(), DONE))
    assert text_of(await kit.client(letta).answer()) == "still here"


@everywhere
async def test_a_tool_and_its_result(kit: Kit) -> None:
    tools = [{"type": "function", "function": {"name": WEATHER.name, "parameters": WEATHER.parameters}}]
    letta = kit.letta(
        found(),
        runs(
            PING,
            want("call-1", "get_weather", '{"city":'),
            want("call-1", None, '"Rome"}'),
            stop("requires_approval"),
            USAGE,
            DONE,
        ),
        runs(PING, say("18 C there."), stop(), USAGE, DONE),
    )
    # The agent is remembered, what it waits for is not: it is looked up before results are sent.
    waiting = found("call-1")
    waiting.target = f"/v1/agents/{agent_json()['id']}?include=agent.tools&include=agent.pending_approval"
    waiting.pieces = [orjson.dumps(agent_json("call-1"))]
    letta.script.insert(2, waiting)
    client = kit.client(letta)
    asked = orjson.loads(await client.answer(stream=False, tools=tools))["choices"][0]
    assert asked["finish_reason"] == "tool_calls"
    [call] = asked["message"]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city":"Rome"}'}
    messages = [
        {"role": "user", "content": "hi"},
        asked["message"],
        {"role": "tool", "tool_call_id": call["id"], "content": "18 C"},
    ]
    assert text_of(await client.answer(tools=tools, messages=messages)) == "18 C there."
    assert letta.bodies[-1]["messages"][0]["approvals"][0]["tool_return"] == "18 C"


# --- Through a real socket ------------------------------------------------------------------------------------


class _Letta(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    may_go_on: threading.Event

    def do_GET(self) -> None:
        self._head("application/json")
        self._chunk(orjson.dumps([agent_json()]))
        self._chunk(b"")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._head("text/event-stream")
        self._chunk(encode(PING) + encode(say("one")))
        in_time = self.may_go_on.wait(PATIENCE)
        self._chunk(encode(say(" two" if in_time else " too late")))
        self._chunk(encode(stop()) + encode(DONE))
        self._chunk(b"")

    def _head(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def log_message(self, *_: object) -> None:
        """A test's output is its own."""


@contextmanager
def listening() -> Iterator[tuple[str, threading.Event]]:
    """A Letta on a port of its own, which waits in mid-stream until it is told to go on."""
    may_go_on = threading.Event()
    handler = type("Letta", (_Letta,), {"may_go_on": may_go_on})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", may_go_on
        finally:
            may_go_on.set()
            server.shutdown()
            thread.join()


@everywhere
async def test_the_first_chunk_comes_through_a_socket_before_the_second_is_sent(kit: Kit) -> None:
    with listening() as (url, may_go_on):
        client = kit.client(base_url=url, api_key="x")
        reply = await client.ask()
        assert text_of(await reply.next()) == "one"
        may_go_on.set()
        assert text_of(await reply.read()) == " two"
        await client.close()


def test_the_clients_own_methods_work() -> None:
    """What the SDKs call: lines of a stream, in a context."""
    letta = KITS[0].letta(found(), hello())
    transport = letta_httpx.LettaTransport(base_url="http://letta.invalid", inner=letta.transport())
    with httpx.Client(transport=transport) as client:
        headers = {"content-type": "application/json"}
        with client.stream("POST", f"http://x{CHAT}", content=ask(), headers=headers) as response:
            lines: list[Any] = [line for line in response.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
    assert letta.closed
