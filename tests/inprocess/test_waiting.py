"""Two requests to one agent wait for each other, in one thread of the program or in several."""

import threading
from typing import Any

import anyio
import orjson
import pytest

from drive import DONE, PING, RUN_ID, USAGE, encode, say, stop
from inprocess.kit import (
    KITS,
    Hold,
    Kit,
    Script,
    asynchronously,
    cancelled,
    everywhere,
    found,
    hello,
    runs,
    text_of,
)
from sansio_letta import Config

SECOND: dict[str, Any] = {"messages": [{"role": "user", "content": "and?"}]}
PATIENCE = 30.0  # seconds until something that should have happened has not


@everywhere
async def test_in_one_thread_the_second_is_refused_while_the_first_is_open(kit: Kit) -> None:
    client = kit.client(kit.letta(found(), hello(), hello()), config=Config(queue_timeout=0.0))
    first = await client.ask()
    second = await client.ask(**SECOND)
    assert (second.status, second.headers["retry-after"]) == (409, "5")
    assert orjson.loads(await second.read())["error"]["code"] == "agent_busy"
    assert text_of(await first.read()) == "Hello"
    assert text_of(await client.answer(**SECOND)) == "Hello"


@everywhere
async def test_a_first_that_was_closed_is_in_nobodys_way(kit: Kit) -> None:
    client = kit.client(kit.letta(found(), runs(PING, say("x")), cancelled(), hello()))
    first = await client.ask()
    await first.close()
    assert text_of(await client.answer(**SECOND)) == "Hello"


@asynchronously
async def test_in_another_task_the_second_waits_for_the_first(kit: Kit) -> None:
    hold = Hold()
    letta = kit.letta(found(), runs(PING, say("x"), hold, stop(), USAGE, DONE), hello())
    client, said = kit.client(letta, config=Config(queue_timeout=PATIENCE)), list[str]()

    async def ask(name: str, **more: Any) -> None:
        body = await client.answer(**more)
        said.append(f"{name} {text_of(body)}")

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(ask, "first")
            await hold.reached.wait()
            group.start_soon(lambda: ask("second", **SECOND))
            await anyio.wait_all_tasks_blocked()
            assert len(letta.targets) == 2
            hold.release.set()
    assert said == ["first x", "second Hello"]


@pytest.mark.parametrize("kit", [kit for kit in KITS if kit.is_sync], ids=str)
def test_in_another_thread_the_second_waits_for_the_first(kit: Kit) -> None:
    order, tick = list[str](), threading.Event()

    def go_on() -> None:
        while client.transport._proxy.waiting_count == 0:
            tick.wait(0.01)
        order.append("first ends")

    letta = kit.letta(found(), runs(PING, say("x"), go_on, stop(), USAGE, DONE), hello())
    client = kit.client(letta, config=Config(queue_timeout=PATIENCE))

    async def second() -> None:
        assert text_of(await client.answer(**SECOND)) == "Hello"
        order.append("second ends")

    async def first() -> None:
        reply = await client.ask()
        assert text_of(await reply.next()) == "x"
        thread = threading.Thread(target=kit.run, args=(second,))
        thread.start()
        await reply.read()
        thread.join(PATIENCE)
        assert not thread.is_alive()

    kit.run(first)
    assert order == ["first ends", "second ends"]


@asynchronously
async def test_a_repeat_waits_for_its_turn_and_gets_what_came_of_it(kit: Kit) -> None:
    """It does not listen meanwhile: who drives both in one thread would wait for himself."""
    hold = Hold()
    kept = {"id": "m1", "message_type": "assistant_message", "content": "Hello", "run_id": RUN_ID}
    letta = kit.letta(
        found(),
        runs(PING, encode(say("Hel")), hold, say("lo"), stop(), USAGE, DONE),
        Script(
            "GET",
            f"/v1/runs/{RUN_ID}",
            [orjson.dumps({"id": RUN_ID, "status": "completed", "stop_reason": "end_turn"})],
        ),
        Script("GET", f"/v1/runs/{RUN_ID}/messages?limit=1000&order=asc", [orjson.dumps([kept])]),
        Script("GET", f"/v1/runs/{RUN_ID}/usage", [orjson.dumps({"prompt_tokens": 1})]),
    )
    client, said = kit.client(letta, config=Config(queue_timeout=PATIENCE)), list[str]()

    async def ask() -> None:
        said.append(text_of(await client.answer()))

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await hold.reached.wait()
            group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            assert said == []
            hold.release.set()
    assert said == ["Hello", "Hello"]
    assert letta.script == []
