"""Fixtures for the programs' tests: the rig, proxy and agents of the live tests, and a working folder."""

from pathlib import Path

import pytest

from clients.programs import Desk
from live.conftest import (
    agent,
    letta,
    make_agent,
    proxy,
    pytest_runtest_makereport,
    pytest_runtest_setup,
    rig,
    url,
)
from live.rig import LETTA_VERSION, Rig, from_environment

__all__ = [
    "agent",
    "letta",
    "make_agent",
    "proxy",
    "pytest_runtest_makereport",
    "pytest_runtest_setup",
    "rig",
    "url",
]


def pytest_report_header() -> str:
    """Name what the programs run against."""
    return f"programs: Letta {LETTA_VERSION} at {from_environment().url}"


@pytest.fixture(scope="session")
def installed(rig: Rig) -> Path:
    """Where programs are installed; they stay there for the next run."""
    return rig.root / "programs"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """An empty desk."""
    return Desk.inside(tmp_path)
