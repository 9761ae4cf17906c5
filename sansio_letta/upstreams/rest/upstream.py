"""The upstream of a turn that uses Letta's REST API."""

from collections.abc import Hashable, Sequence

from attrs import define, evolve, field

from ...config import Config
from ...errors import SansioLettaError
from ...turn.agent import ANYONE, Agent, Caller, PendingCall, ToolOwner
from ...turn.events import AgentThread, ConversationThread, Thread
from ...turn.ledger import Heard
from ...turn.request import Chat, NamedConversation, Throwaway, TranscriptChat, TurnRequest, task_end
from ...turn.upstream import Gone, RunRequest, Script, TimedOut
from ..thread_names import waiting_summary
from .attached_tools import strip_heartbeat
from .calls import owner_of
from .commands import Command, CreateConversation, DeleteConversation, UpdateConversation
from .conversations import delete_strays
from .exchange import Exchange, Exchanges
from .live_run import LettaMemory, RestRun, RunContext
from .lookup import RunCriteria, RunMark
from .offered_tools import OfferedTools
from .recovery import EarlierTurn, KeptRun, read_earlier_turn
from .response import Response
from .run_request import AlreadySent, build_run_request, never_sent
from .target import RecallThread, Target, no_known_thread
from .tool_attachment import clean_up


