"""Home Assistant: its conversation switches a lamp on with the Assist tools."""

from pathlib import Path
from typing import Final

import pytest

from clients.programs import Desk, find_python, install_pypi
from live.letta_api import Agent, LettaApi
from live.rig import free_port

PYTHON_VERSIONS: Final = ("3.12", "3.13")
#: The program, and what its integrations would install by themselves when they start.
PACKAGES: Final = (
    "homeassistant==2024.12.5",
    "openai==1.35.7",
    "httpx<0.28",
    "hassil==2.0.5",
    "home-assistant-intents==2024.12.9",
    "ha-ffmpeg==3.2.2",
    "mutagen==1.47.0",
    "pymicro-vad==1.0.1",
    "pyspeex-noise==1.0.2",
)
SWITCH_ON: Final = """\
call HassTurnOn {"name": "Lamp", "domain": ["input_boolean"]}
then
say The lamp is on."""


@pytest.fixture(scope="module")
def programs(installed: Path) -> Path:
    """The folder with its Python."""
    python = find_python(*PYTHON_VERSIONS)
    if python is None:
        pytest.skip(f"Home Assistant needs Python {' or '.join(PYTHON_VERSIONS)}: install it beside this one")
    return install_pypi(installed, *PACKAGES, python=python)


def test_a_lamp(programs: Path, desk: Desk, url: str, letta: LettaApi, agent: Agent) -> None:
    texts = ("say Good evening.", SWITCH_ON, "say Good night.")
    arguments = (str(desk.files), str(free_port()), agent.name, *texts)
    said = desk.run_script(programs, "home_assistant.py", *arguments, settings={"OPENAI_BASE_URL": url})
    assert said == [["Good evening.", "off"], ["The lamp is on.", "on"], ["Good night.", "on"]]
    assert letta.user_texts(agent) == list(texts)
    assert [status for _, _, status in letta.tool_returns(agent)] == ["success"]
    assert letta.pending_call_ids(agent) == []
