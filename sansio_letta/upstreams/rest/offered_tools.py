"""The client's tools in one turn: how the agent is given them, and what is left of them when it ends."""

from collections.abc import Hashable, Mapping

from attrs import define, field

from ...config import ClientTools
from ...errors import RequestError, RequestField
from ...turn.agent import Agent
from ...turn.request import Tool
from .attached_tools import OfferedTool, Stamp, offer_attached, offer_in_request
from .tool_attachment import Cleaning, MadeTools, ToolAttachment, sweep_tools


@define(kw_only=True)
class OfferedTools:
    """They go with each request for a run; or they are attached to the agent, from its first run to the end.

    :param offered: as the agent is to have them.
    :param client_names: the client's names for those that are offered under another.
    :param policy: how agents are given them.
    :param ttl: seconds that those to attach are kept at Letta, and that the agent has them if the process dies.
    :param made: what the process's turns have made at Letta.
    :param scope: the caller's.
    :param owner: unique to the turn.
    :param now: when its request came, Unix time in seconds.
    """

    offered: tuple[Tool, ...]
    client_names: Mapping[str, str] = field(factory=dict)
    policy: ClientTools
    ttl: float
    made: MadeTools
    scope: Hashable = None
    owner: str
    now: int
    is_awaited: bool = field(default=False, init=False)  #: the agent waits for what the client makes of a call
    _tools: tuple[OfferedTool, ...] = field(default=(), init=False)
    _attachment: ToolAttachment | None = field(default=None, init=False)  #: of these, if they are attached

    def fit(self, agent: Agent) -> None:
        """The agent is known: find out how it is given them.

        :raises RequestError: if it cannot be.
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
                    made=self.made,
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
        """Whether the agent is given a client's tools by attaching them to it: all who speak to it see them."""
        is_needed = self.policy is ClientTools.AUTO and not agent.capabilities.client_tools
        return self.policy is ClientTools.ATTACH or is_needed

    @property
    def names(self) -> dict[str, str]:
        """What they are called at Letta, and the client's names for them."""
        return {offer.tool.name: self.client_names.get(offer.name, offer.name) for offer in self._tools}

    @property
    def names_at_letta(self) -> dict[str, str]:
        """What those are called there that have another name, by the names in which they are offered."""
        return {offer.name: offer.tool.name for offer in self._tools if offer.name != offer.tool.name}

    @property
    def in_request(self) -> tuple[Tool, ...]:
        """Those that go with the request for a run."""
        return () if self._attachment is not None else tuple(offer.tool for offer in self._tools)

    @property
    def to_attach(self) -> ToolAttachment | None:
        """What must be given to the agent before a run."""
        return None if self._attachment is None or self._attachment.is_attached else self._attachment

    @property
    def to_detach(self) -> ToolAttachment | None:
        """What must be taken back from it after the last."""
        return self._attachment if self._attachment is not None and self._attachment.is_attached else None

    @property
    def forgotten(self) -> Cleaning | None:
        """Deletes what has expired: behind a turn that made a tool, or once all that was made has expired."""
        has_made = self._attachment is not None and self._attachment.has_made
        return self._sweep() if has_made or self.made.have_expired(self.scope, self.now) else None

    def _sweep(self) -> Cleaning:
        if (yield from sweep_tools(self.now)):
            self.made.forget_expired(self.scope, self.now)
