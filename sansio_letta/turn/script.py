"""The conversation of a turn with its upstream, from top to bottom.

`TurnScript.converse` is the outline; each method below it is a part of it. A method yields what it waits for,
and undoes its own work if the turn is interrupted there. The phases are explained in `phases`.

If anything was stored by the upstream, or may have been, a failure becomes a `kept_failure`: no response may
invite a retry that the agent would receive as a second message.
"""

from collections.abc import Callable, Iterable
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
from .request import CallAnswer, Throwaway, ToolResult, TurnRequest
from .settlement import answer_automatically, is_substitute, next_call, settle_request
from .state import Failed, TurnState
from .upstream import (
    ClientDisconnected,
    Gone,
    Interrupted,
    PastRun,
    Pause,
    Refused,
    RunEnd,
    RunFailed,
    RunRef,
    RunRequest,
    RunStopped,
    Script,
    Wait,
)

#: For an answer without a model's involvement.
_NO_TOKENS: Final = Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0)

#: Returns the run of an earlier turn for the same request.
RecallEarlier: TypeAlias = Callable[[], RunRef | None]


def nothing_earlier() -> None:
    """Return None: there was no earlier turn."""


def _was_decision(request: TurnRequest, answers: Iterable[CallAnswer]) -> bool:
    """Whether the message was the answer to calls that waited for approval. It is not stored as input then.

    Otherwise the calls were the client's, and there are its results or substitutes for them.

    :param answers: what the agent has got for the calls.
    """
    brought = {result.call_id for result in (*request.past_results, *request.results)}
    return request.verdict is not None and any(
        answer.call_id not in brought and not is_substitute(answer) for answer in answers
    )


def _overtaken() -> LettaError:
    """Others have spoken to the agent since, through another process."""
    return LettaError("The agent went on meanwhile. Send a new message to hear more.")


