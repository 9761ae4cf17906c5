"""Fixtures for the tests of client libraries, and how to run them."""

import importlib.metadata
from collections.abc import Iterator
from typing import Final

import pytest

from clients_inprocess.peer import LETTA_URL, PROXY_URL, Peer

LIBRARIES: Final = (
    "openai",
    "httpx",
    "httpx2",
    "langchain-openai",
    "litellm",
    "openai-agents",
    "pydantic-ai-slim",
)


def pytest_report_header() -> str:
    """Name what these tests run with, and against."""
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    way = f"through {PROXY_URL}" if PROXY_URL else "in-process"
    return f"{way}, against {LETTA_URL or 'recordings'}: {', '.join(found)}"


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A Letta for one test; its agents go with it."""
    peer = Peer()
    yield peer
    for agent in peer.agents:
        peer.api.delete_agent(agent)
