"""Attached client tools, seen from the connection: what waits for them to be detached."""

from typing import Any

import orjson
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from drive import DONE, PING, USAGE, agent_json, say, stop
from legacy_letta import calling, name_of, stopped_by
from letta_server import TurnSettings
from letta_server.server import Server, sweep, sweep_periodically
from sansio_letta.turn.request import Tool
from sansio_letta.upstreams.rest.commands import (
    CancelRun,
    ChangeToolbox,
    DeleteTool,
    FetchToolbox,
    FindAgent,
    FindConversations,
    FindRuns,
    FindToolboxes,
    FindTools,
    MakeTool,
    SearchTools,
)

from .scripted import Piece, RawClient, Script, ask, cancelled, hello, make_server, runs

TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {}}}
MADE: dict[str, Any] = {
    "id": "tool-1",
    "name": name_of(Tool(name="f", parameters={})),
    "tags": ["letta-proxy-client-tools"],
}
AGENT = agent_json() | {"agent_type": "memgpt_v2_agent", "tools": [], "tool_rules": [], "tags": []}


def says(command: type[Any], value: object, heading: Piece | None = None) -> Script:
    return Script(command, [orjson.dumps(value)], heading=heading)


def found() -> Script:
    return says(FindAgent, [AGENT])


def given() -> list[Script]:
    before = says(FindRuns, [])
    return [
        before,
        says(FetchToolbox, AGENT),
        says(FindTools, []),
        says(MakeTool, MADE),
        says(ChangeToolbox, AGENT),
    ]


def cleaned(gate: trio.Event) -> list[Script]:
    """What is asked behind an answer; the first question waits."""
    looks = [says(FindToolboxes, []), says(SearchTools, [MADE]), Script(DeleteTool)]
    return [says(FetchToolbox, AGENT, heading=gate), *looks]


def with_attached(command: Any) -> dict[str, Any]:
    """The agent as it was changed to be."""
    assert isinstance(command, ChangeToolbox)
    return AGENT | {"tools": [MADE], "tags": list(command.toolbox.tags)}


def connect(nursery: trio.Nursery, server: Server) -> tuple[RawClient, trio.abc.Stream]:
    client, handled = memory_stream_pair()
    nursery.start_soon(server.handle, handled)
    return RawClient(client), client


async def test_an_answer_is_whole_before_all_is_clean(nursery: trio.Nursery) -> None:
    gate = trio.Event()
    server, letta = make_server(found(), *given(), hello(), *cleaned(gate))
    client, _ = connect(nursery, server)
    await client.send(ask(tools=[TOOL]))
    assert (await client.receive()).body.endswith(b"data: [DONE]\n\n")
    await wait_all_tasks_blocked()
    # The next request of the connection comes behind it.
    letta.script += [says(FindRuns, []), hello()]
    await client.send(ask(stream=False))
    await wait_all_tasks_blocked()
    assert type(letta.commands[-1]) is FetchToolbox
    gate.set()
    assert (await client.receive()).json()["choices"][0]["message"]["content"] == "Hello"


async def test_a_client_that_goes_with_its_answer_leaves_all_clean(nursery: trio.Nursery) -> None:
    gate = trio.Event()
    server, letta = make_server(found(), *given(), hello(), *cleaned(gate))
    client, stream = connect(nursery, server)
    await client.send(ask(tools=[TOOL]))
    await client.receive()
    await stream.aclose()
    await wait_all_tasks_blocked()
    gate.set()
    await letta.saw(DeleteTool)


async def test_a_turn_that_takes_too_long_has_time_to_clean_up(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    silent = runs(PING, 3600.0, say("Late."), stop(), USAGE, DONE)
    server, letta = make_server(
        found(), *given(), silent, cancelled(), turns=TurnSettings(turn_timeout=5.0), letta_timeout=9999.0
    )
    client, _ = connect(nursery, server)
    await client.send(ask(tools=[TOOL]))
    change = await letta.saw(ChangeToolbox)
    letta.script += [
        says(FetchToolbox, with_attached(change), heading=2.0),
        says(ChangeToolbox, AGENT, heading=2.0),
    ]
    letta.script += [
        says(FindToolboxes, [], heading=2.0),
        says(SearchTools, [MADE], heading=2.0),
        Script(DeleteTool),
    ]
    assert (await client.receive()).json()["error"]["code"] == "turn_timeout"
    await letta.saw(CancelRun)
    deleted = await letta.saw(DeleteTool)
    assert deleted == DeleteTool(tool_id="tool-1")


async def test_a_server_looks_for_what_was_forgotten(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    def looks(*tools: dict[str, Any]) -> list[Script]:
        return [says(FindRuns, []), says(FindToolboxes, []), says(SearchTools, tools)]

    young = MADE | {"tags": ["letta-proxy-client-tools", "letta-proxy-client-tools until 99999999999"]}
    server, letta = make_server(
        *looks(young), says(FindConversations, []), turns=TurnSettings(client_tool_ttl=60.0)
    )
    nursery.start_soon(sweep_periodically, server)
    await wait_all_tasks_blocked()
    # Another process, or one that was here before, has made it: it is of use until it expires.
    assert not letta.script
    letta.script += [*looks(young), says(FindConversations, [])]
    await trio.sleep(61.0)
    assert not letta.script
    letta.script += [*looks(MADE), Script(DeleteTool), says(FindConversations, [])]
    await trio.sleep(60.0)
    assert not letta.script


async def test_a_server_that_ends_deletes_what_it_has_made(nursery: trio.Nursery) -> None:
    gate = trio.Event()
    gate.set()
    young = ["letta-proxy-client-tools", "letta-proxy-client-tools until 99999999999"]
    theirs = {"id": "tool-2", "name": name_of(Tool(name="g", parameters={})), "tags": young}
    listed = [MADE | {"tags": young}, theirs]
    server, letta = make_server(found(), *given(), hello(), *cleaned(gate)[:2], says(SearchTools, listed))
    client, _ = connect(nursery, server)
    await client.send(ask(tools=[TOOL]))
    await client.receive()
    await letta.saw(SearchTools)
    await wait_all_tasks_blocked()
    assert server.proxy.has_made_tools
    letta.script += [says(FindRuns, []), says(FindToolboxes, []), says(SearchTools, listed), Script(DeleteTool)]
    letta.script += [says(FindConversations, [])]
    await sweep(server, ends=True)
    assert not letta.script
    assert [command for command in letta.commands if isinstance(command, DeleteTool)] == [
        DeleteTool(tool_id="tool-1")
    ]


async def test_a_call_has_the_clients_own_name(nursery: trio.Nursery) -> None:
    run = runs(*stopped_by(calling("call-1", MADE["name"], '{"a": 1, "request_heartbeat": true}')))
    server, _ = make_server(found(), *given(), run, says(FetchToolbox, AGENT))
    client, _ = connect(nursery, server)
    await client.send(ask(stream=False, tools=[TOOL]))
    [call] = (await client.receive()).json()["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": '{"a": 1}'}
