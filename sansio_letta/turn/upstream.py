"""The port: what a turn needs from the server where agents live, independent of any wire format.

An `Upstream` serves one turn and holds its state; a `Run` is one run of the agent. An operation that takes
several steps is a `Script`: a generator that yields what it waits for. The turn hands an exchange's command to
the transport, passes the response to the exchange, and resumes the script when the exchange is ready. To end
early, the turn throws an `Interrupted` into the script, so the code that was waiting can undo what it did.

An upstream that has no exchanges of its own, because its connection is shared, yields `Wait` and calls the
turn's ``wake`` when there is more to read.
"""

from collections.abc import Generator, Hashable, Iterator, Sequence
from enum import Enum, auto
from typing import Any, Protocol, TypeAlias, TypeVar

from attrs import frozen

from .._signal import Signal
from ..errors import Failure, Kept, SansioLettaError
from .agent import Agent, PendingCall
from .events import (
    AgentGone,
    FinishReason,
    ReplyEvent,
    Thread,
    ThreadGone,
    TurnStarted,
    Usage,
)
from .ledger import Heard
from .request import CallAnswer, Message, StandingInstruction, TurnRequest

#: An operation for the transport to carry out, in the upstream's own terms.
Command: TypeAlias = Any

# --- What a script waits for ----------------------------------------------------------------------------------


class Exchange(Protocol):
    """One request to the upstream and its response, whose content the turn does not read."""

    @property
    def command(self) -> Command:
        """The operation for the transport to carry out."""

    was_sent: bool  #: whether the command was handed out; set by the turn

    @property
    def must_finish(self) -> bool:
        """Whether a turn that ends must await it: it creates something to clean up, or starts a run."""

    @property
    def is_heard(self) -> bool:
        """Whether its content reaches the agent, so that it must not be sent twice."""

    @property
    def is_unsure(self) -> bool:
        """Whether it is unknown if its content has reached the agent."""

    @property
    def is_ready(self) -> bool:
        """Whether the script can go on: the response is complete, or a stream has begun."""

    @property
    def has_ended(self) -> bool:
        """Whether no more of the response will arrive."""

    def receive_response(self, status: int, headers: Sequence[tuple[str, str]]) -> None: ...

    def receive_data(self, data: bytes) -> None: ...

    def receive_failure(self, failure: Failure, reason: str) -> None: ...


@frozen(kw_only=True)
class Pause:
    """A pause before the next exchange."""

    seconds: float


@frozen
class Wait:
    """A wait until ``wake`` is called; the script then checks whether it can continue.

    :param seconds: the longest time; None: as long as a turn may wait in the queue.
    """

    seconds: float | None = None


class Interrupted(Exception):
    """The turn must end. Thrown into a script at the point where it waits.

    :param error: for the client; None if the client has disconnected.
    """

    def __init__(self, error: SansioLettaError | None = None) -> None:
        super().__init__(error)
        self.error = error


class ClientDisconnected(Interrupted):
    """The client has disconnected."""


class ShutDown(Interrupted):
    """The proxy is shutting down."""


class TimedOut(Interrupted):
    """The turn, or a step of its ending, has taken too long."""


class Gone(Exception):
    """A remembered agent or thread no longer exists: start again without what was remembered.

    :param event: for the caller that remembered it.
    """

    def __init__(self, event: AgentGone | ThreadGone) -> None:
        super().__init__(event)
        self.event = event


# --- A run ----------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class RunRequest:
    """The input of a run.

    :param request: the turn's request: its new input, tools and instructions.
    :param answers: to all pending calls.
    :param answered: the calls that they answer.
    :param has_results: whether results of the client's tools are among them, which the upstream stores at once.
    :param is_verdict: whether the user's message became the answers, and is not sent as a message.
    """

    request: TurnRequest
    answers: tuple[CallAnswer, ...] = ()
    answered: tuple[PendingCall, ...] = ()
    has_results: bool = False
    is_verdict: bool = False


