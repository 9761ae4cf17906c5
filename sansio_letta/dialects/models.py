"""Agents as models of the OpenAI API: the model list, and a single model."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Literal

import orjson
from attrs import frozen
from cattrs import Converter
from cattrs.gen import make_dict_unstructure_fn, override

from .._convert import unix_time
from ..turn.agent import Agent


@frozen(kw_only=True)
class Model:
    """One agent, as a model."""

    id: str
    object: Literal["model"] = "model"
    created: int  #: Unix time in seconds; 0 if Letta does not know
    name: str | None = None  #: the agent's name, if the id is not; Open WebUI shows it
    owned_by: Literal["letta"] = "letta"
    #: The language model's, under the names that programs look for: OpenRouter's, vLLM's, Groq's.
    context_length: int | None = None
    max_model_len: int | None = None
    context_window: int | None = None


@frozen(kw_only=True)
class ModelList:
    object: Literal["list"] = "list"
    data: tuple[Model, ...]


def encode(value: Model | ModelList) -> bytes:
    """Encode the value as a JSON body."""
    return orjson.dumps(_wire.unstructure(value))


def _make_converter() -> Converter:
    converter = Converter(unstruct_collection_overrides={tuple: list})
    omit: Any = override(omit_if_default=True)
    names = ("name", "context_length", "max_model_len", "context_window")
    converter.register_unstructure_hook(
        Model, make_dict_unstructure_fn(Model, converter, **dict.fromkeys(names, omit))
    )
    return converter


_wire: Final = _make_converter()


def encode_model(agent: Agent, model: str) -> Model:
    """Describe an agent as a model.

    :param model: its id for the client. If it is not the agent's name, that is added.
    """
    size = agent.context_window
    return Model(
        id=model,
        created=unix_time(agent.created_at),
        name=agent.name if agent.name != model else None,
        context_length=size,
        max_model_len=size,
        context_window=size,
    )


def name_models(agents: Sequence[Agent]) -> list[tuple[str, Agent]]:
    """Return the listed agents with their ids as models: the agent's name if it is unique, or else its id."""
    # An id always means its own agent, so a name that is another agent's id cannot be used. Agents that are not
    # listed count as well, since clients can still use them by name.
    counts = Counter([agent.id for agent in agents] + [agent.name for agent in agents])
    return [(agent.name if counts[agent.name] == 1 else agent.id, agent) for agent in agents if agent.is_listed]


def model_list(agents: Sequence[Agent]) -> ModelList:
    """List the agents as models."""
    return ModelList(data=tuple(encode_model(agent, model) for model, agent in name_models(agents)))
