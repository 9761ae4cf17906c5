"""Routing: the endpoint for a method and a path, or an error that says what to use instead."""

import re
from collections.abc import Mapping
from enum import Enum, auto
from typing import Final
from urllib.parse import unquote

from attrs import frozen

from ..dialects.base import Dialect
from ..dialects.chat_completions.dialect import CHAT_COMPLETIONS
from ..errors import RequestError


class Endpoint(Enum):
    CHAT = auto()
    MODELS = auto()
    MODEL = auto()
    OLLAMA_VERSION = auto()  #: for programs that look for an Ollama server
    OLLAMA_TAGS = auto()
    OLLAMA_SHOW = auto()
    HEALTH = auto()  #: whether the process is alive
    READY = auto()  #: whether Letta responds
    ROOT = auto()
    PREFLIGHT = auto()


#: Endpoints for conversations with agents -> the dialect of each.
DIALECTS: Final[Mapping[Endpoint, Dialect]] = {Endpoint.CHAT: CHAT_COMPLETIONS}


@frozen(kw_only=True)
class Route:
    """The endpoint that a request is for."""

    endpoint: Endpoint
    model: str | None = None  #: for MODEL, decoded
    head_only: bool = False  #: HEAD: the same response without its body


_READ: Final = ("GET", "HEAD")
_METHODS: Final[Mapping[Endpoint, tuple[str, ...]]] = {
    Endpoint.CHAT: ("POST",),
    Endpoint.MODELS: _READ,
    Endpoint.MODEL: _READ,
    Endpoint.OLLAMA_VERSION: _READ,
    Endpoint.OLLAMA_TAGS: _READ,
    Endpoint.OLLAMA_SHOW: ("POST",),
    Endpoint.HEALTH: _READ,
    Endpoint.READY: _READ,
    Endpoint.ROOT: _READ,
}

_PATHS: Final[Mapping[str, Endpoint]] = {
    "/chat/completions": Endpoint.CHAT,
    "/models": Endpoint.MODELS,
    "/api/version": Endpoint.OLLAMA_VERSION,
    "/api/tags": Endpoint.OLLAMA_TAGS,
    "/api/show": Endpoint.OLLAMA_SHOW,
    "/health": Endpoint.HEALTH,
    "/healthz": Endpoint.HEALTH,
    "/livez": Endpoint.HEALTH,
    "/ready": Endpoint.READY,
    "/readyz": Endpoint.READY,
    "": Endpoint.ROOT,
}

_COMPATIBLE: Final = "set the client to an OpenAI-compatible provider with a base URL that ends in /v1."

#: Paths of other programs and APIs, and what to use instead.
_ABSENT: Final[Mapping[str, str]] = {
    "/completions": "Text completions are not served: use POST /v1/chat/completions.",
    "/responses": "The Responses API is not served: set the client to Chat Completions "
    "(POST /v1/chat/completions).",
    "/messages": f"Anthropic's Messages API is not served: {_COMPATIBLE}",
    "/embeddings": "Agents provide no embeddings: configure another server for the client's embedding model.",
    "/chat/completions": "Completions are not stored: only POST /v1/chat/completions is served.",
    "/api/chat": f"Ollama's chat is not served: {_COMPATIBLE}",
    "/api/generate": f"Ollama's chat is not served: {_COMPATIBLE}",
    "/openai/deployments": f"Azure's deployments are not served: {_COMPATIBLE}",
}

_SERVED: Final = (
    "Served are POST /v1/chat/completions, GET /v1/models, GET /v1/models/{id}, /health and /ready."
)

_MODELS: Final = "models/"
_ABSOLUTE: Final = ("http://", "https://")
#: Some programs need a base URL that ends like this, and append their paths (LiveKit).
_CHAT_BASE: Final = "chat/completions/"


def route(method: str, target: str) -> Route:
    """Return the route of a request.

    :param method: as sent, upper case.
    :param target: as sent, raw: a path with a query, or an absolute URL.
    :raises RequestError: 404 ``unknown_url``, 405 ``method_not_allowed`` with the `allow` to send.
    """
    if method == "OPTIONS":
        return Route(endpoint=Endpoint.PREFLIGHT)
    path = _path(target)
    bare = _bare(path)
    if bare.startswith(_MODELS) and bare.strip("/") != "models":
        endpoint, model = Endpoint.MODEL, unquote(bare[len(_MODELS) :], errors="replace")
    else:
        known = _joined(bare)
        found = _PATHS.get(known)
        if found is None or (found is Endpoint.CHAT and method in _READ):
            raise _unknown(path, known)
        endpoint, model = found, None
    allowed = _METHODS[endpoint]
    if method not in allowed:
        raise RequestError(
            f"{path[:200]} takes {', '.join(allowed)}, not {method[:20]}.",
            status=405,
            code="method_not_allowed",
            allow=", ".join((*allowed, "OPTIONS")),
        )
    return Route(endpoint=endpoint, model=model, head_only=method == "HEAD")


def authority(target: str) -> str | None:
    """Return the host and port of an absolute target; None for a path."""
    if not target.startswith(_ABSOLUTE):
        return None
    return re.split(r"[/?#]", target.partition("://")[2], maxsplit=1)[0]


def _path(target: str) -> str:
    if target.startswith(_ABSOLUTE):
        target = "/" + target.partition("://")[2].partition("/")[2]
    return target.partition("?")[0].partition("#")[0]


def _bare(path: str) -> str:
    """Strip what base URLs put before a path: slashes, one ``v1``, the path of chats.

    What follows ``models/`` is left unchanged, since an agent's name may begin with a slash.
    """
    bare = path.lstrip("/")
    if bare == "v1" or bare.startswith("v1/"):
        bare = bare[len("v1") :].lstrip("/")
    if bare.startswith(_CHAT_BASE):
        rest = bare[len(_CHAT_BASE) :].lstrip("/")
        if _joined(rest) in _BEHIND_CHAT or rest.startswith(_MODELS):
            return rest
    return bare


def _joined(bare: str) -> str:
    return "".join(f"/{part}" for part in bare.split("/") if part)


#: Paths to accept after `_CHAT_BASE`; anything else there would be a stored completion.
_BEHIND_CHAT: Final = frozenset({"/chat/completions", "/models", "/responses", "/completions", "/embeddings"})


def _unknown(path: str, known: str) -> RequestError:
    if known == "/v1" or known.startswith("/v1/"):
        message = "The path contains /v1 twice: the client's base URL must end in a single /v1."
    else:
        stem = next((stem for stem in _ABSENT if known == stem or known.startswith(stem + "/")), None)
        message = _ABSENT[stem] if stem else _SERVED
    return RequestError(f"Unknown path {path[:200]}. {message}", status=404, code="unknown_url")
