"""The cache of agents."""

from typing import Any

import pytest

from sansio_letta.proxy.memory import AgentMemory
from sansio_letta.turn.agent import Agent


def agent(number: int = 1, name: str = "Milo", **more: Any) -> Agent:
    return Agent(**{"id": f"agent-{number}", "name": name, "agent_type": "letta_v1_agent", **more})


def test_nothing_is_recalled_that_was_not_remembered() -> None:
    assert AgentMemory(60, 10).recall("Milo", 0) is None


@pytest.mark.parametrize(
    ("now", "known"),
    [(100, True), (159.9, True), (160, False), (1000, False)],
    ids=["at once", "a moment before the end", "at the end", "long after"],
)
def test_an_agent_is_remembered_for_a_while(now: float, known: bool) -> None:
    memory = AgentMemory(60, 10)
    memory.remember("Milo", agent(), 100)
    assert memory.recall("Milo", now) == (agent() if known else None)


def test_a_name_is_exact() -> None:
    memory = AgentMemory(60, 10)
    memory.remember("Milo", agent(), 0)
    assert memory.recall("milo", 0) is None
    assert memory.recall("agent-1", 0) is None


def test_what_is_found_again_is_remembered_anew() -> None:
    memory = AgentMemory(60, 10)
    memory.remember("Milo", agent(1), 0)
    memory.remember("Milo", agent(2), 50)
    assert memory.recall("Milo", 70) == agent(2)


def test_a_memory_without_time_remembers_nothing() -> None:
    memory = AgentMemory(0, 10)
    memory.remember("Milo", agent(), 5)
    assert memory.recall("Milo", 5) is None


def test_the_oldest_is_dropped_beyond_the_limit() -> None:
    memory = AgentMemory(60, 2)
    for number, name in enumerate(("a", "b", "a", "c")):
        memory.remember(name, agent(number, name), 0)
    assert [memory.recall(name, 0) is not None for name in "abc"] == [True, False, True]


def test_an_agent_is_forgotten_under_all_its_names() -> None:
    memory = AgentMemory(60, 10)
    memory.remember("Milo", agent(1), 0)
    memory.remember("agent-1", agent(1), 0)
    memory.remember("Ada", agent(2, "Ada"), 0)
    memory.forget("agent-1")
    assert [memory.recall(name, 0) for name in ("Milo", "agent-1", "Ada")] == [None, None, agent(2, "Ada")]


def test_an_unknown_agent_can_be_forgotten() -> None:
    memory = AgentMemory(60, 10)
    memory.remember("Milo", agent(1), 0)
    memory.forget("agent-2")
    assert memory.recall("Milo", 0) == agent(1)
