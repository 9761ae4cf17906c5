"""The agent's own tools, as the client sees them."""

from typing import Any

import orjson
import pytest

from drive import (
    AGENT,
    DONE,
    PING,
    USAGE,
    drain,
    make_turn,
    say,
    server_call,
    stop,
    stream,
    think,
    turn_request,
)
from recordings import recording
from sansio_letta import Config, ReasoningField, ServerTools
from sansio_letta.dialects.chat_completions.writer import ChunkWriter, CompletionWriter, Heading
from sansio_letta.dialects.tool_display import MAX_ARGUMENTS, first_lines, showing_tools
from sansio_letta.recording.replay import render
from sansio_letta.turn.events import (
    CallArguments,
    CallStarted,
    Event,
    FinishReason,
    ServerToolArguments,
    ServerToolReturned,
    ServerToolStarted,
    TextDelta,
    TurnFinished,
    TurnStarted,
)
from sansio_letta.upstreams.rest.commands import Command

HEADING = Heading(completion_id="chatcmpl-1", created=0, model="Milo")


def returned(call_id: str, text: str, *, status: str = "success") -> dict[str, Any]:
    call = {"tool_call_id": call_id, "tool_return": text, "status": status}
    return {
        "message_type": "tool_return_message",
        "id": "message-3",
        "step_id": "step-1",
        "tool_returns": [call],
    }


def events(*messages: dict[str, Any]) -> list[Event]:
    turn = make_turn(turn_request("hi"), Config(), AGENT)
    drain(turn)
    items = stream(turn, PING, *messages, stop(), USAGE, DONE)
    return [item for item in items if not isinstance(item, Command)]


def chunks(view: ServerTools, told: list[Event]) -> list[dict[str, Any]]:
    writer = showing_tools(ChunkWriter(HEADING), view)
    lines = b"".join(map(writer.write, told)).split(b"\n\n")
    return [orjson.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: {")]


def reasoning(told: list[Event]) -> str:
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks(ServerTools.REASONING, told)]
    return "".join(delta.get("reasoning_content", "") for delta in deltas)


def statuses(told: list[Event]) -> list[tuple[str, bool]]:
    found = []
    for chunk in chunks(ServerTools.STATUS, told):
        if "event" in chunk:
            assert chunk["event"]["type"] == "status"
            assert chunk["choices"] == [{"index": 0, "delta": {}, "finish_reason": None}]
            data = chunk["event"]["data"]
            found.append((data["description"], data["done"]))
    return found


SEARCH = (
    think("Let me look."),
    server_call("call-1", "search", None),
    server_call("call-1", None, '{"q":'),
    server_call("call-1", None, ' "tea"}'),
    returned("call-1", "Green.\n\nBlack.\nWhite.\nRed."),
)


def test_hidden_is_nothing_at_all() -> None:
    told = events(*SEARCH, say("Green."))
    quiet = [event for event in told if not type(event).__name__.startswith("ServerTool")]
    assert len(told) == len(quiet) + 4
    assert chunks(ServerTools.HIDDEN, told) == chunks(ServerTools.HIDDEN, quiet)


def test_reasoning_has_a_line_for_the_call_and_one_for_its_return() -> None:
    told = events(*SEARCH, think("Good.", id="message-4"), say("Green."))
    assert reasoning(told) == (
        'Let me look.\n\nsearch {"q": "tea"}\nsearch -> Green.\nBlack.\nWhite.…\n\nGood.'
    )
    text = "".join(
        chunk["choices"][0]["delta"].get("content", "") for chunk in chunks(ServerTools.REASONING, told)
    )
    assert text == "Green."


def test_reasoning_of_a_whole_answer() -> None:
    writer = showing_tools(CompletionWriter(HEADING), ServerTools.REASONING)
    body = b"".join(map(writer.write, events(*SEARCH, say("Green."))))
    message = orjson.loads(body)["choices"][0]["message"]
    assert message["reasoning_content"].startswith('Let me look.\n\nsearch {"q": "tea"}\nsearch -> Green.')
    assert (message["content"], writer.streaming) == ("Green.", False)


def test_reasoning_is_off_for_tools_too() -> None:
    writer = showing_tools(ChunkWriter(HEADING, reasoning_field=ReasoningField.OFF), ServerTools.REASONING)
    assert b"search" not in b"".join(map(writer.write, events(*SEARCH)))


def test_two_calls_at_once_and_one_that_fails() -> None:
    told = events(
        server_call("call-1", "search", '{"q":\n 1}'),
        server_call("call-2", "note", "{}"),
        returned("call-2", "No room.", status="error"),
        returned("call-1", ""),
    )
    assert reasoning(told) == 'search {"q":  1}\nnote {}\nnote failed: No room.\nsearch ->'


def test_pieces_of_two_calls_that_mix_stay_readable() -> None:
    told: list[Event] = [
        ServerToolStarted(call_id="1", name="a"),
        ServerToolStarted(call_id="2", name="b"),
        ServerToolArguments(call_id="1", fragment="{}"),
    ]
    assert reasoning(told) == "a\nb\na {}"


def test_long_arguments_are_cut() -> None:
    pieces: list[Event] = [ServerToolArguments(call_id="1", fragment="x" * 300) for _ in range(3)]
    shown = reasoning([ServerToolStarted(call_id="1", name="a"), *pieces])
    assert shown == f"a {'x' * MAX_ARGUMENTS}…"


@pytest.mark.parametrize(
    ("text", "shown"),
    [("", ""), ("\n a \n\n", " a "), ("a\nb\nc\nd", "a\nb\nc…"), ("x" * 501, "x" * 500 + "…")],
)
def test_first_lines(text: str, shown: str) -> None:
    assert first_lines(text) == shown


def test_status_events_for_open_webui() -> None:
    assert statuses(events(*SEARCH, say("Green."))) == [("search: running", False), ("search: done", True)]


def test_a_status_that_nothing_ends_is_ended_with_the_answer() -> None:
    told = events(server_call("call-1", "search", "{}"), returned("call-9", "x", status="error"))
    assert statuses(told) == [
        ("search: running", False),
        ("a tool: failed", True),
        ("search: end unknown", True),
    ]


def test_status_events_leave_the_rest_alone_and_need_a_stream() -> None:
    told: list[Event] = [
        TurnStarted(),
        TextDelta(text="Hi"),
        CallStarted(index=0, call_id="1", name="f"),
        CallArguments(index=0, fragment="{}"),
        ServerToolReturned(call_id="2", name=None, failed=False, beginning=""),
        TurnFinished(reason=FinishReason.TOOL_CALLS, usage=None),
    ]
    shown = chunks(ServerTools.STATUS, told)
    assert [chunk for chunk in shown if "event" not in chunk] == chunks(ServerTools.HIDDEN, told)
    whole = CompletionWriter(HEADING)
    assert showing_tools(whole, ServerTools.STATUS) is whole


def test_a_recorded_server_tool() -> None:
    config = Config(server_tools=ServerTools.REASONING)
    body = b"".join(part.data for part in render(recording("server_tool"), config))
    assert b'"reasoning_content":"memory_insert"' in body.replace(b"\\n", b"")
    assert b"memory_insert -> The human's name is Sam." in body


def test_a_clients_own_result_is_not_shown_as_a_servers() -> None:
    body = b"".join(
        part.data for part in render(recording("mixed_tools"), Config(server_tools=ServerTools.REASONING))
    )
    second = body.partition(b": turn 2")[2]
    assert b"-> 18 C" not in second
    assert b"memory_insert ->" in second
