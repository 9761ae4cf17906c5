"""Open Interpreter: runs a code block of the answer, and sends its output back as a message."""

from pathlib import Path
from typing import Final

import pytest

from clients.programs import Desk, install_pypi
from live.letta_api import Agent, LettaApi

#: It imports pkg_resources, which later releases of setuptools lack.
PACKAGES: Final = ("open-interpreter==0.4.3", "setuptools<81")
QUIET: Final = {"DISABLE_TELEMETRY": "true", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
#: It finds a block only if its fence is a piece of its own, as models stream it.
TASK: Final = "repeat 1 ```\nsay python\nsay print(6 * 7)\nsay ```"


@pytest.fixture(scope="module")
def programs(installed: Path) -> Path:
    """The folder with its Python."""
    return install_pypi(installed, *PACKAGES)


def test_code_is_run(programs: Path, desk: Desk, url: str, letta: LettaApi, agent: Agent) -> None:
    messages = desk.run_script(programs, "open_interpreter_task.py", url, agent.name, TASK, settings=QUIET)
    code, output, answer = messages
    assert (code["type"], code["content"].strip()) == ("code", "print(6 * 7)")
    assert (output["role"], output["content"].strip()) == ("computer", "42")
    assert answer["content"].startswith("You said: Code output: 42")
    said, result = letta.user_texts(agent)
    assert said == TASK
    assert result.startswith("Code output: 42")


def test_a_function_is_called(programs: Path, desk: Desk, url: str, letta: LettaApi, agent: Agent) -> None:
    """It gives calls ids of its own, and brings their results under these."""
    task = 'call execute {"language": "python", "code": "print(6 * 7)"}\nthen\nsay It is 42.'
    messages = desk.run_script(
        programs, "open_interpreter_task.py", url, agent.name, task, "calls", settings=QUIET
    )
    assert [message["content"].strip() for message in messages] == ["print(6 * 7)", "42", "It is 42."]
    thread = letta.thread(agent)
    assert thread[1:] == [("user", task), ("call", "execute"), ("result", "42"), ("assistant", "It is 42.")]
    assert thread[0][1].startswith("You are Open Interpreter")
