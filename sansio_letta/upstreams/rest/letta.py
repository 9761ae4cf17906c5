"""Letta's V1 wire: stream messages and answers in, request bodies out.

Letta 0.16.7; every shape was seen on a real server, the recording that shows an odd one is named beside it.
Only what we read is modelled, under Letta's own names.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeAlias, TypeVar

import orjson
from attrs import field, frozen
from cattrs import BaseValidationError, Converter
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from ..._convert import WrongType, exactly, first_error, strict_converter
from ...errors import RemoteProtocolError

_T = TypeVar("_T")

# --- The stream: what Letta says ------------------------------------------------------------------------------


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


def decode_message(data: bytes) -> Message:
    """One event's data as a typed message.

    :raises RemoteProtocolError: if it is no JSON object with a known shape.
    """
    if data.startswith(b"[DONE]"):
        return Done()
    try:
        return _message(exactly(orjson.loads(data), dict))
    except (orjson.JSONDecodeError, WrongType, KeyError, BaseValidationError) as exc:
        raise _unreadable("a message of its stream", exc) from exc


def _message(raw: Mapping[str, Any]) -> Message:
    tag = exactly(raw["message_type"], str)
    cls = MESSAGE_TYPES.get(tag)
    if cls is None:
        return UnknownMessage(message_type=tag, raw=raw)
    message: Message = _STRUCTURE[cls](raw, cls)
    return message


def _unreadable(what: str, exc: Exception) -> RemoteProtocolError:
    path, cause = first_error(exc)
    if isinstance(cause, orjson.JSONDecodeError):
        why = "not JSON"
    elif isinstance(cause, KeyError):
        why = "missing"
    else:
        why = str(cause)
    return RemoteProtocolError(f"Letta sent {what} that cannot be read: {path + ': ' if path else ''}{why}.")


# --- Answers: what Letta says when asked ----------------------------------------------------------------------


@frozen(kw_only=True)
class PendingApproval:
    """The calls that an agent waits for; until each is answered it takes no new message."""

    id: str
    tool_calls: tuple[ToolCall, ...]
    run_id: str | None = None


@frozen(kw_only=True)
class OwnTool:
    """A tool that an agent has at Letta."""

    name: str | None = None
    tool_type: str | None = None  #: letta_core, letta_memory_core, custom, external_mcp...


#: The tool by which an agent speaks whose model may only call tools, and the argument that holds the text.
SEND_MESSAGE: Final = "send_message"
SEND_MESSAGE_ARGUMENT: Final = "message"


@frozen(kw_only=True)
class ModelConfig:
    """What an agent's language model is; the rest of it is Letta's own."""

    context_window: int | None = None  #: tokens


@frozen(kw_only=True)
class Agent:
    """One agent, as listed or fetched."""

    id: str
    name: str
    agent_type: str
    created_at: str | None = None  #: ISO 8601
    description: str | None = None
    pending_approval: PendingApproval | None = None  #: null, too, where it was not asked for
    tools: tuple[OwnTool, ...] | None = None  #: None: not known
    enable_sleeptime: bool | None = None
    llm_config: ModelConfig | None = None
    hidden: bool | None = None


def decode_agents(data: bytes) -> tuple[Agent, ...]:
    """The answer of ``GET /v1/agents/``.

    :raises RemoteProtocolError: if it is no list of agents.
    """
    return _decode(data, tuple[Agent, ...], "a list of agents")


def decode_agent(data: bytes) -> Agent:
    """The answer of ``GET /v1/agents/{id}``.

    :raises RemoteProtocolError: if it is no agent.
    """
    return _decode(data, Agent, "an agent")


@frozen(kw_only=True)
class Health:
    """The answer of ``GET /v1/health/``."""

    status: str
    version: str | None = None


def decode_health(data: bytes) -> Health:
    """:raises RemoteProtocolError: if it is no health report."""
    return _decode(data, Health, "a health report")


@frozen(kw_only=True)
class RequestConfig:
    """Of the request that a run was begun by, as Letta keeps it."""

    assistant_message_tool_kwarg: str | None = None


@frozen(kw_only=True)
class Run:
    """One run of an agent, as Letta keeps it."""

    id: str
    status: str  #: created, running, completed, failed or cancelled
    stop_reason: str | None = None
    background: bool | None = None
    agent_id: str | None = None
    conversation_id: str | None = None  #: null in the agent's own thread
    request_config: RequestConfig | None = None
    metadata: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def failure(self) -> str | None:
        """How it failed, in words that may be the model provider's, keys and all: not for the client."""
        error = (self.metadata or {}).get("error")
        return error if isinstance(error, str) and self.status == "failed" else None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status not in ("created", "running")

    @property
    def asked_as(self) -> str | None:
        """What its request named as the argument that holds text; None if Letta does not show that."""
        return None if self.request_config is None else self.request_config.assistant_message_tool_kwarg


