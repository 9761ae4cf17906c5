"""A client that disconnects ends its run by its id, at any point, and causes no other requests to Letta."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import anyio
import orjson
import pytest

from drive import AGENT_ID, DONE, PING, RUN_ID, encode, say, stop
from inprocess.kit import (
    CANCEL,
    STREAM,
    Hold,
    Kit,
    Reply,
    Script,
    ScriptedLetta,
    asynchronously,
    cancelled,
    everywhere,
    found,
    hello,
    runs,
    text_of,
)
from letta_inprocess import _drive

PATIENCE = 5.0  # seconds until something that should have happened has not


def check_cancelled(letta: ScriptedLetta) -> None:
    """The run was ended by its id, once, and nothing came after."""
    assert letta.targets[-2:] == [f"POST {STREAM}", f"POST {CANCEL}"]
    assert letta.bodies[-1] == {"run_ids": [RUN_ID]}
    assert letta.script == []


@everywhere
async def test_closing_early(kit: Kit) -> None:
    run = runs(PING, say("one"), say("two"), stop(), DONE)
    letta = kit.letta(found(), run, cancelled())
    reply = await kit.client(letta).ask()
    assert text_of(await reply.next()) == "one"
    await reply.close()
    check_cancelled(letta)
    assert run.closed


@everywhere
async def test_closing_before_the_first_piece_was_read(kit: Kit) -> None:
    letta = kit.letta(found(), runs(PING, say("one"), stop(), DONE), cancelled())
    reply = await kit.client(letta).ask()
    await reply.close()
    check_cancelled(letta)


@everywhere
async def test_closing_twice(kit: Kit) -> None:
    letta = kit.letta(found(), runs(PING, say("one"), stop(), DONE), cancelled())
    reply = await kit.client(letta).ask()
    await reply.close()
    await reply.close()
    check_cancelled(letta)


@everywhere
@pytest.mark.parametrize("stream", [True, False])
async def test_closing_at_the_end_cancels_nothing(kit: Kit, stream: bool) -> None:
    letta = kit.letta(found(), hello())
    reply = await kit.client(letta).ask(stream=stream)
    assert b"Hel" in await reply.read()
    await reply.close()
    assert letta.targets[-1] == f"POST {STREAM}"


@everywhere
async def test_closing_after_done_cancels_nothing(kit: Kit) -> None:
    """As the SDKs do: they stop at [DONE] and close."""
    run = runs(b"".join(encode(item) for item in (PING, say("all"), stop(), DONE)))
    letta = kit.letta(found(), run)
    reply = await kit.client(letta).ask()
    assert (await reply.next()).endswith(b"[DONE]\n\n")
    await reply.close()
    assert letta.targets[-1] == f"POST {STREAM}"
    assert run.closed


@everywhere
async def test_closing_when_the_run_must_be_cancelled_anyway(kit: Kit) -> None:
    """Nonsense behind good words, in one read: the cancelling is under way when the caller closes."""
    nonsense = encode(say("good")) + b"data: {nonsense\n\n"
    letta = kit.letta(found(), runs(PING, nonsense), cancelled())
    reply = await kit.client(letta).ask()
    assert text_of(await reply.next()) == "good"
    await reply.close()
    check_cancelled(letta)


@everywhere
async def test_closing_with_more_already_there(kit: Kit) -> None:
    """An inner transport that does not wait where a socket would, and has some more."""
    run = runs(PING, say("one"), say("two"), say("three"), stop(), DONE, waits=False)
    letta = kit.letta(found(), run, cancelled())
    reply = await kit.client(letta).ask()
    await reply.next()
    await reply.close()
    check_cancelled(letta)
    assert run.closed


@everywhere
async def test_a_run_without_a_name_cannot_be_cancelled(kit: Kit) -> None:
    nameless = {key: value for key, value in say("one").items() if key != "run_id"}
    letta = kit.letta(found(), runs(nameless, stop(), DONE))
    reply = await kit.client(letta).ask()
    await reply.close()
    assert letta.targets[-1] == f"POST {STREAM}"


@everywhere
async def test_a_cancelling_that_fails_is_no_concern_of_the_callers(kit: Kit) -> None:
    refused = kit.library.ConnectError("refused")
    letta = kit.letta(found(), runs(PING, say("one"), stop(), DONE), Script("POST", CANCEL, sending=refused))
    reply = await kit.client(letta).ask()
    await reply.close()
    check_cancelled(letta)


@everywhere
async def test_an_answer_that_cannot_be_closed(kit: Kit) -> None:
    run = runs(PING, say("one"), stop(), DONE, closing=kit.library.ReadError("gone"))
    letta = kit.letta(found(), run)
    assert text_of(await kit.client(letta).answer()) == "one"
    assert run.closed


@everywhere
async def test_a_program_that_is_interrupted_before_the_head(kit: Kit) -> None:
    """KeyboardInterrupt, say: the run is known, the answer has not begun."""

    class Interrupt(BaseException):
        pass

    letta = kit.letta(found(), runs(PING, Interrupt()), cancelled())
    try:
        await kit.client(letta).ask()
    except* Interrupt as caught:  # trio and anyio put what comes out of a task into a group
        assert len(caught.exceptions) == 1
    else:
        raise AssertionError("it was swallowed")
    check_cancelled(letta)


@everywhere
async def test_a_defect_below_ends_the_run_and_is_shown(kit: Kit) -> None:
    letta = kit.letta(found(), runs(PING, RuntimeError("a defect")), cancelled())
    with pytest.raises(RuntimeError, match="a defect"):
        await kit.client(letta).ask()
    check_cancelled(letta)


# --- A task that is cancelled ---------------------------------------------------------------------------------


async def leave(kit: Kit, hold: Hold, work: Coroutine[Any, Any, Any]) -> None:
    """Cancel some work where Letta says nothing, in each library's own way."""
    with anyio.fail_after(PATIENCE):
        if kit.backend == "asyncio":
            task = asyncio.ensure_future(work)
            await hold.reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return
        async with anyio.create_task_group() as group:

            async def run() -> None:
                await work

            group.start_soon(run)
            await hold.reached.wait()
            group.cancel_scope.cancel()


