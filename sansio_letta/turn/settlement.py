"""How everything that an agent waits for is answered: by results, by a human's decision, or without either."""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from attrs import evolve, field, frozen

from ..config import Approvals
from ..errors import RequestError, RequestField
from .agent import PendingCall, ToolOwner
from .approval import Verdict
from .events import CallsSettled
from .request import CallAnswer, Decision, ToolResult, TurnRequest

#: What the agent reads for a call that the client did not answer.
NO_RESULT: Final = "The client gave no result for this call."
#: What the agent reads for a call of the client's that has no result when a message comes: programs send
#: results as text, or take the call itself for the reply. A denial would teach the agent not to call.
NO_RESULT_YET: Final = "No result came with this call; the next message may hold it."
#: The same where the client had asked for the call and nothing else, as programs do that extract data.
TAKEN: Final = (
    "The user's program has taken this call. If there is more to say of it, the next message says it."
)
#: What the agent reads for a tool of its own that waited for the user when the user wrote of other things.
MOVED_ON: Final = "The user sent a new message and did not allow this call."
#: What the agent reads for a tool of its own that the user denied without a reason.
DENIED: Final = "The user denied this call."
#: What the agent reads for a call of a tool that another client has offered, or the same one before.
NO_CLIENT: Final = "No client offers this tool now."
#: What the agent reads for a tool of its own that nobody allowed.
NOT_ALLOWED: Final = "Nobody allowed this call."


#: What stands in the thread for a result that had not come: it may come yet.
PLACEHOLDERS: Final = frozenset({NO_RESULT, NO_RESULT_YET, TAKEN})


@frozen(kw_only=True)
class Waiting:
    """Calls of a client's tools that a thread's last turn ended with.

    :param is_forced: the client had asked for them: it may take them for the whole reply.
    """

    is_forced: bool


@frozen(kw_only=True)
class Settlement:
    """How to answer everything that is pending, at once: a part would be refused (parallel_partial.jsonl)."""

    answers: tuple[CallAnswer, ...] = ()
    calls: CallsSettled = field(factory=CallsSettled)
    undecided: tuple[PendingCall, ...] = ()  #: a human must be asked about these before anything is sent
    is_verdict: bool = False  #: the user's message was the answer to a question: the agent does not get it


def match_results(results: Sequence[CallAnswer], calls: Iterable[PendingCall]) -> tuple[CallAnswer, ...] | None:
    """Give results the ids of the calls that wait for them, where the client has made ids of its own.

    They are matched by their order, and by the names of their tools as far as these are known.

    :return: None if they do not fit.
    """
    waiting = [call for call in calls if call.owner is ToolOwner.CLIENT]
    if not results or len(waiting) != len(results):
        return None
    pairs = list(zip(results, waiting, strict=True))
    for result, call in pairs:
        name = result.name if isinstance(result, ToolResult) else None
        if name is not None and name not in (call.name, call.client_name):
            return None
    return tuple(evolve(result, call_id=call.call_id) for result, call in pairs)


def settle_request(
    request: TurnRequest, calls: Iterable[PendingCall], policy: Approvals, waiting: Waiting | None = None
) -> Settlement:
    """Bring a request and what waits for an answer together.

    :param policy: what becomes of calls that a human must allow.
    :param waiting: what is remembered of calls that wait.
    :raises RequestError: if nothing waits for what the client brought.
    """
    settlement = settle(
        calls,
        request.results,
        has_message=bool(request.messages),
        past_results=request.past_results,
        verdict=request.verdict,
        policy=policy,
        # A client that forces a call again has taken the one before; so it is after a restart, too.
        is_taken=request.forces_call or (waiting is not None and waiting.is_forced),
    )
    if not settlement.undecided and not settlement.answers and not request.messages:
        raise RequestError(
            "The agent waits for none of these results: the calls were answered before, or its run has "
            "ended. Send a new user message to go on.",
            field=RequestField.INPUT,
        )
    return settlement


