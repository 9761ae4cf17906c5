"""Agents of an App Server, by name or id."""

from typing import Final

from attrs import frozen

from ...errors import RequestError, RequestField, ambiguous_model, unknown_model
from ...turn.agent import ANYONE, Agent, Caller, Capabilities, is_agent_id
from ...turn.upstream import Script
from .frames import Json, bad_answer
from .questions import NotFound, Questions

#: Agents of one page; the server's own number is 20.
PAGE_COUNT: Final = 1000
_MAX_PAGE_COUNT: Final = 100

_CAPABILITIES: Final = Capabilities(marked_runs=False, continues=True)


@frozen
class AgentDirectory:
    """Finds agents."""

    questions: Questions
    caller: Caller = ANYONE

    def find(self, model: str) -> Script[Agent]:
        """Find the agent of this name or id.

        :raises RequestError: if there is none, or several.
        """
        if is_agent_id(model):
            try:
                answer = yield from self.questions.ask("agent_retrieve", {"agent_id": model})
            except NotFound as exc:
                raise unknown_model(model) from exc
            found = [to_agent(answer.get("agent"))]
        else:
            # The server finds the text anywhere in name, description or model.
            found = yield from self.list_all(model)
            found = [agent for agent in found if agent.name == model]
        found = [agent for agent in found if self.caller.may_use(agent)]
        if len(found) > 1:
            raise ambiguous_model(model, [agent.id for agent in found])
        if not found:
            yield from self._check_for_agents()
            raise unknown_model(model)
        return found[0]

    def _check_for_agents(self) -> Script[None]:
        """Say so if the server has no agents at all: a new one has none."""
        answer = yield from self.questions.ask("agent_list", {"query": {"limit": 1}})
        if not answer.get("agents"):
            raise RequestError(
                "The App Server has no agents yet. Make one where it runs: `letta connect` for a model, then "
                "`letta` for an agent, and use its name as the model.",
                field=RequestField.MODEL,
                code="model_not_found",
                status=404,
            )

    def list_all(self, text: str = "") -> Script[list[Agent]]:
        """List agents, those used last first.

        :param text: that is found in each; empty: all.
        """
        agents: dict[str, Agent] = {}
        after: str | None = None
        for _ in range(_MAX_PAGE_COUNT):
            query: Json = {"limit": PAGE_COUNT}
            if text:
                query["query_text"] = text
            if after is not None:
                query["after"] = after
            answer = yield from self.questions.ask("agent_list", {"query": query})
            page = answer.get("agents")
            if not isinstance(page, list):
                raise bad_answer("agent_list", "agents", "an array")
            known = len(agents)
            agents.update((agent.id, agent) for agent in map(to_agent, page))
            if len(page) < PAGE_COUNT or len(agents) == known:
                break
            after = list(agents)[-1]
        return list(agents.values())


def to_agent(body: object) -> Agent:
    """Convert an agent.

    :raises RemoteProtocolError: if it is not one.
    """
    if not isinstance(body, dict) or not isinstance(body.get("id"), str):
        raise bad_answer("a question about agents", "id", "a string")
    config = body.get("llm_config")
    window = config.get("context_window") if isinstance(config, dict) else None
    return Agent(
        id=body["id"],
        name=str(body.get("name") or body["id"]),
        context_window=window if type(window) is int else None,
        is_listed=body.get("hidden") is not True,
        capabilities=_CAPABILITIES,
    )
