"""Letta's stream cut anywhere: the client gets the complete answer or an error, never a silent end."""

import asyncio
from enum import Enum
from typing import Any, Final

import orjson
import pytest
from openai import APIError, APIStatusError

from drive import DONE, PING, RUN_ID, SSE, TOOL_RETURN, USAGE, encode, say, server_call, stop, think, want
from faults import keeping
from letta_server import UpstreamError
from live.asking import TOOLS, Answer, async_client, sync_client, user
from sansio_letta.errors import Failure
from sansio_letta.upstreams.rest.commands import CancelRun, OpenStream
from server.scripted import Script
from support import THOROUGH

from .asking import post
from .standin import StandInAgent, StandInLetta

MESSAGES: Final[list[dict[str, Any] | str]] = [
    PING,
    think("Hm. 😀"),
    say("Let me "),
    say("see: é"),
    server_call("call-9", "search", "{}"),
    PING,
    TOOL_RETURN | {"tool_call_id": "call-9", "status": "success"},
    want("call-1", "get_weather", '{"city": '),
    want("call-1", None, '"Rome"}'),
    want("call-2", "read_file", None),
    stop("requires_approval"),
    USAGE,
    DONE,
]
BODY: Final = b"".join(map(encode, MESSAGES))
#: The end of each message and the bytes around it, and in thorough runs some places within.
ENDS: Final = [len(b"".join(map(encode, MESSAGES[:count]))) for count in range(len(MESSAGES) + 1)]
CUTS: Final = sorted(
    {end + by for end in ENDS for by in (-1, 0, 1) if 0 <= end + by <= len(BODY)}
    | (set(range(0, len(BODY), 41)) if THOROUGH else set())
)

TEXT, REASONING = "Let me see: é", "Hm. 😀"
CALLS: Final = [("call-1", "get_weather", '{"city": "Rome"}'), ("call-2", "read_file", "{}")]

BROKE: Final = UpstreamError(Failure.BROKEN, "connection reset by peer")


class Fate(Enum):
    """What becomes of the run, and what Letta tells of it."""

    GOES_ON = "goes on"  #: to its end, without a reader
    DIES = "dies"  #: with Letta's process; its books have the steps that had ended
    UNTOLD = "untold"


#: How the connection ends, and the run.
ENDINGS: Final[dict[str, tuple[bytes | UpstreamError, Fate]]] = {
    "ends, goes on": (b"", Fate.GOES_ON),
    "breaks, dies": (BROKE, Fate.DIES),
    "ends, untold": (b"", Fate.UNTOLD),
    "breaks, untold": (BROKE, Fate.UNTOLD),
}
ending = pytest.mark.parametrize(("ending", "fate"), ENDINGS.values(), ids=ENDINGS.keys())
#: Letta is asked what became of a run that it has named, until nothing can change its end.
NAMED, SETTLED, KEPT = ENDS[1], ENDS[12], ENDS[6]


def cut_agent(letta: StandInLetta, at: int, ending: bytes | UpstreamError, fate: Fate) -> StandInAgent:
    """An agent whose run is cut there. One read brings all that was sent before."""
    agent = letta.add()
    script = keeping.Script(items=tuple(map(encode, MESSAGES)))
    if fate is not Fate.UNTOLD:
        script = script.renamed(f"run-{agent.id.removeprefix('agent-')}")
        agent.book = keeping.Run(keeping.KeepingAgent(agent.id, agent.name, script), script, ["hi"])
        agent.book.come_to(at)
        if fate is Fate.GOES_ON:
            agent.book.go_on()
        else:
            agent.book.die()
    agent.runs.append(Script(OpenStream, [*([script.body[:at]] if at else []), ending], headers=list(SSE)))
    return agent


def request(agent: StandInAgent, *, stream: bool) -> dict[str, Any]:
    return {"model": agent.name, "messages": [user("hi")], "tools": TOOLS, "stream": stream}


def is_whole(at: int, fate: Fate) -> bool:
    """Whether the client gets the whole answer."""
    return at >= (SETTLED if fate is Fate.UNTOLD else ENDS[10] + 1 if fate is Fate.DIES else NAMED)


