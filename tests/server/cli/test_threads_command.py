"""`letta-proxy threads`: the output for an agent's chats."""

from drive import AGENT_ID
from sansio_letta.upstreams.thread_names import chat_summary

from ..commands import run
from ..gated_letta import gated_letta


def conversation(name: str, summary: str, created: str | None) -> dict[str, str | None]:
    return {"id": name, "agent_id": AGENT_ID, "summary": summary, "created_at": created}


def test_a_line_for_each_chat() -> None:
    with gated_letta() as letta:
        letta.conversations += [
            conversation("conv-2", 'letta-proxy chat: "the second one"', "2026-11-22T09:00:00.123456Z"),
            conversation("conv-3", "about a letta-proxy chat: of mine", "2026-11-22T08:30:00Z"),
            conversation("conv-1", 'letta-proxy chat: "c-1"', None),
            conversation("conv-4", chat_summary("CORP\\alice"), None),
        ]
        done = run("threads", "Milo", "--letta-url", letta.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "conv-2  2026-11-22T09:00:00  the second one\nconv-1    c-1\nconv-4    CORP\\alice\n"


def test_an_agent_without_chats() -> None:
    with gated_letta() as letta:
        done = run("threads", "Milo", "--letta-url", letta.url)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Milo has no chats" in done.stderr


def test_an_agent_that_there_is_not() -> None:
    with gated_letta() as letta:
        done = run("threads", "Nobody", "--letta-url", letta.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Nobody" in done.stderr
    assert "Traceback" not in done.stderr
