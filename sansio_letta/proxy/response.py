"""The response to one request, in the client's dialect: its head, and its body as the turn progresses."""

import re
from collections import deque
from collections.abc import Sequence
from typing import Final

from attrs import define, field, frozen

from ..dialects.base import Dialect, Writer
from ..dialects.chat_completions.dialect import CHAT_COMPLETIONS
from ..errors import SansioLettaError
from ..turn.events import Event, KeepAlive, TextDelta, TurnFailed, TurnFinished, TurnStarted
from ..upstreams.rest.response import Headers
from .deadlines import Deadlines
from .http import ResponseBody, ResponseHead
from .summary import Summary

_JSON: Final = (("content-type", "application/json"),)
_STREAM: Final = (("cache-control", "no-cache"), ("x-accel-buffering", "no"))


@frozen(kw_only=True)
class Reply:
    """A complete response."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


def json_reply(body: bytes, status: int = 200) -> Reply:
    """Make a JSON response."""
    return Reply(status=status, body=body, headers=_JSON)


def error_reply(error: SansioLettaError, dialect: Dialect = CHAT_COMPLETIONS) -> Reply:
    """Make the response to a request that failed before anything was sent.

    :param dialect: the client's, if it is known.
    """
    headers = (*_JSON, *error.headers())
    return Reply(status=error.status_hint, body=dialect.error_body(error), headers=headers)


@define
class Response:
    """The response to one client, until it disconnects.

    :param writer: turns the events of a turn into the body; None: there is no turn, the response is a `Reply`.
    :param summary: updated with what is sent.
    :param deadlines: updated with when it is sent.
    :param head_only: whether the request was HEAD, so that no body is sent.
    """

    dialect: Dialect
    _writer: Writer | None
    _summary: Summary
    _deadlines: Deadlines
    _head_only: bool = False
    items: deque[ResponseHead | ResponseBody] = field(factory=deque, init=False)  #: not yet handed out
    has_begun: bool = field(default=False, init=False)  #: so that no other status can be sent
    is_complete: bool = field(default=False, init=False)
    is_disconnected: bool = field(default=False, init=False)  #: nothing can be sent any more

    @property
    def comment_at(self) -> float:
        """When a waiting client gets a comment, possibly before anything else. Only streams have comments."""
        # There must be no deadline for sending to a client that has disconnected.
        if self._writer is None or not self._writer.streaming or self.is_disconnected or self.is_complete:
            return float("inf")
        return self._deadlines.comment_at(has_begun=self.has_begun)

    def disconnect(self) -> None:
        """Send nothing more to the client."""
        self.items.clear()
        self.is_disconnected = True

    def write(self, event: Event) -> None:
        """Write an event of the turn; the last one completes the response."""
        assert self._writer is not None
        match event:
            case TurnFinished():
                self.is_complete = True
                if not self._writer.streaming:
                    self.reply(json_reply(self._writer.write(event)))
                    return
            case TurnFailed(error=error):
                self.is_complete = True
                if not self.has_begun:
                    self.reply(error_reply(error, self.dialect))
                    return
            case TurnStarted():
                if self._writer.streaming:
                    self._begin_stream(self._writer)
        if data := self._writer.write(event):
            self._summary.chunk_count += 1
            self._add(data)

    def write_texts(self, texts: Sequence[TextDelta]) -> ResponseBody | None:
        """Write pieces of text, and return them as one item instead of adding them to `items`.

        :return: None if there is nothing to send now.
        """
        assert self._writer is not None
        write = self._writer.write
        if data := b"".join([write(text) for text in texts]):
            self._summary.chunk_count += len(texts)
            if not self.is_disconnected:
                self._deadlines.last_sent = self._deadlines.now
                return ResponseBody(data=data)
        return None

    def write_comment(self) -> None:
        """Write a comment, which shows a waiting client that the proxy is still there."""
        assert self._writer is not None
        self._begin_stream(self._writer)
        self._add(self._writer.write(KeepAlive()))

    def reply(self, reply: Reply) -> None:
        """Send a complete response."""
        length = (("content-length", str(len(reply.body))),) if reply.status != 204 else ()
        self._begin(reply.status, (*reply.headers, *length))
        if reply.body and not self._head_only:
            self._add(reply.body)

    def _begin_stream(self, writer: Writer) -> None:
        if not self.has_begun:
            self._begin(200, (("content-type", writer.content_type), *_STREAM))

    def _begin(self, status: int, headers: Headers) -> None:
        if self.is_disconnected:
            return
        self.has_begun = True
        self._summary.status = status
        ignored, matched = self._summary.ignored, self._summary.matched
        self.items.append(
            ResponseHead(
                status=status,
                headers=(
                    *headers,
                    ("x-request-id", self._summary.request_id),
                    *([("x-ignored-parameters", header_list(ignored))] if ignored else []),
                    *([("x-letta-input", matched.value)] if matched else []),
                ),
            )
        )

    def _add(self, data: bytes) -> None:
        if self.is_disconnected:
            return
        self._deadlines.last_sent = self._deadlines.now
        self.items.append(ResponseBody(data=data))


_MORE: Final = re.compile(r"and \d{1,9} more")


def header_list(names: Sequence[str]) -> str:
    """Join names of fields for a header. Clients choose them, so line breaks must not get through."""
    # The decoder limits their number, and counts the others.
    return ", ".join(name if _MORE.fullmatch(name) else re.sub(r"[^!-+\--~]", "?", name[:64]) for name in names)
