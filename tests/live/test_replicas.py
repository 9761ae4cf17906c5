"""Several proxies behind nginx, as documented: they share nothing but Letta."""

import contextlib
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from attrs import frozen
from openai import APIError

from live.asking import FORMS, TOOLS, Form, Message, ask, fetch, sync_client, user
from live.balancer import balancing
from live.conftest import MakeAgent
from live.letta_api import Agent, LettaApi
from live.proxy import Proxy, serving
from live.rig import Rig, free_port
from live.test_tools import ONE_CALL, quoted_results

PATIENCE = 10.0  # seconds until a line of the log must be there


@frozen(kw_only=True)
class Replicas:
    """Proxies, and the address in front of them."""

    url: str
    proxies: tuple[Proxy, ...]

    def that_works(self) -> Proxy:
        """The one that has a stream open, by its metrics."""
        [busy] = [proxy for proxy in self.proxies if open_streams(proxy) == 1]
        return busy

    def that_answered(self, request_id: str) -> Proxy:
        """Which of them it was, by its log."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for proxy in self.proxies:
                if any(request_id in line for line in proxy.lines):
                    return proxy
            assert time.monotonic() < deadline, f"no log has {request_id}"
            time.sleep(0.02)


def open_streams(proxy: Proxy) -> float:
    [address] = [found[0] for line in proxy.lines if (found := re.search(r"http://\S+(?=/metrics)", line))]
    page = fetch(address, "GET", "/metrics").body.decode()
    [line] = [line for line in page.splitlines() if line.startswith("letta_proxy_open_streams ")]
    return float(line.split()[1])


@pytest.fixture
def replicas(rig: Rig, tmp_path: Path) -> Iterator[Replicas]:
    with contextlib.ExitStack() as stack:
        proxies = tuple(stack.enter_context(mortal(rig)) for _ in range(2))
        ports = [port_of(proxy) for proxy in proxies]
        url = stack.enter_context(balancing(tmp_path, ports))
        yield Replicas(url=f"{url}/v1", proxies=proxies)


def port_of(proxy: Proxy) -> int:
    return int(proxy.root_url.rpartition(":")[2])


@contextlib.contextmanager
def mortal(rig: Rig) -> Iterator[Proxy]:
    """A proxy that the test may kill."""
    killed = False
    try:
        with serving(rig.url, "--metrics-port", "0") as proxy:
            yield proxy
            killed = proxy.process.poll() == -signal.SIGKILL
    except AssertionError:
        if not killed:
            raise


def kill(proxy: Proxy) -> None:
    proxy.process.kill()
    proxy.process.wait()


@pytest.mark.parametrize("form", FORMS)
def test_a_call_begun_with_one_is_finished_by_the_other(
    replicas: Replicas, letta: LettaApi, agent: Agent, form: Form
) -> None:
    with sync_client(replicas.url) as client:
        began = client.chat.completions.with_raw_response.create(
            model=agent.name,
            messages=[{"role": "user", "content": ONE_CALL}],
            tools=[{"type": "function", "function": {"name": "get_weather"}}],
        )
        reply = began.parse().choices[0].message
    first = replicas.that_answered(began.headers["x-request-id"])
    assert reply.tool_calls is not None
    [call] = reply.tool_calls
    kill(first)

    history: list[Message] = [user(ONE_CALL), reply.model_dump(exclude_none=True)]
    history.append({"role": "tool", "tool_call_id": call.id, "content": "18 C, sunny"})
    answer = ask(replicas.url, form, agent.name, history, tools=TOOLS)
    assert quoted_results(answer.text) == ["18 C, sunny"]
    assert answer.finish_reason == "stop"
    assert letta.user_texts(agent) == [ONE_CALL]
    assert letta.tool_returns(agent) == [(call.id, "18 C, sunny", "success")]
    # And so it stays, whichever of the two nginx means.
    for number in range(4):
        assert ask(replicas.url, form, agent.name, f"say Still {number}.").text == f"Still {number}."


def test_a_replica_killed_in_mid_turn_is_an_error_and_the_other_goes_on(
    replicas: Replicas, letta: LettaApi, agent: Agent
) -> None:
    with sync_client(replicas.url) as client:
        raw = client.chat.completions.with_raw_response.create(
            model=agent.name, messages=[{"role": "user", "content": "slow 0.1\nwords 30"}], stream=True
        )
        busy = replicas.that_works()
        with raw.parse() as stream, pytest.raises(APIError):
            next(stream)
            kill(busy)
            list(stream)
    # Nobody was left to cancel the run: it goes on to its end, and is kept.
    assert [run["status"] for run in letta.ended_runs(agent)] == ["completed"]
    assert ask(replicas.url, "sync-stream", agent.name, "say Hello again.").text == "Hello again."
    assert letta.user_texts(agent) == ["slow 0.1\nwords 30", "say Hello again."]


def test_a_restart_of_all_is_noticed_by_nobody(rig: Rig, tmp_path: Path, make_agent: MakeAgent) -> None:
    agents = [make_agent(f"restart-{number}") for number in range(3)]
    over = threading.Event()

    def talk(agent: Agent) -> int:
        count = 0
        while not over.is_set():
            count += 1
            said = ask(url, "sync-stream", agent.name, f"slow 0.02\nsay Word {count}.")
            assert (said.text, said.finish_reason) == (f"Word {count}.", "stop")
        return count

    with contextlib.ExitStack() as stack:
        ports = [free_port(), free_port()]
        running = [stack.enter_context(serving(rig.url, port=port)) for port in ports]
        url = stack.enter_context(balancing(tmp_path, ports)) + "/v1"
        pool = stack.enter_context(ThreadPoolExecutor(len(agents)))
        stack.callback(over.set)
        talks = [pool.submit(talk, agent) for agent in agents]
        for port, old in zip(ports, running, strict=True):
            old.terminate()
            assert old.wait() == 0
            stack.enter_context(serving(rig.url, port=port))
        over.set()
        assert all(each.result() > 1 for each in talks)
