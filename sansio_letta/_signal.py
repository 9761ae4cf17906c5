"""What `next_event` returns when it has no item."""

from enum import Enum, auto


class Signal(Enum):
    """Neither an event nor a command: tells the caller what to do next."""

    NEED_DATA = auto()
    """No item until Letta sends more: wait for it, then call a ``receive_*`` method."""
    WAITING = auto()
    """No item until another turn wakes this one, or a deadline passes; there is nothing to read from Letta."""
    FINISHED = auto()
    """No more items, ever."""

    def __repr__(self) -> str:
        return self.name
