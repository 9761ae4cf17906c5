"""The port: what a turn needs of the side where agents live, in nobody's wire format.

An `Upstream` serves one turn and keeps what it has found out; a `Run` is one run of the agent. Whatever takes
several steps is a `Script`: a generator that yields what it waits for. The turn hands an exchange's command to
the transport, passes the bytes that come back on to the exchange, and resumes the script when the exchange is
ready. A turn that must end throws an `Interrupted` in at the yield, so the place that waits knows what to undo.

An upstream without exchanges of its own, one whose connection is shared, yields `Wait` and calls the turn's
``wake`` when there is more to read.
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
from .request import CallAnswer, StandingInstruction, TurnRequest

#: What a transport is to carry out, in the upstream's own terms.
Command: TypeAlias = Any

# --- What a script waits for ----------------------------------------------------------------------------------


class Exchange(Protocol):
    """One request to the upstream and its response. The turn passes it on and reads none of it."""

    @property
    def command(self) -> Command:
        """What the transport is to carry out."""

    was_sent: bool  #: the command was handed out; set by the turn

    @property
    def must_finish(self) -> bool:
        """Whether a turn that ends awaits it: it makes something to be cleaned up, or starts a run."""

    @property
    def is_heard(self) -> bool:
        """Whether the agent hears what is sent: it must not be sent twice."""

    @property
    def is_unsure(self) -> bool:
        """Whether the agent may have heard it, and nothing says whether it did."""

    @property
    def is_ready(self) -> bool:
        """Whether the script can go on: the response is complete, or a stream has begun."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""

    def receive_response(self, status: int, headers: Sequence[tuple[str, str]]) -> None: ...

    def receive_data(self, data: bytes) -> None: ...

    def receive_failure(self, failure: Failure, reason: str) -> None: ...


@frozen(kw_only=True)
class Pause:
    """Nothing to ask for a while.

    :param seconds: how long.
    """

    seconds: float


@frozen
class Wait:
    """Nothing to do until ``wake`` is called; the script looks then whether it may go on."""


class Interrupted(Exception):
    """The turn must end. Thrown into a script where it waits.

    :param error: what the client is told; None if there is no client any more.
    """

    def __init__(self, error: SansioLettaError | None = None) -> None:
        super().__init__(error)
        self.error = error


class ClientDisconnected(Interrupted):
    """The client has disconnected."""


class ShutDown(Interrupted):
    """The proxy shuts down."""


class TimedOut(Interrupted):
    """The turn, or a step of its ending, has taken too long."""


class Gone(Exception):
    """What was remembered of the agent or the thread is out of date: begin again with what the upstream says.

    :param event: for whoever remembered it.
    """

    def __init__(self, event: AgentGone | ThreadGone) -> None:
        super().__init__(event)
        self.event = event


# --- A run ----------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class RunRequest:
    """What a run is started with.

    :param request: what is new, and what the agent is to go by.
    :param answers: to everything that waits.
    :param answered: the calls that they answer.
    :param has_results: results of the client's tools are among them: such are kept at once.
    :param is_verdict: what the user wrote is in the answers, and not a message.
    """

    request: TurnRequest
    answers: tuple[CallAnswer, ...] = ()
    answered: tuple[PendingCall, ...] = ()
    has_results: bool = False
    is_verdict: bool = False


class RunState(Enum):
    """What the agent was doing when it was last heard of."""

    WAITING = auto()  #: nothing yet but pings
    THINKING = auto()
    SPEAKING = auto()
    WORKING = auto()  #: a tool of the agent's own is called or has returned
    CALLING = auto()  #: somebody else is to carry out a call
    STOPPED = auto()  #: a stop reason came; usage, an error or the end may follow
    DONE = auto()
    FAILED = auto()

    # The transitions are looked up for every message: Enum's own hash is Python code.
    __hash__ = object.__hash__


@frozen(kw_only=True)
class RunStopped:
    """The run has come to its end.

    :param reason: why, as the client is told if the turn ends here.
    :param usage: None: the upstream did not say.
    :param calls: ids of the client's calls for whose results the agent waits.
    :param waiting: if it waits for none of the client's: calls that wait for a human.
    :param was_cancelled: somebody has ended it: what it said is not complete.
    """

    reason: FinishReason
    usage: Usage | None = None
    calls: tuple[str, ...] = ()
    waiting: tuple[PendingCall, ...] = ()
    was_cancelled: bool = False


@frozen(kw_only=True)
class RunFailed:
    """The run has failed.

    :param is_refusal: what is pending does not fit the input, and nothing was kept: it may be settled.
    """

    error: SansioLettaError
    is_refusal: bool = False


@frozen(kw_only=True)
class RunLost:
    """Nothing more can be read of the run, which may go on.

    :param had_stream: False if it was known before that there is nothing to read.
    """

    error: SansioLettaError
    had_stream: bool = True


@frozen(kw_only=True)
class Refused:
    """The run was not started: what is pending does not fit the input. Nothing was kept."""

    error: SansioLettaError


RunEnd: TypeAlias = RunStopped | RunFailed | RunLost
#: `TurnStarted` says that the agent has begun to answer in this run.
RunEvent: TypeAlias = ReplyEvent | TurnStarted | RunEnd
#: How a run is found again by a later turn, in the upstream's own terms.
RunRef: TypeAlias = Any


