"""Open WebUI with a user in front of it: a headless browser, both servers with the settings of the docs."""

import base64
import json
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import frozen

from clients.documented import AGENT, BASE_URL, commands
from clients.programs import Desk, install_npm, install_pypi, serving
from clients.restarts import RestartableProxy, restartable
from clients.tool_server import ToolServer, tool_server
from live.letta_api import Agent, LettaApi
from live.rig import Rig, free_port
from sansio_letta import read_recording

VERSION: Final = "0.12.4"
BROWSER_DRIVER: Final = "playwright-core@1.65.1"
#: What the pages looked like, for a person to look at.
PICTURES: Final = Path(__file__).parents[2] / "build" / "open-webui"
TOOL_SERVER_URL: Final = "http://127.0.0.1:8000"  # in the docs
#: It asks no other host, for models neither.
QUIET: Final = {"OFFLINE_MODE": "true", "HF_HUB_OFFLINE": "1", "RAG_EMBEDDING_ENGINE": "openai"}
#: Nobody has to log in, and there is no other place where models come from.
ALONE: Final = {"WEBUI_AUTH": "False", "ENABLE_OLLAMA_API": "false"}

WORDS: Final = " ".join(f"w{number}" for number in range(20))
PICTURE_SIZE: Final = 32  # pixels, of each side


@frozen(kw_only=True)
class User:
    """Somebody with a browser, which has Open WebUI in it."""

    desk: Desk
    browser: str
    url: str

    def does(self, scenario: str, agent: Agent, **given: Any) -> dict[str, Any]:
        """Play a scenario of `open_webui.mjs` with that agent; return what was seen."""
        arguments = (self.browser, self.url, agent.name, str(PICTURES), scenario, json.dumps(given))
        seen: dict[str, Any] = json.loads(self.desk.run("node", "open_webui.mjs", *arguments).splitlines()[-1])
        return seen


@pytest.fixture(scope="module")
def chromium() -> str:
    """The browser's path."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.fail(
            "Open WebUI's test needs a browser: `apt-get install chromium` on Debian, or Google Chrome",
            pytrace=False,
        )
    return found


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the proxy records what it is asked and what it answers."""
    return tmp_path_factory.mktemp("recorded")


@pytest.fixture(scope="module")
def proxy(rig: Rig, recorded: Path) -> Iterator[RestartableProxy]:
    """A proxy as the page has it started."""
    _, ((*_, option, value),) = commands("open-webui", "The agent's own tools", base_url=BASE_URL, agent=AGENT)
    recording = ("--record", str(recorded), "--record-text", "keep")
    with restartable(rig.url, option, value, *recording) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def tools() -> Iterator[ToolServer]:
    """A tool server beside Open WebUI."""
    with tool_server() as tools:
        yield tools


@pytest.fixture(scope="module")
def user(
    installed: Path,
    chromium: str,
    proxy: RestartableProxy,
    tools: ToolServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[User]:
    """Somebody in front of an Open WebUI that is connected to proxy and tool server, with nothing in it yet."""
    programs, modules = (
        install_pypi(installed, f"open-webui=={VERSION}"),
        install_npm(installed, BROWSER_DRIVER),
    )
    desk = Desk.inside(tmp_path_factory.mktemp("open-webui"))
    shutil.copy(Path(__file__).with_name("open_webui.mjs"), desk.files)
    (desk.files / "node_modules").symlink_to(modules / "node_modules")
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True)

    settings, ((name, *arguments),) = commands("open-webui", "Connect", base_url=proxy.base_url, agent=AGENT)
    offered, _ = commands("open-webui", "Tool servers", base_url=proxy.base_url, agent=AGENT)
    assert TOOL_SERVER_URL in offered["TOOL_SERVER_CONNECTIONS"]
    settings |= {key: value.replace(TOOL_SERVER_URL, tools.url) for key, value in offered.items()}
    settings |= {**QUIET, **ALONE, "DATA_DIR": str(desk.home / "data")}
    port = str(free_port())
    arguments[arguments.index("--port") + 1] = port
    root = f"http://127.0.0.1:{port}"
    with serving(desk, programs / name, *arguments, ready_url=f"{root}/health", settings=settings):
        yield User(desk=desk, browser=chromium, url=root)


