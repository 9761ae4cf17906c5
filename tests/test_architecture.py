"""The walks of docs/architecture.md: each function named there exists, and is passed in this order."""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import orjson
import pytest

import sansio_letta
from drive import SSE
from drive_cycle import Client, chat
from recordings import recording
from sansio_letta import HttpRequest

PACKAGE: Final = Path(sansio_letta.__file__ or "").parent
PAGE: Final = Path(__file__).parent.parent / "docs" / "architecture.md"

#: Modules that any walk may pass without naming them.
EVERYWHERE: Final = {"_convert", "config", "errors"}

AGENT: Final = {"id": "agent-1", "name": "Milo", "agent_type": "letta_v1_agent"}
CALL: Final = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
TOOL: Final = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


def name_of(code: CodeType) -> str:
    """Return the dotted name of a function inside the package, such as ``sse.SSEDecoder.next_event``."""
    module = Path(code.co_filename).relative_to(PACKAGE).with_suffix("")
    return ".".join((*module.parts, code.co_qualname))


def passed(walk: Callable[[], object]) -> list[str]:
    """Return the core's functions in the order in which they are entered."""
    entered: list[CodeType] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            entered.append(frame.f_code)

    sys.setprofile(profile)
    try:
        walk()
    finally:
        sys.setprofile(None)
    return [name_of(code) for code in entered if code.co_filename.startswith(f"{PACKAGE}/")]


def text_events() -> Iterator[bytes]:
    """Yield the events of a recorded run: some before the text, then its first two deltas."""
    [exchange] = [each for each in recording("text").exchanges if each.starts_run]
    events = [event + b"\n\n" for event in exchange.body.split(b"\n\n") if event]
    first = next(at for at, event in enumerate(events) if b'"assistant_message"' in event)
    yield b"".join(events[:first])
    yield events[first]
    yield events[first + 1]


def streaming() -> Client:
    """Start a turn whose run has sent everything up to its text."""
    client = Client(chat(stream=True)).answer([AGENT])
    client.cycle.receive_response(200, SSE, 102.0)
    read(client, next(text_events()))
    return client


def read(client: Client, data: bytes) -> None:
    client.cycle.receive_data(data, 102.0)
    client.pump()


def text_delta() -> Callable[[], object]:
    client, (_, first, second) = streaming(), text_events()

    def walk() -> None:
        before = len(client.body)
        read(client, first)
        read(client, second)
        assert client.body.count(b'"delta":{"content":', before) == 2

    return walk


def tool_result() -> Callable[[], object]:
    body = {
        "model": "Milo",
        "messages": [
            {"role": "user", "content": "How is the weather?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "18 C, sunny"},
        ],
        "tools": [TOOL],
        "stream": True,
    }
    request = HttpRequest(method="POST", target="/v1/chat/completions", body=orjson.dumps(body))
    waiting = {
        "id": "message-1",
        "message_type": "approval_request_message",
        "tool_calls": [{"tool_call_id": "call_1", "name": "get_weather", "arguments": "{}"}],
    }

    def walk() -> None:
        client = Client(request).answer([AGENT | {"pending_approval": waiting}])
        assert b"18 C, sunny" in (client.commands[-1].body or b"")

    return walk


def disconnect() -> Callable[[], object]:
    client = streaming()

    def walk() -> None:
        client.leave()
        assert client.commands[-1].target.endswith("/cancel")
        client.answer({})
        assert client.ended

    return walk


WALKS: Final[dict[str, Callable[[], Callable[[], object]]]] = {
    "A text delta": text_delta,
    "A tool result": tool_result,
    "A client that disconnects": disconnect,
}


def named(heading: str) -> list[str]:
    """Return the functions that the numbered list under a heading names, in order."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    steps = re.findall(r"^\d+\. .*(?:\n {3}.*)*", section, re.MULTILINE)
    return re.findall(r"`((?:turn|upstreams|dialects|proxy|sse)\.[\w.]+)`", "\n".join(steps))


def find(name: str) -> Any:
    """Return the function of this name."""
    parts = name.split(".")
    for at in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(("sansio_letta", *parts[:at])))
        except ModuleNotFoundError:
            continue
        for part in parts[at:]:
            found = getattr(found, part)
        return found.fget if isinstance(found, property) else found
    raise AssertionError(f"no module of {name}")


@pytest.mark.parametrize("heading", WALKS)
def test_the_functions_of_a_walk_are_passed_in_order(heading: str) -> None:
    names = named(heading)
    assert len(names) > 5
    rest = iter(passed(WALKS[heading]()))
    for name in names:
        assert name_of(find(name).__code__) == name
        assert name in rest, f"{name} is not passed after the function before it"


def test_the_walk_of_a_text_delta_names_every_module_on_the_hot_path() -> None:
    modules = {
        str(path.relative_to(PACKAGE).with_suffix("")).replace("/", ".") for path in PACKAGE.rglob("*.py")
    }
    through = {
        max((module for module in modules if name.startswith(f"{module}.")), key=len)
        for name in passed(text_delta())
    }
    named_modules = {
        module for module in modules for name in named("A text delta") if name.startswith(f"{module}.")
    }
    assert through - EVERYWHERE == named_modules
