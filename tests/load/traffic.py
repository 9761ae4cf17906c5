"""Mixed traffic: ``python tests/load/traffic.py URL SECONDS WORKERS SEED``; one line of JSON at the end.

Every worker does one thing after the other, chosen by chance: asks for text, calls tools and gives results,
leaves, resets, reads slowly, asks Letta to fail, repeats what failed, lists models, and sends rubbish. A client
knows which fault it has asked for. Any other error is counted as unexpected, with an example.

Workers keep a pace, as far as the machine does: the faster they are, the more there is to remember for repeats,
and memory would follow what else the machine does.
"""

import random
import socket
import struct
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import h11
import orjson
import trio
from attrs import define, field

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.scenes import STREAMED
from faults.told import Told, read
from faults.wire import request_bytes
from server.scripted import RawClient

SCENES: Final = {scene.name: scene for scene in STREAMED}
PATIENCE: Final = 60.0  # seconds for one request
PACE: Final = 0.75  # seconds from one thing that a worker does to the next
TEXTS: Final = ("text-1", "reasoning-1", "unicode-1", "server_tool-1", "step_streaming-1")


class Unexpected(Exception):
    """Something other than what was asked for."""


UNEXPECTED: Final = (
    Unexpected,
    AssertionError,
    OSError,
    trio.BrokenResourceError,
    trio.TooSlowError,
    h11.RemoteProtocolError,
)


@define(eq=False)
class Worker:
    """One client after the other, each with a thread of its own."""

    address: tuple[str, int]
    number: int
    chance: random.Random
    counts: Counter[str]
    examples: list[str]
    serial: int = 0
    client: RawClient | None = field(default=None)

    async def work(self) -> None:
        """Until cancelled."""
        deeds = {
            self.talk: 40,
            self.use_tools: 10,
            self.leave: 10,
            self.read_slowly: 4,
            self.be_failed: 14,
            self.repeat: 6,
            self.list_models: 6,
            self.send_nonsense: 10,
        }
        while True:
            next_at = trio.current_time() + PACE
            [deed] = self.chance.choices(list(deeds), list(deeds.values()))
            name = deed.__name__
            try:
                with trio.fail_after(PATIENCE):
                    await deed()
                self.counts[name] += 1
            except UNEXPECTED as exc:
                self.counts["unexpected"] += 1
                self.examples.append(f"{name}: {exc!r}"[:500])
                await self.hang_up()
            await trio.sleep_until(next_at)

    async def hang_up(self, *, reset: bool = False) -> None:
        """Close the connection, if there is one."""
        if self.client is not None:
            stream, self.client = self.client.stream, None
            if reset and isinstance(stream, trio.SocketStream):
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await trio.aclose_forcefully(stream)

    async def connected(self) -> RawClient:
        """A connection, mostly the one of the last request."""
        if self.client is not None and self.chance.random() < 0.1:
            await self.hang_up()
        if self.client is None:
            self.client = RawClient(await trio.open_tcp_stream(*self.address))
        return self.client

    def body(self, name: str, *, directive: str = "") -> dict[str, Any]:
        """A chat request unlike any before it."""
        self.serial += 1
        scene, mark = SCENES[name], f" {self.number}.{self.serial} {directive}"
        return scene.request(f"{name}.{self.number}", stream=self.chance.random() < 0.7, mark=mark)

    async def ask(self, body: dict[str, Any], *, attempt: int = 0) -> Told:
        """One request, whole."""
        client = await self.connected()
        await client.send(request_bytes(body, attempt=attempt))
        response = await client.receive()
        told = read(response.status, list(response.headers.items()), response.body)
        self.counts["bytes"] += len(response.body)
        if response.headers.get("connection") == "close":
            await self.hang_up()
        return told

    async def ask_whole(self, body: dict[str, Any], *, attempt: int = 0) -> Told:
        """One request whose answer must be whole."""
        told = await self.ask(body, attempt=attempt)
        if not told.whole:
            raise Unexpected(f"{body['model']}: {told.status} {told.error}")
        return told

    # --- What clients do

    async def talk(self) -> None:
        await self.ask_whole(self.body(self.chance.choice(TEXTS)))

    async def use_tools(self) -> None:
        body = self.body("client_tool-1") | {"model": f"tools.{self.number}"}
        told = await self.ask_whole(body)
        if not told.calls:
            raise Unexpected("no call")
        calls = [
            {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for id, name, arguments in told.calls
        ]
        results = [{"role": "tool", "tool_call_id": call["id"], "content": "18 C"} for call in calls]
        body["messages"] += [{"role": "assistant", "content": None, "tool_calls": calls}, *results]
        if (await self.ask_whole(body)).calls:
            raise Unexpected("a call in place of an answer to the result")

    async def leave(self) -> None:
        client = await self.connected()
        await client.send(request_bytes(self.body(self.chance.choice(TEXTS))))
        with trio.move_on_after(self.chance.uniform(0, 0.5)):
            await client.receive()
        await self.hang_up(reset=self.chance.random() < 0.5)

    async def read_slowly(self) -> None:
        client = await self.connected()
        await client.send(request_bytes(self.body("long-1") | {"stream": True}))
        for _ in range(20):
            await trio.sleep(0.1)
            await client.stream.receive_some(200)
        await self.hang_up()

    async def be_failed(self) -> None:
        name = self.chance.choice(TEXTS)
        at = self.chance.randint(0, len(SCENES[name].script.body))
        how = self.chance.choice(("ends", "resets", "babbles"))
        ahead = self.chance.choice(("ahead", "stands"))
        told = await self.ask(self.body(name, directive=f"<fault {how} {at} {ahead}>"))
        self.counts["answers that broke"] += not told.whole

    async def repeat(self) -> None:
        body = self.body("text-1", directive="<fault fails - stands>")
        told = await self.ask(body)
        if not told.retried:
            # Whoever cannot be sure says so: that costs a repeat, and no promise.
            self.counts["told with caution"] += 1
            return
        await self.ask_whole(body, attempt=1)

    async def list_models(self) -> None:
        client = await self.connected()
        response = await client.get("/v1/models")
        if response.status != 200 or response.json()["object"] != "list":
            raise Unexpected(f"models: {response.status}")

    async def send_nonsense(self) -> None:
        nonsense, status = self.chance.choice(
            (
                (request_bytes({"model": "nobody", "messages": [{"role": "user", "content": "hi"}]}), 404),
                (request_bytes({"model": "nobody"}), 400),
                (b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\n{", 400),
                (b"POST /v1/nothing HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n", 404),
                (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
            )
        )
        client = await self.connected()
        await client.send(nonsense)
        response = await client.receive()
        if response.status != status:
            raise Unexpected(f"nonsense: {response.status}, not {status}")
        if nonsense.startswith(b"\x16"):
            await self.hang_up()


async def main(url: str, seconds: float, worker_count: int, seed: int) -> dict[str, Any]:
    """All of it, and what came of it."""
    parts = urlsplit(url)
    counts: Counter[str] = Counter()
    examples: list[str] = []
    workers = [
        Worker(
            address=(parts.hostname or "", parts.port or 80),
            number=number,
            chance=random.Random(f"{seed} {number}"),
            counts=counts,
            examples=examples,
        )
        for number in range(worker_count)
    ]
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for worker in workers:
                nursery.start_soon(worker.work)
    for worker in workers:
        await worker.hang_up()
    return {**counts, "examples": examples[:10]}


if __name__ == "__main__":
    print(
        orjson.dumps(
            trio.run(main, sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
        ).decode()
    )
