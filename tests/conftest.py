"""How much is tried. What is left out is deselected, and counted as such.

`THOROUGH=1` tries all of the matrix, not its representatives alone. `PART=2/4` is the second of four parts, by
whole files, for runs that have no time for all of them.
"""

import os
from collections import Counter

import pytest

from support import THOROUGH


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this run is not for."""
    if not THOROUGH:
        leave_out(config, items, {item for item in items if item.get_closest_marker("matrix")})
    if part := os.environ.get("PART"):
        number, _, count = part.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise pytest.UsageError(f"PART: expected something like 2/4, got {part!r}")
        mine = part_of(Counter(item.path.name for item in items), int(number) - 1, int(count))
        leave_out(config, items, {item for item in items if item.path.name not in mine})


def leave_out(config: pytest.Config, items: list[pytest.Item], others: set[pytest.Item]) -> None:
    """Deselect some."""
    if others:
        config.hook.pytest_deselected(items=[item for item in items if item in others])
        items[:] = [item for item in items if item not in others]


def part_of(sizes: Counter[str], number: int, count: int) -> set[str]:
    """Of files with so many tests those of one part; all parts have about as many tests."""
    loads, parts = [0] * count, [set[str]() for _ in range(count)]
    for name, size in sorted(sizes.items(), key=lambda file: (-file[1], file[0])):
        lightest = loads.index(min(loads))
        loads[lightest] += size
        parts[lightest].add(name)
    return parts[number]
