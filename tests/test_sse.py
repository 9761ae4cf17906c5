"""Server-sent events: bytes to events and back, cut anywhere."""

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sansio_letta._signal import Signal
from sansio_letta.errors import LocalProtocolError, RemoteProtocolError
from sansio_letta.sse import ServerSentEvent, SSEDecoder, encode_comment, encode_data
from support import every_cut


def decode(parts: Sequence[bytes], max_size: int = 1 << 20) -> list[ServerSentEvent]:
    """All events of a stream that arrives in these parts."""
    decoder = SSEDecoder(max_size)
    events = []
    for part in (*parts, b""):
        decoder.receive_data(part)
        while isinstance(event := decoder.next_event(), ServerSentEvent):
            events.append(event)
        assert event is (Signal.NEED_DATA if part else Signal.FINISHED)
    return events


def message(data: bytes | str, event: str = "message") -> ServerSentEvent:
    return ServerSentEvent(data=data.encode() if isinstance(data, str) else data, event=event)


STREAMS = {
    "nothing": (b"", []),
    "LF": (b"data: a\n\ndata: b\n\n", [message("a"), message("b")]),
    "CR": (b"data: a\r\rdata: b\r\r", [message("a"), message("b")]),
    "CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [message("a"), message("b")]),
    "line ends mixed": (b"data: a\r\n\ndata: b\n\r\ndata: c\r\n\rdata: d\r\n\n", list(map(message, "abcd"))),
    "LF CR is two line ends": (b"data: a\n\rdata: b\n\n", [message("a"), message("b")]),
    "BOM": (b"\xef\xbb\xbfdata: a\n\n", [message("a")]),
    "only the first BOM is none of the data": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [message("a")]),
    "two BOMs at the start": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
    "BOM and a blank line": (b"\xef\xbb\xbf\n\ndata: a\n\n", [message("a")]),
    "no space after the colon": (b"data:a\n\n", [message("a")]),
    "only the first space goes": (b"data:  a \n\n", [message(" a ")]),
    "a tab stays": (b"data:\ta\n\n", [message("\ta")]),
    "colons in the data": (b"data: a: b:c\n\n", [message("a: b:c")]),
    "several data lines": (b"data: a\ndata: b\ndata: c\n\n", [message("a\nb\nc")]),
    "data without a colon": (b"data\ndata\n\n", [message("\n")]),
    "empty data": (b"data:\n\n", [message("")]),
    "UTF-8 of two, three and four bytes": ("data: ä€😀\n\n".encode(), [message("ä€😀")]),
    "bytes that are no UTF-8": (b"data: \xff\xfe\n\n", [message(b"\xff\xfe")]),
    "line separators of Unicode are text": (
        "data: a\u2028b\u2029c\x85d\n\n".encode(),
        [message("a\u2028b\u2029c\x85d")],
    ),
    "other separators of ASCII are text": (b"data: a\x0bb\x0cc\x1cd\n\n", [message("a\x0bb\x0cc\x1cd")]),
    "comments": (b": one\n:two\n\ndata: a\n: three\ndata: b\n\n: four\n\n", [message("a\nb")]),
    "a comment that looks like data": (b":data: a\n\n", []),
    "a NUL is text, and an id with one is ignored": (b"id: a\x00b\ndata: a\x00b\n\n", [message("a\x00b")]),
    "fields without a colon": (b"id\nretry\nevent\ndata\ndata: a\nwhatever\n\n", [message("\na")]),
    "a line of a colon and blanks is a comment": (b":  \n: :\ndata: a\n\n", [message("a")]),
    "id and retry are ignored": (b"id: 7\nretry: 3000\ndata: a\n\nid: 8\n\nretry: 1\n\n", [message("a")]),
    "unknown fields are ignored": (b"dat: x\nDATA: y\n data: z\ndata : w\ndata: a\n\n", [message("a")]),
    "a named event": (b"event: error\ndata: a\n\n", [message("a", "error")]),
    "the name after the data": (b"data: a\nevent:error\n\n", [message("a", "error")]),
    "the last name counts": (b"event: x\nevent: y\ndata: a\n\n", [message("a", "y")]),
    "a name lasts for one event": (b"event: x\ndata: a\n\ndata: b\n\n", [message("a", "x"), message("b")]),
    "a name without data is no event": (b"event: x\n\ndata: a\n\n", [message("a")]),
    "an empty name is the default": (b"event\ndata: a\n\nevent:\ndata: b\n\n", [message("a"), message("b")]),
    "a name that is no UTF-8": (b"event: \xff\ndata: a\n\n", [message("a", "\ufffd")]),
    "blank lines alone": (b"\n\r\n\r\n\n\n", []),
    "an unfinished event is dropped": (b"data: a\n\ndata: b\n", [message("a")]),
    "an unfinished line is dropped": (b"data: a\n\ndata: b", [message("a")]),
}

streams = pytest.mark.parametrize(("data", "events"), STREAMS.values(), ids=STREAMS)


@streams
def test_a_stream_has_its_events(data: bytes, events: list[ServerSentEvent]) -> None:
    assert decode([data] if data else []) == events


@streams
def test_cuts_do_not_show(data: bytes, events: list[ServerSentEvent]) -> None:
    for parts in every_cut(data):
        assert decode(parts) == events


