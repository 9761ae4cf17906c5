"""Deadlines of a cycle. All times are monotonic seconds."""

from math import inf

from attrs import define, field

from ..config import Config


@define
class Deadlines:
    """The deadlines of one cycle.

    :param now: the time of the last call that passed one.
    """

    _config: Config
    now: float
    turn_at: float = field(init=False)
    """The end of the turn; after it has timed out, the end of the current step of its clean-up."""
    shutdown_at: float = field(default=inf, init=False)
    """When the client gets its response at shutdown, whatever is known by then."""
    resume_at: float | None = field(default=None, init=False)
    """The end of a pause, or of the time in the queue."""
    is_waiting: bool = field(default=False, init=False)  #: for something other than Letta
    last_sent: float = field(init=False)  #: when something was last sent to the client
    _opened: float = field(init=False)
    _last_received: float = field(init=False)  #: when something was last received from Letta, or sent to it
    _silence_timeout: float = field(init=False)  #: seconds without a byte after which an exchange has failed
    _awaits_stream: bool = field(default=False, init=False)  #: a requested stream has not begun to arrive

    def __attrs_post_init__(self) -> None:
        self._opened = self._last_received = self.last_sent = self.now
        self._silence_timeout = self._config.letta_answer_timeout
        self.turn_at = self._opened + self._config.turn_timeout

    def command_sent(self, *, opens_stream: bool) -> None:
        """Start the timeout of a new exchange with Letta."""
        self._last_received, self.resume_at = self.now, None
        self._awaits_stream, config = opens_stream, self._config
        self._silence_timeout = config.first_item_timeout if opens_stream else config.letta_answer_timeout

    def received(self, now: float) -> None:
        """Note that Letta has sent something, or that the exchange has failed."""
        self._last_received = self.now = now

    def received_data(self, now: float) -> None:
        """Note that Letta has sent bytes of a body."""
        self._last_received = self.now = now
        if self._awaits_stream:
            self._awaits_stream, self._silence_timeout = False, self._config.letta_silence_timeout

    def pause(self, seconds: float) -> None:
        """Pause for some seconds, unless `wake` is called, or a pause that has begun ends before."""
        self.resume_at = min(self.now + seconds, inf if self.resume_at is None else self.resume_at)

    def extend_turn(self) -> None:
        """Give the clean-up of a turn that has timed out some time for its next step."""
        self.turn_at = self.now + self._config.letta_answer_timeout

    @property
    def exchange_at(self) -> float:
        """When the exchange with Letta counts as failed if nothing arrives until then."""
        return self._last_received + self._silence_timeout

    @property
    def silence(self) -> str:
        """Why the exchange has failed, once that time has come."""
        seconds = f"{self._silence_timeout:g} seconds"
        if self._awaits_stream:
            return f"it did not begin to answer within {seconds}"
        return f"no byte came for {seconds}"

    def comment_at(self, *, has_begun: bool) -> float:
        """Return when a streaming client gets a comment if nothing else is sent until then.

        :param has_begun: whether the response has begun.
        """
        if has_begun:
            return self.last_sent + self._config.keepalive_timeout
        return self._opened + (self._config.early_response_timeout or inf)

    def next(self) -> float:
        """Return the earliest deadline, apart from that of a comment."""
        if self.is_waiting:
            deadline = self.turn_at if self.resume_at is None else self.resume_at
        else:
            deadline = self.exchange_at
        return min(deadline, self.turn_at, self.shutdown_at)
