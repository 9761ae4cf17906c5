"""HTTP exchanges with Letta, and the pauses between attempts."""

from collections.abc import Callable, Generator
from functools import partial
from typing import Final, TypeVar

from attrs import define, field

from ...config import Config
from ...errors import Advice, Failure, LettaError, LocalProtocolError, RemoteProtocolError, SansioLettaError
from ...turn.upstream import Pause, Script
from .commands import AnswerCalls, Command, OpenStream
from .reader import MessageReader
from .response import Headers, Response

#: Seconds to pause before each further attempt; the last one is repeated.
PAUSES: Final = (0.25, 0.5, 1.0, 2.0)

_T = TypeVar("_T")


@define(eq=False)
class Exchange:
    """A command, its response, and how the exchange ended.

    :param max_answer_size: limit in bytes for a response that is not a stream.
    :param key_is_clients: whether the command is sent with the client's own key.
    :param may_stream: whether the response may be the stream of a run.
    :param must_finish: see `turn.upstream.Exchange`.
    """

    command: Command
    max_answer_size: int
    key_is_clients: bool
    may_stream: bool = field(default=False, kw_only=True)
    must_finish: bool = field(default=False, kw_only=True)
    was_sent: bool = field(default=False, init=False)
    response: Response | None = field(default=None, init=False)
    stream: MessageReader | None = field(
        default=None, init=False
    )  #: reads the body if it is the stream of a run
    has_ended: bool = field(default=False, init=False)
    error: SansioLettaError | None = field(default=None, init=False)  #: what to raise if the exchange failed
    failure: Failure | None = field(default=None, init=False)  #: how it failed

    def receive_response(self, status: int, headers: Headers) -> None:
        """See `Turn.receive_response`."""
        if self.response is not None or self.has_ended:
            raise LocalProtocolError("receive_response called twice: no answer is awaited")
        self.response = Response(
            status=status,
            headers=headers,
            max_size=self.max_answer_size,
            key_is_clients=self.key_is_clients,
        )

    def receive_data(self, data: bytes) -> None:
        """See `Turn.receive_data`."""
        if self.response is None or self.has_ended:
            raise LocalProtocolError("receive_data called before the head or after the end: no body is awaited")
        if self.stream is not None:
            self.stream.receive_data(data)
        else:
            self.response.receive_data(data)
        self.has_ended = not data

    def receive_failure(self, failure: Failure, reason: str) -> None:
        """See `Turn.receive_failure`."""
        if self.has_ended:
            raise LocalProtocolError("receive_failure called after the end: no exchange is under way")
        self.has_ended = True
        # Raised only after everything received before has been read: the run may have stopped already.
        self.error, self.failure = _transport_error(failure, reason), failure

    @property
    def is_ready(self) -> bool:
        """Whether the script can continue: the response is complete, or the stream of a run has begun."""
        return self.has_ended or self.has_stream

    @property
    def has_stream(self) -> bool:
        """Whether the response is the stream of a run."""
        response = self.response
        return (
            self.may_stream
            and response is not None
            and response.status == 200
            and response.content_type == "text/event-stream"
        )

    def read_stream(self, max_event_size: int) -> MessageReader:
        """Read the rest of the response as a stream of events."""
        assert self.response is not None
        self.stream = MessageReader(max_event_size)
        if data := self.response.take():
            self.stream.receive_data(data)
        return self.stream

    @property
    def is_heard(self) -> bool:
        """Whether the agent receives what is sent."""
        return isinstance(self.command, OpenStream | AnswerCalls)

    @property
    def is_unsure(self) -> bool:
        """Whether it is unknown if the agent has received what was sent."""
        is_open = self.response is None or self.response.status >= 500
        return self.is_heard and self.failure is not Failure.NOT_SENT and is_open

    @property
    def may_have_created(self) -> bool:
        """Whether the resource may have been created although no response says so."""
        if not self.was_sent or self.failure is Failure.NOT_SENT:
            return False
        return self.failure is not None or self.response is None or self.response.status >= 500

    @property
    def has_succeeded(self) -> bool:
        """Whether Letta carried out the command."""
        return self.response is not None and self.response.status == 200

    @property
    def is_repeatable(self) -> bool:
        """Whether the exchange failed in a way that allows another attempt."""
        # A command that the agent does not receive can safely be carried out twice.
        return self.failure is Failure.NOT_SENT or (self.failure is Failure.BROKEN and not self.is_heard)


