"""Exchanges with Letta, one after another, and the pauses before one is tried again."""

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

#: Seconds before something is tried again: little at first, then more, the last as often as need be.
PAUSES: Final = (0.25, 0.5, 1.0, 2.0)

_T = TypeVar("_T")


@define(eq=False)
class Exchange:
    """A command, its response, and how the exchange ended.

    :param max_answer_size: bytes of a response that is not a stream.
    :param key_is_clients: whether Letta is asked with the client's own key.
    :param may_stream: whether the response may be a run's stream.
    :param must_finish: see `turn.upstream.Exchange`.
    """

    command: Command
    max_answer_size: int
    key_is_clients: bool
    may_stream: bool = field(default=False, kw_only=True)
    must_finish: bool = field(default=False, kw_only=True)
    was_sent: bool = field(default=False, init=False)
    response: Response | None = field(default=None, init=False)
    stream: MessageReader | None = field(default=None, init=False)  #: reads the body, if that is a run's stream
    has_ended: bool = field(default=False, init=False)
    error: SansioLettaError | None = field(default=None, init=False)  #: why it ended too soon
    failure: Failure | None = field(default=None, init=False)  #: how

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
        # Raised only when what had arrived before is read: the run may have stopped already.
        self.error, self.failure = _transport_error(failure, reason), failure

    @property
    def is_ready(self) -> bool:
        """Whether the script can go on: the response is complete, or a run's stream has begun."""
        return self.has_ended or self.has_stream

    @property
    def has_stream(self) -> bool:
        """Whether Letta answers with a run's stream."""
        response = self.response
        return (
            self.may_stream
            and response is not None
            and response.status == 200
            and response.content_type == "text/event-stream"
        )

    def read_stream(self, max_event_size: int) -> MessageReader:
        """Read the response event by event from here on."""
        assert self.response is not None
        self.stream = MessageReader(max_event_size)
        if data := self.response.take():
            self.stream.receive_data(data)
        return self.stream

    @property
    def is_heard(self) -> bool:
        """Whether the agent hears what is sent."""
        return isinstance(self.command, OpenStream | AnswerCalls)

    @property
    def is_unsure(self) -> bool:
        """Whether the agent may have heard it, and nothing says whether it did."""
        is_open = self.response is None or self.response.status >= 500
        return self.is_heard and self.failure is not Failure.NOT_SENT and is_open

    @property
    def may_have_created(self) -> bool:
        """Whether what it asks for may be there, though no answer tells its name."""
        if not self.was_sent or self.failure is Failure.NOT_SENT:
            return False
        return self.failure is not None or self.response is None or self.response.status >= 500

    @property
    def has_succeeded(self) -> bool:
        """Whether Letta has done what it asks."""
        return self.response is not None and self.response.status == 200

    @property
    def is_repeatable(self) -> bool:
        """Whether the exchange that failed has left nothing at Letta, so that it may be tried again."""
        # Whether a question arrived does not matter, nor whether something is done twice that the agent does
        # not hear.
        return self.failure is Failure.NOT_SENT or (self.failure is Failure.BROKEN and not self.is_heard)


@define
class Exchanges:
    """What the exchanges of one turn have in common.

    :param key_is_clients: whether Letta is asked with the client's own key.
    """

    config: Config
    key_is_clients: bool
    _paused: float = field(default=0.0, init=False)  #: seconds, since something last went well

    def new(self, command: Command, *, may_stream: bool = False, must_finish: bool = False) -> Exchange:
        """An exchange that is about to begin."""
        return Exchange(
            command,
            self.config.max_answer_size,
            self.key_is_clients,
            may_stream=may_stream,
            must_finish=must_finish,
        )

    def reset_pauses(self) -> None:
        """The next pause will be a short one."""
        self._paused = 0.0

    def next_pause(self, limit: float) -> Pause | None:
        """The pause before something is tried again; None if pauses have taken `limit` seconds since something
        went well."""
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
        """The answer to a command, which is tried again if it failed and left nothing at Letta.

        :param is_lookup: whether it asks what became of a run: such is tried for longer, and whatever Letta
            itself could not answer.
        :param created: takes the exchanges.
        :raises SansioLettaError: if it failed, and there is no time left.
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
        """Ask one question after another, as a sub-conversation puts them.

        :param send: how each is asked; None stands for an answer that never came.
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
        """The same where it asks what became of a run."""
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
