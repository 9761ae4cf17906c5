"""Agents as models, under any name, and base URLs as people write them."""

import asyncio
from collections.abc import Callable
from urllib.parse import quote

import pytest
from openai import BadRequestError, NotFoundError
from openai.types import Model

from live.asking import FORMS, PAIR, Form, ask, async_client, attempt, fetch, sync_client
from server.scripted import hello
from support import matrix

from .serving import RunningServer
from .standin import StandInLetta

NAMES = {
    "space": "My Agent",
    "slash": "letta/My Agent/v2",
    "slashes": "/a//b/",
    "percent": "100% sure %2F %41 %",
    "colon": "milo:latest",
    "at": "milo@home",
    "plus": "a+b c",
    "question": "who? #1 & co; x=y",
    "quotes": '"Milo\'s" \\ `agent`',
    "brackets": "[milo] {1} <2>",
    "non-ASCII": "Größe 猫 é",
    "astral": "agent 😀",
    "dots": "a/../b/./c",
    "a path of ours": "v1/models",
}

named = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
both = pytest.mark.parametrize("is_async", matrix([False, True], False), ids=["sync", "async"])


def list_models(url: str, *, is_async: bool) -> list[Model]:
    async def main() -> list[Model]:
        async with async_client(url) as client:
            return [model async for model in client.models.list()]

    if is_async:
        return asyncio.run(main())
    with sync_client(url) as client:
        return list(client.models.list())


def retrieve(url: str, name: str, *, is_async: bool, max_retries: int = 0) -> Model:
    async def main() -> Model:
        async with async_client(url, max_retries=max_retries) as client:
            return await client.models.retrieve(name)

    if is_async:
        return asyncio.run(main())
    with sync_client(url, max_retries=max_retries) as client:
        return client.models.retrieve(name)


# --- F18


@both
@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250])
def test_all_agents_are_listed(url: str, letta: StandInLetta, is_async: bool, count: int) -> None:
    agents = [letta.add() for _ in range(count)]
    models = list_models(url, is_async=is_async)
    assert [model.id for model in models] == [agent.name for agent in agents]
    assert {(model.object, model.owned_by) for model in models} <= {("model", "letta")}
    assert all(model.created == 1_795_334_433 for model in models)


@both
def test_agents_of_one_name_are_listed_by_id(url: str, letta: StandInLetta, is_async: bool) -> None:
    twins = [letta.add(name="Twin"), letta.add(name="Twin")]
    models = list_models(url, is_async=is_async)
    assert [model.id for model in models] == [twin.id for twin in twins]
    assert [model.to_dict()["name"] for model in models] == ["Twin", "Twin"]
    with pytest.raises(BadRequestError) as ambiguous:
        retrieve(url, "Twin", is_async=is_async)
    assert all(twin.id in ambiguous.value.message for twin in twins)
    assert retrieve(url, twins[1].id, is_async=is_async).id == twins[1].id


@named
@both
def test_names(url: str, letta: StandInLetta, is_async: bool, name: str) -> None:
    agent = letta.add(name=name)
    letta.add(name=quote(name, safe=""))
    letta.add(name=name.lower() + " ")
    model = retrieve(url, name, is_async=is_async)
    assert (model.id, model.object, model.owned_by) == (name, "model", "letta")
    assert [type(command).__name__ for command in agent.commands] == ["FindAgent"]
    assert name in [model.id for model in list_models(url, is_async=is_async)]


@named
def test_asking_by_name(url: str, letta: StandInLetta, name: str) -> None:
    agent = letta.add(*[hello() for _ in FORMS], name=name)
    for form in FORMS:
        answer = ask(url, form, name, "hi")
        assert (answer.text, answer.model) == ("Hello", name)
    assert len(agent.requests) == len(FORMS)


@both
def test_names_are_exact(url: str, letta: StandInLetta, is_async: bool) -> None:
    letta.add(name="Milo")
    for name in ("milo", "Milo ", "Mil", "Milo/", "nobody", "agent-1", "%4Dilo"):
        with pytest.raises(NotFoundError) as unknown:
            retrieve(url, name, is_async=is_async, max_retries=2)
        error = unknown.value
        assert (error.type, error.code, error.param) == ("invalid_request_error", "model_not_found", "model")
        assert error.request_id


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_an_agents_id_is_a_model(url: str, letta: StandInLetta, form: Form) -> None:
    agent = letta.add(hello())
    answer = ask(url, form, agent.id, "hi")
    assert (answer.text, answer.model) == ("Hello", agent.id)
    unknown = attempt(url, form, agent.id.replace("-8000-", "-9000-"), "hi").error
    assert type(unknown) is NotFoundError
    assert (unknown.code, unknown.param) == ("model_not_found", "model")


def test_bare_slashes_in_a_path(url: str, letta: StandInLetta) -> None:
    letta.add(name="team/blue/milo")
    assert fetch(url, "GET", "/models/team/blue/milo").status == 200


@pytest.mark.parametrize("query", ["?client_version=0.1.0", "?limit=1&after=x", "?"])
def test_queries_are_ignored(url: str, letta: StandInLetta, query: str) -> None:
    letta.add(name="Milo")
    assert fetch(url, "GET", f"/models{query}").status == 200
    assert fetch(url, "GET", f"/models/Milo{query}").status == 200


# --- F19

BASES: dict[str, Callable[[str], str]] = {
    "v1": lambda root: f"{root}/v1",
    "v1 and a slash": lambda root: f"{root}/v1/",
    "bare": lambda root: root,
    "bare and a slash": lambda root: f"{root}/",
    "by another name": lambda root: root.replace("127.0.0.1", "localhost") + "/v1",
}

based = pytest.mark.parametrize("base", BASES.values(), ids=BASES.keys())


@based
@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_base_urls(server: RunningServer, letta: StandInLetta, form: Form, base: Callable[[str], str]) -> None:
    assert ask(base(server.root_url), form, letta.add(hello()).name, "hi").text == "Hello"


@based
@both
def test_models_at_base_urls(
    server: RunningServer, letta: StandInLetta, is_async: bool, base: Callable[[str], str]
) -> None:
    agent = letta.add()
    assert [model.id for model in list_models(base(server.root_url), is_async=is_async)] == [agent.name]
    assert retrieve(base(server.root_url), agent.name, is_async=is_async).id == agent.name


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_v1_twice(url: str, letta: StandInLetta, form: Form) -> None:
    answer = attempt(f"{url}/v1", form, letta.add(hello()).name, "hi", max_retries=2)
    assert type(answer.error) is NotFoundError
    assert answer.error.code == "unknown_url"
    assert "base URL" in answer.error.message
    assert answer.request_count == 1


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_trailing_slashes(server: RunningServer, letta: StandInLetta, prefix: str) -> None:
    agent = letta.add(hello())
    body = {"model": agent.name, "messages": [{"role": "user", "content": "hi"}]}
    assert fetch(server.root_url, "POST", f"{prefix}/chat/completions/", body).status == 200
    assert fetch(server.root_url, "GET", f"{prefix}/models/").status == 200