def settle(
    calls: Iterable[PendingCall],
    results: Iterable[CallAnswer],
    *,
    has_message: bool,
    past_results: Iterable[CallAnswer] = (),
    verdict: Verdict | None = None,
    policy: Approvals = Approvals.ASK,
    is_taken: bool = False,
) -> Settlement:
    """Bring what the agent waits for and what the client brought together.

    :param calls: the agent's pending calls.
    :param results: what the client brought, each for one call.
    :param has_message: whether the user wrote something new, too.
    :param past_results: older ones in the client's history. They count if their calls still wait: a human was
        asked about other calls of the same step.
    :param verdict: what the user's message says about the agent's own calls.
    :param policy: what becomes of the agent's own calls without one.
    :param is_taken: whether the client's calls were asked for, and are all that it wanted.
    """
    wanted, brought = tuple(calls), tuple(results)
    given: dict[str, CallAnswer] = {result.call_id: result for result in (*past_results, *brought)}
    pending_ids = {call.call_id for call in wanted}
    stale = tuple(result.call_id for result in brought if result.call_id not in pending_ids)
    unanswered = tuple(call for call in wanted if call.call_id not in given)
    agents = tuple(call for call in unanswered if call.owner is ToolOwner.AGENT)
    if verdict is not None and agents and not (verdict.approve and policy is Approvals.DENY):
        if verdict.is_on(agents):
            return Settlement(
                answers=tuple(
                    given.get(call.call_id) or (_judged(call, verdict) if call in agents else _no_result(call))
                    for call in wanted
                ),
                calls=CallsSettled(
                    missing=_ids(call for call in unanswered if call not in agents),
                    stale=stale,
                    denied=() if verdict.approve else _ids(agents),
                ),
                is_verdict=True,
            )
        if verdict.approve:
            return Settlement(undecided=agents, calls=CallsSettled(stale=stale))
    if len(unanswered) < len(wanted):
        if agents and policy is Approvals.ASK and not has_message:
            return Settlement(undecided=agents, calls=CallsSettled(stale=stale))
        allows = policy is Approvals.ALLOW
        return Settlement(
            answers=tuple(
                given.get(call.call_id) or _missing(call, call in agents, allows=allows) for call in wanted
            ),
            calls=CallsSettled(
                missing=_ids(call for call in unanswered if not (allows and call in agents)), stale=stale
            ),
        )
    if has_message and wanted:
        text = TAKEN if is_taken else NO_RESULT_YET
        return Settlement(
            answers=tuple(
                _denial(call, MOVED_ON) if call in agents else ToolResult(call_id=call.call_id, content=text)
                for call in wanted
            ),
            calls=CallsSettled(denied=_ids(wanted), stale=stale),
        )
    return Settlement(calls=CallsSettled(stale=stale))


def _ids(calls: Iterable[PendingCall]) -> tuple[str, ...]:
    return tuple(call.call_id for call in calls)


def next_call(calls: Iterable[PendingCall], answered: Collection[str]) -> PendingCall | None:
    """Of calls that the client takes one at a time the one that comes next; None: it has had them all.

    It has had those before one that it has answered: a result that is gone from its history repeats no call.

    :param answered: ids of calls whose results it has brought, now or before.
    """
    own = [call for call in calls if call.owner is ToolOwner.CLIENT]
    places = [place for place, call in enumerate(own) if call.call_id in answered]
    return own[places[-1] + 1] if places and places[-1] + 1 < len(own) else None


def answer_unasked(calls: Iterable[PendingCall], *, approve: bool) -> tuple[CallAnswer, ...]:
    """The answer to calls about which no human is asked. A departed client's tool is never carried out."""
    return tuple(
        Decision(call_id=call.call_id, approve=True)
        if approve and call.owner is not ToolOwner.DEPARTED
        else _denial(call, NO_CLIENT if call.owner is ToolOwner.DEPARTED else NOT_ALLOWED)
        for call in calls
    )


def _missing(call: PendingCall, is_agents: bool, *, allows: bool) -> CallAnswer:
    return answer_unasked((call,), approve=allows)[0] if is_agents else _no_result(call)


def _no_result(call: PendingCall) -> ToolResult:
    return ToolResult(call_id=call.call_id, content=NO_RESULT, is_error=True)


def _judged(call: PendingCall, verdict: Verdict) -> Decision:
    if verdict.approve:
        return Decision(call_id=call.call_id, approve=True)
    return _denial(call, verdict.reason or DENIED)


def _denial(call: PendingCall, reason: str) -> Decision:
    return Decision(call_id=call.call_id, approve=False, reason=reason)
