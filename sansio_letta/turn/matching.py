"""What of the client's transcript is new to the agent: found before a run, by what its thread has heard.

What the process remembers is enough in the ordinary case. The thread is looked up where nothing is remembered
of it, and where the memory says that the agent has not heard something: others may have said it meanwhile.
"""

from collections.abc import Collection, Iterable, Sequence

from attrs import define, evolve, field

from ..config import InstructionPolicy
from .events import CallsSettled, InputMatched, Matched
from .ledger import Heard, Role, ThreadKnowledge, late_result, result_digest
from .new_input import Basis, NewInput, ends_with_attempt, find_new, find_unheard, needs_lookup
from .phases import Phase
from .request import CallAnswer, SystemMessage, ToolResult
from .settlement import match_results
from .state import TurnState
from .upstream import RunRef, RunRequest, Script


@define
class MatchScript:
    """Brings the client's transcript and the agent's thread together."""

    state: TurnState
    heard_in: RunRef | None = field(default=None, init=False)  #: the run whose input the request repeats
    results_in: RunRef | None = field(default=None, init=False)  #: the run that was given the same results
    is_next: bool = field(default=True, init=False)  #: the client has said what the thread has heard last
    is_repeat: bool = field(default=False, init=False)  #: the request was sent before, its answer not received
    repeats_last: bool = field(default=False, init=False)
    """The request only repeats the last message that the thread has heard, for another answer."""
    _told: tuple[SystemMessage, ...] = field(default=(), init=False)  #: results that came late
    _new: NewInput | None = field(default=None, init=False)
    _heard: Heard | None = field(default=None, init=False)  #: what the new input was found with

    def match(self, *, has_earlier: bool) -> Script[None]:
        """MATCHING: find the new input.

        :param has_earlier: whether the process knows an earlier turn for the same request.
        """
        state, request = self.state, self.state.request
        if not request.transcript:
            return
        can_look = state.config.lookback_count > 0
        known, heard = state.recall_heard(state.thread), state.upstream.heard
        is_fresh = heard is not None
        if heard is None:
            heard = known.heard
        self.is_repeat = state.is_retry or (
            ends_with_attempt(request.transcript, known.attempts, known.lost) and not has_earlier
        )
        # Beside results, too, where it is not known whether a message before them was stored.
        must_look = needs_lookup(request.transcript) or (len(request.transcript) > 1 and bool(known.attempts))
        if heard is None and can_look and (self.is_repeat or must_look):
            heard, is_fresh = (yield from self._look_up()), True
        new, late = find_new(request.transcript, heard, known.attempts, known.lost), self._late(known, heard)
        if can_look and heard is not None and not is_fresh and (late or self._is_doubtful(new, known)):
            heard = yield from self._look_up()
            is_fresh = True
            new, late = (
                find_new(request.transcript, heard, known.attempts, known.lost),
                self._late(known, heard),
            )
        instructions = known.instructions
        if is_fresh and heard is not None and not instructions.digests:
            instructions = heard.instructions
        request = request.without_results({result.call_id for result in new.old_results})
        in_front = tuple(message for message in new.in_front if not instructions.has(message))
        request = request.with_new_input(new.earlier, (*in_front, *new.messages), instructions)
        self._told = tuple(late_result(result, is_own=True) for result in late)
        state.request = request.with_late_results(self._told, {result.call_id for result in late})
        self._new, self._heard = new, heard
        self.is_next, self.heard_in = heard is None or new.is_next, new.run
        if heard is not None and not new.messages:
            self.heard_in = heard.run_with_results([result.call_id for result in request.results])
        if late:
            state.items.append(CallsSettled(stale=tuple(result.call_id for result in late)))
        # A client without a history may want to say the same once more, unless there was no answer.
        shows_more = len(request.transcript) > 1 or (is_fresh and heard is not None and _is_unanswered(heard))
        self.repeats_last = new.is_said_again and new.is_next and not late and shows_more
        is_answered = self.is_repeat and self.heard_in is not None
        if not is_answered and not self.can_replace and (how := _difference(new)) is not None:
            state.items.append(InputMatched(how=how))

    @property
    def can_replace(self) -> bool:
        """Whether the last reply can be replaced instead, so that nothing is said again."""
        agent, given = self.state.upstream.agent, self.state.request.instructions
        continues = agent is not None and agent.capabilities.continues
        is_told = given is None or given.policy is not InstructionPolicy.ONCE or not given.new
        return self.repeats_last and continues and is_told

    def replace_reply(self) -> RunRequest | None:
        """Return a run that replaces the last reply; None if the message is to be sent.

        That is also so if calls wait, which a run without any input would not answer.
        """
        if self.can_replace and not self.state.upstream.calls:
            return RunRequest(request=self.state.request.without_input())
        if self.can_replace:
            self.state.items.append(InputMatched(how=Matched.REPEATED))
        return None

    def _late(self, known: ThreadKnowledge, heard: Heard | None) -> Sequence[ToolResult]:
        """Results of calls that were answered without them, and that the agent has not had since."""
        unanswered = set(known.unanswered)
        if heard is not None:
            unanswered = (unanswered - heard.waiting) | heard.unanswered
        if not unanswered:
            return []
        return [
            item
            for item in self.state.request.transcript
            if isinstance(item, ToolResult)
            and item.call_id in unanswered
            and not (heard is not None and heard.has_result(item.call_id))
        ]

    def _is_doubtful(self, new: NewInput, known: ThreadKnowledge) -> bool:
        """Whether what is remembered does not suffice: others may have said what is not."""
        transcript = self.state.request.transcript
        if self.is_repeat or (new.basis is Basis.TAIL and needs_lookup(transcript)):
            return True
        # A first message that comes again is found among the turns, not in the thread.
        return len(transcript) > 1 and new.is_doubtful(known.attempts)

    def match_results(self) -> Script[None]:
        """Find out what results are of whose calls do not wait.

        The client may have made ids of its own, may bring them late, or another model may have made the calls.
        """
        state, request = self.state, self.state.request
        calls = state.upstream.calls or ()
        pending = {call.call_id for call in calls}
        strange = [result for result in request.results if result.call_id not in pending]
        if not strange or not request.transcript:
            return
        shown = {item.call_id: item for item in request.transcript if isinstance(item, ToolResult)}
        # A call whose result the client shows elsewhere gets that one.
        waiting = tuple(call for call in calls if call.call_id not in shown)
        heard, can_look = state.upstream.heard, state.config.lookback_count > 0
        if heard is None and can_look and not self._is_left(pending, strange):
            heard = yield from self._look_up()
            self.is_next = find_new(request.transcript, heard).is_next
        # Calls that another client's message has led to wait for that client. The result of an earlier call of
        # the agent's is not that of a later one.
        is_own = heard is not None and heard.has_call({result.call_id for result in strange})
        if len(strange) == len(request.results) and self.is_next and not is_own:
            named = [shown.get(result.call_id, result) for result in request.results]
            if (matched := match_results(named, waiting)) is not None:
                state.request = evolve(request, results=matched)
                state.items.append(CallsSettled(stale=tuple(result.call_id for result in strange)))
                return
        if not can_look:
            return
        if heard is None:
            heard = yield from self._look_up()
        unanswered = heard.unanswered
        late = tuple(
            late_result(result, is_own=result.call_id in unanswered)
            for result in (shown[each.call_id] for each in strange)
            # Of calls without a name the client shows no call; they may be older than what was listed.
            if not heard.has_result(result.call_id)
            and (result.name is not None or result.call_id in unanswered)
        )
        if not late:
            if not calls and not request.messages:
                self.results_in = heard.run_with_results([result.call_id for result in request.results])
            return
        if any(result.call_id not in unanswered for result in strange):
            # To another model, and what led to it may have been said to that one alone.
            known = state.recall_heard(state.thread)
            new = find_new(request.transcript, heard, known.attempts, known.lost)
            instructions = known.instructions if known.instructions.digests else heard.instructions
            request = request.with_new_input(new.earlier, new.messages, instructions)
            late = (*self._told, *late)
        state.request = request.with_late_results(late, {result.call_id for result in strange})
        state.items.append(CallsSettled(stale=tuple(result.call_id for result in strange)))

    def _is_left(self, pending: Collection[str], strange: Iterable[CallAnswer]) -> bool:
        """Whether the pending calls are those that this process has left last, and their results have not come.

        :param pending: ids of the calls.
        :param strange: results of other calls.
        """
        state = self.state
        known, left = state.recall_heard(state.thread), state.recall_waiting(state.thread)
        if not self.is_next or known.heard is None or left is None or not left.call_ids.issuperset(pending):
            return False
        return not any(result_digest(result.call_id) in known.results for result in strange)

    def tell_unheard(self) -> Script[None]:
        """MATCHING: tell the results that the client shows in answers of the agent and that it has not had.

        Their calls are the client's own, as those of tools that run in the background.
        """
        state, new, heard = self.state, self._new, self._heard
        if new is None or not new.results or state.config.lookback_count == 0:
            return
        known, transcript = state.recall_heard(state.thread), state.request.transcript
        shown = {item.call_id for item in transcript if isinstance(item, ToolResult)}
        pending = {call.call_id for call in state.upstream.calls or ()}
        told = set(known.results)

        def find(new: NewInput, heard: Heard) -> list[ToolResult]:
            results = find_unheard(new, shown, heard, told, state.upstream.client_name)
            return [result for result in results if result.call_id not in pending]

        unheard = find(new, heard or Heard())
        if unheard and (heard is None or heard is not state.upstream.heard):
            heard = state.upstream.heard or (yield from self._look_up())
            new = find_new(transcript, heard, known.attempts, known.lost)
            unheard = find(new, heard)
        if not unheard or new.after is None:
            return
        messages = tuple(late_result(result, is_own=False) for result in unheard)
        stale = tuple(result.call_id for result in unheard)
        state.request = state.request.with_late_results(messages, stale)
        state.items.append(CallsSettled(stale=stale))

    def _look_up(self) -> Script[Heard]:
        self.state.move(Phase.MATCHING)
        yield from self.state.upstream.look_up_heard()
        heard = self.state.upstream.heard
        assert heard is not None
        return heard


def _is_unanswered(heard: Heard) -> bool:
    """Whether the thread ends with a message that the agent has not answered."""
    return bool(heard.messages) and heard.messages[-1].role is Role.USER


def _difference(new: NewInput) -> Matched | None:
    if new.is_said_again:
        return Matched.REPEATED
    if new.is_edited:
        return Matched.EDITED
    return Matched.CAUGHT_UP if new.earlier and new.basis is not Basis.BLANK else None
