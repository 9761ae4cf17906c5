"""Plays a client's requests to the core in front of `ThreadLetta`: no socket, no clock, no task."""

from collections.abc import Mapping
from enum import Enum
from itertools import count
from typing import Any, Final

import orjson
from attrs import define, field, frozen

from faults.keeping import Exchange, Head, Silence
from ledger.letta import Fault, Pace, Thread, ThreadLetta
from sansio_letta import Config, HttpRequest, Proxy, ResponseBody, ResponseHead, Signal
from sansio_letta.errors import Failure
from sansio_letta.proxy.cycle import Cycle
from sansio_letta.upstreams.rest.commands import OpenStream

#: Seconds until a cancelled run has stored what it stores.
LETTA_LOOKS_EVERY: Final = 0.5
#: Steps of one request until it counts as one that never ends.
MAX_STEP_COUNT: Final = 2_000


class How(Enum):
    """How a request ends."""

    WHOLE = "whole"
    STOPPED = "stopped"  #: the client closes its connection
    LOST = "lost"  #: the stream between the proxy and Letta breaks
    FAILED = "failed"  #: the model fails


@frozen(kw_only=True)
class Ending:
    """How a request ends, and where.

    :param at: the number of the item of the run's stream before which it does; the first one names the run.
    :param pace: how far Letta is by then.
    """

    how: How = How.WHOLE
    at: int = 0
    pace: Pace = Pace.BEHIND


WHOLE: Final = Ending()


@define(eq=False)
class Reply:
    """What a client has had of an answer."""

    status: int | None = None
    headers: Mapping[str, str] = field(factory=dict)
    text: str = ""
    calls: dict[str, str] = field(factory=dict)  #: names of tools by the ids of their calls
    finish_reason: str | None = None
    error: Mapping[str, Any] | None = None
    look_up_count: int = 0
    has_waited: bool = False  #: for the results of another client, or for what a cancelled run stores

    @property
    def is_whole(self) -> bool:
        """Whether it came to its end, and that is no error."""
        return self.error is None and self.finish_reason is not None

    def read(self, body: bytes) -> None:
        """Read as much as has come."""
        if self.status != 200:
            self.error = orjson.loads(body)["error"]
            return
        for event in body.split(b"\n\n"):
            data = event.removeprefix(b"data: ")
            if not event.startswith(b"data: ") or data == b"[DONE]":
                continue
            chunk = orjson.loads(data)
            if "error" in chunk:
                self.error = chunk["error"]
                continue
            for choice in chunk["choices"]:
                self.text += choice["delta"].get("content") or ""
                for call in choice["delta"].get("tool_calls") or ():
                    if call.get("id"):
                        self.calls[call["id"]] = call["function"]["name"]
                self.finish_reason = choice["finish_reason"] or self.finish_reason


@define(eq=False)
class CoreSide:
    """Two replicas of the proxy in front of one Letta."""

    letta: ThreadLetta = field(factory=ThreadLetta)
    config: Config = field(factory=Config)
    replicas: list[Proxy] = field(init=False)
    now: float = 0.0
    _served: int = 0  #: the replica that was asked last
    _tokens: "count[int]" = field(factory=lambda: count(1))

    def __attrs_post_init__(self) -> None:
        self.replicas = [Proxy(self.config), Proxy(self.config)]

    def restart(self, replica: int) -> None:
        """A process ends, and another one begins in its place."""
        self.replicas[replica] = Proxy(self.config)
        self.letta.settle()

    def thread(self, key: str | None) -> Thread:
        """What the agent has heard, in a chat or in its own thread."""
        return self.letta.find(key)

    def check_settled(self) -> None:
        """Nothing goes on behind the last answer, and the agent was never run for nothing."""
        assert not self.letta.running(), "a run is left running"
        assert not self.letta.empty_runs, "a run on results that nothing waited for"

    def ask(
        self, body: Mapping[str, Any], headers: Mapping[str, str], *, replica: int = 0, ending: Ending = WHOLE
    ) -> Reply:
        """One request, until it is settled."""
        if ending.how in (How.LOST, How.FAILED):
            self.letta.fault = Fault(at=ending.at, fails=ending.how is How.FAILED, pace=ending.pace)
        if replica != self._served:
            # Of what another process has cancelled, it knows nothing.
            self.letta.settle()
        self._served = replica
        before, start = self.letta.look_up_count, self.now
        request = HttpRequest(
            method="POST",
            target="/v1/chat/completions",
            headers=[("content-type", "application/json"), *headers.items()],
            body=orjson.dumps(body),
        )
        cycle = self.replicas[replica].open(
            request, token=f"{next(self._tokens):024x}", created=0, now=self.now
        )
        reply = Exchanges(self, cycle, ending).play()
        self.letta.fault = None
        reply.has_waited = self.now - start >= self.config.cancelled_run_timeout
        reply.look_up_count = self.letta.look_up_count - before
        return reply


@define(eq=False)
class Exchanges:
    """One request's exchanges with Letta."""

    side: CoreSide
    cycle: Cycle
    ending: Ending
    _exchange: Exchange = field(factory=lambda: iter(()))
    _items: int | None = None  #: of the run's stream that came; None: there is none
    _left: bool = False

    def play(self) -> Reply:
        """Play them, until the request is settled."""
        reply, body = Reply(), b""
        for _ in range(MAX_STEP_COUNT):
            match self.cycle.next_event():
                case Signal.FINISHED:
                    break
                case ResponseHead() as head:
                    reply.status, reply.headers = head.status, dict(head.headers)
                case ResponseBody(data=data):
                    body += data
                case Signal(name="WAITING"):
                    self._feed(Silence.FOR_EVER)
                case Signal():
                    if not self._leave():
                        self._feed(self._next())
                case command:
                    self._items = 0 if isinstance(command, OpenStream) else None
                    self._exchange = self.side.letta.answer(command.method, command.target, command.body)
        else:
            raise AssertionError("the request never ends")
        self.cycle.close()
        if reply.status is not None:
            reply.read(body)
        return reply

    def _leave(self) -> bool:
        """Close the client's connection, if it is time."""
        if self.ending.how is not How.STOPPED or self._left or self._items is None:
            return False
        if self._items <= self.ending.at:
            return False
        self._left = True
        for run in self.side.letta.runs.values():
            run.go_on(self.ending.pace)
        self.cycle.client_disconnected(self.side.now)
        return True

    def _next(self) -> Head | bytes | Failure | Silence:
        if self._items is not None:
            self._items += 1
        return next(self._exchange, Silence.FOR_EVER)

    def _feed(self, happening: Head | bytes | Failure | Silence) -> None:
        cycle, now = self.cycle, self.side.now
        match happening:
            case Head(status=status, headers=headers):
                cycle.receive_response(status, headers, now)
            case bytes():
                cycle.receive_data(happening, now)
            case Failure():
                cycle.receive_failure(happening, "it broke", now)
            case Silence():
                self.side.now = max(now, cycle.next_deadline())
                if self.side.now - now >= LETTA_LOOKS_EVERY:
                    self.side.letta.settle()
                cycle.handle_deadline(self.side.now)
