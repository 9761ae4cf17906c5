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


def test_livekit_is_interrupted(livekit: Path, desk: Desk, url: str, letta: LettaApi, agent: Agent) -> None:
    """Without speech it leaves out what the user has not heard; the greeting is its own."""
    texts = ("slow 0.3\nwords 40", "slow 0.3\nwords 41", "say Done.")
    items = desk.run_script(livekit, "livekit_interrupted.py", url, agent.name, "Welcome!", *texts)
    assert items == [["assistant", "Welcome!"], *(["user", text] for text in texts), ["assistant", "Done."]]
    assert letta.thread(agent) == [("system", "You are a voice assistant."), *map(tuple, items)]
    assert [run["status"] for run in letta.ended_runs(agent)] == ["cancelled", "cancelled", "completed"]


def test_livekits_user_talks_on_while_a_tool_runs(
    livekit: Path, desk: Desk, url: str, letta: LettaApi, agent: Agent
) -> None:
    """It says that the tool still runs, and shows the result later, before an answer and under another call."""
    texts = (WEATHER, "say Going on.", "say Done.")
    items = desk.run_script(livekit, "livekit_slow_tool.py", url, agent.name, *texts)
    thread = letta.thread(agent)
    assert [text for role, text in thread if role == "user"] == list(texts)
    assert [text for role, text in thread if role == "assistant"] == [
        text for role, text in items if role == "assistant"
    ]
    assert [text for role, text in thread if role == "result"] == ["The tool call is still in progress."]
    _, result, news = [text for role, text in thread if role == "system"]
    assert result == "[Result of get_weather; its call is not in your history:]\n18 C in Oslo"
    assert news.startswith("New results arrived from background tool calls")
    assert letta.pending_call_ids(agent) == []


def test_pipecat_greets_is_interrupted_and_has_a_slow_tool(
    pipecat: Path, desk: Desk, url: str, letta: LettaApi, agent: Agent
) -> None:
    """It asks for the greeting by instructions alone, and tells the result twice: that it will come, and it."""
    texts = ("slow 0.3\nwords 40", WEATHER, "say Going on.", "say Done.")
    desk.run_script(pipecat, "pipecat_interrupted.py", url, agent.name, *texts)
    thread = letta.thread(agent)
    kinds = [role for role, _ in thread]
    assert kinds[: kinds.index("user")] == ["system", "system", "assistant"]
    assert thread[1] == ("system", "Greet the user.")
    assert [text for role, text in thread if role == "user"] == list(texts)
    told = [text for role, text in thread[kinds.index("user") :] if role == "system"]
    (running,) = [text for role, text in thread if role == "result"]
    assert '"status": "running"' in running
    (finished,) = told
    assert "18 C in Oslo" in finished
    assert letta.pending_call_ids(agent) == []
