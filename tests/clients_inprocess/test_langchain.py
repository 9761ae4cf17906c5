"""LangChain's ChatOpenAI with a custom tool."""

# mypy: disable-error-code="import-not-found, untyped-decorator"
# The libraries are installed in environments of their own: run.py.

import asyncio
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from clients_inprocess.peer import WRITES_JSON, Peer
from clients_inprocess.scripts import CITY, PARIS, SUNNY, WEATHER, City, city_by_call


@tool
def get_weather(city: str, units: str = "C") -> str:
    """Current weather of a city."""
    assert (city, units) == ("Paris", "C")
    return SUNNY


def model(peer: Peer) -> Any:
    return plain(peer).bind_tools([get_weather])


def plain(peer: Peer) -> Any:
    return ChatOpenAI(
        model=peer.model("client_tool"),
        base_url=peer.base_url,
        api_key="none",
        max_retries=0,
        http_client=peer.http_client(),
        http_async_client=peer.async_http_client(),
    )


def test_whole(peer: Peer) -> None:
    chat = model(peer)
    messages: list[Any] = [HumanMessage(WEATHER)]
    asked = chat.invoke(messages)
    messages += [asked, *(get_weather.invoke(call) for call in asked.tool_calls)]
    assert SUNNY in chat.invoke(messages).content


def test_streamed(peer: Peer) -> None:
    chat = model(peer)

    def stream(messages: list[Any]) -> tuple[Any, int]:
        whole, count = AIMessageChunk(content=""), 0
        for chunk in chat.stream(messages):
            whole, count = whole + chunk, count + 1
        return whole, count

    messages: list[Any] = [HumanMessage(WEATHER)]
    asked, _ = stream(messages)
    messages += [asked, *(get_weather.invoke(call) for call in asked.tool_calls)]
    answer, count = stream(messages)
    assert SUNNY in answer.content
    assert count > 3


def test_async(peer: Peer) -> None:
    async def main() -> None:
        chat = model(peer)
        messages: list[Any] = [HumanMessage(WEATHER)]
        asked = await chat.ainvoke(messages)
        messages += [asked, *[await get_weather.ainvoke(call) for call in asked.tool_calls]]
        texts = [chunk.content async for chunk in chat.astream(messages)]
        assert SUNNY in "".join(texts)

    asyncio.run(main())


@WRITES_JSON
@pytest.mark.parametrize("method", ["json_schema", "json_mode", "function_calling"])
def test_structured_output(peer: Peer, method: str) -> None:
    chat = plain(peer).with_structured_output(City, method=method)
    text = city_by_call("City") if method == "function_calling" else CITY
    assert chat.invoke([HumanMessage(text)]) == PARIS