class RunState(Enum):
    """What the agent was doing at its last sign of activity."""

    WAITING = auto()  #: nothing has arrived but pings
    THINKING = auto()
    SPEAKING = auto()
    WORKING = auto()  #: one of the agent's own tools was called or has returned
    CALLING = auto()  #: a call waits for the client or a human
    STOPPED = auto()  #: a stop reason arrived; usage, an error or the end may follow
    DONE = auto()
    FAILED = auto()

    # The transitions are looked up for every message: Enum's own hash is Python code.
    __hash__ = object.__hash__


@frozen(kw_only=True)
class RunStopped:
    """The run has ended normally.

    :param reason: the finish reason for the client, if the turn ends here.
    :param usage: None if the upstream did not report it.
    :param calls: ids of the client's calls whose results the agent waits for.
    :param waiting: calls that need a human's approval, if `calls` is empty.
    :param was_cancelled: whether the run was cancelled from outside, so that its reply is incomplete.
    """

    reason: FinishReason
    usage: Usage | None = None
    calls: tuple[str, ...] = ()
    waiting: tuple[PendingCall, ...] = ()
    was_cancelled: bool = False


@frozen(kw_only=True)
class RunFailed:
    """The run has failed.

    :param is_refusal: whether the upstream refused the input because of pending calls, and stored nothing. They
        may be settled, and the input sent again.
    """

    error: SansioLettaError
    is_refusal: bool = False


@frozen(kw_only=True)
class RunLost:
    """No more of the run can be read, though it may continue.

    :param had_stream: False if the run never had a stream to read.
    """

    error: SansioLettaError
    had_stream: bool = True


@frozen(kw_only=True)
class Refused:
    """The upstream did not start the run because of pending calls, and stored nothing."""

    error: SansioLettaError


RunEnd: TypeAlias = RunStopped | RunFailed | RunLost
#: `TurnStarted` reports that the agent has begun to reply in this run.
RunEvent: TypeAlias = ReplyEvent | TurnStarted | RunEnd
#: What a later turn needs to find a run again, in the upstream's own terms.
RunRef: TypeAlias = Any


class Located(Enum):
    """The outcome of a search for a run whose id is unknown."""

    RUNNING = auto()
    OVER = auto()
    NEVER_BEGUN = auto()
    UNKNOWN = auto()


class PastRun(Protocol):
    """A run that is over, as the upstream has stored it."""

    @property
    def has_anything(self) -> bool:
        """Whether any of it was stored."""

    @property
    def is_blank(self) -> bool:
        """Whether nothing was stored, and no reason is known."""

    @property
    def is_complete(self) -> bool:
        """Whether it ended by itself, with nothing left to do."""

    @property
    def has_input(self) -> bool:
        """Whether its input was stored."""

    @property
    def results(self) -> tuple[CallAnswer, ...]:
        """Tool results from which the agent can continue."""

    @property
    def can_continue(self) -> bool:
        """Whether the agent can go on with it without any input; see `Capabilities.continues`."""

    def events(self) -> Iterator[RunEvent]:
        """All its events; the last one is its end."""

    def kept_events(self) -> Iterator[RunEvent]:
        """All its events except the end; only those of steps that are not repeated, if it can be continued."""


class Run(Protocol):
    """One run of the agent."""

    @property
    def ref(self) -> RunRef | None:
        """What a later turn needs to find it; None until it was requested."""

    @property
    def is_named(self) -> bool:
        """Whether its id is known, so that it can be cancelled and recovered."""

    @property
    def run_id(self) -> str | None:
        """Its id at the upstream, once known."""

    @property
    def state(self) -> RunState:
        """What the agent was doing at its last sign of activity."""

    @property
    def has_kept(self) -> bool:
        """Whether its input is known to be stored in the agent's memory."""

    @property
    def has_results(self) -> bool:
        """Whether it was sent with tool results, which are stored even if it fails."""

    @property
    def sent(self) -> tuple[Message, ...]:
        """The messages that go with it and stay in the thread; kept with its first step."""

    @property
    def instructions_sent(self) -> tuple[StandingInstruction, ...]:
        """Instructions sent with it that its thread need not be given again once the first step is stored."""

    def prepare(self) -> "Script[None] | None":
        """Do what must be done before it starts; None if there is nothing to do.

        :raises Gone: if the agent no longer exists.
        """

    def start(self) -> "Script[Refused | None]":
        """Start it.

        :raises Gone: if the agent or the thread no longer exists.
        :raises RemoteProtocolError: if it is unknown whether it was started.
        """

    def next_event(self) -> RunEvent | Signal:
        """Return the next event.

        NEED_DATA until its exchange receives more, or WAITING until ``wake`` is called. Nothing follows an end,
        unless the run is recovered.

        :raises RemoteProtocolError: if what was received is invalid.
        """

    def read_texts(self, data: bytes) -> Sequence[str]:
        """Return the texts in these bytes if they contain nothing else, without an event for each piece.

        :return: empty if they contain anything else; then nothing was consumed.
        """

    def locate(self) -> "Script[Located]":
        """Search for it by `ref`. If it is found, its id is known afterwards."""

    def recover(self) -> "Script[PastRun | None]":
        """Recover a lost run: find its stream again, or wait for its end.

        :return: what was stored of the run; None if its stream was found.
        """

    def cancel(self, *, must_know: bool) -> "Script[Kept]":
        """Cancel it.

        :param must_know: whether to find out what was stored.
        """