@pytest.mark.parametrize("parts", [[b"data: a\r\r"], [b"data: a\r", b"\r"], [b"data: a\r\n\r"]], ids=repr)
def test_a_line_that_ends_in_cr_is_delivered_at_once_and_a_later_lf_belongs_to_it(parts: list[bytes]) -> None:
    decoder = SSEDecoder(100)
    for part in parts:
        decoder.receive_data(part)
    assert decoder.next_event() == message("a")
    decoder.receive_data(b"\ndata: b\r")
    assert decoder.next_event() is Signal.NEED_DATA
    decoder.receive_data(b"\n")
    assert decoder.next_event() is Signal.NEED_DATA
    decoder.receive_data(b"\n")
    assert decoder.next_event() == message("b")


def test_events_of_one_read_come_one_by_one() -> None:
    decoder = SSEDecoder(100)
    decoder.receive_data(b"data: a\n\ndata: b\n\nda")
    decoder.receive_data(b"ta: c\n\n")
    assert [decoder.next_event() for _ in range(4)] == [*map(message, "abc"), Signal.NEED_DATA]


def test_events_can_still_be_taken_after_the_end() -> None:
    decoder = SSEDecoder(100)
    decoder.receive_data(b"data: a\n\ndata: b\n\n")
    decoder.receive_data(b"")
    assert [decoder.next_event() for _ in range(4)] == [
        message("a"),
        message("b"),
        Signal.FINISHED,
        Signal.FINISHED,
    ]


@pytest.mark.parametrize("data", [b"data: a\n\n", b""], ids=["more bytes", "another end"])
def test_nothing_may_be_received_after_the_end(data: bytes) -> None:
    decoder = SSEDecoder(100)
    decoder.receive_data(b"")
    with pytest.raises(LocalProtocolError, match="after the end"):
        decoder.receive_data(data)


TOO_LARGE = {
    "one line": b"data: 345678901",
    "many lines": b"data: 34\ndata:\n",
    "lines and a rest": b"data: 345\ndata",
    "a line that means nothing": b"x" * 13,
    "after an event": b"data: a\n\ndata: 345678901",
}


@pytest.mark.parametrize("data", TOO_LARGE.values(), ids=TOO_LARGE)
def test_an_unfinished_event_beyond_the_limit_breaks_the_stream_for_good(data: bytes) -> None:
    decoder = SSEDecoder(12)
    with pytest.raises(RemoteProtocolError, match="12 bytes") as first:
        for at in range(len(data)):
            decoder.receive_data(data[at : at + 1])
            decoder.next_event()
    decoder.receive_data(b"\n\n")
    with pytest.raises(RemoteProtocolError) as again:
        decoder.next_event()
    assert again.value is first.value


WITHIN = {
    "just as long as allowed": (b"data: 345678\n\n" * 2, [message("345678")] * 2),
    "each event counts for itself": (b"data: 34\n\n" * 3, [message("34")] * 3),
    "comments and names do not add up": (
        b": 34\n" * 9 + b"event: 3\n" * 9 + b"data: 3\n\n",
        [message("3", "3")],
    ),
}


@pytest.mark.parametrize(("data", "events"), WITHIN.values(), ids=WITHIN)
def test_what_stays_within_the_limit_is_taken(data: bytes, events: list[ServerSentEvent]) -> None:
    for parts in every_cut(data):
        assert decode([part[at : at + 1] for part in parts for at in range(len(part))], max_size=12) == events


#: Bytes that look like a stream, in every disorder.
STREAM = st.lists(
    st.sampled_from(
        [b"data", b"event", b"id", b":", b" ", b"\r", b"\n", b"\r\n", b"\xef\xbb\xbf", b"x", b"\xe2\x80\xa8"]
    )
    | st.binary(max_size=4),
    max_size=30,
).map(b"".join)


def cut(data: bytes, places: set[int]) -> list[bytes]:
    """The bytes in parts, none of them empty."""
    ends = [*sorted(place for place in places if 0 < place < len(data)), len(data)]
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False) if data[start:end]]


@given(STREAM, st.sets(st.integers(1, 120)))
@example(b"data: a\r\n\r\n", {8})
def test_any_bytes_give_the_same_events_in_any_cuts(data: bytes, places: set[int]) -> None:
    assert decode(cut(data, places)) == decode(cut(data, set()))


@given(STREAM, st.sets(st.integers(1, 120)), st.integers(0, 40))
def test_any_bytes_give_events_or_a_remote_protocol_error(data: bytes, places: set[int], max_size: int) -> None:
    try:
        events = decode(cut(data, places), max_size)
    except RemoteProtocolError:
        return
    assert all(isinstance(event.data, bytes) and event.event for event in events)


@given(st.text().map(lambda text: text.encode().replace(b"\r", b"")))
def test_what_is_encoded_is_decoded_again(data: bytes) -> None:
    assert decode([encode_comment("still here"), encode_data(data)]) == [message(data)]


def test_an_event_without_a_name_is_a_message() -> None:
    assert ServerSentEvent(data=b"a") == message("a")


def test_each_line_of_the_data_has_a_field() -> None:
    assert encode_data(b'{"a":1}') == b'data: {"a":1}\n\n'
    assert encode_data(b"{\n\n}") == b"data: {\ndata: \ndata: }\n\n"


def test_a_comment_is_one_line_and_a_blank_one() -> None:
    assert encode_comment("keepalive") == b": keepalive\n\n"
