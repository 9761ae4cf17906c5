"""The state of a turn, and the events that it sends to its client."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from attrs import define, field

from ..config import Approvals, Config
from ..errors import Kept, SansioLettaError, kept_failure
from .answer import Answer
from .events import ConversationThread, Event, Thread, TurnFailed
from .ledger import SentInput, ThreadKnowledge
from .phases import OVER, TRANSITIONS, Phase
from .request import StandingInstruction, TurnRequest
from .settlement import Waiting
from .thread_queue import Ticket
from .upstream import (
    ClientDisconnected,
    Exchange,
    Run,
    RunEnd,
    RunEvent,
    RunRef,
    RunState,
    Upstream,
)

#: Returns which calls the last turn in a thread left pending, if that is remembered.
RecallWaiting: TypeAlias = Callable[[Thread], Waiting | None]


def nothing_waits(thread: Thread) -> None:
    """Return None: nothing is remembered."""


#: Tells for how many seconds more a thread is kept for the client that it has called.
RecallReserved: TypeAlias = Callable[[Thread], float]


def nothing_reserved(thread: Thread) -> float:
    """Nothing is remembered."""
    return 0.0


#: Tells for how many seconds more a run that was cancelled in a thread may store what it has made.
RecallCancelled: TypeAlias = Callable[[Thread], float]


#: Tells what is remembered of a thread.
RecallHeard: TypeAlias = Callable[[Thread], ThreadKnowledge]


def nothing_heard(thread: Thread) -> ThreadKnowledge:
    """Nothing is remembered."""
    return ThreadKnowledge()


class Failed(Exception):
    """The turn fails.

    :param error: for the client; None if it has disconnected.
    """

    def __init__(self, error: SansioLettaError | None, kept: Kept) -> None:
        super().__init__(error)
        self.error = error
        self.kept = kept


@define(kw_only=True)
class TurnState:
    """The state of a turn.

    :param request: what the client wants; later, what is left of it.
    :param approvals: the policy for calls that need a human's approval.
    :param items: the queue of the turn's events and commands.
    """

    request: TurnRequest
    config: Config
    upstream: Upstream
    ticket: Ticket
    answer: Answer
    approvals: Approvals
    items: deque[Any]
    earlier: RunRef | None = None  #: of the same request, which broke off
    is_retry: bool = False  #: of a request that this process does not know
    recall_waiting: RecallWaiting
    recall_heard: RecallHeard
    recall_reserved: RecallReserved
    recall_cancelled: RecallCancelled
    phase: Phase = field(default=Phase.READY, init=False)
    run: Run | None = field(default=None, init=False)  #: the current one, or the last
    exchange: Exchange | None = field(default=None, init=False)  #: the last one; set by the turn
    is_detached: bool = field(default=False, init=False)  #: the client gets no more events
    interruption: SansioLettaError | None = field(default=None, init=False)  #: the proxy is shutting down
    started: bool = field(default=False, init=False)  #: `TurnStarted` was handed out
    reviewed_earlier: bool = field(default=False, init=False)  #: an earlier turn was looked up
    has_cancelled: bool = field(default=False, init=False)  #: a run of it, which may store something even so
    resume_count: int = field(default=0, init=False)  #: how often its stream was lost and recovered
    instructions_sent: tuple[tuple[Thread, StandingInstruction], ...] = field(default=(), init=False)
    """Instructions that were stored with this turn, and need not be sent in their thread again."""
    sent: list[SentInput] = field(factory=list, init=False)
    """What was sent to the thread, until the memory of what it has heard takes it."""
    has_learned: bool = field(default=False, init=False)  #: that memory has taken what was looked up
    awaited_calls: tuple[str, ...] = field(default=(), init=False)
    """Ids of the client's calls whose results the agent waits for when the turn is over."""
    awaits_client: bool = field(default=False, init=False)
    """Whether the agent waits for the client to answer a call."""
    left_nothing: bool = field(default=False, init=False)  #: it failed, and none of it was stored
    ended_run: Run | None = field(default=None, init=False)  #: the last one that another run continued

    def report_interruption(self) -> None:
        """Fail with what is known by now: there is little time left before the shutdown."""
        assert self.interruption is not None
        exchange = self.exchange
        is_making = self.phase in (Phase.SEARCHING, Phase.PREPARING) and not (exchange and exchange.is_heard)
        is_nothing = is_making and not self.answer.has_earlier and self.earlier is None
        self._report(self.interruption, Kept.NOTHING if is_nothing else Kept.UNKNOWN)
        self.is_detached = True

    def fail(self, error: SansioLettaError | None, kept: Kept) -> Phase:
        """Report a failure to the client, if there is one. Return the phase in which the turn ends."""
        if error is None or self.is_detached:
            return Phase.DONE
        if kept is Kept.NOTHING and self.answer.has_earlier:
            kept = Kept.SOMETHING
        self._report(error, kept)
        self.left_nothing = kept is Kept.NOTHING
        return Phase.FAILED

    def _report(self, error: SansioLettaError, kept: Kept) -> None:
        reported = error if kept is Kept.NOTHING else kept_failure(error)
        self.items.extend(self.answer.trim(TurnFailed(error=reported, kept=kept)))

    @property
    def kept_before(self) -> Kept:
        """What is stored before anything is sent: unknown if an earlier turn was not looked up yet."""
        return Kept.NOTHING if self.earlier is None else Kept.UNKNOWN

    @property
    def thread(self) -> Thread:
        thread = self.upstream.thread
        assert thread is not None
        return thread

    @property
    def ref(self) -> RunRef | None:
        """What a retry of the request must look up; None if nothing was sent to the agent.

        A turn that continues an earlier one refers to that, since the input was sent there.
        """
        if self.earlier is not None:
            return self.earlier
        runs = (run for run in (self.run, self.ended_run) if run is not None)
        return next((ref for run in runs if (ref := run.ref) is not None), None)

    @property
    def run_id(self) -> str | None:
        """The id of the current run, or of the one before it; None until known."""
        runs = (run for run in (self.run, self.ended_run) if run is not None)
        return next((run_id for run in runs if (run_id := run.run_id) is not None), None)

    @property
    def run_state(self) -> RunState:
        """What the agent was doing at its last sign of activity in the current run."""
        return RunState.WAITING if self.run is None else self.run.state

    @property
    def conversation(self) -> ConversationThread | None:
        """The turn's conversation; None until it is known, and if it is the agent's own thread."""
        thread = self.upstream.thread
        return thread if isinstance(thread, ConversationThread) else None

    @property
    def left_waiting(self) -> tuple[Thread, Waiting | None] | None:
        """The thread, and the client's calls that are pending in it now; None until the thread is known."""
        thread = self.upstream.thread
        if thread is None:
            return None
        if not self.awaits_client:
            return thread, None
        return thread, Waiting(is_forced=self.request.forces_call, call_ids=frozenset(self.awaited_calls))

    def leave(self) -> None:
        """Keep reading, without a client, until the run's id is known."""
        if self.phase in (Phase.SENDING, Phase.STREAMING):
            self.move(Phase.LEAVING)

    def check_client(self) -> None:
        """Raise if the client has disconnected, so that nothing new begins."""
        if self.is_detached:
            raise ClientDisconnected

    def add_rest(self, events: Iterator[RunEvent]) -> RunEnd:
        """Send what the client does not have yet of a run that is read again from its start."""
        again: list[Any] = list(events)
        end: RunEnd = again.pop()
        self.send(self.answer.add_rest(again))
        return end

    def add(self, events: Iterable[Event]) -> None:
        """Send events as part of the answer."""
        for event in events:
            self.send(self.answer.add(event))

    def send(self, events: Iterable[Event]) -> None:
        """Send events as they are, unless the client has disconnected."""
        if not self.is_detached:
            self.items.extend(events)

    def move(self, phase: Phase) -> None:
        """Change to this phase."""
        assert phase in TRANSITIONS[self.phase], f"{phase} after {self.phase}"
        self.phase = phase
        if phase in OVER:
            self.ticket.leave()
