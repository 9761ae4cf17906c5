"""The messages of a run's stream, and those of a thread when it is listed.

They are those of Letta 0.16.7. All were observed on a real server; where one is odd, the recording that shows
it is named. Unused fields are left out. The names are Letta's.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from attrs import field, frozen


@frozen(kw_only=True)
class ToolCall:
    """A call, or a fragment of one: the name arrives once, the arguments in pieces."""

    tool_call_id: str
    name: str | None = None
    arguments: str | None = field(default=None, repr=False)


@frozen(kw_only=True)
class Ping:
    """The first item, with the id of the run; then sent after every 20 s of silence."""

    run_id: str | None = None
    seq_id: int | None = None


@frozen(kw_only=True)
class ReasoningMessage:
    """Reasoning of the agent, complete or a fragment."""

    id: str
    reasoning: str = field(repr=False)
    run_id: str | None = None
    step_id: str | None = None
    seq_id: int | None = None


@frozen(kw_only=True)
class HiddenReasoningMessage:
    """Reasoning that the model provider does not show."""

    id: str
    run_id: str | None = None
    step_id: str | None = None
    seq_id: int | None = None


@frozen(kw_only=True)
class AssistantMessage:
    """Text of the agent, complete or a fragment."""

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
    """The result of one call."""

    tool_call_id: str
    tool_return: str = field(repr=False)
    status: Literal["success", "error"]


@frozen(kw_only=True)
class ToolReturnMessage:
    """Results of calls. The results that a client has sent are repeated, too (mixed_tools.jsonl)."""

    id: str
    name: str | None = None  #: of one of the tools; of several, it is unknown which
    tool_returns: tuple[Returned, ...] = ()
    run_id: str | None = None
    step_id: str | None = None
    seq_id: int | None = None


@frozen(kw_only=True)
class ApprovalRequestMessage:
    """A pending call: of a client tool, or of a server tool that needs approval."""

    id: str
    tool_calls: tuple[ToolCall, ...]
    date: str | None = None  #: ISO 8601
    run_id: str | None = None
    step_id: str | None = None
    seq_id: int | None = None


@frozen(kw_only=True)
class ApprovalResponseMessage:
    """An echo of the approvals in the request."""

    run_id: str | None = None


@frozen(kw_only=True)
class UserMessage:
    """An echo of the input."""

    run_id: str | None = None


@frozen(kw_only=True)
class SystemMessage:
    """An echo of the input, or a notice from Letta to the agent."""

    run_id: str | None = None


@frozen(kw_only=True)
class SummaryMessage:
    """The context was compacted."""

    run_id: str | None = None


@frozen(kw_only=True)
class EventMessage:
    """An event in Letta that is not part of the conversation."""

    run_id: str | None = None


@frozen(kw_only=True)
class StopReason:
    """Why the run stopped; can occur twice (legacy_ephemeral_tool.jsonl)."""

    stop_reason: str


@frozen(kw_only=True)
class UsageStatistics:
    """The tokens of all steps of the run; null if the provider does not count them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    context_tokens: int | None = None  #: not a sum, but the size of the agent's context after the last step
    step_count: int | None = None


@frozen(kw_only=True)
class ErrorMessage:
    """The run failed, after a response with status 200."""

    error_type: str
    message: str
    detail: str | None = field(default=None, repr=False)
    run_id: str | None = None


@frozen(kw_only=True)
class UnknownMessage:
    """A message of an unknown type, from a newer version of Letta."""

    message_type: str
    raw: Mapping[str, Any] = field(repr=False)


@frozen(kw_only=True)
class Done:
    """``data: [DONE]``: the end of the stream. Missing after a cancelled run (cancelled.jsonl)."""


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
