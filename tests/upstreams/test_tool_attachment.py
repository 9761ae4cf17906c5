"""Attach, detach and sweep tools: lists of several pages, and many tools at once."""

from typing import Any

import pytest

from legacy_letta import NOW, answer_of, name_of
from sansio_letta.turn.request import Tool
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.attached_tools import MARK, Stamp, offer_attached, tool_tags
from sansio_letta.upstreams.rest.commands import (
    PAGE_COUNT,
    ChangeToolbox,
    DeleteTool,
    FindToolboxes,
    FindTools,
    SearchTools,
)
from sansio_letta.upstreams.rest.tool_attachment import CreatedTools, ToolAttachment, sweep_tools

TOOLS = tuple(Tool(name=f"f{number}", parameters={}) for number in range(PAGE_COUNT + 1))


def tool(number: int, until: int = NOW) -> dict[str, Any]:
    return {"id": f"tool-{number}", "name": name_of(TOOLS[number]), "tags": tool_tags(until)}


def agent(number: int, *tools: dict[str, Any], until: int = NOW) -> dict[str, Any]:
    tags = [MARK, Stamp(until=until, owner="t").tag]
    return {"id": f"agent-{number}", "tools": list(tools), "tool_rules": None, "tags": tags}


def test_many_tools_are_looked_up_with_several_commands() -> None:
    attachment = ToolAttachment(
        agent_id="agent-1",
        tools=offer_attached(TOOLS, adds_arguments=True),
        stamp=Stamp(until=NOW + 300, owner="t"),
        now=NOW,
    )
    steps = attachment.attach()
    steps.send(None)
    first = steps.send(answer_of(agent(1)))
    assert isinstance(first, FindTools)
    assert len(first.names) == 100
    assert len(first.target) < 8000
    second = steps.send(answer_of([tool(number, NOW + 1) for number in range(100)]))
    assert second == FindTools(names=(name_of(TOOLS[100]),))
    change = steps.send(answer_of([tool(100, NOW + 1)]))
    assert isinstance(change, ChangeToolbox)
    assert [given.id for given in change.toolbox.tools] == [f"tool-{number}" for number in range(101)]


def test_lists_are_read_to_their_end() -> None:
    cleaning = sweep_tools(NOW)
    assert cleaning.send(None) == FindToolboxes(tag=MARK)
    page = [agent(number, tool(0), until=NOW + 1) for number in range(PAGE_COUNT)]
    assert cleaning.send(answer_of(page)) == FindToolboxes(tag=MARK, after="agent-99")
    last = cleaning.send(answer_of([agent(100, tool(1), until=NOW)]))
    assert isinstance(last, ChangeToolbox)
    assert last.toolbox == letta.Toolbox(agent_id="agent-100", tools=(), rules=(), tags=())
    assert cleaning.send(answer_of(agent(100))) == SearchTools(text="client_")
    page = [tool(number) for number in range(PAGE_COUNT)]
    assert cleaning.send(answer_of(page)) == SearchTools(text="client_", after="tool-99")
    deleted = [cleaning.send(answer_of([tool(100)]))]
    for _ in range(99):
        deleted.append(cleaning.send(answer_of(None)))
    # The first is still attached to an agent.
    assert deleted == [DeleteTool(tool_id=f"tool-{number}") for number in range(1, 101)]
    with pytest.raises(StopIteration):
        cleaning.send(answer_of(None))


def test_a_list_that_repeats_itself_ends() -> None:
    cleaning = sweep_tools(NOW)
    cleaning.send(None)
    page = [agent(number, until=NOW + 1) for number in range(PAGE_COUNT)]
    cleaning.send(answer_of(page))
    assert cleaning.send(answer_of(page)) == SearchTools(text="client_")


@pytest.mark.parametrize("answer", [None, answer_of({"detail": "no"}, 500), answer_of("odd"), answer_of([{}])])
def test_nothing_is_deleted_while_it_is_unknown_which_agents_have_it(answer: Any) -> None:
    cleaning = sweep_tools(NOW, names=[name_of(TOOLS[0])])
    cleaning.send(None)
    with pytest.raises(StopIteration):
        cleaning.send(answer)


def test_an_agent_that_could_not_be_changed_keeps_its_tools() -> None:
    cleaning = sweep_tools(NOW)
    cleaning.send(None)
    cleaning.send(answer_of([agent(1, tool(1))]))
    assert cleaning.send(answer_of({"detail": "no"}, 500)) == SearchTools(text="client_")
    assert cleaning.send(answer_of([tool(1), tool(2)])) == DeleteTool(tool_id="tool-2")


def test_named_tools_are_deleted_before_they_expire_if_no_agent_has_them() -> None:
    cleaning = sweep_tools(NOW, names=[name_of(TOOLS[0]), name_of(TOOLS[1])])
    cleaning.send(None)
    cleaning.send(answer_of([agent(1, tool(1, NOW + 9), until=NOW + 9)]))
    page = [tool(number, NOW + 9) for number in range(3)]
    assert cleaning.send(answer_of(page)) == DeleteTool(tool_id="tool-0")
    with pytest.raises(StopIteration):
        cleaning.send(answer_of(None))


def test_of_many_tools_the_oldest_is_forgotten() -> None:
    made = CreatedTools(max_count=2)
    for name in ("a", "b", "a", "c"):
        made.add(name, NOW, scope=name)
    assert made.names(NOW - 1) == {"a", "c"}
    assert [made.have_expired(name, NOW) for name in "abc"] == [True, False, True]


def test_tools_have_expired_with_the_last_and_are_deleted_once() -> None:
    made = CreatedTools()
    made.add("a", NOW + 9, scope="x")
    made.add("b", NOW, scope="x")
    made.forget_expired("x", NOW + 8)
    assert (made.have_expired("x", NOW + 8), made.have_expired("x", NOW + 9)) == (False, True)
    assert not made.have_expired("y", NOW + 9)
    made.forget_expired("x", NOW + 9)
    assert not made.have_expired("x", NOW + 9)


def test_a_process_deletes_at_its_end_what_it_has_made_and_may_be_there() -> None:
    made = CreatedTools()
    assert not made
    made.add("a", NOW + 9, scope="x")
    made.add("b", NOW, scope="y")
    assert made
    assert [made.names(NOW - 1), made.names(NOW), made.names(NOW + 9)] == [{"a", "b"}, {"a"}, set()]


def test_targets() -> None:
    assert FindToolboxes(tag=MARK, after="agent-1").target == (
        f"/v1/agents/?tags={MARK}&limit=100&after=agent-1&include=agent.tools&include=agent.tags"
    )
    assert FindTools(names=("a", "b")).target == "/v1/tools/?names=a&names=b&limit=2"
    assert SearchTools(text="client_").target == "/v1/tools/?search=client_&order=asc&limit=100"
