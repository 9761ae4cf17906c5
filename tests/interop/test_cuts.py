"""Letta's stream cut anywhere: the client gets the whole answer or an error, never a silent end."""

import asyncio
from typing import Any, Final

import orjson
import pytest
from openai import APIError, APIStatusError

from drive import DONE, PING, RUN_ID, SSE, TOOL_RETURN, USAGE, encode, say, server_call, stop, think, want
from letta_server import UpstreamError
from live.asking import TOOLS, Answer, async_client, sync_client, user
from sansio_letta.events import CancelRun, Failure, OpenStream
from server.scripted import Script

from .asking import post
from .standin import StandInAgent, StandInLetta

MESSAGES: Final[list[dict[str, Any] | str]] = [
    PING,
    think("Hm. 😀"),
    say("Let me "),
    say("see: é"),
    server_call("call-9", "search", "{}"),
    PING,
    TOOL_RETURN,
    want("call-1", "get_weather", '{"city": '),
    want("call-1", None, '"Rome"}'),
    want("call-2", "read_file", None),
    stop("requires_approval"),
    USAGE,
    DONE,
]
BODY: Final = b"".join(map(encode, MESSAGES))
#: The end of each message and the bytes around it, and some places within.
ENDS: Final = [len(b"".join(map(encode, MESSAGES[:count]))) for count in range(len(MESSAGES) + 1)]
CUTS: Final = sorted(
    {end + by for end in ENDS for by in (-1, 0, 1) if 0 <= end + by <= len(BODY)} | set(range(0, len(BODY), 41))
)

TEXT, REASONING = "Let me see: é", "Hm. 😀"
CALLS: Final = [("call-1", "get_weather", '{"city": "Rome"}'), ("call-2", "read_file", "{}")]

ENDINGS: Final[dict[str, bytes | UpstreamError]] = {
    "ends": b"",
    "breaks": UpstreamError(Failure.BROKEN, "connection reset by peer"),
}
ending = pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS.keys())


def cut_agent(letta: StandInLetta, at: int, ending: bytes | UpstreamError) -> StandInAgent:
    """An agent whose run is cut there. One read brings all that was sent before."""
    return letta.add(Script(OpenStream, [*([BODY[:at]] if at else []), ending], headers=list(SSE)))


def request(agent: StandInAgent, *, stream: bool) -> dict[str, Any]:
    return {"model": agent.name, "messages": [user("hi")], "tools": TOOLS, "stream": stream}


def check(answer: Answer, agent: StandInAgent, at: int) -> None:
    """Whole, or an error with what came before it; and in either case nothing was said twice."""
    where = f"cut at {at}"
    calls = [(call.id, call.name, call.arguments) for call in answer.calls]
    if answer.error is None:
        assert (answer.text, answer.reasoning, calls) == (TEXT, REASONING, CALLS), where
        assert answer.finish_reason == "tool_calls", where
        assert at >= ENDS[11], f"{where}: the run had not stopped"  # the stop reason was there
    else:
        assert at < ENDS[11], f"{where}: the run had stopped"
        assert TEXT.startswith(answer.text), where
        assert REASONING.startswith(answer.reasoning), where
        assert calls == [
            (id, name, got)
            for (id, name, whole), (_, _, got) in zip(CALLS, calls, strict=False)
            if got in whole
        ], where
        assert answer.finish_reason is None, where
        assert answer.error.type == "upstream_error", where
        assert answer.error.code == "upstream_error", where
    assert agent.texts == ["hi"], where


@ending
def test_streamed(letta: StandInLetta, url: str, ending: bytes | UpstreamError) -> None:
    with sync_client(url, max_retries=2) as client:
        for at in CUTS:
            agent, answer = cut_agent(letta, at, ending), Answer()
            try:
                create: Any = client.chat.completions.create
                with create(**request(agent, stream=True)) as stream:
                    for chunk in stream:
                        answer.add_chunk(chunk)
            except APIError as exc:
                answer.error = exc
            check(answer, agent, at)


@ending
def test_streamed_async(letta: StandInLetta, url: str, ending: bytes | UpstreamError) -> None:
    async def main() -> None:
        async with async_client(url, max_retries=2) as client:
            for at in CUTS:
                agent, answer = cut_agent(letta, at, ending), Answer()
                try:
                    create: Any = client.chat.completions.create
                    async with await create(**request(agent, stream=True)) as stream:
                        async for chunk in stream:
                            answer.add_chunk(chunk)
                except APIError as exc:
                    answer.error = exc
                check(answer, agent, at)

    asyncio.run(main())


@ending
def test_whole(letta: StandInLetta, url: str, ending: bytes | UpstreamError) -> None:
    with sync_client(url, max_retries=2) as client:
        for at in CUTS:
            agent, answer = cut_agent(letta, at, ending), Answer()
            try:
                create: Any = client.chat.completions.create
                answer.add_completion(create(**request(agent, stream=False)))
            except APIStatusError as exc:
                answer.error = exc
                assert exc.status_code == 424, f"cut at {at}"
                assert exc.response.headers["x-should-retry"] == "false"
            check(answer, agent, at)


@ending
def test_bytes(letta: StandInLetta, url: str, ending: bytes | UpstreamError) -> None:
    """The last event says how it ended: [DONE], or an error; or there is a status and no stream at all."""
    for at in CUTS:
        response = post(url, cut_agent(letta, at, ending).name, tools=TOOLS)
        if response.status != 200:
            assert at < ENDS[2], f"cut at {at}"  # before the first message that is not a ping
            assert (response.status, response.error["type"]) == (424, "upstream_error")
            continue
        *events, last, rest = response.body.split(b"\n\n")
        assert rest == b""
        assert all(b'"error"' not in event and b"[DONE]" not in event for event in events), f"cut at {at}"
        if last != b"data: [DONE]":
            assert set(orjson.loads(last.removeprefix(b"data: "))) == {"error"}, f"cut at {at}"


@ending
def test_run_that_nobody_reads_is_cancelled(
    letta: StandInLetta, url: str, ending: bytes | UpstreamError
) -> None:
    """Letta may go on with a run whose stream broke: it is ended, as soon as it is known by name."""
    for at in CUTS:
        agent = cut_agent(letta, at, ending)
        post(url, agent.name, tools=TOOLS)
        cancels = [command for command in agent.commands if isinstance(command, CancelRun)]
        expected = ENDS[1] <= at < ENDS[11]
        assert [cancel.run_id for cancel in cancels] == ([RUN_ID] if expected else []), f"cut at {at}"
