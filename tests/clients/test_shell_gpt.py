"""shell-gpt: a tool that runs commands, one call at a time though the agent makes two."""

from pathlib import Path
from typing import Final

import pytest

from clients.programs import Desk, install_pypi
from live.letta_api import Agent, LettaApi

#: It imports click, and does not say so.
PACKAGES: Final = ("shell-gpt==1.5.1", "click==8.3.1")
TASK: Final = """\
call execute_shell_command {"shell_command": "echo one >> ran"}
call execute_shell_command {"shell_command": "echo two >> ran"}
then
say Both ran."""


@pytest.fixture(scope="module")
def programs(installed: Path) -> Path:
    """The folder with the command."""
    return install_pypi(installed, *PACKAGES)


def test_two_calls(programs: Path, desk: Desk, url: str, letta: LettaApi, agent: Agent) -> None:
    settings = {
        "API_BASE_URL": url,
        "DEFAULT_MODEL": agent.name,
        "OPENAI_API_KEY": "none",
        "OPENAI_USE_FUNCTIONS": "true",
        "PRETTIFY_MARKDOWN": "false",
        "SHELL_INTERACTION": "false",
    }
    desk.run(programs / "sgpt", "--install-functions", settings=settings)
    printed = desk.run(programs / "sgpt", "--no-cache", TASK, settings=settings)
    assert "Both ran." in printed
    assert (desk.files / "ran").read_text() == "one\ntwo\n"
    assert letta.user_texts(agent) == [TASK]
    assert [status for _, _, status in letta.tool_returns(agent)] == ["success", "success"]
    assert letta.pending_call_ids(agent) == []
