"""Every recording gives what was reviewed, however its bytes were cut.

`make golden` writes the expected outcomes anew; a person reads the difference before it is committed.
"""

import re

import orjson
import pytest
from attrs import evolve

from recordings import (
    SCENARIOS,
    TURNS,
    expected_path,
    only,
    recorded_turn,
    recording,
    recut,
    translate,
    turns,
)
from sansio_letta import Recording, Signal, SSEDecoder
from sansio_letta.dialects.chat_completions.request import field_name
from sansio_letta.dialects.errors import error_body
from sansio_letta.recording.compare import compare
from sansio_letta.recording.player import play
from sansio_letta.sse import ServerSentEvent
from sansio_letta.turn.events import Event, TurnFailed
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.commands import Command
from sansio_letta.upstreams.rest.reader import MessageReader
from support import THOROUGH

#: Beyond this a turn is not translated once for each of its cuts: the decoder alone is, event by event.
MAX_CUT_SIZE = 20_000
#: Where a turn is cut, from the ends of its events. Within an event only the decoder and the reader of messages
#: hold bytes back, and both are cut everywhere below.
NEAR_ENDS = (-1, 0, 1)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_recording_gives_its_expected_outcome(scenario: str) -> None:
    assert translate(recording(scenario)) == expected_path(scenario).read_bytes()


def test_every_expected_outcome_has_its_recording() -> None:
    assert sorted(path.stem for path in expected_path("x").parent.glob("*.sse")) == sorted([*SCENARIOS, *TURNS])


@pytest.mark.parametrize("name", TURNS)
def test_a_recorded_turn_gives_what_its_client_got(name: str) -> None:
    comparison = compare(recorded_turn(name))
    assert comparison.unanswered is None
    assert comparison.replayed == comparison.recorded
    assert translate(recorded_turn(name)) == expected_path(name).read_bytes()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_bytes_come_one_by_one(scenario: str) -> None:
    whole = recording(scenario)
    for exchange in turns(whole):
        alone = only(whole, exchange)
        body, size = exchange.body, len(exchange.body) if THOROUGH else MAX_CUT_SIZE
        pieces = [*(body[at : at + 1] for at in range(min(size, len(body)))), body[size:]]
        assert translate(recut(alone, exchange, pieces)) == translate(alone)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_two_way_cut_shows(scenario: str) -> None:
    whole = recording(scenario)
    for exchange in turns(whole):
        alone, body = only(whole, exchange), exchange.body
        if len(body) > MAX_CUT_SIZE:
            continue
        expected = items(alone)
        for at in range(len(body) + 1) if THOROUGH else near_ends(body):
            assert items(recut(alone, exchange, [body[:at], body[at:]])) == expected, at


def near_ends(body: bytes) -> list[int]:
    """The ends of all events, and the places beside them."""
    ends = [0, *(match.end() for match in re.finditer(b"\n\n", body)), len(body)]
    return sorted({end + by for end in ends for by in NEAR_ENDS if 0 <= end + by <= len(body)})


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_cut_shows_to_the_decoder(scenario: str) -> None:
    # An event's bytes depend on nothing but their own cut: the decoder holds no more than an unfinished event.
    for exchange in turns(recording(scenario)):
        body = exchange.body if THOROUGH else exchange.body[:MAX_CUT_SIZE]
        events = [event + b"\n\n" for event in body.split(b"\n\n")[:-1]]
        for first, second in zip(events, [*events, b": end\n\n"][1:], strict=True):
            both = first + second
            expected = decode([both])
            for at in range(len(first) + 1):
                assert decode([both[:at], both[at:]]) == expected, at


def test_no_cut_shows_to_the_reader_of_messages() -> None:
    # What the reader keeps depends on the event before the cut and decides about the one behind it, by their
    # types and fields: of each three that follow one another in a recording one is cut everywhere.
    cut = set()
    for scenario in SCENARIOS:
        for exchange in turns(recording(scenario)):
            events = [event + b"\n\n" for event in exchange.body.split(b"\n\n")[:-1]]
            for three in zip([b"", *events], events, [*events[1:], b""], strict=False):
                if (shapes := tuple(map(shape, three))) in cut:
                    continue
                cut.add(shapes)
                before, event, behind = three
                expected = messages([before, event, behind])
                for at in range(len(event) + 1):
                    assert messages([before, event[:at], event[at:] + behind]) == expected, (three, at)
    assert len(cut) > 100


def shape(event: bytes) -> object:
    """All of an event but the values of its message, its type excepted."""
    if not event.startswith(b"data: {"):
        return event
    message = orjson.loads(event.removeprefix(b"data: "))
    return (message.get("message_type"), *((name, type(value)) for name, value in message.items()))


def messages(parts: list[bytes]) -> list[object]:
    """All messages of bytes that come in these parts, by the short way where it is taken; texts are whole."""
    reader, found = MessageReader(100_000), list[object]()
    for part in filter(None, parts):
        if texts := reader.read_texts(part):
            last = found[-1]
            assert isinstance(last, letta.AssistantMessage)
            found += [evolve(last, content=text) for text in texts]
            continue
        reader.receive_data(part)
        while not isinstance(message := reader.next_message(), Signal):
            found.append(message)
    return found


def items(recording: Recording) -> list[object]:
    return [
        comparable(played.seen)
        for player in play(recording)
        for played in player
        if isinstance(played.seen, Event | Command)
    ]


def comparable(item: Event | Command) -> object:
    """An exception equals only itself; what it tells may be compared."""
    if not isinstance(item, TurnFailed):
        return item
    return error_body(item.error, field_name), item.error.headers(), item.kept


def decode(parts: list[bytes]) -> list[ServerSentEvent]:
    decoder, events = SSEDecoder(100_000), []
    for part in parts:
        if part:
            decoder.receive_data(part)
            while not isinstance(event := decoder.next_event(), Signal):
                events.append(event)
    return events