def only_conversation(letta: LettaApi, agent: Agent) -> str:
    """Return the one conversation of an agent: of the chat, and of nothing that Open WebUI itself asked."""
    (found,) = letta.conversations(agent)
    return found


def test_two_chats_reasoning_and_stop(user: User, letta: LettaApi, agent: Agent) -> None:
    first = "think I ponder this.\nslow 0.1\nwords 20"
    seen = user.does(
        "chats",
        agent,
        first={"said": first, "end": "w19", "thought": "I ponder this."},
        long={"said": "slow 0.5\nwords 200", "end": "w2 w3"},
        second={"said": "say Something else.", "end": "Something else."},
    )
    assert seen["growth"] > 5  # it grew before the user's eyes
    assert seen["folded"].endswith(WORDS)
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
    assert sorted(said) == sorted([[first], ["say Something else."]])
    assert sorted(letta.user_texts(agent)) == sorted([first, "say Something else."])


def test_a_tool_of_a_tool_server(user: User, tools: ToolServer, letta: LettaApi, agent: Agent) -> None:
    task = 'say I look.\ncall get_weather {"city": "Oslo"}\nthen\nsay It is mild there.'
    seen = user.does("tool", agent, server="Weather", said=task, end="It is mild there.")
    assert tools.calls == [{"city": "Oslo"}]
    assert seen["answer"] == "I look.\n\nView Result from get_weather\n\nIt is mild there."
    assert "18 C in Oslo" in seen["opened"]

    conversation = only_conversation(letta, agent)
    (call,) = letta.tool_calls(agent, conversation)
    assert (call["name"], json.loads(call["arguments"])) == ("get_weather", {"city": "Oslo"})
    ((ident, returned, status),) = letta.tool_returns(agent, conversation)
    assert (ident, status) == (call["tool_call_id"], "success")
    assert "18 C in Oslo" in returned
    assert letta.user_texts(agent, conversation) == [task]
    assert letta.assistant_texts(agent, conversation) == ["I look.", "It is mild there."]


def test_an_answer_is_asked_for_again(user: User, letta: LettaApi, agent: Agent) -> None:
    ends = ["heard 1 times", "heard 2 times", "You said: More Concise"]
    seen = user.does("regenerate", agent, said="heard", ends=ends, wish="More Concise")
    assert seen["seen"] == [ends[0], ends[1], ends[0], ends[2]]

    # To the agent these are new messages, in the same conversation: it remembers each.
    conversation = only_conversation(letta, agent)
    assert letta.user_texts(agent, conversation) == ["heard", "heard", "More Concise"]
    assert letta.assistant_texts(agent, conversation) == ends


def test_a_message_is_edited(user: User, letta: LettaApi, agent: Agent) -> None:
    seen = user.does("edit", agent, said="say One.", edited="say Two.", firstEnd="One.", secondEnd="Two.")
    assert seen == {"first": "One.", "second": "Two."}
    conversation = only_conversation(letta, agent)
    assert letta.user_texts(agent, conversation) == ["say One.", "say Two."]
    assert letta.assistant_texts(agent, conversation) == ["One.", "Two."]


def test_what_was_stopped_is_asked_for_again_or_edited(user: User, letta: LettaApi, agent: Agent) -> None:
    said, edited = "slow 0.2\nwords 20\nheard", "say Edited.\nheard"
    whole, changed = f"{WORDS}\nheard 1 times", "Edited.\nheard 1 times"
    seen = user.does(
        "stopped", agent, said=said, end="w2 w3", wholeEnd="heard 1 times", edited=edited, editedEnd="Edited."
    )
    assert all(stopped.startswith("w0 w1 w2 w3") and "w19" not in stopped for stopped in seen["stopped"])
    assert (seen["again"], seen["changed"]) == (whole, changed)

    # What was stopped left nothing, so the agent has heard neither message twice.
    assert [run["status"] for run in letta.ended_runs(agent)].count("cancelled") == 2
    conversation = only_conversation(letta, agent)
    assert letta.user_texts(agent, conversation) == [said, edited]
    assert letta.assistant_texts(agent, conversation) == [whole, changed]


@pytest.fixture(params=["same process", "restarted"])
def restart_url(request: pytest.FixtureRequest, proxy: RestartableProxy) -> str:
    """What restarts the proxy between two steps of a script; empty: it goes on."""
    return proxy.restart_url if request.param == "restarted" else ""


