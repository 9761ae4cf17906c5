"""Which thread of an agent a request is of: its own, a chat's conversation, or one that is thrown away.

A chat has a conversation of its own at Letta, found again by its summary, which holds the chat's key: so
replicas and restarts agree without a database. Letta's search is an ILIKE without escapes, for which some
characters of a key mean something else; so the summary holds a digest of the key, too, and that is searched.
Prompts that are not the user's, like a chat program's for titles, run in a conversation that is deleted
afterwards, and the agent's own history holds none of them. Such a prompt may bring tools: then its conversation
lives until the agent calls none of them any more, and its summary holds digests of the calls that it waits for,
by which the request with their results finds it.
"""

from collections.abc import Generator, Sequence
from hashlib import sha256
from typing import Final, TypeAlias

from attrs import field, frozen

from ...errors import RequestError, SansioLettaError
from ...turn.events import ConversationThread
from ...turn.request import CONVERSATION_HEADER, Chat, NamedConversation, Throwaway, task_end
from . import letta
from .commands import (
    PAGE_COUNT,
    Command,
    CreateConversation,
    DeleteConversation,
    FetchConversation,
    FetchLast,
    FindConversations,
)
from .response import Response

#: Begins the summaries of chats' conversations; the chat's key follows, in quotes, and its digest.
CHAT_MARK: Final = "letta-proxy chat: "
#: Begins the summaries of conversations that are thrown away; the request's id follows, and until when its turn
#: may take, so that no other process need know how long this one lets turns take. Behind it come the calls that
#: the agent waits for, if it does.
TASK_MARK: Final = "letta-proxy task: "
_UNTIL: Final = " until "
_CALLS: Final = " calls "
#: Calls named in a summary. One is enough to find it by.
_MAX_CALL_COUNT: Final = 32

_LISTING: Final = "GET /v1/conversations/?agent_id=... at Letta lists them."

#: Pages of one search. A digest fills none; a key of wildcards alone finds all the agent's chats without one.
MAX_PAGE_COUNT: Final = 100


def task_summary(task: Throwaway) -> str:
    """The summary of a conversation for one prompt, by which it is found."""
    return f"{TASK_MARK}{task.token}{_UNTIL}{task.until}"


def waiting_summary(task: Throwaway, call_ids: Sequence[str], seconds: float) -> str:
    """The same while the agent waits for results.

    :param seconds: how long the client may take to bring them, once the turn is over.
    """
    digests = " ".join(map(_digest, call_ids[:_MAX_CALL_COUNT]))
    return f"{TASK_MARK}{task.token}{_UNTIL}{task_end(task.until, seconds)}{_CALLS}{digests}"


def _waits_for(summary: str | None, call_id: str) -> bool:
    head, _, digests = (summary or "").partition(_CALLS)
    return head.startswith(TASK_MARK) and _digest(call_id) in digests.split(" ")


def task_deadline(summary: str) -> int | None:
    """Until when the turn may take that a throw-away conversation is for, Unix time in seconds.

    :return: None if it does not say: earlier versions did not.
    """
    until = summary.removeprefix(TASK_MARK).partition(_UNTIL)[2].partition(_CALLS)[0]
    return int(until) if until.isascii() and until.isdigit() and len(until) <= 15 else None


@frozen(kw_only=True)
class FoundThread:
    """A conversation that a wish came to.

    :param is_new: nothing was ever said in it.
    :param listing: its last messages, if they were asked for.
    """

    thread: ConversationThread
    is_new: bool = False
    listing: bytes | None = field(default=None, repr=False)


Search: TypeAlias = Generator[Command, Response | None, FoundThread]


def find_thread(agent_id: str, choice: Chat | NamedConversation | Throwaway, count: int = 0) -> Search:
    """Find a conversation, or make it.

    :param count: messages of a chat's conversation to read, to find out what the agent has heard.
    :raises RequestError: if the agent has no conversation of a given id.
    :raises SansioLettaError: if Letta does not tell.
    """
    match choice:
        case Chat(key=key):
            return _find_chat(agent_id, key, count)
        case NamedConversation(conversation_id=conversation_id):
            return _check_given(agent_id, conversation_id)
        case Throwaway() as task:
            return _find_task(agent_id, task)


def chat_summary(key: str) -> str:
    """The summary of a chat's conversation."""
    return f"{_summary_without_digest(key)} {_digest(key)}"


