"""What is new in a chat request, and what is sent to Letta for it."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordings import FIXTURES
from sansio_letta import Config
from sansio_letta.config import Enforcement, InstructionPolicy
from sansio_letta.dialects.base import RequestContext
from sansio_letta.dialects.chat_completions.decode import decode_request
from sansio_letta.dialects.chat_completions.request import field_name
from sansio_letta.dialects.items import (
    AssistantMessage,
    ClientRequest,
    FunctionTool,
    InstructionMessage,
    Message,
    ToolMessage,
    UserMessage,
)
from sansio_letta.dialects.new_input import BuiltRequest, build_turn_request
from sansio_letta.errors import FieldPath, RequestError, RequestField
from sansio_letta.turn import request as turn
from sansio_letta.turn.reply_format import CallReply
from sansio_letta.turn.request import Chat, Image, Text, Tool, ToolResult, thread_kind
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.turn_input import to_client_tool, to_message
from support import told_anew

# --- What real clients sent -----------------------------------------------------------------------------------

REQUESTS = sorted((FIXTURES / "requests").glob("*.json"))


def shown(said: turn.Message) -> dict[str, Any]:
    """A new message as the fixtures write it: an image is its media type."""
    message = to_message(said)
    named = {"name": message.name} if message.name else {}
    if isinstance(message.content, str):
        return {"role": message.role, **named, "text": message.content}
    parts = []
    for part in message.content:
        if isinstance(part, letta.TextContent):
            parts.append(part.text)
        else:
            assert isinstance(part.source, letta.Base64Source)
            parts.append(part.source.media_type)
    return {"role": message.role, **named, "parts": parts}


def outcome(asked: ClientRequest, built: BuiltRequest) -> dict[str, Any]:
    """A turn's request as the fixtures write it."""
    turn_request = built.turn_request
    results = [result for result in turn_request.results if isinstance(result, ToolResult)]
    assert len(results) == len(turn_request.results)
    return {
        "messages": [shown(message) for message in turn_request.messages],
        "results": [{"tool_call_id": result.call_id, "text": result.content} for result in results],
        "tools": len(turn_request.client_tools),
        "thread": thread_kind(turn_request.thread),
        "history": len(told_anew(turn_request).history) if turn_request.thread else 0,
        "instructions": len(turn_request.instructions.text) if turn_request.instructions else 0,
        "ignored": [*asked.ignored, *(field_name(FieldPath(field)) for field in built.ignored)],
        # Few requests have these.
        **({"reply_format": type(turn_request.reply_format).__name__} if turn_request.reply_format else {}),
        **({"stop": list(turn_request.stop)} if turn_request.stop else {}),
        **({"one_call": True} if turn_request.one_call else {}),
    }


@pytest.mark.parametrize("path", REQUESTS, ids=lambda path: path.stem)
def test_a_client_s_request_is_planned(path: Path) -> None:
    captured = orjson.loads(path.read_bytes())
    try:
        given = RequestContext(headers=captured["headers"], token="abcdef12")
        asked = decode_request(orjson.dumps(captured["body"]))
        found = outcome(asked, build_turn_request(asked, given))
    except RequestError as error:
        found = {"error": {"param": error.param_for(field_name), "code": error.code}}
    assert found == captured["expected"]


@pytest.mark.parametrize("path", REQUESTS, ids=lambda path: path.stem)
def test_a_fixture_says_whose_it_is(path: Path) -> None:
    captured = orjson.loads(path.read_bytes())
    assert captured.keys() == {"client", "what", "headers", "body", "expected"}
    assert path.stem.startswith(captured["client"] + "-")
    assert captured["what"].endswith(".")
    assert all(name == name.lower() for name in captured["headers"])


def test_the_clients_are_many() -> None:
    clients = {orjson.loads(path.read_bytes())["client"] for path in REQUESTS}
    assert {"open-webui", "roo-code", "cline", "opencode", "continue", "aider", "openai-sdk"} <= clients


# --- What is new ----------------------------------------------------------------------------------------------


def request(*messages: Message, **more: Any) -> ClientRequest:
    return ClientRequest(model="Milo", messages=messages, **more)


