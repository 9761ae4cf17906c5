"""Settlement of pending calls: each is answered by a result, by a human's decision, or automatically."""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from attrs import evolve, field, frozen

from ..config import Approvals
from ..errors import RequestError, RequestField
from .agent import PendingCall, ToolOwner
from .approval import Verdict
from .events import CallsSettled
from .request import CallAnswer, Decision, ToolResult, TurnRequest, content_text

#: The result of a call for which the client sent none.
NO_RESULT: Final = "The client gave no result for this call."
#: The result of a client's call if a message comes instead of a result: programs send results as text, or take
#: the call itself for the reply. A denial would teach the agent not to call.
NO_RESULT_YET: Final = "No result came with this call; the next message may hold it."
#: The same if the client had required a call and wants nothing else, as programs do that extract data.
TAKEN: Final = (
    "The user's program has taken this call. If there is more to say of it, the next message says it."
)
#: The reason for a denial if the user was asked and wrote about something else.
MOVED_ON: Final = "The user sent a new message and did not allow this call."
#: The reason for a denial if the user gave none.
DENIED: Final = "The user denied this call."
#: The reason for a denial if the tool is another client's, or this client no longer offers it.
NO_CLIENT: Final = "No client offers this tool now."
#: The reason for a denial if no human was asked.
NOT_ALLOWED: Final = "Nobody allowed this call."


#: What stands in the thread for a result that had not come: it may come yet.
PLACEHOLDERS: Final = frozenset({NO_RESULT, NO_RESULT_YET, TAKEN})


def is_substitute(answer: CallAnswer) -> bool:
    """Whether it stands for an answer that had not come, since the user wrote about something else."""
    if isinstance(answer, Decision):
        return not answer.approve and answer.reason == MOVED_ON
    text = content_text(answer.content)
    # A denial is stored as a result that quotes the reason.
    return text in PLACEHOLDERS or MOVED_ON in text


@frozen(kw_only=True)
class Waiting:
    """Pending calls of a client's tools with which a thread's last turn ended.

    :param is_forced: whether the client had required a call, so that it may take these for the whole reply.
    :param call_ids: those of the calls.
    """

    is_forced: bool
    call_ids: frozenset[str] = frozenset()


@frozen(kw_only=True)
class Settlement:
    """The answers to all pending calls. They must be sent together (parallel_partial.jsonl)."""

    answers: tuple[CallAnswer, ...] = ()
    calls: CallsSettled = field(factory=CallsSettled)
    undecided: tuple[PendingCall, ...] = ()  #: calls that a human must decide before anything is sent
    is_verdict: bool = False  #: the user's message was a decision, and is not sent to the agent


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
    """Settle the pending calls for a request.

    :param policy: for calls that need a human's approval.
    :param waiting: what is remembered of the pending calls.
    :raises RequestError: if no call is pending for the client's results.
    """
    settlement = settle(
        calls,
        request.results,
        has_message=bool(request.messages),
        past_results=request.past_results,
        verdict=request.verdict,
        policy=policy,
        # A client that requires a call again has taken the one before. This works after a restart, too.
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
    """Match pending calls with the client's results.

    :param calls: the agent's pending calls.
    :param results: of the client, one for each call.
    :param has_message: whether there is a new message of the user as well.
    :param past_results: results in the client's history. They count if their calls are still pending, because a
        human was asked about other calls of the same step.
    :param verdict: the user's decision about calls of the agent's own tools.
    :param policy: for these calls if there is no decision.
    :param is_taken: whether the client required its calls, and wants nothing else.
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
    """Return the next call for a client that accepts one at a time; None if it has had them all.

    It has had every call before one that it has answered, even if its history no longer contains the result.

    :param answered: ids of calls whose results the client has sent, now or before.
    """
    own = [call for call in calls if call.owner is ToolOwner.CLIENT]
    places = [place for place, call in enumerate(own) if call.call_id in answered]
    return own[places[-1] + 1] if places and places[-1] + 1 < len(own) else None


def answer_automatically(calls: Iterable[PendingCall], *, approve: bool) -> tuple[CallAnswer, ...]:
    """Answer calls about which no human is asked. A call of a departed client's tool is always denied."""
    return tuple(
        Decision(call_id=call.call_id, approve=True)
        if approve and call.owner is not ToolOwner.DEPARTED
        else _denial(call, NO_CLIENT if call.owner is ToolOwner.DEPARTED else NOT_ALLOWED)
        for call in calls
    )


def answer_abandoned(calls: Iterable[PendingCall]) -> tuple[CallAnswer, ...]:
    """Answer calls whose clients are gone: a call of a client's tool gets no result, one of the agent's own is
    denied."""
    return tuple(
        _denial(call, NOT_ALLOWED) if call.owner is ToolOwner.AGENT else _no_result(call) for call in calls
    )


def _missing(call: PendingCall, is_agents: bool, *, allows: bool) -> CallAnswer:
    return answer_automatically((call,), approve=allows)[0] if is_agents else _no_result(call)


def _no_result(call: PendingCall) -> ToolResult:
    return ToolResult(call_id=call.call_id, content=NO_RESULT, is_error=True)


def _judged(call: PendingCall, verdict: Verdict) -> Decision:
    if verdict.approve:
        return Decision(call_id=call.call_id, approve=True)
    return _denial(call, verdict.reason or DENIED)


def _denial(call: PendingCall, reason: str) -> Decision:
    return Decision(call_id=call.call_id, approve=False, reason=reason)
