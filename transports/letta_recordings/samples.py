"""Recordings that are part of the package, for the demo, by their scenario."""

from importlib import resources
from typing import Final

from sansio_letta import Recording, read_recording

_SAMPLES: Final = resources.files("letta_recordings") / "recordings"


def read_sample(scenario: str) -> Recording:
    """Read the recording of a scenario."""
    return read_recording((_SAMPLES / f"{scenario}.jsonl").read_bytes())
