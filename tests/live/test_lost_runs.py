"""Abandoned runs with a real Letta server: many clients that disconnect, and a proxy that is killed."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai import APITimeoutError

from live.asking import sync_client
from live.letta_api import Agent, LettaApi
from live.proxy import serving
from live.rig import Rig

LONG = "slow 1\nwords 150"
CROWD_COUNT = 18
#: The rig names the runs of a crowd one after the other.
CROWD_TIMEOUT = 90.0
CANCEL_TIMEOUT = 10.0  # for which the proxy waits for Letta's answers to its cancels


def test_a_crowd_that_leaves_before_its_runs_are_named(url: str, letta: LettaApi, agent: Agent) -> None:
    """Each in a conversation of its own; Letta takes longer to name the runs than a cancel may take."""

    def ask_and_leave(number: int) -> None:
        headers = {"X-Letta-Chat-Key": f"crowd-{number}"}
        with sync_client(url, timeout=8.0) as client, pytest.raises(APITimeoutError):
            client.chat.completions.create(
                model=agent.name, messages=[{"role": "user", "content": LONG}], extra_headers=headers
            )

    with ThreadPoolExecutor(CROWD_COUNT) as crowd:
        list(crowd.map(ask_and_leave, range(CROWD_COUNT)))
    statuses = {run["status"] for run in letta.ended_runs(agent, timeout=CROWD_TIMEOUT)}
    assert statuses <= {"cancelled"}
    time.sleep(CANCEL_TIMEOUT)


def test_what_a_killed_proxy_leaves_is_ended_by_the_next(rig: Rig, letta: LettaApi, agent: Agent) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(AssertionError))  # it does not end well
        proxy = stack.enter_context(serving(rig.url))
        client = stack.enter_context(sync_client(proxy.base_url))
        next(
            client.chat.completions.create(
                model=agent.name, messages=[{"role": "user", "content": LONG}], stream=True
            )
        )
        proxy.process.kill()
        proxy.process.wait()
    time.sleep(1.0)
    assert [run["status"] for run in letta.runs(agent)] == ["running"]
    with serving(rig.url):
        assert [run["status"] for run in letta.ended_runs(agent)] == ["cancelled"]
