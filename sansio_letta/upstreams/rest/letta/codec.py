"""Convert Letta's JSON to values and back."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import orjson
from cattrs import BaseValidationError

from ...._convert import WrongType, exactly, first_error
from ....errors import RemoteProtocolError
from .converter import STRUCTURE, fold_calls, fold_content, fold_returns, wire
from .messages import (
    MESSAGE_TYPES,
    ApprovalRequestMessage,
    Done,
    Message,
    Returned,
    SystemMessage,
    ToolCall,
    UnknownMessage,
    UsageStatistics,
    UserMessage,
)
from .requests import ApprovalCreate, ClientTool, StreamRequest, ToolReturn
from .resources import (
    Agent,
    Conversation,
    Health,
    KeptMessages,
    ListedMessage,
    PendingApproval,
    Run,
    Tool,
    Toolbox,
)

_T = TypeVar("_T")

# --- Messages -------------------------------------------------------------------------------------------------


def decode_message(data: bytes) -> Message:
    """Decode the data of one event.

    :raises RemoteProtocolError: if it is not a message.
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
    message: Message = STRUCTURE[cls](raw, cls)
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


# --- Resources ------------------------------------------------------------------------------------------------


def decode_agents(data: bytes) -> tuple[Agent, ...]:
    """Decode the response of ``GET /v1/agents/``.

    :raises RemoteProtocolError: if it is not a list of agents.
    """
    return _decode(data, tuple[Agent, ...], "a list of agents")


def decode_agent(data: bytes) -> Agent:
    """Decode the response of ``GET /v1/agents/{id}``.

    :raises RemoteProtocolError: if it is not an agent.
    """
    return _decode(data, Agent, "an agent")


def decode_health(data: bytes) -> Health:
    """Decode the response of ``GET /v1/health/``.

    :raises RemoteProtocolError: if it is not a health report.
    """
    return _decode(data, Health, "a health report")


def decode_run(data: bytes) -> Run:
    """Decode the response of ``GET /v1/runs/{id}``.

    :raises RemoteProtocolError: if it is not a run.
    """
    return _decode(data, Run, "a run")


def decode_runs(data: bytes) -> tuple[Run, ...]:
    """Decode the response of ``GET /v1/runs/``.

    :raises RemoteProtocolError: if it is not a list of runs.
    """
    return _decode(data, tuple[Run, ...], "a list of runs")


def decode_usage(data: bytes) -> UsageStatistics:
    """Decode the response of ``GET /v1/runs/{id}/usage``, which has no cached tokens and no reasoning tokens.

    :raises RemoteProtocolError: if it is not a usage.
    """
    return _decode(data, UsageStatistics, "a run's usage")


def decode_conversation(data: bytes) -> Conversation:
    """Decode the response of ``GET /v1/conversations/{id}`` and of ``POST /v1/conversations/``.

    :raises RemoteProtocolError: if it is not a conversation.
    """
    return _decode(data, Conversation, "a conversation")


def decode_conversations(data: bytes) -> tuple[Conversation, ...]:
    """Decode the response of ``GET /v1/conversations/``.

    :raises RemoteProtocolError: if it is not a list of conversations.
    """
    return _decode(data, tuple[Conversation, ...], "a list of conversations")


def decode_last_message(data: bytes) -> PendingApproval | None:
    """Return the pending calls of a conversation, by the list of its messages, newest first.

    Letta stores a step as one message, but lists it as several messages with one id, whatever the limit is:
    reasoning, text, and then the calls.

    :raises RemoteProtocolError: if it is not a list of messages.
    """
    try:
        raw = [exactly(item, dict) for item in exactly(orjson.loads(data), list)]
        last = [_message(item) for item in raw if item.get("id") == raw[0].get("id")]
    except (orjson.JSONDecodeError, WrongType, KeyError, BaseValidationError) as exc:
        raise _unreadable("messages of a conversation", exc) from exc
    for message in last:
        if isinstance(message, ApprovalRequestMessage):
            return PendingApproval(
                id=message.id, tool_calls=message.tool_calls, run_id=message.run_id, date=message.date
            )
    return None


def decode_listing(data: bytes, *, newest_first: bool) -> tuple[ListedMessage, ...]:
    """Decode the messages of a thread, and return the oldest first.

    :param newest_first: how Letta sorts them: those of a conversation, but not those of an agent's own thread.
    :raises RemoteProtocolError: if it is no list of messages.
    """
    try:
        raw = [exactly(item, dict) for item in exactly(orjson.loads(data), list)]
    except (orjson.JSONDecodeError, WrongType) as exc:
        raise _unreadable("messages of a thread", exc) from exc
    listed = tuple(map(_listed, raw))
    return listed[::-1] if newest_first else listed


def _listed(raw: Mapping[str, Any]) -> ListedMessage:
    """Leave out what is odd: it is compared with what a client sends, and matches nothing then."""

    def text(name: str) -> str | None:
        value = raw.get(name)
        return value if type(value) is str else None

    kind, content = text("message_type") or "", raw.get("content")
    folded = fold_returns(raw) if kind == "tool_return_message" else None
    returns = tuple(Returned(**item) for item in folded["tool_returns"]) if isinstance(folded, dict) else ()
    calls = _calls(raw) if kind == "approval_request_message" else ()
    return ListedMessage(
        id=text("id") or "",
        message_type=kind,
        content=fold_content(content if type(content) in (str, list) else "", None),
        otid=text("otid"),
        run_id=text("run_id"),
        returns=returns,
        calls=calls,
    )


