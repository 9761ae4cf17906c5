"""The queue of each thread: one turn at a time speaks in it, first come, first served.

Letta locks conversations and refuses a second turn; the agent's own thread it does not lock, and two turns
in it corrupt its order (conversation_busy.jsonl). So a turn takes a ticket first, and is first in the queue
once all that came before have left. Other processes are not seen from here.

A chat is queued for by its key, before it is known which conversation it has, and then by the conversation,
too: another client may name that by its id. A ticket keeps its place in the first queue meanwhile.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable

from attrs import define, field

from ..errors import Advice, LettaError


def thread_busy(what: str) -> LettaError:
    """The turn cannot begin, since another one speaks to the agent. Nothing of it was sent."""
    advice = Advice(status=409, type="conflict_error", code="agent_busy", retry_after=5)
    return LettaError(f"The agent is busy with another request: {what}. Try again later.", advice=advice)


@define
class ThreadQueue:
    """The tickets of each thread, in the order in which they came.

    :param max_waiting_count: for one thread; what comes after that many is refused.
    """

    max_waiting_count: int
    _tickets: dict[Hashable, deque["Ticket"]] = field(factory=dict, init=False)

    @property
    def waiting_count(self) -> int:
        """How many wait, in all threads together."""
        return sum(len(tickets) - 1 for tickets in self._tickets.values())

    def enter(self, thread: Hashable, ticket: "Ticket") -> None:
        """Take the last place in a thread's queue.

        :raises LettaError: 409 ``agent_busy`` if too many wait already.
        """
        tickets = self._tickets.setdefault(thread, deque())
        if len(tickets) > self.max_waiting_count:
            raise thread_busy(f"{self.max_waiting_count} others wait for it already")
        tickets.append(ticket)

    def leave(self, thread: Hashable, ticket: "Ticket") -> None:
        """Give a place up, first or not; the next in line is woken."""
        tickets = self._tickets[thread]
        came_first = tickets[0] is ticket
        tickets.remove(ticket)
        if not tickets:
            del self._tickets[thread]
        elif came_first:
            tickets[0].wake()

    def is_first(self, thread: Hashable, ticket: "Ticket") -> bool:
        """Whether it is this one's turn."""
        return self._tickets[thread][0] is ticket

    def has_next(self, thread: Hashable) -> bool:
        """Whether another ticket waits behind the first."""
        return len(self._tickets.get(thread, ())) > 1


def no_wake() -> None:
    """Nothing sleeps, so nothing need be woken."""


@define(eq=False)
class Ticket:
    """One turn's place in a queue; by default in a private one.

    :param wake: called when the turn may speak; it should then be asked for its next event.
    """

    queue: ThreadQueue = field(factory=lambda: ThreadQueue(0))
    wake: Callable[[], None] = no_wake
    waited: bool = field(default=False, init=False)  #: what was known of the thread before may be out of date
    _threads: tuple[Hashable, ...] = field(default=(), init=False)

    def enter(self, *threads: Hashable) -> None:
        """Queue for these threads, and no others; a place that it has already it keeps.

        :raises LettaError: 409 ``agent_busy`` if too many wait already.
        """
        self._leave(thread for thread in self._threads if thread not in threads)
        for thread in threads:
            if thread not in self._threads:
                self.queue.enter(thread, self)
                self._threads += (thread,)
                self.waited = not self.is_first

    @property
    def is_first(self) -> bool:
        """Whether the turn may speak now."""
        return bool(self._threads) and all(self.queue.is_first(thread, self) for thread in self._threads)

    @property
    def is_queued(self) -> bool:
        """Whether others must leave before the turn may speak."""
        return bool(self._threads) and not self.is_first

    @property
    def is_awaited(self) -> bool:
        """Whether another one waits behind."""
        return any(self.queue.has_next(thread) for thread in self._threads)

    def leave(self) -> None:
        """The turn is over. May be called at any time, and again."""
        self._leave(self._threads)

    def _leave(self, threads: Iterable[Hashable]) -> None:
        for thread in tuple(threads):
            self._threads = tuple(kept for kept in self._threads if kept != thread)
            self.queue.leave(thread, self)
