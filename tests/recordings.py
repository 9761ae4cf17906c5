"""The recordings in fixtures/, and variants with the same bytes in other pieces."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import evolve

from sansio_letta.recording.format import RecordedData, RecordedExchange, Recording
from sansio_letta.recording.reader import read_recording
from sansio_letta.recording.replay import render

FIXTURES = Path(__file__).parent.parent / "fixtures"
SCENARIOS = sorted(path.stem for path in (FIXTURES / "recordings").glob("*.jsonl"))
TURNS = sorted(path.stem for path in (FIXTURES / "turns").glob("*.jsonl"))


def recording(scenario: str) -> Recording:
    """Read a recording by the name of its scenario."""
    return read_recording((FIXTURES / "recordings" / f"{scenario}.jsonl").read_bytes())


def recorded_turn(name: str) -> Recording:
    """Read a whole request of a client, as recorded by the server."""
    return read_recording((FIXTURES / "turns" / f"{name}.jsonl").read_bytes())


def expected_path(scenario: str) -> Path:
    """Return the path of the reviewed outcome of a recording or a recorded turn."""
    return FIXTURES / "expected" / f"{scenario}.sse"


def translate(recording: Recording) -> bytes:
    """Return what the clients of a recording get, with comments about requests to Letta."""
    return b"".join(rendered.data for rendered in render(recording))


def recut(recording: Recording, exchange: RecordedExchange, parts: Sequence[bytes]) -> Recording:
    """Return the same recording with one exchange cut into other pieces."""
    data = tuple(RecordedData(t=0.0, data=part) for part in parts if part)
    return evolve(
        recording,
        exchanges=tuple(
            evolve(item, data=data) if item.x == exchange.x else item for item in recording.exchanges
        ),
    )


def only(recording: Recording, exchange: RecordedExchange) -> Recording:
    """Return the recording with only this turn, and the lookups it needs."""
    kept = (item for item in recording.exchanges if item.x == exchange.x or not item.starts_run)
    return evolve(recording, exchanges=tuple(kept))


def turns(recording: Recording) -> Iterator[RecordedExchange]:
    """Return the exchanges that start a run."""
    return (exchange for exchange in recording.exchanges if exchange.starts_run)
