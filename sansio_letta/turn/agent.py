"""The agent that a turn talks to: what it can do, the calls it waits for, and which agents a caller may use."""

import re
from collections.abc import Hashable, Mapping, Sequence
from enum import Enum, auto
from typing import Final

from attrs import field, frozen

#: The id of an agent, on any upstream; an agent may have any other text for a name.
_AGENT_ID: Final = re.compile(r"agent-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def is_agent_id(text: str) -> bool:
    """Whether a text is an agent's id, and so no name."""
    return _AGENT_ID.fullmatch(text) is not None


@frozen(kw_only=True)
class Capabilities:
    """What an agent can do, and what its upstream can do with it.

    A turn asks these questions and no others about the other side. The defaults are those of a modern agent;
    the upstream that finds the agent knows better.

    :param client_tools: takes a client's tools with a request; otherwise they must be attached to it.
    :param conversations: has threads beside its own.
    :param token_stream: its replies can be streamed in fragments; otherwise each message comes whole.
    :param event_stream: its runs have a stream at all; otherwise a run is started, and its end awaited.
    :param call_results: a pending call can be answered with a result; otherwise only be allowed or denied.
    :param message_with_answers: a message may come in one request with the answers to pending calls.
    :param exact_arguments: a call has the arguments that the model wrote and no others.
    :param text_replies: has a way to say anything.
    :param replies_by_tool: what it says may be the argument of a call of the upstream's tool for that.
    :param reads_reply_tool: a call of a tool of that tool's name is what the agent says; otherwise the tool is
        somebody's own, which may send to anybody.
    :param marked_runs: the request for a run can carry a mark by which the run is found.
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


@frozen(kw_only=True)
class Agent:
    """One agent.

    :param agent_type: what its upstream calls its type, for error texts.
    :param created_at: ISO 8601.
    :param context_window: tokens that its language model takes at once, if known.
    :param is_listed: whether it is for people: helpers of other agents, and what is hidden, are not.
    :param tool_names: of its own tools; None: not known.
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
    """Whose tool a pending call is of."""

    CLIENT = auto()  #: the client of this request
    AGENT = auto()  #: the agent itself: a human must allow the call
    DEPARTED = auto()  #: a client that does not offer it any more
    UNKNOWN = auto()  #: neither this client nor the agent has it


@frozen(kw_only=True)
class PendingCall:
    """A call that waits for an answer: a client's tool, or an agent's own tool that a human must allow.

    :param name: as the agent calls the tool.
    :param client_name: as the client of this request calls it, if it is the client's.
    :param request_id: of the message that asks, where the upstream wants it in the answer.
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

    An agent that a caller may not use does not exist for it.

    :param name: of its key, for logs and counters; never the key.
    :param agents: what it may see and use: ids, and names in which ``*`` stands for any text; None: all.
    :param key_is_lettas: its own key goes to Letta, so what Letta says of a key is about the caller's.
    :param realm: what is found with one key is kept apart from what is found with another; never a key itself.
    :param policies: of its key, by their fields of `Config`; others are the server's.
    """

    name: str | None = None
    agents: tuple[str, ...] | None = None
    key_is_lettas: bool = False
    realm: str = field(default="", repr=False)
    policies: Mapping[str, Enum] = field(factory=dict, hash=False)
    _ids: frozenset[str] = field(init=False, repr=False, eq=False)
    _names: tuple[tuple[str, ...], ...] = field(init=False, repr=False, eq=False)

    @_ids.default
    def _find_ids(self) -> frozenset[str]:
        return frozenset(entry for entry in self.agents or () if is_agent_id(entry))

    @_names.default
    def _split_names(self) -> tuple[tuple[str, ...], ...]:
        # An agent may be called what another's id is: an entry that is an id never means a name.
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
    """Whether a name consists of these parts with any text between: each is taken where it comes first."""
    first, *between = parts
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


#: Where no key is asked for.
ANYONE: Final = Caller()
#: A caller without a key, where keys are asked for: there are no agents.
NOBODY: Final = Caller(agents=())
