"""What is known of a turn while it goes on, and what its client is told."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from attrs import define, field

from ..config import Approvals, Config
from ..errors import Kept, SansioLettaError, kept_failure
from .answer import Answer
from .events import ConversationThread, Event, Thread, TurnFailed
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

#: Tells which calls a turn has left waiting in a thread, as far as that is remembered.
RecallWaiting: TypeAlias = Callable[[Thread], Waiting | None]


def nothing_waits(thread: Thread) -> None:
    """Nothing is remembered."""


class Failed(Exception):
    """The turn fails.

    :param error: what the client is told; None if there is no client any more.
    """

    def __init__(self, error: SansioLettaError | None, kept: Kept) -> None:
        super().__init__(error)
        self.error = error
        self.kept = kept


@define(kw_only=True)
class TurnState:
    """A turn so far.

    :param request: what the client asks; what is left of it while the turn goes on.
    :param approvals: what becomes of calls that a human must allow.
    :param items: where events go.
    """

    request: TurnRequest
    config: Config
    upstream: Upstream
    ticket: Ticket
    answer: Answer
    approvals: Approvals
    items: deque[Any]
    earlier: RunRef | None = None  #: an earlier turn for the same request that broke off
    recall_waiting: RecallWaiting
    phase: Phase = field(default=Phase.READY, init=False)
    run: Run | None = field(default=None, init=False)  #: the one under way, or the last
    exchange: Exchange | None = field(default=None, init=False)  #: the last; set by the turn
    is_detached: bool = field(default=False, init=False)  #: the client hears no more
    interruption: SansioLettaError | None = field(default=None, init=False)  #: the proxy shuts down
    started: bool = field(default=False, init=False)  #: `TurnStarted` was handed over: no status line any more
    took_up: bool = field(default=False, init=False)  #: an earlier turn for the same request was looked into
    resume_count: int = field(default=0, init=False)  #: how often its stream was lost and found again
    instructions_sent: tuple[tuple[Thread, StandingInstruction], ...] = field(default=(), init=False)
    """What went with this turn and need not be told there again: its thread has kept it."""
    awaited_calls: tuple[str, ...] = field(default=(), init=False)
    """Ids of the client's calls for whose results the agent waits when the turn is over."""
    awaits_client: bool = field(default=False, init=False)
    """Whether the agent waits for what the client makes of a call."""
    left_nothing: bool = field(default=False, init=False)  #: it failed, and nothing of it was kept
    ended_run: Run | None = field(default=None, init=False)  #: the last whose end was not the turn's

    def report_interruption(self) -> None:
        """Tell the client what is known by now, since little more will be carried out."""
        assert self.interruption is not None
        exchange = self.exchange
        is_making = self.phase in (Phase.SEARCHING, Phase.PREPARING) and not (exchange and exchange.is_heard)
        is_nothing = is_making and not self.answer.has_earlier and self.earlier is None
        self._report(self.interruption, Kept.NOTHING if is_nothing else Kept.UNKNOWN)
        self.is_detached = True

    def fail(self, error: SansioLettaError | None, kept: Kept) -> Phase:
        if error is None or self.is_detached:
            return Phase.DONE
        if kept is Kept.NOTHING and self.answer.has_earlier:
            kept = Kept.SOMETHING
        self._report(error, kept)
        self.left_nothing = kept is Kept.NOTHING
        return Phase.FAILED

    def _report(self, error: SansioLettaError, kept: Kept) -> None:
        told = error if kept is Kept.NOTHING else kept_failure(error)
        self.items.extend(self.answer.trim(TurnFailed(error=told, kept=kept)))

    @property
    def kept_before(self) -> Kept:
        """What may be kept while nothing was sent: what an earlier turn has left was not found out."""
        return Kept.NOTHING if self.earlier is None else Kept.UNKNOWN

    @property
    def thread(self) -> Thread:
        thread = self.upstream.thread
        assert thread is not None
        return thread

    @property
    def ref(self) -> RunRef | None:
        """What a repeat of the request must look into; None if the agent was told nothing of it.

        Of a turn that went on from an earlier one it is that: what was said to the agent was said there.
        """
        if self.earlier is not None:
            return self.earlier
        runs = (run for run in (self.run, self.ended_run) if run is not None)
        return next((ref for run in runs if (ref := run.ref) is not None), None)

    @property
    def run_id(self) -> str | None:
        """The name of the run under way, or of the one before it; None until it is known."""
        runs = (run for run in (self.run, self.ended_run) if run is not None)
        return next((run_id for run in runs if (run_id := run.run_id) is not None), None)

    @property
    def run_state(self) -> RunState:
        """What the agent was doing when it was last heard of in the run under way."""
        return RunState.WAITING if self.run is None else self.run.state

    @property
    def conversation(self) -> ConversationThread | None:
        """Where the turn is, if that is not the agent's own thread; None until it is known."""
        thread = self.upstream.thread
        return thread if isinstance(thread, ConversationThread) else None

    @property
    def left_waiting(self) -> tuple[Thread, Waiting | None] | None:
        """What waits in its thread for the client now; None until the thread is known."""
        thread = self.upstream.thread
        if thread is None:
            return None
        return thread, Waiting(is_forced=self.request.forces_call) if self.awaits_client else None

    def leave(self) -> None:
        """The client has left, and the run is not named yet: read on until it is."""
        if self.phase in (Phase.SENDING, Phase.STREAMING):
            self.move(Phase.LEAVING)

    def check_client(self) -> None:
        """Begin nothing new if the client has left meanwhile."""
        if self.is_detached:
            raise ClientDisconnected

    def retell(self, events: Iterator[RunEvent]) -> RunEnd:
        """Tell a run from its start: of it what the client has not had."""
        told: list[Any] = list(events)
        end: RunEnd = told.pop()
        self.give(self.answer.add_rest(told))
        return end

    def tell(self, events: Iterable[Event]) -> None:
        for event in events:
            self.give(self.answer.add(event))

    def give(self, events: Iterable[Event]) -> None:
        if not self.is_detached:
            self.items.extend(events)

    def move(self, phase: Phase) -> None:
        assert phase in TRANSITIONS[self.phase], f"{phase} after {self.phase}"
        self.phase = phase
        if phase in OVER:
            self.ticket.leave()
