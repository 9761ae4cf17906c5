"""Cline's command line reads a file and writes another, by calls of its tools."""

import json
from pathlib import Path
from typing import Final

import pytest

from clients.documented import commands
from clients.programs import Desk, install_npm
from live.letta_api import Agent, LettaApi

VERSION: Final = "3.0.65"
#: Without the first it leaves a process behind, which serves sessions to other windows.
QUIET: Final = {"CLINE_SESSION_BACKEND_MODE": "local", "CLINE_NO_AUTO_UPDATE": "1"}
TASK: Final = """\
think First I read.
call read_files {"files": [{"path": "FILES/notes.txt"}]}
then
call editor {"path": "FILES/list.txt", "new_text": "milk\\nbread\\neggs\\n"}
then
say The list is written."""


@pytest.fixture(scope="module")
def programs(installed: Path) -> Path:
    """The folder with the command."""
    return install_npm(installed, f"cline@{VERSION}") / "node_modules" / ".bin"


def test_a_task(programs: Path, desk: Desk, url: str, letta: LettaApi, agent: Agent) -> None:
    _, (connect, ask) = commands("coding-agents", "Cline", base_url=url, agent=agent.name)
    name = programs / ask[0]
    assert desk.run(name, "--version", settings=QUIET).strip() == VERSION
    desk.run(name, *connect[1:], settings=QUIET)
    desk.write("notes.txt", "milk\nbread\n")
    task = TASK.replace("FILES", str(desk.files))
    printed = desk.run(name, "--json", task, settings=QUIET)
    events = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    (ended,) = (event for event in events if event["type"] == "run_result")
    assert (ended["finishReason"], ended["text"]) == ("completed", "The list is written.")
    thoughts = [event["event"] for event in events if event["type"] == "agent_event"]
    assert "First I read." in [event.get("reasoning") for event in thoughts]
    assert (desk.files / "list.txt").read_text() == "milk\nbread\neggs\n"

    assert letta.user_texts(agent) == [task]
    read, written = letta.tool_returns(agent)
    assert "1 | milk\\n2 | bread" in read[1]
    assert "File created successfully" in written[1]
    assert letta.assistant_texts(agent) == ["The list is written."]
    assert letta.pending_call_ids(agent) == []
