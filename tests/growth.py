"""How the cost of processing an input grows with its size.

The CPU time for one input is compared with that for an input of twice the size. A linear function takes twice
as long for the second, a quadratic one four times. A busy machine makes a measurement longer, never shorter, so
the minimum of several counts. The pauses between attempts grow, so that they outlast other work.
"""

import gc
import time
from collections.abc import Callable
from typing import Final

Work = Callable[[], object]

#: Attempts to measure at most `MOST` times the CPU for twice the input.
ATTEMPTS: Final = 30
MOST: Final = 2.5
#: Seconds by which the pauses between attempts grow.
PAUSE: Final = 0.02


def seconds(work: Work) -> float:
    """Return the CPU time of one call."""
    gc.disable()  # its duration depends on everything else in the process
    try:
        began = time.process_time()
        work()
        return time.process_time() - began
    finally:
        gc.enable()


def check_growth(make: Callable[[int], Work], size: int, *, attempts: int = ATTEMPTS) -> None:
    """Check that twice the input takes at most `MOST` times the CPU.

    :raises AssertionError: if it took more in all attempts.
    """
    once, twice = make(size), make(2 * size)
    once()  # imports and compiles what is needed
    least, most = [], []
    for number in range(attempts):
        time.sleep(number * PAUSE)
        least.append(seconds(once))
        most.append(seconds(twice))
        # The constant allows for the resolution of the clock.
        if min(most) <= MOST * min(least) + 0.002:
            return
    raise AssertionError(f"{min(least):.4f} s for an input, {min(most):.4f} s for twice as much")
