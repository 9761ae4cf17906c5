"""Whom a turn speaks to and where: the agent, the thread, and what waits for an answer there.

What the caller remembers is believed until Letta knows nothing of it. Then an agent of the same name may live
on under another id, and a chat gets another conversation; what Letta itself has just named is not asked for
again.
"""

from collections.abc import Callable
from typing import TypeAlias

from attrs import define, field

from ...errors import RequestError, RequestField, unknown_model
from ...turn.agent import ANYONE, Agent, Caller, PendingCall
from ...turn.events import AgentGone, AgentThread, ConversationThread, Thread, ThreadGone
from ...turn.ledger import Heard
from ...turn.request import Chat, NamedConversation, ThreadChoice, Throwaway
from . import letta
from .agents import find_agent, found_agent, pending_calls
from .commands import Command, FetchAgent, FetchLast, FetchMessages
from .conversations import FoundThread, Search, find_thread, no_conversation
from .response import Response
from .thread_history import to_heard

#: Tells which conversation a wish of an agent's came to before.
RecallThread: TypeAlias = Callable[[Agent], ConversationThread | None]


def no_known_thread(agent: Agent) -> None:
    """Nobody remembers."""


@define(kw_only=True)
class Target:
    """What of it is known so far.

    :param model: the agent's name or id, as asked.
    :param choice: the thread that is wanted.
    :param caller: no other agent is found than those that it may use.
    :param known_agent: the agent, if the caller remembers it.
    :param conversation: what the wish stands for, if the caller remembers it.
    :param recall_thread: the same for an agent that was not known.
    :param pending: what the agent waits for, if the caller has just looked.
    :param lookback_count: messages that are read to find out what the agent has heard.
    """

    model: str
    choice: ThreadChoice = None
    caller: Caller = ANYONE
    known_agent: Agent | None = None
    conversation: ConversationThread | None = None
    pending: tuple[PendingCall, ...] | None = None
    lookback_count: int = 0
    is_pending_known: bool = field(init=False)  #: `pending` is what waits in the thread
    is_new: bool = field(default=False, init=False)  #: nothing was ever said in the conversation
    heard: Heard | None = field(
        default=None, init=False
    )  #: what the thread has heard, if it was just looked up
    is_confirmed: bool = field(default=False, init=False)  #: Letta named the agent, or took what was said to it
    _recall_thread: RecallThread = field(default=no_known_thread, alias="recall_thread")
    _searched: bool = field(default=False, init=False)  #: Letta named the conversation

    def __attrs_post_init__(self) -> None:
        self.is_pending_known = self.pending is not None

    @property
    def is_own_thread(self) -> bool:
        """Whether it is said in the agent's own thread; only once the agent is known.

        An agent without conversations has no other: its chats are all told it in there.
        """
        return self.choice is None or not self.agent.capabilities.conversations

    @property
    def continues_task(self) -> bool:
        """Whether a background prompt goes on there, which has all that was said when it began."""
        return isinstance(self.choice, Throwaway) and not self.is_new

    def check_choice(self) -> None:
        """Whether the agent can have the thread that is wanted.

        :raises RequestError: if it has none but its own.
        """
        if self.agent.capabilities.conversations:
            return
        why = f"an agent of type {self.agent.agent_type} has one thread alone, its own"
        match self.choice:
            case NamedConversation():
                raise no_conversation(why)
            case Throwaway():
                raise RequestError(
                    "This request must leave nothing in the agent's memory, since it is a program's own prompt "
                    f"(for a title, a summary, a check) or `tasks` is `all`, but {why}: set another model for "
                    "such prompts in the program, or `tasks` to `pass`.",
                    field=RequestField.INPUT,
                    code="task_refused",
                )

    @property
    def agent(self) -> Agent:
        """The agent; only once it is known."""
        assert self.known_agent is not None
        return self.known_agent

    @property
    def thread(self) -> Thread:
        """Where it is said; only once the agent is known."""
        return self.conversation or AgentThread(agent_id=self.agent.id)

    def agent_command(self, *, with_pending: bool) -> Command:
        """The question which agent is meant.

        :param with_pending: whether it matters what the agent waits for.
        :raises RequestError: if no agent can have such a name.
        """
        return find_agent(self.model, with_pending=with_pending)

    def take_agent(self, response: Response, *, with_pending: bool) -> Agent:
        """The answer to that.

        :raises SansioLettaError: if there is no such agent, or Letta does not tell.
        """
        found = found_agent(self.model, response, self.caller.may_use)
        self.known_agent = found.agent
        self.is_confirmed = True
        if self.is_own_thread:
            self.pending, self.is_pending_known = found.pending, with_pending
        return self.agent

    def recall_thread(self) -> bool:
        """Whether it is known where it is said."""
        if self.is_own_thread:
            return True
        if self.conversation is None:
            self.conversation = self._recall_thread(self.agent)
        return self.conversation is not None

    def search(self) -> Search:
        """The questions which conversation it is."""
        assert self.choice is not None
        self._searched = True
        return find_thread(self.agent.id, self.choice, self.lookback_count)

    def take_thread(self, found: FoundThread) -> None:
        """What came of them."""
        self.conversation, self.is_new = found.thread, found.is_new
        if found.is_new:
            self.heard = Heard(is_whole=True)
        elif found.listing is not None and self.lookback_count:
            self.take_history(found.listing, self.lookback_count)

    def pending_command(self) -> Command:
        """The question what waits there. An agent does not show what waits in its conversations."""
        if self.conversation is None:
            return FetchAgent(agent_id=self.agent.id)
        return FetchLast(conversation_id=self.conversation.conversation_id)

    def take_pending(self, response: Response) -> None:
        """The answer to that, which is no 404.

        :raises SansioLettaError: if Letta does not tell.
        """
        if self.conversation is None:
            found = found_agent(self.agent.id, response, self.caller.may_use)
            self.known_agent, self.pending = found.agent, found.pending
        else:
            self.pending = pending_calls(letta.decode_last_message(response.data))
        self.is_pending_known = True

    def history_command(self, count: int) -> Command:
        """Ask for the last messages of the thread."""
        if self.conversation is None:
            return FetchMessages(agent_id=self.agent.id, count=count)
        return FetchLast(conversation_id=self.conversation.conversation_id, count=count)

    def take_history(self, data: bytes, count: int) -> None:
        """Take the response to that; a conversation's tells what waits there, too.

        :raises RemoteProtocolError: if it is no list of messages.
        """
        in_conversation = self.conversation is not None
        self.heard = to_heard(letta.decode_listing(data, newest_first=in_conversation), count)
        if in_conversation:
            self.pending, self.is_pending_known = pending_calls(letta.decode_last_message(data)), True

    def forget_pending(self) -> None:
        """Others have spoken to the agent meanwhile."""
        self.pending, self.is_pending_known, self.heard = None, False, None

    def forget(self) -> AgentGone | ThreadGone:
        """Letta knows nothing of it: what was remembered is out of date, and must be asked for.

        :raises RequestError: if it was not remembered; there is nothing else to ask for.
        """
        if self.conversation is not None:
            if not isinstance(self.choice, Chat | Throwaway) or self._searched:
                raise no_conversation("the conversation was deleted at Letta")
            thread, self.conversation = self.conversation, None
            return ThreadGone(thread=thread)
        return self.forget_agent()

    def forget_agent(self) -> AgentGone:
        """Letta knows no such agent.

        :raises RequestError: if the agent was not remembered.
        """
        if self.is_confirmed:
            raise unknown_model(self.model)
        gone = AgentGone(agent_id=self.agent.id)
        self.known_agent = self.conversation = None
        self.forget_pending()
        return gone
