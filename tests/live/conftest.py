"""Fixtures of the live tests: a real Letta server, a real `letta-proxy serve` process, agents.

Run them with ``pytest tests/live``. A rig that is up already is used as it is, else it is started for this run
and stopped afterwards; `rig.py` says where it lives and how to move it.
"""

import contextlib
import itertools
import os
from collections.abc import Generator, Iterator
from typing import Protocol

import openai
import pytest

from live.letta_api import Agent, LettaApi
from live.proxy import SHORT_WAIT, Proxy, serving, started
from live.rig import LETTA_VERSION, Rig, RigError, from_environment, running

TAG = "live-test"  #: of agents that go when their test ends
LEFT_BEHIND = 3_600.0  #: seconds; older ones are of a run that was broken off, younger ones may be in use


class MakeAgent(Protocol):
    """Creates an agent of a name; by default of the type that Letta gives whoever does not ask."""

    def __call__(
        self, name: str, *, agent_type: str | None = None, enable_sleeptime: bool = False
    ) -> Agent: ...


_line_counts = pytest.StashKey[dict[Proxy, int]]()
_numbers = itertools.count(1)


def pytest_report_header() -> str:
    """Name what these tests run against."""
    rig = from_environment()
    return f"live: Letta {LETTA_VERSION} at {rig.url} in {rig.root}, openai {openai.__version__}"


@pytest.fixture(scope="session")
def rig() -> Iterator[Rig]:
    """A running Letta V1 server with its scripted model."""
    with contextlib.ExitStack() as stack:
        try:
            rig = stack.enter_context(running(from_environment()))
        except RigError as exc:
            pytest.exit(f"the live tests need a Letta server, and it cannot run: {exc}", returncode=1)
        yield rig


@pytest.fixture(scope="session")
def letta(rig: Rig) -> LettaApi:
    """Letta itself, past the proxy."""
    letta = LettaApi(url=rig.url, model_url=rig.model_url)
    for agent in letta.old_agents(TAG, LEFT_BEHIND):
        letta.delete_agent(agent)
    return letta


@pytest.fixture(scope="session")
def proxy(rig: Rig) -> Iterator[Proxy]:
    """The proxy most tests share; it must end well when they are done."""
    with serving(rig.url, *SHORT_WAIT) as proxy:
        yield proxy


@pytest.fixture
def url(proxy: Proxy) -> str:
    """The base URL that clients are given."""
    return proxy.base_url


@pytest.fixture
def make_agent(letta: LettaApi) -> Iterator[MakeAgent]:
    """Create agents of given names, deleted after the test."""
    with contextlib.ExitStack() as stack:

        def make(name: str, *, agent_type: str | None = None, enable_sleeptime: bool = False) -> Agent:
            agent = letta.create_agent(name, TAG, agent_type=agent_type, enable_sleeptime=enable_sleeptime)
            stack.callback(letta.delete_agent, agent)
            return agent

        yield make


@pytest.fixture
def agent(make_agent: MakeAgent) -> Agent:
    """A new agent, with a name nobody else has."""
    return make_agent(f"live-{os.getpid()}-{next(_numbers)}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember where the output of each proxy stands before the test."""
    item.stash[_line_counts] = {proxy: len(proxy.lines) for proxy in started}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failed test what the proxies printed during it."""
    report = yield
    if report.failed:
        before = item.stash.get(_line_counts, {})
        for proxy in started:
            if printed := proxy.lines[before.get(proxy, 0) :]:
                report.sections.append((f"letta-proxy at {proxy.base_url}", "\n".join(printed)))
    return report