def user(text: str) -> UserMessage:
    return UserMessage(content=text)


def result(number: int) -> ToolMessage:
    return ToolMessage(tool_call_id=f"call-{number}", content=f"result {number}")


SAID = AssistantMessage(content="Well.")
SYSTEM = InstructionMessage(content="Be brief.")

TAILS: dict[str, tuple[list[Message], list[str], list[str]]] = {
    "the first turn": ([user("a")], ["a"], []),
    "several messages of the first turn": ([user("a"), user("b")], ["a", "b"], []),
    "the second turn": ([user("a"), SAID, user("b")], ["b"], []),
    "several messages of the second turn": ([user("a"), SAID, user("b"), user("c")], ["b", "c"], []),
    "a result": ([user("a"), SAID, result(1)], [], ["call-1"]),
    "parallel results": ([user("a"), SAID, result(2), result(1)], [], ["call-2", "call-1"]),
    "a result and a message": ([user("a"), SAID, result(1), user("b")], ["b"], ["call-1"]),
    "a message before the result": ([user("a"), SAID, user("b"), result(1)], ["b"], ["call-1"]),
    "results of two steps": ([user("a"), SAID, result(1), SAID, result(2)], [], ["call-2"]),
    "a result of before": ([user("a"), SAID, result(1), SAID, user("b")], ["b"], []),
    "a history that the agent began": ([SAID, user("a")], ["a"], []),
    "a result without a history": ([result(1)], [], ["call-1"]),
    "instructions between": (
        [SYSTEM, user("a"), SAID, SYSTEM, user("b"), SYSTEM],
        ["Be brief.", "b", "Be brief."],
        [],
    ),
    "instructions after the agent": ([user("a"), SAID, SYSTEM], ["Be brief."], []),
    "only instructions": ([SYSTEM], ["Be brief."], []),
    "an empty answer": ([user("a"), AssistantMessage(content="\n"), user("b")], ["a", "b"], []),
    "an empty answer in place of calls": ([user("a"), AssistantMessage(), result(1)], [], ["call-1"]),
}


@pytest.mark.parametrize(("history", "texts", "call_ids"), TAILS.values(), ids=TAILS)
def test_new_is_what_follows_the_last_assistant_message(
    history: list[Message], texts: list[str], call_ids: list[str]
) -> None:
    turn_request = build_turn_request(request(*history)).turn_request
    assert [shown(message) for message in turn_request.messages] == [
        {"role": "system" if text == SYSTEM.content else "user", "text": text} for text in texts
    ]
    assert [result.call_id for result in turn_request.results] == call_ids


NOTHING_NEW: dict[str, list[Message]] = {
    "the agent spoke last": [user("a"), SAID],
    "only the agent": [SAID],
    "an empty message": [user("a"), SAID, user("")],
}


@pytest.mark.parametrize("history", NOTHING_NEW.values(), ids=NOTHING_NEW)
def test_nothing_new_is_refused(history: list[Message]) -> None:
    with pytest.raises(RequestError, match="nothing new") as caught:
        build_turn_request(request(*history))
    error = caught.value
    assert (error.status_hint, error.field, error.code) == (400, FieldPath(RequestField.INPUT), "invalid_value")


def new_in(*messages: Message) -> tuple[list[dict[str, Any]], object, object] | None:
    """What is new of them, without marks; None: nothing."""
    try:
        found = build_turn_request(request(*messages)).turn_request
    except RequestError:
        return None
    return [shown(message) for message in found.messages], found.results, found.instructions


@given(
    st.sampled_from([user("a"), SAID, result(1)]),
    st.lists(st.sampled_from([user("a"), SAID, SYSTEM, result(1)]), max_size=7),
)
def test_a_longer_history_changes_nothing(first: Message, others: list[Message]) -> None:
    assert new_in(SYSTEM, user("x"), SAID, first, *others) == new_in(SYSTEM, first, *others)


# --- What becomes of it ---------------------------------------------------------------------------------------


def test_the_plan_asks_for_the_model_in_the_agent_s_own_thread() -> None:
    turn_request = build_turn_request(request(user("a"))).turn_request
    assert (turn_request.model, turn_request.thread, turn_request.client_tools) == ("Milo", None, ())


