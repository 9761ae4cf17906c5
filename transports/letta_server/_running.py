"""One server in this process, from its announcement to the signal that ends it."""

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import trio

from sansio_letta import PRODUCT_ID

from ._announce import say
from ._server import Server, serve
from ._settings import Settings
from ._upstream import Upstream

#: Tells a person at the terminal what is served; gets the server and its own address.
Announce: TypeAlias = Callable[[Server, str], Awaitable[None]]


async def serve_until_signal(settings: Settings, upstream: Upstream | None, announce: Announce) -> None:
    """Serve until SIGTERM or Ctrl-C, and let turns finish then; the second of them ends at once.

    :raises OSError: within a group, if the address cannot be listened on.
    """
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as beside:
            async with trio.open_nursery() as serving:
                server, listeners = await serving.start(serve, settings, upstream)
                url = base_url(settings.host, listeners[0].socket.getsockname()[1])
                say_where(url)
                beside.start_soon(_announce_and_end, server, url, announce, signals)
            beside.cancel_scope.cancel()


async def _announce_and_end(server: Server, url: str, announce: Announce, signals: AsyncIterator[int]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(announce, server, url)
        await anext(signals)
        nursery.cancel_scope.cancel()
    server.end()
    say_end(server.ending.answer_count, server.settings)
    await anext(signals)
    server.end()


def base_url(host: str, port: int) -> str:
    """The address without a path."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def say_where(url: str) -> None:
    """Tell what a client needs."""
    say(f"letta-proxy {PRODUCT_ID.partition('/')[2]} listens on {url}")
    say(f"  base URL  {url}/v1   (for the client; any API key will do)")


def say_end(answer_count: int, settings: Settings) -> None:
    """Tell what is waited for, and how not to."""
    if not answer_count:
        say("letta-proxy ends.")
        return
    turns = "1 turn has" if answer_count == 1 else f"{answer_count} turns have"
    seconds = f"{settings.shutdown_delay + settings.shutdown_timeout:g}"
    say(f"letta-proxy ends once {turns} finished, in {seconds} s at most. Ctrl-C or SIGTERM again: at once.")
