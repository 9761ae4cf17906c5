"""What a process remembers between requests: agents, turns, conversations, and what a thread was told."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from attrs import define, field, frozen

from ..config import Config
from ..turn.agent import ANYONE, Agent, Caller
from ..turn.events import ConversationThread, Thread
from ..turn.request import Chat, StandingInstruction, ThreadChoice, Throwaway
from ..turn.settlement import Waiting
from ..turn.thread_queue import ThreadQueue
from ..turn.turn import Turn
from ..upstreams.rest.live_run import LettaMemory
from .heard_memory import HeardMemory
from .turn_registry import TurnRegistry

#: Of one thread: its instructions, and schemas by their names.
_MAX_SLOT_COUNT: Final = 16
#: Conversations that one turn deletes for programs that never came back.
_MAX_EXPIRED_COUNT: Final = 8


@frozen
class _Remembered:
    agent: Agent
    until: float


@define
class AgentMemory:
    """Agents that were found by a model's name or id, for a while; a lookup costs Letta a query.

    A name may resolve to different agents for callers that see different ones: each scope has its own.

    :param ttl: seconds that an agent is remembered.
    :param max_count: names remembered; beyond it the oldest is dropped.
    """

    ttl: float
    max_count: int
    _agents: OrderedDict[tuple[Hashable, str], _Remembered] = field(factory=OrderedDict, init=False)

    def recall(self, model: str, now: float, caller: Caller = ANYONE) -> Agent | None:
        """The agent of this name or id, if it was found not long ago.

        :param now: monotonic seconds, here and below.
        """
        remembered = self._agents.get((caller.scope, model))
        return remembered.agent if remembered is not None and now < remembered.until else None

    def remember(self, model: str, agent: Agent, now: float, caller: Caller = ANYONE) -> None:
        """Keep an agent that was just found; a state of the moment, like a pending call, does not count."""
        self._agents[caller.scope, model] = _Remembered(agent, now + self.ttl)
        self._agents.move_to_end((caller.scope, model))
        if len(self._agents) > self.max_count:
            self._agents.popitem(last=False)

    def forget(self, agent_id: str) -> None:
        """Forget an agent that is gone, under all its names."""
        for key in [key for key, known in self._agents.items() if known.agent.id == agent_id]:
            del self._agents[key]


@define
class ThreadMemory:
    """Saves requests to Letta. The truth is at Letta: what is forgotten here is found again there.

    :param max_count: chats, and threads, remembered; beyond it the oldest is dropped.
    """

    max_count: int
    heard: HeardMemory = field(init=False)
    _conversations: OrderedDict[tuple[str, str], ConversationThread] = field(factory=OrderedDict, init=False)
    _sent: OrderedDict[Thread, OrderedDict[str, bytes]] = field(factory=OrderedDict, init=False)
    """Digests of what was told last, each in its slot."""
    _tasks: OrderedDict[tuple[str, str], ConversationThread] = field(factory=OrderedDict, init=False)
    """By an agent, and a call of a background prompt's tools that it waits for."""
    _waiting: OrderedDict[Thread, tuple[Waiting, float]] = field(factory=OrderedDict, init=False)
    _unfinished: OrderedDict[ConversationThread, tuple[Hashable, float]] = field(
        factory=OrderedDict, init=False
    )
    """Of the same, the longest first: whose key can delete it, and since when it waits."""

    def __attrs_post_init__(self) -> None:
        self.heard = HeardMemory(self.max_count)

    def recall(self, agent: Agent, choice: ThreadChoice) -> ConversationThread | None:
        """The conversation of a chat with an agent, or of results for it, if it is known."""
        match choice:
            case Chat(key=key):
                return self._conversations.get((agent.id, key))
            case Throwaway(call_ids=call_ids):
                # Each result is brought once; a request that comes again finds the conversation at Letta.
                found = [self._tasks.pop((agent.id, call_id), None) for call_id in call_ids]
                thread = next((thread for thread in found if thread is not None), None)
                if thread is not None:
                    self._unfinished.pop(thread, None)
                return thread
        return None

    def find(self, choice: ThreadChoice) -> dict[str, ConversationThread]:
        """The conversations of a chat that are known, by the agent's id: who it is may not be known yet."""
        if not isinstance(choice, Chat):
            return {}
        return {agent_id: found for (agent_id, key), found in self._conversations.items() if key == choice.key}

    def learn(self, turn: Turn, scope: Hashable, now: float) -> None:
        """A turn has finished: its conversation holds something.

        :param scope: of its caller.
        :param now: monotonic seconds.
        """
        if turn.state.conversation is not None:
            self.remember(turn.agent_id, turn.request.thread, turn.state.conversation)
            self._learn_background(turn, turn.state.conversation, scope, now)
        self.learn_sent(turn)
        if (left := turn.state.left_waiting) is not None:
            self.leave_waiting(*left, now)

    def leave_waiting(self, thread: Thread, waiting: Waiting | None, now: float) -> None:
        """A turn has ended with calls for its client, or without.

        :param now: monotonic seconds.
        """
        self._waiting.pop(thread, None)
        if waiting is not None:
            self._waiting[thread] = waiting, now
            if len(self._waiting) > self.max_count:
                self._waiting.popitem(last=False)

    def recall_waiting(self, thread: Thread) -> Waiting | None:
        """What the last turn in a thread has left waiting. Another client may have answered since."""
        found = self._waiting.get(thread)
        return None if found is None else found[0]

    def waits_since(self, thread: Thread) -> float | None:
        """Since when a client has been called that brings its results; None: none has been.

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
        """Conversations of background prompts whose results never came, to be deleted; each is told once.

        :param scope: of the caller that deletes them.
        :param waiting_since: monotonic seconds; what waits since then, or for less long, may still be answered.
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

    def learn_sent(self, turn: Turn) -> None:
        """A turn has ended, in success or failure: what its thread has kept need not be sent again."""
        # A conversation that is thrown away is never spoken in again.
        if not isinstance(turn.request.thread, Throwaway):
            self._learn_heard(turn)
            for thread, standing in turn.state.instructions_sent:
                self.note_sent(thread, standing)

    def _learn_heard(self, turn: Turn) -> None:
        thread, looked_up = turn.upstream.thread, turn.upstream.heard
        if thread is None:
            return
        if looked_up is not None and not turn.state.has_learned:
            self.heard.learn_heard(thread, looked_up)
        turn.state.has_learned = True
        given = turn.request.instructions
        for sent in turn.state.sent:
            self.heard.learn_sent(thread, sent, frozenset() if given is None else given.digests)
        turn.state.sent.clear()

    def remember(self, agent_id: str | None, choice: ThreadChoice, thread: ConversationThread) -> None:
        """Keep a conversation that was just found, if it is that of a chat's key."""
        if agent_id is None or not isinstance(choice, Chat):
            return
        self._conversations[agent_id, choice.key] = thread
        self._conversations.move_to_end((agent_id, choice.key))
        if len(self._conversations) > self.max_count:
            self._conversations.popitem(last=False)

    def forget(self, thread: ConversationThread) -> None:
        """Forget a conversation that is gone."""
        self._sent.pop(thread, None)
        self._waiting.pop(thread, None)
        self.heard.forget(thread)
        for name in [name for name, known in self._conversations.items() if known == thread]:
            del self._conversations[name]

    def note_sent(self, thread: Thread, standing: StandingInstruction) -> None:
        """Note that the thread was sent this, and has kept it."""
        sent = self._sent.setdefault(thread, OrderedDict())
        sent[standing.slot] = standing.digest
        sent.move_to_end(standing.slot)
        self._sent.move_to_end(thread)
        if len(sent) > _MAX_SLOT_COUNT:
            sent.popitem(last=False)
        if len(self._sent) > self.max_count:
            self._sent.popitem(last=False)

    def was_sent(self, thread: Thread, standing: StandingInstruction) -> bool:
        """Whether this is what the thread was sent last, in its slot."""
        sent = self._sent.get(thread)
        return sent is not None and sent.get(standing.slot) == standing.digest


@define
class Memory:
    """What the requests of one process share.

    :param config: limits.
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
