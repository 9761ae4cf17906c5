"""Find or create the conversation of a request.

Each chat has its own conversation in Letta. It is found by its summary, which contains the chat's key, so
replicas and restarts agree without a database. Letta searches summaries with ILIKE and escapes nothing, so some
characters of a key would act as wildcards. Therefore the summary also contains a digest of the key, and the
search is for that.

A background prompt, like a chat program's request for a title, gets a conversation that is deleted afterwards,
so it leaves no trace in the agent's history. If such a prompt has tools, its conversation is kept until the
agent makes no more calls. Its summary then contains digests of the pending calls, by which the request with
their results finds it.
"""

from collections.abc import Generator
from typing import Final, TypeAlias

from attrs import field, frozen

from ...errors import RequestError, SansioLettaError
from ...turn.events import ConversationThread
from ...turn.request import (
    CONVERSATION_HEADER,
    Chat,
    NamedConversation,
    Throwaway,
    TranscriptChat,
)
from ..thread_names import (
    TRANSCRIPT_MARK,
    chat_summary,
    summary_digest,
    summary_without_digest,
    task_summary,
    waits_for,
)
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
from .transcript_search import MAX_CANDIDATE_COUNT, Fit, compare

_LISTING: Final = "To list them, use GET /v1/conversations/?agent_id=... of Letta's API."

#: Limit of pages of one search. A search for a key made of wildcards matches all chats of an agent.
MAX_PAGE_COUNT: Final = 100


@frozen(kw_only=True)
class FoundThread:
    """The conversation that the requested thread resolved to.

    :param is_new: whether it has no messages yet.
    :param listing: its last messages, if they were fetched.
    """

    thread: ConversationThread
    is_new: bool = False
    listing: bytes | None = field(default=None, repr=False)


Search: TypeAlias = Generator[Command, Response | None, FoundThread]


def find_thread(
    agent_id: str, choice: Chat | NamedConversation | TranscriptChat | Throwaway, count: int = 0
) -> Search:
    """Find a conversation, or create it.

    :param count: the number of messages of a chat to read, to find out what the agent has heard.
    :raises RequestError: if the agent has no conversation with the given id.
    :raises SansioLettaError: if the search failed.
    """
    match choice:
        case Chat(key=key):
            return _find_chat(agent_id, key, count)
        case TranscriptChat() as chat:
            return _find_transcript(agent_id, chat, count)
        case NamedConversation(conversation_id=conversation_id):
            return _find_named(agent_id, conversation_id)
        case Throwaway() as task:
            return _find_task(agent_id, task)


def find_chats(agent_id: str, key: str) -> Generator[Command, Response | None, list[letta.Conversation]]:
    """Find a chat's conversation; several if processes created some at the same time, the one in use first."""
    found = yield from _list(agent_id, summary_digest(key), chat_summary(key))
    if found:
        return found
    # In Letta's search a backslash escapes the next character, and an underscore matches any character.
    earlier = summary_without_digest(key)
    return (yield from _list(agent_id, earlier.replace("\\", "_"), earlier))


def list_conversations(
    mark: str = "", agent_id: str | None = None
) -> Generator[Command, Response | None, list[letta.Conversation]]:
    """List conversations page by page, newest first.

    :param mark: that the summaries begin with; empty for all conversations.
    :param agent_id: None for all agents.
    """
    found: list[letta.Conversation] = []
    after: str | None = None
    while True:
        response = yield FindConversations(summary=mark, agent_id=agent_id, after=after)
        assert response is not None
        page = letta.decode_conversations(response.data)
        # Letta searches for the text anywhere in a summary.
        found += [item for item in page if (item.summary or "").startswith(mark)]
        # Without this, a page without anything new would be requested forever.
        if len(page) < PAGE_COUNT or page[-1].id == after:
            return found
        after = page[-1].id


def _find_chat(agent_id: str, key: str, count: int) -> Search:
    summary = chat_summary(key)
    found = yield from find_chats(agent_id, key)
    if found:
        return (yield from _open_existing(found[0].id, count))
    created = (yield from _create(agent_id, summary)).thread
    # Another process may have created one at the same time: all use the oldest.
    found = yield from _list(agent_id, summary_digest(key), summary)
    if found and found[0].id != created.conversation_id:
        yield DeleteConversation(conversation_id=created.conversation_id)
        return (yield from _open_existing(found[0].id, count))
    return FoundThread(thread=created, is_new=True)


