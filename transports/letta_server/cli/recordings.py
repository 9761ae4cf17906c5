"""The commands that read recordings: replay, inspect, diff."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Final

from attrs import evolve
from cyclopts import App, Parameter
from cyclopts.validators import Number

from sansio_letta import Config, ReasoningField, Recording, RecordingError, read_recording
from sansio_letta.recording.compare import compare
from sansio_letta.recording.replay import Rendered, render, render_events, render_json, render_text

from .exit import stop

recordings_app: Final = App()


class View(Enum):
    """Forms of a replay."""

    CHUNKS = "chunks"
    TEXT = "text"
    JSON = "json"
    EVENTS = "events"


_VIEWS: Final[dict[View, Callable[[Recording, Config], Iterator[Rendered]]]] = {
    View.CHUNKS: render,
    View.TEXT: render_text,
    View.JSON: render_json,
    View.EVENTS: render_events,
}


@recordings_app.command
def replay(
    file: Path,
    /,
    *,
    view: Annotated[
        View,
        Parameter(
            name="--as", help="Output: the client's stream, only its text, complete responses, or events."
        ),
    ] = View.CHUNKS,
    timing: Annotated[bool, Parameter(negative="", help="Keep the recorded pauses.")] = False,
    speed: Annotated[
        float, Parameter(validator=Number(gt=0), help="With --timing: 2 is twice as fast as recorded.")
    ] = 1.0,
    reasoning: Annotated[
        ReasoningField | None,
        Parameter(help="Field for reasoning; default: as recorded.", show_default=False),
    ] = None,
) -> None:
    """Print what a client would have received for a recording.

    The output is the same every time. Between chunks, lines that start with a colon are comments: which turn it
    is, and what was requested from Letta.

    Example: letta-proxy replay --as text --timing fixtures/recordings/text.jsonl
    """
    recording = load(file)
    config = recording.head.config
    if reasoning is not None:
        config = evolve(config, reasoning_field=reasoning)
    began = time.monotonic()
    try:
        for rendered in _VIEWS[view](recording, config):
            if timing:
                time.sleep(max(0.0, began + rendered.t / speed - time.monotonic()))
            _write(rendered.data)
    except RecordingError as exc:
        stop(f"{file}: {exc}")


@recordings_app.command
def diff(old: Path, new: Path | None = None, /) -> None:
    """Check whether today's code still produces what the recording's client received.

    With a second recording, of the same request on another version: check whether both clients got the same.
    The exit code is 0 if they are equal, 1 if not.

    Example: letta-proxy diff recordings/1795344563-0a0a937a3f48.jsonl
    """
    recording = load(old)
    try:
        comparison = compare(recording, load(new) if new is not None else None)
    except RecordingError as exc:
        stop(f"{old}: {exc}")
    for line in comparison.lines():
        _write(line.encode() + b"\n")
    if not comparison.same:
        raise SystemExit(1)
    print("the same")


@recordings_app.command
def inspect(
    file: Path,
    /,
    *,
    html: Annotated[Path | None, Parameter(help="Write a self-contained web page instead.")] = None,
) -> None:
    """Show what happened in a recording: each item from Letta, and what the proxy made of it.

    Example: letta-proxy inspect --html turn.html fixtures/recordings/client_tool.jsonl
    """
    recording = load(file)
    if html is None:
        from rich.console import Console

        from letta_recordings.terminal import show

        show(recording, Console())
        return
    from letta_recordings.page import page

    try:
        html.write_text(page(recording), encoding="utf-8")
    except OSError as exc:
        stop(f"{html}: {(exc.strerror or str(exc)).lower()}")
    print(f"{html}: open it in a browser")


def load(file: Path) -> Recording:
    """Read a recording, or end the command with the reason."""
    try:
        recording = read_recording(file.read_bytes())
    except OSError as exc:
        stop(f"{file}: {(exc.strerror or str(exc)).lower()}")
    except RecordingError as exc:
        stop(f"{file}: {exc}")
    if recording.cut_line is not None:
        print(f"{file}: line {recording.cut_line} was not written to its end; read up to it", file=sys.stderr)
    return recording


def _write(data: bytes) -> None:
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # The reader, perhaps `head`, has ended; what Python flushes at exit must go nowhere either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
