"""Plays Letta for a turn, without any I/O."""

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from sansio_letta import Config, Signal, Turn, TurnRequest
from sansio_letta.turn.agent import Agent, PendingCall
from sansio_letta.turn.events import Event
from sansio_letta.turn.request import Tool, ToolResult, UserMessage
from sansio_letta.turn.script import RecallEarlier, nothing_earlier
from sansio_letta.turn.state import RecallHeard, RecallWaiting, nothing_heard, nothing_waits
from sansio_letta.turn.thread_queue import Ticket
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.agents import to_agent
from sansio_letta.upstreams.rest.commands import Command
from sansio_letta.upstreams.rest.live_run import LettaMemory
from sansio_letta.upstreams.rest.recovery import EarlierTurn
from sansio_letta.upstreams.rest.tool_attachment import CreatedTools
from sansio_letta.upstreams.rest.upstream import RestUpstream

AGENT_ID = "agent-11111111-1111-4111-8111-111111111111"
RUN_ID = "run-22222222-2222-4222-8222-222222222222"
SSE = [("content-type", "text/event-stream; charset=utf-8")]
JSON = [("content-type", "application/json")]


def agent(**fields: Any) -> Agent:
    """The agent with these fields of Letta's."""
    return to_agent(letta.Agent(**{"id": AGENT_ID, "name": "Milo", "agent_type": "letta_v1_agent"} | fields))


AGENT = agent()
WEATHER = Tool(name="get_weather", parameters={"type": "object"})


def turn_request(
    *texts: str, results: Iterable[str] = (), tools: Sequence[Tool] = (), model: str = "Milo"
) -> TurnRequest:
    """A turn's request with user messages and results of the calls with these ids."""
    return TurnRequest(
        model=model,
        messages=tuple(UserMessage(content=text) for text in texts),
        results=tuple(ToolResult(call_id=call_id, content="18 C") for call_id in results),
        client_tools=tuple(tools),
    )


def make_turn(
    request: TurnRequest,
    config: Config | None = None,
    agent: Agent | None = None,
    pending: tuple[PendingCall, ...] | None = None,
    *,
    ticket: Ticket | None = None,
    earlier: EarlierTurn | None = None,
    recall_earlier: RecallEarlier = nothing_earlier,
    recall_waiting: RecallWaiting = nothing_waits,
    recall_heard: RecallHeard = nothing_heard,
    created_tools: CreatedTools | None = None,
    memory: LettaMemory | None = None,
    **options: Any,
) -> Turn:
    """A turn with Letta's REST API."""
    config = config or Config()
    memory = memory or LettaMemory(created_tools=CreatedTools() if created_tools is None else created_tools)
    return Turn(
        request,
        RestUpstream(request, config, agent, pending, memory=memory, **options),
        config,
        ticket=ticket or Ticket(),
        earlier=earlier,
        recall_earlier=recall_earlier,
        recall_waiting=recall_waiting,
        recall_heard=recall_heard,
    )


def drain(turn: Turn) -> list[Event | Command]:
    """All items up to the next signal."""
    items: list[Event | Command] = []
    while not isinstance(item := turn.next_event(), Signal):
        items.append(item)
    return items


def answer(turn: Turn, value: object, status: int = 200) -> list[Event | Command]:
    """Letta's whole JSON answer, and what the turn makes of it."""
    turn.receive_response(status, JSON)
    turn.receive_data(orjson.dumps(value))
    turn.receive_data(b"")
    return drain(turn)


def stream(turn: Turn, *messages: dict[str, Any] | str, end: bool = True) -> list[Event | Command]:
    """A run's stream from its head on, and what the turn makes of it."""
    turn.receive_response(200, SSE)
    return more(turn, *messages, end=end)


def more(turn: Turn, *messages: dict[str, Any] | str, end: bool = True) -> list[Event | Command]:
    """More messages of a run."""
    turn.receive_data(b"".join(encode(message) for message in messages)) if messages else None
    items = drain(turn)
    if end and turn.phase.name in ("STREAMING", "LEAVING"):
        turn.receive_data(b"")
        items += drain(turn)
    return items


def encode(message: dict[str, Any] | str) -> bytes:
    """A message as Letta frames it; a string as it stands."""
    data = message.encode() if isinstance(message, str) else orjson.dumps(message)
    return b"data: " + data + b"\n\n"


DONE = "[DONE]"
PING: dict[str, Any] = {"message_type": "ping", "run_id": RUN_ID}
USAGE: dict[str, Any] = {
    "message_type": "usage_statistics",
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
}


def say(text: str, *, id: str = "message-1", step: str = "step-1") -> dict[str, Any]:
    """A fragment of text, which comes last, as Letta has it."""
    return {
        "message_type": "assistant_message",
        "id": id,
        "step_id": step,
        "run_id": RUN_ID,
        "content": text,
    }


def think(text: str, *, id: str = "message-1") -> dict[str, Any]:
    """A fragment of reasoning."""
    return {"message_type": "reasoning_message", "id": id, "reasoning": text, "step_id": "step-1"}


def want(call_id: str, name: str | None, arguments: str | None) -> dict[str, Any]:
    """A fragment of a call that waits for somebody."""
    call = {"tool_call_id": call_id, "name": name, "arguments": arguments}
    return {
        "message_type": "approval_request_message",
        "id": "message-2",
        "tool_call": call,
        "tool_calls": call,
    }


def server_call(call_id: str, name: str | None, arguments: str | None) -> dict[str, Any]:
    """A fragment of a call that Letta carries out."""
    return want(call_id, name, arguments) | {"message_type": "tool_call_message", "step_id": "step-1"}


TOOL_RETURN: dict[str, Any] = {"message_type": "tool_return_message", "id": "message-3", "step_id": "step-1"}


def stop(reason: str = "end_turn") -> dict[str, Any]:
    """The run's stop."""
    return {"message_type": "stop_reason", "stop_reason": reason}


def error(kind: str = "llm_error", message: str = "It broke.", detail: str | None = None) -> dict[str, Any]:
    """The run's failure."""
    return {"message_type": "error_message", "error_type": kind, "message": message, "detail": detail}


CONFLICT = error(
    "internal_error", "CONFLICT: Cannot send a new message: The agent is waiting for approval on a tool call."
)


def agent_json(*pending: str, name: str = "get_weather") -> dict[str, Any]:
    """An agent that waits for the calls with these ids."""
    calls = [{"tool_call_id": call_id, "name": name, "arguments": "{}"} for call_id in pending]
    waits = {"id": "message-2", "tool_calls": calls, "run_id": RUN_ID} if pending else None
    return {
        "id": AGENT_ID,
        "name": "Milo",
        "agent_type": "letta_v1_agent",
        "created_at": "2026-11-22T08:00:33.786720Z",
        "pending_approval": waits,
    }
