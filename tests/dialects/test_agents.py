"""Agents as models: which are remembered, how they are listed."""

from typing import Any

import orjson
import pytest

from sansio_letta.dialects import models
from sansio_letta.dialects.models import encode_model, model_list
from sansio_letta.turn.agent import Agent
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.agents import decode_agents, to_agent


def agent(number: int = 1, name: str = "Milo", **more: Any) -> Agent:
    return to_agent(
        letta.Agent(**{"id": f"agent-{number}", "name": name, "agent_type": "letta_v1_agent", **more})
    )


@pytest.mark.parametrize(
    ("model", "name"), [("Milo", None), ("agent-1", "Milo")], ids=["by its name", "by its id"]
)
def test_an_agent_is_a_model_under_the_id_that_was_asked_for(model: str, name: str | None) -> None:
    assert encode_model(agent(), model) == models.Model(id=model, created=0, name=name)


CREATED = {
    "2026-11-22T08:00:19.090319Z": 1795334419,
    "2026-11-22T08:00:19+00:00": 1795334419,
    "2026-11-22T10:00:19+02:00": 1795334419,
    "2026-11-22T08:00:19": 1795334419,
    "1970-01-01T00:00:00Z": 0,
    "0001-01-01T00:00:00+14:00": -62135647200,
    "": 0,
    "yesterday": 0,
    None: 0,
}


@pytest.mark.parametrize(("created_at", "created"), CREATED.items(), ids=map(str, CREATED))
def test_a_model_was_created_when_its_agent_was(created_at: str | None, created: int) -> None:
    assert encode_model(agent(created_at=created_at), "Milo").created == created


def test_agents_are_listed_by_name_and_by_id_where_names_are_shared() -> None:
    agents = [agent(1), agent(2, "Ada"), agent(3), agent(4, "milo")]
    assert [(model.id, model.name) for model in model_list(agents).data] == [
        ("agent-1", "Milo"),
        ("Ada", None),
        ("agent-3", "Milo"),
        ("milo", None),
    ]


def test_no_agents_are_an_empty_list() -> None:
    assert model_list([]) == models.ModelList(data=())


def test_a_model_tells_its_context_window_under_the_names_that_programs_read() -> None:
    known = agent(llm_config=letta.ModelConfig(context_window=128_000))
    told = orjson.loads(models.encode(encode_model(known, "Milo")))
    assert {name: told.get(name) for name in ("context_length", "max_model_len", "context_window")} == {
        "context_length": 128_000,
        "max_model_len": 128_000,
        "context_window": 128_000,
    }
    assert orjson.loads(models.encode(encode_model(agent(), "Milo"))).keys() == {
        "id",
        "object",
        "created",
        "owned_by",
    }


@pytest.mark.parametrize(
    "config",
    [None, "large", [], {}, {"context_window": None}, {"context_window": "8192"}, {"context_window": 0}],
)
def test_a_context_window_that_makes_no_sense_is_unknown(config: object) -> None:
    raw = {
        "id": "agent-1",
        "name": "Milo",
        "agent_type": "letta_v1_agent",
        "llm_config": config,
        "hidden": "no",
    }
    [found] = decode_agents(orjson.dumps([raw]))
    assert (found.context_window, found.is_listed) == (None, True)


def test_helpers_of_other_agents_are_not_listed() -> None:
    agents = [
        agent(1),
        agent(2, "Milo-sleeptime", agent_type="sleeptime_agent"),
        agent(3, "voice", agent_type="voice_sleeptime_agent"),
        agent(4, "old", agent_type="memgpt_v2_agent"),
        agent(5, "secret", hidden=True),
        agent(6, "open", hidden=False),
        # Whoever asks for this name means one of two, whether both are listed or not.
        agent(7, "twin"),
        agent(8, "twin", agent_type="sleeptime_agent"),
    ]
    assert [model.id for model in model_list(agents).data] == ["Milo", "old", "open", "agent-7"]


MODEL = {"object": "model", "created": 0, "owned_by": "letta"}


def test_models_are_listed_with_a_name_where_it_differs() -> None:
    listed = models.ModelList(
        data=(models.Model(id="Milo", created=0), models.Model(id="agent-1", created=0, name="Ada"))
    )
    assert orjson.loads(models.encode(listed)) == {
        "object": "list",
        "data": [{"id": "Milo", **MODEL}, {"id": "agent-1", "name": "Ada", **MODEL}],
    }


def test_a_model_alone_looks_as_in_the_list() -> None:
    assert orjson.loads(models.encode(models.Model(id="Milo", created=0))) == {"id": "Milo", **MODEL}
