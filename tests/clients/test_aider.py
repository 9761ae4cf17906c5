"""aider edits a file; it offers no tools, the agent writes the file out in its answer."""

from pathlib import Path
from typing import Final

import pytest

from clients.documented import block, commands
from clients.programs import Desk, install_pypi
from live.letta_api import Agent, LettaApi

VERSION: Final = "0.86.2"
#: Beyond what the docs say: the folder is no repository and shall become none, and no questions.
HEADLESS: Final = ("--no-git", "--no-show-model-warnings", "--no-show-release-notes")
TASK: Final = """\
think The list lacks eggs.
say list.txt
say ```
say milk
say bread
say eggs
say ```
"""


@pytest.fixture(scope="module")
def programs(installed: Path) -> Path:
    """The folder with the command."""
    return install_pypi(installed, f"aider-chat=={VERSION}")


@pytest.fixture
def printed(programs: Path, desk: Desk, url: str, agent: Agent) -> str:
    """What aider prints while it adds a line to a list."""
    settings, _ = commands("coding-agents", "aider", base_url=url, agent=agent.name)
    _, ((name, *arguments),) = commands("coding-agents", "aider", base_url=url, agent=agent.name, number=1)
    named = block("coding-agents", "aider", "yaml", base_url=url, agent=agent.name)
    desk.write(".aider.model.settings.yml", named)
    desk.write("list.txt", "milk\nbread\n")
    desk.write("task.txt", TASK)
    return desk.run(programs / name, *HEADLESS, *arguments, settings=settings)


def test_a_file_is_read_and_written(printed: str, desk: Desk, letta: LettaApi, agent: Agent) -> None:
    assert f"Aider v{VERSION}" in printed
    assert "The list lacks eggs." in printed  # the reasoning
    assert (desk.files / "list.txt").read_text() == "milk\nbread\neggs\n"
    (conversation,) = letta.conversations(agent)
    *given, said = letta.user_texts(agent, conversation)
    assert "list.txt\n```\nmilk\nbread\n```" in given[-1]  # of the history that aider made up
    assert said.startswith(TASK)
    assert len(letta.runs(agent)) == 1
