"""A recording for a person at a terminal: each item of Letta's beside what became of it."""

import re
from typing import Final

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from sansio_letta.gist import error_gist, short, usage_gist
from sansio_letta.inspected import Fold, Inspection, Kind, Outcome, Part, Passage, fold
from sansio_letta.inspection import inspect
from sansio_letta.recording import Recording

_UUID: Final = re.compile(r"([0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_WORDS: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_BLOCKS: Final = "▏▎▍▌▋▊▉█"

#: Characters of a text in the table; the page has all of them.
_MAX_TEXT: Final = 300
_BAR_WIDTH: Final = 8
#: Below it the column of the states gives way.
_WIDE: Final = 100

# The terminal's own colours: a theme of its owner's keeps them legible on dark and light alike.
_DIM: Final = "dim"
_STYLES: Final = {
    Kind.CLIENT: "bold magenta",
    Kind.REQUEST: "bold blue",
    Kind.HEAD: "dim",
    Kind.MESSAGE: "bold",
    Kind.PING: "dim",
    Kind.ANSWER: "bold",
    Kind.REST: "red",
    Kind.END: "dim",
}
_PARTS: Final = {Part.EVENT: "green", Part.COMMAND: "bold blue", Part.FAILURE: "bold red"}


def show(recording: Recording, console: Console) -> None:
    """Print what happened in a recording: a summary and a table for each turn.

    Without a terminal there are no colours, and without Unicode no bars.

    :param console: where to; its width decides how much is shown.
    """
    inspection = inspect(recording)
    head = inspection.head
    console.print(
        _text(head.scenario, "bold"),
        Text(f"  Letta {printable(head.server)}, recording version {head.v}, {_totals(inspection)}", _DIM),
        sep="",
    )
    if head.note:
        console.print(_text(head.note))
    for passage in inspection.passages:
        console.print()
        console.print(_title(passage), _text(summary(passage)), sep="  ")
        console.print(_table(passage, console))
        for note in notes(passage):
            console.print(_text(note, "red"))
    if inspection.cut_line is not None:
        console.print(_text(f"Line {inspection.cut_line} was not written to its end and is left out.", "red"))


def _title(passage: Passage) -> Text:
    return Text("no turn", "bold") if passage.number is None else Text(f"turn {passage.number}", "bold reverse")


def _totals(inspection: Inspection) -> str:
    turns = sum(passage.number is not None for passage in inspection.passages)
    return f"{turns} turn{'' if turns == 1 else 's'}, {seconds(inspection.duration)}"


def _table(passage: Passage, console: Console) -> Table:
    wide, unicode = console.width >= _WIDE, not console.options.ascii_only
    table = Table(
        Column("time", justify="right", style=_DIM, no_wrap=True),
        Column("gap", justify="right", style=_DIM, no_wrap=True),
        *([Column("", width=_BAR_WIDTH, style="blue")] if unicode else []),
        Column("from Letta", ratio=1, overflow="fold"),
        Column("became", ratio=1, overflow="fold"),
        *([Column("turn, run", style=_DIM, no_wrap=True)] if wide else []),
        box=None,
        padding=(0, 1, 0, 0),
        header_style="underline",
        expand=True,
    )
    folds = fold(passage.rows)
    longest = max(found.rows[0].gap for found in folds)
    before = None
    for found in folds:
        state = state_text(found)
        table.add_row(
            f"{found.rows[0].t:.3f}",
            gap_text(found.rows[0].gap),
            *([_bar(found.rows[0].gap, longest)] if unicode else []),
            _item(found, unicode),
            _became(found.outcomes, unicode),
            *([state if state != before else ""] if wide else []),
        )
        before = state
    return table


def _bar(gap: float, longest: float) -> str:
    eighths = round(gap / longest * _BAR_WIDTH * 8) if longest > 0 else 0
    whole, rest = divmod(eighths, 8)
    return _BLOCKS[-1] * whole + (_BLOCKS[rest - 1] if rest else "")


def _item(found: Fold, unicode: bool) -> Text:
    row, style = found.rows[0], _STYLES[found.rows[0].kind]
    text = _text(short_ids(row.name), style)
    if len(found.rows) > 1:
        text.append(f" {'×' if unicode else 'x'}{len(found.rows)}", _DIM)
    if found.text:
        text.append(" ").append_text(_text(short_ids(found.text)))
    return text


def _became(outcomes: tuple[Outcome, ...], unicode: bool) -> Text:
    text = Text()
    for outcome in outcomes:
        if text:
            text.append("\n")
        text.append(words(outcome.name), _PARTS[outcome.part])
        if outcome.count > 1:
            text.append(f" {'×' if unicode else 'x'}{outcome.count}", _DIM)
        if outcome.text:
            text.append(" ").append_text(_text(short_ids(outcome.text)))
    return text


def _text(text: str, style: str = "") -> Text:
    """Text of a recording's: never markup, and nothing that moves a cursor."""
    return Text(printable(short(text, _MAX_TEXT)), style)


# --- Words that the page shows, too ---------------------------------------------------------------------------


def summary(passage: Passage) -> str:
    """The figures of a turn, on one line."""
    first, chunks, calls = passage.first_chunk_duration, passage.chunk_count, passage.call_count
    return ", ".join(
        part
        for part in (
            seconds(passage.duration),
            f"first chunk after {seconds(first)}" if first is not None else "",
            f"{chunks} chunks" if chunks else "",
            f"{calls} call{'' if calls == 1 else 's'}" if calls else "",
            f"tokens {usage_gist(passage.usage)}" if passage.usage else "",
            f"finish {passage.finish}" if passage.finish else "",
            "the client left" if passage.left else "",
            f"failed with {passage.error.status_hint} {passage.error.code}" if passage.error else "",
        )
        if part
    )


def notes(passage: Passage) -> list[str]:
    """What a reader must know beside the rows."""
    found = []
    if passage.error is not None:
        kept = f" Kept by Letta: {passage.kept.value}." if passage.kept else ""
        found.append(error_gist(passage.error) + kept)
    if passage.unanswered is not None:
        command = passage.unanswered
        found.append(f"The recording has no answer to {command.method} {command.target}")
    if passage.as_recorded is False:
        found.append("Today the client would get something else than it got: see `letta-proxy diff`.")
    return found


def words(name: str) -> str:
    """A class's name as a person says it: `TextDelta` is text delta."""
    return _WORDS.sub(" ", name).lower()


def state_text(found: Fold) -> str:
    """The states after the last of some rows: of the turn, and of the run once there is one."""
    row = found.rows[-1]
    states = [state.name.lower() for state in (row.phase, row.run_state) if state is not None]
    return ", ".join(states)


def seconds(value: float) -> str:
    """A duration."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def gap_text(gap: float) -> str:
    """The time since the row before; nothing if it came in the same moment."""
    if gap < 0.00005:
        return ""
    return f"+{gap:.2f} s" if gap >= 1 else f"+{gap * 1000:.{0 if gap >= 0.01 else 1}f} ms"


def short_ids(text: str) -> str:
    """The text with its UUIDs cut to their first part, which tells them apart."""
    return _UUID.sub(r"\1", text)


def printable(text: str) -> str:
    """Text on one line that no terminal obeys."""
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return {"\n": "⏎", "\t": " "}.get(char, repr(char)[1:-1])
