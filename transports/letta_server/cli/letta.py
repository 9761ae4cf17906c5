"""Single cycles against a Letta server, for commands that run no server."""

import secrets
import signal
import time
from typing import Any

import orjson
import trio

from letta_recordings.expectations import Outcome, read_answer
from sansio_letta import Cycle, HttpRequest, Proxy
from sansio_letta.recording.format import TextMode
from sansio_letta.recording.writer import Recorder
from sansio_letta.upstreams.rest.repair import RepairOptions

from ..cycle_driver import CycleDriver, ask
from ..process_identity import has_died
from ..settings.server import Settings
from ..upstream.base import Upstream
from ..upstream.pool import LettaPool


async def list_threads(settings: Settings, agent: str) -> tuple[int, bytes]:
    """List an agent's chats; return the response's status and body."""
    proxy = Proxy(settings.config())
    cycle = proxy.list_threads(agent, token=secrets.token_hex(8), now=trio.current_time())
    return await _collect(settings, cycle)


async def repair_agent(settings: Settings, agent: str, options: RepairOptions) -> tuple[int, bytes]:
    """Settle what keeps an agent stuck; return the response's status and body."""
    cycle = Proxy(settings.config()).repair(
        agent,
        options,
        token=secrets.token_hex(8),
        created=int(time.time()),
        now=trio.current_time(),
        has_died=has_died,
    )
    return await _collect(settings, cycle)


async def _collect(settings: Settings, cycle: Cycle) -> tuple[int, bytes]:
    async with trio.open_nursery() as nursery:
        letta = LettaPool(settings)
        await nursery.start(letta.run)
        try:
            return await CycleDriver(cycle, letta).collect(cancel_timeout=0.0)
        finally:
            letta.stop()


async def record_until_signal(
    settings: Settings, body: dict[str, object], scenario: str, note: str
) -> tuple[bytes, Outcome] | signal.Signals:
    """Record a turn; return the signal if one arrives before its end, and cancel the run."""
    recorded: list[tuple[bytes, Outcome] | signal.Signals] = []

    async def run(scope: trio.CancelScope) -> None:
        async with trio.open_nursery() as nursery:
            letta = LettaPool(settings)
            await nursery.start(letta.run)
            try:
                recorded.append(
                    await record_turn(
                        letta, body, scenario=scenario, note=note, cancel_timeout=settings.cancel_timeout
                    )
                )
            finally:
                letta.stop()
        scope.cancel()

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, nursery.cancel_scope)
            number = await anext(signals)
            nursery.cancel_scope.cancel()
    return recorded[0] if recorded else signal.Signals(number)


async def record_turn(
    upstream: Upstream, body: dict[str, Any], *, scenario: str, note: str, cancel_timeout: float
) -> tuple[bytes, Outcome]:
    """Send one chat request through a separate proxy.

    :param body: the request, as for ``POST /v1/chat/completions``.
    :param cancel_timeout: seconds for cancelling the run, if this is cancelled.
    :return: the recording, with all texts, and the outcome.
    """
    proxy = Proxy()
    status, ready = await ask(proxy, upstream, "/ready")
    server = str(orjson.loads(ready).get("letta")) if status == 200 else "unknown"
    request = HttpRequest(
        method="POST", target="/v1/chat/completions", body=orjson.dumps({**body, "stream": True})
    )
    token, created, now = secrets.token_hex(12), int(time.time()), trio.current_time()
    lines: list[bytes] = []
    recorder = Recorder(lines.append, server=server, text=TextMode.KEEP, scenario=scenario, note=note)
    cycle = proxy.open(request, token=token, created=created, now=now, observer=recorder)
    status, answer = await CycleDriver(cycle, upstream).collect(cancel_timeout=cancel_timeout)
    outcome = Outcome(status=status)
    read_answer(answer, outcome)
    return b"".join(lines), outcome
