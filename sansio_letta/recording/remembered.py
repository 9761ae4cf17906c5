"""What a recorded proxy must have remembered, since it did not ask: a replay asks for no more than it did."""

from typing import Final

from attrs import frozen

from ..errors import RemoteProtocolError
from ..turn.agent import Agent, is_agent_id
from ..turn.events import ConversationThread
from ..upstreams.rest import letta
from ..upstreams.rest.agents import to_agent
from .format import RecordedExchange, Recording

#: Stands for an agent of which the recording names nothing.
_NO_AGENT_ID: Final = "agent-00000000-0000-4000-8000-000000000000"


@frozen(kw_only=True)
class Remembered:
    """What was known when the recorded request came."""

    agent: Agent | None = None
    thread: ConversationThread | None = None


def remembered(recording: Recording, model: str) -> Remembered:
    """What the proxy of a recording knew of the agent and of the chat's conversation.

    :param model: as the client asked.
    """
    exchanges = recording.exchanges
    first = next(iter(exchanges), None)
    if first is None:
        return Remembered()
    run = next((exchange for exchange in exchanges if exchange.starts_run), None)
    thread = _conversation(run) if run is not None and not any(map(_searches, exchanges)) else None
    if first.request.path.startswith("/v1/agents/?") or (_agent_id(first) == model and not first.starts_run):
        return Remembered(thread=thread)
    agent_id = next((found for found in map(_agent_id, exchanges) if found), None)
    if agent_id is None and thread is None and not _searches(first):
        return Remembered()
    return Remembered(agent=_agent(agent_id, model, run), thread=thread)


def agent_of(exchange: RecordedExchange, name: str = "unknown") -> Agent:
    """The agent that an exchange is about, as far as its path tells.

    :param name: what it is called, which no path tells.
    """
    parts = exchange.request.path.split("/")
    return _agent(parts[3] if len(parts) > 4 and parts[2] == "agents" else None, name, exchange)


def _agent(agent_id: str | None, name: str, run: RecordedExchange | None) -> Agent:
    # Of a legacy agent no tokens are streamed.
    body = run.request.json if run is not None else None
    is_followed = run is not None and run.request.path.endswith("/messages/async")
    is_legacy = is_followed or (isinstance(body, dict) and body.get("stream_tokens") is False)
    agent = letta.Agent(
        id=agent_id or _NO_AGENT_ID,
        name=name,
        agent_type="memgpt_v2_agent" if is_legacy else "letta_v1_agent",
        enable_sleeptime=is_followed,
    )
    return to_agent(agent)


def attached_tools(recording: Recording) -> bool:
    """Whether the client's tools were attached to the agent, as some do for agents of any type."""
    return any("include=agent.tags" in exchange.request.path for exchange in recording.exchanges)


def found_agent_id(recording: Recording, known: Remembered) -> str | None:
    """The agent's id, whether it was known or was asked for."""
    if known.agent is not None:
        return known.agent.id
    first = recording.exchanges[0]
    try:
        agents = letta.decode_agents(first.body)
    except RemoteProtocolError:
        return None
    return agents[0].id if agents else None


def _searches(exchange: RecordedExchange) -> bool:
    """Whether a conversation was looked for, or made."""
    path = exchange.request.path
    return path.startswith("/v1/conversations/?") or (
        exchange.request.method == "GET" and path.startswith("/v1/conversations/") and path.count("/") == 3
    )


def _conversation(exchange: RecordedExchange) -> ConversationThread | None:
    parts = exchange.request.path.split("/")
    return ConversationThread(conversation_id=parts[3]) if parts[2] == "conversations" else None


def _agent_id(exchange: RecordedExchange) -> str | None:
    """The agent that a request names in its path, or in its query."""
    path = exchange.request.path
    parts = path.partition("?")[0].split("/")
    named = (
        parts[3]
        if len(parts) > 3 and parts[2] == "agents"
        else path.partition("agent_id=")[2].partition("&")[0]
    )
    return named if is_agent_id(named) else None