@define
class TurnScript:
    """One turn, from resolving the agent to the end of the clean-up.

    :param recall_earlier: called once the turn may start; until then, that turn may still be running.
    """

    state: TurnState
    recall_earlier: RecallEarlier = nothing_earlier
    _approval_count: int = field(default=0, init=False)  #: how often pending calls were answered automatically
    _was_refused: bool = field(default=False, init=False)  #: no other refusal will be settled
    _has_retried: bool = field(default=False, init=False)  #: for a reply in the required format
    _matching: MatchScript = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._matching = MatchScript(self.state)

    def converse(self) -> Script[None]:
        """Hold the whole conversation."""
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
            # While an earlier turn is being looked up, it is unknown what it has stored.
            end = self.state.fail(error, Kept.UNKNOWN if self.state.phase is Phase.REVIEWING else Kept.NOTHING)
        # Not in a `finally`: when an unfinished turn is discarded, its script is closed, and must not yield.
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
        """FINDING, QUEUED, SEARCHING: find the agent and the thread, as far as they are unknown."""
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
        """Wait in the queues of what is known of the thread so far."""
        self.state.ticket.enter(*self.state.upstream.queue_keys)
        if self.state.ticket.is_first and not self.state.ticket.waited:
            return
        if not self.state.ticket.is_first and self.state.phase is not Phase.QUEUED:
            self.state.move(Phase.QUEUED)
        while not self.state.ticket.is_first:
            yield Wait()
        # Which calls are pending must be looked up again.
        self.state.upstream.forget_calls()

    def _first_request(self) -> Script[RunRequest | None]:
        """Return the input of the first run; None if the turn ends without one."""
        if (seconds := self.state.recall_cancelled(self.state.thread)) > 0:
            # What a cancelled run may still store is neither repeated nor overtaken.
            yield Pause(seconds=seconds)
            self.state.upstream.forget_calls()
        yield from self._matching.match(has_earlier=self.recall_earlier() is not None)
        yield from self._wait_for_results()
        past = yield from self._review()
        # If calls are pending, a message is refused and leaves a failed run, so they are looked up first.
        waits = self.state.request.leaves_calls or self.state.recall_waiting(self.state.thread) is not None
        if past is None and (waits or self._must_look):
            yield from self._look()
            yield from self._matching.match_results()
            if (ref := self._matching.results_in) is not None:
                self.state.earlier = ref
                past = yield from self._review()
        if past is None:
            yield from self._matching.tell_unheard()
            if self._matching.can_replace:
                yield from self._look()
            return self._matching.replace_reply() or self._settle()
        if past.is_complete:
            return (yield from self._follow_up(self.state.add_rest(past.events())))
        if past.results and self.state.recall_waiting(self.state.thread) is not None:
            yield from self._look(again=True)
        if past.results and not self.state.upstream.calls:
            return self._continue_from(past)
        if past.results and not past.has_input:
            # The agent has made other calls since. It has the results; the message is new.
            self.state.earlier = None
            return self._settle()
        if past.can_continue:
            return self._continue_from(past)
        return (yield from self._end_with(past))

    def _wait_for_results(self) -> Script[None]:
        """QUEUED: wait for the results of another client's call, in whose place a message would be."""
        state, upstream = self.state, self.state.upstream
        if state.request.results or state.request.verdict is not None:
            return
        while not self._matching.is_next and (seconds := state.recall_reserved(state.thread)) > 0:
            if state.phase is not Phase.QUEUED:
                state.move(Phase.QUEUED)
            state.ticket.step_aside()
            while state.ticket.is_aside and seconds > 0:
                yield Wait(seconds)
                seconds = state.recall_reserved(state.thread)
            yield from self._wait()
            upstream.forget_calls()
            yield from self._matching.match(has_earlier=self.recall_earlier() is not None)

    def _review(self) -> Script[PastRun | None]:
        """REVIEWING: look up an earlier turn for the same request; None if none of it was stored."""
        if self.state.earlier is None:
            self.state.earlier, self.recall_earlier = self.recall_earlier(), nothing_earlier
            if self.state.earlier is None and self._matching.is_repeat:
                self.state.earlier = self._matching.heard_in
        # An earlier turn for a background prompt was deleted with its conversation.
        is_lost = self.state.upstream.is_new and isinstance(self.state.request.thread, Throwaway)
        if self.state.earlier is None or is_lost:
            return None
        self.state.reviewed_earlier = True
        self.state.move(Phase.REVIEWING)
        past = yield from self.state.upstream.look_up(self.state.earlier)
        if past.has_anything:
            return past
        self.state.earlier = None
        return None

    def _end_with(self, past: PastRun) -> Script[RunRequest | None]:
        """End with an earlier turn for this request that broke off after the agent's last word."""
        events: list[Any] = list(past.kept_events())
        if not any(isinstance(event, TextDelta) for event in events):
            raise kept_failure(
                LettaError("The agent has heard this before and broke off. Send a new message to go on.")
            )
        end = RunStopped(reason=FinishReason.STOP)
        return (yield from self._follow_up(self.state.add_rest(iter([*events, end]))))

    def _continue_from(self, past: PastRun) -> RunRequest:
        """Continue an earlier turn for this request that broke off, from what the agent has of it."""
        events: list[Any] = list(past.kept_events())
        if any(not isinstance(event, TurnStarted) for event in events):
            self.state.add(events)
            self.state.answer.end_run()
        if past.can_continue:
            return RunRequest(request=self.state.request.without_input())
        if past.has_input or _was_decision(self.state.request, past.results):
            self.state.request = self.state.request.without_input()
        # If results are sent that are stored already, the agent continues from them (kept_results.jsonl).
        return RunRequest(request=self.state.request, answers=past.results, has_results=True)

    @property
    def _continues(self) -> bool:
        """Whether the run continues an earlier turn all of whose input was stored."""
        is_first = not self._was_refused
        return is_first and self.state.earlier is not None and not self.state.request.messages

    @property
    def _must_look(self) -> bool:
        """Whether the input may be an answer to pending calls."""
        return bool(self.state.request.results) or self.state.request.verdict is not None

    def _look(self, *, again: bool = False) -> Script[None]:
        """LOOKING: look up the pending calls."""
        if again or self.state.upstream.calls is None:
            self.state.move(Phase.LOOKING)
            yield from self.state.upstream.look_up_calls()

    def _settle(self) -> RunRequest | None:
        """Settle the pending calls; None if a human or the client must answer first."""
        request, calls = self.state.request, self.state.upstream.calls or ()
        remembered = self.state.recall_waiting(self.state.thread)
        settlement = settle_request(request, calls, self.state.approvals, remembered)
        brought = {result.call_id for result in (*request.past_results, *request.results)}
        if request.one_call and not request.messages and (call := next_call(calls, brought)) is not None:
            self._send_call(call, CallsSettled(stale=settlement.calls.stale))
            return None
        self._note_settled(settlement.calls)
        if settlement.undecided:
            # The client's results are in its history when the answer comes.
            self._ask_human(settlement.undecided)
            return None
        return RunRequest(
            request=request,
            answers=settlement.answers,
            answered=calls,
            # A substitute for a result need not be sent again.
            has_results=any(
                isinstance(answer, ToolResult) and answer.call_id in brought for answer in settlement.answers
            ),
            is_verdict=settlement.is_verdict,
        )

    def _ask_human(self, calls: tuple[PendingCall, ...]) -> None:
        """End the turn with a question for a human."""
        self.state.add([TurnStarted()])
        self.state.answer.count(_NO_TOKENS)
        self.state.send(
            self.state.answer.finish(RunStopped(reason=FinishReason.STOP), approval_question(calls))
        )

    def _send_call(self, call: PendingCall, settled: CallsSettled) -> None:
        """End the turn with the next pending call; the client's history keeps the results so far."""
        self._note_settled(settled)
        self.state.add(
            [
                TurnStarted(),
                CallStarted(index=0, call_id=call.call_id, name=call.client_name or ""),
                CallArguments(index=0, fragment=call.arguments or "{}"),
            ]
        )
        self.state.answer.count(_NO_TOKENS)
        self.state.send(self.state.answer.finish(RunStopped(reason=FinishReason.TOOL_CALLS)))
        self.state.awaited_calls = tuple(call.call_id for call in self.state.upstream.calls or ())
        self.state.awaits_client = True

    def _note_settled(self, settled: CallsSettled) -> None:
        if settled != CallsSettled():
            self.state.items.append(settled)

    # --- After a run --------------------------------------------------------------------------------------

    def _follow_up(self, end: RunEnd | Refused) -> Script[RunRequest | None]:
        """Return the input of the next run; None if the turn is over."""
        match end:
            case Refused() | RunFailed(is_refusal=True) if self._continues:
                raise Failed(_overtaken(), Kept.SOMETHING)
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
        """Look up and settle the calls because of which the input was refused, once."""
        self._was_refused = True
        yield from self._look(again=True)
        return self._settle()

    def _conclude(self, end: RunStopped) -> Script[RunRequest | None]:
        """End the turn with this run, unless the agent must continue."""
        self.state.answer.count(end.usage)
        may_ask = any(call.owner is not ToolOwner.DEPARTED for call in end.waiting)
        if end.waiting and not (may_ask and self.state.approvals is Approvals.ASK):
            return (yield from self._answer_automatically(end))
        self.state.send(self.state.answer.finish(end, approval_question(end.waiting) if end.waiting else None))
        if (problem := self.state.answer.problem) is not None:
            return self._retry_reply(problem)
        # A call after a stop sequence is not sent, so its result will not come.
        self.state.awaits_client = bool(end.calls) and not self.state.answer.hides_calls
        self.state.awaited_calls = end.calls if self.state.awaits_client else ()
        return None

    def _answer_automatically(self, end: RunStopped) -> Script[RunRequest | None]:
        """Answer the calls of a run about which no human is asked, and continue with the next run."""
        waiting = end.waiting
        self._end_run()
        if self._approval_count >= self.state.config.max_approval_count:
            # As for a run that took too many steps. The next message settles the pending calls.
            self.state.send(self.state.answer.finish(evolve(end, reason=FinishReason.LENGTH)))
            return None
        self._continue_with(self.state.request.without_input())
        if self.state.phase is Phase.REVIEWING:
            # The calls were pending some time ago, and may have been answered since.
            yield from self._look(again=True)
            if {call.call_id for call in self.state.upstream.calls or ()} != {call.call_id for call in waiting}:
                raise _overtaken()
        approve = self.state.approvals is Approvals.ALLOW
        for call in waiting if approve else ():
            if call.owner is not ToolOwner.DEPARTED:
                fragment = call.arguments or "{}"
                self.state.add(
                    [
                        ServerToolStarted(call_id=call.call_id, name=call.name or ""),
                        ServerToolArguments(call_id=call.call_id, fragment=fragment),
                    ]
                )
        self._approval_count += 1
        answers = answer_automatically(waiting, approve=approve)
        return RunRequest(request=self.state.request, answers=answers, answered=waiting)

    def _retry_reply(self, problem: str) -> RunRequest:
        """Ask once more for a reply in the required format, and continue with the next run."""
        self._end_run()
        if self._has_retried:
            raise Failed(invalid_reply(problem), Kept.SOMETHING)
        # A schema from an earlier turn may no longer be in the agent's context.
        is_fresh = any(
            standing is self.state.request.reply_format for _, standing in self.state.instructions_sent
        )
        self._has_retried = True
        self._continue_with(self.state.request.for_retry(problem, in_full=not is_fresh))
        return RunRequest(request=self.state.request)

    def _end_run(self) -> None:
        """Note that another run continues this one."""
        self.state.answer.end_run()
        self.state.ended_run = self.state.run
        if self.state.interruption is not None:
            raise Failed(self.state.interruption, Kept.SOMETHING)

    def _continue_with(self, request: TurnRequest) -> None:
        """Continue with this request: the agent has the input, which is not sent again whatever happens."""
        self.state.request = request
        self.state.upstream.confirm()
        self._was_refused = True

    def _release(self, *, is_done: bool) -> Script[None]:
        """CLEANING: undo what was created for this turn alone."""
        cleaning = self.state.upstream.release(
            awaited_calls=self.state.awaited_calls if is_done and not self.state.is_detached else (),
            left_nothing=self.state.left_nothing,
            had_turn=self.state.ticket.is_first,
        )
        if cleaning is not None:
            self.state.move(Phase.CLEANING)
            yield from cleaning