def decode_run(data: bytes) -> Run:
    """The answer of ``GET /v1/runs/{id}``.

    :raises RemoteProtocolError: if it is no run.
    """
    return _decode(data, Run, "a run")


def decode_runs(data: bytes) -> tuple[Run, ...]:
    """The answer of ``GET /v1/runs/``.

    :raises RemoteProtocolError: if it is no list of runs.
    """
    return _decode(data, tuple[Run, ...], "a list of runs")


def decode_usage(data: bytes) -> UsageStatistics:
    """The answer of ``GET /v1/runs/{id}/usage``, which leaves out what is cached and what is reasoning.

    :raises RemoteProtocolError: if it is no usage.
    """
    return _decode(data, UsageStatistics, "a run's usage")


@frozen(kw_only=True)
class Conversation:
    """One conversation of an agent, beside its own thread."""

    id: str
    agent_id: str | None = None
    summary: str | None = None
    created_at: str | None = None  #: ISO 8601


def decode_conversation(data: bytes) -> Conversation:
    """The answer of ``GET /v1/conversations/{id}``, and of making one.

    :raises RemoteProtocolError: if it is no conversation.
    """
    return _decode(data, Conversation, "a conversation")


def decode_conversations(data: bytes) -> tuple[Conversation, ...]:
    """The answer of ``GET /v1/conversations/``.

    :raises RemoteProtocolError: if it is no list of conversations.
    """
    return _decode(data, tuple[Conversation, ...], "a list of conversations")


def decode_last_message(data: bytes) -> "PendingApproval | None":
    """What a conversation waits for, by its last message: the answer of its messages, newest first.

    Letta keeps a step as one message and lists it as several of one id, whatever the limit: reasoning, text,
    and only then its calls.

    :raises RemoteProtocolError: if it is no list of messages.
    """
    try:
        raw = [exactly(item, dict) for item in exactly(orjson.loads(data), list)]
        last = [_message(item) for item in raw if item.get("id") == raw[0].get("id")]
    except (orjson.JSONDecodeError, WrongType, KeyError, BaseValidationError) as exc:
        raise _unreadable("messages of a conversation", exc) from exc
    for message in last:
        if isinstance(message, ApprovalRequestMessage):
            return PendingApproval(id=message.id, tool_calls=message.tool_calls, run_id=message.run_id)
    return None


def is_empty(data: bytes) -> bool:
    """Whether nothing was said in a conversation yet, by its last message: what Letta puts first is its own.

    :raises RemoteProtocolError: if it is no list of messages.
    """
    try:
        raw = exactly(orjson.loads(data), list)
        return not raw or isinstance(_message(exactly(raw[0], dict)), SystemMessage)
    except (orjson.JSONDecodeError, WrongType, KeyError, BaseValidationError) as exc:
        raise _unreadable("messages of a conversation", exc) from exc


@frozen(kw_only=True)
class Tool:
    """A tool at Letta."""

    id: str
    name: str
    tags: tuple[str, ...] = ()


@frozen(kw_only=True)
class Toolbox:
    """An agent's tools, and the agent's own rules and tags."""

    agent_id: str
    tools: tuple[Tool, ...]
    rules: tuple[Mapping[str, Any], ...]  #: each names a tool, and goes back as it came
    tags: tuple[str, ...]


