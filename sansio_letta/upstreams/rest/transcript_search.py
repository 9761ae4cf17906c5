"""Which conversation a transcript continues, if the request does not name its chat.

The summary of such a conversation has a digest of the caller's scope and of the first user message. Several
chats may begin with the same word. They are told apart by what was said afterwards: each user message carries a
mark in Letta, and the agent's answers are compared with those that the client shows. A conversation fits if the
client's transcript goes as far as its last message, so a chat never continues in one that went another way; if
none fits, the transcript gets a new conversation, which begins with its history.
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final

from ...turn.request import Mark, TranscriptChat
from . import letta
from .agents import pending_calls

#: Conversations that are looked at for one transcript.
MAX_CANDIDATE_COUNT: Final = 8


class Fit(IntEnum):
    """How well a conversation fits a transcript."""

    NONE = 0  #: it has a user message that the transcript does not have
    EMPTY = 1  #: nothing was said in it: its first turn failed
    OTHER_REPLY = 2  #: the user messages are the transcript's, but the client shows another answer
    NO_REPLY = 3  #: the client shows no answer
    EXACT = 4


def compare(chat: TranscriptChat, data: bytes) -> Fit:
    """Return how well a conversation fits a transcript.

    :param data: the last messages of the conversation, newest first, as JSON.
    :raises RemoteProtocolError: if it is not a list of messages.
    """
    if letta.is_empty(data):
        return Fit.EMPTY
    if chat.call_ids & {call.call_id for call in pending_calls(letta.decode_last_message(data))}:
        return Fit.EXACT
    listed = letta.decode_listing(data, newest_first=True)
    at, mark = _last_mark(listed)
    if mark is None:
        return Fit.NONE if chat.steps else Fit.EXACT
    step = next((step for step in reversed(chat.steps) if step.mark == mark), None)
    if step is None:
        return Fit.NONE
    if step.reply is None:
        return Fit.NO_REPLY
    replies = (message.content for message in listed[at:] if message.message_type == "assistant_message")
    return Fit.EXACT if _is_shown(step.reply, replies) else Fit.OTHER_REPLY


def _last_mark(listed: Sequence[letta.ListedMessage]) -> tuple[int, Mark | None]:
    """The last user message that has a mark, and its index."""
    for index in range(len(listed) - 1, -1, -1):
        if listed[index].message_type == "user_message" and (mark := Mark.read(listed[index].otid)):
            return index, mark
    return 0, None


def _is_shown(reply: str, replies: Iterable[str]) -> bool:
    """Whether a client shows one of these answers, or as much of it as it has received.

    It may join several of one turn.
    """
    shown = reply.strip()
    return any(text and (text in shown or shown in text) for text in map(str.strip, replies))
