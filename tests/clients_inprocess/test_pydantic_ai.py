"""pydantic-ai with OpenAIChatModel, given an HTTP client or a client of the official SDK."""

# mypy: disable-error-code="import-not-found, untyped-decorator"
# The libraries are installed in environments of their own: run.py.

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from clients_inprocess.peer import WRITES_JSON, Peer
from clients_inprocess.scripts import CITY, PARIS, SUNNY, WEATHER, City, city_by_call

PROVIDERS: dict[str, Callable[[Peer], OpenAIProvider]] = {
    "openai_client": lambda peer: OpenAIProvider(openai_client=peer.async_client()),
    "http_client": lambda peer: OpenAIProvider(
        base_url=peer.base_url, api_key="none", http_client=peer.async_http_client()
    ),
}


def agent(peer: Peer, provider: str) -> Agent[None, str]:
    agent = Agent(OpenAIChatModel(peer.model("client_tool"), provider=PROVIDERS[provider](peer)))

    @agent.tool_plain
    def get_weather(city: str, units: str) -> str:
        """Current weather of a city."""
        assert (city, units) == ("Paris", "C")
        return SUNNY

    return agent


@pytest.mark.parametrize("provider", PROVIDERS)
def test_whole(peer: Peer, provider: str) -> None:
    async def main() -> None:
        result = await agent(peer, provider).run(WEATHER)
        assert SUNNY in result.output

    asyncio.run(main())


@pytest.mark.parametrize("provider", PROVIDERS)
def test_streamed(peer: Peer, provider: str) -> None:
    async def main() -> None:
        async with agent(peer, provider).run_stream(WEATHER) as result:
            texts = [text async for text in result.stream_text(delta=True, debounce_by=None)]
        assert SUNNY in "".join(texts)
        assert len(texts) > 3

    asyncio.run(main())


@WRITES_JSON
@pytest.mark.parametrize("output", [NativeOutput(City), ToolOutput(City, name="city")], ids=["format", "tool"])
def test_structured_output(peer: Peer, output: Any) -> None:
    async def main() -> None:
        model = OpenAIChatModel(peer.model("reasoning"), provider=PROVIDERS["openai_client"](peer))
        text = CITY if isinstance(output, NativeOutput) else city_by_call("city")
        result = await Agent(model, output_type=output).run(text)
        assert result.output == PARIS

    asyncio.run(main())
