"""Agents as models: which are remembered, how all are listed, how one is shown."""

from collections import Counter, OrderedDict
from collections.abc import Hashable, Sequence
from datetime import UTC, datetime

from attrs import define, field, frozen

from ..proxy.access import ANYONE, Caller
from ..upstreams.rest import letta
from .chat_completions import objects as chat


@frozen
class _Remembered:
    agent: letta.Agent
    until: float


@define
class AgentMemory:
    """Agents that were found by a model's name or id, for a while; a lookup costs Letta a query.

    A name may stand for different agents to callers who see different ones: each scope has its own.

    :param ttl: seconds that an agent is remembered.
    :param max_count: names remembered; beyond it the oldest is dropped.
    """

    ttl: float
    max_count: int
    _agents: OrderedDict[tuple[Hashable, str], _Remembered] = field(factory=OrderedDict, init=False)

    def recall(self, model: str, now: float, caller: Caller = ANYONE) -> letta.Agent | None:
        """The agent of this name or id, if it was found not long ago.

        :param now: monotonic seconds, here and below.
        """
        remembered = self._agents.get((caller.scope, model))
        return remembered.agent if remembered is not None and now < remembered.until else None

    def remember(self, model: str, agent: letta.Agent, now: float, caller: Caller = ANYONE) -> None:
        """What was just found; a state of the moment, like a pending call, does not count."""
        self._agents[caller.scope, model] = _Remembered(agent, now + self.ttl)
        self._agents.move_to_end((caller.scope, model))
        if len(self._agents) > self.max_count:
            self._agents.popitem(last=False)

    def forget(self, agent_id: str) -> None:
        """The agent is gone, under whatever names it was known."""
        for key in [key for key, known in self._agents.items() if known.agent.id == agent_id]:
            del self._agents[key]


def encode_model(agent: letta.Agent, model: str) -> chat.Model:
    """An agent as a model.

    :param model: its id for the client; the agent's name is shown beside it where the two differ.
    """
    size = agent.context_window
    return chat.Model(
        id=model,
        created=unix_time(agent.created_at),
        name=agent.name if agent.name != model else None,
        context_length=size,
        max_model_len=size,
        context_window=size,
    )


def name_models(agents: Sequence[letta.Agent]) -> list[tuple[str, letta.Agent]]:
    """Agents that are for people, each with its id as a model: its name, or its own id where that is shared."""
    # An id always means its own agent, so a name that is another's id cannot be asked for. What is not shown
    # can be asked for by its name all the same.
    counts = Counter([agent.id for agent in agents] + [agent.name for agent in agents])
    return [(agent.name if counts[agent.name] == 1 else agent.id, agent) for agent in agents if agent.is_listed]


def list_models(agents: Sequence[letta.Agent]) -> chat.ModelList:
    """All agents that are for people as models."""
    return chat.ModelList(data=tuple(encode_model(agent, model) for model, agent in name_models(agents)))


def unix_time(created_at: str | None) -> int:
    """A time as Letta writes it, in seconds; 0 if it is none."""
    try:
        moment = datetime.fromisoformat(created_at or "")
    except ValueError:
        return 0
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
