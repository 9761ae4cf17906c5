"""A bug that the server logs fails the test, whatever its client received."""

from collections.abc import Iterator

import pytest
import structlog
from trio.testing import MockClock


@pytest.fixture(autouse=True)
def no_defect() -> Iterator[None]:
    """Nothing is logged as an error."""
    with structlog.testing.capture_logs() as logged:
        yield
    defects = [entry for entry in logged if entry["log_level"] == "error"]
    assert not defects, defects


@pytest.fixture
def patient_clock() -> MockClock:
    """A virtual clock that jumps once nothing has happened for 20 ms: longer than loopback takes."""
    return MockClock(autojump_threshold=0.02)
