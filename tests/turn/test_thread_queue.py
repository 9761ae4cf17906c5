"""One turn at a time in a thread."""

from typing import Any

import pytest

from sansio_letta.errors import LettaError
from sansio_letta.turn.thread_queue import ThreadQueue, Ticket


class Sleeper:
    """Counts how often it is woken."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def enter(queue: ThreadQueue, thread: str = "a") -> tuple[Ticket, Sleeper]:
    sleeper = Sleeper()
    ticket = Ticket(queue, sleeper)
    ticket.enter(thread)
    return ticket, sleeper


def test_first_come_first_served() -> None:
    queue = ThreadQueue(5)
    (one, _), (two, two_sleeper), (three, three_sleeper) = (enter(queue) for _ in range(3))
    assert [one.is_first, two.is_first, three.is_first] == [True, False, False]
    assert [one.waited, two.waited, three.waited] == [False, True, True]
    assert (queue.waiting_count, one.is_awaited, three.is_awaited) == (2, True, True)
    one.leave()
    assert (two.is_first, two_sleeper.count, three_sleeper.count) == (True, 1, 0)
    two.leave()
    assert (three.is_first, three_sleeper.count, queue.waiting_count) == (True, 1, 0)
    assert not three.is_awaited


def test_threads_do_not_wait_for_each_other() -> None:
    queue = ThreadQueue(0)
    assert enter(queue, "a")[0].is_first
    assert enter(queue, "b")[0].is_first


def test_who_gives_up_wakes_nobody_whose_turn_it_is_not() -> None:
    queue = ThreadQueue(5)
    one, (two, _), (three, sleeper) = enter(queue)[0], enter(queue), enter(queue)
    two.leave()
    assert (three.is_first, sleeper.count) == (False, 0)
    one.leave()
    assert three.is_first


def test_too_many() -> None:
    queue = ThreadQueue(1)
    enter(queue)
    enter(queue)
    with pytest.raises(LettaError, match="1 others wait") as refusal:
        enter(queue)
    assert (refusal.value.status_hint, refusal.value.code) == (409, "agent_busy")
    assert ("retry-after", "5") in refusal.value.headers()


def test_a_place_is_left_once_and_may_be_another_threads() -> None:
    queue = ThreadQueue(5)
    one: Any = enter(queue)[0]
    one.enter("a")
    assert one.is_first
    one.enter("b")
    assert enter(queue, "a")[0].is_first
    one.leave()
    one.leave()
    assert not one.is_first
    assert enter(queue, "b")[0].is_first


def test_a_place_of_its_own() -> None:
    ticket: Any = Ticket()
    assert not ticket.is_first
    ticket.enter("a")
    assert ticket.is_first
    ticket.leave()
