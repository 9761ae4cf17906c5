"""mini-swe-agent: it asks again after failures and after replies that it cannot use.

It keeps no reply without a command, so behind one its transcript shows user messages alone.
"""

import json
from pathlib import Path
from typing import Final

import pytest

from clients.documented import block, commands
from clients.programs import Desk, install_pypi
from live.letta_api import Agent, LettaApi

PACKAGES: Final = ("mini-swe-agent==2.4.6",)
QUIET: Final = {"MSWEA_CONFIGURED": "true", "MSWEA_SILENT_STARTUP": "1"}
LAST: Final = 'call bash {"command": "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"}'
NO_RESULT: Final = "No result came with this call; the next message may hold it."
MILK: Final = 'call bash {"command": "echo milk"}'
#: Of that.
RESULT: Final = ("result", '{\n  "returncode": 0,\n  "output": "milk\\n"\n}')

#: What Letta says itself where an agent is to go on from results that it has.
GO_ON: Final = (
    "user",
    "<system-alert>Automated keep-alive ping. Ignore this message and continue from where you stopped."
    "</system-alert>",
)


@pytest.fixture(scope="module")
def programs(installed: Path) -> Path:
    """The folder with the command."""
    return install_pypi(installed, *PACKAGES)


def perform(
    programs: Path, desk: Desk, url: str, agent: Agent, task: str, complaint: str, status: str = "Submitted"
) -> list[str]:
    """Let it perform a task to its end; return the user messages of its own history.

    :param complaint: what it says where a reply has no command.
    :param status: how it ends.
    """
    _, ((name, *arguments),) = commands("coding-agents", "mini-swe-agent", base_url=url, agent=agent.name)
    desk.write("letta.yaml", block("coding-agents", "mini-swe-agent", "yaml", base_url=url, agent=agent.name))
    desk.write("complaint.yaml", json.dumps({"model": {"format_error_template": complaint}}))
    more = ("-c", "complaint.yaml", "--yolo", "--exit-immediately", "-o", "history.json")
    desk.run(programs / name, *arguments[:-1], f"\n{task}\n", *more, settings=QUIET)
    history = json.loads((desk.files / "history.json").read_text())
    assert history["info"]["exit_status"] == status
    return [message["content"] for message in history["messages"] if message["role"] == "user"]


def test_a_call_that_it_cannot_use(programs: Path, desk: Desk, url: str, letta: LettaApi, agent: Agent) -> None:
    """It neither shows the call nor brings a result."""
    first, complaint = 'say I look.\ncall bash {"cmd": "ls"}', f"{{{{error}}}}\n{MILK}\nthen\n{LAST}"
    task, complained = perform(programs, desk, url, agent, first, complaint)
    assert complained.startswith("Missing 'command' argument")
    (_, *thread) = letta.thread(agent)
    assert thread == [
        ("user", task),
        ("assistant", "I look."),
        ("call", "bash"),
        ("result", NO_RESULT),
        ("user", complained),
        ("call", "bash"),
        RESULT,
        ("call", "bash"),
    ]


def test_replies_without_a_call(programs: Path, desk: Desk, url: str, letta: LettaApi, agent: Agent) -> None:
    """It complains in the same words each time, and gives up when it would do so for the third time."""
    complaint = "{{error}}\nheard"
    said = perform(programs, desk, url, agent, "say I look.", complaint, "RepeatedFormatError")
    task, first, second, third = said
    assert first == second == third
    (_, *thread) = letta.thread(agent)
    assert thread == [
        ("user", task),
        ("assistant", "I look."),
        ("user", first),
        ("assistant", "heard 1 times"),
        ("user", second),
        ("assistant", "heard 2 times"),
    ]


def test_requests_that_fail(programs: Path, desk: Desk, url: str, letta: LettaApi, agent: Agent) -> None:
    """It sends them again, in the first step and behind a result, which the agent has had by then."""
    steps = (f"think For {agent.name}.\nfail 500 x4\n{MILK}", f"think For {agent.name}.\nfail 500 x4\n{LAST}")
    (task,) = perform(programs, desk, url, agent, "\nthen\n".join(steps), "{{error}}")
    (_, *thread) = letta.thread(agent)
    assert thread == [("user", task), ("call", "bash"), RESULT, GO_ON, ("call", "bash")]
    assert [run["status"] for run in letta.ended_runs(agent)] == ["failed", "completed", "failed", "completed"]
