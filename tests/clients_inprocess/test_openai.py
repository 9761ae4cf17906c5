"""The official SDK, sync and async, with and without streaming."""

import asyncio
import json
from typing import Any

import openai
import pytest

from clients_inprocess.peer import WRITES_JSON, Peer
from clients_inprocess.scripts import (
    CITY,
    GREETING,
    PARALLEL,
    PARIS,
    SUNNY,
    TOOLS,
    WEATHER,
    City,
    carry_out,
    city_by_call,
)

PROMPTS = {
    "client_tool": (WEATHER, ["get_weather"]),
    "parallel_tools": (PARALLEL, ["get_weather", "read_file"]),
}
STREAMED = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])


def message(completion: Any) -> dict[str, Any]:
    made: dict[str, Any] = completion.choices[0].message.to_dict()
    return made


def results(asked: dict[str, Any], names: list[str]) -> list[Any]:
    """The answers to an agent's calls."""
    calls = [
        (call["id"], call["function"]["name"], call["function"]["arguments"]) for call in asked["tool_calls"]
    ]
    assert [name for _, name, _ in calls] == names
    return [
        {"role": "tool", "tool_call_id": call_id, "content": carry_out(name, json.loads(arguments))}
        for call_id, name, arguments in calls
    ]


def check(answer: dict[str, Any]) -> None:
    assert answer["content"].startswith("results: ")
    assert not answer.get("tool_calls")


def ask(client: openai.OpenAI, model: str, messages: list[Any], *, stream: bool) -> dict[str, Any]:
    if not stream:
        return message(client.chat.completions.create(model=model, messages=messages, tools=TOOLS))
    with client.chat.completions.stream(model=model, messages=messages, tools=TOOLS) as chunks:
        return message(chunks.get_final_completion())


async def ask_async(
    client: openai.AsyncOpenAI, model: str, messages: list[Any], *, stream: bool
) -> dict[str, Any]:
    if not stream:
        return message(await client.chat.completions.create(model=model, messages=messages, tools=TOOLS))
    async with client.chat.completions.stream(model=model, messages=messages, tools=TOOLS) as chunks:
        return message(await chunks.get_final_completion())


@STREAMED
@pytest.mark.parametrize("scenario", PROMPTS)
def test_tools_and_their_results(peer: Peer, scenario: str, stream: bool) -> None:
    prompt, names = PROMPTS[scenario]
    with peer.client() as client:
        model = peer.model(scenario)
        messages: list[Any] = [{"role": "user", "content": prompt}]
        asked = ask(client, model, messages, stream=stream)
        messages += [asked, *results(asked, names)]
        check(ask(client, model, messages, stream=stream))


@STREAMED
@pytest.mark.parametrize("scenario", PROMPTS)
def test_tools_and_their_results_async(peer: Peer, scenario: str, stream: bool) -> None:
    prompt, names = PROMPTS[scenario]

    async def main() -> None:
        async with peer.async_client() as client:
            model = peer.model(scenario)
            messages: list[Any] = [{"role": "user", "content": prompt}]
            asked = await ask_async(client, model, messages, stream=stream)
            messages += [asked, *results(asked, names)]
            check(await ask_async(client, model, messages, stream=stream))

    asyncio.run(main())


@STREAMED
def test_reasoning(peer: Peer, stream: bool) -> None:
    with peer.client() as client:
        answer = ask(client, peer.model("reasoning"), [{"role": "user", "content": GREETING}], stream=stream)
    assert answer["content"] == "Hello Sam!"
    assert answer["reasoning_content"] == "The user greets me, so I greet back."


def test_chunks_come_one_by_one(peer: Peer) -> None:
    with peer.client() as client:
        stream = client.chat.completions.create(
            model=peer.model("reasoning"), messages=[{"role": "user", "content": GREETING}], stream=True
        )
        texts = [chunk.choices[0].delta.content for chunk in stream if chunk.choices]
    assert len([text for text in texts if text]) > 1
    assert "".join(text or "" for text in texts) == "Hello Sam!"


@WRITES_JSON
@STREAMED
def test_a_model_of_pydantic(peer: Peer, stream: bool) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": CITY}], "response_format": City}
    with peer.client() as client:
        asked["model"] = peer.model("reasoning")
        if stream:
            with client.chat.completions.stream(**asked) as chunks:
                completion = chunks.get_final_completion()
        else:
            completion = client.chat.completions.parse(**asked)
    assert completion.choices[0].message.parsed == PARIS


@WRITES_JSON
def test_a_forced_call(peer: Peer) -> None:
    with peer.client() as client:
        completion = client.chat.completions.create(
            model=peer.model("reasoning"),
            messages=[{"role": "user", "content": city_by_call("read_file")}],
            tools=TOOLS,
            tool_choice={"type": "function", "function": {"name": "read_file"}},
        )
    assert [call["function"]["name"] for call in message(completion)["tool_calls"]] == ["read_file"]


def test_a_wish_that_is_not_granted(peer: Peer) -> None:
    with peer.client() as client, pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(
            model=peer.model("reasoning"),
            messages=[{"role": "user", "content": GREETING}],
            response_format={"type": "json_object"},
        )
    assert (caught.value.status_code, caught.value.code) == (424, "invalid_reply")


def test_models_and_errors(peer: Peer) -> None:
    with peer.client() as client:
        model = peer.model("reasoning")
        assert model in [found.id for found in client.models.list()]
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="nobody-here", messages=[{"role": "user", "content": "hi"}])
        assert caught.value.code == "model_not_found"


def test_the_result_reached_letta(peer: Peer) -> None:
    with peer.client() as client:
        model = peer.model("client_tool")
        messages: list[Any] = [{"role": "user", "content": WEATHER}]
        asked = ask(client, model, messages, stream=True)
        answer = ask(client, model, [*messages, asked, *results(asked, ["get_weather"])], stream=True)
    assert SUNNY in answer["content"]
