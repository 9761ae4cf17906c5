"""Every recording gives what was reviewed, however its bytes were cut.

`make golden` writes the expected outcomes anew; a person reads the difference before it is committed.
"""

import pytest

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
from sansio_letta.events import Command, Event, TurnFailed
from sansio_letta.replay import replay
from sansio_letta.replay_client import compare
from sansio_letta.sse import ServerSentEvent

#: Beyond this a turn is not translated once for each of its cuts: the decoder alone is, event by event.
MAX_CUT_SIZE = 20_000


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
        pieces = [exchange.body[at : at + 1] for at in range(len(exchange.body))]
        assert translate(recut(alone, exchange, pieces)) == translate(alone)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_two_way_cut_shows(scenario: str) -> None:
    whole = recording(scenario)
    for exchange in turns(whole):
        alone, body = only(whole, exchange), exchange.body
        if len(body) > MAX_CUT_SIZE:
            continue
        expected = items(alone)
        for at in range(len(body) + 1):
            assert items(recut(alone, exchange, [body[:at], body[at:]])) == expected, at


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_cut_shows_to_the_decoder(scenario: str) -> None:
    # An event's bytes depend on nothing but their own cut: the decoder holds no more than an unfinished event.
    for exchange in turns(recording(scenario)):
        events = [event + b"\n\n" for event in exchange.body.split(b"\n\n")[:-1]]
        for first, second in zip(events, [*events, b": end\n\n"][1:], strict=True):
            both = first + second
            expected = decode([both])
            for at in range(len(first) + 1):
                assert decode([both[:at], both[at:]]) == expected, at


def items(recording: Recording) -> list[object]:
    return [comparable(replayed.item) for turn in replay(recording) for replayed in turn]


def comparable(item: Event | Command) -> object:
    """An exception equals only itself; what it tells may be compared."""
    return (item.error.body(), item.error.headers(), item.kept) if isinstance(item, TurnFailed) else item


def decode(parts: list[bytes]) -> list[ServerSentEvent]:
    decoder, events = SSEDecoder(100_000), []
    for part in parts:
        if part:
            decoder.receive_data(part)
            while not isinstance(event := decoder.next_event(), Signal):
                events.append(event)
    return events
