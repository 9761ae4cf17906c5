"""The upstream of a turn that uses an App Server."""

from collections.abc import Callable, Hashable, Sequence
from typing import Final, NoReturn

import orjson
from attrs import define, evolve, field

from ...config import Config, InstructionPolicy
from ...errors import LettaError, RequestError, RequestField, SansioLettaError
from ...turn.agent import ANYONE, Agent, Caller, PendingCall, ToolOwner
from ...turn.events import ConversationThread, Thread, ThreadGone
from ...turn.ledger import Heard
from ...turn.request import Chat, Message, NamedConversation, Throwaway, TranscriptChat, TurnRequest
from ...turn.upstream import Gone, RunRequest, Script, TimedOut, Wait
from .agent_tools import MEMORY_TOOLS, AgentTools, Judgement
from .agents import AgentDirectory
from .connection import AppServerConnection
from .conversation import Call, Conversation, ConversationState
from .frames import Json
from .messages import AppServerRef, Listed, read_listed, to_heard, waiting_calls
from .past_run import ListedRun, find_listed_run
from .questions import NotFound, Questions
from .run import BUSY, LOOK_PAUSE, AppServerRun
from .threads import ConversationDirectory

#: Messages that are looked through for a run.
_RUN_LOOKBACK: Final = 200

#: Returns the conversation that the thread of an agent resolved to before.
RecallThread = Callable[[Agent], ConversationThread | None]


def no_known_thread(agent: Agent) -> None:
    """Return None: no conversation is remembered."""


