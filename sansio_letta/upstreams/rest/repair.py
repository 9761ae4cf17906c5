"""Find and settle what keeps an agent stuck: calls that nothing answers, and runs that nothing reads.

An agent accepts no message in a thread with a pending call (pending_conflict.jsonl), and a run continues
without a reader (disconnect.jsonl). A turn settles the pending calls of its own thread; a repair looks through
all threads of an agent.

What may be in use is left alone: calls and runs that are young, runs that a proxy may still read, and the calls
of a thread with such a run. The agent stores the answers without replying to them.

When any run of an agent is cancelled, Letta 0.16.7 denies the pending calls of the agent's own thread, even if
the run is in a conversation. So these calls are answered before a run is cancelled; if they are left alone, so
are the runs.
"""

from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Final, TypeAlias

from attrs import define, evolve, field, frozen

from ..._convert import unix_time
from ...errors import LettaError, RequestError, SansioLettaError, quoted
from ...turn.agent import Agent, PendingCall, ToolOwner
from ...turn.events import AgentThread, ConversationThread, Thread
from ...turn.settlement import answer_abandoned
from ..thread_names import CHAT_MARK, chat_key
from . import letta
from .agents import pending_calls
from .calls import owner_of
from .commands import AnswerCalls, CancelRun, Command, FetchAgent, FetchConversation, FetchLast
from .conversations import find_chats, list_conversations
from .lookup import active_runs, read_mark
from .response import Response
from .run_request import build_approvals

#: Seconds in which a run counts as young.
YOUNG_RUN: Final = 60

_THREAD_IN_USE: Final = "a run is active in this thread"
_OWN_CALLS_PENDING: Final = "cancelling it would deny the pending calls of the main thread"


class Kind(Enum):
    """The kinds of things that keep an agent stuck."""

    CALL = "call"  #: of a client's tool
    APPROVAL = "approval"  #: a call of one of the agent's own tools that requires approval
    RUN = "run"


class Outcome(Enum):
    """The result for one of them."""

    PLANNED = "planned"  #: a dry run: it would be settled
    LEFT = "left"
    SETTLED = "settled"
    FAILED = "failed"


@frozen(kw_only=True)
class RepairOptions:
    """Options of a repair.

    :param is_dry_run: whether to change nothing.
    :param forces: whether to settle also what may be in use.
    :param chat: the key of the only chat to repair; None for all threads.
    :param conversation_id: the only conversation to repair; ``default`` is the agent's own thread.
    """

    is_dry_run: bool = False
    forces: bool = False
    chat: str | None = None
    conversation_id: str | None = None


@define(kw_only=True)
class Finding:
    """A pending call or an active run.

    :param thread: the thread that it is in.
    :param chat: the key of that thread's chat, if it is a chat.
    :param id: the id of the call or the run.
    :param tool: the name of the tool that is called.
    :param since: Unix time, in seconds; None if unknown.
    :param reason: the reason for its outcome.
    """

    kind: Kind
    thread: Thread
    chat: str | None = field(default=None, repr=False)
    id: str
    tool: str | None = None
    since: int | None = None
    outcome: Outcome = Outcome.PLANNED
    reason: str = ""

    @property
    def remedy(self) -> str:
        """The action that settles it."""
        match self.kind:
            case Kind.CALL:
                return "answer"
            case Kind.APPROVAL:
                return "deny"
            case Kind.RUN:
                return "cancel"

    def leave(self, reason: str) -> None:
        """Leave it alone."""
        self.outcome, self.reason = Outcome.LEFT, reason

    def settle(self, reason: str = "") -> None:
        """Note that it is settled."""
        self.outcome, self.reason = Outcome.SETTLED, reason or self.reason

    def fail(self, reason: str) -> None:
        """Note that it could not be settled."""
        self.outcome, self.reason = Outcome.FAILED, reason


@define(kw_only=True)
class _ThreadState:
    """A thread with its pending calls and its active runs."""

    thread: Thread
    chat: str | None = None
    calls: list[Finding] = field(factory=list)
    runs: list[Finding] = field(factory=list)

    @property
    def is_in_use(self) -> bool:
        """Whether one of its runs is left alone."""
        return any(run.outcome is Outcome.LEFT for run in self.runs)


RepairSteps: TypeAlias = Generator[Command, Response, tuple[Finding, ...]]


