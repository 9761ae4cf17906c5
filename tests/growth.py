"""How the cost of processing an input grows with its size.

The CPU time for one input is compared with that for an input eight times its size, which is doubled three
times. A linear function takes eight times as long, a quadratic one 64 times. A busy machine makes a measurement
longer, never shorter, so the minimum of several counts. The pauses between attempts grow, so that they outlast
other work.
"""

import gc
import time
from collections.abc import Callable
from typing import Final

Work = Callable[[], object]

#: Attempts to measure at most `MOST` times the CPU for each time that the input is doubled.
ATTEMPTS: Final = 30
MOST: Final = 2.5
DOUBLINGS: Final = 3  # from a fourth of a size to twice the size
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
    """Check that each doubling of the input takes at most `MOST` times the CPU.

    :param size: of an input between the two: one is a fourth of it, the other twice.
    :raises AssertionError: if it took more in all attempts.
    """
    small, large = make(size // 4), make(2 * size)
    small()  # imports and compiles what is needed
    least, most = [], []
    for number in range(attempts):
        time.sleep(number * PAUSE)
        least.append(seconds(small))
        most.append(seconds(large))
        # The constant allows for the resolution of the clock.
        if min(most) <= MOST**DOUBLINGS * min(least) + 0.002:
            return
    raise AssertionError(
        f"{min(least):.4f} s for an input, {min(most):.4f} s for {1 << DOUBLINGS} times as much"
    )
