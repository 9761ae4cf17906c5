"""Which tests run. The others are deselected, and pytest counts them as such.

`THOROUGH=1` runs the whole matrix rather than its representatives. `PART=2/4` runs the second of four parts, by
whole files, if there is no time for all of them.
"""

import os
from collections import Counter

import pytest

from support import THOROUGH


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests according to `THOROUGH` and `PART`."""
    if not THOROUGH:
        leave_out(config, items, {item for item in items if item.get_closest_marker("matrix")})
    if part := os.environ.get("PART"):
        number, _, count = part.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise pytest.UsageError(f"PART: expected something like 2/4, got {part!r}")
        mine = part_of(Counter(item.path.name for item in items), int(number) - 1, int(count))
        leave_out(config, items, {item for item in items if item.path.name not in mine})


def leave_out(config: pytest.Config, items: list[pytest.Item], others: set[pytest.Item]) -> None:
    """Deselect these items."""
    if others:
        config.hook.pytest_deselected(items=[item for item in items if item in others])
        items[:] = [item for item in items if item not in others]


def part_of(sizes: Counter[str], number: int, count: int) -> set[str]:
    """Return the files of one part, such that all parts have about the same number of tests."""
    loads, parts = [0] * count, [set[str]() for _ in range(count)]
    for name, size in sorted(sizes.items(), key=lambda file: (-file[1], file[0])):
        lightest = loads.index(min(loads))
        loads[lightest] += size
        parts[lightest].add(name)
    return parts[number]