def _calls(raw: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    folded = fold_calls(raw)
    return tuple(
        ToolCall(tool_call_id=call["tool_call_id"], name=call["name"])
        for call in (folded["tool_calls"] if isinstance(folded, dict) else ())
        if type(call) is dict and type(call.get("tool_call_id")) is str and type(call.get("name")) is str
    )


def is_empty(data: bytes) -> bool:
    """Return whether a conversation has no messages except the first one, which Letta adds.

    :raises RemoteProtocolError: if it is not a list of messages.
    """
    try:
        raw = exactly(orjson.loads(data), list)
        return not raw or isinstance(_message(exactly(raw[0], dict)), SystemMessage)
    except (orjson.JSONDecodeError, WrongType, KeyError, BaseValidationError) as exc:
        raise _unreadable("messages of a conversation", exc) from exc


def decode_tools(data: bytes) -> tuple[Tool, ...]:
    """Decode the response of ``GET /v1/tools/``.

    :raises RemoteProtocolError: if it is not a list of tools.
    """
    try:
        return _tools(orjson.loads(data))
    except (orjson.JSONDecodeError, WrongType, KeyError) as exc:
        raise _unreadable("a list of tools", exc) from exc


def decode_tool(data: bytes) -> Tool:
    """Decode the response of ``PUT /v1/tools/``.

    :raises RemoteProtocolError: if it is not a tool.
    """
    try:
        return _tools([orjson.loads(data)])[0]
    except (orjson.JSONDecodeError, WrongType, KeyError) as exc:
        raise _unreadable("a tool", exc) from exc


def decode_toolbox(data: bytes) -> Toolbox:
    """Decode the response of ``GET /v1/agents/{id}`` with tools and tags.

    :raises RemoteProtocolError: if it is not an agent with its tools.
    """
    try:
        return _toolbox(orjson.loads(data))
    except (orjson.JSONDecodeError, WrongType, KeyError) as exc:
        raise _unreadable("an agent's tools", exc) from exc


def decode_toolboxes(data: bytes) -> tuple[Toolbox, ...]:
    """Decode the response of ``GET /v1/agents/`` with tools and tags.

    :raises RemoteProtocolError: if it is not a list of agents with their tools.
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


def decode_kept_messages(data: bytes) -> KeptMessages:
    """Decode the response of ``GET /v1/runs/{id}/messages``, oldest first.

    :raises RemoteProtocolError: if it is not a list of messages.
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


def _kept_return(raw: Mapping[str, Any]) -> ToolReturn:
    return ToolReturn(
        tool_call_id=exactly(raw["tool_call_id"], str),
        # It may also be a list of parts. If Letta already has the result, it only reads the id.
        tool_return=raw["tool_return"] if isinstance(raw.get("tool_return"), str) else "",
        status="error" if raw.get("status") == "error" else "success",
    )


def _decode(data: bytes, kind: type[_T], what: str) -> _T:
    try:
        value: _T = wire.structure(orjson.loads(data), kind)
        return value
    except (orjson.JSONDecodeError, WrongType, BaseValidationError) as exc:
        raise _unreadable(what, exc) from exc


def decode_cancelled(data: bytes, run_id: str) -> bool:
    """Return whether a response confirms that the run was cancelled (cancelled.jsonl, exchange 2)."""
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return isinstance(raw, dict) and raw.get(run_id) == "cancelled"


# --- Requests -------------------------------------------------------------------------------------------------


def encode_stream_request(request: StreamRequest) -> bytes:
    """Encode the body of ``POST /v1/agents/{id}/messages/stream``."""
    return orjson.dumps(wire.unstructure(request))


def encode_run_request(request: StreamRequest) -> bytes:
    """Encode the body of ``POST /v1/agents/{id}/messages/async``, which starts a run without a stream."""
    body = wire.unstructure(request)
    for name in ("stream_tokens", "include_pings", "streaming", "background"):
        body.pop(name, None)
    return orjson.dumps(body)


def encode_resume_request(seq_id: int) -> bytes:
    """Encode the body of ``POST /v1/runs/{id}/stream``, which resumes the stream of a background run.

    :param seq_id: the number of the last item that was read; 0 to read all items.
    """
    return orjson.dumps({"starting_after": seq_id})


def encode_conversation(summary: str) -> bytes:
    """Encode the body of ``POST /v1/conversations/`` and of ``PATCH /v1/conversations/{id}``."""
    return orjson.dumps({"summary": summary})


#: The source code of attached tools. It only runs if someone approves a call in Letta.
_SOURCE: Final = '''def only_the_client_can_do_this(**arguments):
    """A tool of a client's of Letta Proxy, which deletes it."""
    raise RuntimeError("Only the client can carry out this call.")
'''


def encode_tool(tool: ClientTool, tags: tuple[str, ...]) -> bytes:
    """Encode the body of ``PUT /v1/tools/``, for a tool that requires approval in any agent."""
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
    """Encode the body of ``PATCH /v1/agents/{id}``, which replaces all tools, rules and tags."""
    return orjson.dumps(
        {
            "tool_ids": [tool.id for tool in toolbox.tools],
            "tool_rules": toolbox.rules,
            "tags": toolbox.tags,
        }
    )


def encode_answers(answers: ApprovalCreate, *, streaming: bool = False) -> bytes:
    """Encode the body of ``POST /v1/agents/{id}/messages``, which stores answers without continuing the agent.

    The answers are a step of their own, which does not call the model (legacy_answer_first.jsonl).

    :param streaming: whether the response is a stream, as in ``POST /v1/conversations/{id}/messages``.
    """
    body = {"messages": [wire.unstructure(answers)], "max_steps": 1}
    return orjson.dumps({**body, "streaming": True} if streaming else body)


def encode_cancel_request(run_id: str) -> bytes:
    """Encode the body of ``POST /v1/agents/{id}/messages/cancel``.

    It always has the id of the run. Without it, Letta cancels the newest one (pending_stuck.jsonl).
    """
    return orjson.dumps({"run_ids": [run_id]})