@define
class Exchanges:
    """Makes the exchanges of one turn, and repeats those that failed.

    :param key_is_clients: whether commands are sent with the client's own key.
    """

    config: Config
    key_is_clients: bool
    _paused: float = field(default=0.0, init=False)  #: seconds of pauses since the last reset

    def new(self, command: Command, *, may_stream: bool = False, must_finish: bool = False) -> Exchange:
        """Return a new exchange."""
        return Exchange(
            command,
            self.config.max_answer_size,
            self.key_is_clients,
            may_stream=may_stream,
            must_finish=must_finish,
        )

    def reset_pauses(self) -> None:
        """Begin with short pauses again."""
        self._paused = 0.0

    def next_pause(self, limit: float) -> Pause | None:
        """Return the pause before the next attempt; None if there have been `limit` seconds of pauses."""
        if self._paused >= limit:
            return None
        spent, pause = 0.0, PAUSES[-1]
        for pause in PAUSES:
            if spent >= self._paused:
                break
            spent += pause
        pause = min(pause, limit - self._paused)
        self._paused += pause
        return Pause(seconds=pause)

    def send(
        self,
        command: Command,
        *,
        is_lookup: bool = False,
        must_finish: bool = False,
        created: list[Exchange] | None = None,
    ) -> Script[Response]:
        """Send a command and return the response. Try again if that is safe.

        :param is_lookup: whether the command looks up a run. It is then retried for longer, and after responses
            with a status of 500 or higher, too.
        :param created: a list to which each attempt is appended.
        :raises SansioLettaError: if the last attempt failed.
        """
        config = self.config
        limit = config.resume_timeout if is_lookup else config.connect_retry_timeout
        while True:
            exchange = self.new(command, must_finish=must_finish)
            if created is not None:
                created.append(exchange)
            yield exchange
            pause = None
            if exchange.error is not None:
                if exchange.is_repeatable:
                    pause = self.next_pause(limit)
                if pause is None:
                    raise exchange.error
            else:
                assert exchange.response is not None
                if is_lookup and exchange.response.status >= 500:
                    pause = self.next_pause(limit)
                if pause is None:
                    return exchange.response
            yield pause

    def drive(
        self,
        steps: Generator[Command | Pause, Response | None, _T],
        send: Callable[[Command], Script[Response | None]],
    ) -> Script[_T]:
        """Carry out the steps of a generator: send its commands, and pass the responses back to it.

        :param steps: is sent None after a pause, or if there is no response.
        :param send: sends one command; returns None if there is no response.
        """
        self.reset_pauses()
        response: Response | None = None
        while True:
            try:
                step = steps.send(response)
            except StopIteration as stop:
                result: _T = stop.value
                return result
            if isinstance(step, Pause):
                yield step
                response = None
            else:
                response = yield from send(step)

    def drive_lookup(self, steps: Generator[Command | Pause, Response | None, _T]) -> Script[_T]:
        """Carry out the steps of a generator that looks up a run. See `send`."""
        return self.drive(steps, partial(self.send, is_lookup=True))


def _transport_error(failure: Failure, reason: str) -> SansioLettaError:
    if failure is Failure.NOT_SENT:
        return LettaError(f"Letta cannot be reached: {reason}.")
    if failure is Failure.BROKEN:
        return RemoteProtocolError(f"The connection to Letta broke: {reason}.")
    return RemoteProtocolError(
        f"Letta fell silent: {reason}.",
        advice=Advice(status=504, type="server_error", code="upstream_timeout"),
    )
