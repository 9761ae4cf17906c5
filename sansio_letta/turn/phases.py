"""The phases of a turn, and the table of what leads from one to the next. What they mean stands in `turn`."""

from enum import Enum, auto
from typing import Final


class Phase(Enum):
    """Which exchange with Letta is under way."""

    READY = auto()
    FINDING = auto()
    QUEUED = auto()
    SEARCHING = auto()
    REVIEWING = auto()
    LOOKING = auto()
    PREPARING = auto()
    SENDING = auto()
    STREAMING = auto()
    RECOVERING = auto()
    LEAVING = auto()
    SEEKING = auto()
    CANCELLING = auto()
    CLEANING = auto()
    DONE = auto()
    FAILED = auto()


class Step(Enum):
    """What moves the turn from one phase to the next."""

    FIND = auto()  #: the agent is not known
    QUEUE = auto()  #: the agent is known
    SEARCH = auto()  #: the conversation is not known
    REVIEW = auto()  #: the request was here before
    LOOK = auto()  #: results came, and what is pending is not known
    PREPARE = auto()  #: something must be done before the run
    SEND = auto()  #: all is known, and prepared
    SETTLE = auto()  #: the run waits for approvals, and no human is asked
    AGAIN = auto()  #: the reply is not what the client wishes, and the agent is asked for it once more
    OPENED = auto()  #: the run's stream has begun, or goes on
    GONE = auto()  #: the remembered agent does not exist any more
    REFUSED = auto()  #: what is pending does not fit the input
    LOST = auto()  #: the stream ended before the run, or there was none
    CLEAN = auto()  #: all is said, and something was for this turn alone
    ENDED = auto()
    SEEK = auto()  #: the stream will not name the run any more
    CANCEL = auto()  #: the run must be ended
    ABANDON = auto()  #: the client left before the run had a name
    FAIL = auto()


_OVER: Final = {Step.FAIL: Phase.FAILED, Step.ENDED: Phase.DONE}
_ENDS: Final = {**_OVER, Step.CLEAN: Phase.CLEANING}

TRANSITIONS: Final[dict[Phase, dict[Step, Phase]]] = {
    Phase.READY: {**_ENDS, Step.FIND: Phase.FINDING, Step.QUEUE: Phase.QUEUED},
    Phase.FINDING: {**_ENDS, Step.QUEUE: Phase.QUEUED},
    Phase.QUEUED: {
        **_ENDS,
        Step.SEARCH: Phase.SEARCHING,
        Step.REVIEW: Phase.REVIEWING,
        Step.LOOK: Phase.LOOKING,
        Step.PREPARE: Phase.PREPARING,
        Step.SEND: Phase.SENDING,
    },
    Phase.SEARCHING: {
        **_ENDS,
        Step.GONE: Phase.FINDING,
        Step.REVIEW: Phase.REVIEWING,
        Step.LOOK: Phase.LOOKING,
        Step.PREPARE: Phase.PREPARING,
        Step.SEND: Phase.SENDING,
    },
    Phase.REVIEWING: {
        **_ENDS,
        Step.LOOK: Phase.LOOKING,
        Step.PREPARE: Phase.PREPARING,
        Step.SEND: Phase.SENDING,
        Step.AGAIN: Phase.SENDING,
    },
    Phase.LOOKING: {
        **_ENDS,
        Step.PREPARE: Phase.PREPARING,
        Step.SEND: Phase.SENDING,
        Step.GONE: Phase.FINDING,
        Step.SEARCH: Phase.SEARCHING,
    },
    Phase.PREPARING: {**_ENDS, Step.SEND: Phase.SENDING, Step.GONE: Phase.FINDING},
    Phase.SENDING: {
        **_ENDS,
        Step.OPENED: Phase.STREAMING,
        Step.GONE: Phase.FINDING,
        Step.SEARCH: Phase.SEARCHING,
        Step.REFUSED: Phase.LOOKING,
        Step.ABANDON: Phase.LEAVING,
        Step.SEEK: Phase.SEEKING,
    },
    Phase.STREAMING: {
        **_ENDS,
        Step.REFUSED: Phase.LOOKING,
        Step.PREPARE: Phase.PREPARING,
        Step.SETTLE: Phase.SENDING,
        Step.AGAIN: Phase.SENDING,
        Step.LOST: Phase.RECOVERING,
        Step.CANCEL: Phase.CANCELLING,
        Step.ABANDON: Phase.LEAVING,
        Step.SEEK: Phase.SEEKING,
    },
    Phase.RECOVERING: {
        **_ENDS,
        Step.REFUSED: Phase.LOOKING,
        Step.OPENED: Phase.STREAMING,
        Step.PREPARE: Phase.PREPARING,
        Step.SETTLE: Phase.SENDING,
        Step.AGAIN: Phase.SENDING,
        Step.CANCEL: Phase.CANCELLING,
    },
    Phase.LEAVING: {**_ENDS, Step.CANCEL: Phase.CANCELLING, Step.SEEK: Phase.SEEKING},
    Phase.SEEKING: {**_ENDS, Step.LOST: Phase.RECOVERING, Step.CANCEL: Phase.CANCELLING},
    Phase.CANCELLING: _ENDS,
    Phase.CLEANING: _OVER,
    Phase.DONE: {},
    Phase.FAILED: {},
}

#: The turn has come to its end.
OVER: Final = (Phase.DONE, Phase.FAILED)
#: Letta has been told, or is being told.
READING_STREAM: Final = (Phase.STREAMING, Phase.SENDING, Phase.LEAVING)
#: Letta is asked what became of a run.
LOOKING_BACK: Final = (Phase.REVIEWING, Phase.RECOVERING, Phase.SEEKING)
#: A run may go on that cannot be ended before it is known which it is.
UNNAMED: Final = (Phase.LEAVING, Phase.SEEKING)
