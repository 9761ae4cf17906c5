"""The phases of a turn, and the transitions between them.

::

    FINDING --> QUEUED --> (SEARCHING) --> (MATCHING) --> (REVIEWING)
        --> (LOOKING) --> SENDING <-> STREAMING --> DONE
                ^             |           ^
                +-- refused --+           |
                     once     v           |
                  (SEEKING) --> RECOVERING

- FINDING resolves the model's name to an agent, unless the caller remembers it.
- QUEUED waits until the earlier turns in this thread are over. Once a chat's conversation is known, the turn
  may have to wait again, for a turn that names the conversation by its id.
- SEARCHING finds the conversation of a chat, or creates it.
- MATCHING reads the last messages of the thread, to find out what the agent has heard of the transcript.
- REVIEWING looks up what became of an earlier turn for the same request, so that nothing is sent twice.
- LOOKING looks up the pending calls. Tool results are never sent without this: if no call is pending, they
  are not refused but start a run of their own (stale_tool_result.jsonl). A message is sent without looking, to
  save a round trip. If calls are pending, it is refused; the turn then looks them up, denies them in the same
  request as the message, and sends it again (pending_denied_with_message.jsonl).
- PREPARING does what must come before the run: it attaches the client's tools, and sends answers to pending
  calls that cannot be sent with the message.
- SENDING starts the run, and STREAMING passes its events on.
- RECOVERING follows a run whose stream was lost, or that has none. A numbered stream is resumed after the last
  item that was read (background_resume.jsonl). Otherwise the turn waits for the run's end, and sends what was
  stored.
- A run may stop and wait for a human's approval. If no human is to be asked (`Config.approvals`), the turn
  answers and continues with the next run, from STREAMING to SENDING again; the client sees one reply. It
  does the same when a reply does not have the required format (`TurnRequest.reply_format`): the agent is asked
  once more.
- CANCELLING cancels a run that is no longer read, because it would continue without a reader
  (disconnect.jsonl). That takes the run's id, which comes with the first item of its stream, so a turn whose
  client disconnects earlier is LEAVING until then.
- SEEKING searches for a run whose id will not arrive, because its stream broke or there is no time left to read
  it. The run is then cancelled, or its end awaited.
- CLEANING, however the turn ends, undoes what was created for this turn alone.
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

#: The phases that can follow each phase, with the reason.
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
    Phase.REVIEWING: {
        **_ENDS,
        **_RUNS,
        Phase.LOOKING: "results came",
        Phase.MATCHING: "results of other calls",
        Phase.FINDING: "agent gone",
        Phase.SEARCHING: "conversation gone",
    },
    Phase.LOOKING: {
        **_ENDS,
        Phase.MATCHING: "results of other calls",
        Phase.REVIEWING: "results sent before",
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

#: The turn is over.
OVER: Final = (Phase.DONE, Phase.FAILED)
#: The turn is ending, and cannot be interrupted.
ENDING: Final = (Phase.SEEKING, Phase.CANCELLING, Phase.CLEANING)
#: A run may be going on that cannot be cancelled yet, because its id is unknown.
UNNAMED: Final = (Phase.LEAVING, Phase.SEEKING)
