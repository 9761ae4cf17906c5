"""The upstream of a turn: Letta's REST API, or an App Server."""

from functools import partial

from ..config import Background, Config
from ..dialects.base import RequestContext
from ..dialects.items import ClientRequest
from ..turn.agent import Agent, Caller
from ..turn.request import TurnRequest
from ..turn.thread_queue import Ticket
from ..turn.upstream import Upstream
from ..upstreams.app_server.agent_tools import AgentTools
from ..upstreams.app_server.connection import AppServerConnection
from ..upstreams.app_server.upstream import AppServerUpstream
from ..upstreams.rest.upstream import RestUpstream
from .memory import Memory


def make_upstream(
    app_server: AppServerConnection | None,
    owner: str,
    memory: Memory,
    request: TurnRequest,
    context: RequestContext,
    agent: Agent | None,
    caller: Caller,
    ticket: Ticket,
    now: float,
    asked: ClientRequest,
) -> Upstream:
    """Make the upstream of a turn: the App Server if there is one, or Letta's REST API.

    :param ticket: is woken when an App Server has sent something.
    :param now: monotonic seconds.
    """
    config, threads = context.config, memory.threads
    recall_thread = partial(threads.recall, choice=request.thread)
    if app_server is not None:
        return AppServerUpstream(
            request,
            config,
            app_server,
            wake=lambda: ticket.wake(),
            token=context.token,
            agent=agent,
            caller=caller,
            agent_tools=AgentTools.of(config.agent_tools),
            recall_thread=recall_thread,
        )
    return RestUpstream(
        request,
        config,
        agent,
        background=_wants_background(asked, config),
        caller=caller,
        recall_thread=recall_thread,
        already_sent=threads.was_sent,
        memory=memory.letta,
        expired=threads.take_expired(caller.scope, now - config.client_tool_ttl),
        token=context.token,
        owner=owner,
        created=context.created,
    )


def _wants_background(asked: ClientRequest, config: Config) -> bool:
    policy = config.background
    return policy is Background.ALWAYS or (policy is Background.AUTO and not asked.stream)
