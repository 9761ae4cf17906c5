"""The proxy: opens a cycle for each HTTP request of a client.

A `Proxy` lives as long as the process and holds the state that requests share. A `Cycle` answers one request.
The transport carries out the cycle's commands against Letta, forwards its response, and makes no decisions.
The loop of a transport is::

    cycle = proxy.open(request, token=..., created=..., now=...)
    while (item := cycle.next_event()) is not Signal.FINISHED:
        match item:
            case ResponseHead() | ResponseBody(): ...  # to the client
            case Signal.NEED_DATA: ...  # receive_data(), or handle_deadline() when it is time
            case Signal.WAITING: ...  # handle_deadline() when it is time, or when cycle.wake is called
            case command: ...  # to Letta, then receive_response() or receive_failure()
"""

from collections.abc import Callable
from functools import partial

from attrs import define, evolve, field

from ..config import Config
from ..dialects.base import Dialect, RequestContext
from ..dialects.chat_completions.dialect import CHAT_COMPLETIONS
from ..dialects.new_input import build_turn_request
from ..dialects.ollama import decode_show
from ..errors import FieldPath, RequestError, SansioLettaError
from ..turn.agent import ANYONE, Agent, Caller
from ..turn.events import ConversationThread, Thread
from ..turn.ledger import ThreadKnowledge
from ..turn.request import ThreadChoice, TranscriptChat, TurnRequest, thread_kind
from ..turn.script import nothing_earlier
from ..turn.thread_queue import Ticket
from ..turn.turn import Turn
from ..upstreams.app_server.connection import AppServerConnection
from ..upstreams.rest.repair import RepairOptions
from .app_server_endpoints import AppServerEndpoints
from .cycle import Cycle
from .deadlines import Deadlines
from .endpoints import (
    Handler,
    HandlerRunner,
    StartHandler,
    health,
    list_models,
    list_threads,
    no_process_died,
    not_ready,
    ollama_show,
    ollama_tags,
    ollama_version,
    readiness,
    repair_agent,
    retrieve_model,
    root,
    sweep,
)
from .http import HttpRequest
from .memory import Memory
from .observer import CycleOpened, InitialState, Observer
from .policies import shape, with_headers, with_policies
from .response import Reply, Response, error_reply
from .routing import DIALECTS, Endpoint, Route, route
from .summary import Repeat, Summary
from .turn_registry import (
    Fingerprint,
    Follower,
    RequestContent,
    RetryInfo,
    TurnEntry,
    TurnOwnership,
    key_reused,
    read_retry_info,
)
from .turn_upstream import make_upstream


