"""The recordings in fixtures/, and other ways to have received the same bytes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import evolve

from sansio_letta.recording.format import RecordedData, RecordedExchange, Recording, read_recording
from sansio_letta.recording.replay import render

FIXTURES = Path(__file__).parent.parent / "fixtures"
SCENARIOS = sorted(path.stem for path in (FIXTURES / "recordings").glob("*.jsonl"))
TURNS = sorted(path.stem for path in (FIXTURES / "turns").glob("*.jsonl"))


def recording(scenario: str) -> Recording:
    """A recording by its scenario's name."""
    return read_recording((FIXTURES / "recordings" / f"{scenario}.jsonl").read_bytes())


def recorded_turn(name: str) -> Recording:
    """A client's whole request, as the server recorded it."""
    return read_recording((FIXTURES / "turns" / f"{name}.jsonl").read_bytes())


def expected_path(scenario: str) -> Path:
    """Where the reviewed outcome of a recording, or of a recorded turn, lies."""
    return FIXTURES / "expected" / f"{scenario}.sse"


def translate(recording: Recording) -> bytes:
    """All that the clients of a recording would have got, with comments on what was asked of Letta."""
    return b"".join(rendered.data for rendered in render(recording))


def recut(recording: Recording, exchange: RecordedExchange, parts: Sequence[bytes]) -> Recording:
    """The same recording, one exchange of which arrived in other pieces."""
    data = tuple(RecordedData(t=0.0, data=part) for part in parts if part)
    return evolve(
        recording,
        exchanges=tuple(
            evolve(item, data=data) if item.x == exchange.x else item for item in recording.exchanges
        ),
    )


def only(recording: Recording, exchange: RecordedExchange) -> Recording:
    """The recording with this turn alone; questions that it asks stay answered."""
    kept = (item for item in recording.exchanges if item.x == exchange.x or not item.starts_run)
    return evolve(recording, exchanges=tuple(kept))


def turns(recording: Recording) -> Iterator[RecordedExchange]:
    """The exchanges that start a run."""
    return (exchange for exchange in recording.exchanges if exchange.starts_run)