def decode_tools(data: bytes) -> tuple[Tool, ...]:
    """The answer of ``GET /v1/tools/``.

    :raises RemoteProtocolError: if it is no list of tools.
    """
    try:
        return _tools(orjson.loads(data))
    except (orjson.JSONDecodeError, WrongType, KeyError) as exc:
        raise _unreadable("a list of tools", exc) from exc


def decode_tool(data: bytes) -> Tool:
    """The answer of ``PUT /v1/tools/``.

    :raises RemoteProtocolError: if it is no tool.
    """
    try:
        return _tools([orjson.loads(data)])[0]
    except (orjson.JSONDecodeError, WrongType, KeyError) as exc:
        raise _unreadable("a tool", exc) from exc


def decode_toolbox(data: bytes) -> Toolbox:
    """The answer of ``GET /v1/agents/{id}``, with tools and tags.

    :raises RemoteProtocolError: if it is no agent with its tools.
    """
    try:
        return _toolbox(orjson.loads(data))
    except (orjson.JSONDecodeError, WrongType, KeyError) as exc:
        raise _unreadable("an agent's tools", exc) from exc


def decode_toolboxes(data: bytes) -> tuple[Toolbox, ...]:
    """The answer of ``GET /v1/agents/``, with tools and tags.

    :raises RemoteProtocolError: if it is no list of agents with their tools.
    """
    try:
        return tuple(_toolbox(item) for item in exactly(orjson.loads(data), list))
    except (orjson.JSONDecodeError, WrongType, KeyError) as exc:
        raise _unreadable("a list of agents' tools", exc) from exc


def _toolbox(value: object) -> Toolbox:
    raw = exactly(value, dict)
    return Toolbox(
        agent_id=exactly(raw["id"], str),
        tools=_tools(raw["tools"]),
        rules=tuple(exactly(rule, dict) for rule in raw.get("tool_rules") or ()),
        tags=tuple(exactly(tag, str) for tag in raw["tags"]),
    )


def _tools(value: object) -> tuple[Tool, ...]:
    return tuple(
        Tool(
            id=exactly(raw["id"], str),
            name=exactly(raw["name"], str),
            tags=tuple(exactly(tag, str) for tag in raw.get("tags") or ()),
        )
        for raw in (exactly(item, dict) for item in exactly(value, list))
    )


@frozen(kw_only=True)
class KeptMessages:
    """What the agent's memory holds of a run. Nothing, if the run failed in its first step."""

    messages: tuple[Message, ...] = ()  #: in order, each whole
    has_input: bool = False  #: the user's message among them
    returns: tuple["ToolReturn", ...] = ()  #: of the calls that returned last


def decode_kept_messages(data: bytes) -> KeptMessages:
    """The answer of ``GET /v1/runs/{id}/messages``, oldest first.

    :raises RemoteProtocolError: if it is no list of messages.
    """
    try:
        raw = [exactly(item, dict) for item in exactly(orjson.loads(data), list)]
        messages = tuple(_message(item) for item in raw)
        returned = [item for item in raw if item["message_type"] == "tool_return_message"]
        returns = (
            tuple(_kept_return(item) for item in (returned[-1].get("tool_returns") or returned[-1:]))
            if returned
            else ()
        )
    except (orjson.JSONDecodeError, WrongType, KeyError, BaseValidationError) as exc:
        raise _unreadable("messages of a run", exc) from exc
    has_input = any(isinstance(message, UserMessage) for message in messages)
    return KeptMessages(messages=messages, has_input=has_input, returns=returns)


def _kept_return(raw: Mapping[str, Any]) -> "ToolReturn":
    return ToolReturn(
        tool_call_id=exactly(raw["tool_call_id"], str),
        # Letta looks at the id alone when it has the result already; it may be made of parts.
        tool_return=raw["tool_return"] if isinstance(raw.get("tool_return"), str) else "",
        status="error" if raw.get("status") == "error" else "success",
    )


def _decode(data: bytes, kind: type[_T], what: str) -> _T:
    try:
        value: _T = _wire.structure(orjson.loads(data), kind)
        return value
    except (orjson.JSONDecodeError, WrongType, BaseValidationError) as exc:
        raise _unreadable(what, exc) from exc


