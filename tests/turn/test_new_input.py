"""What of a transcript is new to an agent."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from growth import Work, check_growth
from sansio_letta.turn.ledger import ROOT, Heard, HeardMessage, Role, digest, digest_answer, next_chain
from sansio_letta.turn.new_input import Basis, NewInput, find_new
from sansio_letta.turn.request import (
    AgentMessage,
    Mark,
    SystemMessage,
    ToolResult,
    TranscriptItem,
    UserMessage,
)


def transcript(*words: str) -> list[TranscriptItem]:
    """Items by their first letters: users', agents', system messages, results, and calls."""
    items: list[TranscriptItem] = []
    chain = ROOT
    for word in words:
        match word[0]:
            case "u":
                mark = Mark(digest("user", word), chain)
                items.append(UserMessage(content=word, mark=mark))
                chain = next_chain(chain, mark.content)
            case "s":
                items.append(SystemMessage(content=word, mark=Mark(digest("system", word), chain)))
            case "a":
                items.append(AgentMessage(content=word))
            case "c":
                items.append(AgentMessage(content=""))
            case "r":
                items.append(ToolResult(call_id=word, content=word))
    return items


def thread(*items: TranscriptItem, is_whole: bool = True, marked: bool = True) -> Heard:
    """What a thread holds in which these were said."""
    messages = []
    for item in items:
        match item:
            case UserMessage(content=content, mark=mark):
                chain = mark.chain if mark and marked else None
                messages.append(HeardMessage(role=Role.USER, content=digest("user", content), chain=chain))
            case SystemMessage(content=content, mark=mark):
                chain = mark.chain if mark and marked else None
                messages.append(HeardMessage(role=Role.SYSTEM, content=digest("system", content), chain=chain))
            case AgentMessage(content=content):
                messages.append(HeardMessage(role=Role.AGENT, content=digest_answer(content)))
            case ToolResult(call_id=call_id):
                messages.append(HeardMessage(role=Role.RESULT, content=call_id))
    return Heard(messages=messages, is_whole=is_whole)


def words(found: NewInput) -> list[str]:
    """All that is new."""
    return [str(message.content) for message in (*found.earlier, *found.messages)]


def marks(items: Iterable[TranscriptItem]) -> set[Mark]:
    return {item.mark for item in items if isinstance(item, UserMessage) and item.mark is not None}


def new(
    said: str, heard: str, *, whole: bool = True, marked: bool = True, attempts: str = "", lost: str = ""
) -> NewInput:
    """What is new of a transcript in a thread, in which another transcript's messages were said before."""
    return find_new(
        transcript(*said.split()),
        thread(*transcript(*heard.split()), is_whole=whole, marked=marked),
        marks(transcript(*attempts.split())),
        marks(transcript(*lost.split())),
    )


@pytest.mark.parametrize(
    ("said", "heard", "expected"),
    [
        ("u1", "", "u1"),
        ("u1 a1 u2", "u1 a1", "u2"),
        # A message that was stopped in its first step, with what the client shows of the answer.
        ("u0 a0 u1 a-partial u2", "u0 a0", "u1 a-partial u2"),
        ("u0 a0 u1 u2", "u0 a0", "u1 u2"),
        ("u1 a-partial u2", "", "u1 a-partial u2"),
        # Programs that keep no answers.
        ("u1 u2", "u1 a1", "u2"),
        ("u1 u2 u3", "u1 a1 u2 a2", "u3"),
        # Calls and results belong to the answer.
        ("u1 c1 r1", "u1", ""),
        ("u1 c1 r1 u2", "u1", "u2"),
        ("u1 c1 u2", "u1", "u2"),
        # The same words again are another message.
        ("u1 a1 u1", "u1 a1", "u1"),
        ("u1 a1 u1 a2 u1", "u1 a1 u1 a2", "u1"),
        # Instructions in their place.
        ("u1 a1 s1", "u1 a1", "s1"),
        ("u1 a1 s1 a2 u2", "u1 a1 s1 a2", "u2"),
        ("s1", "", "s1"),
        # A greeting that the client wrote itself.
        ("a-hello u1", "", "a-hello u1"),
        ("a-hello u1 a1 u2", "a-hello u1 a1", "u2"),
        ("a-hello u1", "u9 a9", "a-hello u1"),
        ("a-hello u1", "u9 a-hello", "u1"),
        # Somebody else's history.
        ("u1 a1 u2 a2 u3", "u8 a8 u9 a9", "u3"),
        # The client has compacted its history, without answers.
        ("u1 u-summary u2", "u1 a1", "u-summary u2"),
        # A program that changes a message once it has been answered.
        ("u1 a1 u2-changed a2 u3", "u1 a1 u2 a2", "u3"),
        ("u1 a1 u2-changed c2 r2 a-joined u3", "u1 a1 u2 c2 r2 a2", "u3"),
        ("u1 a1 u2-changed a2 u3 a-partial u4", "u1 a1 u2 a2", "u3 a-partial u4"),
        # Trimmed from the front: found by the messages themselves.
        ("u2 a2 u3", "u1 a1 u2 a2", "u3"),
        ("u2 a2 u3 a-partial u4", "u1 a1 u2 a2", "u3 a-partial u4"),
    ],
)
def test_what_is_new(said: str, heard: str, expected: str) -> None:
    assert words(new(said, heard)) == expected.split()


