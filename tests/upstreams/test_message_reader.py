"""The fast path from a stream's bytes to the agent's text has the same result as the other path."""

from collections.abc import Sequence
from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordings import SCENARIOS, recording, turns
from sansio_letta import Signal
from sansio_letta.errors import RemoteProtocolError
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.reader import MessageReader
from support import every_cut

IDS = {"id": "message-1", "message_type": "assistant_message", "seq_id": None, "run_id": "run-1"}


def event(data: dict[str, object] | bytes) -> bytes:
    return b"data: %b\n\n" % (data if isinstance(data, bytes) else orjson.dumps(data))


def say(text: object, **more: object) -> bytes:
    """One event; what is given twice comes where it came first."""
    return event({**IDS, **more, "content": text})


def told(parts: Sequence[bytes], *, short: bool, max_size: int = 10_000) -> list[object]:
    """All messages of a stream that arrives in these parts, fragments joined, and how it ends."""
    reader, items = MessageReader(max_size), list[object]()

    def add(item: object) -> None:
        items.append(item)

    try:
        for part in parts:
            if short and (texts := reader.read_texts(part)):
                last = items[-1]
                assert isinstance(last, letta.AssistantMessage)
                for text in texts:
                    add(
                        letta.AssistantMessage(
                            id=last.id, content=text, run_id=last.run_id, step_id=last.step_id
                        )
                    )
                continue
            reader.receive_data(part)
            while not isinstance(message := reader.next_message(), Signal):
                add(message)
        reader.receive_data(b"")
        while not isinstance(message := reader.next_message(), Signal):
            add(message)
        add(message)
    except RemoteProtocolError as exc:
        add(str(exc))
    return items


def after(*first: bytes) -> MessageReader:
    """A reader that has read these events."""
    reader = MessageReader(10_000)
    for data in first:
        reader.receive_data(data)
        while not isinstance(reader.next_message(), Signal):
            pass
    return reader


# --- What is taken


def test_of_events_that_repeat_the_last_one_the_texts_are_read() -> None:
    reader = after(say("Hel"))
    assert reader.read_texts(say("lo")) == ["lo"]
    assert reader.read_texts(say(' "Sam"\n\\ ü 你 \x00') + say(" and ") + say("}")) == [
        ' "Sam"\n\\ ü 你 \x00',
        " and ",
        "}",
    ]


def test_a_text_may_be_escaped_in_any_way() -> None:
    assert after(say("Hel")).read_texts(say("?").replace(b"?", rb"\u4f60\/")) == ["你/"]


def test_reading_texts_changes_nothing() -> None:
    reader = after(say("Hel"))
    assert reader.read_texts(say("lo")) == reader.read_texts(say("lo")) == ["lo"]
    reader.receive_data(say("lo"))
    assert reader.next_message() == letta.AssistantMessage(id="message-1", content="lo", run_id="run-1")


def test_the_last_event_may_be_cut_anywhere() -> None:
    following = say(" you")
    for cut in range(len(following) - 1):
        reader = after(say("Hel"))
        assert reader.read_texts(say("lo") + following[:cut]) == ["lo"]
        assert reader.read_texts(following[cut:] + say("!")) == [" you", "!"]
        assert reader.read_texts(say("?")) == ["?"]


def test_what_was_cut_comes_first_whatever_follows() -> None:
    for rest in (say(" you"), say("", id="message-2"), say("?", id="message-2")):
        for cut in range(len(b'data: {"id":"message-')):
            reader = after(say("Hel"))
            assert reader.read_texts(say("lo") + rest[:cut]) == ["lo"]
            assert reader.next_message() is Signal.NEED_DATA
            reader.receive_data(rest[cut:])
            assert reader.next_message() == letta.decode_message(rest.removeprefix(b"data: "))


@pytest.mark.parametrize("scenario", ["long", "text", "unicode"])
def test_letta_repeats_all_but_the_text(scenario: str) -> None:
    [exchange] = turns(recording(scenario))
    events = [part + b"\n\n" for part in exchange.body.split(b"\n\n") if b'"assistant_message"' in part]
    reader = after(events[0])
    assert all(len(reader.read_texts(data)) == 1 for data in events[1:])
    assert len(reader.read_texts(b"".join(events[1:]))) == len(events) - 1 > 5


# --- What is not

