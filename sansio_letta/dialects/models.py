"""Agents as models: how all are listed, how one is shown."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from ..turn.agent import Agent
from .chat_completions import objects as chat


def encode_model(agent: Agent, model: str) -> chat.Model:
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


def name_models(agents: Sequence[Agent]) -> list[tuple[str, Agent]]:
    """Agents that are for people, each with its id as a model: its name, or its own id where that is shared."""
    # An id always means its own agent, so a name that is another's id cannot be asked for. What is not shown
    # can be asked for by its name all the same.
    counts = Counter([agent.id for agent in agents] + [agent.name for agent in agents])
    return [(agent.name if counts[agent.name] == 1 else agent.id, agent) for agent in agents if agent.is_listed]


def list_models(agents: Sequence[Agent]) -> chat.ModelList:
    """All agents that are for people as models."""
    return chat.ModelList(data=tuple(encode_model(agent, model) for model, agent in name_models(agents)))


def unix_time(created_at: str | None) -> int:
    """A time as Letta writes it, in seconds; 0 if it is none."""
    try:
        moment = datetime.fromisoformat(created_at or "")
    except ValueError:
        return 0
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