@define
class Proxy:
    """Opens a cycle for each request, and holds the state that they share.

    :param owner: name of the process, stored with its runs in Letta: letters, digits and hyphens.
    """

    config: Config = field(factory=Config)
    owner: str = ""
    app_server: AppServerConnection | None = None
    """The connection to the App Server where the agents live; None: they are reached by Letta's REST API."""
    ending: bool = field(default=False, init=False)  #: set before a transport exits: `/ready` answers 503
    _memory: Memory = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._memory = Memory(self.config)

    @property
    def waiting_count(self) -> int:
        """The number of turns that wait for another turn to end."""
        return self._memory.queue.waiting_count

    @property
    def has_made_tools(self) -> bool:
        """Whether client tools were created in Letta and may still exist; see `sweep`."""
        return bool(self._memory.letta.created_tools)

    def refuse(self, request: HttpRequest) -> RequestError | None:
        """Check the head of a request, and return an error if its body need not be read.

        :param request: the request; its body may still be missing.
        """
        headers = dict(request.headers)
        size = headers.get("content-length", "")
        coding = headers.get("content-encoding", "identity").strip().lower()
        # A length with thousands of digits would take long to parse, and is too large anyway.
        if size.isascii() and size.isdigit() and int(size[:18]) > self.config.max_request_size:
            return self.too_large()
        if coding not in ("", "identity"):
            return RequestError(
                f"Content-Encoding {coding[:40]} is not supported: send the body uncompressed.",
                status=415,
                code="unsupported_media_type",
            )
        if headers.get("content-type", "").lower().startswith("multipart/"):
            return RequestError("The body must be JSON, not a multipart form.", code="invalid_json")
        return None

    def too_large(self) -> RequestError:
        """Make the error for a body that exceeds the limit."""
        return RequestError(
            f"The body is larger than {self.config.max_request_size} bytes.",
            status=413,
            code="request_too_large",
        )

    def open(
        self,
        request: HttpRequest,
        *,
        token: str,
        created: int,
        now: float,
        caller: Caller = ANYONE,
        observer: Observer | None = None,
    ) -> Cycle:
        """Open a cycle for a request. Errors in the request are not raised: they become the response.

        :param token: random and unique, 8 to 64 letters and digits; ids are derived from it.
        :param created: Unix time, seconds.
        :param now: monotonic seconds.
        :param caller: the caller; agents that it may not use do not exist for it.
        :param observer: observes the cycle.
        """
        cycle = self._open(request, token, created, now, caller)
        return self._observed(cycle, observer, request, token, created, now, caller)

    def _observed(
        self,
        cycle: Cycle,
        observer: Observer | None,
        request: HttpRequest,
        token: str,
        created: int,
        now: float,
        caller: Caller,
    ) -> Cycle:
        if observer is not None:
            cycle.observer = observer
            opened = CycleOpened(
                request=request,
                token=token,
                created=created,
                config=cycle.config,
                summary=cycle.summary,
                initial=self._initial_state(cycle, now, caller),
            )
            observer.observe(opened, now)
        return cycle

    def _initial_state(self, cycle: Cycle, now: float, caller: Caller) -> InitialState:
        memory = self._memory
        if cycle.turn is None:
            return InitialState(has_background=memory.letta.has_background)
        turn_request = cycle.turn.request
        return InitialState(
            agent=memory.agents.recall(turn_request.model, now, caller),
            threads=memory.threads.find(turn_request.thread),
            heard=memory.threads.recall_heard(
                memory.agents.recall_id(turn_request.model, caller), turn_request.thread
            ),
            has_background=memory.letta.has_background,
        )

    def _open(self, request: HttpRequest, token: str, created: int, now: float, caller: Caller) -> Cycle:
        summary = _summary(request, token, caller)
        config = with_policies(self.config, caller.policies)
        dialect: Dialect | None = None
        try:
            wanted = route(request.method, request.target)
            if (dialect := DIALECTS.get(wanted.endpoint)) is not None:
                if refusal := self.refuse(request):
                    raise refusal
                context = RequestContext(
                    config=with_headers(config, request.headers),
                    headers=dict(request.headers),
                    token=token,
                    created=created,
                    client=caller.name or "",
                )
                return self._open_turn(request, dialect, context, summary, now, caller)
            handler = self._handler(wanted, caller, request)
        except RequestError as exc:
            summary.outcome = exc.code
            handler = error_reply(exc, dialect or CHAT_COMPLETIONS)
        return self._serve(handler, summary, now, caller, config)

    def sweep(
        self,
        *,
        token: str,
        created: int,
        now: float,
        ends: bool = False,
        has_died: Callable[[str], bool] = no_process_died,
    ) -> Cycle:
        """Open a cycle that cleans up in Letta after processes that died, and what has expired of this one.

        :param created: Unix time, seconds.
        :param ends: whether this process exits, so that the tools that it created are deleted even if they have
            not expired. Those of other processes stay, since they may still be needed.
        :param has_died: whether the process with this `owner` is known to have ended. Its runs are cancelled
            at once, those of others only when their turns must be over.
        """
        timeout = self.config.turn_timeout
        names = self._memory.letta.created_tools.names(created) if ends else frozenset[str]()
        handler = sweep(created, turn_timeout=timeout, tool_names=names, has_died=has_died)
        summary = Summary(request_id=f"req_{token}", method="SWEEP", path="")
        return self._serve(handler, summary, now)

    def list_threads(self, model: str, *, token: str, now: float) -> Cycle:
        """Open a cycle that lists an agent's chats and their conversations, as JSON.

        :param model: the agent's name or id.
        """
        summary = Summary(request_id=f"req_{token}", method="GET", path="")
        handler = list_threads(model)
        return self._serve(handler, summary, now)

    def repair(
        self,
        model: str,
        options: RepairOptions,
        *,
        token: str,
        created: int,
        now: float,
        has_died: Callable[[str], bool] = no_process_died,
    ) -> Cycle:
        """Find what keeps an agent stuck, and settle it; the report is JSON.

        :param model: the agent's name or id.
        :param created: Unix time, seconds.
        :param has_died: see `sweep`.
        """
        summary = Summary(request_id=f"req_{token}", method="REPAIR", path="")
        handler = repair_agent(model, options, self.config, created, has_died)
        return self._serve(handler, summary, now)

    def remember(self, model: str, agent: Agent, *, now: float) -> None:
        """Set the agent that a model's name or id resolves to, so that it is not looked up in Letta.

        :param now: monotonic seconds.
        """
        self._memory.agents.remember(model, agent, now)

    def remember_no_background(self) -> None:
        """Note that Letta has no background runs, so that none is requested."""
        self._memory.letta.has_background = False

    def remember_thread(self, agent_id: str, choice: ThreadChoice, thread: ConversationThread) -> None:
        """Set the conversation of an agent's chat, so that it is not looked up in Letta."""
        self._memory.threads.remember(agent_id, choice, thread)

    def remember_heard(self, thread: Thread, knowledge: ThreadKnowledge) -> None:
        """Set what is known of a thread, so that it is not looked up in Letta."""
        self._memory.threads.heard.restore(thread, knowledge)

    def reject(
        self,
        error: SansioLettaError,
        request: HttpRequest,
        *,
        token: str,
        now: float,
        caller: Caller = ANYONE,
        observer: Observer | None = None,
    ) -> Cycle:
        """Open a cycle that answers with an error: the request is refused, or could not be read completely."""
        summary = _summary(request, token, caller)
        summary.outcome = error.code
        cycle = self._serve(error_reply(error), summary, now)
        return self._observed(cycle, observer, request, token, 0, now, caller)

    def _serve(
        self,
        handler: Handler | StartHandler | Reply,
        summary: Summary,
        now: float,
        caller: Caller = ANYONE,
        config: Config | None = None,
    ) -> Cycle:
        """Open a cycle that needs no turn."""
        config = config or self.config
        runner = HandlerRunner(handler, self.config.max_answer_size, caller)
        deadlines = Deadlines(config, now)
        head_only = summary.method == "HEAD"
        response = Response(CHAT_COMPLETIONS, None, summary, deadlines, head_only)
        return Cycle(runner, response, deadlines, self._memory, summary, config)

    def _open_turn(
        self,
        request: HttpRequest,
        dialect: Dialect,
        context: RequestContext,
        summary: Summary,
        now: float,
        caller: Caller,
    ) -> Cycle:
        config, headers = context.config, context.headers
        asked = dialect.decode(request.body, config)
        summary.stream, summary.model = asked.stream, asked.model
        built = build_turn_request(asked, context)
        turn_request = built.turn_request
        ignored = (dialect.field_name(FieldPath(field)) for field in built.ignored)
        summary.ignored, summary.thread = (*asked.ignored, *ignored), thread_kind(turn_request.thread)
        content = RequestContent.of(request.body, turn_request.thread, shape(config, request.headers))
        key = Fingerprint.of(summary.path, headers, content, caller.scope)
        known, retry = self._memory.turns.recall(key, now), read_retry_info(headers)
        if known is not None and known.content != content:
            raise key_reused()
        owned, deadlines = None, Deadlines(config, now)
        if known is not None and (repeat := _find_repeat(known, retry, self.config)) is not None:
            summary.repeat = repeat
            summary.agent_id = known.agent_id if known.turn is None else known.turn.agent_id
            source: Turn | Follower = Follower(known)
        else:
            agent = self._memory.agents.recall(asked.model, now, caller)
            summary.agent_id = agent.id if agent else None
            may_repeat = retry.is_repeat or (known is not None and not known.is_answered)
            turn_request = _in_scope(turn_request, caller, is_retry=may_repeat)
            ticket = Ticket(self._memory.queue)
            upstream = make_upstream(
                self.app_server,
                self.owner,
                self._memory,
                turn_request,
                context,
                agent,
                caller,
                ticket,
                now,
                asked,
            )
            threads = self._memory.threads
            called = partial(_seconds_left, threads.waits_since, config.pending_call_timeout)
            cancelled = partial(_seconds_left, threads.cancelled_at, config.cancelled_run_timeout)
            source = Turn(
                turn_request,
                upstream,
                config,
                ticket=ticket,
                recall_earlier=nothing_earlier if known is None else known.recall_earlier,
                is_retry=retry.is_repeat and known is None,
                recall_waiting=threads.recall_waiting,
                recall_heard=threads.heard.recall,
                recall_reserved=partial(called, deadlines),
                recall_cancelled=partial(cancelled, deadlines),
            )
            begun = self._memory.turns.begin(key, source, is_sent_again=retry.tells, content=content)
            owned = TurnOwnership(entry=begun, fingerprint=key)
        response = Response(dialect, dialect.writer(asked, context), summary, deadlines)
        return Cycle(
            source,
            response,
            deadlines,
            self._memory,
            summary,
            config,
            owned=owned,
            caller=caller,
            reconnect_grace=_reconnect_grace(retry, self.config),
        )

    def _handler(self, wanted: Route, caller: Caller, request: HttpRequest) -> Handler | StartHandler | Reply:
        if wanted.endpoint is Endpoint.OLLAMA_SHOW and (refusal := self.refuse(request)):
            raise refusal
        if self.app_server is not None and not (wanted.endpoint is Endpoint.READY and self.ending):
            handler = AppServerEndpoints(self.app_server, caller).handler(wanted, request.body)
            if handler is not None:
                return handler
        match wanted.endpoint:
            case Endpoint.MODELS:
                return list_models(self.config, caller)
            case Endpoint.MODEL:
                return retrieve_model(wanted.model or "", caller)
            case Endpoint.OLLAMA_VERSION:
                return ollama_version()
            case Endpoint.OLLAMA_TAGS:
                return ollama_tags(self.config, caller)
            case Endpoint.OLLAMA_SHOW:
                return ollama_show(decode_show(request.body), caller)
            case Endpoint.READY:
                return not_ready() if self.ending else readiness()
            case Endpoint.HEALTH:
                return health()
            case Endpoint.ROOT:
                return root()
            case _:
                return Reply(status=204, body=b"", headers=(("allow", "GET, HEAD, POST, OPTIONS"),))


