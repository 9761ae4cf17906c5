"""What a run is opened with: answers to all that waits, the client's instructions, and what is new.

To a legacy agent answers go otherwise. It knows approval and denial alone, so a result is the reason of a
denial (legacy_client_tool.jsonl). And a message behind an answer makes it forget the answer: its call stays
without a return for good, which model providers refuse (legacy_answer_lost.jsonl). So the answer goes ahead.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

from attrs import field, frozen

from ...config import InstructionPolicy
from ...turn.events import Thread
from ...turn.reply_format import JsonReply
from ...turn.request import (
    CallAnswer,
    Content,
    Decision,
    Message,
    StandingInstruction,
    SystemMessage,
    Text,
    Tool,
    ToolResult,
    TurnRequest,
)
from ...turn.settlement import NO_RESULT, NO_RESULT_YET, TAKEN
from . import letta
from .commands import AnswerCalls, OpenStream
from .target import Target
from .turn_input import to_answer, to_client_tool, to_message

Answers: TypeAlias = tuple[CallAnswer, ...]
#: What a legacy agent reads before a result, behind Letta's own words that its call was denied.
RESULT_PREFACE: Final = "Not denied: the user's program has carried it out, with this result:\n"
#: The same before what is said in place of a result.
_NO_DENIAL: Final = "Not denied: "
#: In place of an image in a result: a legacy agent gets results as text.
_NO_IMAGE: Final = "[an image, which cannot be shown here]"
#: Tells whether this is what a thread was told last.
AlreadySent: TypeAlias = Callable[[Thread, StandingInstruction], bool]


def never_sent(thread: Thread, standing: StandingInstruction) -> bool:
    """Nobody remembers."""
    return False


@frozen(kw_only=True)
class NewRun:
    """A run to be asked for.

    :param answers_ahead: to be asked before it.
    :param told: what goes with it that need not be told there again; it is kept with the run's first step.
    :param sent: its messages, without what is for this turn only.
    """

    command: OpenStream
    answers_ahead: AnswerCalls | None = None
    told: tuple[StandingInstruction, ...] = ()
    sent: tuple[Message, ...] = field(default=(), repr=False)


def build_run_request(
    request: TurnRequest,
    answers: Answers,
    target: Target,
    already_sent: AlreadySent,
    *,
    client_tools: tuple[Tool, ...] = (),
    background: bool = False,
    mark: str | None = None,
    is_verdict: bool = False,
) -> NewRun:
    """The request for a run.

    :param answers: to what waits, all of it.
    :param client_tools: that are offered with it.
    :param background: whether its stream must be one that can be taken up again.
    :param mark: by which the run can be found.
    :param is_verdict: what the user wrote is in the answers, and no message.
    """
    thread, given = target.thread, request.instructions
    can = target.agent.capabilities
    asked = (
        request.reply_format
        if request.preamble and isinstance(request.reply_format, JsonReply) and request.reply_format.schema
        else None
    )
    aside = request.preamble
    if asked is not None and already_sent(thread, asked):
        aside, asked = (SystemMessage(content=asked.reminder),), None
    new = () if is_verdict else request.messages
    said = (*aside, *new)
    policy = given.policy if given else InstructionPolicy.IGNORE
    says = policy is InstructionPolicy.ALWAYS or (
        policy is InstructionPolicy.ONCE and given is not None and bool(given.new) and not target.continues_task
    )
    if not can.message_with_answers and answers and not said:
        says = False  # they would be a message behind the answer; they go with the next one of the user's
    instructions = given if says else None
    system = instructions.new if instructions else ()
    history = () if target.continues_task else request.history
    approvals = (_approvals(answers, target),) if answers else ()
    ahead = None
    if not can.message_with_answers and approvals and said:
        ahead = AnswerCalls(agent_id=target.agent.id, answers=approvals[0])
    body = letta.StreamRequest(
        messages=(*(approvals if ahead is None else ()), *map(to_message, (*system, *history, *said))),
        client_tools=tuple(map(to_client_tool, client_tools)),
        stream_tokens=can.token_stream,
        override_system=given.text if given and policy is InstructionPolicy.OVERRIDE else None,
        streaming=target.conversation is not None,
        background=background,
        assistant_message_tool_kwarg=mark,
    )
    command = OpenStream(thread=thread, request=body, is_followed=not can.event_stream)
    return NewRun(
        command=command,
        answers_ahead=ahead,
        told=() if asked is None else (asked,),
        sent=(*system, *history, *new),
    )


def _approvals(answers: Answers, target: Target) -> letta.ApprovalCreate:
    approvals = tuple(map(to_answer, answers))
    if target.agent.capabilities.call_results:
        return letta.ApprovalCreate(approvals=approvals)
    answer = answers[0]
    asked = (call.request_id for call in target.pending or () if call.call_id == answer.call_id)
    return letta.ApprovalCreate(
        approvals=approvals,
        approval_request_id=next(asked, None),
        approve=False if isinstance(answer, ToolResult) else answer.approve,
        reason=_reason(answer),
    )


def _reason(answer: CallAnswer) -> str | None:
    if isinstance(answer, Decision):
        return answer.reason
    is_result = answer.content not in (NO_RESULT, NO_RESULT_YET, TAKEN)
    return (RESULT_PREFACE if is_result else _NO_DENIAL) + _text(answer.content)


def _text(content: Content) -> str:
    """Parts in words: a reason is text."""
    if isinstance(content, str):
        return content
    return "\n".join(part.text if isinstance(part, Text) else _NO_IMAGE for part in content)
