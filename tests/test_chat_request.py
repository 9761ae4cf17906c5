"""The Chat Completions wire, incoming: what is honoured, noticed, ignored without a word, or refused."""

from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sansio_letta.chat_request import (
    FIELDS,
    AssistantMessage,
    ChatRequest,
    FunctionTool,
    ImagePart,
    ImageUrl,
    InstructionMessage,
    JsonFormat,
    JsonSchema,
    MadeCall,
    Message,
    RefusalPart,
    TextPart,
    ToolMessage,
    UserMessage,
    decode_request,
)
from sansio_letta.errors import RequestError
from support import JSON, spoiled

USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "f"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def decode(**fields: Any) -> ChatRequest:
    """A request that has these fields besides the two that every request has."""
    return decode_request(orjson.dumps({"model": "Milo", "messages": [USER], **fields}))


def refusal(**fields: Any) -> tuple[str | None, str]:
    """The field at fault, and the code."""
    with pytest.raises(RequestError) as caught:
        decode(**fields)
    assert caught.value.status_hint == 400
    return caught.value.param, caught.value.code


PLAIN = decode()

# --- The body -------------------------------------------------------------------------------------------------


def test_the_least_request() -> None:
    assert ChatRequest(model="Milo", messages=(UserMessage(content="Hi"),)) == PLAIN


MALFORMED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "invalid_json"),
    "half an object": (b'{"model":"Milo"', "invalid_json"),
    "something after it": (b"{} {}", "invalid_json"),
    "a form": (b"model=Milo", "invalid_json"),
    "no number": (b'{"n":NaN}', "invalid_json"),
    "no UTF-8": (b'{"model":"\xff"}', "invalid_json"),
    "half a surrogate pair": (b'{"model":"\\ud800"}', "invalid_json"),
    "a BOM": (b"\xef\xbb\xbf{}", "invalid_json"),
    "too deep": (b"[" * 100_000, "invalid_json"),
    "an array": (b"[]", "invalid_type"),
    "a string": (b'"Hi"', "invalid_type"),
    "null": (b"null", "invalid_type"),
}