def test_parts_of_a_message_go_to_the_agent_as_they_came() -> None:
    content = (
        Text(text="Look:"),
        Image(url="https://example.org/a.png"),
        Image(url="data:image/png;base64,"),
    )
    turn_request = build_turn_request(request(UserMessage(content=content))).turn_request
    assert [message.content for message in turn_request.messages] == [content]


RESULTS: dict[str, tuple[str | tuple[Text, ...], str]] = {
    "a text": ("18 C", "18 C"),
    "nothing": ("", ""),
    "a part": ((Text(text="18 C"),), "18 C"),
    "parts": ((Text(text="18 C"), Text(text="sunny")), "18 C\nsunny"),
    "no parts": ((), ""),
}


@pytest.mark.parametrize(("content", "text"), RESULTS.values(), ids=RESULTS)
def test_a_result_is_one_text(content: str | tuple[Text, ...], text: str) -> None:
    turn_request = build_turn_request(
        request(SAID, ToolMessage(tool_call_id="call-1", content=content))
    ).turn_request
    assert turn_request.results == (ToolResult(call_id="call-1", content=text),)


SCHEMA = {"type": "object", "properties": {"a": {}}}

TOOLS: dict[str, tuple[FunctionTool, Tool]] = {
    "with a schema": (
        FunctionTool(name="f", description="Does it.", parameters=SCHEMA, strict=True),
        Tool(name="f", description="Does it.", parameters=SCHEMA),
    ),
    "without one": (
        FunctionTool(name="f"),
        Tool(name="f", parameters={"type": "object", "properties": {}}),
    ),
    "an empty one stays": (FunctionTool(name="f", parameters={}), Tool(name="f", parameters={})),
}


@pytest.mark.parametrize(("tool", "client_tool"), TOOLS.values(), ids=TOOLS)
def test_a_tool_is_offered_to_the_agent(tool: FunctionTool, client_tool: Tool) -> None:
    assert build_turn_request(request(user("a"), tools=(tool,))).turn_request.client_tools == (client_tool,)


@pytest.mark.parametrize("depth", [100, 200, *range(245, 260), 400, 900])
def test_a_schema_that_is_taken_can_be_sent(depth: int) -> None:
    schema = b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)
    body = b'{"model":"Milo","messages":[{"role":"user","content":"Hi"}],"tools":[%b]}' % (
        b'{"type":"function","function":{"name":"f","parameters":%b}}' % schema
    )
    try:
        turn_request = build_turn_request(decode_request(body)).turn_request
    except RequestError as error:
        assert depth > 200
        assert error.param == "tools[0].function.parameters"
    else:
        sent = letta.StreamRequest(
            messages=(), client_tools=tuple(map(to_client_tool, turn_request.client_tools))
        )
        assert schema[1:-1] in letta.encode_stream_request(sent)


# --- Old messages ---------------------------------------------------------------------------------------------

OLD_FILE = {"type": "file", "file": {"filename": "a.pdf", "file_data": "AAAA"}}

#: What a client remembers, and what a new conversation is told of it.
REMEMBERED: dict[str, tuple[object, list[dict[str, Any]]]] = {
    "a file": (
        {"role": "user", "content": [{"type": "text", "text": "see"}, OLD_FILE]},
        [{"role": "user", "parts": ["see", "[file a.pdf]"]}],
    ),
    "an unknown role": ({"role": "critic", "content": "x"}, [{"role": "user", "parts": ["[critic]", "x"]}]),
    "thoughts": (
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "output_text", "text": "x"}],
        },
        [{"role": "assistant", "text": "x"}],
    ),
    "a number": ({"role": "user", "content": 5}, [{"role": "user", "text": "5"}]),
    "null": ({"role": "user", "content": None}, []),
    "no message": (None, []),
}


