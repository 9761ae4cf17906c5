"""Requests that cannot be carried out, and base URLs as people write them."""

import asyncio
import gzip
from typing import Any

import pytest
from openai import APIStatusError, BadRequestError

from live.asking import PAIR, TOOLS, Form, ask, async_client, attempt, fetch, sync_client, user
from live.letta_api import Agent, LettaApi

#: What is wrong -> fields of the request, the error's param and code.
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "two choices": ({"n": 2}, "n", "unsupported_value"),
    "logprobs": ({"logprobs": True}, "logprobs", "unsupported_value"),
    "a custom tool": (
        {"tools": [{"type": "custom", "custom": {"name": "x"}}]},
        "tools[0].type",
        "unsupported_value",
    ),
    "an unknown format": ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    "an unknown tool": (
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}},
        "tool_choice.function.name",
        "invalid_value",
    ),
    "functions": ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
    "a wrong type": ({"parallel_tool_calls": "no"}, "parallel_tool_calls", "invalid_type"),
}


@pytest.mark.parametrize("form", PAIR)
@pytest.mark.parametrize(("fields", "param", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_fields(
    url: str, letta: LettaApi, agent: Agent, form: Form, fields: dict[str, Any], param: str, code: str
) -> None:
    answer = attempt(url, form, agent.name, "say Hello.", max_retries=2, **fields)
    assert type(answer.error) is BadRequestError
    assert answer.error.type == "invalid_request_error"
    assert answer.error.param is not None
    assert answer.error.param.startswith(param)
    assert answer.error.code == code
    assert answer.error.request_id
    assert answer.request_count == 1
    assert letta.runs(agent) == []


@pytest.mark.parametrize("form", PAIR)
def test_refused_messages(url: str, agent: Agent, form: Form) -> None:
    parts = [
        {"type": "text", "text": "Hear this:"},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
    ]
    error = attempt(url, form, agent.name, [{"role": "user", "content": parts}]).error
    assert type(error) is BadRequestError
    assert error.param == "messages[0].content[1].type"
    for messages in ([], [user("say Hi."), {"role": "assistant", "content": "Hi."}]):
        error = attempt(url, form, agent.name, messages).error
        assert type(error) is BadRequestError
        assert error.param == "messages"


@pytest.mark.parametrize("form", PAIR)
def test_fields_without_effect(url: str, agent: Agent, form: Form) -> None:
    answer = ask(
        url,
        form,
        agent.name,
        "say Hello.",
        temperature=0,
        max_tokens=10,
        seed=7,
        user="sam",
        metadata={"key": "value"},
        stop=None,
        n=None,
        tools=None,
    )
    assert answer.text == "Hello."


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "code"),
    [
        ("POST", "/chat/completions", b"{", {}, 400, None),
        ("POST", "/chat/completions", b"[]", {}, 400, None),
        ("POST", "/chat/completions", {"messages": [user("Hello.")]}, {}, 400, "missing_required_parameter"),
        (
            "POST",
            "/chat/completions",
            gzip.compress(b"{}"),
            {"Content-Encoding": "gzip"},
            415,
            "unsupported_media_type",
        ),
        ("PUT", "/chat/completions", {}, {}, 405, "method_not_allowed"),
        ("GET", "/nothing/here", None, {}, 404, "unknown_url"),
        ("POST", "/embeddings", {"model": "x", "input": "y"}, {}, 404, "unknown_url"),
    ],
    ids=["half JSON", "a list", "no model", "gzip", "method", "path", "embeddings"],
)
def test_refused_requests(
    url: str, method: str, path: str, body: object, headers: dict[str, str], status: int, code: str | None
) -> None:
    response = fetch(url, method, path, body, headers=headers)
    assert response.status == status
    assert response.error["type"] == "invalid_request_error"
    assert code is None or response.error["code"] == code
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
def test_base_urls(url: str, agent: Agent, ending: str) -> None:
    base_url = url.removesuffix("/v1") + ending
    for form in PAIR:
        assert ask(base_url, form, agent.name, "say Hello.").text == "Hello."
    with sync_client(base_url) as client:
        assert client.models.retrieve(agent.name).id == agent.name
        assert agent.name in [model.id for model in client.models.list()]

    async def main() -> str:
        async with async_client(base_url) as client:
            return (await client.models.retrieve(agent.name)).id

    assert asyncio.run(main()) == agent.name
    for path in ("/models/", "/chat/completions/"):
        method, body = (
            ("GET", None) if path == "/models/" else ("POST", {"model": agent.name, "messages": [user("Hi")]})
        )
        assert fetch(base_url.rstrip("/"), method, path, body).status == 200


def test_a_base_url_with_v1_twice_is_named(url: str, agent: Agent) -> None:
    error = attempt(f"{url}/v1", "sync", agent.name, "say Hello.").error
    assert isinstance(error, APIStatusError)
    assert error.status_code == 404
    assert "/v1" in error.message


def test_headers_of_an_answer(url: str, agent: Agent) -> None:
    with sync_client(url) as client:
        raw = client.chat.completions.with_raw_response.create(
            model=agent.name, messages=[{"role": "user", "content": "say Hello."}]
        )
        assert raw.headers["content-type"].startswith("application/json")
        assert raw.headers["x-request-id"] == raw.parse()._request_id