def check(answer: Answer, agent: StandInAgent, at: int, fate: Fate) -> None:
    """Whole, or an error with what came before it; and in either case nothing was said twice."""
    where = f"cut at {at}"
    calls = [(call.id, call.name, call.arguments) for call in answer.calls]
    if is_whole(at, fate):
        assert answer.error is None, where
        assert (answer.text, answer.reasoning, calls) == (TEXT, REASONING, CALLS), where
        assert answer.finish_reason == "tool_calls", where
    else:
        assert answer.error is not None, where
        assert TEXT.startswith(answer.text), where
        assert REASONING.startswith(answer.reasoning), where
        assert calls == [
            (id, name, got)
            for (id, name, whole), (_, _, got) in zip(CALLS, calls, strict=False)
            if got in whole
        ], where
        assert answer.finish_reason is None, where
        assert answer.error.type == error_type(at, fate), where
        assert answer.error.code == "upstream_error", where
    assert agent.texts == ["hi"], where


def error_type(at: int, fate: Fate) -> str:
    """Whether it may be repeated: only if it is known that nothing was kept."""
    return "server_error" if fate is Fate.DIES and NAMED <= at <= KEPT else "upstream_error"


def retries(fate: Fate) -> int:
    """A turn of which nothing was kept may be repeated, which is not what is looked at here."""
    return 0 if fate is Fate.DIES else 2


@ending
def test_streamed(letta: StandInLetta, url: str, ending: bytes | UpstreamError, fate: Fate) -> None:
    with sync_client(url, max_retries=retries(fate)) as client:
        for at in CUTS:
            agent, answer = cut_agent(letta, at, ending, fate), Answer()
            try:
                create: Any = client.chat.completions.create
                with create(**request(agent, stream=True)) as stream:
                    for chunk in stream:
                        answer.add_chunk(chunk)
            except APIError as exc:
                answer.error = exc
            check(answer, agent, at, fate)


@ending
def test_streamed_async(letta: StandInLetta, url: str, ending: bytes | UpstreamError, fate: Fate) -> None:
    async def main() -> None:
        async with async_client(url, max_retries=retries(fate)) as client:
            for at in CUTS:
                agent, answer = cut_agent(letta, at, ending, fate), Answer()
                try:
                    create: Any = client.chat.completions.create
                    async with await create(**request(agent, stream=True)) as stream:
                        async for chunk in stream:
                            answer.add_chunk(chunk)
                except APIError as exc:
                    answer.error = exc
                check(answer, agent, at, fate)

    asyncio.run(main())


@ending
def test_whole(letta: StandInLetta, url: str, ending: bytes | UpstreamError, fate: Fate) -> None:
    with sync_client(url, max_retries=retries(fate)) as client:
        for at in CUTS:
            agent, answer = cut_agent(letta, at, ending, fate), Answer()
            try:
                create: Any = client.chat.completions.create
                answer.add_completion(create(**request(agent, stream=False)))
            except APIStatusError as exc:
                answer.error = exc
                kept = error_type(at, fate) == "upstream_error"
                assert exc.status_code == (424 if kept else 502), f"cut at {at}"
                assert exc.response.headers.get("x-should-retry") == ("false" if kept else None)
            check(answer, agent, at, fate)


@ending
def test_bytes(letta: StandInLetta, url: str, ending: bytes | UpstreamError, fate: Fate) -> None:
    """The last event says how it ended: [DONE], or an error; or there is a status and no stream at all."""
    for at in CUTS:
        response = post(url, cut_agent(letta, at, ending, fate).name, tools=TOOLS)
        if response.status != 200:
            assert at < ENDS[2], f"cut at {at}"  # before the first message that is not a ping
            kept = error_type(at, fate) == "upstream_error"
            expected = (424, "upstream_error") if kept else (502, "server_error")
            assert (response.status, response.error["type"]) == expected
            continue
        *events, last, rest = response.body.split(b"\n\n")
        assert rest == b""
        assert all(b'"error"' not in event and b"[DONE]" not in event for event in events), f"cut at {at}"
        assert (last == b"data: [DONE]") == is_whole(at, fate), f"cut at {at}"
        if last != b"data: [DONE]":
            assert set(orjson.loads(last.removeprefix(b"data: "))) == {"error"}, f"cut at {at}"


@ending
def test_run_that_nobody_reads_is_cancelled(
    letta: StandInLetta, url: str, ending: bytes | UpstreamError, fate: Fate
) -> None:
    """Letta may go on with a run of which it tells nothing: it is ended, as soon as it is known by name."""
    for at in CUTS:
        agent = cut_agent(letta, at, ending, fate)
        post(url, agent.name, tools=TOOLS)
        cancels = [command for command in agent.commands if isinstance(command, CancelRun)]
        expected = fate is Fate.UNTOLD and NAMED <= at < SETTLED
        assert [cancel.run_id for cancel in cancels] == ([RUN_ID] if expected else []), f"cut at {at}"
