"""How the cost of reading an input grows with its size.

The CPU time of one input is compared with that of an input of twice the size: for a reader that is linear
the second takes twice as long, for one that is quadratic four times. A busy machine makes a measurement
longer, never shorter: the least of several counts, and is compared after each. The attempts become rarer, so
that they outlast what keeps the machine busy.
"""

import gc
import time
from collections.abc import Callable
from typing import Final

Work = Callable[[], object]

#: Attempts to see that twice the input takes at most so much of the time.
ATTEMPTS: Final = 30
MOST: Final = 2.5
#: Seconds by which the pauses between them grow.
PAUSE: Final = 0.02


def seconds(work: Work) -> float:
    """CPU time of one run of it."""
    gc.disable()  # how long a collection takes depends on what else the process holds
    try:
        began = time.process_time()
        work()
        return time.process_time() - began
    finally:
        gc.enable()


def check_growth(make: Callable[[int], Work], size: int, *, attempts: int = ATTEMPTS) -> None:
    """Make sure that twice the input takes no more than `MOST` times the CPU.

    :raises AssertionError: if no attempt has shown that.
    """
    once, twice = make(size), make(2 * size)
    once()  # what is imported or compiled on first use
    least, most = [], []
    for number in range(attempts):
        time.sleep(number * PAUSE)
        least.append(seconds(once))
        most.append(seconds(twice))
        # A little more is a clock that ticks, not a reader.
        if min(most) <= MOST * min(least) + 0.002:
            return
    raise AssertionError(f"{min(least):.4f} s for an input, {min(most):.4f} s for twice as much")