OTHERS = {
    "nothing": b"",
    "another message": say("lo", id="message-2"),
    "another run": say("lo", run_id="run-2"),
    "another type": event({**IDS, "message_type": "reasoning_message", "reasoning": "Hm.", "content": "lo"}),
    "no text": say(""),
    "parts": say([{"type": "text", "text": "lo"}]),
    "null": say(None),
    "a field behind the text": event({**IDS, "content": "lo", "more": "x"}),
    "an event that is cut": say("lo")[:-1],
    "one, and another without its blank line": say("lo") + say("lo")[:-1],
    "one, and the start of a ping": say("lo") + event({"message_type": "ping"})[:-3],
    "one, and the start of one with CR": say("lo") + say("lo")[:-2] + b"\r",
    "the end of one, and one": say("lo")[5:] + say("lo"),
    "one and another message": say("lo") + say("!", id="message-2"),
    "one and a ping": say("lo") + event({"message_type": "ping"}),
    "CRLF": say("lo").replace(b"\n", b"\r\n"),
    "a second line of data": say("lo")[:-1] + b"data: x\n\n",
    "a comment": b": ping\n" + say("lo"),
    "no space": say("lo").replace(b"data: ", b"data:"),
    "a space before the text": say("lo").replace(b'"lo"', b' "lo"'),
    "a line's end before the text": say("lo").replace(b'"lo"', b'\n"lo"'),
    "a line's end in the text": say("lo").replace(b"lo", b"l\no"),
    "a line's end behind the text": say("lo").replace(b'"lo"', b'"lo"\n'),
    "bytes that are no UTF-8": say("lo").replace(b"lo", b"\xff"),
    "a quote too many": say("lo").replace(b"lo", b'l"o'),
    "half a character": say("lo").replace(b"lo", rb"\ud83d"),
    "the end": event(b"[DONE]"),
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
def test_whatever_else_comes_is_left(data: bytes) -> None:
    assert after(say("Hel")).read_texts(data) == []
    parts = [say("Hel"), *([data] if data else []), say("!")]
    assert told(parts, short=True) == told([b"".join(parts)], short=False)


BEFORE = {
    "nothing": [],
    "a ping": [event({"message_type": "ping"})],
    "a ping between": [say("Hel"), event({"message_type": "ping"})],
    "a message of another type": [event({**IDS, "message_type": "user_message", "content": "Hel"})],
    "no text": [say("")],
    "parts": [say([{"type": "text", "text": "Hel"}])],
    "a number": [say("Hel", seq_id=7)],
    "a field behind the text": [event({**IDS, "content": "Hel", "more": "x"})],
    "the text of another field": [event({**IDS, "content": "lo", "more": {"content": "lo"}})],
    "an event that is cut": [say("Hel"), say("lo")[:-1]],
    "a line's end": [say("Hel"), b"data: "],
    "a name": [say("Hel"), b"event: x\n"],
    "the end": [say("Hel"), b""],
}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_only_behind_a_whole_text_is_the_way_short(before: list[bytes]) -> None:
    assert after(*before).read_texts(say("lo")) == []


def test_the_lines_of_an_event_each_have_a_field() -> None:
    lines = b'{"id":"message-1","message_type":"assistant_message",\n"content":"a"}'
    first = b"data: %b\n\n" % lines.replace(b"\n", b"\ndata: ")
    assert told([first], short=True) == told([event(lines.replace(b"\n", b""))], short=True)
    # Without its own field the second line is none of the data, and the first alone is no JSON.
    parts = [first, b"data: %b\n\n" % lines]
    assert told(parts, short=True) == told(parts, short=False)


def test_what_is_unread_comes_first() -> None:
    reader = after(say("Hel"))
    reader.receive_data(say("lo"))
    assert reader.read_texts(say("!")) == []


def test_an_event_may_be_no_larger_than_the_limit() -> None:
    size = len(say("Hello")) - 2  # its line, without the end
    first = say("Hel")
    assert told([first, say("Hello")], short=True, max_size=size)[-1] is Signal.FINISHED
    assert told([first, say("Hello!")], short=True, max_size=size) == told(
        [first, say("Hello!")], short=False, max_size=size
    )
    assert told([first, say("Hello!")], short=True, max_size=size)[-1] is not Signal.FINISHED
    cut = [first, say("lo") + say("Hello!")[:-2]]
    assert told(cut, short=True, max_size=size) == told(cut, short=False, max_size=size)
    assert told(cut, short=True, max_size=size)[-1] is not Signal.FINISHED


# --- Which way was taken does not show


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_recording_says_the_same_by_the_short_way(scenario: str) -> None:
    for exchange in turns(recording(scenario)):
        events = [part + b"\n\n" for part in exchange.body.split(b"\n\n") if part]
        whole = told(events, short=False, max_size=1 << 20)
        assert told(events, short=True, max_size=1 << 20) == whole
        assert told([piece.data for piece in exchange.data], short=True, max_size=1 << 20) == whole


def test_cuts_do_not_show() -> None:
    body = b"".join([say("Hel"), say("lo"), say(" \\ü"), event({"message_type": "ping"}), say("!"), say("?")])
    whole = told([body], short=False)
    assert len(whole) == 7
    for parts in every_cut(body):
        assert told(parts, short=True) == whole


EVENTS = st.one_of(
    st.text(max_size=5).map(say),
    st.text(max_size=5).map(lambda text: say(text, id="message-2")),
    st.sampled_from([data for data in OTHERS.values() if data]),
)


@given(st.lists(EVENTS, max_size=8), st.lists(st.integers(0, 2000), max_size=6), st.booleans())
def test_what_comes_and_how_it_is_cut_does_not_show(events: list[bytes], cuts: list[int], whole: bool) -> None:
    body = b"".join(events)
    places = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
    parts = [body[start:end] for start, end in pairwise(places)]
    assert told(events if whole else parts, short=True) == told([body] if body else [], short=False)