def test_messages_from_before_the_marks_are_found_by_their_text() -> None:
    found = new("u1 a1 u2 a-partial u3", "u1 a1", marked=False)
    assert words(found) == ["u2", "a-partial", "u3"]
    assert found.basis is Basis.CONTENT


def test_what_is_known_to_be_lost_is_new_though_the_same_words_were_heard_before() -> None:
    assert words(new("u1 a-partial u2", "u1 a1", lost="u1")) == ["u1", "a-partial", "u2"]


def test_what_was_sent_and_is_not_in_the_thread_is_new() -> None:
    found = new("u1 a-partial u2", "u8 a8", attempts="u1")
    assert words(found) == ["u1", "a-partial", "u2"]
    assert found.basis is Basis.ATTEMPT


def test_what_was_sent_and_not_kept_is_found_in_a_history_without_its_beginning() -> None:
    attempt = marks(transcript("u1", "a1", "u2")[2:])
    found = find_new(transcript("u2", "a-partial", "u3"), thread(*transcript("u1", "a1")), attempt, attempt)
    assert words(found) == ["u2", "a-partial", "u3"]
    assert found.basis is Basis.ATTEMPT


def test_what_follows_a_lost_message_is_no_earlier_message_that_says_the_same() -> None:
    attempt = marks(transcript("u1", "u2")[1:])
    said = transcript("u2", "a-partial", "u1", "a-other", "u3")
    found = find_new(said, thread(*transcript("u0", "u1", "a1")), attempt, attempt)
    assert words(found) == ["u2", "a-partial", "u1", "a-other", "u3"]


def test_a_message_that_was_sent_before_the_history_was_trimmed_may_have_been_stored() -> None:
    attempt = marks(transcript("u1", "u2")[1:])
    found = find_new(transcript("u2", "s1"), thread(*transcript("u1", "a1")), attempt)
    assert words(found) == ["u2", "s1"]
    assert found.is_doubtful(attempt)
    assert not found.is_doubtful(marks(transcript("u1")))


def test_the_last_message_again_asks_for_another_answer() -> None:
    found = new("u1 a1 u2", "u1 a1 u2 a2")
    assert words(found) == ["u2"]
    assert found.is_said_again
    assert not new("u1 a1 u2", "u1 a1").is_said_again


def test_an_edited_message_is_new_and_known_to_be_edited() -> None:
    found = new("u1 a1 u-edited", "u1 a1 u2 a2")
    assert words(found) == ["u-edited"]
    assert found.is_edited


def test_what_the_agent_said_unasked_is_not_told_to_it() -> None:
    heard = Heard(messages=[HeardMessage(role=Role.AGENT, content=None)])
    assert words(find_new(transcript("a-hello", "u1"), heard)) == ["u1"]


def test_a_transcript_that_ends_with_the_agent_has_nothing_new() -> None:
    assert new("u1 a1", "").messages == ()


def test_an_unknown_thread_goes_by_the_last_assistant_message() -> None:
    found = find_new(transcript("u1", "a1", "u2"), None)
    assert (words(found), found.basis) == (["u2"], Basis.TAIL)


@given(st.lists(st.sampled_from(["u1", "u2", "a1", "a2", "s1", "c1", "r1"]), max_size=12), st.integers(0, 12))
def test_what_was_heard_and_what_is_new_are_all_that_was_said(said: list[str], count: int) -> None:
    items = transcript(*said)
    cut = min(count, len(items))
    while 0 < cut < len(items) and not isinstance(items[cut - 1], UserMessage):
        cut -= 1
    found = find_new(items, thread(*items[:cut]))
    expected = [item for item in items[cut:] if isinstance(item, UserMessage)]
    if items and isinstance(items[-1], AgentMessage):
        assert found.messages == ()
    elif expected:
        assert [item for item in (*found.earlier, *found.messages) if isinstance(item, UserMessage)] == expected


ALIKE = HeardMessage(role=Role.USER, content=digest("user", "u"), chain=None)


def test_twenty_thousand_messages_take_linear_time() -> None:
    def made(count: int) -> Work:
        items = transcript(*["u", "a"] * count, "u")
        heard = Heard(messages=[ALIKE] * count)
        return lambda: find_new(items, heard)

    check_growth(made, 10_000)
