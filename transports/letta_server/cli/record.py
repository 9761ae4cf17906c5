"""One turn against a real Letta, saved as a fixture if it shows what it should."""

import secrets
import time
from typing import Any

import orjson
import trio

from letta_recordings.expectations import Outcome, read_answer
from sansio_letta import HttpRequest, Proxy
from sansio_letta.recording.format import RecordingHead, TextMode
from sansio_letta.recording.writer import record

from ..cycle_driver import Carrier, ask
from ..upstream.base import Upstream


async def record_turn(
    upstream: Upstream, body: dict[str, Any], *, scenario: str, note: str, cancel_timeout: float
) -> tuple[bytes, Outcome]:
    """Send one chat request through a proxy of its own.

    :param body: the request, as for ``POST /v1/chat/completions``.
    :param cancel_timeout: seconds to end the run in, if this is cancelled.
    :return: the recording, with all texts, and what came of it.
    """
    proxy = Proxy()
    status, ready = await ask(proxy, upstream, "/ready")
    server = str(orjson.loads(ready).get("letta")) if status == 200 else "unknown"
    request = HttpRequest(
        method="POST", target="/v1/chat/completions", body=orjson.dumps({**body, "stream": True})
    )
    token, created, now = secrets.token_hex(12), int(time.time()), trio.current_time()
    head = RecordingHead.begin(
        server=server,
        scenario=scenario,
        note=note,
        token=token,
        created=created,
        config=proxy.config,
        text=TextMode.KEEP,
    )
    lines: list[bytes] = []
    cycle = record(
        proxy.open(request, token=token, created=created, now=now), request, head, lines.append, now=now
    )
    status, answer = await Carrier(cycle, upstream).collect(cancel_timeout=cancel_timeout)
    outcome = Outcome(status=status)
    read_answer(answer, outcome)
    return b"".join(lines), outcome
