"""AutoGen: a group chat in which each assistant is an agent that remembers, and knows who speaks."""

from pathlib import Path
from typing import Final

import pytest

from clients.programs import Desk, install_pypi
from live.conftest import MakeAgent
from live.letta_api import LettaApi

PACKAGES: Final = ("autogen-agentchat==0.7.5", "autogen-ext[openai]==0.7.5")
TASK: Final = "say Spring is near."


@pytest.fixture(scope="module")
def programs(installed: Path) -> Path:
    """The folder with its Python."""
    return install_pypi(installed, *PACKAGES)


def test_a_group_chat(programs: Path, desk: Desk, url: str, letta: LettaApi, make_agent: MakeAgent) -> None:
    first, second = make_agent("writer"), make_agent("critic")
    said = desk.run_script(programs, "autogen_chat.py", url, first.name, second.name, TASK)
    assert said == [
        ["user", TASK],
        ["writer", "Spring is near."],
        ["critic", "You said: Spring is near."],
        ["writer", "You said: You said: Spring is near."],
    ]
    assert letta.speakers(first) == [("user", TASK), ("critic", "You said: Spring is near.")]
    assert letta.speakers(second) == [("user", TASK), ("writer", "Spring is near.")]
