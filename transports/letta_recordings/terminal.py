"""A recording in the terminal: each item from Letta beside its effects."""

from typing import Final

from attrs import define
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from sansio_letta.recording.format import Recording
from sansio_letta.recording.inspect import inspect
from sansio_letta.recording.rows import Fold, Inspection, Kind, Outcome, Part, Passage, fold
from sansio_letta.recording.summaries import short

from .words import NEWLINE, gap_text, notes, origin, printable, seconds, short_ids, states, summary, words

#: Characters of a text in the table; the page has all of them.
_MAX_TEXT: Final = 300
_BLOCKS: Final = "▏▎▍▌▋▊▉█"
_TIMES: Final = "\u00d7"
_BAR_WIDTH: Final = 6
#: Columns; a narrower terminal does not show the states.
_WIDE: Final = 100

# The terminal's own colours, those that are readable on dark and light backgrounds.
_STYLES: Final = {
    Kind.CLIENT: "bold magenta",
    Kind.REQUEST: "magenta",
    Kind.HEAD: "dim",
    Kind.MESSAGE: "bold",
    Kind.PING: "dim",
    Kind.ANSWER: "bold",
    Kind.REST: "bold red",
    Kind.END: "dim",
}
_PARTS: Final = {Part.EVENT: "green", Part.COMMAND: "magenta", Part.FAILURE: "bold red"}


def show(recording: Recording, console: Console) -> None:
    """Print what happened in a recording: a summary and a table for each turn.

    Without a terminal there are no colours, and without Unicode no bars.

    :param console: its width determines how much is shown.
    """
    inspection = inspect(recording)
    head, view = inspection.head, _View(console, unicode=console.encoding.startswith("utf"))
    view.line((head.scenario, "bold"), (f"{origin(head)}, {_totals(inspection)}", "dim"))
    if head.note:
        view.line((head.note, ""))
    for passage in inspection.passages:
        console.print()
        title = "outside of a turn" if passage.number is None else f"turn {passage.number}"
        view.line((title, "bold"), (summary(passage), ""))
        console.print(view.table(passage))
        for note, bad in notes(passage):
            view.line((note, "red" if bad else "bold"))
    if inspection.cut_line is not None:
        view.line((f"Line {inspection.cut_line} was not written to its end and is left out.", "red"))


def _totals(inspection: Inspection) -> str:
    count = sum(passage.number is not None for passage in inspection.passages)
    return f"{count} turn{'' if count == 1 else 's'}, {seconds(inspection.duration)}"


@define
class _View:
    """Prints to a console, within what its terminal can show."""

    _console: Console
    _unicode: bool

    def line(self, *parts: tuple[str, str]) -> None:
        """Print texts with their styles on one line, or more if they are long."""
        self._console.print(Text("  ").join(self._text(text, style) for text, style in parts))

    def table(self, passage: Passage) -> Table:
        """Return the table of a passage's rows."""
        wide = self._console.width >= _WIDE
        table = Table(
            Column("time", justify="right", no_wrap=True),
            Column("gap", justify="right", style="dim", no_wrap=True),
            *([Column("", width=_BAR_WIDTH, style="dim")] if self._unicode else []),
            Column("from Letta", ratio=6, overflow="fold"),
            Column("what became of it", ratio=5, overflow="fold"),
            *([Column("turn, run", style="dim", no_wrap=True)] if wide else []),
            box=None,
            padding=(0, 1, 0, 0),
            header_style="underline",
            expand=True,
        )
        folds = fold(passage.rows)
        longest = max(found.rows[0].gap for found in folds)
        before = None
        for found in folds:
            row, state = found.rows[0], ", ".join(states(found))
            table.add_row(
                f"{row.t:.3f}",
                gap_text(row.gap),
                *([_bar(row.gap, longest)] if self._unicode else []),
                self._item(found),
                self._became(found.outcomes),
                *([state if state != before else ""] if wide else []),
            )
            before = state
        return table

    def _item(self, found: Fold) -> Text:
        row = found.rows[0]
        text = Text().append_text(self._text(short_ids(row.name), _STYLES[row.kind]))
        return self._add(text, len(found.rows), found.text)

    def _became(self, outcomes: tuple[Outcome, ...]) -> Text:
        lines = [
            self._add(Text().append(words(outcome.name), _PARTS[outcome.part]), outcome.count, outcome.text)
            for outcome in outcomes
        ]
        return Text("\n").join(lines)

    def _add(self, text: Text, count: int, content: str) -> Text:
        if count > 1:
            text.append(f" {_TIMES if self._unicode else 'x'}{count}", "dim")
        return text.append(" ").append_text(self._text(short_ids(content))) if content else text

    def _text(self, text: str, style: str = "") -> Text:
        """Make text from a recording safe to print: no markup, no control characters."""
        shown = printable(short(text, _MAX_TEXT))
        if not self._unicode:
            shown = shown.replace(NEWLINE, "\\n").encode("ascii", "backslashreplace").decode()
        return Text(shown, style)


def _bar(gap: float, longest: float) -> str:
    eighths = round(gap / longest * _BAR_WIDTH * 8) if longest > 0 else 0
    whole, rest = divmod(eighths, 8)
    return _BLOCKS[-1] * whole + (_BLOCKS[rest - 1] if rest else "")