def headers_of_input(recorded: Path, agent: Agent) -> dict[str, str]:
    """Return what the answers to an agent's users said of their input in a header, by the last message."""
    found: dict[str, str] = {}
    for path in recorded.iterdir():
        exchange = read_recording(path.read_bytes()).client
        assert exchange is not None
        body, how = exchange.request.json, dict(exchange.headers).get("x-letta-input")
        if body and body.get("model") == agent.name and how is not None:
            found[body["messages"][-1]["content"]] = how
    return found


Thread = list[tuple[str, str]]


def conversed(*pairs: tuple[str, str]) -> Thread:
    """Return the thread of these messages and answers."""
    return [(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]


def test_typing_on_after_a_stop(
    user: User, letta: LettaApi, agent: Agent, recorded: Path, restart_url: str
) -> None:
    nothing = "wait 30\nsay Never."
    thought = f"slow 0.3\nthink {WORDS} {WORDS}\nsay Never, too."
    long = "slow 0.3\nwords 60"
    script = [
        {"step": "stop", "text": nothing},
        {"step": "say", "text": "say One.", "end": "One."},
        {"step": "stop", "text": thought, "behind": "Thinking"},
        {"step": "say", "text": "say Two.", "end": "Two."},
        {"step": "stop", "text": long, "behind": "w2 w3"},
        {"step": "say", "text": "say Three.", "end": "Three."},
        {"step": "say", "text": "say Four.\nheard", "end": "heard 1 times"},
    ]
    seen = user.does("talk", agent, name="stops", script=script, restartUrl=restart_url)["seen"]
    conversation = only_conversation(letta, agent)
    part = f"{seen[4]} "  # as it was sent; a page shows no blank at the end
    assert part.startswith("w0 w1 w2 w3")
    assert letta.thread(agent, conversation) == [
        ("user", nothing),
        ("user", "say One."),
        ("assistant", "One."),
        ("user", thought),
        ("user", "say Two."),
        ("assistant", "Two."),
        ("user", long),
        ("assistant", part),
        *conversed(("say Three.", "Three."), ("say Four.\nheard", "Four.\nheard 1 times")),
    ]
    # Nothing is left of an answer without text. What was said before it is new with the message behind it.
    assert headers_of_input(recorded, agent) == {"say Three.": "caught-up"}


def test_typing_on_after_edits(
    user: User, letta: LettaApi, agent: Agent, recorded: Path, restart_url: str
) -> None:
    """Of the last message, of an earlier one, and of the first."""
    script = [
        {"step": "say", "text": "say One.", "end": "One."},
        {"step": "say", "text": "say Two.", "end": "Two."},
        {"step": "edit", "old": "say Two.", "text": "say Two, edited.", "end": "Two, edited."},
        {"step": "say", "text": "say Three.", "end": "Three."},
        {"step": "edit", "old": "say Two, edited.", "text": "say Two, again.", "end": "Two, again."},
        {"step": "say", "text": "say Four.", "end": "Four."},
        {"step": "edit", "old": "say One.", "text": "say One, edited.", "end": "One, edited."},
        {"step": "say", "text": "say Five.\nheard", "end": "heard 1 times"},
    ]
    user.does("talk", agent, name="edits", script=script, restartUrl=restart_url)
    conversation = only_conversation(letta, agent)
    assert letta.thread(agent, conversation) == conversed(
        ("say One.", "One."),
        ("say Two.", "Two."),
        ("say Two, edited.", "Two, edited."),
        ("say Three.", "Three."),
        ("say Two, again.", "Two, again."),
        ("say Four.", "Four."),
        ("say One, edited.", "One, edited."),
        ("say Five.\nheard", "Five.\nheard 1 times"),
    )
    assert headers_of_input(recorded, agent) == {"say Two, edited.": "edited", "say Two, again.": "edited"}


def test_typing_on_after_regenerations(
    user: User, letta: LettaApi, agent: Agent, recorded: Path, restart_url: str
) -> None:
    """Behind the new answer, and behind the one before it."""
    first, second = "say One.\nheard", "say Three.\nheard"
    script = [
        {"step": "say", "text": first, "end": "heard 1 times"},
        {"step": "regenerate", "end": "heard 2 times"},
        {"step": "say", "text": "say Two.", "end": "Two."},
        {"step": "say", "text": second, "end": "heard 1 times"},
        {"step": "regenerate", "end": "heard 2 times"},
        {"step": "goBack", "end": "heard 1 times"},
        {"step": "say", "text": "say Four.", "end": "Four."},
    ]
    user.does("talk", agent, name="regenerations", script=script, restartUrl=restart_url)
    conversation = only_conversation(letta, agent)
    assert letta.thread(agent, conversation) == conversed(
        (first, "One.\nheard 1 times"),
        (first, "One.\nheard 2 times"),
        ("say Two.", "Two."),
        (second, "Three.\nheard 1 times"),
        (second, "Three.\nheard 2 times"),
        ("say Four.", "Four."),
    )
    assert headers_of_input(recorded, agent) == {first: "repeated", second: "repeated"}


def picture() -> bytes:
    """Draw a small PNG in many colours."""
    rows = (
        b"\0" + b"".join(bytes((8 * x, 8 * y, 120)) for x in range(PICTURE_SIZE)) for y in range(PICTURE_SIZE)
    )

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", PICTURE_SIZE, PICTURE_SIZE, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"".join(rows))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_an_image_reaches_the_agent(user: User, letta: LettaApi, agent: Agent) -> None:
    file = user.desk.files / "square.png"
    file.write_bytes(picture())
    said = "say A colourful square."
    seen = user.does("image", agent, file=str(file), said=said, end="A colourful square.")
    assert seen["answer"] == "A colourful square."

    (parts,) = letta.user_texts(agent, only_conversation(letta, agent))
    assert [part["type"] for part in parts] == ["text", "text", "image"]
    assert 'name="square.png"' in parts[0]["text"]  # Open WebUI tells of its files
    assert parts[1]["text"] == said
    assert parts[2]["source"]["media_type"] == "image/png"
    assert base64.b64decode(parts[2]["source"]["data"]) == picture()


def test_title_tags_and_questions(user: User, letta: LettaApi, agent: Agent) -> None:
    made_up = {"title": "Long rivers", "tags": ["Nature"], "follow_ups": ["Which one is longest?"]}
    said = f"say The Nile, the Amazon.\ntask {json.dumps(made_up)}"
    seen = user.does(
        "title",
        agent,
        said=said,
        end="The Nile, the Amazon.",
        title="Long rivers",
        tag="Nature",
        question="Which one is longest?",
    )
    assert seen == {"title": "Long rivers", "answer": "The Nile, the Amazon."}

    # The agent was asked for them in conversations that are gone, and remembers nothing of it.
    assert len(letta.ended_runs(agent)) == 4
    conversation = only_conversation(letta, agent)
    for where in (None, conversation):
        assert letta.user_texts(agent, where) == [said]
        assert letta.assistant_texts(agent, where) == ["The Nile, the Amazon."]


def test_a_tool_of_the_agents_own_is_shown(user: User, letta: LettaApi, agent: Agent) -> None:
    task = """\
slow 0.3
say Let me note that.
call memory_insert {"label": "human", "new_string": "Likes tea."}
then
say You like tea."""
    seen = user.does(
        "status",
        agent,
        said=task,
        running="memory_insert: running",
        done="memory_insert: done",
        end="You like tea.",
    )
    assert seen["answer"].startswith("memory_insert: done\nmemory_insert: running\nmemory_insert: done\n")
    assert seen["answer"].endswith("Let me note that.\n\nYou like tea.")
    assert "Likes tea." in letta.memory(agent)
    assert letta.user_texts(agent, only_conversation(letta, agent)) == [task]


def test_what_cannot_be_done_is_said(user: User, letta: LettaApi, agent: Agent) -> None:
    seen = user.does(
        "refusals",
        agent,
        first={"said": "say One.", "end": "One."},
        refused="The agent cannot go on from its own last message.",
        broken={"said": "fail 400", "error": "Letta ended the run"},
        last={"said": "say Fine.", "end": "Fine."},
    )
    continued, broken, last = seen["seen"]
    assert continued.startswith("One.")
    assert "An error occurred with the LLM request" in broken
    assert last == "Fine."
    conversation = only_conversation(letta, agent)
    assert letta.assistant_texts(agent, conversation) == ["One.", "Fine."]
    # Open WebUI sends the message that failed once more, before the next: Letta had kept nothing of it.
    assert letta.user_texts(agent, conversation) == ["say One.", "fail 400", "say Fine."]
