"""The core in front of a stand-in for Letta with a memory: no socket, no clock, no task."""

from itertools import count
from typing import Any, Final

import orjson
from attrs import define, field

from sansio_letta import Config, HttpRequest, Proxy, ResponseBody, ResponseHead, Signal
from sansio_letta.errors import Failure
from sansio_letta.proxy.cycle import Cycle

from .keeping import Exchange, Head, KeepingLetta, Silence
from .told import Told, read

#: Steps of one cycle until it counts as one that never ends: far more than the longest recording has items.
MAX_STEP_COUNT: Final = 20_000
RETRY_COUNT: Final = 2  #: what the official SDKs do if nothing else is said


@define(eq=False)
class CoreClient:
    """Asks the core, and keeps the time, which passes only while nobody says anything.

    :param size: see `KeepingLetta.answer`.
    """

    letta: KeepingLetta
    size: int = 1 << 30
    proxy: Proxy = field(factory=lambda: Proxy(Config()))
    now: float = 0.0
    _tokens: "count[int]" = field(factory=lambda: count(1))

    def ask(self, body: dict[str, Any], *, attempt: int = 0) -> Told:
        """One request, whole."""
        told = self.begin(body, attempt=attempt)
        assert told is not None
        return told

    def ask_stubbornly(self, body: dict[str, Any]) -> list[Told]:
        """As a client that sends its request again whenever it is told that it may."""
        answers = [self.ask(body)]
        while answers[-1].retried and len(answers) <= RETRY_COUNT:
            answers.append(self.ask(body, attempt=len(answers)))
        return answers

    def begin(self, body: dict[str, Any], *, attempt: int = 0, leaves_at: int | None = None) -> Told | None:
        """One request.

        :param leaves_at: the number of the step before which the client leaves.
        :return: None if it left.
        """
        request = HttpRequest(
            method="POST",
            target="/v1/chat/completions",
            headers=[("x-stainless-retry-count", str(attempt)), ("content-type", "application/json")],
            body=orjson.dumps(body),
        )
        token = f"{next(self._tokens):024x}"
        cycle = self.proxy.open(request, token=token, created=0, now=self.now)
        head: ResponseHead | None = None
        said: list[bytes] = []
        exchange: Exchange = iter(())
        left = False
        for number in range(MAX_STEP_COUNT):
            if number == leaves_at:
                left = True
                cycle.client_disconnected(self.now)
            match cycle.next_event():
                case Signal.FINISHED:
                    self._close(exchange)
                    if left:
                        return None
                    assert head is not None, "finished without an answer"
                    return read(head.status, head.headers, b"".join(said))
                case ResponseHead() as item:
                    assert head is None, "two heads"
                    head = item
                case ResponseBody(data=data):
                    said.append(data)
                case Signal(name="WAITING"):  # for another turn, or for time to pass
                    self._feed(cycle, Silence.FOR_EVER)
                case Signal():
                    self._feed(cycle, next(exchange, Silence.FOR_EVER))
                case command:
                    self._close(exchange)
                    exchange = self.letta.answer(command.method, command.target, command.body, size=self.size)
        raise AssertionError("the cycle never ends")

    def _feed(self, cycle: Cycle, happening: Head | bytes | Failure | Silence) -> None:
        match happening:
            case Head(status=status, headers=headers):
                cycle.receive_response(status, headers, self.now)
            case bytes():
                cycle.receive_data(happening, self.now)
            case Failure():
                cycle.receive_failure(happening, "it broke", self.now)
            case Silence():
                self.now = max(self.now, cycle.next_deadline())
                cycle.handle_deadline(self.now)

    @staticmethod
    def _close(exchange: Exchange) -> None:
        close = getattr(exchange, "close", None)
        if close is not None:
            close()
