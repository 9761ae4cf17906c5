"""openai-agents over Chat Completions, with a function tool."""

# mypy: disable-error-code="import-not-found, untyped-decorator"
# The libraries are installed in environments of their own: run.py.

import asyncio

from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled

from clients_inprocess.peer import WRITES_JSON, Peer
from clients_inprocess.scripts import CITY, PARIS, SUNNY, WEATHER, City

set_tracing_disabled(disabled=True)


@function_tool
def get_weather(city: str, units: str) -> str:
    """Current weather of a city."""
    assert (city, units) == ("Paris", "C")
    return SUNNY


def agent(peer: Peer) -> Agent[None]:
    model = OpenAIChatCompletionsModel(model=peer.model("client_tool"), openai_client=peer.async_client())
    return Agent(name="Weather", model=model, tools=[get_weather])


def test_whole(peer: Peer) -> None:
    async def main() -> None:
        result = await Runner.run(agent(peer), WEATHER)
        assert SUNNY in result.final_output

    asyncio.run(main())


def test_streamed(peer: Peer) -> None:
    async def main() -> None:
        result = Runner.run_streamed(agent(peer), WEATHER)
        kinds = [event.type async for event in result.stream_events()]
        assert SUNNY in result.final_output
        assert kinds.count("raw_response_event") > 3

    asyncio.run(main())


def test_without_a_loop_of_ones_own(peer: Peer) -> None:
    assert SUNNY in Runner.run_sync(agent(peer), WEATHER).final_output


@WRITES_JSON
def test_structured_output(peer: Peer) -> None:
    model = OpenAIChatCompletionsModel(model=peer.model("reasoning"), openai_client=peer.async_client())
    assert Runner.run_sync(Agent(name="City", model=model, output_type=City), CITY).final_output == PARIS
