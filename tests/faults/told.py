"""What a client received, read strictly: a response has exactly one end."""

from collections.abc import Sequence
from typing import Any, Final

import orjson
from attrs import define, field

RETRIED: Final = (408, 409, 429)
REPEATED_TYPE: Final = "server_error"  #: in a stream; opencode sends such a request again


@define(eq=False)
class Told:
    """One answer, as far as it went."""

    status: int
    headers: dict[str, str]
    text: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(factory=list)  #: id, name, arguments
    finish_reason: str | None = None
    error: dict[str, Any] | None = None

    @property
    def whole(self) -> bool:
        return self.error is None

    @property
    def retried(self) -> bool:
        """Whether a client would send the request again: an SDK by the status, opencode by the type."""
        if self.error is None:
            return False
        if self.status == 200:
            return bool(self.error["type"] == REPEATED_TYPE)
        advice = self.headers.get("x-should-retry")
        return advice == "true" or (advice != "false" and (self.status in RETRIED or self.status >= 500))


def read(status: int, headers: Sequence[tuple[str, str]], body: bytes) -> Told:
    """Read a response as it reached the client.

    :raises AssertionError: if it has no end, two ends, or anything after its end.
    """
    told = Told(status, dict(headers))
    kind = told.headers.get("content-type", "")
    if status != 200:
        assert kind.startswith("application/json"), kind
        told.error = _error(orjson.loads(body))
    elif kind.startswith("text/event-stream"):
        _read_stream(told, body)
    else:
        (choice,) = orjson.loads(body)["choices"]
        message = choice["message"]
        told.text, told.finish_reason = message["content"] or "", choice["finish_reason"]
        told.reasoning = message.get("reasoning_content") or ""
        for call in message.get("tool_calls") or ():
            told.calls.append([call["id"], call["function"]["name"], call["function"]["arguments"]])
        assert told.finish_reason is not None
    return told


def _read_stream(told: Told, body: bytes) -> None:
    *events, rest = body.split(b"\n\n")
    assert rest == b"", f"half an event at the end: {rest[:200]!r}"
    data = [event.removeprefix(b"data: ") for event in events if not event.startswith(b":")]
    assert data, "a stream without an event"
    *chunks, last = data
    for chunk in chunks:
        assert chunk != b"[DONE]", "more after [DONE]"
        _add(told, orjson.loads(chunk))
    if last == b"[DONE]":
        assert told.finish_reason is not None, "[DONE] without a finish_reason"
    else:
        told.error = _error(orjson.loads(last))
        assert told.finish_reason is None, "an error after the end"


def _add(told: Told, chunk: dict[str, Any]) -> None:
    assert "error" not in chunk, "more after an error"
    for choice in chunk["choices"]:
        assert told.finish_reason is None, "more after the finish_reason"
        delta = choice["delta"]
        told.text += delta.get("content") or ""
        told.reasoning += delta.get("reasoning_content") or ""
        for call in delta.get("tool_calls") or ():
            if call["index"] == len(told.calls):
                told.calls.append([call["id"], call["function"]["name"], ""])
            told.calls[call["index"]][2] += call["function"].get("arguments") or ""
        told.finish_reason = choice["finish_reason"]


def _error(body: dict[str, Any]) -> dict[str, Any]:
    assert set(body) == {"error"}, body
    error: dict[str, Any] = body["error"]
    assert error["message"]
    assert error["type"]
    return error


def check_against(told: Told, reference: Told, where: str, *, cancelled: bool = False) -> None:
    """The whole of what would have been told without a fault, or an error after a part of it.

    :param cancelled: whether somebody else cancels the run: nobody knows then where it would have ended.
    """
    if told.whole and not cancelled:
        assert reference.whole, f"{where}: whole, and without a fault it is an error"
        got, whole = (
            (told.text, told.reasoning, told.calls, told.finish_reason),
            (reference.text, reference.reasoning, reference.calls, reference.finish_reason),
        )
        assert got == whole, f"{where}: not the whole text"
        return
    assert reference.text.startswith(told.text), f"{where}: {told.text!r} is no beginning"
    assert reference.reasoning.startswith(told.reasoning), f"{where}: {told.reasoning!r} is no beginning"
    for got_call, call in zip(told.calls, reference.calls, strict=False):
        assert got_call[:2] == call[:2], where
        assert call[2].startswith(got_call[2]), where
    if reference.whole:
        assert len(told.calls) <= len(reference.calls), where
