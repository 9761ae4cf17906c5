"""How well a conversation fits a transcript."""

from typing import Any

import orjson
import pytest

from drive import say, want
from sansio_letta import RemoteProtocolError
from sansio_letta.turn.request import Mark, Step, TranscriptChat
from sansio_letta.upstreams.rest.transcript_search import Fit, compare

HI, CATS = Mark("1" * 32, "0" * 32), Mark("2" * 32, "3" * 32)
FIRST = Step(mark=HI, chain="3" * 32, reply="Hello!")


def user(mark: Mark | None) -> dict[str, Any]:
    otid = None if mark is None else f"{mark.text}-request-1"
    return {"id": "message-1", "message_type": "user_message", "content": "x", "otid": otid}


def fit(chat: TranscriptChat, *messages: dict[str, Any]) -> Fit:
    """Compare with the messages of a conversation, oldest first."""
    return compare(chat, orjson.dumps(messages[::-1]))


def going_on(reply: str | None) -> TranscriptChat:
    steps = (Step(mark=HI, chain=FIRST.chain, reply=reply), Step(mark=CATS, chain="4" * 32))
    return TranscriptChat(first=HI.content, steps=steps)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Hello!", Fit.EXACT),
        ("  Hello!\n", Fit.EXACT),
        ("Hel", Fit.EXACT),  # the client stopped
        ("Let me see.\n\nHello!", Fit.EXACT),  # the client joins what was said in two steps
        ("Good day!", Fit.OTHER_REPLY),
        (None, Fit.NO_REPLY),
    ],
)
def test_the_answer_is_compared(reply: str | None, expected: Fit) -> None:
    assert fit(going_on(reply), user(HI), say("Hello!")) is expected


def test_a_conversation_that_went_another_way_does_not_fit() -> None:
    other = Mark("5" * 32, CATS.chain)
    assert fit(going_on("Hello!"), user(HI), say("Hello!"), user(other), say("Dogs.")) is Fit.NONE
    assert fit(going_on("Hello!"), user(HI), say("Hello!"), user(CATS), say("Cats.")) is Fit.NO_REPLY
    # Somebody else's messages have no mark, and say nothing of that.
    assert fit(going_on("Hello!"), user(HI), say("Hello!"), user(None), say("Yes?")) is Fit.EXACT
    assert fit(going_on("Hello!"), user(None), say("Hello!")) is Fit.NONE


def test_the_call_that_is_pending_decides() -> None:
    chat = TranscriptChat(first=HI.content, steps=(FIRST,), call_ids=frozenset({"call-1"}))
    assert fit(chat, user(HI), want("call-1", "look", "{}")) is Fit.EXACT
    assert fit(chat, user(HI), want("call-2", "look", "{}")) is Fit.OTHER_REPLY


def test_an_empty_conversation_fits_if_no_other_does() -> None:
    assert fit(going_on("Hello!")) is Fit.EMPTY
    assert Fit.NONE < Fit.EMPTY < Fit.OTHER_REPLY < Fit.NO_REPLY < Fit.EXACT


def test_what_is_no_list_of_messages_is_an_error() -> None:
    with pytest.raises(RemoteProtocolError):
        compare(going_on("Hello!"), b"{}")
