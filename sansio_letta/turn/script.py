"""The conversation of a turn with its upstream, straight down the page.

`TurnScript.converse` is the whole story; each method below it is a chapter. A chapter yields what it waits for,
and the place that waits knows what to undo if the turn is interrupted there. The phases stand in `phases`.

A failure while the agent works on the turn ends as `kept_failure` says if anything was, or may have been, kept:
no answer may invite a repeat that the agent would hear twice.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

from attrs import define, evolve, field

from ..config import Approvals, Config
from ..errors import Kept, LettaError, RemoteProtocolError, SansioLettaError, invalid_reply, kept_failure
from .agent import PendingCall, ToolOwner
from .answer import Answer
from .approval import approval_question
from .events import (
    AgentFound,
    CallArguments,
    CallsSettled,
    CallStarted,
    ConversationThread,
    Event,
    FinishReason,
    ServerToolArguments,
    ServerToolStarted,
    Thread,
    TurnFailed,
    TurnStarted,
    Usage,
)
from .phases import OVER, TRANSITIONS, Phase
from .request import Standing, Throwaway, ToolResult, TurnRequest
from .settlement import Waiting, answer_unasked, next_call, settle_request
from .thread_queue import Ticket
from .upstream import (
    ClientDisconnected,
    Exchange,
    Follow,
    Gone,
    Interrupted,
    Located,
    PastRun,
    Refused,
    Run,
    RunEnd,
    RunEvent,
    RunFailed,
    RunLost,
    RunRef,
    RunRequest,
    RunState,
    RunStopped,
    Script,
    ShutDown,
    TimedOut,
    Upstream,
    Wait,
)

_End = TypeVar("_End", RunEnd, RunEnd | Refused)

#: Of an answer that no model was asked for.
_NO_TOKENS: Final = Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0)

#: Tells what an earlier turn for the same request has left.
RecallEarlier: TypeAlias = Callable[[], RunRef | None]
#: Tells which calls a turn has left waiting in a thread, as far as that is remembered.
RecallWaiting: TypeAlias = Callable[[Thread], Waiting | None]


def nothing_earlier() -> None:
    """There was none."""


def nothing_waits(thread: Thread) -> None:
    """Nothing is remembered."""


class _Failed(Exception):
    """The turn fails.

    :param error: what the client is told; None if there is no client any more.
    """

    def __init__(self, error: SansioLettaError | None, kept: Kept) -> None:
        super().__init__(error)
        self.error = error
        self.kept = kept


@define(kw_only=True)
class TurnScript:
    """One turn, from the question which agent is meant to the last of the cleaning, and what is known of it.

    :param request: what the client asks; what is left of it while the turn goes on.
    :param approvals: what becomes of calls that a human must allow.
    :param items: where events go.
    """

    request: TurnRequest
    config: Config
    upstream: Upstream
    ticket: Ticket
    answer: Answer
    approvals: Approvals
    items: deque[Any]
    earlier: RunRef | None = None  #: an earlier turn for the same request that broke off
    recall_earlier: RecallEarlier
    recall_waiting: RecallWaiting
    phase: Phase = field(default=Phase.READY, init=False)
    run: Run | None = field(default=None, init=False)  #: the one under way, or the last
    exchange: Exchange | None = field(default=None, init=False)  #: the last; set by the turn
    is_detached: bool = field(default=False, init=False)  #: the client hears no more
    interruption: SansioLettaError | None = field(default=None, init=False)  #: the proxy shuts down
    started: bool = field(default=False, init=False)  #: `TurnStarted` was handed over: no status line any more
    took_up: bool = field(default=False, init=False)  #: an earlier turn for the same request was looked into
    resume_count: int = field(default=0, init=False)  #: how often its stream was lost and found again
    told: tuple[tuple[Thread, Standing], ...] = field(default=(), init=False)
    """What went with this turn and need not be told there again: its thread has kept it."""
    awaited_calls: tuple[str, ...] = field(default=(), init=False)
    """Ids of the client's calls for whose results the agent waits when the turn is over."""
    awaits_client: bool = field(default=False, init=False)
    """Whether the agent waits for what the client makes of a call."""
    _left_nothing: bool = field(default=False, init=False)  #: it failed, and nothing of it was kept
    _approval_count: int = field(default=0, init=False)  #: how often the turn answered for a human
    _was_refused: bool = field(default=False, init=False)  #: no refusal is settled any more
    _asked_again: bool = field(default=False, init=False)  #: for a reply of another form
    _ended_run: Run | None = field(default=None, init=False)  #: the last whose end was not the turn's

    def converse(self) -> Script[None]:
        """The whole story."""
        end = Phase.DONE
        try:
            yield from self._take_turn()
        except ClientDisconnected:
            pass
        except Interrupted as why:
            end = self._fail(why.error, self._kept_before)
        except _Failed as failed:
            end = self._fail(failed.error, failed.kept)
        except SansioLettaError as error:
            # What was kept of an earlier turn is not known while it is looked into.
            end = self._fail(error, Kept.UNKNOWN if self.phase is Phase.REVIEWING else Kept.NOTHING)
        # Not in a `finally`: a turn that is dropped closes its script, which must not yield then.
        yield from self._release(is_done=end is Phase.DONE)
        self._move(end)

    def _take_turn(self) -> Script[None]:
        while True:
            try:
                yield from self._begin()
                request = yield from self._first_request()
                while request is not None:
                    end = yield from self._run(request)
                    request = yield from self._follow_up(end)
                return
            except Gone as gone:
                self._check_client()
                self.items.append(gone.event)

    # --- Before a run -------------------------------------------------------------------------------------

    def _begin(self) -> Script[None]:
        """FINDING, QUEUED, SEARCHING: the agent and the thread, as far as they are not known."""
        upstream = self.upstream
        if upstream.agent is None:
            self._move(Phase.FINDING)
            agent = yield from upstream.resolve_agent(with_calls=self._must_look)
            self.items.append(AgentFound(model=self.request.model, agent=agent))
        if self.phase in (Phase.READY, Phase.FINDING):
            self._move(Phase.QUEUED)
            self.request = upstream.fit(self.request)
            yield from self._wait()
            upstream.recall_thread()
            yield from self._wait()
        if upstream.thread is None:
            self._move(Phase.SEARCHING)
            yield from upstream.open_thread()
            if upstream.is_new and self.request.retold:
                self.request = self.request.with_results_as_text()
            yield from self._wait()

    def _wait(self) -> Script[None]:
        """Wait until the turns that came before are over, by what is known of the thread so far."""
        self.ticket.enter(*self.upstream.queue_keys)
        if self.ticket.is_first and not self.ticket.waited:
            return
        if not self.ticket.is_first and self.phase is not Phase.QUEUED:
            self._move(Phase.QUEUED)
        while not self.ticket.is_first:
            yield Wait()
        # What the agent waits for now must be looked up.
        self.upstream.forget_calls()

    def _first_request(self) -> Script[RunRequest | None]:
        """What the first run is started with; None if the turn has come to its end without one."""
        past = yield from self._review()
        if past is None:
            # Where a call is known to wait, a message sent unlooked is refused, and leaves a failed run.
            waits = self.request.leaves_calls or self.recall_waiting(self._thread) is not None
            if waits or self._must_look:
                yield from self._look()
            return self._settle()
        if past.is_complete:
            return (yield from self._follow_up(self._retell(past.events())))
        return self._go_on_from(past)

    def _review(self) -> Script[PastRun | None]:
        """REVIEWING: what became of an earlier turn for the same request; None if nothing of it was kept."""
        if self.earlier is None:
            self.earlier, self.recall_earlier = self.recall_earlier(), nothing_earlier
        # What an earlier turn for a background prompt has left was deleted with its conversation.
        is_lost = self.upstream.is_new and isinstance(self.request.thread, Throwaway)
        if self.earlier is None or is_lost:
            return None
        self.took_up = True
        self._move(Phase.REVIEWING)
        past = yield from self.upstream.look_up(self.earlier)
        if past.has_anything:
            return past
        self.earlier = None
        return None

    def _go_on_from(self, past: PastRun) -> RunRequest:
        """An earlier turn for this request broke off: go on from what the agent has of it."""
        if not past.results:
            raise kept_failure(
                LettaError("The agent has heard this before and broke off. Send a new message to go on.")
            )
        events: list[Any] = list(past.kept_events())
        if any(not isinstance(event, TurnStarted) for event in events):
            self._tell(events)
            self.answer.end_run()
        if past.has_input or self.request.verdict is not None:
            # A word of approval is no input, and was the answer to what waited then.
            self.request = self.request.without_input()
        # Results that are kept already make the agent go on from them (kept_results.jsonl).
        return RunRequest(request=self.request, answers=past.results, has_results=True)

    @property
    def _must_look(self) -> bool:
        """Whether the input may be an answer to what is pending, rather than something new."""
        return bool(self.request.results) or self.request.verdict is not None

    def _look(self, *, again: bool = False) -> Script[None]:
        """LOOKING: what the agent waits for."""
        if again or self.upstream.calls is None:
            self._move(Phase.LOOKING)
            yield from self.upstream.look_up_calls()

    def _settle(self) -> RunRequest | None:
        """Bring what is new and what waits together; None if a human or the client has to answer first."""
        request, calls = self.request, self.upstream.calls or ()
        settlement = settle_request(request, calls, self.approvals, self.recall_waiting(self._thread))
        brought = {result.call_id for result in (*request.past_results, *request.results)}
        if request.one_call and not request.messages and (call := next_call(calls, brought)) is not None:
            self._end_calling(call, CallsSettled(stale=settlement.calls.stale))
            return None
        self._note_settled(settlement.calls)
        if settlement.undecided:
            # What the client brought is in its history when the answer comes.
            self._end_asking(settlement.undecided)
            return None
        return RunRequest(
            request=request,
            answers=settlement.answers,
            answered=calls,
            # What is said in place of a result need not be said again.
            has_results=any(
                isinstance(answer, ToolResult) and answer.call_id in brought for answer in settlement.answers
            ),
            is_verdict=settlement.is_verdict,
        )

    def _end_asking(self, calls: tuple[PendingCall, ...]) -> None:
        """Ask a human."""
        self._tell([TurnStarted()])
        self.answer.count(_NO_TOKENS)
        self._give(self.answer.finish(RunStopped(reason=FinishReason.STOP), approval_question(calls)))

    def _end_calling(self, call: PendingCall, settled: CallsSettled) -> None:
        """Tell one more call of those that wait; results so far are in the client's history when it is done."""
        self._note_settled(settled)
        self._tell(
            [
                TurnStarted(),
                CallStarted(index=0, call_id=call.call_id, name=call.client_name or ""),
                CallArguments(index=0, fragment=call.arguments or "{}"),
            ]
        )
        self.answer.count(_NO_TOKENS)
        self._give(self.answer.finish(RunStopped(reason=FinishReason.TOOL_CALLS)))
        self.awaited_calls = tuple(call.call_id for call in self.upstream.calls or ())
        self.awaits_client = True

    def _note_settled(self, settled: CallsSettled) -> None:
        if settled != CallsSettled():
            self.items.append(settled)

    # --- A run --------------------------------------------------------------------------------------------

    def _run(self, request: RunRequest) -> Script[RunEnd | Refused]:
        """PREPARING, SENDING, STREAMING, RECOVERING: one run, to its end."""
        run = self.run = self.upstream.make_run(request)
        self.answer.begin_run()
        yield from self._prepare(run)
        end: RunEnd | Refused | None = None
        try:
            self._move(Phase.SENDING)
            end = yield from self._read(run, self._start(run))
            while isinstance(end, RunLost):
                end = yield from self._recover(run, end)
        finally:
            if run.has_kept or isinstance(end, RunStopped):
                self.told += tuple((self._thread, standing) for standing in run.told)
        return end

    def _prepare(self, run: Run) -> Script[None]:
        preparation = run.prepare()
        if preparation is None:
            return
        self._move(Phase.PREPARING)
        try:
            yield from preparation
        except ClientDisconnected:
            raise
        except (SansioLettaError, Interrupted) as exc:
            # Nothing was said to the agent, unless it was answers that went ahead.
            exchange, error = self.exchange, exc.error if isinstance(exc, Interrupted) else exc
            is_unsure = exchange is not None and exchange.was_sent and exchange.is_unsure
            raise _Failed(error, Kept.UNKNOWN if is_unsure else self._kept_before) from exc

    def _start(self, run: Run) -> Script[RunEnd | Refused]:
        refused = yield from run.start()
        if refused is None:
            return (yield from self._stream(run))
        self._check_client()
        return refused

    def _stream(self, run: Run) -> Script[RunEnd]:
        if self.phase is not Phase.LEAVING:
            self._move(Phase.STREAMING)
        end: RunEnd = yield Follow(run)
        if isinstance(end, RunLost) and not run.is_named:
            return (yield from self._rescue(run, end.error, Kept.UNKNOWN))
        return end

    def _read(self, run: Run, reading: Script[_End]) -> Script[_End | RunLost]:
        """Read a run; if that comes to nothing, end the run, or find it again."""
        try:
            return (yield from reading)
        except ShutDown as why:
            return (yield from self._rescue(run, why.error, self._kept_before))
        except Interrupted as why:
            return (yield from self._rescue(run, why.error, Kept.UNKNOWN))
        except RemoteProtocolError as error:
            # The agent was told, and what it does now we cannot see. A run that may be going on is ended first.
            return (yield from self._rescue(run, error, Kept.UNKNOWN))

    def _rescue(self, run: Run, error: SansioLettaError | None, kept: Kept) -> Script[RunLost]:
        """The run may go on, and is not read on: end it, or find it.

        :param error: what the client is told; None if there is no client any more.
        :param kept: what is known to be kept if there is nothing to find.
        """
        if run.is_named:
            yield from self._cancel(run, error)
        if run.ref is None:
            raise _Failed(error, kept)
        return (yield from self._seek(run, error))

    def _seek(self, run: Run, error: SansioLettaError | None) -> Script[RunLost]:
        """SEEKING: the run's stream will not name it any more."""
        self._move(Phase.SEEKING)
        try:
            located = yield from run.locate()
        except TimedOut as why:
            raise _Failed(why.error, Kept.UNKNOWN) from why
        except SansioLettaError as exc:
            raise _Failed(error, Kept.UNKNOWN) from exc
        if located is Located.NEVER_BEGUN or located is Located.UNKNOWN:
            raise _Failed(error, Kept.NOTHING if located is Located.NEVER_BEGUN else Kept.UNKNOWN)
        if located is Located.RUNNING and (self.is_detached or self.interruption is not None):
            yield from self._cancel(run, error)
        if self.is_detached or error is None:
            raise _Failed(None, Kept.UNKNOWN)
        return RunLost(error=error)

    def _recover(self, run: Run, lost: RunLost) -> Script[RunEnd | Refused]:
        """RECOVERING: find out what became of the run, and tell what the client has not heard of it."""
        self._move(Phase.RECOVERING)
        self.resume_count += lost.had_stream
        try:
            past = yield from run.recover()
            if past is not None:
                if past.is_blank:
                    # It ended without a word why: all there is to tell is how its stream was lost.
                    raise _Failed(lost.error, Kept.NOTHING)
                return self._retell(past.events())
        except Interrupted as why:
            yield from self._cancel(run, why.error)
        except SansioLettaError:
            # How the stream was lost matters more than why it was not found again.
            yield from self._cancel(run, lost.error)
        return (yield from self._read(run, self._stream(run)))

    def _cancel(self, run: Run, error: SansioLettaError | None) -> Script[NoReturn]:
        """CANCELLING: end the run, and the turn with it."""
        self._move(Phase.CANCELLING)
        must_know = error is not None and error is self.interruption
        must_know = must_know and not (self.is_detached or self.started or self.resume_count)
        kept = Kept.UNKNOWN
        try:
            kept = yield from run.cancel(must_know=must_know)
        except (SansioLettaError, TimedOut) as exc:
            raise _Failed(error, Kept.UNKNOWN) from exc
        raise _Failed(error, kept if must_know and not self.started else Kept.UNKNOWN)

    # --- Behind a run -------------------------------------------------------------------------------------

    def _follow_up(self, end: RunEnd | Refused) -> Script[RunRequest | None]:
        """What the next run is started with; None if the turn has come to its end."""
        match end:
            case Refused(error=error):
                if self._was_refused:
                    raise error
                return (yield from self._settle_refusal())
            case RunFailed(error=error, is_refusal=is_refusal):
                can_settle = is_refusal and not self._was_refused and not self.answer.has_earlier
                if can_settle and not self.is_detached:
                    return (yield from self._settle_refusal())
                assert self.run is not None
                is_kept = self.run.has_kept or (self.run.has_results and not is_refusal)
                raise _Failed(error, Kept.SOMETHING if is_kept else Kept.NOTHING)
            case RunStopped() if not self.is_detached:
                return (yield from self._conclude(end))
        return None

    def _settle_refusal(self) -> Script[RunRequest | None]:
        """What is pending does not fit the input: look, and settle it once."""
        self._was_refused = True
        yield from self._look(again=True)
        return self._settle()

    def _conclude(self, end: RunStopped) -> Script[RunRequest | None]:
        """The run has done what it wanted: so has the turn, unless the agent is to go on."""
        self.answer.count(end.usage)
        may_ask = any(call.owner is not ToolOwner.DEPARTED for call in end.waiting)
        if end.waiting and not (may_ask and self.approvals is Approvals.ASK):
            return (yield from self._answer_unasked(end))
        self._give(self.answer.finish(end, approval_question(end.waiting) if end.waiting else None))
        if (problem := self.answer.problem) is not None:
            return self._ask_again(problem)
        # A call behind a stop sequence is not told: its result will not be brought.
        self.awaits_client = bool(end.calls) and not self.answer.hides_calls
        self.awaited_calls = end.calls if self.awaits_client else ()
        return None

    def _answer_unasked(self, end: RunStopped) -> Script[RunRequest | None]:
        """The run waits for approvals about which no human is asked: answer, and go on with the next run."""
        waiting = end.waiting
        self._end_run()
        if self._approval_count >= self.config.max_approval_count:
            # As a run that has taken too many steps; the next message settles what waits.
            self._give(self.answer.finish(evolve(end, reason=FinishReason.LENGTH)))
            return None
        self._go_on(self.request.without_input())
        if self.phase is Phase.REVIEWING:
            # It waited some time ago, and may have been answered since.
            yield from self._look(again=True)
            if {call.call_id for call in self.upstream.calls or ()} != {call.call_id for call in waiting}:
                raise LettaError("The agent went on meanwhile. Send a new message to hear more.")
        approve = self.approvals is Approvals.ALLOW
        for call in waiting if approve else ():
            if call.owner is not ToolOwner.DEPARTED:
                fragment = call.arguments or "{}"
                self._tell(
                    [
                        ServerToolStarted(call_id=call.call_id, name=call.name or ""),
                        ServerToolArguments(call_id=call.call_id, fragment=fragment),
                    ]
                )
        self._approval_count += 1
        answers = answer_unasked(waiting, approve=approve)
        return RunRequest(request=self.request, answers=answers, answered=waiting)

    def _ask_again(self, problem: str) -> RunRequest:
        """The reply is not what the client wishes: ask for it once more, and go on with the next run."""
        self._end_run()
        if self._asked_again:
            raise _Failed(invalid_reply(problem), Kept.SOMETHING)
        # What it was told in an earlier turn may have gone from its sight.
        is_fresh = any(standing is self.request.wish for _, standing in self.told)
        self._asked_again = True
        self._go_on(self.request.again(problem, in_full=not is_fresh))
        return RunRequest(request=self.request)

    def _end_run(self) -> None:
        """The run's end is not the turn's."""
        self.answer.end_run()
        self._ended_run = self.run
        if self.interruption is not None:
            raise _Failed(self.interruption, Kept.SOMETHING)

    def _go_on(self, request: TurnRequest) -> None:
        """The agent has the input: whatever the upstream says from now on, it is not said again."""
        self.request = request
        self.upstream.confirm()
        self._was_refused = True

    # --- The end ------------------------------------------------------------------------------------------

    def _release(self, *, is_done: bool) -> Script[None]:
        """CLEANING: undo what was for this turn alone."""
        cleaning = self.upstream.release(
            awaited_calls=self.awaited_calls if is_done and not self.is_detached else (),
            left_nothing=self._left_nothing,
            had_turn=self.ticket.is_first,
        )
        if cleaning is not None:
            self._move(Phase.CLEANING)
            yield from cleaning

    def _fail(self, error: SansioLettaError | None, kept: Kept) -> Phase:
        if error is None or self.is_detached:
            return Phase.DONE
        if kept is Kept.NOTHING and self.answer.has_earlier:
            kept = Kept.SOMETHING
        self._report(error, kept)
        self._left_nothing = kept is Kept.NOTHING
        return Phase.FAILED

    def report_interruption(self) -> None:
        """Tell the client what is known by now, since little more will be carried out."""
        assert self.interruption is not None
        exchange = self.exchange
        is_making = self.phase in (Phase.SEARCHING, Phase.PREPARING) and not (exchange and exchange.is_heard)
        is_nothing = is_making and not self.answer.has_earlier and self.earlier is None
        self._report(self.interruption, Kept.NOTHING if is_nothing else Kept.UNKNOWN)
        self.is_detached = True

    def _report(self, error: SansioLettaError, kept: Kept) -> None:
        told = error if kept is Kept.NOTHING else kept_failure(error)
        self.items.extend(self.answer.trim(TurnFailed(error=told, kept=kept)))

    @property
    def _kept_before(self) -> Kept:
        """What may be kept while nothing was sent: what an earlier turn has left was not found out."""
        return Kept.NOTHING if self.earlier is None else Kept.UNKNOWN

    @property
    def _thread(self) -> Thread:
        assert self.upstream.thread is not None
        return self.upstream.thread

    @property
    def ref(self) -> RunRef | None:
        """What a repeat of the request must look into; None if the agent was told nothing of it.

        Of a turn that went on from an earlier one it is that: what was said to the agent was said there.
        """
        if self.earlier is not None:
            return self.earlier
        runs = (run for run in (self.run, self._ended_run) if run is not None)
        return next((ref for run in runs if (ref := run.ref) is not None), None)

    @property
    def run_state(self) -> RunState:
        """What the agent was doing when it was last heard of in the run under way."""
        return RunState.WAITING if self.run is None else self.run.state

    @property
    def run_id(self) -> str | None:
        """The name of the run under way, or of the one before it; None until it is known."""
        runs = (run for run in (self.run, self._ended_run) if run is not None)
        return next((run_id for run in runs if (run_id := run.run_id) is not None), None)

    @property
    def conversation(self) -> ConversationThread | None:
        """Where the turn is, if that is not the agent's own thread; None until it is known."""
        thread = self.upstream.thread
        return thread if isinstance(thread, ConversationThread) else None

    @property
    def left_waiting(self) -> tuple[Thread, Waiting | None] | None:
        """What waits in its thread for the client now; None until the thread is known."""
        thread = self.upstream.thread
        if thread is None:
            return None
        return thread, Waiting(is_forced=self.request.forces_call) if self.awaits_client else None

    def leave(self) -> None:
        """The client has left, and the run is not named yet: read on until it is."""
        if self.phase in (Phase.SENDING, Phase.STREAMING):
            self._move(Phase.LEAVING)

    def _check_client(self) -> None:
        """Begin nothing new if the client has left meanwhile."""
        if self.is_detached:
            raise ClientDisconnected

    def _retell(self, events: Iterator[RunEvent]) -> RunEnd:
        """Tell a run from its start: of it what the client has not had."""
        told: list[Any] = list(events)
        end: RunEnd = told.pop()
        self._give(self.answer.add_rest(told))
        return end

    def _tell(self, events: Iterable[Event]) -> None:
        for event in events:
            self._give(self.answer.add(event))

    def _give(self, events: Iterable[Event]) -> None:
        if not self.is_detached:
            self.items.extend(events)

    def _move(self, phase: Phase) -> None:
        assert phase in TRANSITIONS[self.phase], f"{phase} after {self.phase}"
        self.phase = phase
        if phase in OVER:
            self.ticket.leave()
