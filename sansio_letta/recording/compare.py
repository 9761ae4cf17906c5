"""Comparison of recordings: whether a recorded request would get the same response from today's code.

Use it before upgrades of this library and of Letta.
"""

import re
from collections.abc import Iterator
from difflib import unified_diff

from attrs import frozen

from ..config import Config
from ..proxy.http import ResponseBody, ResponseHead
from ..turn.events import CallArguments, CallStarted, ReasoningDelta, TextDelta
from ..upstreams.rest.commands import Command
from ..upstreams.rest.response import Headers
from .format import RecordedExchange, Recording, RecordingError, TextMode
from .player import Player, is_stream, play_client
from .redact import StreamRedactor, redact_body


@frozen(kw_only=True)
class Comparison:
    """A recorded response and today's, both redacted by the recording's text mode."""

    recorded: bytes
    replayed: bytes
    unanswered: Command | None  #: a request of today's code that is not in the recording

    @property
    def same(self) -> bool:
        """Whether the client would get the same."""
        return self.recorded == self.replayed and self.unanswered is None

    def lines(self) -> Iterator[str]:
        """Yield the difference in the format of `diff -u`."""
        before = self.recorded.decode("utf-8", "replace").splitlines()
        after = self.replayed.decode("utf-8", "replace").splitlines()
        yield from unified_diff(before, after, "recorded", "today", lineterm="", n=1)
        if self.unanswered is not None:
            yield f"+ requests: {self.unanswered.method} {self.unanswered.target}, which was not recorded"


def compare(recording: Recording, other: Recording | None = None) -> Comparison:
    """Compare the status and body that the recording's client got with those from today's code.

    :param other: a recording of the same request with another version of Letta. Then the two responses from
        today's code are compared: their content, not how it is split into chunks.
    :raises RecordingError: if a recording has no client, or the two do not belong together.
    """
    if other is not None:
        return _compare_two(recording, other)
    player, client = play_client(recording), recording.client
    assert client is not None
    mode = TextMode(recording.head.text)
    today, before = _response(player), _recorded_response(client)
    visible, recorded = _redacted(today, mode), before.body
    if mode is TextMode.HASH:
        # Pieces were hashed one by one, but a response that is not streamed is hashed as a whole; so is an
        # error message that quotes Letta's.
        joined = rb"#[0-9a-f]{12}" if not is_stream(today.headers) else rb'(?<="message":")[^"]*'
        visible, recorded = (re.sub(joined, b"#", body) for body in (visible, recorded))
    return Comparison(
        recorded=_status_line(before.status) + recorded,
        replayed=_status_line(today.status) + visible,
        unanswered=player.unanswered,
    )


@frozen(kw_only=True)
class _Response:
    status: int | None
    headers: Headers
    body: bytes


def _recorded_response(client: RecordedExchange) -> _Response:
    return _Response(status=client.status, headers=client.headers, body=client.body)


def _response(player: Player) -> _Response:
    status: int | None = None
    headers: Headers = ()
    body = bytearray()
    for seen in (played.seen for played in player):
        match seen:
            case ResponseHead():
                status, headers = seen.status, seen.headers
            case ResponseBody(data=data):
                body += data
    return _Response(status=status, headers=headers, body=bytes(body))


def _compare_two(old: Recording, new: Recording) -> Comparison:
    before, after = play_client(old), play_client(new)
    if old.head.text != new.head.text:
        raise RecordingError(f"text: {old.head.text} in one recording and {new.head.text} in the other")
    return Comparison(recorded=_answers(before), replayed=_answers(after), unanswered=after.unanswered)


def _answers(player: Player) -> bytes:
    """Return the content of the events, independent of their chunks, which differ with each run of a model."""
    parts: dict[str, str] = {}
    for seen in (played.seen for played in player):
        match seen:
            case ReasoningDelta(text=text):
                _add(parts, "reasoning", text)
            case TextDelta(text=text):
                _add(parts, "text", text)
            case CallStarted(index=index, name=name):
                parts[f"call {index}"] = name
            case CallArguments(index=index, fragment=text):
                _add(parts, f"call {index} arguments", text)
    summary = player.cycle.summary
    if summary.outcome is not None:
        parts["outcome"] = summary.outcome
    return _status_line(summary.status) + "".join(f"{name}: {text}\n" for name, text in parts.items()).encode()


def _add(parts: dict[str, str], name: str, text: str) -> None:
    parts[name] = parts.get(name, "") + text


def _status_line(status: int | None) -> bytes:
    return b"status %s\n\n" % str(status or "none").encode()


def _redacted(response: _Response, mode: TextMode) -> bytes:
    """Return the body as the recorder would have written it."""
    if is_stream(response.headers):
        return StreamRedactor(mode, Config().max_event_size).redact(response.body)
    return redact_body(response.body, mode) if response.body else b""
