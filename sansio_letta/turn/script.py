"""The conversation of a turn with its upstream, straight down the page.

`TurnScript.converse` is the whole story; each method below it is a chapter. A chapter yields what it waits for,
and the place that waits knows what to undo if the turn is interrupted there. The phases stand in `phases`.

A failure while the agent works on the turn ends as `kept_failure` says if anything was, or may have been, kept:
no answer may invite a repeat that the agent would hear twice.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from attrs import define, evolve, field

from ..config import Approvals
from ..errors import Kept, LettaError, SansioLettaError, invalid_reply, kept_failure
from .agent import PendingCall, ToolOwner
from .approval import approval_question
from .events import (
    AgentFound,
    CallArguments,
    CallsSettled,
    CallStarted,
    FinishReason,
    ServerToolArguments,
    ServerToolStarted,
    TextDelta,
    TurnStarted,
    Usage,
)
from .matching import MatchScript
from .one_run import RunScript
from .phases import Phase
from .request import Throwaway, ToolResult, TurnRequest
from .settlement import answer_unasked, next_call, settle_request
from .state import Failed, TurnState
from .upstream import (
    ClientDisconnected,
    Gone,
    Interrupted,
    PastRun,
    Refused,
    RunEnd,
    RunFailed,
    RunRef,
    RunRequest,
    RunStopped,
    Script,
    Wait,
)

#: Of an answer that no model was asked for.
_NO_TOKENS: Final = Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0)

#: Tells what an earlier turn for the same request has left.
RecallEarlier: TypeAlias = Callable[[], RunRef | None]


def nothing_earlier() -> None:
    """There was none."""


@define
class TurnScript:
    """One turn, from the question which agent is meant to the last of the cleaning.

    :param recall_earlier: asked once the thread is taken: until then such a turn may have it.
    """

    state: TurnState
    recall_earlier: RecallEarlier = nothing_earlier
    _approval_count: int = field(default=0, init=False)  #: how often the turn answered for a human
    _was_refused: bool = field(default=False, init=False)  #: no refusal is settled any more
    _asked_again: bool = field(default=False, init=False)  #: for a reply of another form
    _matching: MatchScript = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._matching = MatchScript(self.state)

    def converse(self) -> Script[None]:
        """The whole story."""
        end = Phase.DONE
        try:
            yield from self._take_turn()
        except ClientDisconnected:
            pass
        except Interrupted as why:
            end = self.state.fail(why.error, self.state.kept_before)
        except Failed as failed:
            end = self.state.fail(failed.error, failed.kept)
        except SansioLettaError as error:
            # What was kept of an earlier turn is not known while it is looked into.
            end = self.state.fail(error, Kept.UNKNOWN if self.state.phase is Phase.REVIEWING else Kept.NOTHING)
        # Not in a `finally`: a turn that is dropped closes its script, which must not yield then.
        yield from self._release(is_done=end is Phase.DONE)
        self.state.move(end)

    def _take_turn(self) -> Script[None]:
        runs = RunScript(self.state)
        while True:
            try:
                yield from self._begin()
                request = yield from self._first_request()
                while request is not None:
                    end = yield from runs.read_to_end(request)
                    request = yield from self._follow_up(end)
                return
            except Gone as gone:
                self.state.check_client()
                self.state.items.append(gone.event)

    # --- Before a run -------------------------------------------------------------------------------------

    def _begin(self) -> Script[None]:
        """FINDING, QUEUED, SEARCHING: the agent and the thread, as far as they are not known."""
        upstream = self.state.upstream
        if upstream.agent is None:
            self.state.move(Phase.FINDING)
            agent = yield from upstream.resolve_agent(with_calls=self._must_look)
            self.state.items.append(AgentFound(model=self.state.request.model, agent=agent))
        if self.state.phase in (Phase.READY, Phase.FINDING):
            self.state.move(Phase.QUEUED)
            self.state.request = upstream.fit(self.state.request)
            yield from self._wait()
            upstream.recall_thread()
            yield from self._wait()
        if upstream.thread is None:
            self.state.move(Phase.SEARCHING)
            yield from upstream.open_thread()
            if upstream.is_new and self.state.request.input_as_text:
                self.state.request = self.state.request.with_results_as_text()
            yield from self._wait()

    def _wait(self) -> Script[None]:
        """Wait until the turns that came before are over, by what is known of the thread so far."""
        self.state.ticket.enter(*self.state.upstream.queue_keys)
        if self.state.ticket.is_first and not self.state.ticket.waited:
            return
        if not self.state.ticket.is_first and self.state.phase is not Phase.QUEUED:
            self.state.move(Phase.QUEUED)
        while not self.state.ticket.is_first:
            yield Wait()
        # What the agent waits for now must be looked up.
        self.state.upstream.forget_calls()

    def _first_request(self) -> Script[RunRequest | None]:
        """What the first run is started with; None if the turn has come to its end without one."""
        yield from self._matching.match()
        yield from self._wait_for_results()
        past = yield from self._review()
        if past is None:
            # Where a call is known to wait, a message sent unlooked is refused, and leaves a failed run.
            waits = self.state.request.leaves_calls or self.state.recall_waiting(self.state.thread) is not None
            if waits or self._must_look:
                yield from self._look()
                yield from self._matching.match_results()
            return self._settle()
        if past.is_complete:
            return (yield from self._follow_up(self.state.retell(past.events())))
        if past.results:
            return self._go_on_from(past)
        return (yield from self._end_with(past))

    def _wait_for_results(self) -> Script[None]:
        """Wait a while if another client's call is pending: a message would be in place of its results."""
        state, upstream = self.state, self.state.upstream
        if state.request.results or state.request.verdict is not None:
            return
        while not self._matching.is_next and (seconds := state.recall_reserved(state.thread)) > 0:
            if state.phase is not Phase.QUEUED:
                state.move(Phase.QUEUED)
            state.ticket.step_aside()
            yield Wait(seconds)
            yield from self._wait()
            upstream.forget_calls()
            yield from self._matching.match()

    def _review(self) -> Script[PastRun | None]:
        """REVIEWING: what became of an earlier turn for the same request; None if nothing of it was kept."""
        if self.state.earlier is None:
            self.state.earlier, self.recall_earlier = self.recall_earlier(), nothing_earlier
            if self.state.earlier is None and self.state.is_retry:
                self.state.earlier = self._matching.heard_in
        # What an earlier turn for a background prompt has left was deleted with its conversation.
        is_lost = self.state.upstream.is_new and isinstance(self.state.request.thread, Throwaway)
        if self.state.earlier is None or is_lost:
            return None
        self.state.took_up = True
        self.state.move(Phase.REVIEWING)
        past = yield from self.state.upstream.look_up(self.state.earlier)
        if past.has_anything:
            return past
        self.state.earlier = None
        return None

    def _end_with(self, past: PastRun) -> Script[RunRequest | None]:
        """An earlier turn for this request broke off behind the agent's last word: that is the answer."""
        events: list[Any] = list(past.kept_events())
        if not any(isinstance(event, TextDelta) for event in events):
            raise kept_failure(
                LettaError("The agent has heard this before and broke off. Send a new message to go on.")
            )
        end = RunStopped(reason=FinishReason.STOP)
        return (yield from self._follow_up(self.state.retell(iter([*events, end]))))

    def _go_on_from(self, past: PastRun) -> RunRequest:
        """An earlier turn for this request broke off: go on from what the agent has of it."""
        events: list[Any] = list(past.kept_events())
        if any(not isinstance(event, TurnStarted) for event in events):
            self.state.tell(events)
            self.state.answer.end_run()
        if past.has_input or self.state.request.verdict is not None:
            # A word of approval is no input, and was the answer to what waited then.
            self.state.request = self.state.request.without_input()
        # Results that are kept already make the agent go on from them (kept_results.jsonl).
        return RunRequest(request=self.state.request, answers=past.results, has_results=True)

    @property
    def _must_look(self) -> bool:
        """Whether the input may be an answer to what is pending, rather than something new."""
        return bool(self.state.request.results) or self.state.request.verdict is not None

    def _look(self, *, again: bool = False) -> Script[None]:
        """LOOKING: what the agent waits for."""
        if again or self.state.upstream.calls is None:
            self.state.move(Phase.LOOKING)
            yield from self.state.upstream.look_up_calls()

    def _settle(self) -> RunRequest | None:
        """Bring what is new and what waits together; None if a human or the client has to answer first."""
        request, calls = self.state.request, self.state.upstream.calls or ()
        remembered = self.state.recall_waiting(self.state.thread)
        settlement = settle_request(request, calls, self.state.approvals, remembered)
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
        self.state.tell([TurnStarted()])
        self.state.answer.count(_NO_TOKENS)
        self.state.give(
            self.state.answer.finish(RunStopped(reason=FinishReason.STOP), approval_question(calls))
        )

    def _end_calling(self, call: PendingCall, settled: CallsSettled) -> None:
        """Tell one more call of those that wait; results so far are in the client's history when it is done."""
        self._note_settled(settled)
        self.state.tell(
            [
                TurnStarted(),
                CallStarted(index=0, call_id=call.call_id, name=call.client_name or ""),
                CallArguments(index=0, fragment=call.arguments or "{}"),
            ]
        )
        self.state.answer.count(_NO_TOKENS)
        self.state.give(self.state.answer.finish(RunStopped(reason=FinishReason.TOOL_CALLS)))
        self.state.awaited_calls = tuple(call.call_id for call in self.state.upstream.calls or ())
        self.state.awaits_client = True

    def _note_settled(self, settled: CallsSettled) -> None:
        if settled != CallsSettled():
            self.state.items.append(settled)

    # --- Behind a run -------------------------------------------------------------------------------------

    def _follow_up(self, end: RunEnd | Refused) -> Script[RunRequest | None]:
        """What the next run is started with; None if the turn has come to its end."""
        match end:
            case Refused(error=error):
                if self._was_refused:
                    raise error
                return (yield from self._settle_refusal())
            case RunFailed(error=error, is_refusal=is_refusal):
                can_settle = is_refusal and not self._was_refused and not self.state.answer.has_earlier
                if can_settle and not self.state.is_detached:
                    return (yield from self._settle_refusal())
                assert self.state.run is not None
                is_kept = self.state.run.has_kept or (self.state.run.has_results and not is_refusal)
                raise Failed(error, Kept.SOMETHING if is_kept else Kept.NOTHING)
            case RunStopped() if not self.state.is_detached:
                return (yield from self._conclude(end))
        return None

    def _settle_refusal(self) -> Script[RunRequest | None]:
        """What is pending does not fit the input: look, and settle it once."""
        self._was_refused = True
        yield from self._look(again=True)
        return self._settle()

    def _conclude(self, end: RunStopped) -> Script[RunRequest | None]:
        """The run has done what it wanted: so has the turn, unless the agent is to go on."""
        self.state.answer.count(end.usage)
        may_ask = any(call.owner is not ToolOwner.DEPARTED for call in end.waiting)
        if end.waiting and not (may_ask and self.state.approvals is Approvals.ASK):
            return (yield from self._answer_unasked(end))
        self.state.give(self.state.answer.finish(end, approval_question(end.waiting) if end.waiting else None))
        if (problem := self.state.answer.problem) is not None:
            return self._ask_again(problem)
        # A call behind a stop sequence is not told: its result will not be brought.
        self.state.awaits_client = bool(end.calls) and not self.state.answer.hides_calls
        self.state.awaited_calls = end.calls if self.state.awaits_client else ()
        return None

    def _answer_unasked(self, end: RunStopped) -> Script[RunRequest | None]:
        """The run waits for approvals about which no human is asked: answer, and go on with the next run."""
        waiting = end.waiting
        self._end_run()
        if self._approval_count >= self.state.config.max_approval_count:
            # As a run that has taken too many steps; the next message settles what waits.
            self.state.give(self.state.answer.finish(evolve(end, reason=FinishReason.LENGTH)))
            return None
        self._go_on(self.state.request.without_input())
        if self.state.phase is Phase.REVIEWING:
            # It waited some time ago, and may have been answered since.
            yield from self._look(again=True)
            if {call.call_id for call in self.state.upstream.calls or ()} != {call.call_id for call in waiting}:
                raise LettaError("The agent went on meanwhile. Send a new message to hear more.")
        approve = self.state.approvals is Approvals.ALLOW
        for call in waiting if approve else ():
            if call.owner is not ToolOwner.DEPARTED:
                fragment = call.arguments or "{}"
                self.state.tell(
                    [
                        ServerToolStarted(call_id=call.call_id, name=call.name or ""),
                        ServerToolArguments(call_id=call.call_id, fragment=fragment),
                    ]
                )
        self._approval_count += 1
        answers = answer_unasked(waiting, approve=approve)
        return RunRequest(request=self.state.request, answers=answers, answered=waiting)

    def _ask_again(self, problem: str) -> RunRequest:
        """The reply is not what the client wishes: ask for it once more, and go on with the next run."""
        self._end_run()
        if self._asked_again:
            raise Failed(invalid_reply(problem), Kept.SOMETHING)
        # What it was told in an earlier turn may have gone from its sight.
        is_fresh = any(
            standing is self.state.request.reply_format for _, standing in self.state.instructions_sent
        )
        self._asked_again = True
        self._go_on(self.state.request.for_retry(problem, in_full=not is_fresh))
        return RunRequest(request=self.state.request)

    def _end_run(self) -> None:
        """The run's end is not the turn's."""
        self.state.answer.end_run()
        self.state.ended_run = self.state.run
        if self.state.interruption is not None:
            raise Failed(self.state.interruption, Kept.SOMETHING)

    def _go_on(self, request: TurnRequest) -> None:
        """The agent has the input: whatever the upstream says from now on, it is not said again."""
        self.state.request = request
        self.state.upstream.confirm()
        self._was_refused = True

    def _release(self, *, is_done: bool) -> Script[None]:
        """CLEANING: undo what was for this turn alone."""
        cleaning = self.state.upstream.release(
            awaited_calls=self.state.awaited_calls if is_done and not self.state.is_detached else (),
            left_nothing=self.state.left_nothing,
            had_turn=self.state.ticket.is_first,
        )
        if cleaning is not None:
            self.state.move(Phase.CLEANING)
            yield from cleaning
