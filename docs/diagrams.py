"""Draws the two state machines as inline SVG, from their tables.

Each transition of a table is named in the ``data-transitions`` of one arrow. Arrows that start at a frame are
for the transitions that all states inside have in common. Colours are variables of the theme, so that one
drawing works in light and dark mode.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

from sansio_letta.turn import phases
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest import run as stream

Point = tuple[float, float]
Transition = tuple[str, str, str]  # state, input, next state

_HEIGHT = 34.0
_LINE = 15.0  # from one line of a label to the next
_LETTER = 6.7  # width of a label's letter
_MARGIN = 16.0


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A table and the positions of its states.

    :param table: state -> input -> next state, all by name.
    :param places: the centres of states; missing ones are put in a row below the others.
    :param bends: points towards which arrows are bent that would cross others.
    :param framed: states whose common transitions are drawn once, from a frame around them; the other states
        must be beside or below it.
    """

    name: str
    title: str
    table: Mapping[str, Mapping[str, str]]
    initial: str
    places: Mapping[str, Point]
    framed: tuple[str, ...]
    box_width: float = 104.0
    loop_above: frozenset[str] = field(default=frozenset())
    bends: Mapping[tuple[str, str], Point] = field(default_factory=dict)

    @property
    def transitions(self) -> set[Transition]:
        """All transitions of the table."""
        return {(state, given, then) for state, row in self.table.items() for given, then in row.items()}

    @property
    def shared(self) -> set[tuple[str, str]]:
        """Input and next state that all framed states have in common."""
        rows = [set(self.table[state].items()) for state in self.framed if state in self.table]
        return set.intersection(*rows) if rows else set()


def turn_machine() -> Machine:
    """The walk of `sansio_letta.turn.script`."""
    table = {
        phase.name: {why: then.name for then, why in row.items()} for phase, row in phases.TRANSITIONS.items()
    }
    return Machine(
        name="turn",
        title="The turn: what it is doing",
        table=table,
        initial="READY",
        places={
            "READY": (60, 76),
            "FINDING": (60, 300),
            "QUEUED": (196, 300),
            "SEARCHING": (352, 196),
            "MATCHING": (212, 124),
            "REVIEWING": (330, 404),
            "LOOKING": (402, 34),
            "PREPARING": (500, 404),
            "SENDING": (572, 300),
            "STREAMING": (716, 300),
            "RECOVERING": (716, 150),
            "LEAVING": (716, 476),
            "SEEKING": (856, 150),
            "CANCELLING": (856, 300),
            "CLEANING": (456, 576),
            "DONE": (286, 576),
            "FAILED": (626, 576),
        },
        bends={
            ("SENDING", "FINDING"): (470, 640),
            ("PREPARING", "FINDING"): (240, 520),
            ("MATCHING", "PREPARING"): (470, 150),
            ("MATCHING", "SENDING"): (490, 90),
            ("MATCHING", "FINDING"): (120, 190),
            ("REVIEWING", "LOOKING"): (440, 220),
            ("LOOKING", "PREPARING"): (560, 240),
            ("SEARCHING", "PREPARING"): (480, 330),
            ("STREAMING", "PREPARING"): (640, 400),
            ("RECOVERING", "PREPARING"): (540, 250),
            ("SENDING", "SEEKING"): (640, 60),
            ("LEAVING", "SEEKING"): (930, 420),
        },
        framed=tuple(state for state, row in table.items() if "to be cleaned up" in row),
        box_width=96.0,
    )


def run_machine() -> Machine:
    """The stream of one run, of `sansio_letta.upstreams.rest.run`."""
    table = {
        state.name: {input_name(given): then.name for given, then in row.items()}
        for state, row in stream.TRANSITIONS.items()
    }
    return Machine(
        name="run",
        title="The run: what the agent was doing when it was last heard of",
        table=table,
        initial="WAITING",
        places={
            "WAITING": (270, 58),
            "THINKING": (270, 118),
            "SPEAKING": (270, 178),
            "WORKING": (270, 238),
            "CALLING": (270, 298),
            "STOPPED": (500, 118),
            "FAILED": (500, 268),
            "DONE": (706, 118),
        },
        framed=("WAITING", "THINKING", "SPEAKING", "WORKING", "CALLING"),
        loop_above=frozenset({"STOPPED"}),
    )


def input_name(given: type[Any]) -> str:
    """Return the name of an input of the run's machine in Letta's API."""
    tags = {cls: tag for tag, cls in letta.MESSAGE_TYPES.items()}
    return tags.get(given) or {"Done": "[DONE]", "EndOfStream": "end of stream"}.get(
        given.__name__, given.__name__
    )


# --- Drawing --------------------------------------------------------------------------------------------------


def draw(machine: Machine) -> str:
    """Return the machine as a figure without blank lines, which Markdown leaves unchanged."""
    return _Drawing(machine).figure()


