"""The command itself: its output, its probes, its shutdown, and a Letta server that comes and goes."""

import json

import pytest
from openai import APIError, APIStatusError

from live.asking import ask, attempt, fetch, sync_client
from live.letta_api import Agent, LettaApi
from live.proxy import Proxy, serving
from live.relay import relaying
from live.rig import Rig, free_port


def test_what_is_printed(rig: Rig, agent: Agent, proxy: Proxy) -> None:
    assert proxy.base_url in proxy.startup
    printed = "\n".join(proxy.lines)
    assert rig.url in printed
    assert "agent" in printed


def test_probes(proxy: Proxy) -> None:
    for path in ("/health", "/ready"):
        response = fetch(proxy.root_url, "GET", path)
        assert response.status == 200
        assert response.headers["content-type"].startswith("application/json")
        json.loads(response.body)


@pytest.mark.parametrize("_time", range(3))
def test_the_end_comes_in_mid_turn(rig: Rig, letta: LettaApi, agent: Agent, _time: int) -> None:
    """The client learns of it, and nothing goes on at Letta; thrice, for what ends first may be chance."""
    with serving(rig.url, "--shutdown-timeout", "0.5") as proxy, sync_client(proxy.base_url) as client:
        stream = client.chat.completions.create(
            model=agent.name, messages=[{"role": "user", "content": "slow 0.25\nwords 120"}], stream=True
        )
        with stream:
            next(stream)
            proxy.terminate()
            with pytest.raises(APIError) as caught:
                list(stream)
        # An error event, and not a connection that was cut: the type is one that no client repeats.
        assert type(caught.value) is APIError
        assert (caught.value.type, caught.value.code) == ("upstream_error", "shutting_down")
        assert proxy.wait() == 0
    assert [run["status"] for run in letta.ended_runs(agent, timeout=6.0)] == ["cancelled"]


def test_a_turn_that_is_short_enough_finishes_after_sigterm(rig: Rig, letta: LettaApi, agent: Agent) -> None:
    with serving(rig.url) as proxy, sync_client(proxy.base_url) as client:
        stream = client.chat.completions.create(
            model=agent.name, messages=[{"role": "user", "content": "slow 0.1\nwords 20"}], stream=True
        )
        with stream:
            next(stream)
            proxy.terminate()
            chunks = list(stream)
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert proxy.wait() == 0
    assert any("ends once 1 turn has finished" in line for line in proxy.lines)
    assert [run["status"] for run in letta.ended_runs(agent, timeout=6.0)] == ["completed"]


def test_the_second_signal_ends_at_once(rig: Rig, letta: LettaApi, agent: Agent) -> None:
    with serving(rig.url) as proxy, sync_client(proxy.base_url) as client:
        stream = client.chat.completions.create(
            model=agent.name, messages=[{"role": "user", "content": "slow 0.25\nwords 120"}], stream=True
        )
        with stream:
            next(stream)
            proxy.terminate()
            while not any("Ctrl-C or SIGTERM again" in line for line in proxy.lines):
                next(stream)
            proxy.terminate()
            with pytest.raises(APIError) as caught:
                list(stream)
        assert caught.value.code == "shutting_down"
        assert proxy.wait() == 0
    assert [run["status"] for run in letta.ended_runs(agent, timeout=6.0)] == ["cancelled"]


def test_letta_comes_later(rig: Rig, agent: Agent) -> None:
    with relaying(rig.url, free_port()) as relay, serving(relay.url) as proxy:
        assert fetch(proxy.root_url, "GET", "/health").status == 200
        assert fetch(proxy.root_url, "GET", "/ready").status == 503
        for path in ("/models", f"/models/{agent.name}"):
            response = fetch(proxy.base_url, "GET", path)
            assert response.status in (502, 503)
            assert response.error["type"] == "server_error"
        error = attempt(proxy.base_url, "sync-stream", agent.name, "say Hello.").error
        assert isinstance(error, APIStatusError)
        assert error.status_code in (502, 503)

        relay.open()
        assert ask(proxy.base_url, "sync-stream", agent.name, "say Hello.", max_retries=2).text == "Hello."
        assert fetch(proxy.root_url, "GET", "/ready").status == 200

        relay.close()
        error = attempt(proxy.base_url, "sync-stream", agent.name, "say Hello?").error
        assert isinstance(error, APIStatusError)
        relay.open()
        assert ask(proxy.base_url, "sync-stream", agent.name, "say Hello!", max_retries=2).text == "Hello!"