def _find_repeat(known: TurnEntry, retry: RetryInfo, config: Config) -> Repeat | None:
    """Return how a request is answered from a known turn; None if it begins a turn of its own."""
    if not known.is_over:
        return Repeat.JOINED if config.joins_repeats and not known.is_cancelled else None
    return Repeat.ANSWERED if known.is_answered and retry.is_repeat else None


def _reconnect_grace(retry: RetryInfo, config: Config) -> float:
    """Return the seconds for which a client that disconnects early may still retry; 0 if it will not."""
    if retry.count is None or not config.repeat_wait_timeout:
        return 0.0
    return config.repeat_wait_timeout + 0.5 * float(2 ** min(retry.count, 4))


def _in_scope(turn_request: TurnRequest, caller: Caller, *, is_retry: bool) -> TurnRequest:
    """Complete the chat of a transcript: two keys never share one."""
    if not isinstance(turn_request.thread, TranscriptChat):
        return turn_request
    scope = f"{caller.name or ''} {caller.realm}".strip()
    return evolve(turn_request, thread=evolve(turn_request.thread, scope=scope, is_retry=is_retry))


def _summary(request: HttpRequest, token: str, caller: Caller) -> Summary:
    return Summary(
        request_id=f"req_{token}",
        method=request.method,
        path=_log_path(request.target),
        caller=caller.name,
    )


def _log_path(target: str) -> str:
    """Return the target without its query, printable and short."""
    path = target.partition("?")[0][:200]
    return path if path.isprintable() else "".join(char if char.isprintable() else "?" for char in path)


def _seconds_left(
    since: Callable[[Thread], float | None], timeout: float, deadlines: Deadlines, thread: Thread
) -> float:
    """For how many seconds more something holds in a thread; 0 or less if it does not.

    :param since: returns when it began, in monotonic seconds; None if it has not.
    """
    began = since(thread)
    return 0.0 if began is None or not timeout else began + timeout - deadlines.now
