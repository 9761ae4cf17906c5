"""Puts what is made of the code into the pages, in place of each ``generated: NAME`` comment."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from textwrap import indent
from typing import Final

from diagrams import draw, run_machine, transition_table, turn_machine
from tables import TABLES
from transcripts import CASES, draw_transcript

#: A comment on a line of its own; its replacement gets the same indentation.
MARKER: Final = re.compile(r"^( *)<!-- generated: ([a-z-]+) -->$", re.MULTILINE)

GENERATED: Final[Mapping[str, Callable[[], str]]] = {
    **TABLES,
    "turn-machine": lambda: draw(turn_machine()),
    "turn-transitions": lambda: transition_table(turn_machine()),
    "run-machine": lambda: draw(run_machine()),
    "run-transitions": lambda: transition_table(run_machine()),
    **{f"transcript-{name}": partial(draw_transcript, name) for name in CASES},
}


def expand(markdown: str) -> str:
    """A page with its generated parts in it.

    :raises KeyError: if a page refers to something that is not generated.
    """
    return MARKER.sub(lambda found: indent(GENERATED[found[2]](), found[1]), markdown)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs for each page."""
    return expand(markdown)