@pytest.mark.parametrize(("data", "code"), MALFORMED.values(), ids=MALFORMED)
def test_a_body_that_is_no_json_object_is_refused_as_a_whole(data: bytes, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        decode_request(data)
    assert (caught.value.status_hint, caught.value.param, caught.value.code) == (400, None, code)


# --- The fields -----------------------------------------------------------------------------------------------

#: Values that are carried out: nothing is ignored.
HONOURED: list[tuple[str, object]] = [
    ("model", "agent-1"),
    ("messages", [USER, USER]),
    ("stream", True),
    ("stream", False),
    ("stream_options", {}),
    ("stream_options", {"include_usage": True, "include_obfuscation": True}),
    ("tools", [TOOL]),
    ("tools", []),
    ("tool_choice", "auto"),
    ("metadata", {"key": "value"}),
    ("response_format", {"type": "text"}),
    ("modalities", ["text"]),
    ("parallel_tool_calls", True),
    ("parallel_tool_calls", False),
    ("stop", "END"),
    ("stop", ["END", "\n", "", "x"]),
    ("stop", []),
    ("n", 1),
    ("logprobs", False),
    ("top_logprobs", 0),
    ("store", False),
]

#: Values that have no effect, of which the client is told.
NOTICED: list[tuple[str, object]] = [
    ("temperature", 0),
    ("temperature", 0.7),
    ("top_p", 1),
    ("frequency_penalty", -0.5),
    ("presence_penalty", 2),
    ("seed", 7),
    ("logit_bias", {"50256": -100}),
    ("verbosity", "low"),
    ("reasoning_effort", "none"),
    ("max_completion_tokens", 1000),
    ("max_tokens", 32000),
    ("prediction", {"type": "content", "content": "x"}),
    ("web_search_options", {}),
    ("moderation", {"model": "x"}),
    ("store", True),
    ("reasoning", {"effort": "low"}),
    ("plugins", []),
    ("chat_id", "x"),
    ("", 0),
]

#: Values that have no effect, of which nobody needs to hear.
QUIET: list[tuple[str, object]] = [
    ("user", "user-1"),
    ("safety_identifier", "x"),
    ("prompt_cache_key", "x"),
    ("prompt_cache_options", {"ttl": "1h"}),
    ("prompt_cache_retention", "24h"),
    ("service_tier", "flex"),
]

#: Values with which the answer would not be what was asked for.
REFUSED: list[tuple[str, object, str, str]] = [
    ("model", "", "model", "invalid_value"),
    ("messages", [], "messages", "invalid_value"),
    ("functions", [], "functions", "unsupported_parameter"),
    ("functions", [{"name": "f"}], "functions", "unsupported_parameter"),
    ("function_call", "auto", "function_call", "unsupported_parameter"),
    ("audio", {"voice": "alloy", "format": "wav"}, "audio", "unsupported_parameter"),
    ("modalities", ["text", "audio"], "modalities", "unsupported_value"),
    ("modalities", [], "modalities", "unsupported_value"),
    ("n", 2, "n", "unsupported_value"),
    ("n", 0, "n", "unsupported_value"),
    ("logprobs", True, "logprobs", "unsupported_value"),
    ("top_logprobs", 5, "top_logprobs", "unsupported_value"),
    ("response_format", {"type": "yaml"}, "response_format.type", "invalid_value"),
    ("response_format", {"type": ["text"]}, "response_format.type", "invalid_type"),
    ("response_format", {}, "response_format.type", "missing_required_parameter"),
    *(
        (
            "response_format",
            {"type": "json_schema", "json_schema": value},
            f"response_format.json_schema{path}",
            code,
        )
        for value, path, code in (
            (None, "", "missing_required_parameter"),
            (5, "", "invalid_type"),
            ({}, ".name", "missing_required_parameter"),
            ({"name": 5}, ".name", "invalid_type"),
            ({"name": "a b"}, ".name", "invalid_value"),
            ({"name": "a", "strict": 1}, ".strict", "invalid_type"),
            ({"name": "a", "description": 1}, ".description", "invalid_type"),
            ({"name": "a", "schema": True}, ".schema", "invalid_type"),
        )
    ),
    ("metadata", {str(key): "" for key in range(17)}, "metadata", "invalid_value"),
    ("metadata", {"k" * 65: ""}, "metadata." + "k" * 64, "invalid_value"),
    ("metadata", {"k": "v" * 513}, "metadata.k", "invalid_value"),
    ("stop", ["a", "b", "c", "d", "e"], "stop", "invalid_value"),
    ("stop", "x" * 16385, "stop", "invalid_value"),
]

#: Values of the wrong type, and the place of the fault where it is further in.
WRONG_TYPES: list[tuple[str, object, str]] = [
    *((name, 5, name) for name in ("model", "messages", "tools")),
    *((name, 5, name) for name in ("metadata", "response_format", "stream_options")),
    *((name, "true", name) for name in ("stream", "parallel_tool_calls", "store", "logprobs")),
    *((name, 1, name) for name in ("stream", "parallel_tool_calls", "store")),
    ("logprobs", 0, "logprobs"),
    *((name, "1", name) for name in ("n", "top_logprobs", "seed", "max_tokens", "max_completion_tokens")),
    *((name, 1.0, name) for name in ("n", "seed", "max_tokens")),
    *((name, True, name) for name in ("n", "seed", "temperature", "top_p")),
    ("top_logprobs", False, "top_logprobs"),
    *((name, "0.5", name) for name in ("temperature", "top_p", "frequency_penalty", "presence_penalty")),
    *((name, [], name) for name in ("logit_bias", "prediction", "web_search_options")),
    *((name, 1, name) for name in ("verbosity", "reasoning_effort", "user", "safety_identifier")),
    *((name, [], name) for name in ("prompt_cache_key", "service_tier")),
    ("stop", 1, "stop"),
    ("stop", ["END", 1], "stop"),
    ("stream_options", {"include_usage": "yes"}, "stream_options.include_usage"),
    ("stream_options", {"include_obfuscation": 0}, "stream_options.include_obfuscation"),
    ("metadata", {"k": 1}, "metadata.k"),
    ("metadata", {"k": None}, "metadata.k"),
]  # fmt: skip


def test_every_field_is_tried() -> None:
    tried = {name for name, *_ in (*HONOURED, *NOTICED, *QUIET, *REFUSED)}
    assert FIELDS.keys() <= tried


@pytest.mark.parametrize(("name", "value"), HONOURED, ids=str)
def test_a_field_is_honoured(name: str, value: object) -> None:
    assert decode(**{name: value}).ignored == ()


@pytest.mark.parametrize(("name", "value"), NOTICED, ids=str)
def test_a_field_is_ignored_and_named(name: str, value: object) -> None:
    assert decode(**{name: value}).ignored == (name,)


@pytest.mark.parametrize(("name", "value"), QUIET, ids=str)
def test_a_field_is_ignored_without_a_word(name: str, value: object) -> None:
    assert decode(**{name: value}) == PLAIN


@pytest.mark.parametrize(
    ("name", "value", "param", "code"),
    REFUSED,
    ids=[f"{name}-{str(value)[:30]}" for name, value, *_ in REFUSED],
)
def test_a_field_is_refused(name: str, value: object, param: str, code: str) -> None:
    assert refusal(**{name: value}) == (param, code)


@pytest.mark.parametrize(("name", "value", "param"), WRONG_TYPES, ids=str)
def test_a_wrong_type_is_refused_in_any_field(name: str, value: object, param: str) -> None:
    assert refusal(**{name: value}) == (param, "invalid_type")


@pytest.mark.parametrize("name", [*(name for name in FIELDS if name not in ("model", "messages")), "unknown"])
def test_null_means_absent(name: str) -> None:
    assert decode(**{name: None}) == PLAIN


@pytest.mark.parametrize("name", ["model", "messages"])
def test_two_fields_must_be_there(name: str) -> None:
    request = {"model": "Milo", "messages": [USER]}
    del request[name]
    with pytest.raises(RequestError) as caught:
        decode_request(orjson.dumps(request))
    assert (caught.value.param, caught.value.code) == (name, "missing_required_parameter")
    assert refusal(**{name: None}) == (name, "missing_required_parameter")


def test_ignored_fields_are_named_once_and_in_order() -> None:
    named = {"role": "system", "content": "Be brief.", "name": "example_user"}
    request = decode(top_p=1, zebra=1, messages=[named, named, USER], temperature=0, user="x", seed=1)
    assert request.ignored == ("top_p", "zebra", "temperature", "seed", "messages.name")


@pytest.mark.parametrize(
    ("options", "asked"),
    [({}, False), ({"include_usage": None}, False)]
    + [({"include_usage": flag}, flag) for flag in (True, False)],
    ids=str,
)
def test_usage_comes_if_it_is_asked_for(options: dict[str, Any], asked: bool) -> None:
    assert decode(stream=True, stream_options=options).include_usage is asked


def test_values_are_handed_over() -> None:
    metadata = {**{str(key): "" for key in range(15)}, "k" * 64: "v" * 512}
    request = decode(model="Ä b", stream=True, metadata=metadata)
    assert (request.model, request.stream, request.metadata) == ("Ä b", True, metadata)


# --- Messages -------------------------------------------------------------------------------------------------

TEXT = {"type": "text", "text": "Hi"}
PNG = "data:image/png;base64,iVBO"


def image(url: object, **more: object) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


MESSAGES: dict[str, tuple[dict[str, Any], Message]] = {
    "user": (USER, UserMessage(content="Hi")),
    "user, empty": ({"role": "user", "content": ""}, UserMessage(content="")),
    "user, parts": (
        {"role": "user", "content": [TEXT, image(PNG)]},
        UserMessage(content=(TextPart(text="Hi"), ImagePart(image_url=ImageUrl(url=PNG)))),
    ),
    "user, null": ({**USER, "name": None}, UserMessage(content="Hi")),
    "system": ({"role": "system", "content": "Be brief."}, InstructionMessage(content="Be brief.")),
    "system, parts": (
        {"role": "system", "content": [TEXT]},
        InstructionMessage(content=(TextPart(text="Hi"),)),
    ),
    "developer": ({"role": "developer", "content": "Be brief."}, InstructionMessage(content="Be brief.")),
    "developer, parts": (
        {"role": "developer", "content": [TEXT]},
        InstructionMessage(content=(TextPart(text="Hi"),)),
    ),
    "assistant": ({"role": "assistant", "content": "Hi"}, AssistantMessage(content="Hi")),
    "assistant, parts": (
        {"role": "assistant", "content": [TEXT, {"type": "refusal", "refusal": "No."}]},
        AssistantMessage(content=(TextPart(text="Hi"), RefusalPart(refusal="No."))),
    ),
    "assistant, null": ({"role": "assistant", "content": None}, AssistantMessage()),
    "assistant, calls": (
        {
            "role": "assistant",
            "tool_calls": [{"id": "call-1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            "function_call": None,
            "audio": {"id": "x"},
            "refusal": None,
            "reasoning_content": "Hm.",
            "provider_specific_fields": {},
        },
        AssistantMessage(calls=(MadeCall(call_id="call-1", name="f", arguments="{}"),)),
    ),
    "tool": (
        {"role": "tool", "tool_call_id": "call-1", "content": "18 C"},
        ToolMessage(tool_call_id="call-1", content="18 C"),
    ),
    "tool, parts": (
        {"role": "tool", "tool_call_id": "call-1", "content": [TEXT, TEXT]},
        ToolMessage(tool_call_id="call-1", content=(TextPart(text="Hi"), TextPart(text="Hi"))),
    ),
}


@pytest.mark.parametrize(("raw", "message"), MESSAGES.values(), ids=MESSAGES)
def test_a_message_is_taken_by_its_role(raw: dict[str, Any], message: Message) -> None:
    request = decode(messages=[raw])
    assert request.messages == (message,)
    assert request.ignored == ()


CALL_ID = {"tool_call_id": "call-1"}

BAD_MESSAGES: dict[str, tuple[object, str, str]] = {
    "no object": ("Hi", "", "invalid_type"),
    "no role": ({"content": "Hi"}, ".role", "missing_required_parameter"),
    "a role that is null": ({"role": None, "content": "Hi"}, ".role", "missing_required_parameter"),
    "a role that is a list": ({"role": [], "content": "Hi"}, ".role", "invalid_type"),
    "an unknown role": ({"role": "critic", "content": "Hi"}, ".role", "invalid_value"),
    "a role in capitals": ({"role": "User", "content": "Hi"}, ".role", "invalid_value"),
    "an old role": ({"role": "function", "name": "f", "content": ""}, ".role", "unsupported_value"),
    **{
        f"{role} {what}": ({"role": role, **CALL_ID, **content}, ".content", code)
        for role in ("user", "system", "developer", "tool")
        for what, content, code in (
            ("without content", {}, "missing_required_parameter"),
            ("with null", {"content": None}, "missing_required_parameter"),
            ("with a number", {"content": 5}, "invalid_type"),
            ("with an object", {"content": TEXT}, "invalid_type"),
        )
    },
    "an assistant's number": ({"role": "assistant", "content": 5}, ".content", "invalid_type"),
    "a result of nothing": ({"role": "tool", "content": ""}, ".tool_call_id", "missing_required_parameter"),
    "a result of null": (
        {"role": "tool", "content": "", "tool_call_id": None},
        ".tool_call_id",
        "missing_required_parameter",
    ),
    "a result of a number": (
        {"role": "tool", "content": "", "tool_call_id": 1},
        ".tool_call_id",
        "invalid_type",
    ),
}


@pytest.mark.parametrize(("raw", "where", "code"), BAD_MESSAGES.values(), ids=BAD_MESSAGES)
def test_a_bad_message_is_named_by_its_index(raw: object, where: str, code: str) -> None:
    assert refusal(messages=[USER, raw]) == (f"messages[1]{where}", code)


PARTS: dict[str, tuple[dict[str, Any], TextPart | ImagePart]] = {
    "a text": (TEXT, TextPart(text="Hi")),
    "a PNG": (image(PNG), ImagePart(image_url=ImageUrl(url=PNG))),
    "a bare string": ({"type": "image_url", "image_url": PNG}, ImagePart(image_url=ImageUrl(url=PNG))),
    **{
        f"detail {detail}": (image(PNG, detail=detail), ImagePart(image_url=ImageUrl(url=PNG, detail=detail)))
        for detail in ("auto", "low", "high", "original", None)
    },
    **{
        url[:24]: (image(url), ImagePart(image_url=ImageUrl(url=url)))
        for url in (
            "data:image/jpeg;base64,x",
            "data:image/gif;base64,x",
            "data:image/webp;base64,x",
            "DATA:IMAGE/PNG;BASE64,x",
            "https://example.org/a.png",
            "HTTPS://example.org/a.png",
        )
    },
}


@pytest.mark.parametrize(("raw", "part"), PARTS.values(), ids=PARTS)
def test_a_part_of_the_user_s_is_taken(raw: dict[str, Any], part: TextPart | ImagePart) -> None:
    request = decode(messages=[{"role": "user", "content": [raw]}])
    assert request.messages == (UserMessage(content=(part,)),)
    assert request.ignored == ()


BAD_PARTS: dict[str, tuple[object, str, str]] = {
    "a string": ("Hi", "", "invalid_type"),
    "no type": ({"text": "Hi"}, ".type", "missing_required_parameter"),
    "a type that is null": ({"type": None, "text": "Hi"}, ".type", "missing_required_parameter"),
    "a type that is an object": ({"type": {}}, ".type", "invalid_type"),
    "an unknown type": ({"type": "video_url"}, ".type", "invalid_value"),
    "a refusal": ({"type": "refusal", "refusal": "No."}, ".type", "invalid_value"),
    "audio": (
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        ".type",
        "unsupported_value",
    ),
    "a file": ({"type": "file", "file": {"file_id": "x"}}, ".type", "unsupported_value"),
    "a text without text": ({"type": "text"}, ".text", "missing_required_parameter"),
    "a text that is null": ({"type": "text", "text": None}, ".text", "invalid_type"),
    "a text that is a list": ({"type": "text", "text": []}, ".text", "invalid_type"),
    "an image without one": ({"type": "image_url"}, ".image_url", "missing_required_parameter"),
    "an image that is null": ({"type": "image_url", "image_url": None}, ".image_url", "invalid_type"),
    "an image without a URL": (
        {"type": "image_url", "image_url": {}},
        ".image_url.url",
        "missing_required_parameter",
    ),
    "a URL that is a number": (image(5), ".image_url.url", "invalid_type"),
    "a detail that is a number": (image(PNG, detail=5), ".image_url.detail", "invalid_type"),
    **{
        repr(url): (image(url), ".image_url", "invalid_value")
        for url in (
            "",
            "http://example.org/a.png",
            "https://",
            "ftp://example.org/a.png",
            "file:///etc/passwd",
            "/a.png",
            "iVBO",
            "data:image/png;base64,",
            "data:image/png,x",
            "data:image/svg+xml;base64,x",
            "data:text/plain;base64,x",
            " https://example.org/a.png",
        )
    },
}


@pytest.mark.parametrize(("raw", "where", "code"), BAD_PARTS.values(), ids=BAD_PARTS)
def test_a_bad_part_is_named_by_its_index(raw: object, where: str, code: str) -> None:
    param = f"messages[0].content[1]{where}"
    assert refusal(messages=[{"role": "user", "content": [TEXT, raw]}]) == (param, code)


@pytest.mark.parametrize("role", ["system", "developer", "assistant", "tool"])
def test_only_a_user_sends_images(role: str) -> None:
    assert refusal(messages=[{"role": role, **CALL_ID, "content": [image(PNG)]}]) == (
        "messages[0].content[0].type",
        "invalid_value",
    )


def test_a_person_s_name_is_kept() -> None:
    request = decode(messages=[{**USER, "name": "Sam"}])
    assert request.messages == (UserMessage(content="Hi", name="Sam"),)


STOPS: dict[str, tuple[object, tuple[str, ...]]] = {
    "null": (None, ()),
    "one": ("END", ("END",)),
    "four": (["a", "b", "c", "d"], ("a", "b", "c", "d")),
    "one twice, and an empty one": (["a", "", "a"], ("a",)),
    "none": ([], ()),
}


@pytest.mark.parametrize(("value", "stop"), STOPS.values(), ids=STOPS)
def test_a_reply_may_have_an_end_of_its_own(value: object, stop: tuple[str, ...]) -> None:
    assert decode(stop=value).stop == stop


@pytest.mark.parametrize(("value", "parallel"), [(None, True), (True, True), (False, False)], ids=str)
def test_calls_may_be_wanted_one_at_a_time(value: object, parallel: bool) -> None:
    assert decode(parallel_tool_calls=value).parallel_tool_calls is parallel


MESSAGE_NOTICES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "the user's name": ({**USER, "name": "Sam"}, ()),
    "an id where none belongs": ({**USER, **CALL_ID}, ("messages.tool_call_id",)),
    "a tool's name": (
        {"role": "tool", **CALL_ID, "content": "", "name": "f", "id": "x"},
        ("messages.id", "messages.name"),
    ),
    "an assistant's own fields": ({"role": "assistant", "content": "", "name": "Milo"}, ()),
    "an unknown field of a part": (
        {"role": "user", "content": [{**TEXT, "annotations": []}]},
        ("messages.content.annotations",),
    ),
    "null in a part": ({"role": "user", "content": [{**TEXT, "annotations": None}]}, ()),
    "hints for a cache": (
        {
            "role": "user",
            "content": [{**TEXT, "cache_control": {"type": "ephemeral"}, "prompt_cache_breakpoint": True}],
        },
        (),
    ),
}


@pytest.mark.parametrize(("raw", "ignored"), MESSAGE_NOTICES.values(), ids=MESSAGE_NOTICES)
def test_unknown_fields_of_messages_are_named(raw: dict[str, Any], ignored: tuple[str, ...]) -> None:
    assert decode(messages=[raw]).ignored == ignored


# --- Tools ----------------------------------------------------------------------------------------------------


def function(name: object = "f", **more: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, **more}}


TOOLS: dict[str, tuple[dict[str, Any], FunctionTool]] = {
    "a name": (TOOL, FunctionTool(name="f")),
    "everything": (
        function(description="Does it.", parameters=SCHEMA, strict=False),
        FunctionTool(name="f", description="Does it.", parameters=SCHEMA, strict=False),
    ),
    "nulls": (function(description=None, parameters=None, strict=None), FunctionTool(name="f")),
    "an empty schema": (function(parameters={}), FunctionTool(name="f", parameters={})),
    "a long name": (function("aZ0_-" * 12 + "1234"), FunctionTool(name="aZ0_-" * 12 + "1234")),
}


@pytest.mark.parametrize(("raw", "tool"), TOOLS.values(), ids=TOOLS)
def test_a_tool_is_taken(raw: dict[str, Any], tool: FunctionTool) -> None:
    request = decode(tools=[raw])
    assert request.tools == (tool,)
    assert request.ignored == ()


def test_strict_tools_are_taken_and_noticed() -> None:
    request = decode(tools=[function("f", strict=True), function("g", strict=True)])
    assert [tool.name for tool in request.tools] == ["f", "g"]
    assert request.ignored == ("tools.function.strict",)


BAD_TOOLS: dict[str, tuple[object, str, str]] = {
    "a string": ("f", "", "invalid_type"),
    "no type": ({"function": {"name": "f"}}, ".type", "missing_required_parameter"),
    "a type that is a number": ({"type": 1}, ".type", "invalid_type"),
    "a custom tool": ({"type": "custom", "custom": {"name": "f"}}, ".type", "unsupported_value"),
    "a hosted tool": ({"type": "web_search"}, ".type", "unsupported_value"),
    "no function": ({"type": "function"}, ".function", "missing_required_parameter"),
    "a function that is null": (
        {"type": "function", "function": None},
        ".function",
        "missing_required_parameter",
    ),
    "a function that is a string": ({"type": "function", "function": "f"}, ".function", "invalid_type"),
    "a flat function": ({"type": "function", "name": "f"}, ".function", "missing_required_parameter"),
    "no name": ({"type": "function", "function": {}}, ".function.name", "missing_required_parameter"),
    "a name that is null": (function(None), ".function.name", "invalid_type"),
    "an empty name": (function(""), ".function.name", "invalid_value"),
    "a name of 65": (function("f" * 65), ".function.name", "invalid_value"),
    "a name with a dot": (function("a.b"), ".function.name", "invalid_value"),
    "a name with a line end": (function("f\n"), ".function.name", "invalid_value"),
    "a name that is not ASCII": (function("fä"), ".function.name", "invalid_value"),
    "a name that is there": (function("g"), ".function.name", "invalid_value"),
    "a description that is a number": (function(description=5), ".function.description", "invalid_type"),
    "properties that are a list": (
        function(parameters={"properties": ["a"]}),
        ".function.parameters.properties",
        "invalid_type",
    ),
    "properties that are null": (
        function(parameters={"properties": None}),
        ".function.parameters.properties",
        "invalid_type",
    ),
    "parameters that are a string": (function(parameters="{}"), ".function.parameters", "invalid_type"),
    "strict that is a string": (function(strict="yes"), ".function.strict", "invalid_type"),
}


@pytest.mark.parametrize(("raw", "where", "code"), BAD_TOOLS.values(), ids=BAD_TOOLS)
def test_a_bad_tool_is_named_by_its_index(raw: object, where: str, code: str) -> None:
    assert refusal(tools=[function("g"), raw]) == (f"tools[1]{where}", code)


@pytest.mark.parametrize(
    ("field", "param"),
    [
        (
            b'"tools":[{"type":"function","function":{"name":"f","parameters":%b}}]',
            "tools[0].function.parameters",
        ),
        (
            b'"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":%b}}',
            "response_format.json_schema.schema",
        ),
    ],
    ids=["of a tool", "of a reply"],
)
def test_a_schema_deeper_than_letta_can_be_sent_is_refused(field: bytes, param: str) -> None:
    schema = b'{"a":' * 400 + b"{}" + b"}" * 400
    with pytest.raises(RequestError) as caught:
        decode_request(b'{"model":"Milo","messages":[{"role":"user","content":"Hi"}],%b}' % (field % schema))
    assert caught.value.status_hint == 400
    assert (caught.value.param, caught.value.code) == (param, "invalid_value")


def allowed(*names: object, mode: object = "auto") -> dict[str, object]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


CHOICES: dict[str, tuple[object, list[str]]] = {
    "null": (None, ["f", "g", "h"]),
    "auto": ("auto", ["f", "g", "h"]),
    "none": ("none", []),
    "two of them": (allowed("h", "f"), ["f", "h"]),
    "one, twice": (allowed("g", "g"), ["g"]),
    "none of them": (allowed(), []),
}


@pytest.mark.parametrize(("choice", "names"), CHOICES.values(), ids=CHOICES)
def test_tool_choice_keeps_the_agent_from_tools(choice: object, names: list[str]) -> None:
    request = decode(tools=[function(name) for name in "fgh"], tool_choice=choice)
    assert [tool.name for tool in request.tools] == names
    assert not request.must_call


FORCING: dict[str, tuple[object, list[str]]] = {
    "required": ("required", ["f", "g", "h"]),
    "a function": ({"type": "function", "function": {"name": "g"}}, ["g"]),
    "one of two": (allowed("h", "f", mode="required"), ["f", "h"]),
}


@pytest.mark.parametrize(("choice", "names"), FORCING.values(), ids=FORCING)
def test_tool_choice_forces_a_call_of_what_it_leaves(choice: object, names: list[str]) -> None:
    request = decode(tools=[function(name) for name in "fgh"], tool_choice=choice)
    assert [tool.name for tool in request.tools] == names
    assert request.must_call


def test_a_call_of_no_tool_cannot_be_forced() -> None:
    assert refusal(tool_choice="required") == ("tool_choice", "invalid_value")


FORMATS: dict[str, tuple[object, JsonFormat | None]] = {
    "null": (None, None),
    "text": ({"type": "text"}, None),
    "an object": ({"type": "json_object"}, JsonFormat()),
    "any JSON": (
        {"type": "json_schema", "json_schema": {"name": "any"}},
        JsonFormat(json_schema=JsonSchema(name="any")),
    ),
    "a schema": (
        {
            "type": "json_schema",
            "json_schema": {"name": "n", "description": "d", "schema": {"type": "null"}, "strict": True},
        },
        JsonFormat(json_schema=JsonSchema(name="n", description="d", schema={"type": "null"}, strict=True)),
    ),
}


@pytest.mark.parametrize(("raw", "wanted"), FORMATS.values(), ids=FORMATS)
def test_a_format_is_taken(raw: object, wanted: JsonFormat | None) -> None:
    assert decode(response_format=raw).response_format == wanted


IN_LIST = "tool_choice.allowed_tools.tools"

BAD_CHOICES: dict[str, tuple[object, str, str]] = {
    "no function": ({"type": "function"}, "tool_choice.function.name", "invalid_value"),
    "a function that is not there": (
        {"type": "function", "function": {"name": "g"}},
        "tool_choice.function.name",
        "invalid_value",
    ),
    "none of those allowed": (allowed(mode="required"), "tool_choice", "invalid_value"),
    "a custom tool": ({"type": "custom", "custom": {"name": "f"}}, "tool_choice", "unsupported_value"),
    "an unknown word": ("any", "tool_choice", "invalid_value"),
    "an unknown type": ({"type": "any"}, "tool_choice", "invalid_value"),
    "a type that is a list": ({"type": []}, "tool_choice", "invalid_value"),
    "a number": (5, "tool_choice", "invalid_value"),
    "no list of tools": ({"type": "allowed_tools"}, "tool_choice.allowed_tools", "invalid_type"),
    "mode null": (allowed("f", mode=None), "tool_choice.allowed_tools.mode", "invalid_value"),
    "mode unknown": (allowed("f", mode=["auto"]), "tool_choice.allowed_tools.mode", "invalid_value"),
    "tools that are null": (
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}},
        IN_LIST,
        "invalid_type",
    ),
    "a tool that is not offered": (allowed("f", "x"), f"{IN_LIST}[1].function.name", "invalid_value"),
    "a tool whose name is null": (allowed(None), f"{IN_LIST}[0].function.name", "invalid_value"),
    "a tool whose name is a list": (allowed(["f"]), f"{IN_LIST}[0].function.name", "invalid_value"),
    "a tool that is a string": (
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": ["f"]}},
        f"{IN_LIST}[0].function.name",
        "invalid_value",
    ),
    "a custom tool in the list": (
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "custom"}]}},
        f"{IN_LIST}[0].function.name",
        "invalid_value",
    ),
}


