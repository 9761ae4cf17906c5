"""Endpoints that need no turn, where the agents live at an App Server."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias

from attrs import frozen

from ..dialects import ollama
from ..dialects.models import encode, encode_model, model_list
from ..errors import SansioLettaError, unknown_model
from ..turn.agent import ANYONE, Agent, Caller
from ..turn.upstream import Script
from ..upstreams.app_server.agents import AgentDirectory
from ..upstreams.app_server.connection import AppServerConnection
from ..upstreams.app_server.questions import Questions
from .endpoints import StartHandler, WaitingHandler, status_reply
from .response import json_reply
from .routing import Endpoint, Route

#: The backend of a server whose agents are on its own host; another's are Letta Cloud's.
LOCAL_BACKEND: Final = "local"
#: The version of the frames that is known. Another is tried.
PROTOCOL_VERSION: Final = 1

#: Has a handler go on.
Wake: TypeAlias = Callable[[], None]


@frozen
class AppServerEndpoints:
    """The handlers of one request. Each takes what wakes it."""

    connection: AppServerConnection
    caller: Caller = ANYONE

    def handler(self, wanted: Route, body: bytes) -> StartHandler | None:
        """Return the handler of a request; None if it is the same for every upstream."""
        match wanted.endpoint:
            case Endpoint.MODELS:
                return self.list_models
            case Endpoint.MODEL:
                return partial(self.retrieve_model, wanted.model or "")
            case Endpoint.OLLAMA_TAGS:
                return self.ollama_tags
            case Endpoint.OLLAMA_SHOW:
                return partial(self.ollama_show, ollama.decode_show(body))
            case Endpoint.READY:
                return self.readiness
        return None

    def _directory(self, wake: Wake) -> AgentDirectory:
        return AgentDirectory(Questions(self.connection, wake), self.caller)

    def list_models(self, wake: Wake) -> WaitingHandler:
        """`GET /v1/models`: all agents that the caller may use."""
        return json_reply(encode(model_list((yield from self._agents(wake)))))

    def ollama_tags(self, wake: Wake) -> WaitingHandler:
        """`GET /api/tags`: the same agents, in the form in which Ollama lists models."""
        return json_reply(ollama.encode_tags((yield from self._agents(wake))))

    def retrieve_model(self, model: str, wake: Wake) -> WaitingHandler:
        """`GET /v1/models/{id}`: one agent, under the id in the request."""
        return json_reply(encode(encode_model((yield from self._find(model, wake)), model)))

    def ollama_show(self, model: str, wake: Wake) -> WaitingHandler:
        """`POST /api/show`: one agent, in the form in which Ollama shows a model."""
        return json_reply(ollama.encode_show((yield from self._find(model, wake))))

    def readiness(self, wake: Wake) -> WaitingHandler:
        """`GET /ready`: whether the App Server responds."""
        try:
            answer = yield from Questions(self.connection, wake).ask("app_server_info", {})
        except SansioLettaError as exc:
            return status_reply("unavailable", status=503, reason=exc.message)
        told: dict[str, Any] = {"app_server": str(answer.get("letta_code_version"))}
        if (backend := answer.get("backend")) != LOCAL_BACKEND:
            told["backend"] = str(backend)
        if (version := answer.get("protocol_version")) != PROTOCOL_VERSION:
            told["protocol_version"] = str(version)
        return status_reply("ready", **told)

    def _agents(self, wake: Wake) -> Script[list[Agent]]:
        if self.caller.agents == ():
            return []
        agents = yield from self._directory(wake).list_all()
        return [agent for agent in agents if self.caller.may_use(agent)]

    def _find(self, model: str, wake: Wake) -> Script[Agent]:
        if self.caller.agents == ():
            raise unknown_model(model)
        return (yield from self._directory(wake).find(model))
