"""Agents as Letta's REST API shows them: how one is found by its name or id, and what it can do."""

from collections.abc import Callable
from typing import Final

from attrs import frozen

from ...errors import ambiguous_model, unknown_model
from ...turn.agent import Agent, Capabilities, PendingCall, is_agent_id
from . import letta
from .commands import FetchAgent, FindAgent
from .response import Response

#: Characters of a model's name. A longer one would not fit into a request line with its escapes.
_MAX_NAME_SIZE: Final = 512

#: Agents that Letta makes beside others, to work on their memory.
_HELPER_TYPES: Final = frozenset({"sleeptime_agent", "voice_sleeptime_agent"})


@frozen(kw_only=True)
class FoundAgent:
    """An agent, and the calls that it waits for in its own thread, if that was asked, too."""

    agent: Agent
    pending: tuple[PendingCall, ...] = ()


def find_agent(model: str, *, with_pending: bool = False) -> FindAgent | FetchAgent:
    """The question which agent a model's name, or an agent's id, stands for.

    :raises RequestError: if the name is too long to be any agent's; it need not be sent.
    """
    if len(model) > _MAX_NAME_SIZE:
        raise unknown_model(model)
    if is_agent_id(model):
        return FetchAgent(agent_id=model)
    return FindAgent(name=model, with_pending=with_pending)


def found_agent(
    model: str, response: Response, may_use: Callable[[Agent], bool] = lambda _: True
) -> FoundAgent:
    """The answer to `find_agent`.

    :param may_use: whether an agent exists for the one who asks; there is no word of any other.
    :raises RequestError: if no agent has the name or id, or several have.
    :raises LettaError: if Letta refused to tell.
    :raises RemoteProtocolError: if the answer cannot be read.
    """
    if is_agent_id(model):
        if response.status == 404:
            raise unknown_model(model)
        agents = [letta.decode_agent(response.data)]
    else:
        # Letta's filter is exact; a gateway's or a stand-in's might not be.
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
    """A page of the list of agents.

    :raises RemoteProtocolError: if it is no list of agents.
    """
    return tuple(map(to_agent, letta.decode_agents(data)))


def to_agent(agent: letta.Agent) -> Agent:
    """An agent for the turn."""
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
    """What an agent can do, by its type and its tools.

    Agents of types from before letta_v1_agent are run by an older loop. Such a legacy agent speaks through a
    tool, ``send_message``, and its calls have one argument more. It never offers a request's ``client_tools``
    to its model (legacy_ephemeral_tool.jsonl); has no conversations, though Letta takes messages for them
    (legacy_conversation.jsonl); loses text if tokens are streamed (legacy_token_streaming.jsonl); knows only
    approval and denial of a call (legacy_client_tool.jsonl); and forgets an answer that a message follows
    (legacy_answer_lost.jsonl). With ``enable_sleeptime`` Letta 0.16.7 fails on every request for its stream,
    with a TypeError of its own (legacy_sleeptime.jsonl).

    Letta gives its tool ``send_message`` to legacy agents, and to every agent that is made with
    ``enable_sleeptime`` (sleeptime_reply.jsonl). The argument that it speaks by is the one whose name can carry
    a mark otherwise.
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
    """The calls that a message asks about."""
    if request is None:
        return ()
    return tuple(
        PendingCall(call_id=call.tool_call_id, name=call.name, arguments=call.arguments, request_id=request.id)
        for call in request.tool_calls
    )