def _find_transcript(agent_id: str, chat: TranscriptChat, count: int) -> Search:
    """Find the conversation that a transcript continues, of those that began with its first message.

    The newest are looked at, until one fits exactly.
    """
    summary = TRANSCRIPT_MARK + chat.root
    best, best_fit = None, Fit.NONE
    for item in () if chat.begins else (yield from _newest(agent_id, chat.root, summary)):
        response = yield FetchLast(conversation_id=item.id, count=max(count, 1))
        assert response is not None
        if response.status == 404:
            continue  # deleted meanwhile
        fit = compare(chat, response.data)
        if fit > best_fit:
            thread = ConversationThread(conversation_id=item.id)
            best = FoundThread(thread=thread, is_new=fit is Fit.EMPTY, listing=response.data)
            best_fit = fit
        if fit is Fit.EXACT:
            break
    return best or (yield from _create(agent_id, summary))


def _newest(
    agent_id: str, search: str, summary: str
) -> Generator[Command, Response | None, list[letta.Conversation]]:
    response = yield FindConversations(agent_id=agent_id, summary=search)
    assert response is not None
    same = [item for item in letta.decode_conversations(response.data) if item.summary == summary]
    same.sort(key=lambda item: (item.created_at or "", item.id), reverse=True)
    return same[:MAX_CANDIDATE_COUNT]


def _find_task(agent_id: str, task: Throwaway) -> Search:
    for call_id in task.call_ids[:1]:
        response = yield FindConversations(agent_id=agent_id, summary=summary_digest(call_id))
        assert response is not None
        for item in letta.decode_conversations(response.data):
            if waits_for(item.summary, call_id):
                return FoundThread(thread=ConversationThread(conversation_id=item.id))
    return (yield from _create(agent_id, task_summary(task)))


def _open_existing(conversation_id: str, count: int) -> Search:
    """Look whether a conversation is empty: if its first turn failed, it may be."""
    response = yield FetchLast(conversation_id=conversation_id, count=max(count, 1))
    assert response is not None
    thread = ConversationThread(conversation_id=conversation_id)
    return FoundThread(thread=thread, is_new=letta.is_empty(response.data), listing=response.data)


def delete_strays(agent_id: str, task: Throwaway) -> Generator[Command, Response | None, None]:
    """Delete conversations of a request whose creation was not confirmed.

    Raise nothing: whatever is left is swept later.
    """
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
    """List the conversations with this summary, the oldest first.

    :param search: text for Letta's search, which matches anywhere in a summary and ignores case.
    """
    same: list[letta.Conversation] = []
    after: str | None = None
    for _ in range(MAX_PAGE_COUNT):
        response = yield FindConversations(agent_id=agent_id, summary=search, after=after)
        assert response is not None
        page = letta.decode_conversations(response.data)
        same += [item for item in page if item.summary == summary]
        # A page with nothing new would be fetched again and again.
        if len(page) < PAGE_COUNT or page[-1].id == after:
            break
        after = page[-1].id
    return sorted(same, key=lambda item: (item.created_at or "", item.id))


def _create(agent_id: str, summary: str) -> Search:
    response = yield CreateConversation(agent_id=agent_id, summary=summary)
    assert response is not None
    conversation = letta.decode_conversation(response.data)
    return FoundThread(thread=ConversationThread(conversation_id=conversation.id), is_new=True)


def _find_named(agent_id: str, conversation_id: str) -> Search:
    response = yield FetchConversation(conversation_id=conversation_id)
    assert response is not None
    # The client must not learn whether another agent has a conversation with this id: one error for both.
    if response.status in (404, 422) or letta.decode_conversation(response.data).agent_id != agent_id:
        raise no_conversation("the agent has no conversation of this id")
    return FoundThread(thread=ConversationThread(conversation_id=conversation_id))


def no_conversation(why: str) -> RequestError:
    """Return the error for a conversation id that does not exist."""
    return RequestError(
        f"{CONVERSATION_HEADER}: {why}. {_LISTING}",
        param=CONVERSATION_HEADER.lower(),
        code="conversation_not_found",
        status=404,
    )
