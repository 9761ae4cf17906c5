"""opencode reads a file and writes another, by calls of its tools."""

from pathlib import Path
from typing import Final

import pytest

from clients.documented import block, commands
from clients.programs import Desk, install_npm
from live.letta_api import Agent, LettaApi

VERSION: Final = "1.18.33"
#: They keep it from asking other hosts.
QUIET: Final = {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"}
TASK: Final = """\
think First I read.
call read {"filePath": "FILES/notes.txt"}
then
call write {"filePath": "FILES/list.txt", "content": "milk\\nbread\\neggs\\n"}
then
say The list is written."""


@pytest.fixture(scope="module")
def programs(installed: Path) -> Path:
    """The folder with the command."""
    return install_npm(installed, f"opencode-ai@{VERSION}") / "node_modules" / ".bin"


def test_a_task(programs: Path, desk: Desk, url: str, letta: LettaApi, agent: Agent) -> None:
    _, ((name, *arguments),) = commands("coding-agents", "opencode", base_url=url, agent=agent.name)
    assert desk.run(programs / name, "--version", settings=QUIET).strip() == VERSION
    desk.write("opencode.json", block("coding-agents", "opencode", "json", base_url=url, agent=agent.name))
    desk.write("notes.txt", "milk\nbread\n")
    # In words on the command line it would put quotes around the text, and backslashes into it.
    task = TASK.replace("FILES", str(desk.files))
    printed = desk.run(programs / name, *arguments[:-1], "--auto", said=task, settings=QUIET)
    assert printed.endswith("The list is written.\n")
    assert (desk.files / "list.txt").read_text() == "milk\nbread\neggs\n"

    # Its session is a conversation; what it asked beforehand, for a title, has left nothing.
    (session,) = letta.conversations(agent)
    assert [text.rstrip("\n") for text in letta.user_texts(agent, session)] == [task]
    assert letta.history(agent) == letta.history(agent, session)
    read, written = letta.tool_returns(agent, session)
    assert "1: milk\n2: bread\n" in read[1]
    assert written[1] == "Wrote file successfully."
    assert letta.assistant_texts(agent, session) == ["The list is written."]
