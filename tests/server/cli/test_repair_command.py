"""`letta-proxy repair`: its output, its exit codes, and what goes wrong."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from attrs import define, field

from drive import AGENT_ID
from http_letta import http_letta
from sansio_letta.upstreams.thread_names import chat_summary

from ..commands import run


def ago(**age: float) -> str:
    return (datetime.now(UTC) - timedelta(**age)).isoformat()


def waiting(call_id: str, name: str, since: str) -> dict[str, Any]:
    call = {"tool_call_id": call_id, "name": name, "arguments": "{}"}
    return {"id": "message-7", "message_type": "approval_request_message", "date": since, "tool_calls": [call]}


@define
class StuckLetta:
    """An agent with a call in its own thread, an approval in a chat, and a run in that chat."""

    own: dict[str, Any] | None = field(factory=lambda: waiting("call-1", "get_weather", ago(minutes=3)))
    chat: dict[str, Any] | None = field(factory=lambda: waiting("call-2", "thermometer", ago(days=2)))
    runs: list[dict[str, Any]] = field(factory=list)
    changes: list[str] = field(factory=list)
    url: str = ""

    def answer(self, path: str, body: bytes) -> tuple[str, bytes]:
        return "application/json", orjson.dumps(self._answer(path, orjson.loads(body) if body else None))

    def _answer(self, path: str, body: Any) -> Any:
        if body is not None:
            self.changes.append(path)
        if path.endswith("/messages/cancel"):
            self.runs = [each for each in self.runs if each["id"] not in body["run_ids"]]
            return dict.fromkeys(body["run_ids"], "cancelled")
        if path == "/v1/conversations/conv-1/messages":
            self.chat = None
            return {}
        if path == f"/v1/agents/{AGENT_ID}/messages":
            self.own = None
            return {}
        if path.startswith("/v1/conversations/conv-1/messages?"):
            return [self.chat] if self.chat else []
        if path.startswith("/v1/conversations/?"):
            return [{"id": "conv-1", "agent_id": AGENT_ID, "summary": chat_summary("c\x1b[31m-1")}]
        if path.startswith("/v1/runs/?"):
            return self.runs
        agent = {
            "id": AGENT_ID,
            "name": "Milo",
            "agent_type": "letta_v1_agent",
            "tools": [{"id": "tool-1", "name": "thermometer"}],
            "pending_approval": self.own,
        }
        if path.startswith("/v1/agents/?"):
            return [agent] if "name=Milo" in path or "name=" not in path else []
        return agent


@pytest.fixture
def letta() -> Iterator[StuckLetta]:
    letta = StuckLetta()
    with http_letta(letta.answer) as letta.url:
        yield letta


def columns(text: str) -> list[list[str]]:
    """The table without its times."""
    rows = [line.split("  ") for line in text.splitlines()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    return [[what, where, outcome] for what, where, _, outcome in cells]


def test_a_dry_run_shows_what_would_be_settled(letta: StuckLetta) -> None:
    letta.runs = [{"id": "run-1", "status": "running", "agent_id": AGENT_ID, "created_at": ago(hours=5)}]
    done = run("repair", "Milo", "--dry-run", "--letta-url", letta.url)
    assert done.returncode == 1
    assert columns(done.stdout) == [
        ["WHAT", "WHERE", "OUTCOME"],
        ["call get_weather", "main thread", "answer: no result"],
        ["run run-1", "main thread", "cancel (older than 3600 s)"],
        # What a client put into its key is not obeyed by the terminal.
        ["approval thermometer", "conv-1 (chat c?[31m-1)", "deny"],
    ]
    assert [age in done.stdout for age in ("(3 min)", "(5 h)", "(2 d)")] == [True] * 3
    assert done.stderr == "3 would be settled.\n"
    assert letta.changes == []


def test_all_is_settled(letta: StuckLetta) -> None:
    done = run("repair", "Milo", "--letta-url", letta.url)
    assert (done.returncode, done.stderr) == (0, "2 settled.\n")
    assert [row[-1] for row in columns(done.stdout)[1:]] == ["answered: no result", "denied"]
    assert letta.changes == [f"/v1/agents/{AGENT_ID}/messages", "/v1/conversations/conv-1/messages"]
    done = run("repair", "Milo", "--letta-url", letta.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Nothing keeps Milo stuck.\n", "")


def test_what_is_young_is_left_alone_unless_forced(letta: StuckLetta) -> None:
    letta.own = waiting("call-1", "get_weather", ago(seconds=5))
    done = run("repair", "Milo", "--letta-url", letta.url)
    assert (done.returncode, done.stderr) == (
        1,
        "1 settled, 1 left alone. What may be in use is settled with --force.\n",
    )
    assert columns(done.stdout)[1][-1] == "left alone (younger than 60 s)"
    assert run("repair", "Milo", "--force", "--letta-url", letta.url).returncode == 0
    assert letta.own is None


def test_one_chat_alone(letta: StuckLetta) -> None:
    done = run("repair", "Milo", "--conversation", "default", "--letta-url", letta.url)
    assert done.returncode == 0
    assert letta.changes == [f"/v1/agents/{AGENT_ID}/messages"]
    done = run("repair", "Milo", "--chat", "c\x1b[31m-1", "--letta-url", letta.url)
    assert done.returncode == 0
    assert letta.changes[1:] == ["/v1/conversations/conv-1/messages"]


def test_json(letta: StuckLetta) -> None:
    done = run("repair", "Milo", "--dry-run", "--json", "--letta-url", letta.url)
    report = orjson.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert (report["agent_id"], report["dry_run"], report["remaining"]) == (AGENT_ID, True, 2)
    assert report["found"][1].keys() == {
        "kind", "id", "tool", "conversation_id", "chat", "since", "age", "remedy", "outcome", "reason"
    }  # fmt: skip


REFUSED = {
    "an unknown agent": (("Nobody",), 'No Letta agent has the name or id "Nobody"'),
    "a name that is nearly one": (("milo",), 'Did you mean "Milo"?'),
    "an unknown chat": (("Milo", "--chat", "c-2"), '"Milo" has no chat with the key "c-2"'),
    "two threads": (
        ("Milo", "--chat", "c", "--conversation", "d"),
        "expected --chat or --conversation, not both",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_one_line(letta: StuckLetta, arguments: tuple[str, ...], message: str) -> None:
    done = run("repair", *arguments, "--letta-url", letta.url)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr
    assert letta.changes == []


def test_no_letta() -> None:
    done = run("repair", "Milo", "--letta-url", "http://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "letta-proxy: Letta cannot be reached: connection refused.\n"


def test_a_key_that_cannot_be_one() -> None:
    with http_letta(lambda *_: ("application/json", b"{}")) as url:
        done = run("repair", "Milo", "--letta-url", url, "--letta-api-key", "a key with blanks")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "expected printable ASCII without blanks" in done.stderr
