"""Which of a client's instructions a thread is given, and what of one that has changed."""

import pytest

from sansio_letta.config import InstructionPolicy
from sansio_letta.turn.ledger import ROOT, digest
from sansio_letta.turn.request import Instructions, KnownInstructions, Mark, SystemMessage


def given(*texts: str, known: KnownInstructions | None = None) -> Instructions:
    messages = tuple(SystemMessage(content=text, mark=Mark(digest("system", text), ROOT)) for text in texts)
    return Instructions(messages=messages, policy=InstructionPolicy.ONCE, known=known or KnownInstructions())


def after(*texts: str, lines: bool = True) -> KnownInstructions:
    """What a thread knows that has been given these."""
    before = given(*texts)
    return KnownInstructions(digests=before.digests, lines=before.lines if lines else frozenset())


def new(*texts: str, known: KnownInstructions) -> list[str]:
    return [message.content for message in given(*texts, known=known).new]


PROMPT = "You control a house.\nBe brief.\nNever open the door.\nLamps: off.\nThe time is {}."
CHANGED = "[These lines of your instructions have changed. They now read:]\n"


def test_what_is_known_is_not_given_again() -> None:
    assert new("Be kind.", "Be brief.", known=after("Be kind.", "Be brief.")) == []
    assert new("Be kind.", "Be brief.", known=after("Be kind.")) == ["Be brief."]


def test_a_line_that_changes_does_not_repeat_the_rest() -> None:
    assert new(PROMPT.format("12:00"), known=after(PROMPT.format("11:59"))) == [f"{CHANGED}The time is 12:00."]


def test_what_was_given_in_part_is_known_as_a_whole() -> None:
    message = given(PROMPT.format("12:00"), known=after(PROMPT.format("11:59"))).new[0]
    assert message.mark is not None
    assert message.mark.content == digest("system", PROMPT.format("12:00"))


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("Be kind.", "Be brief."),
        (PROMPT.format("1"), "You control a house.\nBe long.\nOpen the door.\nLamps: on.\nThe time is 1."),
        (PROMPT.format("1"), PROMPT.format("2").replace("Never open the door.\n", "")),
    ],
    ids=["a line alone", "most lines", "a line is gone"],
)
def test_it_is_given_whole_if_it_is_short_or_has_changed_much(before: str, now: str) -> None:
    assert new(now, known=after(before)) == [now]


def test_without_the_lines_it_is_given_whole() -> None:
    text = PROMPT.format("12:00")
    assert new(text, known=after(PROMPT.format("11:59"), lines=False)) == [text]


def test_lines_without_number_are_not_remembered() -> None:
    assert given("\n".join(map(str, range(3000)))).lines == frozenset()
