"""Texts about a recording that the terminal and the page share."""

import re
from typing import Final

from sansio_letta.recording.format import RecordingHead
from sansio_letta.recording.rows import Fold, Passage
from sansio_letta.recording.summaries import error_summary, usage_summary

_UUID: Final = re.compile(r"([0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_WORDS: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
#: Shown for a newline in a text on one line.
NEWLINE: Final = "⏎"


def origin(head: RecordingHead) -> str:
    """Describe a recording's origin: Letta's version, or else the program that recorded it."""
    server = f"Letta {head.server}" if head.server[:1].isdigit() else f"recorded by {head.server}"
    return f"{server}, recording version {head.v}"


def summary(passage: Passage) -> str:
    """Summarise a turn on one line."""
    first, chunks, calls = passage.first_chunk_duration, passage.chunk_count, passage.call_count
    parts = (
        f"failed with {passage.error.status_hint} {passage.error.code}" if passage.error else "",
        "the client disconnected" if passage.left else "",
        passage.finish or "",
        seconds(passage.duration),
        f"{chunks} chunks" if chunks else "",
        f"the first after {seconds(first)}" if first is not None else "",
        f"{calls} call{'' if calls == 1 else 's'}" if calls else "",
        f"tokens {usage_summary(passage.usage)}" if passage.usage else "",
    )
    return ", ".join(part for part in parts if part)


def notes(passage: Passage) -> list[tuple[str, bool]]:
    """Return notes that the rows do not show, each with whether it is a failure."""
    found = []
    if passage.error is not None:
        kept = f" Kept by Letta: {passage.kept.value}." if passage.kept else ""
        found.append((error_summary(passage.error) + kept, True))
    if passage.unanswered is not None:
        command = passage.unanswered
        found.append((f"The recording has no response to {command.method} {command.target}.", False))
    if passage.as_recorded is False:
        found.append(("Today the client would get a different response: see letta-proxy diff.", False))
    return found


def words(name: str) -> str:
    """Split a class's name into words: `TextDelta` is text delta."""
    return _WORDS.sub(" ", name).lower()


def states(found: Fold) -> list[str]:
    """Return the states after the last of some rows: the turn's, and the run's once there is one."""
    row = found.rows[-1]
    return [state.name.lower() for state in (row.phase, row.run_state) if state is not None]


def seconds(value: float) -> str:
    """Format a duration."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def gap_text(gap: float) -> str:
    """Format the time since the previous row; empty if there was none."""
    if gap < 0.00005:
        return ""
    return f"+{gap:.2f} s" if gap >= 1 else f"+{gap * 1000:.{0 if gap >= 0.01 else 1}f} ms"


def short_ids(text: str) -> str:
    """Shorten the UUIDs in a text to their first part, which distinguishes them."""
    return _UUID.sub(r"\1", text)


def printable(text: str) -> str:
    """Make a text printable on one line, without control characters."""
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return {"\n": NEWLINE, "\t": " "}.get(char) or repr(char)[1:-1]
