"""Open WebUI with a user in front of it: a headless browser, the server with the settings of the docs."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from clients.documented import commands
from clients.programs import Desk, install_npm, install_pypi, serving
from live.letta_api import Agent, LettaApi
from live.rig import free_port

VERSION: Final = "0.12.4"
BROWSER_DRIVER: Final = "playwright-core@1.65.1"
#: It asks no other host, for models neither.
QUIET: Final = {"OFFLINE_MODE": "true", "HF_HUB_OFFLINE": "1", "RAG_EMBEDDING_ENGINE": "openai"}
#: Nobody has to log in, and there is no other place where models come from.
ALONE: Final = {"WEBUI_AUTH": "False", "ENABLE_OLLAMA_API": "false"}
WORD_COUNT: Final = 20
FIRST: Final = f"think I ponder this.\nslow 0.1\nwords {WORD_COUNT}"
LONG: Final = "slow 0.5\nwords 200"
SECOND: Final = "say Something else."
CHATS: Final = {
    "first": {"said": FIRST, "end": f"w{WORD_COUNT - 1}", "thought": "I ponder this."},
    "long": {"said": LONG, "end": "w2 w3"},
    "second": {"said": SECOND, "end": "Something else."},
}


@pytest.fixture(scope="module")
def chromium() -> str:
    """The browser's path."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.fail("Open WebUI's test needs a browser: install Debian's chromium", pytrace=False)
    return found


@pytest.fixture
def open_webui(installed: Path, desk: Desk, url: str, agent: Agent) -> Iterator[str]:
    """The URL of an Open WebUI that is connected to the proxy, with nothing in it yet."""
    programs = install_pypi(installed, f"open-webui=={VERSION}")
    settings, ((name, *arguments),) = commands("open-webui", "Connect", base_url=url, agent=agent.name)
    port = str(free_port())
    arguments[arguments.index("--port") + 1] = port
    root = f"http://127.0.0.1:{port}"
    settings |= {**QUIET, **ALONE, "DATA_DIR": str(desk.home / "data")}
    with serving(desk, programs / name, *arguments, ready_url=f"{root}/health", settings=settings):
        yield root


def test_a_user_with_two_chats(
    installed: Path, chromium: str, open_webui: str, desk: Desk, letta: LettaApi, agent: Agent
) -> None:
    shutil.copy(Path(__file__).with_name("open_webui.mjs"), desk.files)
    (desk.files / "node_modules").symlink_to(install_npm(installed, BROWSER_DRIVER) / "node_modules")
    printed = desk.run("node", "open_webui.mjs", chromium, open_webui, agent.name, json.dumps(CHATS))
    seen = json.loads(printed.splitlines()[-1])

    words = " ".join(f"w{number}" for number in range(WORD_COUNT))
    assert seen["growth"] > 5  # it grew before the user's eyes
    assert seen["folded"].endswith(words)
    assert "I ponder this." not in seen["folded"]
    assert "I ponder this." in seen["unfolded"]
    assert "w199" not in seen["stopped"]
    assert seen["kept"][-1] == seen["stopped"]
    first_chat, second_chat = seen["chats"]
    assert first_chat != second_chat

    # Stopping ended the run at Letta, which keeps nothing of a turn that is cancelled in its first step. Each
    # chat is a conversation of its own. What Open WebUI itself asked, for titles and so on, has left nothing.
    assert [run["status"] for run in letta.ended_runs(agent)].count("cancelled") == 1
    said = [letta.user_texts(agent, conversation) for conversation in letta.conversations(agent)]
    assert sorted(said) == sorted([[FIRST], [SECOND]])
    assert sorted(letta.user_texts(agent)) == sorted([FIRST, SECOND])
