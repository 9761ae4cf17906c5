"""One turn against a real Letta, saved as a fixture if it shows what it should."""

import secrets
import time
from collections.abc import Sequence
from typing import Any, Final

import orjson
import trio
from attrs import define, field, frozen

from sansio_letta import HttpRequest, Proxy
from sansio_letta.recording.format import RecordingHead, TextMode
from sansio_letta.recording.writer import record

from ._server import Carrier, ask
from ._upstream import Upstream

#: What can be expected, and of which part of the outcome.
EXPECTATIONS: Final = ("status", "finish", "text", "reasoning", "call", "error")


class ExpectationError(ValueError):
    """An expectation that cannot be checked, or that did not hold."""


@frozen
class Expectation:
    """`name=value`: the outcome must have it, texts as a part."""

    name: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Expectation":
        """:raises ExpectationError: if it is not of this form."""
        name, equals, value = text.partition("=")
        if name not in EXPECTATIONS or not equals:
            known = ", ".join(f"{known}=..." for known in EXPECTATIONS)
            raise ExpectationError(f"--expect {text}: expected one of {known}")
        return cls(name, value)


@define
class Outcome:
    """What a client got, in short."""

    status: int | None = None
    finish: str | None = None
    text: str = ""
    reasoning: str = ""
    calls: list[str] = field(factory=list)
    error: str | None = None

    def check(self, expectation: Expectation) -> None:
        """:raises ExpectationError: if the expectation does not hold."""
        name, value = expectation.name, expectation.value
        seen = self.calls if name == "call" else getattr(self, name)
        if not (
            value in seen if isinstance(seen, list) or name in ("text", "reasoning") else str(seen) == value
        ):
            raise ExpectationError(f"expected {name}={value}, got {seen!r}")


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
    _read(answer, outcome)
    return b"".join(lines), outcome


def _read(answer: bytes, outcome: Outcome) -> None:
    """A streamed answer's parts."""
    for event in answer.split(b"\n\n"):
        data = event.removeprefix(b"data: ")
        if not data.startswith(b"{"):
            continue
        chunk = orjson.loads(data)
        if "error" in chunk:
            outcome.error = chunk["error"]["code"]
        for choice in chunk.get("choices", ()):
            delta = choice["delta"]
            outcome.text += delta.get("content") or ""
            outcome.reasoning += delta.get("reasoning_content") or ""
            outcome.calls += [call["function"]["name"] for call in delta.get("tool_calls", ()) if "id" in call]
            outcome.finish = choice["finish_reason"] or outcome.finish


def check_all(outcome: Outcome, expectations: Sequence[Expectation]) -> None:
    """:raises ExpectationError: for the first that does not hold."""
    for expectation in expectations:
        outcome.check(expectation)