@frozen
class Follow:
    """A run to be read: the turn passes its events on, and resumes the script with its end."""

    run: Run


# --- The upstream ---------------------------------------------------------------------------------------------


class Upstream(Protocol):
    """The server where agents live, as one turn sees it."""

    @property
    def agent(self) -> Agent | None:
        """The agent; None if it must be resolved."""

    @property
    def thread(self) -> Thread | None:
        """The turn's thread; None if it must be opened, or if the agent is not known yet."""

    @property
    def is_new(self) -> bool:
        """Whether the thread has no messages yet."""

    @property
    def queue_keys(self) -> tuple[Hashable, ...]:
        """The keys of the queues to wait in.

        They depend on what is known of the thread so far: first the chat, then also its conversation. Of the
        turns that share a key, one at a time may proceed.
        """

    @property
    def calls(self) -> tuple[PendingCall, ...] | None:
        """The calls that are pending in the thread; None if they must be looked up."""

    def resolve_agent(self, *, with_calls: bool) -> "Script[Agent]":
        """Find the agent.

        :param with_calls: whether to find out which calls are pending.
        """

    def fit(self, request: TurnRequest) -> TurnRequest:
        """Return the request, adapted to the agent.

        :raises RequestError: if the agent does not support it.
        """

    def recall_thread(self) -> None:
        """Use the remembered thread, if there is one. Called when the turn may proceed, not before."""

    def open_thread(self) -> "Script[None]":
        """Find the thread, or create it.

        :raises Gone: if the agent no longer exists.
        """

    def look_up_calls(self) -> "Script[None]":
        """Look up the calls that are pending in the thread.

        :raises Gone: if the agent or the thread no longer exists.
        """

    @property
    def heard(self) -> Heard | None:
        """What the thread has heard, if it was looked up in this turn."""

    def client_name(self, name: str) -> str:
        """Return the client's name of a tool; the name itself if the client does not offer it.

        :param name: the agent's name of it.
        """

    def look_up_heard(self) -> "Script[None]":
        """Find out what the thread has heard, by its last messages.

        :raises Gone: if there is no such agent or thread any more.
        """

    def forget_calls(self) -> None:
        """Discard what is known of pending calls: other turns have used the thread since."""

    def confirm(self) -> None:
        """Note that the agent has received the input, so that no other agent of this name may be used."""

    def make_run(self, request: RunRequest) -> Run:
        """Create a run, to be prepared and started."""

    def look_up(self, ref: RunRef) -> "Script[PastRun]":
        """Look up the run of an earlier turn, once it is over."""

    def release(
        self, *, awaited_calls: Sequence[str], left_nothing: bool, had_turn: bool
    ) -> "Script[None] | None":
        """Clean up what was created for this turn alone; None if there is nothing to do. Never raises.

        :param awaited_calls: ids of the client's calls whose results the agent waits for.
        :param left_nothing: whether the turn failed and left nothing stored, so that it may be retried.
        :param had_turn: whether the turn had reached the head of its queue.
        """


_T = TypeVar("_T")
#: What a script can wait for.
Step: TypeAlias = Exchange | Pause | Wait | Follow
Script: TypeAlias = Generator[Step, Any, _T]