async def read(reply: Reply) -> None:
    """As a client's `stream()` does it."""
    try:
        await reply.read()
    finally:
        await reply.close()


@asynchronously
async def test_cancelled_in_mid_stream(kit: Kit) -> None:
    hold = Hold()
    letta = kit.letta(found(), runs(PING, say("one"), hold), cancelled())
    reply = await kit.client(letta).ask()
    await leave(kit, hold, read(reply))
    check_cancelled(letta)


@asynchronously
@pytest.mark.parametrize("stream", [True, False])
async def test_cancelled_before_the_head(kit: Kit, stream: bool) -> None:
    hold = Hold()
    letta = kit.letta(found(), runs(PING, hold), cancelled())
    await leave(kit, hold, kit.client(letta).ask(stream=stream))
    check_cancelled(letta)


@asynchronously
async def test_cancelled_while_the_agent_is_looked_up(kit: Kit) -> None:
    hold = Hold()
    looking = found()
    looking.sending = hold
    letta = kit.letta(looking)
    await leave(kit, hold, kit.client(letta).ask())
    assert letta.targets == ["GET /v1/agents/?name=Milo&include=agent.tools"]


@asynchronously
@pytest.mark.parametrize("place", ["before the head", "before the ping"])
async def test_cancelled_before_the_run_has_a_name(kit: Kit, place: str) -> None:
    """While the request is on its way, or its answer: the run may go on, so its name is waited for."""
    hold = Hold()
    rest = (PING, say("never read"), stop(), DONE)
    run = runs(*rest, sending=hold) if place == "before the head" else runs(hold, *rest)
    letta = kit.letta(found(), run, cancelled())

    async def ask() -> None:
        await kit.client(letta).ask()

    async with anyio.create_task_group() as group:

        async def answer_late() -> None:
            await hold.reached.wait()
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            assert letta.targets[-1] == f"POST {STREAM}"
            hold.release.set()

        group.start_soon(answer_late)
        await leave(kit, hold, ask())
    check_cancelled(letta)


@asynchronously
async def test_a_name_is_not_waited_for_for_ever(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_drive, "_CANCEL_TIMEOUT", 0.01)
    hold = Hold()
    letta = kit.letta(found(), runs(PING, sending=hold))
    await leave(kit, hold, kit.client(letta).ask())
    assert (letta.targets[-1], letta.search_count) == (f"POST {STREAM}", 1)


@asynchronously
async def test_a_run_that_is_not_named_in_time_is_looked_for(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_drive, "_CANCEL_TIMEOUT", 1.0)
    hold = Hold()
    letta = kit.letta(found(), runs(PING, sending=hold))

    async def list_and_cancel() -> None:
        await hold.reached.wait()
        mark = letta.bodies[-1]["assistant_message_tool_kwarg"]
        run = {
            "id": RUN_ID,
            "agent_id": AGENT_ID,
            "status": "created",
            "request_config": {"assistant_message_tool_kwarg": mark},
        }
        listing = f"/v1/runs/?agent_id={AGENT_ID}&limit=100"
        letta.script += [Script("GET", listing, [orjson.dumps([run])]), cancelled()]

    async with anyio.create_task_group() as group:
        group.start_soon(list_and_cancel)
        await leave(kit, hold, kit.client(letta).ask())
    assert letta.targets[-1] == f"POST {CANCEL}"
    assert letta.bodies[-1] == {"run_ids": [RUN_ID]}


@asynchronously
async def test_cancelling_is_not_waited_for_for_ever(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_drive, "_CANCEL_TIMEOUT", 0.01)
    letta = kit.letta(found(), runs(PING, say("one"), stop(), DONE), Script("POST", CANCEL, sending=Hold()))
    reply = await kit.client(letta).ask()
    await reply.close()
    check_cancelled(letta)


@asynchronously
async def test_cancelled_while_the_run_is_being_cancelled(kit: Kit) -> None:
    """Letta talks nonsense, so its run is ended; the caller leaves meanwhile: it is ended all the same."""
    hold = Hold()
    letta = kit.letta(
        found(),
        runs(PING, say("one"), b"data: {nonsense\n\n"),
        Script("POST", CANCEL, sending=hold),
        cancelled(),
    )
    reply = await kit.client(letta).ask()
    await leave(kit, hold, read(reply))
    check_cancelled_again(letta)


def check_cancelled_again(letta: ScriptedLetta) -> None:
    assert letta.targets[-2:] == [f"POST {CANCEL}"] * 2
    assert letta.bodies[-1] == {"run_ids": [RUN_ID]}
    assert AGENT_ID in CANCEL


@asynchronously
async def test_a_time_limit_of_the_callers(kit: Kit) -> None:
    # The time is up once Letta has been asked, however slow the machine is.
    if kit.backend == "asyncio":
        limit = asyncio.timeout(None)
        letta = kit.letta(found(), runs(PING, lambda: limit.reschedule(0.0), Hold()), cancelled())
        with pytest.raises(TimeoutError):
            async with limit:
                await kit.client(letta).ask()
    else:
        scope = anyio.CancelScope()
        letta = kit.letta(found(), runs(PING, lambda: setattr(scope, "deadline", 0.0), Hold()), cancelled())
        with scope:
            await kit.client(letta).ask()
        assert scope.cancelled_caught
    check_cancelled(letta)
