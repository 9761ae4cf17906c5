"""A queue for each thread: its turns run one at a time, in the order in which they came.

Letta locks conversations and refuses a second turn. It does not lock the agent's own thread, where two turns at
once corrupt the order of messages (conversation_busy.jsonl). So each turn takes a ticket, and starts when its
ticket is first in the queue. This works within one process only.

A chat is queued for by its key while its conversation is unknown, and then by its conversation as well, because
another client may name that by its id. The ticket keeps its place in the first queue.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable

from attrs import define, field

from ..errors import Advice, LettaError


def thread_busy(what: str) -> LettaError:
    """The turn cannot begin, since the agent is busy with another one. Nothing of it was sent."""
    advice = Advice(status=409, type="conflict_error", code="agent_busy", retry_after=5)
    return LettaError(f"The agent is busy with another request: {what}. Try again later.", advice=advice)


@define
class ThreadQueue:
    """The tickets for each thread, in the order in which they came.

    :param max_waiting_count: how many may wait for one thread; more are refused.
    """

    max_waiting_count: int
    _tickets: dict[Hashable, deque["Ticket"]] = field(factory=dict, init=False)
    _watchers: dict[Hashable, list["Ticket"]] = field(factory=dict, init=False)

    @property
    def waiting_count(self) -> int:
        """How many tickets wait, for all threads together."""
        return sum(len(tickets) - 1 for tickets in self._tickets.values())

    def enter(self, thread: Hashable, ticket: "Ticket") -> None:
        """Add a ticket to the end of a thread's queue.

        :raises LettaError: 409 ``agent_busy`` if too many wait already.
        """
        tickets = self._tickets.setdefault(thread, deque())
        if len(tickets) > self.max_waiting_count:
            raise thread_busy(f"{self.max_waiting_count} others wait for it already")
        tickets.append(ticket)

    def leave(self, thread: Hashable, ticket: "Ticket", *, is_over: bool) -> None:
        """Give up a place, first or not; the next in line is woken.

        :param is_over: whether the turn is: those that stepped aside look again.
        """
        tickets = self._tickets[thread]
        came_first = tickets[0] is ticket
        tickets.remove(ticket)
        if not tickets:
            del self._tickets[thread]
        elif came_first:
            tickets[0].wake()
        # One that steps aside itself must not wake the others, which would step aside again, and so on.
        for watcher in self._watchers.get(thread, ()) if is_over else ():
            watcher.is_aside = False
            watcher.wake()

    def watch(self, thread: Hashable, ticket: "Ticket") -> None:
        """Wake a ticket without a place whenever a turn in this thread is over."""
        self._watchers.setdefault(thread, []).append(ticket)

    def unwatch(self, thread: Hashable, ticket: "Ticket") -> None:
        """Wake it no more."""
        watchers = self._watchers[thread]
        watchers.remove(ticket)
        if not watchers:
            del self._watchers[thread]

    def is_first(self, thread: Hashable, ticket: "Ticket") -> bool:
        """Whether this ticket is first in the thread's queue."""
        return self._tickets[thread][0] is ticket

    def has_next(self, thread: Hashable) -> bool:
        """Whether another ticket waits after the first."""
        return len(self._tickets.get(thread, ())) > 1


def no_wake() -> None:
    """Do nothing: there is nothing to wake."""


@define(eq=False)
class Ticket:
    """One turn's place in the queues; by default in a private one.

    :param wake: called when the turn may start; its `next_event` should then be called.
    """

    queue: ThreadQueue = field(factory=lambda: ThreadQueue(0))
    wake: Callable[[], None] = no_wake
    waited: bool = field(default=False, init=False)  #: what is known of the thread may be out of date
    is_aside: bool = field(default=False, init=False)  #: it has stepped aside, and no turn has ended since
    _threads: tuple[Hashable, ...] = field(default=(), init=False)
    _watched: tuple[Hashable, ...] = field(default=(), init=False)

    def enter(self, *threads: Hashable) -> None:
        """Join the queues of these threads, and leave all others. A place in a queue is kept.

        :raises LettaError: 409 ``agent_busy`` if too many wait already.
        """
        if threads == self._threads:
            return
        self._unwatch()
        self._leave([thread for thread in self._threads if thread not in threads], is_over=False)
        for thread in threads:
            if thread not in self._threads:
                self.queue.enter(thread, self)
                self._threads += (thread,)
                self.waited = not self.is_first

    @property
    def is_first(self) -> bool:
        """Whether the turn may start: the ticket is first in all its queues."""
        return bool(self._threads) and all(self.queue.is_first(thread, self) for thread in self._threads)

    @property
    def is_queued(self) -> bool:
        """Whether the turn must wait for others."""
        return bool(self._threads) and not self.is_first

    @property
    def is_awaited(self) -> bool:
        """Whether another ticket waits for this one."""
        return any(self.queue.has_next(thread) for thread in self._threads)

    def step_aside(self) -> None:
        """Let others speak first, until `enter` is called again; each time that one has, the turn is woken."""
        self._watched, threads, self.is_aside = self._threads, self._threads, True
        self._leave(threads, is_over=False)
        for thread in threads:
            self.queue.watch(thread, self)

    def leave(self) -> None:
        """Leave all queues. May be called at any time, and repeatedly."""
        self._unwatch()
        self._leave(self._threads, is_over=True)

    def _unwatch(self) -> None:
        for thread in self._watched:
            self.queue.unwatch(thread, self)
        self._watched, self.is_aside = (), False

    def _leave(self, threads: Iterable[Hashable], *, is_over: bool) -> None:
        for thread in tuple(threads):
            self._threads = tuple(kept for kept in self._threads if kept != thread)
            self.queue.leave(thread, self, is_over=is_over)