class Located(Enum):
    """What a search for a run without a name came to."""

    RUNNING = auto()
    OVER = auto()
    NEVER_BEGUN = auto()
    UNKNOWN = auto()


class PastRun(Protocol):
    """A run that is over, as the upstream has kept it."""

    @property
    def has_anything(self) -> bool:
        """Whether anything of it was kept."""

    @property
    def is_blank(self) -> bool:
        """Whether nothing was kept and nothing tells why."""

    @property
    def is_complete(self) -> bool:
        """Whether it came to its own end: nothing is left to do in it."""

    @property
    def has_input(self) -> bool:
        """Whether its input was kept."""

    @property
    def results(self) -> tuple[CallAnswer, ...]:
        """Results of tools behind which the agent can go on."""

    def events(self) -> Iterator[RunEvent]:
        """All its events; the last is its end."""

    def kept_events(self) -> Iterator[RunEvent]:
        """The same without the end."""


class Run(Protocol):
    """One run of the agent."""

    @property
    def ref(self) -> RunRef | None:
        """How it is found again; None while nothing was asked for."""

    @property
    def is_named(self) -> bool:
        """Whether it can be cancelled and recovered: what it is called is known."""

    @property
    def run_id(self) -> str | None:
        """What the upstream calls it, once it is known."""

    @property
    def state(self) -> RunState:
        """What the agent was doing when it was last heard of."""

    @property
    def has_kept(self) -> bool:
        """Whether the agent's memory is known to hold its input."""

    @property
    def has_results(self) -> bool:
        """Whether results went with it, which are kept even if it fails."""

    @property
    def instructions_sent(self) -> tuple[StandingInstruction, ...]:
        """What goes with it and need not be told in this thread again; kept with its first step."""

    def prepare(self) -> "Script[None] | None":
        """Do what must be done before it; None if there is nothing to do.

        :raises Gone: if there is no such agent any more.
        """

    def start(self) -> "Script[Refused | None]":
        """Start it.

        :raises Gone: if there is no such agent or thread any more.
        :raises RemoteProtocolError: if it may have been started, and nothing tells.
        """

    def next_event(self) -> RunEvent | Signal:
        """The next event; NEED_DATA until its exchange receives more, or WAITING until ``wake`` is called.

        Nothing follows an end, unless the run is recovered.

        :raises RemoteProtocolError: if what came makes no sense.
        """

    def read_texts(self, data: bytes) -> Sequence[str]:
        """What bytes hold if it is nothing but more of the text, without an event for each piece.

        :return: empty if they hold anything else: nothing was taken.
        """

    def locate(self) -> "Script[Located]":
        """Look for it by `ref`; afterwards it has a name if it is there."""

    def recover(self) -> "Script[PastRun | None]":
        """It was lost: find its stream again, for None, or wait for its end."""

    def cancel(self, *, must_know: bool) -> "Script[Kept]":
        """End it.

        :param must_know: whether it matters what was kept.
        """


@frozen
class Follow:
    """A run is to be read: the turn passes its events on and resumes the script with its end."""

    run: Run


# --- The upstream ---------------------------------------------------------------------------------------------


class Upstream(Protocol):
    """The side where agents live, for one turn."""

    @property
    def agent(self) -> Agent | None:
        """The agent; None: it must be resolved."""

    @property
    def thread(self) -> Thread | None:
        """The thread that the turn is in; None: it must be opened. Known once the agent is."""

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever said in the thread."""

    @property
    def queue_keys(self) -> tuple[Hashable, ...]:
        """What a turn queues for, by what is known of the thread so far: first a chat, then its conversation.

        Of threads that share a key one turn at a time may speak.
        """

    @property
    def calls(self) -> tuple[PendingCall, ...] | None:
        """What waits for an answer in the thread; None: it must be looked up."""

    def resolve_agent(self, *, with_calls: bool) -> "Script[Agent]":
        """Find the agent.

        :param with_calls: whether it matters what it waits for.
        """

    def fit(self, request: TurnRequest) -> TurnRequest:
        """The request as the agent takes it.

        :raises RequestError: if it cannot be asked this.
        """

    def recall_thread(self) -> None:
        """Take the thread that is remembered, if one is; not before the turn's time has come."""

    def open_thread(self) -> "Script[None]":
        """Find the thread, or make it.

        :raises Gone: if there is no such agent any more.
        """

    def look_up_calls(self) -> "Script[None]":
        """Find out what waits for an answer in the thread.

        :raises Gone: if there is no such agent or thread any more.
        """

    def forget_calls(self) -> None:
        """Others have used the thread meanwhile."""

    def confirm(self) -> None:
        """The agent has heard the input: it is not looked for under another name any more."""

    def make_run(self, request: RunRequest) -> Run:
        """A run that is about to be prepared and started."""

    def look_up(self, ref: RunRef) -> "Script[PastRun]":
        """What became of an earlier turn's run, once it is over."""

    def release(
        self, *, awaited_calls: Sequence[str], left_nothing: bool, had_turn: bool
    ) -> "Script[None] | None":
        """Clean up what was for this turn alone; None if there is nothing to do. Nothing is raised.

        :param awaited_calls: ids of the client's calls for whose results the agent waits.
        :param left_nothing: the turn failed, and may be repeated.
        :param had_turn: whether its time in the thread had come.
        """


_T = TypeVar("_T")
#: What a script may wait for.
Step: TypeAlias = Exchange | Pause | Wait | Follow
Script: TypeAlias = Generator[Step, Any, _T]
