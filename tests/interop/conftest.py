"""Fixtures of the conformance tests: one server for all, and agents of its own for each."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from openai._base_client import BaseClient

from sansio_letta import Summary

from .serving import RunningServer, serving
from .standin import StandInLetta


@pytest.fixture(scope="package")
def running() -> Iterator[RunningServer]:
    """The server that all tests of this package share; those of failures have one that never pauses."""
    with serving(StandInLetta()) as running:
        yield running


@pytest.fixture(scope="package")
def no_authorities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder without certificates: reading all that a machine trusts takes longer than most tests."""
    return tmp_path_factory.mktemp("authorities")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, no_authorities: Path) -> None:
    """No proxy comes between client and server, and no certificates are read for addresses without TLS."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_DIR", str(no_authorities))
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)


@pytest.fixture(autouse=True)
def server(running: RunningServer) -> Iterator[RunningServer]:
    """The server, with a Letta without agents; a defect that it logs fails the test."""
    with structlog.testing.capture_logs() as logged:
        yield running
        running.settle()
    running.letta.reset()
    running.served.clear()
    defects = [entry for entry in logged if entry["log_level"] == "error"]
    assert not defects, defects


@pytest.fixture
def letta(server: RunningServer) -> StandInLetta:
    """Letta, as the test arranges it."""
    return server.letta


@pytest.fixture
def url(server: RunningServer) -> str:
    """The base URL that clients are given."""
    return server.base_url


@pytest.fixture
def served(server: RunningServer) -> list[Summary]:
    """What the server logged; call `settle` first."""
    return server.served


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the SDK wanted to wait before each repeat; it does not wait at all."""
    pauses: list[float] = []
    calculate: Callable[..., float] = BaseClient._calculate_retry_timeout

    def note(*args: object, **more: object) -> float:
        pauses.append(calculate(*args, **more))
        return 0.0

    monkeypatch.setattr(BaseClient, "_calculate_retry_timeout", note)
    return pauses
