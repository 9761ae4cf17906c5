"""Replies that are checked before they are told, behind every fault that the streams of their runs can have.

What must hold beside the rules of `test_core`: no client hears anything of a reply that is not as it wishes.
"""

from collections.abc import Sequence
from typing import Any

import pytest

from drive import DONE, PING, USAGE, encode, say, stop, think, want
from sansio_letta import Config, Enforcement, Proxy

from .core import CoreClient
from .keeping import Break, Fault, KeepingAgent, KeepingLetta, Script
from .test_core import INSTEAD, check_memory, check_runs
from .told import Told

GOOD = '{"n": 1}'
ASKED = {"response_format": {"type": "json_object"}}
FORCED = {
    "tools": [{"type": "function", "function": {"name": "get_weather"}}],
    "tool_choice": "required",
}


def script(*items: dict[str, Any], reason: str = "end_turn") -> Script:
    messages: list[dict[str, Any] | str] = [PING, *items, stop(reason), USAGE, DONE]
    return Script(items=tuple(map(encode, messages)))


#: What is wished, the first run, and the second; what is told in the end: text and calls.
SCENES = {
    "good at once": (
        ASKED,
        script(think("Hm.", id="m-1"), say('{"n"', id="m-2"), say(": 1}", id="m-2")),
        None,
        (GOOD, 0),
    ),
    "good when asked again": (
        ASKED,
        script(think("Hm.", id="m-1"), say("It is ", id="m-2"), say("one.", id="m-2")),
        script(think("Oh.", id="m-3"), say('{"n"', id="m-4"), say(": 1}", id="m-4")),
        (GOOD, 0),
    ),
    "never good": (ASKED, script(say("One.", id="m-2")), script(say("It is one.", id="m-4")), None),
    "a call at once": (
        FORCED,
        script(
            say("Let me ", id="m-1"),
            say("look.", id="m-1"),
            want("call-1", "get_weather", "{}"),
            reason="requires_approval",
        ),
        None,
        ("Let me look.", 1),
    ),
    "a call when asked again": (
        FORCED,
        script(say("It is sunny.", id="m-1")),
        script(say("Let me look.", id="m-3"), want("call-1", "get_weather", "{}"), reason="requires_approval"),
        ("Let me look.", 1),
    ),
}
scenes = pytest.mark.parametrize(("asked", "first", "second", "result"), SCENES.values(), ids=SCENES)


def ask(
    asked: dict[str, object],
    first: Script,
    second: Script | None,
    faults: Sequence[Fault | None],
    *,
    stream: bool,
    size: int = 0,
) -> tuple[list[Told], KeepingAgent, KeepingLetta]:
    """One request, with these faults of the first streams, repeated while the client may."""
    letta = KeepingLetta()
    agent = letta.add(first)
    agent.again = second
    agent.faults = {number: fault for number, fault in enumerate(faults) if fault is not None}
    client = CoreClient(letta, size, proxy=Proxy(Config(enforcement=Enforcement.VALIDATE)))
    body = {"model": agent.name, "messages": [{"role": "user", "content": "hi"}], "stream": stream, **asked}
    return client.ask_stubbornly(body), agent, letta


def check(
    answers: list[Told], agent: KeepingAgent, letta: KeepingLetta, result: tuple[str, int] | None, where: str
) -> None:
    for told in answers:
        text, call_count = result or ("", 0)
        if told.whole:
            assert result is not None, f"{where}: {told.text!r} should be an error"
            assert (told.text, len(told.calls)) == result, where
        else:
            # Text is told in one piece: all of it, with a call that broke off behind it, or nothing.
            assert told.text in ("", text), f"{where}: {told.text!r}"
            assert told.text == "" or call_count, where
    check_memory(agent, where)
    check_runs(agent, where)
    assert letta.open_count == 0, where


@scenes
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_without_a_fault(
    asked: dict[str, object], first: Script, second: Script | None, result: tuple[str, int] | None, stream: bool
) -> None:
    (told,), agent, letta = ask(asked, first, second, [], stream=stream)
    check([told], agent, letta, result, "no fault")
    assert told.whole is (result is not None)
    assert told.error is None or told.error["code"] == "invalid_reply"
    assert len(agent.runs) == (1 if second is None else 2)


@scenes
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("how", [Break.ENDS, Break.RESETS, Break.STALLS, Break.BABBLES])
def test_within_and_behind_every_item(
    asked: dict[str, object],
    first: Script,
    second: Script | None,
    result: tuple[str, int] | None,
    stream: bool,
    how: Break,
) -> None:
    for number, broken in enumerate([first] if second is None else [first, second]):
        for at in sorted({0, *broken.ends, *(end - 5 for end in broken.ends)}):
            for ahead in (False, True):
                faults = [*[None] * number, Fault(how=how, at=at, ahead=ahead)]
                where = f"run {number}, {how.value} at {at}, ahead {ahead}"
                check(*ask(asked, first, second, faults, stream=stream), result, where)


@scenes
@pytest.mark.parametrize("fault", INSTEAD.values(), ids=INSTEAD.keys())
def test_instead_of_either_run(
    asked: dict[str, object], first: Script, second: Script | None, result: tuple[str, int] | None, fault: Fault
) -> None:
    for number in range(1 if second is None else 2):
        for stream in (True, False):
            got = ask(asked, first, second, [*[None] * number, fault], stream=stream)
            check(*got, result, f"run {number}, streamed {stream}")


@scenes
def test_client_leaves_at_every_step(
    asked: dict[str, object], first: Script, second: Script | None, result: tuple[str, int] | None
) -> None:
    told, step = None, 0
    while told is None:
        letta = KeepingLetta()
        agent = letta.add(first)
        agent.again = second
        client = CoreClient(letta, 0, proxy=Proxy(Config(enforcement=Enforcement.VALIDATE)))
        body = {"model": agent.name, "messages": [{"role": "user", "content": "hi"}], "stream": True, **asked}
        told = client.begin(body, leaves_at=step)
        check([told] if told else [], agent, letta, result, f"left at step {step}")
        step += 1
    assert step > len(first.items)
