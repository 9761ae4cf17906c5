"""What of a transcript is new to an agent."""

from collections.abc import Iterable

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from growth import Work, check_growth
from sansio_letta.turn.ledger import (
    ROOT,
    Heard,
    HeardMessage,
    Role,
    digest,
    digest_answer,
    next_chain,
    result_digest,
)
from sansio_letta.turn.new_input import RESULT_COUNT, Basis, NewInput, find_new, find_unheard
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


def test_what_follows_a_lost_system_message_is_not_what_another_transcript_begins_with() -> None:
    """A mark does not show the system messages before it."""
    _, nudge, said = items = transcript("a1", "s1", "u1")
    assert isinstance(nudge, SystemMessage)
    assert nudge.mark is not None
    heard = thread(*transcript("u1", "a9"))
    new = find_new(items, heard, {nudge.mark}, {nudge.mark})
    assert new.messages == (nudge, said)
    # Through another process it was sent beside what follows.
    *_, later = items = transcript("a1", "s1", "u1", "a9", "u2")
    assert find_new(items, heard, {nudge.mark}, {nudge.mark}).messages == (later,)


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


def called(call_id: str, name: str = "get_weather") -> HeardMessage:
    return HeardMessage(role=Role.CALL, content=call_id, name=name)


def answered(call_id: str, *, is_placeholder: bool = False, is_error: bool = False) -> HeardMessage:
    return HeardMessage(role=Role.RESULT, content=call_id, is_placeholder=is_placeholder, is_error=is_error)


def told(call_id: str) -> HeardMessage:
    return HeardMessage(role=Role.SYSTEM, content=result_digest(call_id), chain=ROOT)


def unheard(said: str, *behind: HeardMessage, attempts: str = "", told: str = "") -> list[str]:
    """Ids of results of get_weather that an agent has not had.

    :param behind: what its thread holds behind ``u1 a1 u2``.
    :param attempts: a transcript whose messages were sent, and may not be kept.
    :param told: results that are known to be told.
    """
    items = [
        evolve(item, name="get_weather") if isinstance(item, ToolResult) else item
        for item in transcript(*said.split())
    ]
    held = thread(*transcript("u1", "a1", "u2"))
    heard = Heard(messages=[*held.messages, *behind])
    found = find_new(items, heard, marks(transcript(*attempts.split())))
    shown = {item.call_id for item in items if isinstance(item, ToolResult)}
    return [
        result.call_id for result in find_unheard(found, shown, heard, set(map(result_digest, told.split())))
    ]


BACKGROUND = "u1 a1 u2 c3 r3 a2 s1"


@pytest.mark.parametrize(
    ("said", "behind", "expected"),
    [
        # A tool that ran in the background, before an answer that was given meanwhile.
        (BACKGROUND, [], ["r3"]),
        ("u1 a1 u2 c3 r3 a2 u3", [], ["r3"]),
        ("u1 a1 u2 c3 r3 r4 a2 c5 r5 a3 u3", [answered("r4")], ["r3", "r5"]),
        # It was told before: as a result, or as text.
        (BACKGROUND, [called("r3"), answered("r3")], []),
        (BACKGROUND, [told("r3")], []),
        # Its call waits, or was answered without a result: that is not settled here.
        (BACKGROUND, [called("r3")], []),
        (BACKGROUND, [called("r3"), answered("r3", is_placeholder=True)], []),
        # An id that the client has made up for a call of the agent.
        (BACKGROUND, [called("call-9"), answered("call-9")], []),
        ("u1 a1 u2 c3 r3 c4 r4 a2 u3", [called("call-9"), answered("call-9")], ["r4"]),
        # The agent has called something else, or another client's tool waits.
        (BACKGROUND, [called("call-9", "search"), answered("call-9")], ["r3"]),
        (BACKGROUND, [called("call-9")], ["r3"]),
        (BACKGROUND, [called("call-9"), answered("call-9", is_placeholder=True)], ["r3"]),
        (BACKGROUND, [called("call-9"), answered("call-9", is_error=True)], ["r3"]),
        # Another client has said something, and its tool was called.
        (BACKGROUND, [*thread(*transcript("u9")).messages, called("call-9"), answered("call-9")], ["r3"]),
        # The client shows the agent's call beside.
        ("u1 a1 u2 c9 r9 c3 r3 a2 u3", [called("r9"), answered("r9")], ["r3"]),
        # The result is older than what was heard last.
        ("u1 c3 r3 a1 u2 a2 u3", [], []),
    ],
)
def test_results_that_the_agent_has_not_had(said: str, behind: list[HeardMessage], expected: list[str]) -> None:
    assert unheard(said, *behind) == expected


def test_results_that_are_known_to_be_told_are_not_told_again() -> None:
    assert unheard("u1 a1 u2 c3 r3 c4 r4 a2 u3", told="r3") == ["r4"]


def test_a_result_behind_a_message_that_was_stopped_is_found_and_another_models_are_not() -> None:
    said = "u1 a1 u2 a2 u3 c4 r4 a3 u5"
    assert unheard(said, attempts=said) == ["r4"]
    assert unheard(said) == []


def test_a_result_without_its_call_is_not_found() -> None:
    heard = thread(*transcript("u1"))
    found = find_new(transcript("u1", "a1", "r3", "a2", "u2"), heard)
    assert [result.call_id for result in found.results] == ["r3"]
    assert find_unheard(found, {"r3"}, heard, ()) == ()


def test_the_last_results_are_compared_however_many_there_are() -> None:
    results = [word for number in range(100) for word in (f"c{number}", f"r{number}")]
    found = find_new(transcript("u1", *results, "a1", "u2"), thread(*transcript("u1")))
    assert [result.call_id for result in found.results] == [f"r{number}" for number in range(100)][
        -RESULT_COUNT:
    ]


ALIKE = HeardMessage(role=Role.USER, content=digest("user", "u"), chain=None)


def test_twenty_thousand_messages_take_linear_time() -> None:
    def made(count: int) -> Work:
        items = transcript(*["u", "a"] * count, "u")
        heard = Heard(messages=[ALIKE] * count)
        return lambda: find_new(items, heard)

    check_growth(made, 10_000)


def test_twenty_thousand_results_take_linear_time() -> None:
    def made(count: int) -> Work:
        items = transcript("u", *["c", "r"] * count, "a", "s")
        heard = Heard(messages=[*thread(*transcript("u")).messages, *[answered("r")] * count])

        def work() -> None:
            find_unheard(find_new(items, heard), {"r"}, heard, ())

        return work

    check_growth(made, 10_000)
