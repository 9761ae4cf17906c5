"""Bodies of the Responses API at the path of Chat Completions, as Cursor sends them."""

from typing import Any

import orjson
import pytest

from sansio_letta.config import Config, Enforcement
from sansio_letta.dialects.chat_completions.decode import decode_request
from sansio_letta.dialects.items import (
    AssistantMessage,
    ClientRequest,
    FunctionTool,
    InstructionMessage,
    JsonFormat,
    JsonSchema,
    MadeCall,
    ToolMessage,
    UserMessage,
)
from sansio_letta.errors import RequestError
from sansio_letta.turn.request import Image, Text

VALIDATE = Config(enforcement=Enforcement.VALIDATE)


def decode(value: object, **more: Any) -> ClientRequest:
    return decode_request(orjson.dumps({"model": "Milo", "input": value, **more}), VALIDATE)


def refusal(value: object, **more: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        decode(value, **more)
    assert caught.value.status_hint == 400
    return caught.value


def test_a_text_is_the_users() -> None:
    asked = decode("Hi", instructions="Be brief.", stream=True)
    assert asked.messages == (InstructionMessage(content="Be brief."), UserMessage(content="Hi"))
    assert (asked.model, asked.stream) == ("Milo", True)


def test_messages_with_and_without_their_type_and_parts() -> None:
    asked = decode(
        [
            {"role": "developer", "content": [{"type": "input_text", "text": "Rules."}]},
            {"type": "message", "role": "user", "content": "One", "id": "msg_1", "status": "completed"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Two"}]},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "Three"},
                    {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"},
                ],
            },
        ]
    )
    image = Image(url="data:image/png;base64,AAAA")
    assert asked.messages[1:2] == (UserMessage(content="One"),)
    assert asked.messages[3] == UserMessage(content=(Text(text="Three"), image))
    assert [type(message) for message in asked.messages] == [
        InstructionMessage,
        UserMessage,
        AssistantMessage,
        UserMessage,
    ]


def call(number: int) -> dict[str, Any]:
    return {"type": "function_call", "call_id": f"call-{number}", "name": "f", "arguments": "{}", "id": "fc_1"}


def result(number: int) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": f"call-{number}", "output": f"r{number}"}


@pytest.mark.parametrize(
    "items",
    [
        [call(1), call(2), result(1), result(2)],
        [call(1), result(1), call(2), result(2)],
        [{"type": "reasoning", "id": "rs_1", "summary": []}, call(1), call(2), result(1), result(2)],
        [call(1), {"type": "web_search_call", "id": "ws_1"}, call(2), result(1), result(2)],
    ],
    ids=["one after the other", "by turns", "after reasoning", "beside a search of the model's own"],
)
def test_results_are_new_whatever_the_order_of_their_calls(items: list[dict[str, Any]]) -> None:
    asked = decode([{"role": "user", "content": "Go"}, *items])
    calls = tuple(MadeCall(call_id=f"call-{number}", name="f", arguments="{}") for number in (1, 2))
    assert asked.messages == (
        UserMessage(content="Go"),
        AssistantMessage(calls=calls),
        ToolMessage(tool_call_id="call-1", content="r1"),
        ToolMessage(tool_call_id="call-2", content="r2"),
    )


def test_a_message_behind_the_results_follows_them() -> None:
    asked = decode([{"role": "user", "content": "Go"}, call(1), result(1), {"role": "user", "content": "And?"}])
    assert [type(message) for message in asked.messages] == [
        UserMessage,
        AssistantMessage,
        ToolMessage,
        UserMessage,
    ]


def test_tools_formats_and_what_has_another_name() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    asked = decode(
        "Hi",
        tools=[{"type": "function", "name": "f", "description": "d", "parameters": schema, "strict": True}],
        tool_choice={"type": "function", "name": "f"},
        text={"format": {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}},
        max_output_tokens=100,
        reasoning={"effort": "high"},
        store=False,
        include=["reasoning.encrypted_content"],
    )
    assert asked.tools == (FunctionTool(name="f", description="d", parameters=schema, strict=True),)
    assert asked.must_call
    assert asked.response_format == JsonFormat(json_schema=JsonSchema(name="answer", schema=schema))
    assert asked.max_tokens == 100
    assert {"reasoning", "include"} <= set(asked.ignored)
    assert "input" not in asked.ignored
    assert decode("Hi", text={"format": {"type": "text"}, "verbosity": "low"}).response_format is None


@pytest.mark.parametrize(
    ("value", "more", "param"),
    [
        (7, {}, "input"),
        ({"role": "user"}, {}, "input"),
        ("Hi", {"previous_response_id": "resp_1"}, "previous_response_id"),
        ("Hi", {"conversation": {"id": "conv_1"}}, "conversation"),
        ([{"type": "item_reference", "id": "msg_1"}], {}, "input[0].type"),
        ([{"type": 7}], {}, "input[0].type"),
        ([], {}, "messages"),
        (["Hi"], {}, "messages[0]"),
    ],
)
def test_what_cannot_be_carried_out(value: object, more: dict[str, Any], param: str) -> None:
    assert refusal(value, **more).param == param


def test_messages_count_where_both_are_there() -> None:
    body = {"model": "Milo", "messages": [{"role": "user", "content": "Hi"}], "input": "Ho"}
    asked = decode_request(orjson.dumps(body))
    assert asked.messages == (UserMessage(content="Hi"),)
    assert "input" in asked.ignored


def test_without_either_messages_are_missing() -> None:
    with pytest.raises(RequestError) as caught:
        decode_request(b'{"model":"Milo","input":null}')
    assert caught.value.param == "messages"
