"""The summaries by which conversations are found: those of chats, of transcripts and of background prompts.

A search for a text finds it anywhere in a summary, and at Letta's REST API some characters of a key would act
as wildcards. So each summary has a digest of what it is found by.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from ..turn.request import Throwaway, task_end

#: Prefix of the summaries of chats. The key follows in quotes, then its digest.
CHAT_MARK: Final = "letta-proxy chat: "
#: Prefix of the summaries of background prompts. The request's token follows, then the time at which its turn
#: is over, so that another process need not know how long turns may take in this one, then any pending calls.
TASK_MARK: Final = "letta-proxy task: "
_UNTIL: Final = " until "
_CALLS: Final = " calls "
#: Limit of calls in a summary. One is enough to find it.
_MAX_CALL_COUNT: Final = 32
#: Prefix of the summaries of chats that are known by their transcripts. A digest of the first message
#: follows.
TRANSCRIPT_MARK: Final = "letta-proxy transcript: "


def task_summary(task: Throwaway) -> str:
    """Return the summary of a background prompt's conversation, by which it is found."""
    return f"{TASK_MARK}{task.token}{_UNTIL}{task.until}"


def waiting_summary(task: Throwaway, call_ids: Sequence[str], seconds: float) -> str:
    """Return that summary with pending calls.

    :param seconds: how long the client may take to send the results, once the turn is over.
    """
    digests = " ".join(map(summary_digest, call_ids[:_MAX_CALL_COUNT]))
    return f"{TASK_MARK}{task.token}{_UNTIL}{task_end(task.until, seconds)}{_CALLS}{digests}"


def waits_for(summary: str | None, call_id: str) -> bool:
    """Return whether a background prompt's conversation waits for the result of a call."""
    head, _, digests = (summary or "").partition(_CALLS)
    return head.startswith(TASK_MARK) and summary_digest(call_id) in digests.split(" ")


def task_deadline(summary: str) -> int | None:
    """Return the Unix time, in seconds, at which the turn of a background prompt is over.

    :return: None if the summary does not contain it, like those of earlier versions.
    """
    until = summary.removeprefix(TASK_MARK).partition(_UNTIL)[2].partition(_CALLS)[0]
    return int(until) if until.isascii() and until.isdigit() and len(until) <= 15 else None


def chat_summary(key: str) -> str:
    """Return the summary of a chat's conversation."""
    return f"{summary_without_digest(key)} {summary_digest(key)}"


def chat_key(summary: str) -> str:
    """Return the key in a summary that begins with `CHAT_MARK`."""
    rest = summary.removeprefix(CHAT_MARK)
    quoted, _, digest = rest.rpartition(" ")
    if quoted.startswith('"') and quoted.endswith('"') and digest == summary_digest(quoted[1:-1]):
        rest = quoted
    return rest.removeprefix('"').removesuffix('"')


def summary_without_digest(key: str) -> str:
    """Return the summary as earlier versions wrote it, without a digest."""
    return f'{CHAT_MARK}"{key}"'


def summary_digest(key: str) -> str:
    """Return the digest by which a summary is found."""
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