def chat_key(summary: str) -> str:
    """The key in a summary that begins with `CHAT_MARK`."""
    rest = summary.removeprefix(CHAT_MARK)
    quoted, _, digest = rest.rpartition(" ")
    if quoted.startswith('"') and quoted.endswith('"') and digest == _digest(quoted[1:-1]):
        rest = quoted
    return rest.removeprefix('"').removesuffix('"')


def _summary_without_digest(key: str) -> str:
    """The summary as it was before it had a digest."""
    return f'{CHAT_MARK}"{key}"'


def _digest(key: str) -> str:
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _find_chat(agent_id: str, key: str, count: int) -> Search:
    summary = chat_summary(key)
    found = yield from _list(agent_id, _digest(key), summary)
    if not found:
        # In Letta's search a backslash hides the character behind it; an underscore is any one character.
        earlier = _summary_without_digest(key)
        found = yield from _list(agent_id, earlier.replace("\\", "_"), earlier)
    if found:
        return (yield from _look(found[0].id, count))
    made = (yield from _make(agent_id, summary)).thread
    # Another process may have made one meanwhile: all agree on the oldest.
    found = yield from _list(agent_id, _digest(key), summary)
    if found and found[0].id != made.conversation_id:
        yield DeleteConversation(conversation_id=made.conversation_id)
        return (yield from _look(found[0].id, count))
    return FoundThread(thread=made, is_new=True)


def _find_task(agent_id: str, task: Throwaway) -> Search:
    for call_id in task.call_ids[:1]:
        response = yield FindConversations(agent_id=agent_id, summary=_digest(call_id))
        assert response is not None
        for item in letta.decode_conversations(response.data):
            if _waits_for(item.summary, call_id):
                return FoundThread(thread=ConversationThread(conversation_id=item.id))
    return (yield from _make(agent_id, task_summary(task)))


def _look(conversation_id: str, count: int) -> Search:
    """One that was made may be empty still: its first turn left no trace if it failed."""
    response = yield FetchLast(conversation_id=conversation_id, count=max(count, 1))
    assert response is not None
    thread = ConversationThread(conversation_id=conversation_id)
    return FoundThread(thread=thread, is_new=letta.is_empty(response.data), listing=response.data)


def delete_strays(agent_id: str, task: Throwaway) -> Generator[Command, Response | None, None]:
    """Delete what was made for a request though no answer said so. Nothing is raised: it is swept later."""
    response = yield FindConversations(agent_id=agent_id, summary=task_summary(task))
    try:
        found = letta.decode_conversations(response.data) if response is not None else ()
    except SansioLettaError:
        return
    for item in found:
        if item.summary == task_summary(task):
            yield DeleteConversation(conversation_id=item.id)


def _list(
    agent_id: str, search: str, summary: str
) -> Generator[Command, Response | None, list[letta.Conversation]]:
    """The conversations of this summary, the oldest first.

    :param search: what Letta looks for anywhere in a summary, whatever the case of its letters.
    """
    same: list[letta.Conversation] = []
    after: str | None = None
    for _ in range(MAX_PAGE_COUNT):
        response = yield FindConversations(agent_id=agent_id, summary=search, after=after)
        assert response is not None
        page = letta.decode_conversations(response.data)
        same += [item for item in page if item.summary == summary]
        # A page that brings nothing new would be asked for again and again.
        if len(page) < PAGE_COUNT or page[-1].id == after:
            break
        after = page[-1].id
    return sorted(same, key=lambda item: (item.created_at or "", item.id))


def _make(agent_id: str, summary: str) -> Search:
    response = yield CreateConversation(agent_id=agent_id, summary=summary)
    assert response is not None
    conversation = letta.decode_conversation(response.data)
    return FoundThread(thread=ConversationThread(conversation_id=conversation.id), is_new=True)


def _check_given(agent_id: str, conversation_id: str) -> Search:
    response = yield FetchConversation(conversation_id=conversation_id)
    assert response is not None
    # Whether another agent has one of this id is not the client's to know: one answer for both.
    if response.status in (404, 422) or letta.decode_conversation(response.data).agent_id != agent_id:
        raise no_conversation("the agent has no conversation of this id")
    return FoundThread(thread=ConversationThread(conversation_id=conversation_id))


def no_conversation(why: str) -> RequestError:
    """A conversation that the client named is not there."""
    return RequestError(
        f"{CONVERSATION_HEADER}: {why}. {_LISTING}",
        param=CONVERSATION_HEADER.lower(),
        code="conversation_not_found",
        status=404,
    )