@define(kw_only=True)
class AgentRepair:
    """Finds and settles what keeps one agent stuck.

    :param now: Unix time, in seconds.
    :param call_timeout: seconds in which a pending call counts as young.
    :param turn_timeout: seconds after which any turn is over.
    :param has_died: tells whether the proxy process with this name is known to have ended.
    """

    agent: Agent
    options: RepairOptions
    now: int
    call_timeout: float
    turn_timeout: float
    has_died: Callable[[str], bool]
    _own: _ThreadState = field(init=False)
    _others: dict[str, _ThreadState] = field(factory=dict, init=False)  #: by the ids of conversations

    def __attrs_post_init__(self) -> None:
        self._own = _ThreadState(thread=AgentThread(agent_id=self.agent.id))

    def repair(self) -> RepairSteps:
        """Find everything, then settle it, unless this is a dry run.

        :raises RequestError: if the chat or the conversation does not exist.
        :raises SansioLettaError: if a lookup fails.
        """
        yield from self._find()
        self._judge()
        if not self.options.is_dry_run:
            yield from self._settle()
        return tuple(found for state in self._wanted for found in (*state.calls, *state.runs))

    # --- Finding ------------------------------------------------------------------------------------------

    @property
    def _includes_own(self) -> bool:
        options = self.options
        if options.chat is not None:
            return False
        return options.conversation_id in (None, "default", self.agent.id)

    @property
    def _is_limited(self) -> bool:
        return self.options.chat is not None or self.options.conversation_id is not None

    @property
    def _wanted(self) -> tuple[_ThreadState, ...]:
        return (*((self._own,) if self._includes_own else ()), *self._others.values())

    def _find(self) -> Generator[Command, Response, None]:
        self._own.calls = self._calls((yield from self._waiting(self._own.thread)), self._own)
        for conversation in (yield from self._conversations()):
            summary = conversation.summary or ""
            state = _ThreadState(
                thread=ConversationThread(conversation_id=conversation.id),
                chat=chat_key(summary) if summary.startswith(CHAT_MARK) else None,
            )
            state.calls = self._calls((yield from self._waiting(state.thread)), state)
            self._others[conversation.id] = state
        for run in (yield from active_runs(self.agent.id)):
            self._add_run(run)

    def _conversations(self) -> Generator[Command, Response, Sequence[letta.Conversation]]:
        """Find the conversations to repair."""
        options = self.options
        name = quoted(self.agent.name)
        if options.chat is not None:
            found = yield from find_chats(self.agent.id, options.chat)
            if not found:
                raise _not_found(f"{name} has no chat with the key {quoted(options.chat)}")
            return found
        if options.conversation_id is not None:
            if self._includes_own:
                return ()
            response = yield FetchConversation(conversation_id=options.conversation_id)
            unknown = _not_found(f"{name} has no conversation {quoted(options.conversation_id)}")
            if response.status in (404, 422):
                raise unknown
            conversation = letta.decode_conversation(response.data)
            if conversation.agent_id != self.agent.id:
                raise unknown
            return (conversation,)
        if not self.agent.capabilities.conversations:
            return ()
        return (yield from list_conversations(agent_id=self.agent.id))

    def _waiting(self, thread: Thread) -> Generator[Command, Response, letta.PendingApproval | None]:
        """Fetch the message that asks for a thread's pending calls."""
        if isinstance(thread, AgentThread):
            response = yield FetchAgent(agent_id=thread.agent_id)
            return letta.decode_agent(response.data).pending_approval
        response = yield FetchLast(conversation_id=thread.conversation_id)
        # The conversation may have been deleted since it was listed.
        return None if response.status == 404 else letta.decode_last_message(response.data)

    def _calls(self, request: letta.PendingApproval | None, state: _ThreadState) -> list[Finding]:
        return [
            Finding(
                kind=Kind.APPROVAL if call.owner is ToolOwner.AGENT else Kind.CALL,
                thread=state.thread,
                chat=state.chat,
                id=call.call_id,
                tool=call.name,
                since=None if request is None else unix_time(request.date) or None,
            )
            for call in self._owned(request)
        ]

    def _owned(self, request: letta.PendingApproval | None) -> tuple[PendingCall, ...]:
        return tuple(
            evolve(call, owner=owner_of(call.name, (), self.agent.tool_names))
            for call in pending_calls(request)
        )

    def _add_run(self, run: letta.Run) -> None:
        ident = run.conversation_id
        if ident is None:
            state = self._own
        elif ident in self._others:
            state = self._others[ident]
        elif self._is_limited:
            return
        else:
            # The conversation was deleted, or created since they were listed.
            state = self._others[ident] = _ThreadState(thread=ConversationThread(conversation_id=ident))
        found = Finding(
            kind=Kind.RUN,
            thread=state.thread,
            chat=state.chat,
            id=run.id,
            since=unix_time(run.created_at) or None,
        )
        self._judge_run(found, run)
        state.runs.append(found)

    # --- Judging ------------------------------------------------------------------------------------------

    def _age(self, found: Finding) -> float:
        return float("inf") if found.since is None else self.now - found.since

    def _judge_run(self, found: Finding, run: letta.Run) -> None:
        mark, age = read_mark(run), self._age(found)
        if age < YOUNG_RUN and not self.options.forces:
            found.leave(f"younger than {YOUNG_RUN} s")
        elif mark is not None and mark.until < self.now:
            found.reason = "its turn is over"
        elif mark is not None and self.has_died(mark.owner):
            found.reason = "the proxy that started it has ended"
        elif mark is None and age > self.turn_timeout:
            found.reason = f"older than {self.turn_timeout:g} s"
        elif self.options.forces:
            found.reason = "forced"
        elif mark is not None:
            until = datetime.fromtimestamp(mark.until, UTC)
            found.leave(f"a proxy may be reading it until {until:%H:%M:%S} UTC")
        else:
            found.leave("another program may be reading it")

    def _judge(self) -> None:
        if self.options.forces:
            return
        self._judge_calls(self._own)
        is_left = not self._includes_own or any(call.outcome is Outcome.LEFT for call in self._own.calls)
        if self._own.calls and is_left:
            for state in self._wanted:
                for run in state.runs:
                    if run.outcome is Outcome.PLANNED:
                        run.leave(_OWN_CALLS_PENDING)
        for state in self._others.values():
            self._judge_calls(state)

    def _judge_calls(self, state: _ThreadState) -> None:
        for call in state.calls:
            if self._age(call) < self.call_timeout:
                call.leave(f"younger than {self.call_timeout:g} s")
            elif state.is_in_use:
                call.leave(_THREAD_IN_USE)

    # --- Settling -----------------------------------------------------------------------------------------

    def _settle(self) -> Generator[Command, Response, None]:
        states = self._wanted
        if self._includes_own and not self._own.runs:
            yield from self._answer(self._own)
        for state in states:
            for run in state.runs:
                if run.outcome is Outcome.PLANNED:
                    yield from self._cancel(run)
        for state in states:
            yield from self._answer(state)

    def _cancel(self, run: Finding) -> Generator[Command, Response, None]:
        try:
            response = yield CancelRun(agent_id=self.agent.id, run_id=run.id)
            if not response.cancelled(run.id):
                raise response.error() if response.status != 200 else LettaError("Letta did not cancel it.")
        except SansioLettaError as exc:
            run.fail(exc.message)
        else:
            run.settle()

    def _answer(self, state: _ThreadState) -> Generator[Command, Response, None]:
        """Answer all pending calls of a thread at once: Letta refuses a part (parallel_partial.jsonl)."""
        planned = [call for call in state.calls if call.outcome is Outcome.PLANNED]
        if not planned:
            return
        ids = {call.id for call in planned}
        try:
            # Without a pending call, a result would make the agent reply (stale_tool_result.jsonl).
            request = yield from self._waiting(state.thread)
            waiting = self._owned(request)
            if ids.isdisjoint(call.call_id for call in waiting):
                _end(planned, "it is no longer pending")
                return
            answers = build_approvals(answer_abandoned(waiting), self.agent, waiting)
            response = yield AnswerCalls(thread=state.thread, answers=answers)
            assert response.data is not None  # raises for another status than 200
            left = {call.call_id for call in self._owned((yield from self._waiting(state.thread)))}
        except SansioLettaError as exc:
            for call in planned:
                call.fail(exc.message)
            return
        _end([call for call in planned if call.id not in left])
        for call in planned:
            if call.id in left:
                call.fail("Letta did not accept the answer.")


def _end(calls: Sequence[Finding], reason: str = "") -> None:
    for call in calls:
        call.settle(reason)


def _not_found(what: str) -> RequestError:
    return RequestError(f"{what}.", code="conversation_not_found", status=404)
