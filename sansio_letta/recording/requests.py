"""Recorded requests, decoded: the client's own, and those that start a run."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from .._signal import Signal
from ..config import Config
from ..dialects.base import RequestContext
from ..dialects.items import ClientRequest
from ..dialects.new_input import build_turn_request
from ..errors import RemoteProtocolError
from ..proxy.http import HttpRequest
from ..proxy.routing import DIALECTS, route
from ..sse import SSEDecoder
from ..turn.agent import PendingCall
from ..turn.request import CallAnswer, Decision, Message, Tool, ToolResult, TurnRequest, UserMessage
from ..upstreams.rest import letta
from .format import RecordedExchange, Recording


def client_request(client: RecordedExchange) -> HttpRequest:
    """Restore the client's request."""
    request = client.request
    headers = [item for item in request.headers if item[0] != "content-length"]
    # The recorder writes what is not JSON as text.
    json = request.json
    body = b"" if json is None else json.encode() if isinstance(json, str) else orjson.dumps(json)
    return HttpRequest(method=request.method, target=request.path, headers=headers, body=body)


def client_turn_request(client: RecordedExchange, config: Config) -> tuple[ClientRequest, TurnRequest] | None:
    """Decode the client's request; return None if it needs no turn.

    :raises RequestError: if it is refused.
    """
    return decode_turn_request(client_request(client), config)


def decode_turn_request(request: HttpRequest, config: Config) -> tuple[ClientRequest, TurnRequest] | None:
    """Decode a client's request; return None if it needs no turn.

    :raises RequestError: if it is refused.
    """
    dialect = DIALECTS.get(route(request.method, request.target).endpoint)
    if dialect is None:
        return None
    asked = dialect.decode(request.body, config)
    context = RequestContext(config=config, headers=dict(request.headers), token="replayed")
    return asked, build_turn_request(asked, context).turn_request


def run_turn_request(
    recording: Recording, exchange: RecordedExchange
) -> tuple[TurnRequest, tuple[PendingCall, ...] | None]:
    """The turn request that starts the recorded run, and the calls that must have been pending."""
    body: Mapping[str, Any] = exchange.request.json if isinstance(exchange.request.json, dict) else {}
    results: list[CallAnswer] = []
    messages: list[Message] = []
    for message in _objects(body.get("messages")):
        approvals = _objects(message.get("approvals"))
        results.extend(_result(approval) for approval in approvals)
        if not approvals:
            # The answer does not depend on the content or the role.
            messages.append(UserMessage(content=str(message.get("content") or message.get("reason"))))
    tools = tuple(
        Tool(name=str(tool.get("name")), parameters=tool.get("parameters") or {})
        for tool in _objects(body.get("client_tools"))
    )
    pending = None
    if results:
        pending = tuple(PendingCall(call_id=result.call_id, request_id="recorded") for result in results)
    turn_request = TurnRequest(
        model=recording.scenario, messages=tuple(messages), results=tuple(results), client_tools=tools
    )
    return turn_request, pending


def pending_after(exchange: RecordedExchange) -> letta.PendingApproval | None:
    """Return the calls that are pending after an exchange, according to its stream."""
    decoder = SSEDecoder(Config().max_event_size)
    decoder.receive_data(exchange.body)
    calls: dict[str, letta.ToolCall] = {}
    message_id, run_id, waits = "", None, False
    while not isinstance(event := decoder.next_event(), Signal):
        try:
            message = letta.decode_message(event.data)
        except RemoteProtocolError:
            return None
        match message:
            case letta.ApprovalRequestMessage():
                message_id, run_id = message.id, message.run_id
                for fragment in message.tool_calls:
                    known = calls.get(fragment.tool_call_id)
                    calls[fragment.tool_call_id] = letta.ToolCall(
                        tool_call_id=fragment.tool_call_id,
                        name=fragment.name or (known.name if known else None),
                        arguments=((known.arguments if known else None) or "") + (fragment.arguments or ""),
                    )
            case letta.StopReason(stop_reason=reason):
                waits = reason == "requires_approval"
    return (
        letta.PendingApproval(id=message_id, tool_calls=tuple(calls.values()), run_id=run_id) if waits else None
    )


def _result(approval: Mapping[str, Any]) -> CallAnswer:
    call_id = str(approval.get("tool_call_id"))
    if approval.get("type") == "tool":
        return ToolResult(
            call_id=call_id,
            content=str(approval.get("tool_return")),
            is_error=approval.get("status") == "error",
        )
    return Decision(call_id=call_id, approve=approval.get("approve") is True)


def _objects(value: object) -> Sequence[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
