"""How a connection is closed whose client still sends."""

from typing import Any

import trio
from trio.testing import MockClock, memory_stream_pair

from letta_server.access.tls import LINGER_LIMIT, LINGER_TIMEOUT, close_gently


async def send_and_count(stream: trio.StapledStream[Any, Any], pause: float) -> int:
    """Send a piece after each pause until the other side has gone; return how many were taken."""
    count = 0
    try:
        while True:
            await stream.send_all(b"x" * 1000)
            count += 1
            await trio.sleep(pause)
    except trio.BrokenResourceError:
        return count


async def test_a_client_on_a_slow_line_may_send_its_body(autojump_clock: MockClock) -> None:
    """Else its connection is reset, and it never reads why it was refused."""
    ours, theirs = memory_stream_pair()
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_and_count, theirs, LINGER_TIMEOUT / 2)
        await close_gently(ours)  # type: ignore[arg-type]
    assert trio.current_time() - start >= LINGER_LIMIT


async def test_a_client_that_falls_silent_is_not_waited_for(autojump_clock: MockClock) -> None:
    ours, theirs = memory_stream_pair()
    start = trio.current_time()
    await theirs.send_all(b"x")
    await close_gently(ours)  # type: ignore[arg-type]
    assert trio.current_time() - start == LINGER_TIMEOUT
