"""Use a recording in your own test: what did the client get, and does it still get that?

Record one with ``letta-proxy serve --record recordings``, or with ``record=`` of an in-process transport.

    pytest examples/test_with_a_recording.py
"""

from pathlib import Path

from sansio_letta import read_recording
from sansio_letta.recording.player import play
from sansio_letta.recording.replay import render_text
from sansio_letta.turn.events import CallStarted, TextDelta

RECORDING = Path(__file__).parent.parent / "fixtures" / "recordings" / "client_tool.jsonl"


def test_agent_calls_the_weather_tool_and_answers() -> None:
    call_turn, answer_turn = play(read_recording(RECORDING.read_bytes()))
    (call,) = [played.seen for played in call_turn if isinstance(played.seen, CallStarted)]
    assert call.name == "get_weather"
    assert any(isinstance(played.seen, TextDelta) for played in answer_turn)


def test_the_answer_contains_the_result() -> None:
    text = b"".join(rendered.data for rendered in render_text(read_recording(RECORDING.read_bytes())))
    assert b"18 C, sunny" in text
