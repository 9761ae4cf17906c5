"""Deadlines of a cycle. All times are monotonic seconds."""

from math import inf

from attrs import define, field

from ..config import Config


@define
class Deadlines:
    """The times of one cycle.

    :param now: the time of the last call that told one.
    """

    _config: Config
    now: float
    turn_at: float = field(init=False)
    """The end of the turn; once it has timed out, of each step of its clean-up."""
    shutdown_at: float = field(default=inf, init=False)
    """When the client of a turn that is shut down is told what is known by then."""
    resume_at: float | None = field(default=None, init=False)
    """The end of a pause, or of the time in the queue."""
    is_waiting: bool = field(default=False, init=False)  #: for something else than Letta
    last_sent: float = field(init=False)  #: when something was written to the client
    _opened: float = field(init=False)
    _last_received: float = field(init=False)  #: when Letta sent something, or was sent something
    _silence_timeout: float = field(init=False)  #: seconds without a byte after which an exchange has failed
    _awaits_stream: bool = field(default=False, init=False)  #: a stream was asked for; nothing of it has come

    def __attrs_post_init__(self) -> None:
        self._opened = self._last_received = self.last_sent = self.now
        self._silence_timeout = self._config.letta_answer_timeout
        self.turn_at = self._opened + self._config.turn_timeout

    def command_sent(self, *, opens_stream: bool) -> None:
        """An exchange with Letta has begun."""
        self._last_received, self.resume_at = self.now, None
        self._awaits_stream, config = opens_stream, self._config
        self._silence_timeout = config.first_item_timeout if opens_stream else config.letta_answer_timeout

    def received(self, now: float) -> None:
        """Letta has sent something, or the exchange has failed."""
        self._last_received = self.now = now

    def received_data(self, now: float) -> None:
        """Letta has sent bytes of a body."""
        self._last_received = self.now = now
        if self._awaits_stream:
            self._awaits_stream, self._silence_timeout = False, self._config.letta_silence_timeout

    def pause(self, seconds: float) -> None:
        """Nothing is asked of Letta for a while, unless `wake` is called."""
        self.resume_at = self.now + seconds

    def extend_turn(self) -> None:
        """The turn has timed out: its clean-up has some time for each step."""
        self.turn_at = self.now + self._config.letta_answer_timeout

    @property
    def exchange_at(self) -> float:
        """When the exchange with Letta has failed if no byte comes."""
        return self._last_received + self._silence_timeout

    @property
    def silence(self) -> str:
        """Why an exchange has failed when that time has come."""
        seconds = f"{self._silence_timeout:g} seconds"
        if self._awaits_stream:
            return f"it did not begin to answer within {seconds}"
        return f"no byte came for {seconds}"

    def comment_at(self, *, has_begun: bool) -> float:
        """When a client that reads a stream gets a comment if nothing else comes.

        :param has_begun: whether it has the head of the response.
        """
        if has_begun:
            return self.last_sent + self._config.keepalive_timeout
        return self._opened + (self._config.early_response_timeout or inf)

    def next(self) -> float:
        """The first of them, but for a comment's."""
        if self.is_waiting:
            deadline = self.turn_at if self.resume_at is None else self.resume_at
        else:
            deadline = self.exchange_at
        return min(deadline, self.turn_at, self.shutdown_at)