def decode_cancelled(data: bytes, run_id: str) -> bool:
    """Whether the answer to a cancel request says that this run was cancelled: cancelled.jsonl, exchange 2."""
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return isinstance(raw, dict) and raw.get(run_id) == "cancelled"


@frozen(kw_only=True)
class ErrorAnswer:
    """What an answer with an error status says, in whichever of Letta's forms it came."""

    code: str | None = None  #: like PENDING_APPROVAL
    message: str | None = None
    run_id: str | None = None  #: of the run that is in the way
    reasons: tuple[str, ...] = ()

    @property
    def text(self) -> str | None:
        """All of it that a person can read; None if there is nothing."""
        reasons = ", ".join(self.reasons)
        if self.message and reasons:
            return f"{self.message} ({reasons})"
        return self.message or reasons or self.code


#: Reasons, and faults of a body, that are told; one fault of a union is reported once for each of its types.
_MAX_REASON_COUNT: Final = 5


def decode_error_answer(data: bytes) -> ErrorAnswer:
    """The body of an error answer: whatever a server or a gateway sent is taken.

    Servers say ``{"detail": str}``, beside it ``run_id``; ``{"detail": {code, message, pending_request_id}}``
    where no stream was asked for; ``{"detail": [{loc, msg}, ...]}`` of a body's faults; ``{"error": {type,
    message}}``, whose own ``detail`` repeats the model's provider and is left out. Letta Cloud says
    ``{"error": str, "reasons": [...]}`` and ``{"message": str}``.
    """
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError:
        return ErrorAnswer()
    return _error_answer(raw) if isinstance(raw, dict) else ErrorAnswer()


def _error_answer(raw: Mapping[str, Any], *, is_inner: bool = False) -> ErrorAnswer:
    code, message = _text(raw, "code") or _text(raw, "errorCode"), None
    for name in ("message", "error", "title") if is_inner else ("detail", "error", "message", "title"):
        match raw.get(name):
            case str(text) if text:
                message = text
            case dict() as inner if not is_inner:
                found = _error_answer(inner, is_inner=True)
                code, message = found.code or code or _text(inner, "type"), found.message
            case list() as faults if name == "detail":
                message = "; ".join(filter(None, map(_fault, faults[:_MAX_REASON_COUNT])))
        if message:
            break
    detail = raw.get("detail")
    reasons = raw.get("reasons")
    return ErrorAnswer(
        code=code,
        message=message or None,
        run_id=_text(raw, "run_id") or (_text(detail, "run_id") if isinstance(detail, dict) else None),
        reasons=tuple(item for item in reasons[:_MAX_REASON_COUNT] if isinstance(item, str))
        if isinstance(reasons, list)
        else (),
    )


def _fault(fault: object) -> str | None:
    """One of a body's faults. Its ``input`` is the user's, and is left out."""
    if not isinstance(fault, dict):
        return None
    place = fault.get("loc")
    path = (
        ".".join(str(part) for part in place if isinstance(part, str | int)) if isinstance(place, list) else ""
    )
    return ": ".join(filter(None, (path, _text(fault, "msg")))) or None


def _text(raw: Mapping[str, Any], name: str) -> str | None:
    value = raw.get(name)
    return value if isinstance(value, str) and value else None


# --- Requests: what we say to Letta ---------------------------------------------------------------------------


@frozen(kw_only=True)
class TextContent:
    text: str = field(repr=False)
    type: Literal["text"] = "text"


@frozen(kw_only=True)
class Base64Source:
    media_type: str
    data: str = field(repr=False)
    type: Literal["base64"] = "base64"


@frozen(kw_only=True)
class UrlSource:
    url: str = field(repr=False)
    type: Literal["url"] = "url"


@frozen(kw_only=True)
class ImageContent:
    source: Base64Source | UrlSource
    type: Literal["image"] = "image"


Content: TypeAlias = str | tuple[TextContent | ImageContent, ...]


@frozen(kw_only=True)
class MessageCreate:
    """New input for the agent."""

    content: Content = field(repr=False)
    role: Literal["user", "system", "assistant"] = "user"
    name: str | None = field(default=None, repr=False)  #: of the person; models of OpenAI's wire are shown it


