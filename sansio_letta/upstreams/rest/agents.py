"""Look up agents by name or id, and find out what they can do."""

from collections.abc import Callable
from typing import Final

from attrs import frozen

from ...errors import ambiguous_model, unknown_model
from ...turn.agent import Agent, Capabilities, PendingCall, is_agent_id
from . import letta
from .commands import FetchAgent, FindAgent
from .response import Response

#: Limit for a model's name, in characters. With escapes, a longer one would not fit into a request line.
_MAX_NAME_SIZE: Final = 512

#: Agents that Letta creates next to others, to work on their memory.
_HELPER_TYPES: Final = frozenset({"sleeptime_agent", "voice_sleeptime_agent"})


@frozen(kw_only=True)
class FoundAgent:
    """An agent, and the pending calls of its own thread, if these were requested."""

    agent: Agent
    pending: tuple[PendingCall, ...] = ()


def find_agent(model: str, *, with_pending: bool = False) -> FindAgent | FetchAgent:
    """Return the command that looks up the agent with this name or id.

    :raises RequestError: if no agent can have a name this long.
    """
    if len(model) > _MAX_NAME_SIZE:
        raise unknown_model(model)
    if is_agent_id(model):
        return FetchAgent(agent_id=model)
    return FindAgent(name=model, with_pending=with_pending)


def found_agent(
    model: str, response: Response, may_use: Callable[[Agent], bool] = lambda _: True
) -> FoundAgent:
    """Return the agent in the response to `find_agent`.

    :param may_use: returns whether the client may use an agent. Others are treated as if they did not exist.
    :raises RequestError: if no agent has the name or id, or several have the name.
    :raises LettaError: if the status is not 200.
    :raises RemoteProtocolError: if the response cannot be read.
    """
    if is_agent_id(model):
        if response.status == 404:
            raise unknown_model(model)
        agents = [letta.decode_agent(response.data)]
    else:
        # Letta matches the whole name; a gateway or another implementation might not.
        agents = [agent for agent in letta.decode_agents(response.data) if agent.name == model]
    found = [
        FoundAgent(agent=agent, pending=pending_calls(wire.pending_approval))
        for wire in agents
        if may_use(agent := to_agent(wire))
    ]
    if not found:
        raise unknown_model(model)
    if len(found) > 1:
        raise ambiguous_model(model, [item.agent.id for item in found])
    return found[0]


def decode_agents(data: bytes) -> tuple[Agent, ...]:
    """Decode a page of the list of agents.

    :raises RemoteProtocolError: if it is not a list of agents.
    """
    return tuple(map(to_agent, letta.decode_agents(data)))


def to_agent(agent: letta.Agent) -> Agent:
    """Convert an agent."""
    return Agent(
        id=agent.id,
        name=agent.name,
        agent_type=agent.agent_type,
        created_at=agent.created_at,
        context_window=None if agent.llm_config is None else agent.llm_config.context_window,
        is_listed=not agent.hidden and agent.agent_type not in _HELPER_TYPES,
        tool_names=None if agent.tools is None else frozenset(tool.name for tool in agent.tools if tool.name),
        capabilities=_capabilities(agent),
    )


def _capabilities(agent: letta.Agent) -> Capabilities:
    """Return what an agent can do, by its type and its tools.

    Agents of types older than letta_v1_agent use an older loop. Such a legacy agent replies by calling a tool,
    ``send_message``, and its calls have one more argument. It never offers a request's ``client_tools`` to its
    model (legacy_ephemeral_tool.jsonl); has no conversations, although Letta accepts messages for them
    (legacy_conversation.jsonl); loses text if tokens are streamed (legacy_token_streaming.jsonl); knows only
    approval and denial of a call (legacy_client_tool.jsonl); and loses an answer that is followed by a message
    (legacy_answer_lost.jsonl). With ``enable_sleeptime``, Letta 0.16.7 fails with a TypeError on every request
    for its stream (legacy_sleeptime.jsonl).

    Letta adds ``send_message`` to legacy agents, and to each agent that is created with ``enable_sleeptime``
    (sleeptime_reply.jsonl). Runs of these agents cannot be marked, since the name of its argument is where the
    mark of other runs is.
    """
    is_legacy = agent.agent_type not in ("letta_v1_agent", "sleeptime_agent")
    senders = [tool for tool in agent.tools or () if tool.name == letta.SEND_MESSAGE]
    replies_by_tool = any(not _is_foreign(tool) for tool in senders)
    return Capabilities(
        client_tools=not is_legacy,
        conversations=not is_legacy,
        token_stream=not is_legacy,
        event_stream=not (is_legacy and agent.enable_sleeptime),
        call_results=not is_legacy,
        message_with_answers=not is_legacy,
        exact_arguments=not is_legacy,
        text_replies=not is_legacy or agent.tools is None or bool(senders),
        replies_by_tool=replies_by_tool,
        reads_reply_tool=not any(map(_is_foreign, senders)),
        marked_runs=not is_legacy and not replies_by_tool,
    )


def _is_foreign(tool: letta.OwnTool) -> bool:
    return tool.tool_type is not None and not tool.tool_type.startswith("letta_")


def pending_calls(request: letta.PendingApproval | None) -> tuple[PendingCall, ...]:
    """Convert the calls of an approval request."""
    if request is None:
        return ()
    return tuple(
        PendingCall(call_id=call.tool_call_id, name=call.name, arguments=call.arguments, request_id=request.id)
        for call in request.tool_calls
    )
