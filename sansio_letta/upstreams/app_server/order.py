"""Whether the pieces of a conversation's turns are complete, and which of them came on both sockets."""

from enum import Enum, auto

from attrs import define

from .frames import Json, TurnEnd


class Place(Enum):
    """Where a piece stands among those before it."""

    NEXT = auto()
    REPEATED = auto()  #: the other socket had it
    AFTER_GAP = auto()  #: others are missing


#: Looking up a member of an Enum runs Python code, and these are needed for every token.
_NEXT, _REPEATED, _AFTER_GAP = Place.NEXT, Place.REPEATED, Place.AFTER_GAP


@define(eq=False)
class Order:
    """The order of one conversation's pieces: those of a run are numbered from 1 on, without gaps."""

    _run_id: str = ""  #: of the last piece with a number
    _number: int = 0
    _turn_id: str | None = None  #: the last that ended

    def place(self, body: Json, *, from_start: bool) -> Place:
        """Return where a piece stands.

        :param from_start: whether the first of a run must be its first piece; another program's may be under
            way when this process begins to follow.
        """
        run_id, number = body.get("run_id"), body.get("seq_id")
        if type(run_id) is not str or type(number) is not int:
            return _NEXT
        last = self._number if self._run_id == run_id else 0
        if last and number <= last:
            return _REPEATED
        is_next = number == last + 1 or not (last or from_start)
        self._run_id, self._number = run_id, number
        return _NEXT if is_next else _AFTER_GAP

    def is_repeated(self, end: TurnEnd) -> bool:
        """Whether the end of a turn was had before."""
        if end.turn_id is None:
            return False
        was_had, self._turn_id = end.turn_id == self._turn_id, end.turn_id
        return was_had
