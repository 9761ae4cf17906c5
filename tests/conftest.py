"""How much is tried: without `THOROUGH=1` the rest of the matrix is deselected, and counted as such."""

import pytest

from support import THOROUGH


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the matrix out, but for its representatives."""
    if THOROUGH:
        return
    left_out = [item for item in items if item.get_closest_marker("matrix")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("matrix")]