@define(eq=False)
class AppServerUpstream:
    """An App Server for one turn. See `turn.upstream.Upstream`.

    :param connection: shared by all turns of the process.
    :param wake: has the turn go on.
    :param token: unique to the request.
    :param agent: the agent, if it is already known.
    :param agent_tools: which of the agent's own tools may be used.
    :param recall_thread: returns the conversation once the agent has been resolved.
    """

    _request: TurnRequest
    _config: Config
    connection: AppServerConnection
    wake: Callable[[], None] = field(kw_only=True)
    token: str = field(kw_only=True)
    agent: Agent | None = field(default=None, kw_only=True)
    caller: Caller = field(default=ANYONE, kw_only=True)
    agent_tools: AgentTools = field(factory=AgentTools, kw_only=True)
    _recall_thread: RecallThread = field(default=no_known_thread, alias="recall_thread", kw_only=True)
    thread: Thread | None = field(default=None, init=False)
    is_new: bool = field(default=False, init=False)
    heard: Heard | None = field(default=None, init=False)
    calls: tuple[PendingCall, ...] | None = field(default=None, init=False)
    _names: dict[str, str] = field(factory=dict, init=False)  #: the client's names of tools, by the agent's
    _run_count: int = field(default=0, init=False)
    _goes_on: bool = field(default=False, init=False)  #: an earlier run was found that broke off
    _questions: Questions = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._questions = Questions(self.connection, self.wake)
        self._names = {
            tool.name: self._request.client_tool_names.get(tool.name, tool.name)
            for tool in self._request.client_tools
        }

    # --- The agent and the thread -------------------------------------------------------------------------

    @property
    def queue_keys(self) -> tuple[Hashable, ...]:
        """The keys of the queues to wait in: the server would merge the inputs of two turns."""
        assert self.agent is not None
        known = () if self.thread is None else (self.thread,)
        match self._request.thread:
            case Chat() as choice:
                return ((self.agent.id, choice), *known)
            case TranscriptChat(points=points, begins=begins):
                return ((self.agent.id, points[0], self.token if begins else ""), *known)
            case Throwaway(call_ids=call_ids):
                return ((self.agent.id, call_ids), *known) if call_ids else (self.token, *known)
            case choice:
                return ((self.agent.id, choice), *known)

    def resolve_agent(self, *, with_calls: bool) -> Script[Agent]:
        """Look up the agent by its name or id."""
        self.agent = yield from AgentDirectory(self._questions, self.caller).find(self._request.model)
        return self.agent

    def fit(self, request: TurnRequest) -> TurnRequest:
        """Refuse what an App Server cannot do."""
        given = request.instructions
        if given is not None and given.policy is InstructionPolicy.OVERRIDE:
            raise RequestError(
                "instructions=override needs Letta's REST API: an App Server takes no system prompt with a "
                "request. Use once or always.",
                field=RequestField.INSTRUCTIONS,
            )
        return request

    def recall_thread(self) -> None:
        """Use the remembered conversation, if there is one and it takes input."""
        assert self.agent is not None
        self.thread = self._recall_thread(self.agent)
        if self.thread is not None and self._is_broken:
            self.thread = None

    def open_thread(self) -> Script[None]:
        """Find the conversation, or create it."""
        found = yield from self._directory.find(self._request.thread)
        self.thread, self.is_new = found.thread, found.is_new
        if not self._is_broken:
            return
        if not isinstance(self._request.thread, NamedConversation):
            self.thread = (yield from self._directory.fork(self._conversation_id)).thread
        elif self._is_dead:
            raise LettaError(
                f"Conversation {self._conversation_id} takes no input since its connection broke: restart "
                "the App Server, or name another conversation."
            )

    @property
    def _is_broken(self) -> bool:
        """Whether a copy of the conversation is to go on in its place, where none was named."""
        return self._is_dead or self._conversation.was_cut

    @property
    def _is_dead(self) -> bool:
        return self._conversation.state is ConversationState.DEAD

    @property
    def _directory(self) -> ConversationDirectory:
        assert self.agent is not None
        return ConversationDirectory(self._questions, self.agent.id)

    @property
    def _conversation_id(self) -> str:
        assert isinstance(self.thread, ConversationThread)
        return self.thread.conversation_id

    @property
    def _conversation(self) -> Conversation:
        assert self.agent is not None
        return self.connection.conversation(self.agent.id, self._conversation_id)

    # --- What waits there, and what it has heard ----------------------------------------------------------

    def look_up_calls(self) -> Script[None]:
        """Look up the calls that wait in the conversation, whoever began the turn that made them."""
        conversation = self._conversation
        if self._is_dead:
            self._lose_thread()
        if not conversation.followed_by:
            content = {"runtime": conversation.runtime, "recover_approvals": False}
            yield from self._ask_of_thread("sync", content)
        if conversation.open_calls and not conversation.is_ours:
            # Their turn was begun through another process, which has seen the calls behind the first one.
            conversation.learn_calls(waiting_calls((yield from self._list(_RUN_LOOKBACK))))
        waiting = [call for call in conversation.open_calls if not self._is_decided(call)]
        self.calls = tuple(
            self._owned(PendingCall(call_id=call.call_id, name=call.name, arguments=call.arguments))
            for call in waiting
        )

    def _is_decided(self, call: Call) -> bool:
        """Whether the policy decides about it when its turn comes: the server asks about one at a time."""
        tools = evolve(self.agent_tools, client_names=frozenset(self._names))
        if (arguments := call.asked) is None:
            try:
                arguments = orjson.loads(call.arguments)
            except orjson.JSONDecodeError:
                return False
        if not isinstance(arguments, dict):
            return False
        judgement = tools.judge(call.name, arguments, self._conversation.memory_directory)
        return call.name in MEMORY_TOOLS and judgement is not Judgement.ASK

    def _owned(self, call: PendingCall) -> PendingCall:
        name = call.name or ""
        client_name = self._names.get(name)
        if client_name is not None:
            return evolve(call, owner=ToolOwner.CLIENT, client_name=client_name)
        is_own = name in MEMORY_TOOLS or name in self.agent_tools.names or self.agent_tools.asks
        return evolve(call, owner=ToolOwner.AGENT if is_own else ToolOwner.DEPARTED)

    def client_name(self, name: str) -> str:
        """Return the client's name of a tool; the name itself if the client does not offer it."""
        return self._names.get(name, name)

    def look_up_heard(self) -> Script[None]:
        """Find out what the conversation has heard, by its last messages."""
        count = self._config.lookback_count
        messages = yield from self._list(count)
        self.heard = to_heard(messages, self._conversation_id, is_whole=len(messages) < count)

    def _list(self, count: int) -> Script[tuple[Listed, ...]]:
        query = {"limit": count, "order": "desc"}
        content = {"conversation_id": self._conversation_id, "query": query}
        answer = yield from self._ask_of_thread("conversation_messages_list", content)
        return read_listed(answer)

    def _ask_of_thread(self, kind: str, content: Json) -> Script[Json]:
        try:
            return (yield from self._questions.ask(kind, content))
        except NotFound as exc:
            self._lose_thread(exc)

    def _lose_thread(self, cause: Exception | None = None) -> NoReturn:
        assert isinstance(self.thread, ConversationThread)
        gone, self.thread = ThreadGone(thread=self.thread), None
        raise Gone(gone) from cause

    def forget_calls(self) -> None:
        """Discard what was looked up: other turns have used the conversation since."""
        self.calls = self.heard = None

    def confirm(self) -> None:
        """Do nothing: the agent is named by its id."""

    # --- Runs ---------------------------------------------------------------------------------------------

    def make_run(self, request: RunRequest) -> AppServerRun:
        """Return a run that has yet to be prepared and started."""
        self._run_count += 1
        told = request.request
        given = told.instructions
        system: tuple[Message, ...] = ()
        if given is not None and given.policy is InstructionPolicy.ALWAYS:
            system = given.messages
        elif given is not None and given.policy is InstructionPolicy.ONCE:
            system = given.new
        new = () if request.is_verdict else told.messages
        if not new and request.answers:
            system = ()  # they would be a message of their own: they wait for the user's next one
        sent = (*system, *told.history, *new)
        conversation = self._conversation
        conversation.tools = evolve(self.agent_tools, client_names=frozenset(self._names))
        continues = not request.answers and not sent
        # Behind a turn that was cancelled, the server would tell the agent so, and it would reply to that.
        end = conversation.last_end
        is_after_cancel = self._goes_on if end is None else end.is_cancelled
        needs_copy = is_after_cancel and not isinstance(self._request.thread, NamedConversation)
        return AppServerRun(
            conversation=conversation,
            questions=self._questions,
            wake=self.wake,
            answers=request.answers,
            sent=sent,
            messages=(*system, *told.history, *told.preamble, *new),
            continues=continues,
            tools=told.client_tools,
            client_names=self._names,
            request_id=f"{self.token}-{self._run_count}",
            has_results=request.has_results,
            queue_timeout=self._config.queue_timeout,
            max_unread_size=self._config.max_unread_size,
            read_past=self.look_up,
            copy=self._copy if continues and needs_copy else None,
        )

    def _copy(self) -> Script[Conversation]:
        tools = self._conversation.tools
        self.thread = (yield from self._directory.fork(self._conversation_id)).thread
        self._conversation.tools = tools
        return self._conversation

    def look_up(self, ref: AppServerRef) -> Script[ListedRun]:
        """Wait until the run of an earlier turn is over, or its calls wait, and return it."""
        conversation, self.calls = self._conversation, None
        if not self._is_dead:
            yield from self.look_up_calls()
            until = self.connection.now + self._config.queue_timeout
            while conversation.is_running:
                if self.connection.now >= until:
                    raise LettaError("The agent is still busy with this request.", advice=BUSY)
                yield Wait(LOOK_PAUSE)
            if not self._is_dead:
                yield from self.look_up_calls()
        past = find_listed_run(
            (yield from self._list(_RUN_LOOKBACK)),
            ref,
            self._names,
            has_replied=conversation.last_end is not None and conversation.last_end.is_whole,
            waiting=self.calls or (),
        )
        self._goes_on = past.can_continue
        return past

    # --- The end ------------------------------------------------------------------------------------------

    def release(
        self, *, awaited_calls: Sequence[str], left_nothing: bool, had_turn: bool
    ) -> Script[None] | None:
        """Archive the conversation of a background prompt."""
        is_needed = awaited_calls or not isinstance(self._request.thread, Throwaway)
        if is_needed or self.thread is None:
            return None
        return _archive(self._directory, self._conversation_id)


def _archive(directory: ConversationDirectory, conversation_id: str) -> Script[None]:
    try:
        yield from directory.archive(conversation_id)
    except (SansioLettaError, TimedOut):
        return  # it is swept later
