"""Places in a thread: one turn at a time speaks to it, first come, first served.

Letta locks conversations and refuses a second turn; the agent's own thread it does not lock, and two turns
in it corrupt its order (conversation_busy.jsonl). So who wants to speak asks for a place here first, and has
it from the moment when all who came before have left. Other processes are not seen from here.
"""

from collections import deque
from collections.abc import Callable

from attrs import define, field

from ..errors import Advice, LettaError


def thread_busy(what: str) -> LettaError:
    """The turn cannot begin, since another one speaks to the agent. Nothing of it was sent."""
    advice = Advice(status=409, type="conflict_error", code="agent_busy", retry_after=5)
    return LettaError(f"The agent is busy with another request: {what}. Try again later.", advice=advice)


@define
class ThreadQueue:
    """Who speaks in which thread, and who waits for it.

    :param max_waiting_count: for one thread; who comes after that many is refused.
    """

    max_waiting_count: int
    _places: dict[str, deque["Place"]] = field(factory=dict, init=False)

    @property
    def waiting_count(self) -> int:
        """How many wait, in all threads together."""
        return sum(len(places) - 1 for places in self._places.values())

    def enter(self, thread: str, place: "Place") -> None:
        """Take the last place of a thread.

        :raises LettaError: 409 ``agent_busy`` if too many wait already.
        """
        places = self._places.setdefault(thread, deque())
        if len(places) > self.max_waiting_count:
            raise thread_busy(f"{self.max_waiting_count} others wait for it already")
        places.append(place)

    def leave(self, thread: str, place: "Place") -> None:
        """Give a place up, whether its turn had come or not; the next in line is woken."""
        places = self._places[thread]
        came_first = places[0] is place
        places.remove(place)
        if not places:
            del self._places[thread]
        elif came_first:
            places[0].wake()

    def is_first(self, thread: str, place: "Place") -> bool:
        """Whether it is this one's turn."""
        return self._places[thread][0] is place

    def has_next(self, thread: str) -> bool:
        """Whether somebody waits for who speaks now."""
        return len(self._places.get(thread, ())) > 1


def nobody() -> None:
    """Nobody sleeps, so nobody need be woken."""


@define(eq=False)
class Place:
    """One turn's place in a queue; alone in the world if it was given none.

    :param wake: called when the turn may speak; it should then be asked for its next event.
    """

    queue: ThreadQueue = field(factory=lambda: ThreadQueue(0))
    wake: Callable[[], None] = nobody
    waited: bool = field(default=False, init=False)  #: what was known of the thread before may be out of date
    _thread: str | None = field(default=None, init=False)

    def enter(self, thread: str) -> None:
        """Ask for a place, or for one in another thread.

        :raises LettaError: 409 ``agent_busy`` if too many wait already.
        """
        if thread == self._thread:
            return
        self.leave()
        self.queue.enter(thread, self)
        self._thread = thread
        self.waited = not self.granted

    @property
    def granted(self) -> bool:
        """Whether the turn may speak now."""
        return self._thread is not None and self.queue.is_first(self._thread, self)

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits behind."""
        return self._thread is not None and self.queue.has_next(self._thread)

    def leave(self) -> None:
        """The turn is over. May be called at any time, and again."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            self.queue.leave(thread, self)
