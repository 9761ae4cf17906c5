"""What a process remembers of threads: which conversation a chat has, which instructions a thread was given."""

from collections import OrderedDict

from attrs import define, field

from . import letta
from .events import ConversationThread, Thread
from .plan import Instructions
from .threads import Chat, ThreadWish, Throwaway
from .turn import Turn


@define
class ThreadMemory:
    """Spares Letta questions. The truth is at Letta: what is forgotten here is found again there.

    :param max_count: chats, and threads, remembered; beyond it the oldest is dropped.
    """

    max_count: int
    _conversations: OrderedDict[tuple[str, str], ConversationThread] = field(factory=OrderedDict, init=False)
    _told: OrderedDict[Thread, bytes] = field(factory=OrderedDict, init=False)

    def recall(self, agent: letta.Agent, wish: ThreadWish) -> ConversationThread | None:
        """The conversation of a chat with an agent, if it is known."""
        if not isinstance(wish, Chat):
            return None
        return self._conversations.get((agent.id, wish.key))

    def learn(self, turn: Turn) -> None:
        """A turn has finished: its conversation holds something, and what it was told is kept."""
        wish = turn.plan.thread
        if turn.conversation is not None:
            self.remember(turn.agent_id, wish, turn.conversation)
        # A conversation that is thrown away is never spoken in again.
        if turn.told is not None and not isinstance(wish, Throwaway):
            self.tell(*turn.told)

    def remember(self, agent_id: str | None, wish: ThreadWish, thread: ConversationThread) -> None:
        """What was just found; conversations that no chat's key stands for are not remembered."""
        if agent_id is None or not isinstance(wish, Chat):
            return
        self._conversations[agent_id, wish.key] = thread
        self._conversations.move_to_end((agent_id, wish.key))
        if len(self._conversations) > self.max_count:
            self._conversations.popitem(last=False)

    def forget(self, thread: ConversationThread) -> None:
        """The conversation is gone."""
        self._told.pop(thread, None)
        for name in [name for name, known in self._conversations.items() if known == thread]:
            del self._conversations[name]

    def tell(self, thread: Thread, instructions: Instructions) -> None:
        """The thread was given these instructions, and they are kept."""
        self._told[thread] = instructions.digest
        self._told.move_to_end(thread)
        if len(self._told) > self.max_count:
            self._told.popitem(last=False)

    def is_told(self, thread: Thread, instructions: Instructions) -> bool:
        """Whether these are the instructions that the thread was given last."""
        return self._told.get(thread) == instructions.digest
