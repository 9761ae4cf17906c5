"""The exchange with Letta that a turn has under way, and the pauses before it is tried again."""

from typing import Final

from attrs import define, field, frozen

from ...errors import Advice, Failure, LettaError, LocalProtocolError, RemoteProtocolError, SansioLettaError
from .commands import AnswerCalls, Command, OpenStream
from .reader import MessageReader
from .response import Answer, Headers

#: Seconds before something is tried again: little at first, then more, the last as often as need be.
PAUSES: Final = (0.25, 0.5, 1.0, 2.0)


@frozen(kw_only=True)
class Pause:
    """Nothing to ask for a while.

    :param seconds: how long.
    """

    seconds: float


@define
class Asking:
    """One exchange after the other: a command, its answer, and how that ended.

    :param max_answer_size: bytes of an answer that is no stream.
    :param max_event_size: bytes of one event of a stream.
    :param key_is_clients: whether Letta is asked with the client's own key.
    """

    max_answer_size: int
    max_event_size: int
    key_is_clients: bool
    command: Command | None = field(default=None, init=False)
    answer: Answer | None = field(default=None, init=False)
    stream: MessageReader | None = field(default=None, init=False)  #: reads the answer, if that is a stream
    has_ended: bool = field(default=False, init=False)
    error: SansioLettaError | None = field(default=None, init=False)  #: why it ended too soon
    failure: Failure | None = field(default=None, init=False)  #: how
    is_cut: bool = field(default=False, init=False)  #: the exchange before it had not ended when this began
    pause: float | None = field(default=None, init=False)  #: seconds before `end_pause`
    _paused: float = field(default=0.0, init=False)  #: seconds, since something last went well

    def ask(self, command: Command) -> None:
        """Begin an exchange; the one before is of no interest any more."""
        self.is_cut = self.command is not None and not self.has_ended
        self.command = command
        self.answer = self.stream = self.error = self.failure = None
        self.has_ended = False

    def hold(self, seconds: float) -> None:
        """There is nothing to ask for a while."""
        self.command, self.pause = None, seconds

    def receive_response(self, status: int, headers: Headers) -> None:
        """See `Turn.receive_response`."""
        if self.answer is not None or self.has_ended:
            raise LocalProtocolError("receive_response called twice: no answer is awaited")
        self.answer = Answer(
            status=status,
            headers=headers,
            max_size=self.max_answer_size,
            key_is_clients=self.key_is_clients,
        )

    def receive_data(self, data: bytes) -> None:
        """See `Turn.receive_data`."""
        if self.answer is None or self.has_ended:
            raise LocalProtocolError("receive_data called before the head or after the end: no body is awaited")
        if self.stream is not None:
            self.stream.receive_data(data)
        else:
            self.answer.receive_data(data)
        self.has_ended = not data

    def receive_failure(self, failure: Failure, reason: str) -> None:
        """See `Turn.receive_failure`."""
        if self.has_ended:
            raise LocalProtocolError("receive_failure called after the end: no exchange is under way")
        self.has_ended = True
        # Raised only when what had arrived before is read: the run may have stopped already.
        self.error, self.failure = _transport_error(failure, reason), failure

    @property
    def is_stream(self) -> bool:
        """Whether Letta answers with a run's stream."""
        answer = self.answer
        return answer is not None and answer.status == 200 and answer.content_type == "text/event-stream"

    def read_stream(self) -> None:
        """From here on the answer is read event by event."""
        assert self.answer is not None
        self.stream = MessageReader(self.max_event_size)
        if data := self.answer.take():
            self.stream.receive_data(data)

    # --- Again --------------------------------------------------------------------------------------------

    @property
    def is_repeatable(self) -> bool:
        """Whether the exchange that failed has left nothing at Letta, so that it may be tried again."""
        return self.failure is Failure.NOT_SENT or (
            # Whether a question arrived does not matter, nor whether something is done twice that the agent
            # does not hear.
            self.failure is Failure.BROKEN and not isinstance(self.command, OpenStream | AnswerCalls)
        )

    def pause_within(self, limit: float) -> bool:
        """Pause before the same command, unless pauses have taken `limit` seconds since something went well."""
        if self._paused >= limit:
            return False
        spent, pause = 0.0, PAUSES[-1]
        for pause in PAUSES:
            if spent >= self._paused:
                break
            spent += pause
        self.pause = min(pause, limit - self._paused)
        self._paused += self.pause
        self.answer = self.stream = None
        return True

    def end_pause(self) -> Command | None:
        """The pause is over.

        :return: what is asked again; None if there was nothing to ask.
        """
        self.pause = None
        return self.command

    def went_well(self) -> None:
        """The next pause will be a short one."""
        self._paused = 0.0


def _transport_error(failure: Failure, reason: str) -> SansioLettaError:
    if failure is Failure.NOT_SENT:
        return LettaError(f"Letta cannot be reached: {reason}.")
    if failure is Failure.BROKEN:
        return RemoteProtocolError(f"The connection to Letta broke: {reason}.")
    return RemoteProtocolError(
        f"Letta fell silent: {reason}.",
        advice=Advice(status=504, type="server_error", code="upstream_timeout"),
    )
