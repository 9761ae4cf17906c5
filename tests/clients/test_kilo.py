"""Kilo Code is interrupted while the agent answers, and goes on in the same session.

It is driven through the API of its server, which is what its windows use.
"""

import contextlib
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import frozen

from clients.documented import block
from clients.programs import POLL_INTERVAL, Desk, install_npm, serving
from live.letta_api import Agent, LettaApi
from live.rig import free_port

VERSION: Final = "7.7.7"
#: They keep it from asking other hosts.
QUIET: Final = {"KILO_DISABLE_AUTOUPDATE": "1", "KILO_DISABLE_MODELS_FETCH": "1"}
TIMEOUT: Final = 60.0  # seconds for what takes two or three
LONG: Final = "slow 0.3\nwords 40"

Item = dict[str, Any]

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@frozen(kw_only=True)
class Session:
    """A session of Kilo's, in which a user types."""

    url: str
    model: str

    def say(self, text: str) -> str:
        """Say something, and return the whole answer."""
        return _text(self._call("POST", "/message", self._prompt(text)))

    def begin(self, text: str) -> None:
        """Say something, and do not wait for the answer."""
        self._call("POST", "/prompt_async", self._prompt(text))

    def interrupt(self) -> None:
        """Do what the key for that does."""
        assert self._call("POST", "/abort")

    def wait_for_answer(self, count: int) -> None:
        """Wait until so many answers have begun to be shown."""
        deadline = time.monotonic() + TIMEOUT
        while sum(role == "assistant" and shown for role, shown in self._begun()) < count:
            assert time.monotonic() < deadline, self.transcript()
            time.sleep(POLL_INTERVAL)

    def transcript(self) -> list[tuple[str, str]]:
        """Return what it shows of each message, with its author."""
        return [(message["info"]["role"], _text(message)) for message in self._call("GET", "/message")]

    def _begun(self) -> Iterator[tuple[str, bool]]:
        for message in self._call("GET", "/message"):
            yield message["info"]["role"], any(part["type"] == "text" for part in message["parts"])

    def _prompt(self, text: str) -> Item:
        model = {"providerID": "letta", "modelID": self.model}
        return {"model": model, "parts": [{"type": "text", "text": text}]}

    def _call(self, method: str, path: str, body: Item | None = None) -> Any:
        return _call(method, self.url + path, body)


def _call(method: str, url: str, body: Item | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with _opener.open(request, timeout=TIMEOUT) as response:
        answer = response.read()
    return json.loads(answer) if answer else None


def _text(message: Item) -> str:
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


@pytest.fixture(scope="module")
def programs(installed: Path) -> Path:
    """The folder with the command."""
    return install_npm(installed, f"@kilocode/cli@{VERSION}") / "node_modules" / ".bin"


@contextlib.contextmanager
def session_of(programs: Path, desk: Desk, url: str, agent: Agent) -> Iterator[Session]:
    """Have Kilo's server up inside the block, and a session in it."""
    folder = desk.home / ".config" / "kilo"
    folder.mkdir(parents=True)
    settings = block("coding-agents", "opencode", "json", base_url=url, agent=agent.name)
    (folder / "kilo.json").write_text(settings, encoding="utf-8")
    port = free_port()
    sessions = f"http://127.0.0.1:{port}/session"
    command = (programs / "kilo", "serve", "--port", str(port))
    with serving(desk, *command, ready_url=sessions, settings=QUIET):
        made = _call("POST", sessions, {"title": "A session with a title"})
        yield Session(url=f"{sessions}/{made['id']}", model=agent.name)


def said_in(letta: LettaApi, agent: Agent) -> list[tuple[str, str]]:
    """Return what the session's conversation holds behind the instructions, without the state of the editor."""
    (conversation,) = letta.conversations(agent)
    (_, *thread) = letta.thread(agent, conversation)
    joined = [
        (role, text if isinstance(text, str) else "\n".join(part["text"] for part in text))
        for role, text in thread
    ]
    return [(role, text.partition("\n\n\n<environment_details>")[0]) for role, text in joined]


def test_interrupted_while_the_agent_answers(
    programs: Path, desk: Desk, url: str, letta: LettaApi, agent: Agent
) -> None:
    """Twice in a row: each message is heard once, with as much of the answer as the user has seen."""
    with session_of(programs, desk, url, agent) as session:
        assert session.say("say Hello.") == "Hello."
        for count in (2, 3):
            session.begin(f"{LONG}{count}")
            session.wait_for_answer(count)
            session.interrupt()
        assert session.say("say Next.") == "Next."
        shown = session.transcript()
    roles = [role for role, _ in shown]
    assert roles == ["user", "assistant"] * 4
    for _, partial in shown[3:6:2]:
        assert partial.startswith("w0 ")
        assert not partial.endswith("w39")
    assert said_in(letta, agent) == shown
    statuses = [run["status"] for run in letta.ended_runs(agent)]
    assert statuses == ["completed", "cancelled", "cancelled", "completed"]


def test_interrupted_before_the_answer(
    programs: Path, desk: Desk, url: str, letta: LettaApi, agent: Agent
) -> None:
    with session_of(programs, desk, url, agent) as session:
        session.begin("wait 8\nsay Late.")
        letta.wait_for_run(agent)
        session.interrupt()
        assert session.say("say Next.") == "Next."
        assert session.say("say More.") == "More."
        shown = session.transcript()
    assert [text for role, text in shown if role == "user"] == ["wait 8\nsay Late.", "say Next.", "say More."]
    assert said_in(letta, agent) == [entry for entry in shown if entry[1]]
