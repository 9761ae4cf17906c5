"""Play many histories, each from its seed: ``python tests/ledger/explore.py COUNT [FIRST]``.

Of each kind of failure the smallest history is printed.

The tests draw theirs with hypothesis. Here the same are played without it, which is faster by far.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

from attrs import evolve, fields

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from ledger.core import WHOLE, CoreSide, Ending, How
from ledger.histories import Do, Habits, Shows, Step, World
from ledger.letta import Pace

History: TypeAlias = tuple[tuple[Habits, ...], tuple[Step, ...]]

#: What a client does, the ordinary more often.
DEEDS = (*[Do.SAY] * 6, *[Do.RESULTS] * 3, *[Do.RETRY] * 3, *Do)
WORDS = ("talk", "talk", "yes", "call", "calls", "work")


def draw_history(random: Random) -> History:
    """Any history."""
    habits = tuple(
        Habits(
            key=random.choice([None, None, "chat-1"]),
            keeps_answers=random.random() < 0.75,
            hides_calls=random.random() < 0.5,
            renames_calls=random.random() < 0.25,
            greets=random.random() < 0.5,
            counts=random.random() < 0.5,
            sends_parts=random.random() < 0.5,
        )
        for _ in range(random.randint(1, 2))
    )
    return habits, tuple(_draw_step(random) for _ in range(random.randint(0, 12)))


def _draw_step(random: Random) -> Step:
    ending = WHOLE
    if random.random() < 0.5:
        how = random.choice([How.STOPPED, How.STOPPED, How.LOST, How.FAILED])
        ending = Ending(how=how, at=random.randint(0, 8), pace=random.choice(list(Pace)))
    return Step(
        do=random.choice(DEEDS),
        client=random.randint(0, 1),
        replica=random.choice([0, 0, 0, 1]),
        word=random.choice(WORDS),
        ending=ending,
        shows=random.choice(list(Shows)),
        count=random.randint(1, 4),
        is_counted=random.random() < 0.5,
    )


def play(history: History) -> World:
    """Play a history in front of the core."""
    habits, steps = history
    world = World(CoreSide(), habits)
    world.play(steps)
    return world


def complaint(history: History) -> str | None:
    """What is wrong with it."""
    try:
        play(history)
    except Exception as error:  # whatever it is, it is what is looked for
        last = error.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        line = last.tb_lineno if last is not None else 0
        return f"{type(error).__name__} at {line}: {' '.join(str(error).split()[:12])}"
    return None


def shrink(history: History, what: str) -> History:
    """A smaller one with the same complaint."""
    changed = True
    while changed:
        changed = False
        for smaller in _smaller(history):
            found = complaint(smaller)
            if found is not None and found.split(":")[0] == what.split(":")[0]:
                history, changed = smaller, True
                break
    return history


def _smaller(history: History) -> Iterator[History]:
    habits, steps = history
    if len(habits) > 1:
        yield habits[:1], steps
        yield habits[1:], steps
    yield from ((habits, (*steps[:at], *steps[at + 1 :])) for at in range(len(steps)))
    for at, step in enumerate(steps):
        for simple in _simpler(step, Step(do=Do.SAY)):
            yield habits, (*steps[:at], simple, *steps[at + 1 :])
    for at, one in enumerate(habits):
        for simple_one in _simpler(one, Habits()):
            yield (*habits[:at], simple_one, *habits[at + 1 :]), steps


def _simpler(value: Any, default: Any) -> Iterator[Any]:
    for name in (attribute.name for attribute in fields(type(value))):
        if getattr(value, name) != getattr(default, name):
            yield evolve(value, **{name: getattr(default, name)})


def told(history: History) -> str:
    """A history, without what is as by default."""

    def one(value: Any, default: Any) -> str:
        names = [attribute.name for attribute in fields(type(value))]
        changed = [
            f"{name}={getattr(value, name)}"
            for name in names
            if getattr(value, name) != getattr(default, name) or name == "do"
        ]
        return f"{type(value).__name__}({', '.join(changed)})"

    habits, steps = history
    return "\n".join(
        [*(one(each, Habits()) for each in habits), *(one(each, Step(do=Do.SAY)) for each in steps)]
    )


def main(count: int, first: int = 0) -> None:
    """Play this many, and print each kind of complaint once, at its smallest."""
    found: Counter[str] = Counter()
    for seed in range(first, first + count):
        history = draw_history(Random(seed))
        what = complaint(history)
        if what is not None:
            kind = what.split(":")[0]
            found[kind] += 1
            if found[kind] == 1:
                small = shrink(history, what)
                print(f"--- seed {seed}: {complaint(small)}\n{told(small)}", flush=True)
    print(f"{count} histories: {dict(found) or 'nothing wrong'}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
