"""The phases of a turn, and what leads from one to the next.

::

    FINDING --> QUEUED --> (SEARCHING) --> (MATCHING) --> (REVIEWING)
        --> (LOOKING) --> SENDING <-> STREAMING --> DONE
                ^             |           ^
                +-- refused --+           |
                     once     v           |
                  (SEEKING) --> RECOVERING

- FINDING asks which agent has the name, unless the caller remembers.
- QUEUED waits until the turns that came before in this thread are over. Once a chat's conversation is known,
  the turn may have to wait again, for one that names the conversation by its id.
- SEARCHING finds the conversation of a chat, or makes it.
- MATCHING reads the last messages of the thread, to find out what the agent has heard of the transcript.
- REVIEWING looks what became of an earlier turn for the same request: nothing is said to the agent twice.
- LOOKING asks what the agent waits for. Results are never sent unlooked: with nothing pending they are not
  refused but start a run of their own (stale_tool_result.jsonl). A message is sent unlooked, to save the round
  trip; if calls are pending it is refused, and the turn looks, denies the calls in the same request as the
  message, and sends again (pending_denied_with_message.jsonl).
- PREPARING does what must be done before the run: attach the client's tools, answer ahead.
- SENDING starts the run, and STREAMING passes its events on.
- RECOVERING follows a run whose stream was lost, or that has none. A stream that is numbered is taken up again
  behind the last item that was read (background_resume.jsonl); of another run the end is awaited, and what was
  kept is told.
- A run may stop for a human's approval. If no human is asked (`Config.approvals`), the turn answers and goes
  on with the next run, from STREAMING to SENDING again: for the client it is one answer. So it is when a reply
  that must be of some form (`TurnRequest.reply_format`) is not: the agent is asked for it once more.
- CANCELLING ends a run that is not read any more: it goes on without a reader (disconnect.jsonl). A run is
  cancelled by its name, which comes with the first item of its stream, so a turn whose client disconnects
  before that is LEAVING until then.
- SEEKING looks for a run whose stream will not name it any more, since it broke, or since there is no time left
  to read it. Then it is ended, or its end awaited.
- CLEANING, however the turn ends, undoes what was for this turn alone.
"""

from enum import Enum, auto
from typing import Final


class Phase(Enum):
    """What a turn is doing."""

    READY = auto()
    FINDING = auto()
    QUEUED = auto()
    SEARCHING = auto()
    MATCHING = auto()
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


_OVER: Final = {Phase.DONE: "ended", Phase.FAILED: "failed"}
_ENDS: Final = {**_OVER, Phase.CLEANING: "to be cleaned up"}
_RUNS: Final = {Phase.PREPARING: "to be prepared", Phase.SENDING: "known and prepared"}
_MATCHED: Final = {**_RUNS, Phase.REVIEWING: "sent before", Phase.LOOKING: "results came"}
_OPENED: Final = {**_MATCHED, Phase.MATCHING: "thread unknown"}

#: What follows a phase, and why.
TRANSITIONS: Final[dict[Phase, dict[Phase, str]]] = {
    Phase.READY: {**_ENDS, Phase.FINDING: "agent unknown", Phase.QUEUED: "agent known"},
    Phase.FINDING: {**_ENDS, Phase.QUEUED: "agent known"},
    Phase.QUEUED: {**_ENDS, **_OPENED, Phase.SEARCHING: "conversation unknown"},
    Phase.SEARCHING: {
        **_ENDS,
        **_OPENED,
        Phase.FINDING: "agent gone",
        Phase.QUEUED: "conversation in use",
    },
    Phase.MATCHING: {
        **_ENDS,
        **_MATCHED,
        Phase.QUEUED: "another client is called",
        Phase.FINDING: "agent gone",
        Phase.SEARCHING: "conversation gone",
    },
    Phase.REVIEWING: {**_ENDS, **_RUNS, Phase.LOOKING: "results came"},
    Phase.LOOKING: {
        **_ENDS,
        Phase.MATCHING: "results of other calls",
        **_RUNS,
        Phase.FINDING: "agent gone",
        Phase.SEARCHING: "conversation gone",
    },
    Phase.PREPARING: {**_ENDS, Phase.SENDING: "known and prepared", Phase.FINDING: "agent gone"},
    Phase.SENDING: {
        **_ENDS,
        Phase.STREAMING: "stream begun",
        Phase.FINDING: "agent gone",
        Phase.SEARCHING: "conversation gone",
        Phase.LOOKING: "refused",
        Phase.LEAVING: "client left",
        Phase.SEEKING: "name unknown",
    },
    Phase.STREAMING: {
        **_ENDS,
        **_RUNS,
        Phase.LOOKING: "refused",
        Phase.RECOVERING: "stream lost",
        Phase.LEAVING: "client left",
        Phase.SEEKING: "name unknown",
        Phase.CANCELLING: "to be ended",
    },
    Phase.RECOVERING: {
        **_ENDS,
        **_RUNS,
        Phase.LOOKING: "refused",
        Phase.STREAMING: "stream found",
        Phase.CANCELLING: "to be ended",
    },
    Phase.LEAVING: {**_ENDS, Phase.SEEKING: "name unknown", Phase.CANCELLING: "to be ended"},
    Phase.SEEKING: {**_ENDS, Phase.RECOVERING: "run found", Phase.CANCELLING: "to be ended"},
    Phase.CANCELLING: _ENDS,
    Phase.CLEANING: _OVER,
    Phase.DONE: {},
    Phase.FAILED: {},
}

#: The turn has come to its end.
OVER: Final = (Phase.DONE, Phase.FAILED)
#: The turn is ending already: nothing interrupts it.
ENDING: Final = (Phase.SEEKING, Phase.CANCELLING, Phase.CLEANING)
#: A run may go on that cannot be ended before it is known which it is.
UNNAMED: Final = (Phase.LEAVING, Phase.SEEKING)
