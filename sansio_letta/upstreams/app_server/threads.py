"""Find or create the conversation of a request.

The agent's own thread has a conversation of its own, with a mark: the server's ``default`` is one lock for all
of its agents. Chats and background prompts have the marks that they have on every upstream. Nothing deletes a
conversation, so those of background prompts are archived.
"""

from typing import Final

from attrs import frozen

from ...errors import RequestError
from ...turn.events import ConversationThread
from ...turn.request import (
    CONVERSATION_HEADER,
    OWN_THREAD,
    Chat,
    NamedConversation,
    ThreadChoice,
    Throwaway,
    TranscriptChat,
)
from ...turn.upstream import Script
from ..thread_names import TRANSCRIPT_MARK, chat_summary, summary_digest, task_summary, waits_for
from .frames import Json, bad_answer
from .questions import NotFound, Questions

#: The summary of the conversation that stands for the agent's own thread.
OWN_SUMMARY: Final = "letta-proxy own thread"
_PAGE_COUNT: Final = 1000


@frozen(kw_only=True)
class FoundConversation:
    """The conversation that a request's thread resolved to.

    :param is_new: it was created just now.
    """

    thread: ConversationThread
    is_new: bool = False


@frozen
class ConversationDirectory:
    """Finds the conversations of one agent."""

    questions: Questions
    agent_id: str

    def find(self, choice: ThreadChoice) -> Script[FoundConversation]:
        """Find a conversation, or create it.

        :raises RequestError: if the agent has no conversation of the given id.
        """
        match choice:
            case None:
                return (yield from self._find_or_create(OWN_SUMMARY, OWN_SUMMARY))
            case Chat(key=key):
                summary = chat_summary(key)
                return (yield from self._find_or_create(summary, summary_digest(key)))
            case TranscriptChat(root=root, begins=begins):
                summary = TRANSCRIPT_MARK + root
                if begins:
                    return (yield from self._create(summary))
                return (yield from self._find_or_create(summary, root))
            case NamedConversation(conversation_id=ident) if ident in (OWN_THREAD, self.agent_id):
                return (yield from self._find_or_create(OWN_SUMMARY, OWN_SUMMARY))
            case NamedConversation(conversation_id=ident):
                return (yield from self._find_named(ident))
            case Throwaway() as task:
                for call_id in task.call_ids[:1]:
                    for item in (yield from self.list_all(summary_digest(call_id))):
                        if waits_for(item.get("summary"), call_id):
                            return FoundConversation(thread=_thread(item))
                return (yield from self._create(task_summary(task)))

    def list_all(self, text: str) -> Script[list[Json]]:
        """List the agent's conversations with a text in their summaries, newest first."""
        query = {"agent_id": self.agent_id, "summary_search": text, "limit": _PAGE_COUNT}
        answer = yield from self.questions.ask("conversation_list", {"query": query})
        found = answer.get("conversations")
        if not isinstance(found, list):
            raise bad_answer("conversation_list", "conversations", "an array")
        return [item for item in found if isinstance(item, dict)]

    def archive(self, conversation_id: str) -> Script[None]:
        """Put a conversation away that is not needed any more."""
        content = {"conversation_id": conversation_id, "body": {"archived": True}}
        yield from self.questions.ask("conversation_update", content)

    def fork(self, conversation_id: str) -> Script[FoundConversation]:
        """Continue a conversation in a copy, which inherits its summary; the other gets another one."""
        content: Json = {"conversation_id": conversation_id, "body": {}}
        answer = yield from self.questions.ask("conversation_fork", content)
        forked = FoundConversation(thread=_thread(answer.get("conversation")))
        renamed: Json = {
            "archived": True,
            "summary": f"letta-proxy replaced by {forked.thread.conversation_id}",
        }
        yield from self.questions.ask(
            "conversation_update", {"conversation_id": conversation_id, "body": renamed}
        )
        return forked

    def _find_or_create(self, summary: str, text: str) -> Script[FoundConversation]:
        found = yield from self._oldest(summary, text)
        if found is not None:
            return found
        created = yield from self._create(summary)
        # Another process may have created one at the same time: all use the oldest.
        oldest = yield from self._oldest(summary, text)
        if oldest is None or oldest.thread == created.thread:
            return created
        yield from self.archive(created.thread.conversation_id)
        return oldest

    def _oldest(self, summary: str, text: str) -> Script[FoundConversation | None]:
        same = [item for item in (yield from self.list_all(text)) if item.get("summary") == summary]
        # The order of the list changes with every use.
        same.sort(key=lambda item: (str(item.get("created_at")), str(item.get("id"))))
        return FoundConversation(thread=_thread(same[0])) if same else None

    def _create(self, summary: str) -> Script[FoundConversation]:
        body = {"agent_id": self.agent_id, "summary": summary}
        answer = yield from self.questions.ask("conversation_create", {"body": body})
        return FoundConversation(thread=_thread(answer.get("conversation")), is_new=True)

    def _find_named(self, ident: str) -> Script[FoundConversation]:
        try:
            answer = yield from self.questions.ask("conversation_retrieve", {"conversation_id": ident})
        except NotFound as exc:
            raise _no_conversation() from exc
        item = answer.get("conversation")
        # The client must not learn whether another agent has a conversation of this id.
        if not isinstance(item, dict) or item.get("agent_id") != self.agent_id:
            raise _no_conversation()
        return FoundConversation(thread=_thread(item))


def _thread(item: object) -> ConversationThread:
    if not isinstance(item, dict) or not isinstance(item.get("id"), str):
        raise bad_answer("a question about conversations", "conversation.id", "a string")
    return ConversationThread(conversation_id=item["id"])


def _no_conversation() -> RequestError:
    return RequestError(
        f"{CONVERSATION_HEADER}: the agent has no conversation of this id. Without the header, the proxy uses "
        "the agent's own thread, or the chat that the request names.",
        param=CONVERSATION_HEADER.lower(),
        code="conversation_not_found",
        status=404,
    )
