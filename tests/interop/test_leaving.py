"""Clients that disconnect: the run is cancelled by its id, and the agent answers the next request."""

import asyncio
from typing import Any

import pytest
import trio
from openai import APITimeoutError, AsyncOpenAI

from drive import DONE, PING, RUN_ID, say, stop
from live.asking import FORMS, PAIR, STREAMED, Form, ask, async_client, attempt, sync_client, user
from sansio_letta.upstreams.rest.commands import CancelRun, OpenStream
from server.scripted import hello, runs
from support import matrix

from .serving import RunningServer
from .standin import StandInAgent, StandInLetta

SHORT = 0.5  #: seconds between bytes, long enough for an answer to begin on a busy machine


@pytest.fixture
def agent(letta: StandInLetta) -> StandInAgent:
    """An agent that says one word and then nothing for ever; its second run is well."""
    return letta.add(runs(PING, say("Hel"), trio.Event()), hello())


def request(agent: StandInAgent, *, stream: bool) -> dict[str, Any]:
    return {"model": agent.name, "messages": [user("hi")], "stream": stream}


def check_cancelled(url: str, agent: StandInAgent, form: Form) -> None:
    """Make sure that the run was cancelled, once, and that the next request works."""
    cancel = agent.saw(CancelRun)
    assert (cancel.agent_id, cancel.run_id) == (agent.id, RUN_ID)
    answer = ask(url, form, agent.name, "still there?")
    assert (answer.text, answer.finish_reason) == ("Hello", "stop")
    kinds = [type(command) for command in agent.commands]
    assert kinds[1:] == [OpenStream, CancelRun, OpenStream]
    assert agent.texts == ["hi", "still there?"]


def test_in_mid_stream(url: str, agent: StandInAgent) -> None:
    with sync_client(url) as client:
        create: Any = client.chat.completions.create
        stream = create(**request(agent, stream=True))
        assert next(stream).choices[0].delta.role == "assistant"
        assert next(stream).choices[0].delta.content == "Hel"
        stream.close()
        check_cancelled(url, agent, "sync-stream")


def test_through_the_helper(url: str, agent: StandInAgent) -> None:
    with sync_client(url) as client:
        helper: Any = client.chat.completions.stream
        with helper(model=agent.name, messages=[user("hi")]) as stream:
            for event in stream:
                if event.type == "content.delta" and event.delta == "Hel":
                    break
        check_cancelled(url, agent, "sync")


def test_in_mid_stream_async(url: str, agent: StandInAgent) -> None:
    async def main(client: AsyncOpenAI) -> None:
        create: Any = client.chat.completions.create
        async with client, await create(**request(agent, stream=True)) as stream:
            async for chunk in stream:
                if chunk.choices[0].delta.content == "Hel":
                    break

    asyncio.run(main(async_client(url)))
    check_cancelled(url, agent, "async-stream")


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_cancelled_task(url: str, agent: StandInAgent, stream: bool) -> None:
    async def read(client: AsyncOpenAI) -> None:
        create: Any = client.chat.completions.create
        async for _ in await create(**request(agent, stream=stream)):
            pass

    async def main(client: AsyncOpenAI) -> None:
        async with client:
            reading = asyncio.ensure_future(read(client))
            await asyncio.to_thread(agent.saw, OpenStream)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading

    asyncio.run(main(async_client(url)))
    check_cancelled(url, agent, "async")


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_timeout(url: str, agent: StandInAgent, form: Form) -> None:
    answer = attempt(url, form, agent.name, "hi", timeout=SHORT)
    assert type(answer.error) is APITimeoutError
    assert answer.text == ("Hel" if form in STREAMED else "")
    check_cancelled(url, agent, form)


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_before_the_run_has_a_name(url: str, server: RunningServer, letta: StandInLetta, form: Form) -> None:
    """The name comes when the client has left already; the run is cancelled by it all the same."""
    gate = trio.Event()
    agent = letta.add(runs(gate, PING, say("Hel"), trio.Event()), hello())
    answer = attempt(url, form, agent.name, "hi", timeout=SHORT)
    assert type(answer.error) is APITimeoutError
    server.settle()
    assert [type(command) for command in agent.commands[1:]] == [OpenStream]
    server.set(gate)
    check_cancelled(url, agent, form)


@pytest.mark.parametrize("form", matrix(STREAMED, *PAIR))
def test_after_the_end_nothing_is_cancelled(
    url: str, server: RunningServer, letta: StandInLetta, form: Form
) -> None:
    agent = letta.add(runs(PING, say("Hel"), stop(), DONE, trio.Event()))
    assert ask(url, form, agent.name, "hi").text == "Hel"
    server.settle()
    assert not [command for command in agent.commands if isinstance(command, CancelRun)]


def test_others_are_undisturbed(url: str, server: RunningServer, letta: StandInLetta) -> None:
    gate = trio.Event()
    staying = letta.add(runs(PING, say("Hel"), gate, say("lo"), stop(), DONE))
    leaving = letta.add(runs(PING, say("Hel"), trio.Event()), hello())
    with sync_client(url) as client:
        create: Any = client.chat.completions.create
        with create(**request(staying, stream=True)) as stream:
            texts = [next(stream).choices[0].delta.content for _ in range(2)]
            attempt(url, "sync", leaving.name, "hi", timeout=SHORT)
            check_cancelled(url, leaving, "sync")
            server.set(gate)
            texts += [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(texts) == "Hello"
