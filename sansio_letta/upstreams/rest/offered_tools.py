"""The client's tools in one turn: in each request for a run, or attached to the agent."""

from collections.abc import Hashable, Mapping

from attrs import define, field

from ...config import ClientTools
from ...errors import RequestError, RequestField
from ...turn.agent import Agent
from ...turn.request import Tool
from .attached_tools import OfferedTool, Stamp, offer_attached, offer_in_request
from .tool_attachment import Cleaning, CreatedTools, ToolAttachment, sweep_tools


@define(kw_only=True)
class OfferedTools:
    """The tools that a client offers to an agent.

    They are sent in each request for a run, or attached to the agent from its first run to the end of the turn.

    :param offered: the tools, as the agent is to see them.
    :param client_names: the client's names of tools that are offered under other names.
    :param policy: which agents get tools attached.
    :param ttl: seconds that attached tools are kept in Letta. If the process dies, the agent has them for as
        long.
    :param created_tools: the tools that the turns of the process have created in Letta.
    :param scope: the caller's.
    :param owner: unique to the turn.
    :param now: when the request was received, Unix time in seconds.
    """

    offered: tuple[Tool, ...]
    client_names: Mapping[str, str] = field(factory=dict)
    policy: ClientTools
    ttl: float
    created_tools: CreatedTools
    scope: Hashable = None
    owner: str
    now: int
    _tools: tuple[OfferedTool, ...] = field(default=(), init=False)
    _attachment: ToolAttachment | None = field(default=None, init=False)  #: if they are to be attached

    def fit(self, agent: Agent) -> None:
        """Decide how the agent gets the tools, now that it is known.

        :raises RequestError: if it cannot get them.
        """
        self._attachment = None
        if self.attaches_to(agent):
            self._tools = offer_attached(self.offered, adds_arguments=not agent.capabilities.exact_arguments)
            if self._tools:
                stamp = Stamp(until=self.now + int(self.ttl), owner=self.owner)
                self._attachment = ToolAttachment(
                    agent_id=agent.id,
                    tools=self._tools,
                    stamp=stamp,
                    now=self.now,
                    created_tools=self.created_tools,
                    scope=self.scope,
                )
        elif self.offered and not agent.capabilities.client_tools:
            raise RequestError(
                f"The agent is of type {agent.agent_type}, which does not take a client's tools with a "
                "request, and this proxy attaches none: leave `{field}` out, or use an agent of type "
                "letta_v1_agent.",
                field=RequestField.TOOLS,
                code="unsupported_parameter",
            )
        else:
            self._tools = offer_in_request(self.offered, agent.tool_names or ())

    def attaches_to(self, agent: Agent) -> bool:
        """Return whether tools are attached to this agent. Attached tools are visible in all its threads."""
        is_needed = self.policy is ClientTools.AUTO and not agent.capabilities.client_tools
        return self.policy is ClientTools.ATTACH or is_needed

    @property
    def names(self) -> dict[str, str]:
        """The client's names of the tools, by their names in Letta."""
        return {offer.tool.name: self.client_names.get(offer.name, offer.name) for offer in self._tools}

    @property
    def names_at_letta(self) -> dict[str, str]:
        """The names in Letta of the tools that are renamed, by the names under which they are offered."""
        return {offer.name: offer.tool.name for offer in self._tools if offer.name != offer.tool.name}

    @property
    def in_request(self) -> tuple[Tool, ...]:
        """The tools to send in a request for a run."""
        return () if self._attachment is not None else tuple(offer.tool for offer in self._tools)

    @property
    def to_attach(self) -> ToolAttachment | None:
        """The tools to attach before a run."""
        return None if self._attachment is None or self._attachment.is_attached else self._attachment

    @property
    def to_detach(self) -> ToolAttachment | None:
        """The tools to detach after the last run."""
        return self._attachment if self._attachment is not None and self._attachment.is_attached else None

    @property
    def sweep(self) -> Cleaning | None:
        """Commands that delete expired tools, if this turn created tools or all known tools have expired."""
        has_made = self._attachment is not None and self._attachment.has_made
        return (
            self._sweep_expired() if has_made or self.created_tools.have_expired(self.scope, self.now) else None
        )

    def _sweep_expired(self) -> Cleaning:
        if (yield from sweep_tools(self.now)):
            self.created_tools.forget_expired(self.scope, self.now)