@frozen(kw_only=True)
class ToolReturn:
    """A client's result of one pending call; of parts Letta gives its model the images, if that sees any."""

    tool_call_id: str
    tool_return: Content = field(repr=False)
    status: Literal["success", "error"] = "success"
    type: Literal["tool"] = "tool"


@frozen(kw_only=True)
class Approval:
    """A pending call allowed or denied; the agent is told the reason."""

    tool_call_id: str
    approve: bool
    reason: str | None = None
    type: Literal["approval"] = "approval"


@frozen(kw_only=True)
class ApprovalCreate:
    """The answers to all pending calls at once; a part of them is refused (parallel_partial.jsonl).

    A legacy agent has one call pending, and looks at the last three fields alone: results are not for it.
    """

    approvals: tuple[ToolReturn | Approval, ...]
    type: Literal["approval"] = "approval"
    approval_request_id: str | None = None  #: of the message that asks
    approve: bool | None = None
    reason: str | None = None


@frozen(kw_only=True)
class ClientTool:
    """A tool of the client's, offered for one request."""

    name: str
    parameters: Mapping[str, Any]  #: JSON Schema, passed on untouched
    description: str | None = None


@frozen(kw_only=True)
class StreamRequest:
    """The body that starts a run and asks for its stream, token by token."""

    messages: tuple[MessageCreate | ApprovalCreate, ...]
    client_tools: tuple[ClientTool, ...] = ()
    stream_tokens: bool = True
    include_pings: bool = True
    override_system: str | None = field(default=None, repr=False)  #: in place of the agent's, for this turn
    streaming: bool = False  #: asked for by name in a conversation; an agent's own thread has a path for it
    background: bool = False  #: the run's stream can be taken up again; needs Redis at the server, else 503
    assistant_message_tool_kwarg: str | None = None  #: by default `message`; see `run_lookup`


def encode_stream_request(request: StreamRequest) -> bytes:
    """The JSON body of ``POST /v1/agents/{id}/messages/stream``."""
    return orjson.dumps(_wire.unstructure(request))


def encode_run_request(request: StreamRequest) -> bytes:
    """The JSON body of ``POST /v1/agents/{id}/messages/async``: the same run, without a stream."""
    body = _wire.unstructure(request)
    for name in ("stream_tokens", "include_pings", "streaming", "background"):
        body.pop(name, None)
    return orjson.dumps(body)


def encode_resume_request(seq_id: int) -> bytes:
    """The JSON body of ``POST /v1/runs/{id}/stream``: what came after an item of a background run.

    :param seq_id: of the last item that was read; 0 for all of them.
    """
    return orjson.dumps({"starting_after": seq_id})


def encode_conversation(summary: str) -> bytes:
    """The JSON body of ``POST /v1/conversations/``, and of ``PATCH /v1/conversations/{id}``."""
    return orjson.dumps({"summary": summary})


#: What a legacy agent is given in place of a tool's code; it never runs unless a human allows it at Letta.
_SOURCE: Final = '''def only_the_client_can_do_this(**arguments):
    """A tool of a client's of Letta Proxy, which deletes it."""
    raise RuntimeError("Only the client can carry out this call.")
'''


def encode_tool(tool: ClientTool, tags: tuple[str, ...]) -> bytes:
    """The JSON body of ``PUT /v1/tools/``: a tool whose calls wait for somebody, for any agent that gets it."""
    schema = {"name": tool.name, "description": tool.description or "", "parameters": tool.parameters}
    return orjson.dumps(
        {
            "source_code": _SOURCE,
            "source_type": "python",
            "json_schema": schema,
            "tags": tags,
            "default_requires_approval": True,
        }
    )


def encode_toolbox(toolbox: Toolbox) -> bytes:
    """The JSON body of ``PATCH /v1/agents/{id}``: all its tools, rules and tags at once."""
    return orjson.dumps(
        {
            "tool_ids": [tool.id for tool in toolbox.tools],
            "tool_rules": toolbox.rules,
            "tags": toolbox.tags,
        }
    )


