"""Fixtures of the tests with a real App Server, a real `letta-proxy serve` process, and agents.

Run them with ``pytest tests/app_server_live``. A rig that is up already is used as it is, else it is started
for this run and stopped afterwards; `rig.py` says where it lives and how to move it.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator

import openai
import pytest

import live.conftest
from app_server_live.relay import Relay, relaying
from app_server_live.rig import LETTA_VERSION, AppServerRig, from_environment
from app_server_live.server import Agent, AppServer
from live.proxy import SHORT_WAIT, Proxy, serving
from live.rig import RigError, running

# What the proxies printed is shown with a test that failed.
pytest_runtest_setup = live.conftest.pytest_runtest_setup
pytest_runtest_makereport = live.conftest.pytest_runtest_makereport

_numbers = itertools.count(1)


def pytest_report_header() -> str:
    """Name what these tests run against."""
    rig = from_environment()
    return f"live: Letta Code {LETTA_VERSION} at {rig.ws_url} in {rig.root}, openai {openai.__version__}"


@pytest.fixture(scope="session")
def rig() -> Iterator[AppServerRig]:
    """A running App Server with its scripted model."""
    with contextlib.ExitStack() as stack:
        try:
            rig = stack.enter_context(running(from_environment()))
        except RigError as exc:
            pytest.exit(f"these tests need an App Server, and it cannot run: {exc}", returncode=1)
        yield rig


@pytest.fixture(scope="session")
def server(rig: AppServerRig) -> AppServer:
    """The App Server itself, past the proxy."""
    return AppServer(ws_url=rig.ws_url, model_url=rig.model_url)


@pytest.fixture(scope="session")
def proxy(rig: AppServerRig) -> Iterator[Proxy]:
    """The proxy most tests share; it must end well when they are done."""
    with serving(rig.ws_url, *SHORT_WAIT) as proxy:
        yield proxy


@pytest.fixture
def url(proxy: Proxy) -> str:
    """The base URL that clients are given."""
    return proxy.base_url


@pytest.fixture
def agent(server: AppServer) -> Iterator[Agent]:
    """A new agent, with a name nobody else has, deleted after the test."""
    agent = server.create_agent(f"live-{os.getpid()}-{next(_numbers)}")
    yield agent
    server.delete_agent(agent)


@pytest.fixture
def relay(rig: AppServerRig) -> Iterator[Relay]:
    """A relay in front of the server."""
    with relaying(rig.port) as relay:
        yield relay
