"""gptme: a tool that writes a file, and a title that it asks for meanwhile."""

from pathlib import Path
from typing import Final

import pytest

from clients.programs import Desk, install_pypi
from live.letta_api import Agent, LettaApi

PACKAGES: Final = ("gptme==0.35.1",)
TASK: Final = """\
call save {"path": "list.txt", "content": "milk"}
then
say The list is written.
call complete {}"""


@pytest.fixture(scope="module")
def programs(installed: Path) -> Path:
    """The folder with the command."""
    return install_pypi(installed, *PACKAGES)


def test_a_file_is_written(programs: Path, desk: Desk, url: str, letta: LettaApi, agent: Agent) -> None:
    """The prompt for a title comes between a call and its result: it neither denies the call nor is kept."""
    settings = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "none"}
    options = ("--non-interactive", "--no-confirm", "--tool-format", "tool", "--tools", "save,complete")
    printed = desk.run(programs / "gptme", *options, "--model", f"local/{agent.name}", TASK, settings=settings)
    assert "The list is written." in printed
    assert (desk.files / "list.txt").read_text().strip() == "milk"
    assert [text for text in letta.user_texts(agent) if text.startswith("call save")] == [TASK]
    assert not [text for text in letta.user_texts(agent) if "title" in text]
    assert next(status for _, _, status in letta.tool_returns(agent)) == "success"
    assert letta.conversations(agent) == []
