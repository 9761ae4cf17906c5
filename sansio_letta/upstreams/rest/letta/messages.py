"""The messages of a run's stream, and those of a thread when it is listed.

Letta 0.16.7; every shape was seen on a real server, the recording that shows an odd one is named beside it.
Only what is read is modelled, under Letta's own names.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from attrs import field, frozen


@frozen(kw_only=True)
class ToolCall:
    """A call, or a fragment of one: the name comes once, the arguments in pieces."""

    tool_call_id: str
    name: str | None = None
    arguments: str | None = field(default=None, repr=False)


@frozen(kw_only=True)
class Ping:
    """Sent first, which names the run before its first token, and then every 20 s of silence."""

    run_id: str | None = None
    seq_id: int | None = None


@frozen(kw_only=True)
class ReasoningMessage:
    """What the agent thinks, whole or a fragment."""

    id: str
    reasoning: str = field(repr=False)
    run_id: str | None = None
    step_id: str | None = None
    seq_id: int | None = None


@frozen(kw_only=True)
class HiddenReasoningMessage:
    """The model thought, and its provider does not show what."""

    id: str
    run_id: str | None = None
    step_id: str | None = None
    seq_id: int | None = None


@frozen(kw_only=True)
class AssistantMessage:
    """Text the agent says, whole or a fragment of it."""

    id: str  #: shared by all fragments of one message
    content: str = field(repr=False)
    run_id: str | None = None
    step_id: str | None = None
    seq_id: int | None = None  #: its number in a background run, from 1 (background_resume.jsonl)


@frozen(kw_only=True)
class ToolCallMessage:
    """A call that Letta carries out itself."""

    id: str
    tool_calls: tuple[ToolCall, ...]
    run_id: str | None = None
    step_id: str | None = None
    seq_id: int | None = None


@frozen(kw_only=True)
class Returned:
    """What one call gave."""

    tool_call_id: str
    tool_return: str = field(repr=False)
    status: Literal["success", "error"]


@frozen(kw_only=True)
class ToolReturnMessage:
    """What calls gave; the results that a client sent are repeated in one, too (mixed_tools.jsonl)."""

    id: str
    name: str | None = None  #: of one of the tools: which, is not said if there are several
    tool_returns: tuple[Returned, ...] = ()
    run_id: str | None = None
    step_id: str | None = None
    seq_id: int | None = None


@frozen(kw_only=True)
class ApprovalRequestMessage:
    """A call that waits for somebody else: a client's tool, or a server's tool that a human must allow."""

    id: str
    tool_calls: tuple[ToolCall, ...]
    run_id: str | None = None
    step_id: str | None = None
    seq_id: int | None = None


@frozen(kw_only=True)
class ApprovalResponseMessage:
    """An echo of our own approvals."""

    run_id: str | None = None


@frozen(kw_only=True)
class UserMessage:
    """An echo of the input."""

    run_id: str | None = None


@frozen(kw_only=True)
class SystemMessage:
    """An echo of the input, or a notice of Letta's to the agent."""

    run_id: str | None = None


@frozen(kw_only=True)
class SummaryMessage:
    """The context was compacted."""

    run_id: str | None = None


@frozen(kw_only=True)
class EventMessage:
    """Something happened at Letta that is not part of the conversation."""

    run_id: str | None = None


@frozen(kw_only=True)
class StopReason:
    """Why the run stopped; can come twice (legacy_ephemeral_tool.jsonl)."""

    stop_reason: str


@frozen(kw_only=True)
class UsageStatistics:
    """Tokens of all the run's steps together; a provider that does not count sends null."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    context_tokens: int | None = None  #: not a sum: what the agent's context held after the last step
    step_count: int | None = None


@frozen(kw_only=True)
class ErrorMessage:
    """The run failed; HTTP had said 200 long before."""

    error_type: str
    message: str
    detail: str | None = field(default=None, repr=False)
    run_id: str | None = None


@frozen(kw_only=True)
class UnknownMessage:
    """A type of message that Letta learned after this was written; it means nothing to us."""

    message_type: str
    raw: Mapping[str, Any] = field(repr=False)


@frozen(kw_only=True)
class Done:
    """``data: [DONE]``: Letta closed the stream; after a cancelled run it never comes (cancelled.jsonl)."""


Message: TypeAlias = (
    Ping
    | ReasoningMessage
    | HiddenReasoningMessage
    | AssistantMessage
    | ToolCallMessage
    | ToolReturnMessage
    | ApprovalRequestMessage
    | ApprovalResponseMessage
    | UserMessage
    | SystemMessage
    | SummaryMessage
    | EventMessage
    | StopReason
    | UsageStatistics
    | ErrorMessage
    | UnknownMessage
    | Done
)
MESSAGE_TYPES: Final[Mapping[str, type[Any]]] = {
    "ping": Ping,
    "reasoning_message": ReasoningMessage,
    "hidden_reasoning_message": HiddenReasoningMessage,
    "assistant_message": AssistantMessage,
    "tool_call_message": ToolCallMessage,
    "tool_return_message": ToolReturnMessage,
    "approval_request_message": ApprovalRequestMessage,
    "approval_response_message": ApprovalResponseMessage,
    "user_message": UserMessage,
    "system_message": SystemMessage,
    "summary_message": SummaryMessage,
    "event_message": EventMessage,
    "stop_reason": StopReason,
    "usage_statistics": UsageStatistics,
    "error_message": ErrorMessage,
}
