"""One process of the server: what it serves, and what controls it."""

import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import TypeAlias

import trio
from attrs import frozen

from sansio_letta import PRODUCT_ID, Proxy
from sansio_letta.proxy.observer import Observer

from ..server import Server, serve, sweep_periodically
from ..settings.server import Settings
from ..upstream.base import Upstream
from ..upstream.pool import LettaPool
from .announce import key_advice, say
from .listening import address, as_listeners
from .reload import reload_on_sighup
from .systemd import notify

#: Prints what is served; called with the server and its own address.
Announce: TypeAlias = Callable[[Server, str], Awaitable[None]]

#: Passed to `run_server`: handles signals or orders that end the server, until it has ended.
Control: TypeAlias = Callable[[Server], Awaitable[None]]


@frozen(kw_only=True, eq=False)
class Service:
    """What a process serves.

    :param upstream: None: the Letta of the settings.
    :param sockets: listening sockets for clients.
    :param metrics_sockets: listening sockets for Prometheus; without any, nothing is counted.
    :param traces: whether spans of turns are sent to an OpenTelemetry collector.
    """

    settings: Settings
    upstream: Upstream | None
    announce: Announce
    sockets: Sequence[socket.socket]
    metrics_sockets: Sequence[socket.socket] = ()
    traces: bool = False

    @property
    def url(self) -> str:
        """The URL for clients, without a path."""
        host, port = address(self.sockets[0])
        if host.startswith("/"):
            return f"unix:{host}"
        scheme = "http" if self.settings.access.tls_cert is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def run_server(service: Service, control: Control) -> None:
    """Serve until `control` ends the server."""
    settings, observers = service.settings, list[Callable[[], Observer]]()
    watching: list[Callable[[Proxy], Awaitable[None]]] = []
    async with trio.open_nursery() as beside, AsyncExitStack() as last:
        # Imported only if used, since each import delays the start.
        if service.metrics_sockets:
            from ..observe.metrics import Metrics
            from ..observe.metrics_page import MetricsPage

            metrics = Metrics()
            observers.append(metrics.observer)
            watching.append(metrics.watch_queue)
            page, listeners = MetricsPage(metrics.page), as_listeners(service.metrics_sockets)
            beside.start_soon(trio.serve_listeners, page.handle, listeners)
        if service.traces:
            from ..observe.traces import Traces, exporting_provider, send_last

            provider = exporting_provider()
            observers.append(Traces(provider, settings.letta_url).observer)
            last.push_async_callback(send_last, provider)
        async with trio.open_nursery() as serving:
            listeners = as_listeners(service.sockets)
            start = partial(serve, settings, service.upstream, listeners=listeners, observers=observers)
            server, _ = await serving.start(start)
            beside.start_soon(control, server)
            beside.start_soon(reload_on_sighup, server)
            if isinstance(server.upstream, LettaPool) and not settings.access.pass_through:
                beside.start_soon(sweep_periodically, server)
            for watch in watching:
                beside.start_soon(watch, server.proxy)
        beside.cancel_scope.cancel()


async def run_alone(service: Service) -> None:
    """Serve in this process until SIGTERM or Ctrl-C; a second signal ends it at once."""

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

        async def control(server: Server) -> None:
            announce_start(service)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(service.announce, server, service.url)
                await anext(signals)
                nursery.cancel_scope.cancel()
            server.end()
            announce_shutdown(service.settings, server.shutdown.response_count)
            await anext(signals)
            server.end()

        await run_server(service, control)


def announce_start(service: Service, worker_count: int = 1) -> None:
    """Print what clients need, and notify the service manager that the server is ready."""
    say(f"letta-proxy {PRODUCT_ID.partition('/')[2]} listens on {service.url}")
    say(f"  base URL  {service.url}/v1   (for the client; {key_advice(service.settings)})")
    if worker_count > 1:
        say(f"  workers   {worker_count}")
    for each in service.metrics_sockets[:1]:
        say("  metrics   http://{}:{}/metrics".format(*address(each)))
    notify("READY=1", f"STATUS=Serving on {service.url}")


def announce_shutdown(settings: Settings, response_count: int) -> None:
    """Print what the shutdown waits for, and how to end it at once."""
    seconds = settings.shutdown_delay + settings.shutdown_timeout
    most = seconds + 2 * settings.cancel_timeout
    notify(
        "STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(most * 1e6)}", f"STATUS=Waiting for {response_count} answers"
    )
    if not response_count:
        say("letta-proxy ends.")
        return
    turns = "1 turn has" if response_count == 1 else f"{response_count} turns have"
    say(f"letta-proxy ends once {turns} finished, in {seconds:g} s at most. Ctrl-C or SIGTERM again: at once.")
