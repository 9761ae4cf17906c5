"""Histories of clients in front of a real Letta: what `tests/ledger` proves of the core, bounded."""

from collections.abc import Iterator
from random import Random
from typing import Final

import pytest
from attrs import evolve

from ledger.core import WHOLE, Ending, How
from ledger.examples import HISTORIES
from ledger.explore import History, draw_history, told
from ledger.histories import Do, Step, World
from live.ledger_side import LiveSide
from live.letta_api import Agent, LettaApi
from sansio_letta import Config

#: Seeds of drawn histories, and how many of the steps of each are played.
SEEDS: Final = (1, 2, 3)
STEP_COUNT: Final = 4
#: What the scripted model says again in the same words, so that a part of it tells nothing.
SAYS_AGAIN: Final = (Do.NUDGE, Do.REGENERATE, Do.RETRY)


@pytest.fixture
def side(letta: LettaApi, agent: Agent) -> Iterator[LiveSide]:
    """Two processes of the proxy that do not wait a minute for a call's result."""
    with LiveSide(letta, agent, Config(pending_call_timeout=1.0)).serving() as side:
        yield side


def draw(seed: int) -> History:
    """Draw a short history without what only a model of Letta can do."""
    habits, steps = draw_history(Random(seed))
    return habits, tuple(map(_possible, steps[:STEP_COUNT]))


def _possible(step: Step) -> Step:
    if step.ending.how in (How.LOST, How.FAILED):
        step = evolve(step, ending=Ending(how=How.STOPPED, at=step.ending.at))
    return evolve(step, ending=WHOLE) if step.do in SAYS_AGAIN else step


@pytest.mark.parametrize("name", HISTORIES)
def test_the_agent_hears_each_message_once(side: LiveSide, name: str) -> None:
    habits, steps = HISTORIES[name]
    World(side, habits).play(steps)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_in_histories_that_are_drawn(side: LiveSide, seed: int) -> None:
    history = draw(seed)
    print(told(history))
    World(side, history[0]).play(history[1])
