"""Plays Letta and the transport for a cycle, without any I/O."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

from drive import JSON, SSE, encode
from sansio_letta import Caller, Cycle, HttpRequest, Proxy, ResponseBody, ResponseHead, Signal
from sansio_letta.errors import Failure
from sansio_letta.turn.agent import ANYONE
from sansio_letta.upstreams.rest.commands import FetchLast, FetchMessages

if TYPE_CHECKING:
    from sansio_letta.upstreams.rest.commands import Command


class Client:
    """One request, with Letta played by hand."""

    def __init__(
        self,
        request: HttpRequest | Cycle,
        proxy: Proxy | None = None,
        *,
        token: str = "abcdef12",
        now: float = 100.0,
        caller: Caller = ANYONE,
    ) -> None:
        self.proxy = proxy or Proxy()
        if isinstance(request, HttpRequest):
            created = 1_795_332_551
            request = self.proxy.open(request, token=token, created=created, now=now, caller=caller)
        self.cycle: Cycle = request
        self.commands: list[Command] = []
        self.head: ResponseHead | None = None
        self.body = b""
        self.ended = self.waits = False
        self.woken = 0
        self.cycle.wake = self.wake
        self.pump()

    def wake(self) -> None:
        self.woken += 1

    def pump(self) -> None:
        while True:
            match self.cycle.next_event():
                case ResponseHead() as head:
                    self.head = head
                case ResponseBody(data=data):
                    self.body += data
                case Signal.NEED_DATA | Signal.WAITING as signal:
                    self.waits = signal is Signal.WAITING
                    return
                case Signal.FINISHED:
                    self.ended = True
                    return
                case command:
                    self.commands.append(command)

    def go_on(self, now: float = 103.0) -> "Client":
        """It was woken, or it is time."""
        self.cycle.handle_deadline(now)
        self.pump()
        return self

    def leave(self, now: float = 103.0) -> "Client":
        self.cycle.client_disconnected(now)
        self.pump()
        return self

    def fail(self, failure: Failure, now: float = 103.0) -> "Client":
        self.cycle.receive_failure(failure, "it hurt", now)
        self.pump()
        return self

    def answer(self, value: object, status: int = 200, now: float = 101.0) -> "Client":
        self.cycle.receive_response(status, JSON, now)
        self.cycle.receive_data(orjson.dumps(value), now)
        self.cycle.receive_data(b"", now)
        self.pump()
        return self

    def show_heard(self, *messages: dict[str, Any]) -> "Client":
        """What the thread has heard, the newest first, if Letta is asked for it."""
        if isinstance(self.commands[-1], FetchMessages):
            return self.answer(messages[::-1])
        if isinstance(self.commands[-1], FetchLast) and self.commands[-1].count > 1:
            return self.answer(messages)
        return self

    def stream(self, *messages: dict[str, Any] | str, now: float = 102.0) -> "Client":
        self.cycle.receive_response(200, SSE, now)
        return self.more(*messages, now=now)

    def more(self, *messages: dict[str, Any] | str, now: float = 102.0) -> "Client":
        """More of the answer, in one read."""
        self.cycle.receive_data(b"".join(map(encode, messages)), now)
        self.pump()
        return self

    @property
    def status(self) -> int:
        assert self.head is not None
        return self.head.status

    @property
    def headers(self) -> Mapping[str, str]:
        assert self.head is not None
        return dict(self.head.headers)

    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        assert int(self.headers["content-length"]) == len(self.body)
        return orjson.loads(self.body)


def chat(
    *, stream: bool = False, content: str = "hi", headers: Mapping[str, str] | None = None, **more: Any
) -> HttpRequest:
    """A chat request with one user message."""
    body = {"model": "Milo", "messages": [{"role": "user", "content": content}], "stream": stream, **more}
    return HttpRequest(
        method="POST",
        target="/v1/chat/completions",
        body=orjson.dumps(body),
        headers=tuple((headers or {}).items()),
    )
