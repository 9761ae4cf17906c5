"""Vercel's AI SDK: the example of the docs, and a loop over tools."""

import json
import shutil
from pathlib import Path
from typing import Final

import pytest

from clients.documented import block
from clients.programs import Desk, install_npm
from live.letta_api import Agent, LettaApi

PACKAGES: Final = ("ai@7.0.173", "@ai-sdk/openai-compatible@3.0.92", "zod@4.1.13")
TASK: Final = """\
think Let me look.
call get_weather {"city": "Paris"}
then
call get_weather {"city": "Oslo"}
then
say Both are known."""


@pytest.fixture(scope="module")
def modules(installed: Path) -> Path:
    """The folder of the packages."""
    return install_npm(installed, *PACKAGES) / "node_modules"


@pytest.fixture
def node_desk(desk: Desk, modules: Path) -> Desk:
    """A desk where the packages can be imported."""
    (desk.files / "node_modules").symlink_to(modules)
    return desk


def test_the_example(node_desk: Desk, url: str, letta: LettaApi, agent: Agent) -> None:
    code = block("frameworks", "Vercel AI SDK", "js", base_url=url, agent=agent.name)
    node_desk.write("example.mjs", code)
    assert node_desk.run("node", "example.mjs") == "You said: Hello!"
    assert letta.user_texts(agent) == ["Hello!"]


def test_a_loop_over_tools(node_desk: Desk, url: str, letta: LettaApi, agent: Agent) -> None:
    shutil.copy(Path(__file__).with_name("tool_loop.mjs"), node_desk.files)
    said = json.loads(node_desk.run("node", "tool_loop.mjs", url, agent.name, TASK).splitlines()[-1])
    fragments = said.pop("fragments")
    assert said == {
        "cities": ["Paris", "Oslo"],
        "text": "Both are known.",
        "reasoning": "Let me look.",
        "endings": ["tool-calls", "tool-calls", "stop"],
        "usage": [300, 60],
    }
    assert fragments > 2  # the arguments came in pieces
    assert letta.user_texts(agent) == [TASK]
    assert [text for _, text, _ in letta.tool_returns(agent)] == ["18 C in Paris", "18 C in Oslo"]
    assert letta.pending_call_ids(agent) == []