def encode_answers(answers: ApprovalCreate) -> bytes:
    """The JSON body of ``POST /v1/agents/{id}/messages``: note answers, and do not let the agent go on yet.

    Of a legacy agent's run that is the first step; its model is not asked in it (legacy_answer_first.jsonl).
    """
    return orjson.dumps({"messages": [_wire.unstructure(answers)], "max_steps": 1})


def encode_cancel_request(run_id: str) -> bytes:
    """The JSON body of ``POST /v1/agents/{id}/messages/cancel``.

    The run is always named: without it the newest is cancelled, which may be another (pending_stuck.jsonl).
    """
    return orjson.dumps({"run_ids": [run_id]})


# --- The converter --------------------------------------------------------------------------------------------


def _fold_content(value: object, _: object) -> str:
    """``content`` of an assistant message: a string, or a list of parts of which the text counts."""
    if type(value) is not list:
        return exactly(value, str)
    texts = [part.get("text") for part in value if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def _fold_calls(value: object) -> object:
    """``tool_calls``: one object while tokens stream, a list otherwise (client_tool, step_streaming.jsonl)."""
    if type(value) is not dict:
        return value
    calls = value.get("tool_calls")
    if calls is None:
        calls = value.get("tool_call")
    return {**value, "tool_calls": calls if type(calls) is list else [calls]}


def _fold_returns(value: object) -> object:
    """``tool_returns``: a list; of an older server the one return is told by the message itself.

    What is odd in it is left out: it is only shown, and no turn should fail for it.
    """
    if type(value) is not dict:
        return value
    returns = value.get("tool_returns")
    items = returns if type(returns) is list and returns else [value]
    return {
        **value,
        "name": value["name"] if type(value.get("name")) is str else None,
        "tool_returns": [
            {
                "tool_call_id": item["tool_call_id"],
                "tool_return": _return_text(item.get("tool_return")),
                "status": "error" if item.get("status") == "error" else "success",
            }
            for item in items
            if type(item) is dict and type(item.get("tool_call_id")) is str
        ],
    }


def _fold_agent(value: object) -> object:
    """What is odd in what is only shown is left out: no turn should fail for it."""
    if type(value) is not dict:
        return value
    config, hidden = value.get("llm_config"), value.get("hidden")
    size = config.get("context_window") if type(config) is dict else None
    return {
        **value,
        "llm_config": {"context_window": size} if type(size) is int and size > 0 else None,
        "hidden": hidden if type(hidden) is bool else None,
    }


def _return_text(value: object) -> str:
    """A string, or a list of parts of which the text counts: an image says nothing here."""
    return _fold_content(value, None) if type(value) in (str, list) else ""


def _omit_default(converter: Converter, cls: type[Any], names: tuple[str, ...]) -> None:
    optional: Any = {name: override(omit_if_default=True) for name in names}
    converter.register_unstructure_hook(cls, make_dict_unstructure_fn(cls, converter, **optional))


def _make_converter() -> Converter:
    converter = strict_converter()

    def first(fold: Callable[[object], object], cls: type[Any]) -> None:
        structure = converter.get_structure_hook(cls)
        converter.register_structure_hook(cls, lambda value, _: structure(fold(value), cls))

    # A schema goes out as it came in: cattrs would copy it, level by level.
    converter.register_unstructure_hook_func(lambda kind: kind == Mapping[str, Any], lambda value: value)
    for cls in (ToolCallMessage, ApprovalRequestMessage, PendingApproval):
        first(_fold_calls, cls)
    first(_fold_returns, ToolReturnMessage)
    first(_fold_agent, Agent)
    converter.register_structure_hook(
        AssistantMessage,
        make_dict_structure_fn(AssistantMessage, converter, content=override(struct_hook=_fold_content)),
    )
    for request, optional in (
        (MessageCreate, ("name",)),
        (Approval, ("reason",)),
        (ApprovalCreate, ("approval_request_id", "approve", "reason")),
        (ClientTool, ("description",)),
        (
            StreamRequest,
            ("client_tools", "override_system", "streaming", "background", "assistant_message_tool_kwarg"),
        ),
    ):
        _omit_default(converter, request, optional)
    return converter


_wire: Final = _make_converter()
_STRUCTURE: Final = {cls: _wire.get_structure_hook(cls) for cls in MESSAGE_TYPES.values()}
