"""The agent and the thread that a turn addresses, and the calls that are pending there.

Remembered ids are used until Letta responds that they do not exist. Then they are looked up again: there may be
another agent with the same name, and a chat gets a new conversation. Ids that Letta returned in this turn are
not looked up again.
"""

from collections.abc import Callable
from typing import TypeAlias

from attrs import define, field

from ...errors import RequestError, RequestField, unknown_model
from ...turn.agent import ANYONE, Agent, Caller, PendingCall
from ...turn.events import AgentGone, AgentThread, ConversationThread, Thread, ThreadGone
from ...turn.ledger import Heard
from ...turn.request import Chat, NamedConversation, ThreadChoice, Throwaway, TranscriptChat
from . import letta
from .agents import find_agent, found_agent, pending_calls
from .commands import Command, FetchAgent, FetchLast, FetchMessages
from .conversations import FoundThread, Search, find_thread, no_conversation
from .response import Response
from .thread_history import to_heard

#: Returns the conversation that the requested thread of an agent resolved to before.
RecallThread: TypeAlias = Callable[[Agent], ConversationThread | None]


def no_known_thread(agent: Agent) -> None:
    """Return None: no conversation is remembered."""


@define(kw_only=True)
class Target:
    """The agent and the thread that a turn addresses, as far as they are known.

    :param model: the agent's name or id in the request.
    :param choice: the requested thread.
    :param caller: the client. Only agents that it may use are found.
    :param known_agent: the agent, if it is known.
    :param conversation: the conversation that `choice` resolved to, if it is known.
    :param recall_thread: returns that conversation once the agent has been resolved.
    :param pending: the pending calls, if they have just been looked up.
    :param lookback_count: the number of messages to read, to find out what the agent has heard.
    """

    model: str
    choice: ThreadChoice = None
    caller: Caller = ANYONE
    known_agent: Agent | None = None
    conversation: ConversationThread | None = None
    pending: tuple[PendingCall, ...] | None = None
    lookback_count: int = 0
    is_pending_known: bool = field(init=False)  #: `pending` has been looked up
    is_new: bool = field(default=False, init=False)  #: the conversation has no messages yet
    heard: Heard | None = field(default=None, init=False)  #: what the thread has heard, if it was looked up
    is_confirmed: bool = field(default=False, init=False)  #: Letta returned the agent, or accepted input for it
    _recall_thread: RecallThread = field(default=no_known_thread, alias="recall_thread")
    _own_thread: AgentThread | None = field(default=None, init=False)
    _searched: bool = field(default=False, init=False)  #: the conversation was looked up in this turn

    def __attrs_post_init__(self) -> None:
        self.is_pending_known = self.pending is not None

    @property
    def is_own_thread(self) -> bool:
        """Whether the turn is in the agent's own thread. The agent must be known.

        An agent without conversations has only this thread; all its chats take place there.
        """
        return self.choice is None or self._names_agent or not self.agent.capabilities.conversations

    @property
    def _names_agent(self) -> bool:
        """Whether the conversation that is named is the agent itself, by its id."""
        return isinstance(self.choice, NamedConversation) and self.choice.conversation_id == self.agent.id

    @property
    def continues_task(self) -> bool:
        """Whether this is the continuation of a background prompt, whose conversation has its instructions."""
        return isinstance(self.choice, Throwaway) and not self.is_new

    def check_choice(self) -> None:
        """Check that the agent supports the requested thread.

        :raises RequestError: if the agent has no conversations.
        """
        if self.agent.capabilities.conversations or self._names_agent:
            return
        why = f"an agent of type {self.agent.agent_type} has no thread but its own"
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
        """The agent, which must be known."""
        assert self.known_agent is not None
        return self.known_agent

    @property
    def thread(self) -> Thread:
        """The thread; the agent must be known."""
        if self.conversation is not None:
            return self.conversation
        if self._own_thread is None or self._own_thread.agent_id != self.agent.id:
            self._own_thread = AgentThread(agent_id=self.agent.id)
        return self._own_thread

    def agent_command(self, *, with_pending: bool) -> Command:
        """Return the command that looks up the agent.

        :param with_pending: whether its pending calls are needed.
        :raises RequestError: if no agent can have this name.
        """
        return find_agent(self.model, with_pending=with_pending)

    def take_agent(self, response: Response, *, with_pending: bool) -> Agent:
        """Take the agent from the response to `agent_command`.

        :raises SansioLettaError: if there is no such agent, or the lookup failed.
        """
        found = found_agent(self.model, response, self.caller.may_use)
        self.known_agent = found.agent
        self.is_confirmed = True
        if self.is_own_thread:
            self.pending, self.is_pending_known = found.pending, with_pending
        return self.agent

    def recall_thread(self) -> bool:
        """Use the remembered conversation. Return whether the thread is known now."""
        if self.is_own_thread:
            return True
        if self.conversation is None:
            self.conversation = self._recall_thread(self.agent)
        return self.conversation is not None

    def search(self) -> Search:
        """Return a generator that finds the conversation, or creates it."""
        assert self.choice is not None
        self._searched = True
        return find_thread(self.agent.id, self.choice, self.lookback_count)

    def take_thread(self, found: FoundThread) -> None:
        """Take the result of `search`."""
        self.conversation, self.is_new = found.thread, found.is_new
        if found.is_new:
            self.heard = Heard(is_whole=True)
        elif found.listing is not None and self.lookback_count:
            self.take_history(found.listing, self.lookback_count)

    def pending_command(self) -> Command:
        """Return the command that looks up the pending calls. An agent does not list those of conversations."""
        if self.conversation is None:
            return FetchAgent(agent_id=self.agent.id)
        return FetchLast(conversation_id=self.conversation.conversation_id)

    def take_pending(self, response: Response) -> None:
        """Take the pending calls from the response to `pending_command`, which must not be a 404.

        :raises SansioLettaError: if the lookup failed.
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
        """Forget the pending calls and what the thread has heard, since another turn has used it."""
        self.pending, self.is_pending_known, self.heard = None, False, None

    def forget(self) -> AgentGone | ThreadGone:
        """Forget the conversation, or else the agent, since Letta responded that it does not exist.

        :raises RequestError: if it had not been remembered, but looked up.
        """
        if self.conversation is not None:
            if not isinstance(self.choice, Chat | TranscriptChat | Throwaway) or self._searched:
                raise no_conversation("the conversation was deleted in Letta")
            thread, self.conversation = self.conversation, None
            return ThreadGone(thread=thread)
        return self.forget_agent()

    def forget_agent(self) -> AgentGone:
        """Forget the agent, since Letta responded that it does not exist.

        :raises RequestError: if it had not been remembered, but looked up.
        """
        if self.is_confirmed:
            raise unknown_model(self.model)
        gone = AgentGone(agent_id=self.agent.id)
        self.known_agent = self.conversation = None
        self.forget_pending()
        return gone
