"""Voice agents that are given text, each with a tool of its own: LiveKit Agents and Pipecat."""

from pathlib import Path
from typing import Final

import pytest

from clients.programs import Desk, install_pypi
from live.letta_api import Agent, LettaApi

LIVEKIT: Final = ("livekit-agents[openai]==1.8.9",)
PIPECAT: Final = ("pipecat-ai[openai]==1.14.0",)
WEATHER: Final = 'call get_weather {"city": "Oslo"}\nthen\nsay It is cold.'


@pytest.fixture(scope="module")
def livekit(installed: Path) -> Path:
    """The folder with LiveKit's Python."""
    return install_pypi(installed, *LIVEKIT)


@pytest.fixture(scope="module")
def pipecat(installed: Path) -> Path:
    """The folder with Pipecat's Python."""
    return install_pypi(installed, *PIPECAT)


@pytest.mark.parametrize("path", ["", "/chat/completions"], ids=["base", "with-the-endpoint"])
def test_livekit(livekit: Path, desk: Desk, url: str, letta: LettaApi, agent: Agent, path: str) -> None:
    """Its docs give a base URL that ends in the endpoint; both forms work."""
    texts = ("say Hello, Sam.", WEATHER, "say Goodbye.")
    items = desk.run_script(livekit, "livekit_session.py", url + path, agent.name, *texts)
    assert [item.get("content", item.get("name")) for item in items] == [
        ["Hello, Sam."],
        "get_weather",
        "get_weather",
        ["It is cold."],
        ["Goodbye."],
    ]
    assert letta.user_texts(agent) == list(texts)
    assert [text for _, text, _ in letta.tool_returns(agent)] == ["18 C in Oslo"]
    assert letta.pending_call_ids(agent) == []


def test_pipecat(pipecat: Path, desk: Desk, url: str, letta: LettaApi, agent: Agent) -> None:
    texts = ("say Hello, Sam.", WEATHER, "say Goodbye.")
    said = desk.run_script(pipecat, "pipecat_bot.py", url, agent.name, *texts)
    assert said == ["Hello, Sam.", "It is cold.", "Goodbye."]
    assert letta.user_texts(agent) == list(texts)
    assert [text for _, text, _ in letta.tool_returns(agent)] == ['"18 C in Oslo"']
    assert letta.pending_call_ids(agent) == []
