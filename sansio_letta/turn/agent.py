"""Agents: their capabilities, their pending calls, and which of them a caller may use."""

import re
from collections.abc import Hashable, Mapping, Sequence
from enum import Enum, auto
from typing import Final

from attrs import field, frozen

from ..config import NamedTools

#: The id of an agent, on any upstream. Any other text may be an agent's name.
_AGENT_ID: Final = re.compile(
    r"agent-(?:local-)?[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
)


def is_agent_id(text: str) -> bool:
    """Whether a text is an agent's id, and not a name."""
    return _AGENT_ID.fullmatch(text) is not None


@frozen(kw_only=True)
class Capabilities:
    """What an agent, and its upstream, can do.

    This is all that a turn knows about the differences between agents and between upstreams. The defaults are
    those of a modern agent; the upstream that finds an agent sets them.

    :param client_tools: it accepts a client's tools in a request; otherwise they must be attached to it.
    :param conversations: it can have threads other than its own.
    :param token_stream: its replies can be streamed in fragments; otherwise each message comes whole.
    :param event_stream: its runs can be streamed at all; otherwise a run is started, and its end awaited.
    :param call_results: a pending call can be answered with a result; otherwise only be allowed or denied.
    :param message_with_answers: a request can contain both a message and answers to pending calls.
    :param exact_arguments: a call has exactly the arguments that the model wrote.
    :param text_replies: it is able to reply with text.
    :param replies_by_tool: its reply may be the argument of a call of the upstream's tool for replies.
    :param reads_reply_tool: a call of a tool of that name is the agent's reply; otherwise, the tool is a custom
        one, which may send messages to others.
    :param marked_runs: the request that starts a run can contain a mark by which the run is found.
    :param continues: a run can be started without any input: the agent goes on from what its thread holds, and
        a reply that comes last there is replaced.
    """

    client_tools: bool = True
    conversations: bool = True
    token_stream: bool = True
    event_stream: bool = True
    call_results: bool = True
    message_with_answers: bool = True
    exact_arguments: bool = True
    text_replies: bool = True
    replies_by_tool: bool = False
    reads_reply_tool: bool = True
    marked_runs: bool = True
    continues: bool = False


@frozen(kw_only=True)
class Agent:
    """One agent.

    :param agent_type: the upstream's name of its type, for error messages.
    :param created_at: ISO 8601.
    :param context_window: of its language model, in tokens, if known.
    :param is_listed: whether it appears in lists of models; helpers of other agents, and hidden agents, do not.
    :param tool_names: of its own tools; None if not known.
    """

    id: str
    name: str
    agent_type: str = ""
    created_at: str | None = None
    context_window: int | None = None
    is_listed: bool = True
    tool_names: frozenset[str] | None = None
    capabilities: Capabilities = field(factory=Capabilities)


class ToolOwner(Enum):
    """The owner of the tool of a pending call."""

    CLIENT = auto()  #: the client of this request
    AGENT = auto()  #: the agent: a human must allow the call
    DEPARTED = auto()  #: a client that no longer offers it
    UNKNOWN = auto()  #: neither this client nor the agent


@frozen(kw_only=True)
class PendingCall:
    """A call that waits for an answer: of a client's tool, or of one of the agent's own that needs approval.

    :param name: the agent's name of the tool.
    :param client_name: this client's name of the tool, if it is the client's.
    :param request_id: the id of the message with the call, if the upstream needs it in the answer.
    """

    call_id: str
    name: str | None = None
    arguments: str | None = field(default=None, repr=False)
    request_id: str | None = None
    owner: ToolOwner = ToolOwner.AGENT
    client_name: str | None = None


@frozen(kw_only=True)
class Caller:
    """The sender of a request: the agents it may use, and its policies.

    For a caller, agents that it may not use do not exist.

    :param name: of its key, for logs and counters; never the key itself.
    :param agents: ids and names of agents that it may use; ``*`` in a name matches any text. None: all.
    :param key_is_lettas: its own key is sent to Letta, so that errors about a key are about the caller's.
    :param realm: separates what is remembered for different keys; never a key itself.
    :param policies: of its key, by their fields of `Config`; the server's apply otherwise.
    """

    name: str | None = None
    agents: tuple[str, ...] | None = None
    key_is_lettas: bool = False
    realm: str = field(default="", repr=False)
    policies: Mapping[str, Enum | NamedTools] = field(factory=dict, hash=False)
    _ids: frozenset[str] = field(init=False, repr=False, eq=False)
    _names: tuple[tuple[str, ...], ...] = field(init=False, repr=False, eq=False)

    @_ids.default
    def _find_ids(self) -> frozenset[str]:
        return frozenset(entry for entry in self.agents or () if is_agent_id(entry))

    @_names.default
    def _split_names(self) -> tuple[tuple[str, ...], ...]:
        # The name of an agent may look like the id of another, so an entry that is an id never matches a name.
        return tuple(tuple(entry.split("*")) for entry in self.agents or () if not is_agent_id(entry))

    def may_use(self, agent: Agent) -> bool:
        """Whether the agent exists for this caller."""
        if self.agents is None:
            return True
        return agent.id in self._ids or any(_fits(agent.name, parts) for parts in self._names)

    @property
    def scope(self) -> Hashable:
        """Callers of the same scope see the same agents under the same names."""
        return self.realm, self.agents


def _fits(name: str, parts: Sequence[str]) -> bool:
    """Whether a name consists of these parts, with any text between them."""
    first, *between = parts  # each is matched where it occurs first
    if not between:
        return name == first
    last, at = between.pop(), len(first)
    if not name.startswith(first) or not name.endswith(last):
        return False
    for part in between:
        found = name.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return at <= len(name) - len(last)


#: Any caller, where no keys are required.
ANYONE: Final = Caller()
#: A caller without a key, where keys are required: it may use no agents.
NOBODY: Final = Caller(agents=())