@pytest.mark.parametrize(("old", "told"), REMEMBERED.values(), ids=REMEMBERED)
def test_a_new_conversation_is_told_what_was_there(old: object, told: list[dict[str, Any]]) -> None:
    messages = [old, {"role": "assistant", "content": "ok"}, {"role": "user", "content": "new"}]
    body = {"model": "Milo", "messages": messages, "metadata": {"letta_chat_key": "c-1", "other": 5}}
    turn_request = told_anew(build_turn_request(decode_request(orjson.dumps(body))).turn_request)
    assert [shown(message) for message in turn_request.history] == [*told, {"role": "assistant", "text": "ok"}]
    assert [shown(message) for message in turn_request.messages] == [{"role": "user", "text": "new"}]


KEYS: dict[str, tuple[object, Chat | None]] = {
    "a string": ("c-1", Chat(key="c-1")),
    "a number": (17, Chat(key="17")),
    "a fraction": (1.5, Chat(key="1.5")),
    "null": (None, None),
    "nothing": ("", None),
}


@pytest.mark.parametrize(("value", "thread"), KEYS.values(), ids=KEYS)
def test_the_key_in_metadata_is_a_string_or_a_number(value: object, thread: Chat | None) -> None:
    metadata = {"letta_chat_key": value, **{str(number): [number] for number in range(20)}}
    assert build_turn_request(request(user("a"), metadata=metadata)).turn_request.thread == thread


@pytest.mark.parametrize("value", [True, {}, [], ["c-1"]], ids=str)
def test_any_other_key_in_metadata_is_refused(value: object) -> None:
    with pytest.raises(RequestError) as caught:
        build_turn_request(request(user("a"), metadata={"letta_chat_key": value}))
    assert (caught.value.field, caught.value.code) == (FieldPath(RequestField.CHAT_KEY), "invalid_type")


def test_a_tool_whose_name_models_do_not_take_has_another_at_letta() -> None:
    tools = (FunctionTool(name="a.b", alias="a_b_1"), FunctionTool(name="c"))
    turn_request = build_turn_request(request(user("a"), tools=tools)).turn_request
    assert [tool.name for tool in turn_request.client_tools] == ["a_b_1", "c"]
    assert turn_request.client_tool_names == {"a_b_1": "a.b"}


def test_a_call_is_asked_for_by_the_name_that_the_agent_knows() -> None:
    tools = (FunctionTool(name="a.b", alias="a_b_1"),)
    given = RequestContext(config=Config(enforcement=Enforcement.VALIDATE))
    turn_request = build_turn_request(request(user("a"), tools=tools, must_call=True), given).turn_request
    assert isinstance(turn_request.reply_format, CallReply)
    assert turn_request.reply_format.names == ("a_b_1",)


# --- What has no part in it -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("history", "ignored"),
    [
        ([user("a")], ()),
        ([SYSTEM, user("a")], (RequestField.INSTRUCTIONS,)),
        ([user("a"), SYSTEM], (RequestField.INSTRUCTIONS,)),
        ([SYSTEM, user("a"), SAID, user("b")], (RequestField.INSTRUCTIONS,)),
        ([SYSTEM, SYSTEM, user("a"), SYSTEM], (RequestField.INSTRUCTIONS,)),
    ],
    ids=["none", "before", "after", "long ago", "several"],
)
def test_instructions_are_ignored_and_named_once(
    history: list[Message], ignored: tuple[RequestField, ...]
) -> None:
    config = Config(instructions=InstructionPolicy.IGNORE)
    assert build_turn_request(request(*history), RequestContext(config=config)).ignored == ignored
    assert build_turn_request(request(*history)).ignored == ()


def test_a_result_with_a_picture_is_made_of_parts() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    results = [
        {"role": "tool", "tool_call_id": "call-1", "content": [{"type": "text", "text": "Seen:"}, picture]},
        {"role": "tool", "tool_call_id": "call-2", "content": [{"type": "text", "text": "a"}]},
    ]
    calls = [
        {"id": f"call-{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in (1, 2)
    ]
    history = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": calls}]
    body = orjson.dumps({"model": "Milo", "messages": [*history, *results]})
    seen, plain = build_turn_request(decode_request(body)).turn_request.results
    assert isinstance(seen, ToolResult)
    assert seen.content == (Text(text="Seen:"), Image(url="data:image/png;base64,AAAA"))
    assert isinstance(plain, ToolResult)
    assert plain.content == "a"
