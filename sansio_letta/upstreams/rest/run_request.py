"""Build the request that starts a run: answers to pending calls, instructions and new messages.

Answers to legacy agents have another form. These agents know only approval and denial, so a result is sent as
the reason of a denial (legacy_client_tool.jsonl). And if a message follows an answer, they lose the answer: the
call never gets its return, which model providers reject (legacy_answer_lost.jsonl). So the answer is sent
ahead.
"""

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from attrs import field, frozen

from ...config import InstructionPolicy
from ...turn.agent import Agent, PendingCall
from ...turn.events import AgentThread, Thread
from ...turn.reply_format import JsonReply
from ...turn.request import (
    CallAnswer,
    Decision,
    Message,
    StandingInstruction,
    SystemMessage,
    Tool,
    ToolResult,
    TurnRequest,
    content_text,
)
from ...turn.settlement import PLACEHOLDERS
from . import letta
from .commands import AnswerCalls, OpenStream
from .target import Target
from .turn_input import to_answer, to_client_tool, to_message

Answers: TypeAlias = tuple[CallAnswer, ...]
#: Precedes a result for a legacy agent. Letta's own text, that the call was denied, comes first.
RESULT_PREFACE: Final = "Not denied: the user's program has carried it out, with this result:\n"
#: Precedes a text in place of a result.
_NO_DENIAL: Final = "Not denied: "
#: Replaces an image in a result, since legacy agents get results as text.
_NO_IMAGE: Final = "[an image, which cannot be shown here]"
#: Returns whether this is the last instruction of its kind that was sent in the thread.
AlreadySent: TypeAlias = Callable[[Thread, StandingInstruction], bool]


def never_sent(thread: Thread, standing: StandingInstruction) -> bool:
    """Return False: nothing that was sent is remembered."""
    return False


@frozen(kw_only=True)
class NewRun:
    """The command that starts a run.

    :param answers_ahead: to be sent before it.
    :param instructions_sent: need not be repeated in the thread once the run's first step is stored.
    :param sent: its messages, without those for this turn only.
    """

    command: OpenStream
    answers_ahead: AnswerCalls | None = None
    instructions_sent: tuple[StandingInstruction, ...] = ()
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
    request_id: str = "",
    is_verdict: bool = False,
) -> NewRun:
    """Build the request for a run.

    :param answers: to all pending calls.
    :param client_tools: to be offered in the request.
    :param background: whether to start a background run, whose stream can be resumed.
    :param mark: the mark by which the run can be found.
    :param request_id: see `to_message`.
    :param is_verdict: whether the user's message is an approval or denial, and thus already in the answers.
    """
    thread, given = target.thread, request.instructions
    can = target.agent.capabilities
    format_prompt = (
        request.reply_format
        if request.preamble and isinstance(request.reply_format, JsonReply) and request.reply_format.schema
        else None
    )
    preamble = request.preamble
    if format_prompt is not None and already_sent(thread, format_prompt):
        preamble, format_prompt = (SystemMessage(content=format_prompt.reminder),), None
    new = () if is_verdict else request.messages
    messages = (*preamble, *new)
    policy = given.policy if given else InstructionPolicy.IGNORE
    is_due = policy is InstructionPolicy.ALWAYS or (
        policy is InstructionPolicy.ONCE and given is not None and bool(given.new) and not target.continues_task
    )
    if not can.message_with_answers and answers and not messages:
        is_due = False  # they would be a message after the answer, so they wait for the user's next one
    instructions = given if is_due else None
    system = instructions.new if instructions else ()
    history = () if target.continues_task else request.history
    approvals = (build_approvals(answers, target.agent, target.pending or ()),) if answers else ()
    ahead = None
    if not can.message_with_answers and approvals and messages:
        ahead = AnswerCalls(thread=AgentThread(agent_id=target.agent.id), answers=approvals[0])
    sent = (to_message(message, request_id) for message in (*system, *history, *messages))
    body = letta.StreamRequest(
        messages=(*(approvals if ahead is None else ()), *sent),
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
        instructions_sent=() if format_prompt is None else (format_prompt,),
        sent=(*system, *history, *new),
    )


def build_approvals(answers: Answers, agent: Agent, pending: Iterable[PendingCall]) -> letta.ApprovalCreate:
    """Build the message that answers calls.

    :param answers: to all pending calls; not empty.
    :param pending: these calls.
    """
    approvals = tuple(map(to_answer, answers))
    if agent.capabilities.call_results:
        return letta.ApprovalCreate(approvals=approvals)
    answer = answers[0]
    request_ids = (call.request_id for call in pending if call.call_id == answer.call_id)
    return letta.ApprovalCreate(
        approvals=approvals,
        approval_request_id=next(request_ids, None),
        approve=False if isinstance(answer, ToolResult) else answer.approve,
        reason=_reason(answer),
    )


def _reason(answer: CallAnswer) -> str | None:
    if isinstance(answer, Decision):
        return answer.reason
    is_result = answer.content not in PLACEHOLDERS
    return (RESULT_PREFACE if is_result else _NO_DENIAL) + content_text(answer.content, _NO_IMAGE)
