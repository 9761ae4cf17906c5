"""Request bodies: limits on their chunks, and on the bytes of all of them together."""

import pytest
import trio
from attrs import evolve
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from letta_server import Server, Settings
from letta_server.client.bodies import BodyBudget, BudgetExceeded
from letta_server.client.connection import BadRequest, ClientConnection, TooManyChunks
from letta_server.settings.errors import SettingsError

from ..scripted import RawClient, found, hello, make_server

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


def connect(nursery: trio.Nursery, server: Server) -> RawClient:
    client, handled = memory_stream_pair()
    nursery.start_soon(server.handle, handled)
    return RawClient(client)


async def received(data: bytes, *, max_chunk_count: int = 100) -> bytes:
    """The body of a request that comes in these bytes."""
    ours, theirs = memory_stream_pair()
    client = ClientConnection(ours, 64 * 1024, 60.0, max_chunk_count=max_chunk_count)
    await theirs.send_all(data)
    await theirs.send_eof()
    await client.receive_head()
    return await client.receive_body(1 << 20)


def chunks(count: int, size: int) -> bytes:
    return b"%x\r\n%b\r\n" % (size, b"x" * size) * count + b"0\r\n\r\n"


async def test_chunks_are_counted_by_what_is_in_them() -> None:
    assert await received(CHUNKED + chunks(100, 1)) == b"x" * 100
    with pytest.raises(TooManyChunks):
        await received(CHUNKED + chunks(101, 1))
    assert await received(CHUNKED + chunks(300, 1024)) == b"x" * 300 * 1024


async def test_a_body_of_a_length_may_come_in_any_pieces() -> None:
    ours, theirs = memory_stream_pair()
    client = ClientConnection(ours, 64 * 1024, 60.0, max_chunk_count=1)
    await theirs.send_all(HEAD + b"content-length: 1000\r\n\r\n")
    await client.receive_head()
    got = []
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            got.append(await client.receive_body(1000))

        nursery.start_soon(receive)
        for _ in range(1000):
            await theirs.send_all(b"x")
            await wait_all_tasks_blocked()
    assert got == [b"x" * 1000]


async def test_others_have_their_turn_between_small_chunks() -> None:
    turns, done = 0, trio.Event()

    async def count() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await received(CHUNKED + chunks(8000, 1), max_chunk_count=10_000)
        done.set()
    assert turns > 20


async def test_a_head_of_too_many_lines_is_not_parsed() -> None:
    lines = b"a: b\r\n" * 5000
    with pytest.raises(BadRequest, match="more than 100 headers") as caught:
        await received(HEAD + lines + b"\r\n")
    assert caught.value.status == 431
    # A body that comes with its head may have as many lines as it likes.
    body = b"\n" * 5000
    assert await received(HEAD + b"content-length: 5000\r\n\r\n" + body) == body


async def test_a_body_in_too_many_chunks_is_refused_in_the_clients_dialect(nursery: trio.Nursery) -> None:
    client = connect(nursery, make_server(max_chunk_count=10)[0])
    await client.send(CHUNKED + chunks(11, 1))
    response = await client.receive()
    assert (response.status, response.json()["error"]["code"]) == (413, "request_too_large")
    assert "more than 10 chunks" in response.json()["error"]["message"]


def test_all_bodies_share_one_budget() -> None:
    budget = BodyBudget(100_000)
    with budget.reserve() as first, budget.reserve() as second:
        first.grow(60_000)
        second.grow(40_000)
        with pytest.raises(BudgetExceeded):
            second.grow(40_001)
        assert budget.size == 100_000
        with budget.reserve() as small:
            small.grow(16 * 1024)
            with pytest.raises(BudgetExceeded):
                small.grow(16 * 1024 + 1)
    assert budget.size == 0


async def test_a_body_beyond_the_budget_is_refused_for_now(nursery: trio.Nursery) -> None:
    serving, _ = make_server(found(), hello(), max_request_size=50_000, max_buffered_size=50_000)
    slow, other = connect(nursery, serving), connect(nursery, serving)
    await slow.send(HEAD + b"content-length: 40000\r\n\r\n" + b"x" * 39_000)
    await wait_all_tasks_blocked()
    await other.send(HEAD + b"content-length: 30000\r\n\r\n" + b"x" * 30_000)
    response = await other.receive()
    assert (response.status, response.headers["retry-after"]) == (503, "1")
    assert response.json()["error"]["code"] == "server_overloaded"
    assert response.json()["error"]["type"] == "server_error"
    await slow.send(b"x" * 1000)
    assert (await slow.receive()).status == 400
    assert serving.body_budget.size == 0


def test_the_budget_is_enough_for_one_body() -> None:
    settings = Settings(letta_url="http://letta.invalid")
    with pytest.raises(SettingsError, match="max_buffered_size: expected at least max_request_size, 33554432"):
        evolve(settings, max_buffered_size=1000)
