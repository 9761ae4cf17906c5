"""Agents as models: listed, retrieved and used by every kind of name."""

import asyncio
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai import APIStatusError, BadRequestError, NotFoundError
from openai.types import Model

from live.asking import PAIR, Form, ask, async_client, attempt, fetch, sync_client
from live.conftest import MakeAgent
from live.letta_api import Agent, LettaApi

CROWD_COUNT = 125  # more than two of Letta's own pages
NAMES = {
    "space": "My Agent",
    "slash": "letta/My Agent/v2",
    "percent": "100% sure %2F %41",
    "colon": "milo:latest",
    "at": "milo@home",
    "plus": "a+b c",
    "question": "who? #1 & co",
    "non-ASCII": "Größe 猫 é",
    "astral": "agent 😀",
    "dots": "a/../b",
}


@pytest.fixture(scope="session")
def crowd(letta: LettaApi) -> set[str]:
    """Names of many agents; they stay at Letta, so that the next run need not create them."""
    names = {f"crowd-{number:03}" for number in range(CROWD_COUNT)}
    missing = sorted(names - {agent.name for agent in letta.agents()})
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(letta.create_agent, missing))
    return names


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_all_agents_are_listed(url: str, letta: LettaApi, crowd: set[str], is_async: bool) -> None:
    async def names_async() -> list[Model]:
        async with async_client(url) as client:
            return [model async for model in client.models.list()]

    def names() -> list[Model]:
        with sync_client(url) as client:
            return list(client.models.list())

    models = asyncio.run(names_async()) if is_async else names()
    ids = [model.id for model in models]
    assert crowd <= set(ids)
    assert len(ids) == len(set(ids)) == len(letta.agents())
    assert {(model.object, model.owned_by) for model in models} == {("model", "letta")}
    assert all(model.created > 1_700_000_000 for model in models)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_names(url: str, letta: LettaApi, make_agent: MakeAgent, name: str) -> None:
    agent = make_agent(name)
    with sync_client(url) as client:
        assert name in [model.id for model in client.models.list()]
        assert client.models.retrieve(name).id == name
        assert client.models.retrieve(agent.id).id == agent.id
    for form in PAIR:
        answer = ask(url, form, name, f"say {form}")
        assert (answer.text, answer.model) == (form, name)
    assert letta.user_texts(agent) == [f"say {form}" for form in PAIR]


def test_names_async(url: str, make_agent: MakeAgent) -> None:
    for name in NAMES.values():
        make_agent(name)

    async def main() -> list[str]:
        async with async_client(url) as client:
            return [(await client.models.retrieve(name)).id for name in NAMES.values()]

    assert asyncio.run(main()) == list(NAMES.values())


def test_bare_slashes_in_a_path(url: str, make_agent: MakeAgent) -> None:
    make_agent("team/blue/milo")
    assert fetch(url, "GET", "/models/team/blue/milo").status == 200


@pytest.mark.parametrize("form", PAIR)
def test_an_agents_id_is_a_model(url: str, agent: Agent, form: Form) -> None:
    answer = ask(url, form, agent.id, "say By id.")
    assert (answer.text, answer.model) == ("By id.", agent.id)


def check_unknown(error: APIStatusError) -> None:
    assert type(error) is NotFoundError
    assert error.status_code == 404
    assert (error.code, error.type) == ("model_not_found", "invalid_request_error")
    assert error.request_id


@pytest.mark.parametrize("form", PAIR)
@pytest.mark.parametrize("name", ["nobody", "agent-00000000-0000-4000-8000-000000000000", "agent-1", ""])
def test_an_unknown_model(url: str, form: Form, name: str) -> None:
    answer = attempt(url, form, name, "say Hello.", max_retries=2)
    assert isinstance(answer.error, APIStatusError)
    assert answer.request_count == 1
    if name:
        check_unknown(answer.error)
        assert answer.error.param == "model"
    else:
        assert answer.error.status_code in (400, 404)


def test_names_are_exact(url: str, make_agent: MakeAgent) -> None:
    make_agent("Exactly")
    for name in ("exactly", "Exactly ", "Exact", "letta/Exactly"):
        error = attempt(url, "sync", name, "say Hello.").error
        assert isinstance(error, APIStatusError)
        check_unknown(error)


@pytest.mark.parametrize("name", ["nobody", "no/body", "agent-00000000-0000-4000-8000-000000000000"])
def test_an_unknown_model_is_not_retrieved(url: str, name: str) -> None:
    with sync_client(url, max_retries=2) as client, pytest.raises(NotFoundError) as caught:
        client.models.retrieve(name)
    check_unknown(caught.value)


@pytest.mark.parametrize("form", PAIR)
def test_an_ambiguous_name(url: str, letta: LettaApi, make_agent: MakeAgent, form: Form) -> None:
    twins = [make_agent("The Twins"), make_agent("The Twins")]
    with sync_client(url) as client:
        listed = {model.id for model in client.models.list()}
        with pytest.raises(BadRequestError) as retrieved:
            client.models.retrieve("The Twins")
    assert {twin.id for twin in twins} < listed
    assert "The Twins" not in listed

    answer = attempt(url, form, "The Twins", "say Hello.", max_retries=2)
    for error in (retrieved.value, answer.error):
        assert type(error) is BadRequestError
        assert error.param == "model"
        assert all(twin.id in error.message for twin in twins)
    assert answer.request_count == 1

    assert ask(url, form, twins[1].id, "say The younger.").text == "The younger."
    assert letta.user_texts(twins[0]) == []


def test_a_changed_name(url: str, letta: LettaApi, make_agent: MakeAgent) -> None:
    """An agent that is gone is unknown at once, though it was found under its name a moment ago."""
    kept, deleted = make_agent("Here Today"), letta.create_agent("Gone Tomorrow")
    assert ask(url, "sync", deleted.name, "say Hello.").text == "Hello."
    letta.delete_agent(deleted)
    error = attempt(url, "sync", deleted.name, "say Hello?").error
    assert isinstance(error, APIStatusError)
    check_unknown(error)
    assert ask(url, "sync", kept.name, "say Hello.").text == "Hello."


def test_paths_are_read_once(url: str, make_agent: MakeAgent) -> None:
    make_agent("a%2Fb")
    quoted = urllib.parse.quote("a%2Fb", safe="")
    assert fetch(url, "GET", f"/models/{quoted}").status == 200
    assert fetch(url, "GET", "/models/a%2Fb").status == 404
