"""The contents of an inspection: passages of rows, each an item of a recording and its effects."""

from collections.abc import Iterable
from enum import Enum

from attrs import evolve, field, frozen

from ..errors import Kept, SansioLettaError
from ..turn.events import CallStarted, Usage
from ..turn.phases import Phase
from ..turn.upstream import RunState
from ..upstreams.rest.commands import Command
from .format import RecordingHead


class Kind(Enum):
    """What a row shows."""

    CLIENT = "client"
    """What the client did or got: its request, the response, or that it disconnected."""
    REQUEST = "request"
    """A request to Letta."""
    HEAD = "head"
    """The status and the headers of Letta's response."""
    MESSAGE = "message"
    """One event of Letta's stream."""
    PING = "ping"
    ANSWER = "answer"
    """A complete body that is not a stream."""
    REST = "rest"
    """Bytes of a stream that did not make an event."""
    END = "end"


class Part(Enum):
    """Kinds of effects of an item."""

    EVENT = "event"
    COMMAND = "command"
    FAILURE = "failure"


@frozen(kw_only=True)
class Outcome:
    """One effect of an item, or several in a row with the same name."""

    part: Part
    name: str  #: the class of the event or the command
    text: str = field(default="", repr=False)
    payload: str = field(default="", repr=False)  #: what was sent to the client, or the body of a command
    chunk_count: int = 0
    count: int = 1  #: events with this name that are joined


@frozen(kw_only=True)
class Row:
    """One item, when it arrived, and its effects."""

    x: int  #: the exchange; 0 is the client's own
    t: float  #: seconds since the recording began
    gap: float  #: seconds since the previous row
    kind: Kind
    name: str  #: a message's type, a request's method and path, a status
    text: str = field(default="", repr=False)  #: its content in short
    payload: str = field(default="", repr=False)  #: all of it
    phase: Phase | None = None  #: that of the turn after the item; None: no turn received it
    run_state: RunState | None = None  #: that of the run, once there is one
    outcomes: tuple[Outcome, ...] = ()
    whole: str | None = None  #: identifies the message that it is a fragment of


@frozen(kw_only=True)
class Fold:
    """Rows that belong together: the fragments of one message or call, or a single row."""

    rows: tuple[Row, ...]

    @property
    def end_t(self) -> float:
        """When the last of them arrived."""
        return self.rows[-1].t

    @property
    def text(self) -> str:
        """Their texts, joined."""
        first = self.rows[0]
        return first.text if first.kind is Kind.PING else "".join(row.text for row in self.rows)

    @property
    def rate(self) -> float | None:
        """Rows per second, if time passed between them."""
        span = self.end_t - self.rows[0].t
        return (len(self.rows) - 1) / span if span > 0 else None

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The effects of all rows; adjacent ones with the same name are joined."""
        runs: list[list[Outcome]] = []
        for outcome in (outcome for row in self.rows for outcome in row.outcomes):
            if runs and runs[-1][0].name == outcome.name:
                runs[-1].append(outcome)
            else:
                runs.append([outcome])
        return tuple(
            evolve(
                run[0],
                text="".join(outcome.text for outcome in run),
                payload="".join(outcome.payload for outcome in run),
                chunk_count=sum(outcome.chunk_count for outcome in run),
                count=len(run),
            )
            for run in runs
        )


def fold(rows: Iterable[Row]) -> tuple[Fold, ...]:
    """Group the rows that belong together."""
    folds: list[list[Row]] = []
    for row in rows:
        last = folds[-1][-1] if folds else None
        if last is not None and row.whole is not None and (last.x, last.whole) == (row.x, row.whole):
            folds[-1].append(row)
        else:
            folds.append([row])
    return tuple(Fold(rows=tuple(found)) for found in folds)


@frozen(kw_only=True)
class Passage:
    """One turn, or one exchange that belongs to no turn."""

    number: int | None  #: that of the turn, from 1; None: no turn
    rows: tuple[Row, ...]
    finish: str | None = None  #: the finish reason
    usage: Usage | None = None
    error: SansioLettaError | None = None
    kept: Kept | None = None  #: after a failure: what it left in the agent's memory
    left: bool = False  #: the client disconnected
    unanswered: Command | None = None  #: a request of the turn that is not in the recording
    as_recorded: bool | None = None  #: whether the recorded client would get the same today; None: no client

    @property
    def t(self) -> float:
        """When it began."""
        return self.rows[0].t

    @property
    def duration(self) -> float:
        """Seconds from its first row to its last."""
        return max(row.t for row in self.rows) - self.t

    @property
    def first_chunk_duration(self) -> float | None:
        """Seconds from its first row to the first one that made a chunk."""
        made = (row.t for row in self.rows if any(outcome.chunk_count for outcome in row.outcomes))
        t = next(made, None)
        return None if t is None else t - self.t

    @property
    def chunk_count(self) -> int:
        return sum(outcome.chunk_count for row in self.rows for outcome in row.outcomes)

    @property
    def call_count(self) -> int:
        """Number of calls of client tools."""
        return sum(outcome.name == CallStarted.__name__ for row in self.rows for outcome in row.outcomes)


@frozen(kw_only=True)
class Inspection:
    """The contents of a recording, in a form to be shown."""

    head: RecordingHead
    passages: tuple[Passage, ...]  #: in the order of their beginnings
    cut_line: int | None = None  #: the number of a last line that was not written to its end

    @property
    def duration(self) -> float:
        """Seconds from the first row to the last."""
        times = [row.t for passage in self.passages for row in passage.rows]
        return max(times) - min(times) if times else 0.0
