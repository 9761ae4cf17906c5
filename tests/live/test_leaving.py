"""Clients that disconnect early: their runs are cancelled in Letta, and the agent continues to work."""

import asyncio
import json
import socket
import time
from urllib.parse import urlsplit

import pytest
from openai import APITimeoutError

from live.asking import FORMS, Form, ask, async_client, attempt, sync_client, user
from live.conftest import MakeAgent
from live.letta_api import Agent, LettaApi

LONG = "slow 0.25\nwords 120"  # half a minute
LATE = "wait 8\nsay Late."  # longer than any client of these tests stays


def check_cancelled(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    """Make sure that the one run was cancelled, and that the agent answers the next request."""
    letta.wait_for_run(agent)
    assert [run["status"] for run in letta.ended_runs(agent, timeout=6.0)] == ["cancelled"]
    answer = ask(url, form, agent.name, "say Welcome back.")
    assert (answer.text, answer.finish_reason) == ("Welcome back.", "stop")
    assert letta.user_texts(agent)[-1] == "say Welcome back."


def test_in_mid_stream(url: str, letta: LettaApi, agent: Agent) -> None:
    with sync_client(url) as client:
        stream = client.chat.completions.create(
            model=agent.name, messages=[{"role": "user", "content": LONG}], stream=True
        )
        with stream:
            got = [next(stream) for _ in range(4)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in got).startswith("w0 w1")
    check_cancelled(url, letta, agent, "sync-stream")


@pytest.mark.parametrize("form", FORMS)
def test_the_next_request_works_at_once(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    """It waits for the end of the run that nobody reads, and no longer."""
    with sync_client(url) as client:
        stream = client.chat.completions.create(
            model=agent.name, messages=[{"role": "user", "content": LONG}], stream=True
        )
        with stream:
            next(stream)
    began = time.monotonic()
    assert ask(url, form, agent.name, "say Next.").text == "Next."
    assert time.monotonic() - began < 10.0
    assert [run["status"] for run in letta.ended_runs(agent)] == ["cancelled", "completed"]
    assert letta.user_texts(agent)[-1] == "say Next."


def test_in_mid_stream_async(url: str, letta: LettaApi, agent: Agent) -> None:
    async def main() -> None:
        async with async_client(url) as client:
            stream = await client.chat.completions.create(
                model=agent.name, messages=[{"role": "user", "content": LONG}], stream=True
            )
            async with stream:
                async for chunk in stream:
                    if "w2" in (chunk.choices[0].delta.content or ""):
                        break

    asyncio.run(main())
    check_cancelled(url, letta, agent, "async-stream")


@pytest.mark.parametrize("form", FORMS)
def test_before_the_first_token(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    answer = attempt(url, form, agent.name, LATE, timeout=1.5)
    assert isinstance(answer.error, APITimeoutError)
    assert answer.chunks == []
    check_cancelled(url, letta, agent, form)
    assert letta.user_texts(agent) == ["say Welcome back."]  # the first step never ended: nothing was kept


@pytest.mark.parametrize("form", ["sync", "async-stream"])
def test_the_sdk_repeats_after_its_timeout(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    """Each request ends its own run in the first step, so that nothing is said to the agent twice."""
    answer = attempt(url, form, agent.name, LATE, timeout=1.2, max_retries=1)
    assert isinstance(answer.error, APITimeoutError)
    assert answer.request_count == 2
    runs = letta.ended_runs(agent, timeout=6.0)
    assert {run["status"] for run in runs} == {"cancelled"}
    assert letta.history(agent) == []


@pytest.mark.parametrize("form", ["sync", "async"])
def test_while_a_whole_answer_is_made(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    assert isinstance(attempt(url, form, agent.name, LONG, timeout=2.5).error, APITimeoutError)
    check_cancelled(url, letta, agent, form)


def test_a_cancelled_task(url: str, letta: LettaApi, agent: Agent) -> None:
    async def main() -> None:
        async with async_client(url) as client:
            asking = asyncio.ensure_future(
                client.chat.completions.create(model=agent.name, messages=[{"role": "user", "content": LATE}])
            )
            await asyncio.to_thread(letta.wait_for_run, agent)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    asyncio.run(main())
    check_cancelled(url, letta, agent, "async")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_at_once(url: str, letta: LettaApi, agent: Agent, make_agent: MakeAgent, stream: bool) -> None:
    """Gone before Letta has named the run: what was started there does not go on for its half minute."""
    address = urlsplit(url)
    body = json.dumps({"model": agent.name, "messages": [user(LONG)], "stream": stream}).encode()
    head = (
        f"POST {address.path}/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((str(address.hostname), address.port or 80)) as connection:
        connection.sendall(head.encode() + body)
    neighbour = make_agent(f"{agent.name}-neighbour")  # by its answer a run of ours has begun, if ever
    assert ask(url, "sync", neighbour.name, "say Hello.").text == "Hello."
    statuses = [run["status"] for run in letta.ended_runs(agent, timeout=6.0)]
    assert statuses in ([], ["cancelled"])
    assert ask(url, "sync", agent.name, "say Welcome.").text == "Welcome."


def test_others_are_undisturbed(url: str, letta: LettaApi, agent: Agent, make_agent: MakeAgent) -> None:
    neighbour = make_agent(f"{agent.name}-neighbour")
    with sync_client(url) as client:
        stream = client.chat.completions.create(
            model=agent.name, messages=[{"role": "user", "content": "slow 0.1\nwords 20"}], stream=True
        )
        texts = []
        with stream:
            for chunk in stream:
                texts.append(chunk.choices[0].delta.content or "")
                if len(texts) == 3:
                    left = attempt(url, "sync-stream", neighbour.name, LATE, timeout=0.8)
                    assert isinstance(left.error, APITimeoutError)
    assert "".join(texts) == " ".join(f"w{number}" for number in range(20))
    check_cancelled(url, letta, neighbour, "sync")
