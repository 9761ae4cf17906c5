"""Upgrades recordings of versions 1 and 2 to version 3, deriving from paths what they do not contain.

Version 1 was written by a recorder between a program and Letta. It has no client, and each run is for the agent
in its path. Version 2 was written by the proxy, and does not contain what the proxy knew beforehand: what it
did not request, it knew.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from attrs import evolve

from ..errors import RemoteProtocolError
from ..turn.agent import is_agent_id
from ..upstreams.rest import commands, letta
from ..upstreams.rest.agents import decode_agents, to_agent
from .format import COMMANDS, RecordedAgent, RecordedExchange, RecordedOptions, RecordedState, Recording

#: Placeholder for an agent that the recording does not name.
_NO_AGENT_ID: Final = "agent-00000000-0000-4000-8000-000000000000"

_AGENT: Final = "/v1/agents/[^/?]+"
_CONVERSATION: Final = "/v1/conversations/[^/?]+"
_RUN: Final = "/v1/runs/[^/?]+"
_TOOL: Final = "/v1/tools/[^/?]+"
#: Method and path of each command, with the query where needed to distinguish them; the first match counts.
_PATHS: Final[tuple[tuple[type[Any], str, str], ...]] = (
    (commands.FindAgent, "GET", r"/v1/agents/\?name=.*"),
    (commands.FindToolboxes, "GET", r"/v1/agents/\?tags=.*"),
    (commands.ListAgents, "GET", r"/v1/agents/\?limit=.*"),
    (commands.FetchToolbox, "GET", _AGENT + r"\?.*include=agent\.tags"),
    (commands.FetchAgent, "GET", _AGENT + r"(?:\?include=.*)?"),
    (commands.ChangeToolbox, "PATCH", _AGENT),
    (commands.OpenStream, "POST", _AGENT + "/messages/(?:stream|async)"),
    (commands.OpenStream, "POST", _CONVERSATION + "/messages"),
    (commands.AnswerCalls, "POST", _AGENT + "/messages"),
    (commands.CancelRun, "POST", _AGENT + "/messages/cancel"),
    (commands.ResumeRun, "POST", _RUN + "/stream"),
    (commands.FindRuns, "GET", r"/v1/runs/\?.*"),
    (commands.FetchKept, "GET", _RUN + r"/messages\?.*"),
    (commands.FetchUsage, "GET", _RUN + "/usage"),
    (commands.FetchRun, "GET", _RUN),
    (commands.FindConversations, "GET", r"/v1/conversations/\?.*"),
    (commands.CreateConversation, "POST", r"/v1/conversations/\?.*"),
    (commands.FetchLast, "GET", _CONVERSATION + r"/messages\?.*"),
    (commands.FetchConversation, "GET", _CONVERSATION),
    (commands.UpdateConversation, "PATCH", _CONVERSATION),
    (commands.DeleteConversation, "DELETE", _CONVERSATION),
    (commands.FindTools, "GET", r"/v1/tools/\?names=.*"),
    (commands.SearchTools, "GET", r"/v1/tools/\?search=.*"),
    (commands.MakeTool, "PUT", "/v1/tools/"),
    (commands.DeleteTool, "DELETE", _TOOL),
    (commands.CheckHealth, "GET", "/v1/health/"),
)


def upgrade(recording: Recording) -> Recording:
    """Return a recording in the form of version 3; `head.v` stays the same.

    :param recording: a recording of version 1 or 2, as read.
    """
    exchanges = tuple(
        evolve(exchange, request=evolve(exchange.request, command=_command(exchange)))
        for exchange in recording.exchanges
    )
    recording = evolve(recording, exchanges=exchanges)
    if recording.client is None:
        return evolve(recording, exchanges=tuple(map(_with_agent, exchanges)))
    return evolve(
        recording, head=evolve(recording.head, initial=_initial_state(recording), options=_options(exchanges))
    )


def _command(exchange: RecordedExchange) -> str | None:
    request = exchange.request
    for kind, method, path in _PATHS:
        if request.method == method and re.fullmatch(path, request.path):
            return COMMANDS[kind]
    return None


def _with_agent(exchange: RecordedExchange) -> RecordedExchange:
    if not exchange.starts_run:
        return exchange
    return evolve(exchange, request=evolve(exchange.request, agent=_agent(_agent_in_path(exchange), exchange)))


def _options(exchanges: tuple[RecordedExchange, ...]) -> RecordedOptions:
    asked = {exchange.request.command for exchange in exchanges}
    return RecordedOptions(
        client_tools="attach" if COMMANDS[commands.FetchToolbox] in asked else "auto",
        finds_runs=COMMANDS[commands.FindRuns] in asked,
    )


def _initial_state(recording: Recording) -> RecordedState:
    run = next((exchange for exchange in recording.exchanges if exchange.starts_run), None)
    agent = _known_agent(recording, run)
    found = agent.id if agent is not None else _found_agent_id(recording)
    thread = None if run is None or any(map(_searches, recording.exchanges)) else _conversation_id(run)
    body = _object(run.request.json) if run is not None else {}
    return RecordedState(
        agent=agent,
        threads={found: thread} if found is not None and thread is not None else {},
        background=not body or bool(body.get("background")),
    )


def _known_agent(recording: Recording, run: RecordedExchange | None) -> RecordedAgent | None:
    """Return the agent, if the proxy did not look it up."""
    first = next(iter(recording.exchanges), None)
    client = recording.client
    if first is None or client is None:
        return None
    model = _object(client.request.json).get("model")
    if first.request.path.startswith("/v1/agents/?") or (_agent_id(first) == model and not first.starts_run):
        return None
    agent_id = next((found for found in map(_agent_id, recording.exchanges) if found), None)
    is_thread_known = run is not None and _conversation_id(run) is not None
    if not isinstance(model, str) or (agent_id is None and not is_thread_known and not _searches(first)):
        return None
    return _agent(agent_id, run, name=model)


def _agent(agent_id: str | None, run: RecordedExchange | None, *, name: str = "") -> RecordedAgent:
    # Legacy agents stream no tokens.
    is_followed = run is not None and run.request.path.endswith("/messages/async")
    is_legacy = is_followed or (run is not None and _object(run.request.json).get("stream_tokens") is False)
    agent = letta.Agent(
        id=agent_id or _NO_AGENT_ID,
        name=name,
        agent_type="memgpt_v2_agent" if is_legacy else "letta_v1_agent",
        enable_sleeptime=is_followed,
    )
    return RecordedAgent.of(to_agent(agent))


def _found_agent_id(recording: Recording) -> str | None:
    """Return the id of the first agent that was requested."""
    first = next(iter(recording.exchanges), None)
    if first is None:
        return None
    try:
        agents = decode_agents(first.body)
    except RemoteProtocolError:
        return None
    return agents[0].id if agents else None


def _searches(exchange: RecordedExchange) -> bool:
    """Return whether an exchange searched for a conversation."""
    return exchange.request.command in (
        COMMANDS[commands.FindConversations],
        COMMANDS[commands.FetchConversation],
    )


def _conversation_id(exchange: RecordedExchange) -> str | None:
    parts = exchange.request.path.split("/")
    return parts[3] if parts[2] == "conversations" else None


def _agent_in_path(exchange: RecordedExchange) -> str | None:
    parts = exchange.request.path.split("/")
    return parts[3] if len(parts) > 4 and parts[2] == "agents" else None


def _agent_id(exchange: RecordedExchange) -> str | None:
    """Return the agent in the path or the query of a request."""
    path = exchange.request.path
    parts = path.partition("?")[0].split("/")
    named = (
        parts[3]
        if len(parts) > 3 and parts[2] == "agents"
        else path.partition("agent_id=")[2].partition("&")[0]
    )
    return named if is_agent_id(named) else None


def _object(json: object) -> Mapping[str, Any]:
    return json if isinstance(json, dict) else {}
