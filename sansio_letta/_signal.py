"""What `next_event` says when it has no item to hand over."""

from enum import Enum, auto


class Signal(Enum):
    """Neither an event nor a command: tells the caller what to do next."""

    NEED_DATA = auto()
    """Nothing to hand over until Letta says more: wait, then call a ``receive_*`` method."""
    WAITING = auto()
    """Nothing to hand over until another turn has ended, or time has passed; Letta has nothing to say."""
    FINISHED = auto()
    """Nothing will ever be handed over again."""

    def __repr__(self) -> str:
        return self.name