@pytest.mark.parametrize(("choice", "param", "code"), BAD_CHOICES.values(), ids=BAD_CHOICES)
def test_a_bad_choice_is_named(choice: object, param: str, code: str) -> None:
    assert refusal(tools=[TOOL], tool_choice=choice) == (param, code)


# --- What is said and shown -----------------------------------------------------------------------------------

MESSAGES_OF_ERRORS: dict[str, tuple[dict[str, object], str]] = {
    "no model": ({"model": None}, "`model` is missing."),
    "an empty model": ({"model": ""}, "`model` is empty: give the name or id of an agent."),
    "no messages": ({"messages": []}, "`messages` is empty."),
    "a wrong type": ({"temperature": "0"}, "`temperature`: expected a number, got a string."),
    "several answers": ({"n": 2}, "`n` cannot be honoured: an agent has one memory and so one answer."),
    "an old field": (
        {"functions": []},
        "`functions` cannot be honoured: `functions` is deprecated: use `tools`.",
    ),
    "a role": (
        {"messages": [{"role": "critic"}]},
        "`messages[0].role` must be one of system, developer, user, assistant, tool.",
    ),
    "content": (
        {"messages": [{"role": "user", "content": 5}]},
        "`messages[0].content`: expected a string or an array of parts, got an integer.",
    ),
    "audio": (
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        "`messages[0].content[0].type`: input_audio cannot be sent: an agent cannot hear.",
    ),
    "a part": (
        {"messages": [{"role": "user", "content": [{"type": "video_url"}]}]},
        "`messages[0].content[0].type` must be one of text, image_url here.",
    ),
    "a format": (
        {"response_format": {"type": "xml"}},
        "`response_format.type` must be text, json_object or json_schema.",
    ),
}


