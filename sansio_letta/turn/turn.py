"""The turn machine: one chat request, from the question which agent is meant to the last event.

Two machines work together. This one walks through the exchanges with Letta, one at a time::

    FINDING --> QUEUED --> (SEARCHING) --> (REVIEWING) --> (LOOKING) --> SENDING <-> STREAMING --> DONE
                                                               ^                      |    ^
                                                               +--- refused, once ----+    |
                                                                                      v    |
                                                                      (SEEKING) --> RECOVERING

- FINDING asks Letta which agent has the name, unless the caller remembers.
- QUEUED waits until the turns that came before in this thread are over.
- SEARCHING finds the conversation of a chat, or makes it.
- REVIEWING looks what became of an earlier turn for the same request: nothing is said to the agent twice.
- LOOKING asks what the agent waits for. Results are never sent unlooked: with nothing pending Letta does not
  refuse them but runs a turn of its own (stale_tool_result.jsonl). A message is sent unlooked, to save the
  round trip; if calls are pending Letta refuses it, and the turn looks, denies the calls in the same request
  as the message, and sends again (pending_denied_with_message.jsonl).
- PREPARING does what must be done before the run: it attaches the client's tools to an agent that does not take
  them with a request, and gives a legacy agent the answers that it cannot be given with a message.
- STREAMING belongs to the second machine, `RunStream`, which turns the run's messages into events.
- RECOVERING follows a run whose stream was lost, or that has none (`Capabilities.event_stream`). The stream of
  a background run is taken up again behind the last item that was read (background_resume.jsonl); of another
  run the end is awaited, and what was kept is told.
- A run may stop for a human's approval. If nobody is asked (`Config.approvals`), the turn answers and goes on
  with the next run's stream, from STREAMING to SENDING again: for the client it is one answer.
- A reply that must be of some form (`TurnRequest.wish`) is held back until its run has ended, and checked. If
  it is not as wished, the agent is asked once more, and the next run's stream is told, the same way.
- CANCELLING ends a run that nobody reads: Letta goes on without a reader (disconnect.jsonl). The run must be
  named, and its name comes with the first ping, so a client that leaves before that is LEAVING until then.
- SEEKING looks for a run whose stream will not name it any more, since it broke, or since there is no time left
  to read it: `run_lookup` finds it by what its request said. Then it is ended, or its end awaited.
- CLEANING, however the turn ends, takes back what was attached, and deletes a conversation that was for this
  turn alone.

In some phases Letta has nothing to say: `pause` tells how long, and `end_pause` goes on. A question that cannot
be asked is asked again after one, and so is a turn that Letta refuses because the thread is busy.

A failure while Letta works on the turn ends as `kept_failure` says if anything was, or may have been, kept:
no answer may invite a repeat that the agent would hear twice.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from attrs import define, evolve, field

from .._signal import Signal
from ..config import Approvals, Config
from ..errors import (
    Failure,
    Kept,
    LettaError,
    LocalProtocolError,
    RemoteProtocolError,
    SansioLettaError,
    invalid_reply,
    kept_failure,
    mute_agent,
)
from ..upstreams.rest import letta
from ..upstreams.rest.attached_tools import is_our_name, own_arguments
from ..upstreams.rest.calls import answer_unasked, next_call
from ..upstreams.rest.client_tools import Toolkit
from ..upstreams.rest.commands import (
    AnswerCalls,
    CancelRun,
    Command,
    CreateConversation,
    DeleteConversation,
    FetchKept,
    FetchRun,
    FindRuns,
    OpenStream,
    ResumeRun,
    UpdateConversation,
)
from ..upstreams.rest.conversations import FoundThread, Search, delete_strays, waiting_summary
from ..upstreams.rest.destination import Destination, RecallThread, nothing_known
from ..upstreams.rest.exchange import Asking, Pause
from ..upstreams.rest.lookup import FoundRun, RunMark, RunSearch, SoughtRun, find_run, kept_nothing
from ..upstreams.rest.recovery import EarlierTurn, EndedRun, Questions, read_run, review
from ..upstreams.rest.response import Answer, Headers
from ..upstreams.rest.run import EndOfStream, RunState, RunStream, refusal_in
from ..upstreams.rest.run_request import (
    Answers,
    IsTold,
    Opening,
    RecallWaiting,
    Waiting,
    compose,
    never_told,
    nothing_waits,
    settle_plan,
)
from ..upstreams.rest.tool_attachment import Cleaning, MadeTools, Preparation, Prepared, clean_up, prepare
from ..upstreams.rest.turn_input import to_result
from .agent import ANYONE, Agent, Caller, PendingCall
from .answer import Runs
from .approval import approval_question
from .buffered_reply import HeldReply
from .events import (
    AgentGone,
    BackgroundRefused,
    CallArguments,
    CallsSettled,
    CallStarted,
    ConversationThread,
    Event,
    FinishReason,
    ServerToolArguments,
    ServerToolStarted,
    TextDelta,
    Thread,
    TurnFailed,
    TurnFinished,
    TurnStarted,
    Usage,
)
from .phases import LOOKING_BACK, OVER, READING_STREAM, TRANSITIONS, UNNAMED, Phase, Step
from .reply_format import CallWish
from .request import Standing, Throwaway, ToolResult, TurnRequest, task_end
from .thread_queue import Place
from .trimming import Trimmer

#: An Enum looks its members up with Python code, and these are asked for with every token.
_STREAMING: Final = Phase.STREAMING
_QUEUED: Final = Phase.QUEUED
_NEED_DATA: Final = Signal.NEED_DATA
#: Of an answer that no model was asked for.
_NO_TOKENS: Final = Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0)


#: Tells what an earlier turn for the same request has left.
RecallEarlier: TypeAlias = Callable[[], EarlierTurn | None]


def nothing_earlier() -> None:
    """There was none."""


@define
class Turn:
    """One turn of the agent: Letta's answers in, events and commands out.

    The transport carries out each command as one HTTP exchange, reports its answer through `receive_response`
    and `receive_data` (``b""`` at the end), or `receive_failure`, and asks `next_event` in between. A command
    ends the exchange before it: what is left of that answer is of no interest, but reading it to its end lets
    Letta close its books.

    :param plan: what to ask of Letta.
    :param config: limits.
    :param agent: the agent, if the caller remembers it.
    :param pending: what the agent waits for, if the caller has just looked.
    :param place: in the queue for the agent's thread; without one the turn waits for nobody.
    :param earlier: a turn for the same request that broke off.
    :param recall_earlier: the same, asked once the thread is taken: until then such a turn may have it.
    :param background: whether to ask for a run whose stream can be taken up again.
    :param caller: whose request it is: no other agent is found than those that it may use.
    :param thread: the conversation that the plan's thread stands for, if the caller remembers it.
    :param recall_thread: the same for an agent that was not known.
    :param is_told: whether something is what a thread was told last.
    :param recall_waiting: which calls the last turn in a thread has left waiting.
    :param made_tools: what the process's turns have made at Letta.
    :param expired: conversations of others that nobody comes back to: deleted when this turn has ended.
    :param token: unique to the request; without one its runs cannot be found before they are named.
    :param owner: the process, for others to see whose a run is; letters, digits and hyphens.
    :param created: when it came, Unix time in seconds.
    """

    plan: TurnRequest
    config: Config = field(factory=Config)
    _known_agent: Agent | None = field(default=None, alias="agent")
    _known_pending: tuple[PendingCall, ...] | None = field(default=None, alias="pending")
    place: Place = field(factory=Place, kw_only=True)
    _earlier: EarlierTurn | None = field(default=None, alias="earlier", kw_only=True)
    _recall_earlier: RecallEarlier = field(default=nothing_earlier, alias="recall_earlier", kw_only=True)
    _background: bool = field(default=False, alias="background", kw_only=True)
    _caller: Caller = field(default=ANYONE, alias="caller", kw_only=True)
    _known_thread: ConversationThread | None = field(default=None, alias="thread", kw_only=True)
    _recall_thread: RecallThread = field(default=nothing_known, alias="recall_thread", kw_only=True)
    _is_told: IsTold = field(default=never_told, alias="is_told", kw_only=True)
    _recall_waiting: RecallWaiting = field(default=nothing_waits, alias="recall_waiting", kw_only=True)
    _made_tools: MadeTools = field(factory=MadeTools, alias="made_tools", kw_only=True)
    _expired: tuple[ConversationThread, ...] = field(default=(), alias="expired", kw_only=True)
    _token: str = field(default="", alias="token", kw_only=True)
    _owner: str = field(default="", alias="owner", kw_only=True)
    _created: int = field(default=0, alias="created", kw_only=True)
    phase: Phase = field(default=Phase.READY, init=False)
    started: bool = field(default=False, init=False)  #: `TurnStarted` was handed over: no status line any more
    took_up: bool = field(default=False, init=False)  #: an earlier turn for the same request was looked into
    resume_count: int = field(default=0, init=False)  #: how often its stream was lost and found again
    told: tuple[tuple[Thread, Standing], ...] = field(default=(), init=False)
    """What went with this turn and need not be told there again: its thread has kept it."""
    _telling: tuple[tuple[Thread, Standing], ...] = field(default=(), init=False)  #: the same, not kept yet
    awaited_calls: tuple[str, ...] = field(default=(), init=False)
    """Ids of the client's calls for whose results the agent waits when the turn is over."""
    _left_nothing: bool = field(default=False, init=False)  #: it failed, and Letta has kept nothing of it
    _to: Destination = field(init=False)
    _runs: Runs = field(init=False)
    _items: deque[Event | Command] = field(factory=deque, init=False)
    _asking: Asking = field(init=False)
    _questions: Questions | Search | Preparation | Cleaning | RunSearch | None = field(default=None, init=False)
    """One after the other."""
    _tools: Toolkit = field(init=False)
    _opening: Opening | None = field(default=None, init=False)  #: the run that is being prepared
    _run_count: int = field(default=0, init=False)  #: how many were asked for
    _waiting: tuple[PendingCall, ...] = field(default=(), init=False)  #: for an answer of the turn's own
    _approval_count: int = field(default=0, init=False)  #: how often the turn answered for a human
    _asked_again: bool = field(default=False, init=False)  #: for a reply of another form
    _resent: bool = field(default=False, init=False)
    _abandoned: bool = field(default=False, init=False)
    _interruption: SansioLettaError | None = field(default=None, init=False)
    _failure: SansioLettaError | None = field(default=None, init=False)  #: told once the run is cancelled
    _closing: Step | None = field(default=None, init=False)  #: what comes when all is clean
    _trimmer: Trimmer | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        wish = self.plan.wish
        has_reader = wish is None and not isinstance(self.plan.thread, Throwaway)
        if not has_reader and self.config.approvals is Approvals.ASK:
            # The question would be the reply, and no program can answer it.
            self.config = evolve(self.config, approvals=Approvals.DENY)
        if self.plan.stop or self.plan.one_call:
            self._trimmer = Trimmer(self.plan.stop, self.plan.one_call, isinstance(wish, CallWish))
        config = self.config
        self._asking = Asking(config.max_answer_size, config.max_event_size, self._caller.key_is_lettas)
        self._to = Destination(
            model=self.plan.model,
            wish=self.plan.thread,
            caller=self._caller,
            known_agent=self._known_agent,
            conversation=self._known_thread,
            recall_thread=self._recall_thread,
            pending=self._known_pending,
        )
        self._tools = Toolkit(
            offered=self.plan.client_tools,
            client_names=self.plan.client_tool_names,
            policy=config.client_tools,
            ttl=config.client_tool_ttl,
            made=self._made_tools,
            scope=self._caller.scope,
            owner=self._token,
            now=self._created,
        )
        self._runs = Runs(
            result_ids=frozenset(result.call_id for result in (*self.plan.past_results, *self.plan.results)),
            asks=config.approvals is Approvals.ASK,
            held=None if wish is None else HeldReply(wish),
        )
        try:
            if self._known_agent is None:
                self._find(Step.FIND)
            else:
                self._queue()
        except SansioLettaError as exc:
            self._fail(exc)

    @property
    def run_state(self) -> RunState:
        """What the agent was doing when it was last heard of in the run under way."""
        return self._runs.current.state

    @property
    def run_id(self) -> str | None:
        """Letta's name of the run under way, or of the one before it; None until the first ping."""
        return self._runs.run_id

    @property
    def earlier(self) -> EarlierTurn | None:
        """What a repeat of this turn's request must look into; None if Letta was told nothing of it.

        Of a turn that went on from an earlier one it is that: what was said to the agent was said there.
        """
        if self._earlier is not None:
            return self._earlier
        if self._runs.is_unnamed:
            return EarlierTurn(sought=self._runs.sought)
        return None if self.run_id is None else EarlierTurn(run_id=self.run_id)

    @property
    def conversation(self) -> ConversationThread | None:
        """Where it is said, if that is not the agent's own thread; None until it is known."""
        return self._to.conversation

    @property
    def agent_id(self) -> str | None:
        """The agent's id, once it is known."""
        return None if self._to.known_agent is None else self._to.agent.id

    @property
    def left_waiting(self) -> tuple[Thread, Waiting | None] | None:
        """What waits in its thread for the client now; None until it is known where that is."""
        if self._to.known_agent is None or (self._to.conversation is None and not self._to.is_own_thread):
            return None
        waiting = Waiting(is_forced=self.plan.forces_call) if self._tools.is_awaited else None
        return self._to.thread, waiting

    @property
    def seeks_run(self) -> bool:
        """Whether it only goes on to end a run of which Letta has not told the name yet."""
        return self._abandoned and self.phase in UNNAMED

    @property
    def pause(self) -> float | None:
        """Seconds to wait until `end_pause`, while `next_event` says WAITING; None: the thread is taken.

        For a thread its `place` wakes the caller.
        """
        return self._asking.pause

    # --- In -----------------------------------------------------------------------------------------------

    def receive_response(self, status: int, headers: Headers) -> None:
        """Letta's answer to the last command has begun.

        :param status: the HTTP status.
        :param headers: pairs of lower-case name and value.
        :raises LocalProtocolError: if no answer is awaited.
        """
        self._check_asking("receive_response")
        if not self._is_stale:
            self._asking.receive_response(status, headers)

    def receive_data(self, data: bytes) -> None:
        """Add bytes of the answer's body; nothing is parsed until `next_event`.

        :param data: any number of bytes, cut anywhere; ``b""`` is the end of the body.
        :raises LocalProtocolError: if called before `receive_response` or after the end.
        """
        if not self._is_stale and not self._read_texts(data):
            self._asking.receive_data(data)

    @property
    def _is_stale(self) -> bool:
        """Whether what comes is of an exchange that was cut off, as the transport does not know yet.

        Whoever ends a turn may do so while another task, or thread, reads for it.
        """
        return self._asking.is_cut and any(isinstance(item, Command) for item in self._items)

    def _read_texts(self, data: bytes) -> bool:
        """The short way for what comes most often: bytes that hold more of a text, and nothing else.

        :return: False if they hold anything else, or something comes first, or words are held back or left out:
            nothing was taken.
        """
        asking, runs = self._asking, self._runs
        if asking.stream is None or asking.has_ended or self.phase is not _STREAMING:
            return False
        if self._items or runs.held is not None or self._trimmer is not None:
            return False
        if not (texts := asking.stream.read_texts(data)):
            return False
        runs.said.add_texts(texts)
        self._items.extend([TextDelta(text=text) for text in texts])
        return True

    def receive_failure(self, failure: Failure, reason: str) -> None:
        """The exchange went wrong; nothing more will come of it.

        :param failure: how far it had come.
        :param reason: for the client, like "connection refused"; no key, no address of an inner network.
        :raises LocalProtocolError: if no exchange is under way.
        """
        self._check_asking("receive_failure")
        if not self._is_stale:
            self._asking.receive_failure(failure, reason)

    def _check_asking(self, method: str) -> None:
        if self._asking.pause is not None or self.phase in (Phase.QUEUED, *OVER):
            raise LocalProtocolError(
                f"{method} called in {self.phase.name}: no exchange is under way, no answer is awaited"
            )

    def end_pause(self) -> None:
        """The pause is over: go on with what it was made for.

        :raises LocalProtocolError: if there was none.
        """
        if self._asking.pause is None:
            raise LocalProtocolError(f"end_pause called in {self.phase.name}: there is no pause")
        command = self._asking.end_pause()
        if command is None:
            self._ask_next(None)
        else:
            self._ask(command)

    def give_up(self, error: SansioLettaError) -> None:
        """It has taken too long: the turn fails, and its run is cancelled.

        :param error: what the client is told, if it has not left.
        """
        if self.phase in OVER:
            return
        if self.phase in (Phase.RECOVERING, Phase.SEEKING):
            self._failure = error
        # What was not handed over yet never happens; what was said stays said.
        unsent = any(isinstance(item, Command) for item in self._items)
        self._items = deque(item for item in self._items if not isinstance(item, Command))
        if self.phase in READING_STREAM and (unsent or self._asking.pause is not None):
            self._runs.sought = None  # nothing was asked for
        self._fail(error)

    def abandon(self) -> None:
        """The client has left: no more events, and the run, if there is one, must end.

        Go on as before until FINISHED: `next_event` hands out a CancelRun as soon as the run has a name. May be
        called at any time, and again.
        """
        if self._abandoned or self.phase in OVER:
            return
        self._abandoned = True
        unsent = [item for item in self._items if isinstance(item, Command)]
        self._items.clear()
        if self.phase in (Phase.CANCELLING, Phase.CLEANING):
            self._items.extend(unsent)
        elif self._makes_something and not unsent and self._asking.pause is None:
            pass  # what is asked for may still be done: nothing can be cleaned before
        elif self.phase is Phase.RECOVERING:
            self._cancel()
        elif self.phase is Phase.SEEKING:
            self._items.extend(unsent)
        elif self.phase not in READING_STREAM or unsent or self._asking.pause is not None:
            self._runs.sought = None  # nothing was asked for
            self._finish(Step.ENDED)
        elif self._runs.current.run_id is not None:
            self._cancel()
        else:
            self._move(Step.ABANDON)

    def interrupt(self, error: SansioLettaError) -> None:
        """The proxy itself must end: cancel the run, if there is one, and tell the client why.

        Go on as before until FINISHED. A run without a name yet is cancelled as soon as it has one.

        :param error: what the client is told if nothing was kept.
        """
        if self._interruption is not None or self._abandoned or self.phase in OVER:
            return
        self._interruption = error
        if self.phase in (Phase.CANCELLING, Phase.CLEANING, Phase.SEEKING):
            return  # it is ending already
        unsent = any(isinstance(item, Command) for item in self._items)
        self._items = deque(item for item in self._items if not isinstance(item, Command))
        waits = not unsent and self._asking.pause is None
        reading = self.phase in READING_STREAM and waits
        if self._runs.current.run_id is not None and (reading or self.phase is Phase.RECOVERING):
            self._failure = error
            self._cancel()
        elif reading and self._runs.is_unnamed:
            self._seek(error)
        elif not reading and not (self._makes_something and waits):
            # What an earlier turn for the same request has left was not found out.
            self._end_failed(error, Kept.NOTHING if self._earlier is None else Kept.UNKNOWN)

    def hurry(self) -> None:
        """Nothing will be carried out for long: a run that has no name yet is looked for at once.

        If the client still waits to hear how an interruption went, it is told now what is known.
        """
        if self._interruption is not None and not self._abandoned and self.phase not in (Phase.CLEANING, *OVER):
            is_sent = self._runs.so_far.started or self._earlier is not None
            if is_sent or not self._makes_something or isinstance(self._asking.command, AnswerCalls):
                self._tell_failure(self._interruption, Kept.UNKNOWN)
            else:
                self._tell_failure(self._interruption, Kept.NOTHING)
            self._abandoned, self._failure = True, None
            if self.phase in (Phase.SENDING, Phase.STREAMING):
                self._move(Step.ABANDON)
        if self.phase in READING_STREAM and self._runs.is_unnamed and self._abandoned:
            self._seek(None)

    # --- Out ----------------------------------------------------------------------------------------------

    def next_event(self) -> Event | Command | Signal:
        """The next event or command.

        NEED_DATA while Letta must speak first, WAITING while it has nothing to say (see `pause`), FINISHED
        after the last. Nothing is raised for what Letta sent: it ends the turn as `TurnFailed`, once and last.
        """
        while not self._items:
            if self.phase in OVER:
                return Signal.FINISHED
            if self._asking.pause is not None:
                return Signal.WAITING
            try:
                if not self._advance():
                    return Signal.WAITING if self.phase is _QUEUED else _NEED_DATA
            except SansioLettaError as exc:
                self._fail(exc)
        item = self._items.popleft()
        if type(item) is TurnStarted:
            self.started = True
        return item

    def take_texts(self) -> list[TextDelta]:
        """All that `next_event` would hand out at once, if it is nothing but text: no call for each."""
        items = self._items
        if not items:
            return []
        texts = [item for item in items if type(item) is TextDelta]
        if len(texts) < len(items):
            return []
        items.clear()
        return texts

    # --- The walk -----------------------------------------------------------------------------------------

    def _advance(self) -> bool:
        """Take one step with what Letta has said so far; False if there is nothing to take it with."""
        if self._asking.stream is not None or self._opened():
            return self._read_stream()
        if self.phase is Phase.QUEUED:
            return self._leave_queue()
        if not self._asking.has_ended:
            return False
        if self._asking.error is not None:
            self._note_strays()
            if self._try_again():
                return True
            raise self._asking.error
        assert self._asking.answer is not None
        match self.phase:
            case Phase.FINDING:
                self._take_agent(self._asking.answer)
            case Phase.LOOKING:
                self._take_pending(self._asking.answer)
            case Phase.SEARCHING if self._makes_for_nobody(self._asking.answer):
                self._items.append(self._to.forget_agent())
                self._find(Step.GONE)
            case Phase.SEARCHING | Phase.CLEANING:
                self._ask_next(self._asking.answer)
            case Phase.PREPARING:
                self._go_on_preparing(self._asking.answer)
            case Phase.REVIEWING | Phase.RECOVERING | Phase.SEEKING:
                self._take_book(self._asking.answer)
            case Phase.SENDING | Phase.LEAVING if self._is_followed and self._asking.answer.status == 200:
                self._follow(self._asking.answer)
            case Phase.CANCELLING:
                # Whether it came in time matters to nobody here: the run is not read any more.
                self._end_cancelled()
            case _:
                self._take_refusal(self._asking.answer)
        return True

    def _move(self, step: Step) -> None:
        following = TRANSITIONS[self.phase].get(step)
        assert following is not None, f"{step} in {self.phase}"
        # A pause is made before something that its phase asks for.
        self.phase, self._asking.pause = following, None
        if following in OVER:
            assert not any(isinstance(item, Command) for item in self._items), f"a command in {following}"
            self._questions = None
            self.place.leave()

    @property
    def _makes_something(self) -> bool:
        """Whether what is asked for is for this turn alone."""
        return self.phase is Phase.PREPARING or isinstance(self._asking.command, CreateConversation)

    def _note_strays(self) -> None:
        """An exchange ended otherwise than well: what was to be made for this turn alone may be there."""
        asking = self._asking
        refused = asking.answer is not None and 400 <= asking.answer.status < 500
        is_known = self._to.conversation is not None
        if isinstance(asking.command, CreateConversation) and not refused and not is_known:
            self._to.has_strays = self._to.has_strays or asking.failure is not Failure.NOT_SENT

    def _finish(self, step: Step) -> None:
        """All is said: clean up, and come to an end."""
        thread = self.plan.thread
        task = thread if isinstance(thread, Throwaway) else None
        conversation = self._end_of_conversation(task, step) if task else None
        strays = delete_strays(self._to.agent.id, task) if task and self._to.has_strays else None
        loan = self._tools.lent
        forgotten = self._tools.forgotten if self.place.granted else None
        if conversation is None and strays is None and loan is None and forgotten is None and not self._expired:
            self._move(step)
            return
        self._closing = step
        self._move(Step.CLEAN)
        # What could not be cleaned is swept when a server starts: it carries a mark.
        self._ask_for(clean_up(conversation, strays, loan, forgotten, self._expired))

    def _end_of_conversation(
        self, task: Throwaway, step: Step
    ) -> DeleteConversation | UpdateConversation | None:
        """What becomes of the conversation that a background prompt was put to the agent in."""
        if self._to.conversation is None:
            return None
        ident = self._to.conversation.conversation_id
        if self.awaited_calls and step is Step.ENDED and not self._abandoned:
            summary = waiting_summary(task, self.awaited_calls, self.config.client_tool_ttl)
            return UpdateConversation(conversation_id=ident, summary=summary)
        if self._left_nothing and self._to.continues_task:
            return None  # the client may bring the results again
        return DeleteConversation(conversation_id=ident)

    def _ask(self, command: Command) -> None:
        self._asking.ask(command)
        self._items.append(command)

    def _try_again(self) -> bool:
        """After a failure that left nothing at Letta, pause, if there is time left."""
        if not self._asking.is_repeatable or (
            self._abandoned and self.phase not in (Phase.CANCELLING, Phase.CLEANING, Phase.SEEKING)
        ):
            return False
        config, looks_back = self.config, self.phase in LOOKING_BACK
        return self._asking.pause_within(config.resume_timeout if looks_back else config.connect_retry_timeout)

    def _find(self, step: Step) -> None:
        self._move(step)
        self._ask(self._to.find(with_pending=self._must_look))

    def _take_agent(self, answer: Answer) -> None:
        self._items.append(self._to.take_agent(answer, with_pending=self._must_look))
        self._asking.went_well()
        self._queue()

    def _queue(self) -> None:
        self._move(Step.QUEUE)
        agent = self._to.agent
        self._to.check_wish()
        self._tools.fit(agent)
        self.plan = self.plan.calling(self._tools.names_at_letta)
        self._runs.client_tools = self._tools.names
        self._runs.meet(agent)
        self._runs.begin()
        is_shared = not agent.capabilities.conversations or self._tools.attaches_to(agent)
        # Tools that are attached to an agent are there for whoever speaks to it.
        thread = self.plan.thread
        spoken_in = thread.place if isinstance(thread, Throwaway) else str(thread)
        self.place.enter(agent.id if is_shared else f"{agent.id} {spoken_in}")
        self._leave_queue()

    def _leave_queue(self) -> bool:
        if not self.place.granted:
            return False
        if self.place.waited:
            # What it waits for now must be looked up.
            self._to.forget_pending()
        if self._to.recall_thread():
            self._review_or_send()
        else:
            self._search()
        return True

    def _search(self) -> None:
        self._move(Step.SEARCH)
        self._ask_for(self._to.search())

    def _take_thread(self, found: FoundThread) -> None:
        self._to.take_thread(found)
        if self._abandoned:
            self._finish(Step.ENDED)
        elif self._interruption is not None:
            raise self._interruption
        else:
            if found.is_new and self.plan.retold:
                self.plan = self.plan.with_results_as_text()
            self._review_or_send()

    def _makes_for_nobody(self, answer: Answer) -> bool:
        """Whether no conversation can be made since the agent, which was remembered, is gone."""
        return answer.status == 404 and isinstance(self._asking.command, CreateConversation)

    def _forget(self) -> None:
        """What was remembered is out of date."""
        gone = self._to.forget()
        self._items.append(gone)
        if isinstance(gone, AgentGone):
            self._find(Step.GONE)
        else:
            self._search()

    def _review_or_send(self) -> None:
        if self._earlier is None:
            self._earlier, self._recall_earlier = self._recall_earlier(), nothing_earlier
        is_lost = self._to.is_new and isinstance(self.plan.thread, Throwaway)
        # What an earlier turn for a background prompt has left was deleted with its conversation.
        if self._earlier is not None and not is_lost:
            self.took_up = True
            self._move(Step.REVIEW)
            self._ask_for(review(self._earlier, self.config.lost_run_timeout))
        else:
            self._look_or_send()

    @property
    def _must_look(self) -> bool:
        """Whether the input may be an answer to what is pending, rather than something new."""
        return bool(self.plan.results) or self.plan.verdict is not None

    def _look_or_send(self) -> None:
        # Where a call is known to wait, a message that is sent unlooked is refused, and leaves a failed run.
        waits = self.plan.leaves_calls or self._recall_waiting(self._to.thread) is not None
        if (waits or self._must_look) and not self._to.has_looked:
            self._look(Step.LOOK)
        else:
            self._send()

    def _look(self, step: Step) -> None:
        self._move(step)
        self._ask(self._to.look())

    def _take_pending(self, answer: Answer) -> None:
        if answer.status == 404:
            self._forget()
            return
        self._to.take_pending(answer)
        self._asking.went_well()
        if not self._waiting:
            self._send()
        elif self._to.awaits(self._waiting):
            self._answer_waiting(Step.SEND)
        else:
            raise LettaError("The agent went on meanwhile. Send a new message to hear more.")

    def _send(self) -> None:
        names = self._runs.client_tools.keys()
        remembered = self._recall_waiting(self._to.thread)
        settlement = settle_plan(self.plan, self._to, names, self.config.approvals, remembered)
        if self.plan.one_call and not self.plan.messages:
            answered = {result.call_id for result in (*self.plan.past_results, *self.plan.results)}
            if (call := next_call(self._to.pending or (), answered, names)) is not None:
                self._end_calling(call, CallsSettled(stale=settlement.calls.stale))
                return
        if settlement.undecided:
            self._end_asking(settlement.undecided, settlement.calls)
            return
        answers = settlement.answers
        # What is said in place of a result need not be said again.
        brought = {result.call_id for result in (*self.plan.past_results, *self.plan.results)}
        self._runs.begin(
            self._to.pending or (),
            results_sent=any(
                isinstance(answer, ToolResult) and answer.call_id in brought for answer in answers
            ),
        )
        if settlement.calls != CallsSettled():
            self._items.append(settlement.calls)
        self._open_stream(Step.SEND, answers, is_verdict=settlement.is_verdict)

    def _end_asking(self, calls: tuple[PendingCall, ...], settled: CallsSettled) -> None:
        """Ask a human; what the client brought is in its history when the answer comes."""
        self._items.extend([settled] if settled != CallsSettled() else [])
        self._emit(
            (
                TurnStarted(),
                TextDelta(text=approval_question(calls)),
                TurnFinished(reason=FinishReason.STOP, usage=_NO_TOKENS),
            )
        )
        self._finish(Step.ENDED)

    def _end_calling(self, call: PendingCall, settled: CallsSettled) -> None:
        """Tell one more call of those that wait; results so far are in the client's history when it is done."""
        self._items.extend([settled] if settled != CallsSettled() else [])
        arguments = call.arguments or "{}"
        if not self._to.agent.capabilities.exact_arguments:
            arguments = own_arguments(arguments)
        self._emit(
            (
                TurnStarted(),
                CallStarted(index=0, call_id=call.call_id, name=self._tools.names[call.name or ""]),
                CallArguments(index=0, fragment=arguments),
                TurnFinished(reason=FinishReason.TOOL_CALLS, usage=_NO_TOKENS),
            )
        )
        self._tools.is_awaited = True
        self.awaited_calls = tuple(call.call_id for call in self._to.pending or ())
        self._finish(Step.ENDED)

    def _open_stream(self, step: Step, answers: Answers, *, is_verdict: bool = False) -> None:
        """Start a run.

        :param is_verdict: what the user wrote is in the answers, and no message.
        """
        agent, finds = self._to.agent, bool(self._token) and self.config.finds_runs
        is_marked = finds and agent.capabilities.marked_runs
        opening = compose(
            self.plan,
            answers,
            self._to,
            self._is_told,
            client_tools=self._tools.in_request,
            background=self._background,
            mark=self._new_mark() if is_marked else None,
            is_verdict=is_verdict,
        )
        loan, runs = self._tools.to_lend, FindRuns(agent_id=agent.id) if finds and not is_marked else None
        if loan is None and opening.first is None and runs is None:
            self._open(step, opening)
            return
        self._opening = opening
        self._move(Step.PREPARE)
        self._ask_for(prepare(loan, opening.first, runs))

    def _new_mark(self) -> str:
        self._run_count += 1
        until = task_end(self._created, self.config.turn_timeout)
        return RunMark(token=f"{self._token}-{self._run_count}", owner=self._owner, until=until).text

    def _sought(self, opening: Opening, before: frozenset[str] | None) -> SoughtRun | None:
        """How the run is found that is asked for; None if it cannot be."""
        mark, conversation = opening.command.request.assistant_message_tool_kwarg, self._to.conversation
        if mark is None and before is None:
            return None
        return SoughtRun(
            agent_id=self._to.agent.id,
            mark=mark,
            before=before or frozenset(),
            conversation_id=conversation.conversation_id if conversation else None,
        )

    def _open(self, step: Step, opening: Opening, before: frozenset[str] | None = None) -> None:
        self._move(step)
        self._telling = tuple((self._to.thread, standing) for standing in opening.told)
        self._runs.sought = self._sought(opening, before)
        if opening.first is not None and self.plan.messages:
            # Answers are with the agent; if its run fails, what is new may be said again without them.
            self._runs.results_sent = False
        self._ask(opening.command)

    def _go_on_preparing(self, answer: Answer) -> None:
        if self._abandoned:
            self._finish(Step.ENDED)
        elif self._interruption is not None:
            raise self._interruption
        else:
            self._ask_next(answer)

    def _take_prepared(self, prepared: Prepared) -> None:
        assert self._opening is not None
        if prepared.is_agent_gone:
            self._items.append(self._to.forget_agent())
            self._find(Step.GONE)
        else:
            self._open(Step.SEND, self._opening, prepared.runs)

    def _take_refusal(self, answer: Answer) -> None:
        """The turn's request was answered with something other than a stream."""
        said = answer.refusal
        is_misfit = answer.status in (400, 409, 422) and refusal_in(said.message, said.code) is not None
        # A gateway's, which gave up waiting or whose connection to Letta ended: Letta may have taken it.
        is_gateways = answer.status == 504 or (answer.status == 502 and said.text is None)
        if self._abandoned and answer.status != 200 and not is_gateways:
            self._runs.sought = None
            self._finish(Step.ENDED)
        elif answer.status == 404:
            self._forget()
        elif is_misfit and not self._resent:
            self._resent = True
            self._look(Step.REFUSED)
        elif answer.status == 409 and not is_misfit and self._asking.pause_within(self.config.queue_timeout):
            # Another process speaks in this conversation: Letta has taken nothing.
            pass
        elif answer.status == 503 and self._background:
            self._background = False
            self._items.append(BackgroundRefused())
            assert isinstance(self._asking.command, OpenStream)
            self._ask(
                evolve(self._asking.command, request=evolve(self._asking.command.request, background=False))
            )
        elif answer.status == 200:
            kind = answer.content_type or "no content type"
            raise RemoteProtocolError(f"Letta answered with {kind} instead of an event stream.")
        elif is_gateways:
            raise RemoteProtocolError(answer.error().message)
        else:
            raise answer.error()

    def _opened(self) -> bool:
        """Whether the run's stream is being read; from its head on it is."""
        asking = self._asking
        if not asking.is_stream:
            return False
        if self.phase is Phase.SENDING or isinstance(asking.command, ResumeRun):
            self._move(Step.OPENED)
        elif self.phase is not Phase.LEAVING:
            return False
        asking.read_stream()
        return True

    def _read_stream(self) -> bool:
        assert self._asking.stream is not None
        run, message = self._runs.current, self._asking.stream.next_message()
        if not isinstance(message, Signal):
            if self._background and self._runs.reading.is_after_end(message):
                self._lose(RemoteProtocolError("Letta forgot how the run ended."))
                return True
            self._emit(run.receive_message(message))
        elif not self._asking.has_ended:
            return False
        elif not run.has_ended and run.run_id is not None and self.phase is Phase.STREAMING:
            self._lose(
                self._asking.error or RemoteProtocolError("Letta's stream ended before the run had stopped.")
            )
            return True
        elif not run.has_ended and self._runs.is_unnamed:
            ended = RemoteProtocolError("Letta's stream ended before the run had a name.")
            self._seek(self._asking.error or ended)
            return True
        elif self._asking.error is not None and not run.has_ended:
            raise self._asking.error
        else:
            self._emit(run.receive_message(EndOfStream()))
        self._take_state(run)
        return True

    def _take_state(self, run: RunStream) -> None:
        """Go where the run has gone."""
        if self._telling and (run.step_kept or run.state is RunState.DONE):
            self.told, self._telling = (*self.told, *self._telling), ()
        if run.state is RunState.FAILED:
            self._take_run_failure(run)
        elif run.state is RunState.DONE and run.waiting and not self._abandoned:
            self._settle_unasked(run)
        elif run.state is RunState.DONE and self._runs.complaint is not None and not self._abandoned:
            self._ask_again(self._runs.complaint)
        elif run.state is RunState.DONE:
            # A call behind a stop sequence is not told: nobody will bring its result.
            is_told = self._trimmer is None or not self._trimmer.hides_calls
            self._tools.is_awaited = run.waits_for_client and is_told
            self.awaited_calls = run.bridge.client_call_ids if self._tools.is_awaited else ()
            self._finish(Step.ENDED)
        elif run.run_id is not None and (self.phase is Phase.LEAVING or self._interruption is not None):
            self._failure = self._interruption
            self._cancel()

    def _settle_unasked(self, run: RunStream) -> None:
        """The run waits for approvals about which nobody is asked: answer, and go on with the next run."""
        self._runs.end()
        if self._interruption is not None:
            raise self._interruption
        if self._approval_count >= self.config.max_approval_count:
            # As a run that has taken too many steps; the next message settles what waits.
            self._emit([TurnFinished(reason=FinishReason.LENGTH, usage=self._runs.so_far.usage)])
            self._finish(Step.ENDED)
            return
        # The input is with the agent: whatever Letta says from now on, it is not said again.
        self.plan = self.plan.without_input()
        self._to.is_confirmed = self._resent = True
        self._waiting = run.waiting
        if self.phase is Phase.REVIEWING:
            # It waited some time ago, and may have been answered since.
            self._look(Step.LOOK)
        else:
            self._answer_waiting(Step.SETTLE)

    def _answer_waiting(self, step: Step) -> None:
        waiting, self._waiting = self._waiting, ()
        approve = self.config.approvals is Approvals.ALLOW
        for call in waiting if approve else ():
            if is_our_name(call.name):
                continue
            self._emit(
                (
                    ServerToolStarted(call_id=call.call_id, name=call.name or ""),
                    ServerToolArguments(call_id=call.call_id, fragment=call.arguments or "{}"),
                )
            )
        self._approval_count += 1
        self._runs.begin(waiting)
        self._open_stream(step, answer_unasked(waiting, approve=approve))

    def _ask_again(self, complaint: str) -> None:
        """The reply is not what the client wishes: ask for it once more, and go on with the next run."""
        self._runs.end()
        if self._interruption is not None or self._asked_again:
            self._end_failed(self._interruption or invalid_reply(complaint), Kept.SOMETHING)
            return
        # What it was told in an earlier turn may have gone from its sight.
        is_fresh = any(standing is self.plan.wish for _, standing in self.told)
        self.plan = self.plan.again(complaint, in_full=not is_fresh)
        self._asked_again = self._to.is_confirmed = self._resent = True
        self._runs.begin()
        self._open_stream(Step.AGAIN, ())

    def _emit(self, words: Iterable[Event]) -> None:
        for word in self._runs.tell(words):
            if not self._abandoned:
                self._runs.said.add(word)
                self._give(word)

    def _give(self, event: Event) -> None:
        """The client gets it, or what is left of it."""
        if self._trimmer is None:
            self._items.append(event)
        else:
            self._items.extend(self._trimmer.trim(event))

    def _take_run_failure(self, run: RunStream) -> None:
        if run.refusal is not None and not self._resent and not self._abandoned:
            self._resent = True
            self._look(Step.REFUSED)
            return
        assert run.error is not None
        kept = run.step_kept or (self._runs.results_sent and run.refusal is None)
        agent = self._to.agent
        is_mute = run.wrote_text and not agent.capabilities.text_replies
        error = mute_agent(agent.agent_type) if is_mute else run.error
        self._end_failed(error, Kept.SOMETHING if kept else Kept.NOTHING)

    # --- What became of a run -----------------------------------------------------------------------------

    @property
    def _is_followed(self) -> bool:
        return isinstance(self._asking.command, OpenStream) and self._asking.command.is_followed

    def _follow(self, answer: Answer) -> None:
        """Letta has named a run that has no stream: wait for its end."""
        run_id = self._runs.current.run_id = letta.decode_run(answer.data).id
        if self.phase is Phase.SENDING:
            self._move(Step.OPENED)
        if self._abandoned or self._interruption is not None:
            self._failure = self._interruption
            self._cancel()
            return
        self._move(Step.LOST)
        self._failure = RemoteProtocolError("Letta's run ended, and nothing tells how.")
        self._ask_for(read_run(run_id, self.config.lost_run_timeout))

    def _seek(self, error: SansioLettaError | None) -> None:
        """The run may go on, and its stream will not name it any more: look for it.

        :param error: what the client is told if it is not found; None: it hears no more.
        """
        assert self._runs.sought is not None
        self._move(Step.SEEK)
        self._failure, self._asking.stream = error, None
        self._ask_for(find_run(self._runs.sought, self.config.first_item_timeout))

    def _take_found(self, found: FoundRun) -> None:
        if found.run is None:
            if found.is_sure:
                self._runs.sought = None
            self._end_unfound(Kept.NOTHING if found.is_sure else Kept.UNKNOWN)
            return
        self._runs.name(found.run.id)
        if not found.run.is_over and (self._abandoned or self._interruption is not None):
            self._cancel()
        elif self._abandoned:
            self._finish(Step.ENDED)
        else:
            self._move(Step.LOST)
            self._recover()

    def _end_unfound(self, kept: Kept) -> None:
        if self._failure is None:
            self._finish(Step.ENDED)
        else:
            self._end_failed(self._failure, kept)

    def _lose(self, error: SansioLettaError) -> None:
        """The stream ended before its run: find out what became of it."""
        self._move(Step.LOST)
        self._failure = error
        self._recover()

    def _recover(self) -> None:
        run_id = self._runs.current.run_id
        assert run_id is not None
        self._asking.stream = None
        self.resume_count += 1
        reading = self._runs.reading
        if not self._background or reading.is_over:
            self._ask_for(read_run(run_id, self.config.lost_run_timeout))
        elif reading.lose():
            self._asking.went_well()
            self._ask(FetchRun(run_id=run_id))
        elif self._asking.pause_within(self.config.resume_timeout):
            self._asking.command = FetchRun(run_id=run_id)
        else:
            assert self._failure is not None
            raise self._failure

    def _take_book(self, answer: Answer) -> None:
        """What Letta's books say of a run."""
        if answer.status >= 500 and self._asking.pause_within(self.config.resume_timeout):
            return
        if self._questions is not None:
            self._ask_next(answer)
        elif isinstance(self._asking.command, FetchRun):
            run = letta.decode_run(answer.data)
            self._runs.reading.is_over = run.is_over
            self._ask(ResumeRun(run_id=run.id, seq_id=self._runs.reading.seq_id))
        else:
            # The stream cannot be taken up again; what was kept of the run can be read.
            assert isinstance(self._asking.command, ResumeRun)
            self._ask_for(read_run(self._asking.command.run_id, self.config.lost_run_timeout))

    def _ask_for(self, questions: Questions | Search | Preparation | Cleaning | RunSearch) -> None:
        self._questions = questions
        self._asking.went_well()
        self._ask_next(None)

    def _ask_next(self, answer: Answer | None) -> None:
        assert self._questions is not None
        try:
            question = self._questions.send(answer)
        except StopIteration as stop:
            self._questions = None
            match stop.value:
                case FoundThread() as found:
                    self._take_thread(found)
                case Prepared() as prepared:
                    self._take_prepared(prepared)
                case FoundRun() as run:
                    self._take_found(run)
                case EndedRun() as ended if self.phase is Phase.REVIEWING:
                    self._take_earlier(ended)
                case EndedRun() as ended:
                    self._take_rest(ended)
                case _:
                    assert self._closing is not None
                    self._move(self._closing)
            return
        if isinstance(question, Pause):
            self._asking.hold(question.seconds)
        else:
            self._ask(question)

    def _take_rest(self, ended: EndedRun) -> None:
        """The run under way is over: tell what the client has not heard of it."""
        if not ended.kept.messages and ended.run.stop_reason is None:
            # It ended without a word why: all there is to tell is how its stream was lost.
            assert self._failure is not None
            self._end_failed(self._failure, Kept.NOTHING)
            return
        self._emit(self._runs.tell_rest(ended))
        self._take_state(self._runs.current)

    def _take_earlier(self, ended: EndedRun) -> None:
        """An earlier turn for this request is over: go on from what the agent has of it."""
        kept = ended.kept
        if not kept.messages:
            self._earlier = None
            self._look_or_send()
            return
        run = self._runs.current
        if ended.is_whole:
            self._emit(ended.tell(run))
            self._take_state(run)
            return
        if not kept.returns:
            raise kept_failure(
                LettaError("The agent has heard this before and broke off. Send a new message to go on.")
            )
        words = list(ended.tell_kept(run))
        if any(not isinstance(word, TurnStarted) for word in words):
            self._emit(words)
            self._runs.end()
        if kept.has_input or self.plan.verdict is not None:
            # A word of approval is no input, and was the answer to what waited then.
            self.plan = self.plan.without_input()
        self._runs.begin(results_sent=True)
        # Results that Letta has already make the agent go on from them (kept_results.jsonl).
        self._open_stream(Step.SEND, tuple(map(to_result, kept.returns)))

    def _cancel(self) -> None:
        run_id = self._runs.current.run_id
        assert run_id is not None
        self._move(Step.CANCEL)
        self._questions = None
        self._asking.went_well()
        self._ask(CancelRun(agent_id=self._to.agent.id, run_id=run_id))

    def _end_cancelled(self) -> None:
        if self._failure is None:
            self._finish(Step.ENDED)
        elif isinstance(self._asking.command, CancelRun) and self._runs.was_sought and self._left_no_trace:
            # What it had done before it was found was not read.
            self._ask(FetchKept(run_id=self._asking.command.run_id))
        else:
            self._end_failed(self._failure, Kept.NOTHING if self._left_no_trace else Kept.UNKNOWN)

    @property
    def _left_no_trace(self) -> bool:
        """Whether the run that was interrupted had said nothing yet, kept nothing, and was really cancelled.

        A run cancelled in its first step leaves no trace (kept_nothing.jsonl), but results are kept at once.
        """
        run, answer = self._runs.current, self._asking.answer
        if self._failure is not self._interruption or self.started or self._runs.results_sent or run.step_kept:
            return False
        if self.resume_count:
            return False  # some of it was not read
        if answer is None or self._asking.error is not None:
            return False
        if isinstance(self._asking.command, FetchKept):
            return kept_nothing(answer)
        assert run.run_id is not None
        return answer.cancelled(run.run_id)

    # --- Failing ------------------------------------------------------------------------------------------

    def _fail(self, error: SansioLettaError) -> None:
        self._note_strays()
        if self.phase is Phase.CANCELLING:
            self._end_cancelled()
        elif self.phase is Phase.CLEANING:
            self._ask_next(None)
        elif self.phase is Phase.PREPARING:
            self._end_unprepared(error)
        elif self.phase is Phase.REVIEWING:
            # What was kept of the earlier turn is not known, so nobody may be told to say it again.
            self._end_failed(error, Kept.UNKNOWN)
        elif self.phase is Phase.RECOVERING:
            # How the stream was lost matters more than why it was not found again.
            self._cancel()
        elif self.phase is Phase.SEEKING:
            self._end_unfound(Kept.UNKNOWN)
        elif self.phase in READING_STREAM and isinstance(error, RemoteProtocolError):
            # Letta was told, and what it does now we cannot see. A run that may be going on is ended first.
            if self._runs.current.run_id is not None:
                self._failure = error
                self._cancel()
            elif self._runs.is_unnamed:
                self._seek(None if self._abandoned else error)
            else:
                self._end_failed(error, Kept.UNKNOWN)
        else:
            self._runs.sought = None
            self._end_failed(error, Kept.NOTHING)

    def _end_unprepared(self, error: SansioLettaError) -> None:
        """Nothing was said to the agent, unless it was answers that went ahead."""
        if self._abandoned:
            self._finish(Step.ENDED)
            return
        asking = self._asking
        is_unsure = (
            isinstance(asking.command, AnswerCalls)
            and asking.failure is not Failure.NOT_SENT
            and (asking.answer is None or asking.answer.status >= 500)
        )
        self._end_failed(error, Kept.UNKNOWN if is_unsure else Kept.NOTHING)

    def _end_failed(self, error: SansioLettaError, kept: Kept) -> None:
        if kept is Kept.NOTHING and self._runs.so_far.started:
            kept = Kept.SOMETHING  # an earlier run of this turn came to its end
        if not self._abandoned:
            self._tell_failure(error, kept)
            self._left_nothing = kept is Kept.NOTHING
        self._finish(Step.FAIL)

    def _tell_failure(self, error: SansioLettaError, kept: Kept) -> None:
        told = error if kept is Kept.NOTHING else kept_failure(error)
        self._give(TurnFailed(error=told, kept=kept))
