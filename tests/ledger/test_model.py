"""The agent hears what its clients show, once, whatever becomes of their requests."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import support
from ledger.core import WHOLE, CoreSide, Ending, How
from ledger.examples import HISTORIES
from ledger.explore import DEEDS, WORDS
from ledger.histories import Habits, Shows, Step, World
from ledger.letta import Pace

assert support

ENDINGS = st.one_of(
    st.just(WHOLE),
    st.just(WHOLE),
    st.builds(
        Ending,
        how=st.sampled_from([How.STOPPED, How.STOPPED, How.LOST, How.FAILED]),
        at=st.integers(0, 8),
        pace=st.sampled_from(list(Pace)),
    ),
)
STEPS = st.builds(
    Step,
    do=st.sampled_from(DEEDS),
    client=st.integers(0, 1),
    replica=st.sampled_from([0, 0, 0, 1]),
    word=st.sampled_from(WORDS),
    ending=ENDINGS,
    shows=st.sampled_from(list(Shows)),
    count=st.integers(1, 4),
    is_counted=st.booleans(),
)
HABITS = st.builds(
    Habits,
    key=st.sampled_from([None, None, "chat-1"]),
    keeps_answers=st.sampled_from([True, True, True, False]),
    hides_calls=st.booleans(),
    renames_calls=st.sampled_from([False, False, True]),
    greets=st.booleans(),
    counts=st.booleans(),
    sends_parts=st.booleans(),
)


# Always the same histories: for others there is `explore`.
@settings(derandomize=True)
@given(st.lists(HABITS, min_size=1, max_size=2), st.lists(STEPS, max_size=12))
def test_the_agent_hears_each_message_once(habits: list[Habits], steps: list[Step]) -> None:
    World(CoreSide(), tuple(habits)).play(steps)


@pytest.mark.parametrize("name", HISTORIES)
def test_the_same_in_a_history_of_each_kind(name: str) -> None:
    habits, steps = HISTORIES[name]
    World(CoreSide(), habits).play(steps)
