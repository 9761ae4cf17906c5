"""Agents in the format of Ollama's model list, for programs that look for an Ollama server.

Visual Studio Code's provider for Ollama requests the version, the list and each model (``/api/version``,
``/api/tags``, ``/api/show``), and then chats at ``/v1/chat/completions``. Details of a model's file are left
empty.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

import orjson

from .._convert import json_name
from ..errors import RequestError
from ..turn.agent import Agent
from .models import name_models

#: The version of Ollama that has this format. Visual Studio Code requires 0.6.4 or later.
VERSION: Final = "0.20.0"
_FAMILY: Final = "letta"
_DETAILS: Final = {
    "parent_model": "",
    "format": "",
    "family": _FAMILY,
    "families": [_FAMILY],
    "parameter_size": "",
    "quantization_level": "",
}
_EPOCH: Final = "1970-01-01T00:00:00Z"


def encode_version() -> bytes:
    """Encode the response to ``GET /api/version``."""
    return orjson.dumps({"version": VERSION})


def encode_tags(agents: Sequence[Agent]) -> bytes:
    """Encode the response to ``GET /api/tags``: the listed agents."""
    return orjson.dumps({"models": [_tag(model, agent) for model, agent in name_models(agents)]})


def _tag(model: str, agent: Agent) -> dict[str, Any]:
    return {
        "name": model,
        "model": model,
        "modified_at": agent.created_at or _EPOCH,
        "size": 0,
        "digest": sha256(agent.id.encode()).hexdigest(),
        "details": _DETAILS,
    }


def encode_show(agent: Agent) -> bytes:
    """Encode the response to ``POST /api/show``."""
    info: dict[str, Any] = {"general.architecture": _FAMILY, "general.basename": agent.name}
    if agent.context_window is not None:
        info[f"{_FAMILY}.context_length"] = agent.context_window
    return orjson.dumps(
        {
            "modelfile": "",
            "parameters": "",
            "template": "",
            "details": _DETAILS,
            "model_info": info,
            "capabilities": ["completion", "tools", "vision"],
            "modified_at": agent.created_at or _EPOCH,
        }
    )


def decode_show(data: bytes) -> str:
    """Decode the body of ``POST /api/show``, and return the model's name.

    :raises RequestError: 400, if there is none.
    """
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise RequestError(f"The body is not valid JSON: {exc}.", code="invalid_json") from None
    if type(raw) is not dict:
        raise RequestError(f"The body must be a JSON object, got {json_name(raw)}.", code="invalid_type")
    # Older clients send it as `name`.
    model = raw.get("model") or raw.get("name")
    if type(model) is not str:
        raise RequestError("`model` must be the name or id of an agent.", param="model")
    return model