class _Drawing:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.places = dict(machine.places)
        missing = [state for state in machine.table if state not in self.places]
        below = max(y for _, y in self.places.values()) + 76
        for index, state in enumerate(missing):
            self.places[state] = (70 + 150 * index, below)
        self.places = {state: place for state, place in self.places.items() if state in machine.table}
        framed = [self.places[state] for state in machine.framed if state in self.places]
        half = machine.box_width / 2
        self.left = min(x for x, _ in framed) - half - 24
        self.right = max(x for x, _ in framed) + half + 24
        self.top = min(y for _, y in framed) - _HEIGHT / 2 - 22 - 16
        self.bottom = max(y for _, y in framed) + _HEIGHT / 2 + 22

    def figure(self) -> str:
        machine = self.machine
        parts = [self._frame(), *self._frame_arrows(), *self._arrows(), *self._boxes(), self._start()]
        labelled = [self.left, *(x - machine.box_width / 2 for x, _ in self.places.values())]
        label_width = max((len(given) for given, then in machine.shared if then in machine.framed), default=0)
        x0 = min(labelled) - (label_width * _LETTER + 14 if label_width else 0) - _MARGIN / 2
        x1 = max(self.right, *(x + machine.box_width / 2 for x, _ in self.places.values())) + _MARGIN / 2
        y0 = min(self.top, *(y for _, y in self.places.values())) - _MARGIN
        y1 = max(self.bottom, *(y for _, y in self.places.values())) + _HEIGHT / 2 + _MARGIN
        marker = f"arrow-{machine.name}"
        head = (
            f'<svg viewBox="{x0:g} {y0:g} {x1 - x0:g} {y1 - y0:g}" role="img" '
            f'aria-label="{escape(machine.title)}" style="max-width:{x1 - x0:g}px">\n'
            f'<defs><marker id="{marker}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            'orient="auto-start-reverse"><path d="M0 0.8 8 4 0 7.2z" class="sm-head"/></marker></defs>\n'
        )
        return f'<figure class="sm">\n{head}' + "\n".join(parts) + "\n</svg>\n</figure>"

    def _frame(self) -> str:
        return (
            f'<rect class="sm-frame" x="{self.left:g}" y="{self.top:g}" width="{self.right - self.left:g}" '
            f'height="{self.bottom - self.top:g}" rx="12"/>'
        )

    def _boxes(self) -> Iterator[str]:
        width = self.machine.box_width
        for state, (x, y) in self.places.items():
            final = "" if self.machine.table[state] else " sm-final"
            yield (
                f'<g class="sm-state{final}" data-state="{escape(state)}">'
                f'<rect x="{x - width / 2:g}" y="{y - _HEIGHT / 2:g}" '
                f'width="{width:g}" height="{_HEIGHT:g}" rx="8"/>'
                f'<text x="{x:g}" y="{y + 4:g}">{escape(state)}</text></g>'
            )

    def _start(self) -> str:
        x, y = self.places[self.machine.initial]
        above = y - _HEIGHT / 2
        return (
            f'<circle class="sm-start" cx="{x:g}" cy="{above - 20:g}" r="4"/>'
            f'<path class="sm-arrow" d="M{x:g} {above - 16:g}V{above:g}" marker-end="{self._marker()}"/>'
        )

    def _marker(self) -> str:
        return f"url(#arrow-{self.machine.name})"

    def _frame_arrows(self) -> Iterator[str]:
        """Yield the arrows of transitions that all framed states have in common."""
        machine = self.machine
        half = machine.box_width / 2
        for then, inputs in _by_target(machine.shared).items():
            x, y = self.places[then]
            meant = {(state, given, then) for state in machine.framed for given in inputs}
            if then in machine.framed:
                start, end = (self.left, y), (x - half, y)
                label = self._label(inputs, (self.left - 8, y), anchor="end")
            elif y > self.bottom:
                start, end = (x, self.bottom), (x, y - _HEIGHT / 2)
                label = self._label(inputs, (x + 8, (start[1] + end[1]) / 2), anchor="start")
            else:
                start, end = (self.right, y), (x - half, y)
                middle = (start[0] + end[0]) / 2
                label = self._label(inputs, (middle - 3, y - len(inputs) * _LINE / 2 - 4))
            dot = f'<circle class="sm-dot" cx="{start[0]:g}" cy="{start[1]:g}" r="3"/>'
            yield self._group(meant, f"{self._line(start, end)}{dot}{label}")

    def _arrows(self) -> Iterator[str]:
        """Yield the arrows of all other transitions."""
        machine = self.machine
        own = {
            (state, given, then)
            for state, given, then in machine.transitions
            if state not in machine.framed or (given, then) not in machine.shared
        }
        pairs: dict[tuple[str, str], list[str]] = {}
        for state, given, then in sorted(own):
            pairs.setdefault((state, then), []).append(given)
        for (state, then), inputs in pairs.items():
            meant = {(state, given, then) for given in inputs}
            if state == then:
                yield self._group(meant, self._loop(state, inputs))
                continue
            if bend := machine.bends.get((state, then)):
                yield self._group(meant, self._curve(state, then, bend, inputs))
                continue
            start, end = self._between(state, then, both=(then, state) in pairs)
            part = 0.33 if (then, state) in pairs else 0.4
            at = (start[0] + part * (end[0] - start[0]), start[1] + part * (end[1] - start[1]))
            if start[1] == end[1]:
                room = abs(end[0] - start[0]) > 150
                at = (
                    start[0] + (0.25 if room else 0.5) * (end[0] - start[0]) - 2,
                    at[1] - len(inputs) * _LINE / 2 - 4,
                )
            elif start[0] == end[0] and len(inputs[0]) > 8:
                yield self._group(
                    meant, self._line(start, end) + self._label(inputs, (start[0] + 8, at[1]), anchor="start")
                )
                continue
            yield self._group(meant, self._line(start, end) + self._label(inputs, at))

    def _loop(self, state: str, inputs: list[str]) -> str:
        x, y = self.places[state]
        top = y - _HEIGHT / 2
        path = f"M{x - 18:g} {top:g}C{x - 26:g} {top - 30:g} {x + 26:g} {top - 30:g} {x + 18:g} {top:g}"
        label = self._label(inputs, (x, top - 26 - len(inputs) * _LINE / 2))
        return f'<path class="sm-arrow" d="{path}" marker-end="{self._marker()}"/>{label}'

    def _curve(self, state: str, then: str, bend: Point, inputs: list[str]) -> str:
        ends = []
        for x, y in (self.places[state], self.places[then]):
            length = math.hypot(bend[0] - x, bend[1] - y)
            ends.append(self._edge((x, y), (x, y), ((bend[0] - x) / length, (bend[1] - y) / length)))
        (x0, y0), (x1, y1) = ends
        path = f"M{x0:g} {y0:g}Q{bend[0]:g} {bend[1]:g} {x1:g} {y1:g}"
        label = self._label(inputs, ((x0 + 2 * bend[0] + x1) / 4, (y0 + 2 * bend[1] + y1) / 4))
        return f'<path class="sm-arrow" d="{path}" marker-end="{self._marker()}"/>{label}'

    def _between(self, state: str, then: str, *, both: bool) -> tuple[Point, Point]:
        """A line from box to box, moved aside where another comes back."""
        (x0, y0), (x1, y1) = self.places[state], self.places[then]
        length = math.hypot(x1 - x0, y1 - y0)
        ux, uy = (x1 - x0) / length, (y1 - y0) / length
        aside = 12 if both else 0
        dx, dy = -uy * aside, ux * aside
        return (
            self._edge((x0, y0), (x0 + dx, y0 + dy), (ux, uy)),
            self._edge((x1, y1), (x1 + dx, y1 + dy), (-ux, -uy)),
        )

    def _edge(self, centre: Point, start: Point, way: Point) -> Point:
        """Where a ray from inside a box leaves it."""
        half = self.machine.box_width / 2, _HEIGHT / 2
        steps = [
            (centre[axis] + math.copysign(half[axis], way[axis]) - start[axis]) / way[axis]
            for axis in (0, 1)
            if abs(way[axis]) > 1e-9
        ]
        step = min(steps)
        return round(start[0] + step * way[0], 1), round(start[1] + step * way[1], 1)

    def _line(self, start: Point, end: Point) -> str:
        path = f"M{start[0]:g} {start[1]:g}L{end[0]:g} {end[1]:g}"
        return f'<path class="sm-arrow" d="{path}" marker-end="{self._marker()}"/>'

    @staticmethod
    def _label(lines: list[str], middle: Point, anchor: str = "middle") -> str:
        first = middle[1] - (len(lines) - 1) * _LINE / 2 + 4
        spans = "".join(
            f'<tspan x="{middle[0]:g}" y="{first + index * _LINE:g}">{escape(line)}</tspan>'
            for index, line in enumerate(lines)
        )
        return f'<text class="sm-label" text-anchor="{anchor}">{spans}</text>'

    @staticmethod
    def _group(meant: set[Transition], inside: str) -> str:
        named = sorted(meant)
        title = "; ".join(f"{state}, {given}: {then}" for state, given, then in named)
        data = ";".join(" > ".join(transition) for transition in named)
        return f'<g data-transitions="{escape(data)}"><title>{escape(title)}</title>{inside}</g>'


def _by_target(shared: set[tuple[str, str]]) -> dict[str, list[str]]:
    targets: dict[str, list[str]] = {}
    for given, then in sorted(shared):
        targets.setdefault(then, []).append(given)
    return targets


def transition_table(machine: Machine) -> str:
    """Return a description in words, for people who do not see the drawing."""
    lines = ["| in | comes | then |", "|---|---|---|"]
    for state, row in machine.table.items():
        for then, inputs in _by_target({(given, then) for given, then in row.items()}).items():
            lines.append(f"| `{state}` | {', '.join(f'`{given}`' for given in inputs)} | `{then}` |")
    return "\n".join(lines)
