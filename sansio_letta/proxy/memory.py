"""What a process remembers between requests: agents, turns, conversations, and what was sent to a thread."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from attrs import define, field, frozen

from ..config import Config
from ..turn.agent import ANYONE, Agent, Caller
from ..turn.events import AgentThread, ConversationThread, Thread
from ..turn.ledger import ThreadKnowledge
from ..turn.request import Chat, NamedConversation, StandingInstruction, ThreadChoice, Throwaway, TranscriptChat
from ..turn.settlement import Waiting
from ..turn.thread_queue import ThreadQueue
from ..turn.turn import Turn
from ..upstreams.rest.live_run import LettaMemory
from .heard_memory import HeardMemory
from .transcript_memory import TranscriptMemory
from .turn_registry import TurnRegistry

#: Slots of one thread: its instructions, and schemas by their names.
_MAX_SLOT_COUNT: Final = 16
#: Abandoned conversations that one turn deletes.
_MAX_EXPIRED_COUNT: Final = 8


@frozen
class _Remembered:
    agent: Agent
    until: float


@define
class AgentMemory:
    """A cache of agents by model name or id, since each lookup is a query for Letta.

    A name may resolve to different agents for different callers, so each scope has its own entries.

    :param ttl: seconds that an agent is remembered.
    :param max_count: names remembered; beyond it, the oldest is dropped.
    """

    ttl: float
    max_count: int
    _agents: OrderedDict[tuple[Hashable, str], _Remembered] = field(factory=OrderedDict, init=False)

    def recall(self, model: str, now: float, caller: Caller = ANYONE) -> Agent | None:
        """Return the agent with this name or id, if it was found recently.

        :param now: monotonic seconds, here and below.
        """
        remembered = self._agents.get((caller.scope, model))
        return remembered.agent if remembered is not None and now < remembered.until else None

    def recall_id(self, model: str, caller: Caller = ANYONE) -> str | None:
        """Return the id of the agent that was last found by this name or id, however long ago."""
        remembered = self._agents.get((caller.scope, model))
        return None if remembered is None else remembered.agent.id

    def remember(self, model: str, agent: Agent, now: float, caller: Caller = ANYONE) -> None:
        """Store an agent that was just found, without transient state such as pending calls."""
        self._agents[caller.scope, model] = _Remembered(agent, now + self.ttl)
        self._agents.move_to_end((caller.scope, model))
        if len(self._agents) > self.max_count:
            self._agents.popitem(last=False)

    def forget(self, agent_id: str) -> None:
        """Forget an agent that no longer exists, under all its names."""
        for key in [key for key, known in self._agents.items() if known.agent.id == agent_id]:
            del self._agents[key]


@define
class ThreadMemory:
    """A cache of conversations and of what was sent to them. What is forgotten here is found again in Letta.

    :param max_count: chats remembered, and threads; beyond it, the oldest is dropped.
    """

    max_count: int
    heard: HeardMemory = field(init=False)
    transcripts: TranscriptMemory = field(init=False)
    _conversations: OrderedDict[tuple[str, str], ConversationThread] = field(factory=OrderedDict, init=False)
    _sent: OrderedDict[Thread, OrderedDict[str, bytes]] = field(factory=OrderedDict, init=False)
    """Digests of what was sent last, by slot."""
    _tasks: OrderedDict[tuple[str, str], ConversationThread] = field(factory=OrderedDict, init=False)
    """Conversations of background prompts, by agent and by the id of a pending call."""
    _waiting: OrderedDict[Thread, tuple[Waiting, float]] = field(factory=OrderedDict, init=False)
    _cancelled: OrderedDict[Thread, float] = field(factory=OrderedDict, init=False)
    """When a run was last cancelled in a thread."""
    _unfinished: OrderedDict[ConversationThread, tuple[Hashable, float]] = field(
        factory=OrderedDict, init=False
    )
    """The same conversations, oldest first: the scope that can delete each, and when it began to wait."""

    def __attrs_post_init__(self) -> None:
        self.heard = HeardMemory(self.max_count)
        self.transcripts = TranscriptMemory(self.max_count)

    def recall(self, agent: Agent, choice: ThreadChoice) -> ConversationThread | None:
        """Return the conversation of a chat, or the one that tool results belong to, if it is known."""
        match choice:
            case Chat(key=key):
                return self._conversations.get((agent.id, key))
            case TranscriptChat() as chat:
                return self.transcripts.recall(agent.id, chat)
            case Throwaway(call_ids=call_ids):
                # Each result arrives once; a retry finds the conversation in Letta.
                found = [self._tasks.pop((agent.id, call_id), None) for call_id in call_ids]
                thread = next((thread for thread in found if thread is not None), None)
                if thread is not None:
                    self._unfinished.pop(thread, None)
                return thread
        return None

    def find(self, choice: ThreadChoice) -> dict[str, ConversationThread]:
        """Return the known conversations of a chat by agent id, since the agent may not be known yet."""
        if isinstance(choice, TranscriptChat):
            return self.transcripts.find(choice)
        if not isinstance(choice, Chat):
            return {}
        return {agent_id: found for (agent_id, key), found in self._conversations.items() if key == choice.key}

    def recall_heard(self, agent_id: str | None, choice: ThreadChoice) -> dict[Thread, ThreadKnowledge]:
        """Return what is known of the threads that a request may be for."""
        threads: list[Thread] = [*self.find(choice).values()]
        if isinstance(choice, NamedConversation):
            threads.append(ConversationThread(conversation_id=choice.conversation_id))
        # A legacy agent has no thread but its own.
        if agent_id is not None and not isinstance(choice, Throwaway):
            threads.append(AgentThread(agent_id=agent_id))
        known = {thread: self.heard.recall(thread) for thread in threads}
        return {thread: knowledge for thread, knowledge in known.items() if knowledge != ThreadKnowledge()}

    def learn(self, turn: Turn, scope: Hashable, now: float, reply: str | None = None) -> None:
        """Store what a finished turn has shown: its conversation, what was sent, and what is pending.

        :param scope: that of its caller.
        :param now: monotonic seconds.
        :param reply: the answer, as the client has received it.
        """
        if turn.state.conversation is not None:
            self.remember(turn.agent_id, turn.request.thread, turn.state.conversation, reply)
            self._learn_background(turn, turn.state.conversation, scope, now)
        self.learn_sent(turn, now)
        if (left := turn.state.left_waiting) is not None:
            self.leave_waiting(*left, now)

    def leave_waiting(self, thread: Thread, waiting: Waiting | None, now: float) -> None:
        """Store the calls that a turn has left pending for its client, or that there are none.

        :param now: monotonic seconds.
        """
        self._waiting.pop(thread, None)
        if waiting is not None:
            self._waiting[thread] = waiting, now
            if len(self._waiting) > self.max_count:
                self._waiting.popitem(last=False)

    def recall_waiting(self, thread: Thread) -> Waiting | None:
        """Return the calls that the last turn in a thread left pending; they may have been answered since."""
        found = self._waiting.get(thread)
        return None if found is None else found[0]

    def waits_since(self, thread: Thread) -> float | None:
        """Return since when calls have been pending whose results a client will bring; None if there are none.

        :return: monotonic seconds.
        """
        waiting, since = self._waiting.get(thread, (None, 0.0))
        # A client that has forced a call may take it for the whole reply, and bring nothing.
        return None if waiting is None or waiting.is_forced else since

    def _learn_background(
        self, turn: Turn, conversation: ConversationThread, scope: Hashable, now: float
    ) -> None:
        if (
            turn.agent_id is None
            or not turn.state.awaited_calls
            or not isinstance(turn.request.thread, Throwaway)
        ):
            return
        self._unfinished[conversation] = scope, now
        self._unfinished.move_to_end(conversation)
        if len(self._unfinished) > self.max_count:
            self._unfinished.popitem(last=False)
        for call_id in turn.state.awaited_calls:
            self._tasks[turn.agent_id, call_id] = conversation
        while len(self._tasks) > self.max_count:
            self._tasks.popitem(last=False)

    def take_expired(self, scope: Hashable, waiting_since: float) -> tuple[ConversationThread, ...]:
        """Remove and return conversations of background prompts that never got their results, to be deleted.

        :param scope: that of the caller that deletes them.
        :param waiting_since: monotonic seconds; conversations that began to wait then or later are not expired.
        """
        expired: list[ConversationThread] = []
        for thread, (owner, since) in self._unfinished.items():
            if since >= waiting_since or len(expired) == _MAX_EXPIRED_COUNT:
                break
            if owner == scope:
                expired.append(thread)
        for thread in expired:
            del self._unfinished[thread]
        return tuple(expired)

    def cancelled_at(self, thread: Thread) -> float | None:
        """Return when a run was last cancelled in a thread, in monotonic seconds; None if that is not known."""
        return self._cancelled.get(thread)

    def _note_cancelled(self, thread: Thread, now: float) -> None:
        self._cancelled[thread] = now
        self._cancelled.move_to_end(thread)
        if len(self._cancelled) > self.max_count:
            self._cancelled.popitem(last=False)

    def learn_sent(self, turn: Turn, now: float) -> None:
        """Store what a turn has sent to its thread, so that it is not sent again, even if the turn failed.

        :param now: monotonic seconds.
        """
        if turn.state.has_cancelled and turn.upstream.thread is not None:
            self._note_cancelled(turn.upstream.thread, now)
        # A temporary conversation is never used again.
        if not isinstance(turn.request.thread, Throwaway):
            self._learn_heard(turn)
            self._learn_transcript(turn)
            for thread, standing in turn.state.instructions_sent:
                self.note_sent(thread, standing)

    def _learn_transcript(self, turn: Turn) -> None:
        """Note how far a conversation has come, even if the turn failed: the client shows it next time."""
        chat, conversation = turn.request.thread, turn.state.conversation
        if turn.agent_id is None or conversation is None or not isinstance(chat, TranscriptChat):
            return
        if not self.transcripts.is_at(turn.agent_id, chat, conversation):
            self.transcripts.remember(turn.agent_id, chat, conversation)

    def _learn_heard(self, turn: Turn) -> None:
        if turn.state.has_learned and not turn.state.sent:
            return
        thread, looked_up = turn.upstream.thread, turn.upstream.heard
        if thread is None:
            return
        if looked_up is not None and not turn.state.has_learned:
            self.heard.learn_heard(thread, looked_up)
        turn.state.has_learned = True
        for sent in turn.state.sent:
            self.heard.learn_sent(thread, sent, turn.request)
        turn.state.sent.clear()

    def remember(
        self,
        agent_id: str | None,
        choice: ThreadChoice,
        thread: ConversationThread,
        reply: str | None = None,
    ) -> None:
        """Store a conversation that was just found, if it belongs to a chat."""
        if agent_id is not None and isinstance(choice, TranscriptChat):
            self.transcripts.remember(agent_id, choice, thread, reply)
        if agent_id is None or not isinstance(choice, Chat):
            return
        self._conversations[agent_id, choice.key] = thread
        self._conversations.move_to_end((agent_id, choice.key))
        if len(self._conversations) > self.max_count:
            self._conversations.popitem(last=False)

    def forget(self, thread: ConversationThread) -> None:
        """Forget a conversation that no longer exists."""
        self._sent.pop(thread, None)
        self._waiting.pop(thread, None)
        self._cancelled.pop(thread, None)
        self.heard.forget(thread)
        self.transcripts.forget(thread)
        for name in [name for name, known in self._conversations.items() if known == thread]:
            del self._conversations[name]

    def note_sent(self, thread: Thread, standing: StandingInstruction) -> None:
        """Note that this was sent to the thread, and that Letta has stored it."""
        sent = self._sent.setdefault(thread, OrderedDict())
        sent[standing.slot] = standing.digest
        sent.move_to_end(standing.slot)
        self._sent.move_to_end(thread)
        if len(sent) > _MAX_SLOT_COUNT:
            sent.popitem(last=False)
        if len(self._sent) > self.max_count:
            self._sent.popitem(last=False)

    def was_sent(self, thread: Thread, standing: StandingInstruction) -> bool:
        """Return whether this is what was last sent to the thread in its slot."""
        sent = self._sent.get(thread)
        return sent is not None and sent.get(standing.slot) == standing.digest


@define
class Memory:
    """The memory that all requests of one process share.

    :param config: its limits.
    """

    config: Config
    agents: AgentMemory = field(init=False)
    turns: TurnRegistry = field(init=False)
    queue: ThreadQueue = field(init=False)
    threads: ThreadMemory = field(init=False)
    letta: LettaMemory = field(factory=LettaMemory, init=False)

    def __attrs_post_init__(self) -> None:
        config = self.config
        self.agents = AgentMemory(config.agent_ttl, config.max_remembered_agent_count)
        self.turns = TurnRegistry(config.repeat_ttl, config.max_kept_answer_size)
        self.queue = ThreadQueue(config.max_queue_count)
        self.threads = ThreadMemory(config.max_remembered_thread_count)
