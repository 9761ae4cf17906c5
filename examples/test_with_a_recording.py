"""A recording in a test of your own: what did the client get, and does it still?

Record one with ``letta-proxy serve --record recordings``, or with ``record=`` of an in-process transport.

    pytest examples/test_with_a_recording.py
"""

from pathlib import Path

from sansio_letta import read_recording
from sansio_letta.recording.replay import replay
from sansio_letta.recording.views import render_text
from sansio_letta.turn.events import CallStarted, TextDelta

RECORDING = Path(__file__).parent.parent / "fixtures" / "recordings" / "client_tool.jsonl"


def test_agent_asks_for_the_weather_and_tells_it() -> None:
    asked, answered = replay(read_recording(RECORDING.read_bytes()))
    (call,) = [replayed.item for replayed in asked if isinstance(replayed.item, CallStarted)]
    assert call.name == "get_weather"
    assert any(isinstance(replayed.item, TextDelta) for replayed in answered)


def test_what_the_agent_said() -> None:
    text = b"".join(rendered.data for rendered in render_text(read_recording(RECORDING.read_bytes())))
    assert b"18 C, sunny" in text