@pytest.mark.parametrize(("fields", "message"), MESSAGES_OF_ERRORS.values(), ids=MESSAGES_OF_ERRORS)
def test_an_error_says_what_was_seen_and_what_would_be_right(fields: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        decode(**fields)
    assert caught.value.message == message


def test_what_people_wrote_is_not_shown() -> None:
    said: list[dict[str, Any]] = [
        {"role": "system", "content": "secret"},
        {"role": "tool", "content": "secret", **CALL_ID},
        {"role": "user", "content": [{"type": "text", "text": "secret"}, image("https://secret")]},
    ]
    request = decode(
        messages=said, metadata={"key": "secret"}, tools=[function(parameters={"title": "secret"})]
    )
    parts = [
        part for message in request.messages if isinstance(message, UserMessage) for part in message.content
    ]
    assert len(parts) == 2
    assert "secret" not in repr(request)
    assert "secret" not in repr(parts)


# --- Anything -------------------------------------------------------------------------------------------------


#: Something of everything that is read.
RICH: dict[str, Any] = {
    "model": "Milo",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [TEXT, image(PNG, detail="low"), {"type": "image_url", "image_url": PNG}]},
        {"role": "assistant", "content": [TEXT, {"type": "refusal", "refusal": "No."}]},
        {"role": "tool", "content": [TEXT], "tool_call_id": "call-1"},
        USER,
    ],
    "tools": [function("f", description="Does it.", parameters=SCHEMA, strict=True), function("g")],
    "tool_choice": allowed("f"),
    "stream": True,
    "stream_options": {"include_usage": True, "include_obfuscation": False},
    "metadata": {"key": "value"},
    "response_format": {"type": "text"},
    "n": 1,
    "logprobs": False,
    "modalities": ["text"],
    "stop": ["END"],
    "temperature": 0,
    "unknown": 1,
}


def test_a_rich_request_is_right() -> None:
    assert len(decode(**RICH).messages) == 5


@given(st.binary() | JSON.map(orjson.dumps))
@example(b"{}")
def test_any_bytes_give_an_error_that_says_what_is_at_fault(data: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        decode_request(data)
    assert caught.value.param or "body" in caught.value.message


@given(spoiled(RICH) | spoiled(RICH).flatmap(spoiled))
def test_a_spoiled_request_is_taken_or_its_field_is_named(raw: Any) -> None:
    try:
        request = decode_request(orjson.dumps(raw))
    except RequestError as error:
        assert error.status_hint == 400
        assert error.param or (not isinstance(raw, dict) and "body" in error.message)
    else:
        assert isinstance(request, ChatRequest)
        assert request.model
        assert request.messages
