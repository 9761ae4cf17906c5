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
#: In its default format, in which the result is a system message.
BLOCKS: Final = """\
say ```save list.txt
say milk
say ```
again
say The list is written.
say ```complete
say ```"""


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


def test_results_in_system_messages(
    programs: Path, desk: Desk, url: str, letta: LettaApi, agent: Agent
) -> None:
    """What the tool returned is the only new message then; the agent hears it once, in the next session too."""
    settings = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "none"}
    options = ("--non-interactive", "--no-confirm", "--tools", "save,complete", "--name", "chat")
    for task in (BLOCKS, "say Goodbye.\nsay ```complete\nsay ```"):
        command = (programs / "gptme", *options, "--model", f"local/{agent.name}", task)
        printed = desk.run(*command, settings=settings)
    assert "Goodbye." in printed
    assert (desk.files / "list.txt").read_text().strip() == "milk"
    thread = letta.thread(agent)
    first = next(index for index, (role, _) in enumerate(thread) if role == "user")
    said = [(role, text.strip().splitlines()[0]) for role, text in thread[first:]]
    assert said[:2] == [("user", "say ```save list.txt"), ("assistant", "```save list.txt")]
    assert said[3] == ("assistant", "The list is written.")
    (saved,) = [text for role, text in thread[first:] if role == "system" and "Saved" in text]
    assert thread[first + 2] == ("system", saved)
    assert [text for role, text in said if role == "user"] == ["say ```save list.txt", "say Goodbye."]
