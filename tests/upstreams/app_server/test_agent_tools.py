"""Which of the agent's own tools a chat client's model may use, and on which paths."""

import pytest

from sansio_letta.config import AgentToolPolicy, NamedTools
from sansio_letta.upstreams.app_server.agent_tools import AgentTools, Judgement, is_within

MEMORY = "/home/x/.letta/memory"


@pytest.mark.parametrize(
    "path",
    [
        "/home/x/.letta/memory/likes.md",
        "/home/x/.letta/memory/system/user.md",
        "/home/x/.letta/memory//system/./user.md",
        "//home/x/.letta/memory/a",
    ],
)
def test_within(path: str) -> None:
    assert is_within(path, MEMORY)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/hostname",
        "/home/x/.letta/memory",
        "/home/x/.letta/memory/",
        "/home/x/.letta/memory/..",
        "/home/x/.letta/memory/../secrets",
        "/home/x/.letta/memory/a/../../secrets",
        "/home/x/.letta/memory/a/../b",
        "/home/x/.letta/memory2/a",
        "/home/x/.letta/MEMORY/a",
        "home/x/.letta/memory/a",
        "memory/a",
        "~/.letta/memory/a",
        "",
        "/home/x/.letta/memory/a\0b",
        None,
        7,
        ["/home/x/.letta/memory/a"],
        "C:/home/x/.letta/memory/a",
    ],
)
def test_outside(path: object) -> None:
    assert not is_within(path, MEMORY)


@pytest.mark.parametrize("directory", [None, "", "memory", "../memory"])
def test_no_directory_holds_anything(directory: str | None) -> None:
    assert not is_within("/etc/hostname", directory)
    assert not is_within("memory/a", directory)


@pytest.mark.parametrize("path", ["C:\\Users\\x\\memory\\a.md", "c:/users/X/memory/a.md"])
def test_within_on_windows(path: str) -> None:
    assert is_within(path, "C:\\Users\\x\\memory")


@pytest.mark.parametrize(
    "path", ["C:\\Users\\x\\memory\\..\\a.md", "D:\\Users\\x\\memory\\a", "C:memory\\a", "\\a"]
)
def test_outside_on_windows(path: str) -> None:
    assert not is_within(path, "C:\\Users\\x\\memory")


@pytest.mark.parametrize(
    ("policy", "tools"),
    [
        (AgentToolPolicy.MEMORY, AgentTools()),
        (AgentToolPolicy.NONE, AgentTools(has_memory=False)),
        (AgentToolPolicy.ASK, AgentTools(asks=True)),
        (NamedTools(("Bash",)), AgentTools(has_memory=False, names=frozenset({"Bash"}))),
        (NamedTools(("memory", "Bash")), AgentTools(names=frozenset({"Bash"}))),
    ],
)
def test_policies(policy: AgentToolPolicy | NamedTools, tools: AgentTools) -> None:
    assert AgentTools.of(policy) == tools


INSIDE, OUTSIDE = {"file_path": f"{MEMORY}/a"}, {"file_path": "/etc/hostname"}


@pytest.mark.parametrize(
    ("tools", "name", "arguments", "judgement"),
    [
        (AgentTools(), "Memory", {}, Judgement.ALLOW),
        (AgentTools(), "Write", INSIDE, Judgement.ALLOW),
        (AgentTools(), "Read", OUTSIDE, Judgement.OUTSIDE),
        (AgentTools(), "Read", {"path": f"{MEMORY}/a"}, Judgement.OUTSIDE),
        (AgentTools(), "Bash", {"command": "id"}, Judgement.DENY),
        (AgentTools(has_memory=False), "Write", INSIDE, Judgement.DENY),
        (AgentTools(asks=True), "Write", INSIDE, Judgement.ALLOW),
        (AgentTools(asks=True), "Read", OUTSIDE, Judgement.ASK),
        (AgentTools(asks=True), "Bash", {}, Judgement.ASK),
        (AgentTools(names=frozenset({"Bash"})), "Bash", {}, Judgement.ALLOW),
        # The client's tool of the same name is carried out by the client.
        (AgentTools(client_names=frozenset({"Read"})), "Read", OUTSIDE, Judgement.ASK),
    ],
)
def test_judgement(tools: AgentTools, name: str, arguments: dict[str, str], judgement: Judgement) -> None:
    assert tools.judge(name, arguments, MEMORY) is judgement


def test_what_the_model_is_offered() -> None:
    assert AgentTools(client_names=frozenset({"b", "a"})).offered == (
        "a",
        "b",
        "Memory",
        "Read",
        "Write",
        "Edit",
    )
    assert AgentTools(has_memory=False).offered == ()
    assert AgentTools(asks=True).offered is None
