"""Letta's REST API as the upstream of a turn."""

from collections.abc import Hashable, Sequence

from attrs import define, evolve, field

from ...config import Config
from ...errors import SansioLettaError
from ...turn.agent import ANYONE, Agent, Caller, PendingCall, ToolOwner
from ...turn.events import AgentThread, ConversationThread, Thread
from ...turn.request import Chat, NamedConversation, Throwaway, TurnRequest, task_end
from ...turn.upstream import Gone, RunRequest, Script, TimedOut
from .attached_tools import own_arguments
from .calls import owner_of
from .client_tools import Toolkit
from .commands import Command, CreateConversation, DeleteConversation, UpdateConversation
from .conversations import delete_strays, waiting_summary
from .destination import Destination, RecallThread, nothing_known
from .exchange import Exchange, Exchanges
from .live_run import LettaMemory, RestRun, RunSetting
from .lookup import RunMark, SoughtRun
from .recovery import EarlierTurn, KeptRun, review
from .response import Answer
from .run_request import IsTold, compose, never_told
from .tool_attachment import clean_up


@define(eq=False)
class RestUpstream:
    """One turn's side of Letta. See `turn.upstream.Upstream`.

    :param request: what the client asks.
    :param config: limits.
    :param agent: the agent, if the caller remembers it.
    :param pending: what the agent waits for, if the caller has just looked.
    :param background: whether to ask for runs whose streams can be taken up again.
    :param caller: whose request it is: no other agent is found than those that it may use.
    :param thread: the conversation that the request's thread stands for, if the caller remembers it.
    :param recall_thread: the same for an agent that was not known.
    :param is_told: whether something is what a thread was told last.
    :param memory: what the process's turns have in common.
    :param expired: conversations of others that are not needed any more: deleted when this turn has ended.
    :param token: unique to the request; without one its runs cannot be found before they are named.
    :param owner: the process, for others to see whose a run is; letters, digits and hyphens.
    :param created: when it came, Unix time in seconds.
    """

    _request: TurnRequest
    _config: Config = field(factory=Config)
    _known_agent: Agent | None = field(default=None, alias="agent")
    _known_pending: tuple[PendingCall, ...] | None = field(default=None, alias="pending")
    _background: bool = field(default=False, alias="background", kw_only=True)
    _caller: Caller = field(default=ANYONE, alias="caller", kw_only=True)
    _known_thread: ConversationThread | None = field(default=None, alias="thread", kw_only=True)
    _recall_thread: RecallThread = field(default=nothing_known, alias="recall_thread", kw_only=True)
    _is_told: IsTold = field(default=never_told, alias="is_told", kw_only=True)
    _memory: LettaMemory = field(factory=LettaMemory, alias="memory", kw_only=True)
    _expired: tuple[ConversationThread, ...] = field(default=(), alias="expired", kw_only=True)
    _token: str = field(default="", alias="token", kw_only=True)
    _owner: str = field(default="", alias="owner", kw_only=True)
    _created: int = field(default=0, alias="created", kw_only=True)
    _to: Destination = field(init=False)
    _tools: Toolkit = field(init=False)
    _exchanges: Exchanges = field(init=False)
    _made: list[Exchange] = field(factory=list, init=False)  #: that were to make a conversation
    _run_count: int = field(default=0, init=False)  #: how many were made

    def __attrs_post_init__(self) -> None:
        request, config = self._request, self._config
        self._exchanges = Exchanges(config, self._caller.key_is_lettas)
        self._to = Destination(
            model=request.model,
            wish=request.thread,
            caller=self._caller,
            known_agent=self._known_agent,
            conversation=self._known_thread,
            recall_thread=self._recall_thread,
            pending=self._known_pending,
        )
        self._tools = Toolkit(
            offered=request.client_tools,
            client_names=request.client_tool_names,
            policy=config.client_tools,
            ttl=config.client_tool_ttl,
            made=self._memory.made_tools,
            scope=self._caller.scope,
            owner=self._token,
            now=self._created,
        )

    # --- The agent and the thread -------------------------------------------------------------------------

    @property
    def agent(self) -> Agent | None:
        """The agent; None: it must be resolved."""
        return self._to.known_agent

    @property
    def thread(self) -> Thread | None:
        """Where the turn is; None: it must be opened."""
        if self._to.known_agent is None or (self._to.conversation is None and not self._to.is_own_thread):
            return None
        return self._to.thread

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever said in the thread."""
        return self._to.is_new

    @property
    def queue_keys(self) -> tuple[Hashable, ...]:
        """What the turn queues for."""
        agent, wish, known = self._to.agent, self._to.wish, self._to.conversation
        # Tools that are attached to an agent are there for whoever speaks to it.
        if self._to.is_own_thread or self._tools.attaches_to(agent):
            return (AgentThread(agent_id=agent.id),)
        conversation = () if known is None else (known,)
        match wish:
            case Chat():
                return ((agent.id, wish), *conversation)
            case Throwaway(call_ids=call_ids):
                # Results of the same calls are brought to the same conversation.
                return ((agent.id, call_ids), *conversation) if call_ids else (wish.token, *conversation)
            case NamedConversation(conversation_id=conversation_id):
                return (ConversationThread(conversation_id=conversation_id),)
        return conversation

    def resolve_agent(self, *, with_calls: bool) -> Script[Agent]:
        """Find the agent by its name or id."""
        self._exchanges.went_well()
        answer = yield from self._exchanges.ask(self._to.find(with_pending=with_calls))
        return self._to.take_agent(answer, with_pending=with_calls)

    def fit(self, request: TurnRequest) -> TurnRequest:
        """The request with the client's tools under the names that the agent knows."""
        self._to.check_wish()
        self._tools.fit(self._to.agent)
        return request.with_tool_names(self._tools.names_at_letta)

    def recall_thread(self) -> None:
        """Take the conversation that is remembered, if one is."""
        self._to.recall_thread()

    def open_thread(self) -> Script[None]:
        """Find the conversation, or make it."""
        found = yield from self._exchanges.walk(self._to.search(), self._ask_for_thread)
        self._to.take_thread(found)

    def _ask_for_thread(self, question: Command) -> Script[Answer]:
        """Note what is to be made: it is cleaned up even if its answer never comes."""
        if not isinstance(question, CreateConversation):
            return (yield from self._exchanges.ask(question))
        answer = yield from self._exchanges.ask(question, must_finish=True, made=self._made)
        if answer.status == 404:
            # The agent, which was remembered, is gone.
            raise Gone(self._to.forget_agent())
        return answer

    # --- What waits for an answer -------------------------------------------------------------------------

    @property
    def calls(self) -> tuple[PendingCall, ...] | None:
        """What waits for an answer in the thread; None: it must be looked up."""
        if not self._to.has_looked:
            return None
        return tuple(self._owned(call) for call in self._to.pending or ())

    def _owned(self, call: PendingCall) -> PendingCall:
        """The same with whose tool it is of."""
        agent, arguments = self._to.agent, call.arguments
        owner = owner_of(call.name, self._tools.names, agent.tool_names)
        if owner is ToolOwner.CLIENT and not agent.capabilities.exact_arguments:
            arguments = own_arguments(arguments or "{}")
        client_name = self._tools.names.get(call.name or "")
        return evolve(call, arguments=arguments, owner=owner, client_name=client_name)

    def look_up_calls(self) -> Script[None]:
        """Find out what waits for an answer in the thread."""
        self._exchanges.went_well()
        answer = yield from self._exchanges.ask(self._to.look())
        if answer.status == 404:
            raise Gone(self._to.forget())
        self._to.take_pending(answer)

    def forget_calls(self) -> None:
        """Others have used the thread meanwhile."""
        self._to.forget_pending()

    def confirm(self) -> None:
        """The agent has heard the input."""
        self._to.is_confirmed = True

    # --- Runs ---------------------------------------------------------------------------------------------

    def make_run(self, request: RunRequest) -> RestRun:
        """A run that is about to be prepared and started."""
        agent, finds = self._to.agent, bool(self._token) and self._config.finds_runs
        is_marked = finds and agent.capabilities.marked_runs
        opening = compose(
            request.request,
            request.answers,
            self._to,
            self._is_told,
            client_tools=self._tools.in_request,
            background=self._background and self._memory.has_background,
            mark=self._new_mark() if is_marked else None,
            is_verdict=request.is_verdict,
        )
        conversation = self._to.conversation
        sought = SoughtRun(
            agent_id=agent.id,
            mark=opening.command.request.assistant_message_tool_kwarg,
            conversation_id=conversation.conversation_id if conversation else None,
        )
        # Answers that go ahead are with the agent: if the run fails, what is new may be said again alone.
        goes_ahead = opening.first is not None and bool(request.request.messages)
        return RestRun(
            setting=self._setting,
            opening=opening,
            loan=self._tools.to_lend,
            names={call.call_id: call.name for call in request.answered if call.name},
            has_results=request.has_results and not goes_ahead,
            is_told_apart=finds and not is_marked,
            sought=sought if finds else None,
            forget=self._to.forget,
            forget_agent=self._to.forget_agent,
            memory=self._memory,
        )

    @property
    def _setting(self) -> RunSetting:
        results = (*self._request.past_results, *self._request.results)
        return RunSetting(
            agent=self._to.agent,
            exchanges=self._exchanges,
            client_tools=self._tools.names,
            result_ids=frozenset(result.call_id for result in results),
        )

    def _new_mark(self) -> str:
        self._run_count += 1
        until = task_end(self._created, self._config.turn_timeout)
        return RunMark(token=f"{self._token}-{self._run_count}", owner=self._owner, until=until).text

    def look_up(self, ref: EarlierTurn) -> Script[KeptRun]:
        """What became of an earlier turn's run, once it is over."""
        ended = yield from self._exchanges.look_back(review(ref, self._config.lost_run_timeout))
        return KeptRun(ended, self._setting.stream({}))

    # --- The end ------------------------------------------------------------------------------------------

    def release(
        self, *, awaited_calls: Sequence[str], left_nothing: bool, had_turn: bool
    ) -> Script[None] | None:
        """Delete what was for this turn alone, and take the client's tools away from the agent."""
        wish = self._to.wish
        task = wish if isinstance(wish, Throwaway) else None
        conversation = self._end_of_conversation(task, awaited_calls, left_nothing) if task else None
        is_unread = bool(self._made) and self._to.conversation is None
        has_strays = any(
            exchange.may_have_made or (is_unread and exchange.is_answered) for exchange in self._made
        )
        agent = self._to.known_agent
        strays = delete_strays(agent.id, task) if task and agent and has_strays else None
        self._tools.is_awaited = bool(awaited_calls)
        loan, forgotten = self._tools.lent, self._tools.forgotten if had_turn else None
        if conversation is None and strays is None and loan is None and forgotten is None and not self._expired:
            return None
        # What could not be cleaned is swept when a server starts: it carries a mark.
        cleaning = clean_up(conversation, strays, loan, forgotten, self._expired)
        return self._exchanges.walk(cleaning, self._ask_to_clean)

    def _end_of_conversation(
        self, task: Throwaway, awaited_calls: Sequence[str], left_nothing: bool
    ) -> DeleteConversation | UpdateConversation | None:
        """What becomes of the conversation that a background prompt was put to the agent in."""
        if self._to.conversation is None:
            return None
        ident = self._to.conversation.conversation_id
        if awaited_calls:
            summary = waiting_summary(task, awaited_calls, self._config.client_tool_ttl)
            return UpdateConversation(conversation_id=ident, summary=summary)
        if left_nothing and self._to.continues_task:
            return None  # the client may bring the results again
        return DeleteConversation(conversation_id=ident)

    def _ask_to_clean(self, question: Command) -> Script[Answer | None]:
        """Go on with the rest, whatever comes of it."""
        try:
            return (yield from self._exchanges.ask(question))
        except (SansioLettaError, TimedOut):
            return None
