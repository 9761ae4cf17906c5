"""Which answer a method and a path ask for, or an error that says what would have been right."""

import re
from collections.abc import Mapping
from enum import Enum, auto
from typing import Final
from urllib.parse import unquote

from attrs import frozen

from .errors import RequestError


class Endpoint(Enum):
    CHAT = auto()
    MODELS = auto()
    MODEL = auto()
    HEALTH = auto()  #: the process is alive
    READY = auto()  #: Letta answers
    ROOT = auto()
    PREFLIGHT = auto()


@frozen(kw_only=True)
class Route:
    """What the client asks for."""

    endpoint: Endpoint
    model: str | None = None  #: of MODEL, decoded
    head_only: bool = False  #: HEAD: the same answer without its body


_METHODS: Final[Mapping[Endpoint, tuple[str, ...]]] = {
    Endpoint.CHAT: ("POST",),
    Endpoint.MODELS: ("GET", "HEAD"),
    Endpoint.MODEL: ("GET", "HEAD"),
    Endpoint.HEALTH: ("GET", "HEAD"),
    Endpoint.READY: ("GET", "HEAD"),
    Endpoint.ROOT: ("GET", "HEAD"),
}

_PATHS: Final[Mapping[str, Endpoint]] = {
    "/chat/completions": Endpoint.CHAT,
    "/models": Endpoint.MODELS,
    "/health": Endpoint.HEALTH,
    "/ready": Endpoint.READY,
    "": Endpoint.ROOT,
}

#: Endpoints of the OpenAI API that an agent has no answer to, and what to do instead.
_ABSENT: Final[Mapping[str, str]] = {
    "/completions": "Text completions are not served: use POST /v1/chat/completions.",
    "/responses": "The Responses API is not served: use POST /v1/chat/completions.",
    "/embeddings": "Agents make no embeddings: point the client's embedding model elsewhere.",
    "/chat/completions": "Completions are not kept: only POST /v1/chat/completions is served.",
}

_MODELS: Final = "/models/"
_ABSOLUTE: Final = ("http://", "https://")


def route(method: str, target: str) -> Route:
    """The answer that a request line asks for.

    :param method: as sent, upper case.
    :param target: as sent, raw: a path with a query, or an absolute URL.
    :raises RequestError: 404 ``unknown_url``, 405 ``method_not_allowed`` with the `allow` to send.
    """
    if method == "OPTIONS":
        return Route(endpoint=Endpoint.PREFLIGHT)
    path = _path(target)
    bare = path.removeprefix("/v1") if path == "/v1" or path.startswith("/v1/") else path
    if bare.startswith(_MODELS) and bare != _MODELS:
        endpoint, model = Endpoint.MODEL, unquote(bare[len(_MODELS) :], errors="replace")
    else:
        found = _PATHS.get(bare.rstrip("/"))
        if found is None or (found is Endpoint.CHAT and method in ("GET", "HEAD")):
            raise _unknown(path, bare.rstrip("/"))
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
    """The host and port of an absolute target; None of a path."""
    if not target.startswith(_ABSOLUTE):
        return None
    return re.split(r"[/?#]", target.partition("://")[2], maxsplit=1)[0]


def _path(target: str) -> str:
    if target.startswith(_ABSOLUTE):
        target = "/" + target.partition("://")[2].partition("/")[2]
    return target.partition("?")[0].partition("#")[0]


def _unknown(path: str, bare: str) -> RequestError:
    if bare == "/v1" or bare.startswith("/v1/"):
        message = "The path holds /v1 twice: the base URL to give to a client ends in one /v1."
    else:
        stem = next((known for known in _ABSENT if bare == known or bare.startswith(known + "/")), None)
        message = _ABSENT[stem] if stem else "Served are /v1/chat/completions and /v1/models."
    return RequestError(f"Unknown path {path[:200]}. {message}", status=404, code="unknown_url")