@define(eq=False)
class RestUpstream:
    """Letta's REST API for one turn. See `turn.upstream.Upstream`.

    :param request: the client's request.
    :param config: limits.
    :param agent: the agent, if it is already known.
    :param pending: the agent's pending calls, if they have just been looked up.
    :param background: whether to start runs whose streams can be resumed.
    :param caller: the client that sent the request. Only agents that it may use are found.
    :param thread: the conversation that the request's thread resolved to, if it is already known.
    :param recall_thread: returns that conversation once the agent has been resolved.
    :param already_sent: returns whether an instruction is the last one that was sent in a thread.
    :param memory: shared by all turns of the process.
    :param expired: other turns' conversations that are no longer needed; deleted when this turn has ended.
    :param token: unique to the request. Without it, a run cannot be found before its id is known.
    :param owner: identifies the process in marks of runs: letters, digits and hyphens.
    :param created: when the request was received, Unix time in seconds.
    """

    _request: TurnRequest
    _config: Config = field(factory=Config)
    _known_agent: Agent | None = field(default=None, alias="agent")
    _known_pending: tuple[PendingCall, ...] | None = field(default=None, alias="pending")
    _background: bool = field(default=False, alias="background", kw_only=True)
    _caller: Caller = field(default=ANYONE, alias="caller", kw_only=True)
    _known_thread: ConversationThread | None = field(default=None, alias="thread", kw_only=True)
    _recall_thread: RecallThread = field(default=no_known_thread, alias="recall_thread", kw_only=True)
    _already_sent: AlreadySent = field(default=never_sent, alias="already_sent", kw_only=True)
    _memory: LettaMemory = field(factory=LettaMemory, alias="memory", kw_only=True)
    _expired: tuple[ConversationThread, ...] = field(default=(), alias="expired", kw_only=True)
    _token: str = field(default="", alias="token", kw_only=True)
    _owner: str = field(default="", alias="owner", kw_only=True)
    _created: int = field(default=0, alias="created", kw_only=True)
    _target: Target = field(init=False)
    _tools: OfferedTools = field(init=False)
    _exchanges: Exchanges = field(init=False)
    _creations: list[Exchange] = field(factory=list, init=False)  #: that create a conversation
    _run_count: int = field(default=0, init=False)  #: runs made so far

    def __attrs_post_init__(self) -> None:
        request, config = self._request, self._config
        self._exchanges = Exchanges(config, self._caller.key_is_lettas)
        self._target = Target(
            model=request.model,
            choice=request.thread,
            caller=self._caller,
            known_agent=self._known_agent,
            conversation=self._known_thread,
            recall_thread=self._recall_thread,
            pending=self._known_pending,
            lookback_count=self._config.lookback_count,
        )
        self._tools = OfferedTools(
            offered=request.client_tools,
            client_names=request.client_tool_names,
            policy=config.client_tools,
            ttl=config.client_tool_ttl,
            created_tools=self._memory.created_tools,
            scope=self._caller.scope,
            owner=self._token,
            now=self._created,
        )

    # --- The agent and the thread -------------------------------------------------------------------------

    @property
    def agent(self) -> Agent | None:
        """The agent, or None if it has not been resolved yet."""
        return self._target.known_agent

    @property
    def thread(self) -> Thread | None:
        """The thread, or None if it has not been opened yet."""
        if self._target.known_agent is None or (
            self._target.conversation is None and not self._target.is_own_thread
        ):
            return None
        return self._target.thread

    @property
    def is_new(self) -> bool:
        """Whether the thread has no messages yet."""
        return self._target.is_new

    @property
    def queue_keys(self) -> tuple[Hashable, ...]:
        """The keys that the turn queues for."""
        agent, choice, known = self._target.agent, self._target.choice, self._target.conversation
        # Attached tools are visible in all threads of the agent.
        if self._target.is_own_thread or self._tools.attaches_to(agent):
            return (AgentThread(agent_id=agent.id),)
        conversation = () if known is None else (known,)
        match choice:
            case Chat():
                return ((agent.id, choice), *conversation)
            case TranscriptChat(points=points, begins=begins):
                # Chats that begin with the same message do not wait for each other.
                return ((agent.id, points[0], self._token if begins else ""), *conversation)
            case Throwaway(call_ids=call_ids):
                # Results of the same calls belong to the same conversation.
                return ((agent.id, call_ids), *conversation) if call_ids else (choice.token, *conversation)
            case NamedConversation(conversation_id=conversation_id):
                return (ConversationThread(conversation_id=conversation_id),)
        return conversation

    def resolve_agent(self, *, with_calls: bool) -> Script[Agent]:
        """Look up the agent by its name or id."""
        self._exchanges.reset_pauses()
        response = yield from self._exchanges.send(self._target.agent_command(with_pending=with_calls))
        return self._target.take_agent(response, with_pending=with_calls)

    def fit(self, request: TurnRequest) -> TurnRequest:
        """Return the request with the client's tools renamed as the agent sees them."""
        self._target.check_choice()
        self._tools.fit(self._target.agent)
        return request.with_tool_names(self._tools.names_at_letta)

    def recall_thread(self) -> None:
        """Use the remembered conversation, if there is one."""
        self._target.recall_thread()

    def open_thread(self) -> Script[None]:
        """Find the conversation, or create it."""
        found = yield from self._exchanges.drive(self._target.search(), self._send_in_search)
        self._target.take_thread(found)

    def _send_in_search(self, command: Command) -> Script[Response]:
        """Send a command of the search. What may have been created is noted, so that it can be deleted."""
        if not isinstance(command, CreateConversation):
            return (yield from self._exchanges.send(command))
        response = yield from self._exchanges.send(command, must_finish=True, created=self._creations)
        if response.status == 404:
            # The remembered agent no longer exists.
            raise Gone(self._target.forget_agent())
        return response

    # --- Pending calls ------------------------------------------------------------------------------------

    @property
    def calls(self) -> tuple[PendingCall, ...] | None:
        """The pending calls of the thread, or None if they have not been looked up yet."""
        if not self._target.is_pending_known:
            return None
        return tuple(self._owned(call) for call in self._target.pending or ())

    def _owned(self, call: PendingCall) -> PendingCall:
        """Return the call with the owner of its tool."""
        agent, arguments = self._target.agent, call.arguments
        owner = owner_of(call.name, self._tools.names, agent.tool_names)
        if owner is ToolOwner.CLIENT and not agent.capabilities.exact_arguments:
            arguments = strip_heartbeat(arguments or "{}")
        client_name = self._tools.names.get(call.name or "")
        return evolve(call, arguments=arguments, owner=owner, client_name=client_name)

    def look_up_calls(self) -> Script[None]:
        """Look up the pending calls of the thread."""
        self._exchanges.reset_pauses()
        response = yield from self._exchanges.send(self._target.pending_command())
        if response.status == 404:
            raise Gone(self._target.forget())
        self._target.take_pending(response)

    @property
    def heard(self) -> Heard | None:
        """What the thread has heard, if it was looked up in this turn."""
        return self._target.heard

    def client_name(self, name: str) -> str:
        """Return the client's name of a tool."""
        return self._tools.names.get(name, name)

    def look_up_heard(self) -> Script[None]:
        """Find out what the thread has heard."""
        self._exchanges.reset_pauses()
        count = self._config.lookback_count
        response = yield from self._exchanges.send(self._target.history_command(count))
        if response.status == 404:
            raise Gone(self._target.forget())
        self._target.take_history(response.data, count)

    def forget_calls(self) -> None:
        """Forget the pending calls, since another turn has used the thread."""
        self._target.forget_pending()

    def confirm(self) -> None:
        """Note that the agent has received the input."""
        self._target.is_confirmed = True

    # --- Runs ---------------------------------------------------------------------------------------------

    def make_run(self, request: RunRequest) -> RestRun:
        """Return a run that has yet to be prepared and started."""
        agent, finds = self._target.agent, bool(self._token) and self._config.finds_runs
        is_marked = finds and agent.capabilities.marked_runs
        self._run_count += 1
        request_id = f"{self._token}-{self._run_count}" if self._token else ""
        new_run = build_run_request(
            request.request,
            request.answers,
            self._target,
            self._already_sent,
            client_tools=self._tools.in_request,
            background=self._background and self._memory.has_background,
            mark=self._run_mark(request_id) if is_marked else None,
            request_id=request_id,
            is_verdict=request.is_verdict,
        )
        conversation = self._target.conversation
        criteria = RunCriteria(
            agent_id=agent.id,
            mark=new_run.command.request.assistant_message_tool_kwarg,
            conversation_id=conversation.conversation_id if conversation else None,
        )
        # Answers sent ahead are stored before the run: if it fails, only the messages need be sent again.
        goes_ahead = new_run.answers_ahead is not None and bool(request.request.messages)
        return RestRun(
            context=self._run_context,
            new_run=new_run,
            attachment=self._tools.to_attach,
            names={call.call_id: call.name for call in request.answered if call.name},
            has_results=request.has_results and not goes_ahead,
            compares_runs=finds and not is_marked,
            criteria=criteria if finds else None,
            forget=self._target.forget,
            forget_agent=self._target.forget_agent,
            memory=self._memory,
        )

    @property
    def _run_context(self) -> RunContext:
        results = (*self._request.past_results, *self._request.results)
        return RunContext(
            agent=self._target.agent,
            exchanges=self._exchanges,
            client_tools=self._tools.names,
            result_ids=frozenset(result.call_id for result in results),
        )

    def _run_mark(self, request_id: str) -> str:
        until = task_end(self._created, self._config.turn_timeout)
        return RunMark(token=request_id, owner=self._owner, until=until).text

    def look_up(self, ref: EarlierTurn) -> Script[KeptRun]:
        """Wait until the run of an earlier turn is over, and return it."""
        ended = yield from self._exchanges.drive_lookup(read_earlier_turn(ref, self._config.lost_run_timeout))
        return KeptRun(ended, self._run_context.stream({}))

    # --- The end ------------------------------------------------------------------------------------------

    def release(
        self, *, awaited_calls: Sequence[str], left_nothing: bool, had_turn: bool
    ) -> Script[None] | None:
        """Delete the resources of this turn, and detach the client's tools from the agent."""
        choice = self._target.choice
        task = choice if isinstance(choice, Throwaway) else None
        conversation = self._end_of_conversation(task, awaited_calls, left_nothing) if task else None
        is_unread = bool(self._creations) and self._target.conversation is None
        has_strays = any(
            exchange.may_have_created or (is_unread and exchange.has_succeeded) for exchange in self._creations
        )
        agent = self._target.known_agent
        strays = delete_strays(agent.id, task) if task and agent and has_strays else None
        attachment, sweep = self._tools.to_detach, self._tools.sweep if had_turn else None
        if (
            conversation is None
            and strays is None
            and attachment is None
            and sweep is None
            and not self._expired
        ):
            return None
        # Whatever could not be deleted has a mark, and is deleted when a server starts.
        cleaning = clean_up(conversation, strays, attachment, sweep, self._expired)
        return self._exchanges.drive(cleaning, self._send_in_clean_up)

    def _end_of_conversation(
        self, task: Throwaway, awaited_calls: Sequence[str], left_nothing: bool
    ) -> DeleteConversation | UpdateConversation | None:
        """Return the command that deletes a background prompt's conversation, or keeps it for results."""
        if self._target.conversation is None:
            return None
        ident = self._target.conversation.conversation_id
        if awaited_calls:
            summary = waiting_summary(task, awaited_calls, self._config.client_tool_ttl)
            return UpdateConversation(conversation_id=ident, summary=summary)
        if left_nothing and self._target.continues_task:
            return None  # the client may send the results again
        return DeleteConversation(conversation_id=ident)

    def _send_in_clean_up(self, command: Command) -> Script[Response | None]:
        """Send a command and ignore failures, so that the rest is cleaned up, too."""
        try:
            return (yield from self._exchanges.send(command))
        except (SansioLettaError, TimedOut):
            return None
