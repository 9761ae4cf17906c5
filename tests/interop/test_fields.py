"""Each field of a request, each role, part, tool and choice: supported, reported or refused; also null."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import pydantic
import pytest
from attrs import frozen
from openai import APIStatusError, BadRequestError

from drive import DONE, PING, stop, want
from live.asking import GET_WEATHER, TOOLS, Message, ask, async_client, fetch, sync_client, user
from sansio_letta.upstreams.rest import letta as wire
from server.scripted import hello, runs
from support import matrix

from .asking import post
from .standin import StandInLetta

both = pytest.mark.parametrize("is_async", matrix([False, True], False), ids=["sync", "async"])

PNG = "data:image/png;base64,iVBORw0KGgo="
HTTP = "http://192.168.1.5:8123/a.png"
HTTPS = "https://example.com/a.png?b=c,d"


@frozen(kw_only=True)
class Got:
    """What came back on a request, with an error or without."""

    status: int
    headers: Mapping[str, str]
    error: APIStatusError | None = None

    @property
    def ignored(self) -> list[str]:
        """The fields that were named as having no effect."""
        return [name.strip() for name in self.headers.get("x-ignored-parameters", "").split(",") if name]


#: Of a request that wants JSON, or a call, or an error.
REFUSE: Final = {"X-Letta-Policy-Enforcement": "refuse"}


def send(
    url: str,
    model: str,
    fields: Mapping[str, object],
    *,
    is_async: bool = False,
    headers: Mapping[str, str] | None = None,
) -> Got:
    """Ask through the SDK; the fields go into the body as they are, over those of the request."""
    request: dict[str, Any] = {"model": model, "messages": [user("hi")], "extra_body": fields}
    request["extra_headers"] = headers

    async def main() -> Any:
        async with async_client(url, max_retries=2) as client:
            return await client.chat.completions.with_raw_response.create(**request)

    try:
        if is_async:
            response = asyncio.run(main())
        else:
            with sync_client(url, max_retries=2) as client:
                response = client.chat.completions.with_raw_response.create(**request)
    except APIStatusError as exc:
        return Got(status=exc.status_code, headers=exc.response.headers, error=exc)
    return Got(status=response.status_code, headers=response.headers)


def check_refused(got: Got, param: str, code: str) -> None:
    assert type(got.error) is BadRequestError, got
    assert (got.error.type, got.error.code, got.error.param) == ("invalid_request_error", code, param)


# --- F20

FUNCTION = {"name": "f", "parameters": {}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}

#: Fields that have their effect, or ask for what happens anyway.
HONOURED: Final[list[tuple[str, object]]] = [
    ("stream", False),
    ("stream_options", {"include_usage": True}),
    ("stream_options", {"include_usage": None, "include_obfuscation": True}),
    ("tools", TOOLS),
    ("tools", []),
    ("tool_choice", "auto"),
    ("parallel_tool_calls", True),
    ("parallel_tool_calls", False),
    ("stop", "\n"),
    ("stop", ["\n", "END"]),
    ("response_format", {"type": "text"}),
    ("n", 1),
    ("modalities", ["text"]),
    ("logprobs", False),
    ("store", False),
    ("metadata", {}),
    ("metadata", {f"{number:064}": "v" * 512 for number in range(20)}),
    ("metadata", {"number": 1.5, "flag": True, "object": {"a": [None]}}),
    ("stream_options", []),
    ("tool_choice", {"type": "auto"}),
    ("tool_choice", {"type": "none"}),
    ("functions", []),
    ("function_call", "none"),
    ("function_call", "auto"),
    ("n", 1.0),
    ("logprobs", 0),
    ("logit_bias", []),
    # Without effect, and without a word.
    ("user", "sam"),
    ("safety_identifier", "sam"),
    ("prompt_cache_key", "key"),
    ("service_tier", "auto"),
    ("prompt_cache_options", {"mode": "auto"}),
    ("prompt_cache_retention", "24h"),
    ("user", 5),
    ("safety_identifier", [5]),
    ("service_tier", {}),
]

#: Fields without effect that the answer names.
NOTICED: Final[list[tuple[str, object]]] = [
    ("temperature", 0),
    ("temperature", 0.7),
    ("top_p", 1),
    ("frequency_penalty", -0.5),
    ("presence_penalty", 2),
    ("seed", 7),
    ("logit_bias", {"50256": -100}),
    ("verbosity", "low"),
    ("reasoning_effort", "high"),
    ("max_completion_tokens", 1000),
    ("max_tokens", 1000),
    ("prediction", {"type": "content", "content": "x"}),
    ("web_search_options", {}),
    ("moderation", {"model": "omni-moderation-latest"}),
    ("store", True),
    # Clients add their own.
    ("reasoning", {"effort": "high"}),
    ("plugins", [{"id": "web"}]),
    ("chat_id", "0b1c"),
    ("x-unknown", 1.5),
    # Nobody judges what has no effect.
    ("metadata", []),
    ("max_tokens", 1024.0),
    ("max_completion_tokens", "1000"),
    ("seed", 1.5),
    ("seed", 2**64),
    ("temperature", "hot"),
    ("logit_bias", [5]),
    ("reasoning_effort", 1),
    ("prediction", "x"),
    ("web_search_options", True),
    ("store", "yes"),
]

#: Field, value, code; the parameter that is named is the field, or lies in it.
REFUSED: Final[list[tuple[str, object, str]]] = [
    ("functions", [FUNCTION], "unsupported_parameter"),
    ("function_call", {"name": "f"}, "unsupported_parameter"),
    ("response_format", {"type": "json_object"}, "unsupported_value"),
    ("response_format", SCHEMA, "unsupported_value"),
    ("response_format", {"type": "grammar"}, "invalid_value"),
    ("n", 2, "unsupported_value"),
    ("n", 0, "unsupported_value"),
    ("modalities", ["text", "audio"], "unsupported_value"),
    ("audio", {"voice": "alloy", "format": "wav"}, "unsupported_parameter"),
    ("logprobs", True, "unsupported_value"),
    ("top_logprobs", 3, "unsupported_value"),
    ("stop", ["a", "b", "c", "d", "e"], "invalid_value"),
    ("stop", "x" * 16385, "invalid_value"),
    ("metadata", {"letta_chat_key": {"a": 1}}, "invalid_type"),
    ("metadata", {"letta_chat_key": True}, "invalid_type"),
    ("messages", [], "invalid_value"),
    ("messages", None, "missing_required_parameter"),
    ("model", None, "missing_required_parameter"),
]

#: Values of the wrong type, for each field that has one.
MISTYPED: Final[dict[str, list[object]]] = {
    "model": [5, ["Milo"]],
    "messages": ["hi", {"role": "user", "content": "hi"}, [5]],
    "stream": ["true", 1],
    "stream_options": [True, {"include_usage": "yes"}],
    "tools": [{}, "auto", [5]],
    "tool_choice": [5],
    "parallel_tool_calls": ["true"],
    "response_format": ["text"],
    "n": ["1", 1.5, True],
    "modalities": ["text"],
    "logprobs": [1],
    "top_logprobs": ["3"],
    "metadata": [{"letta_chat_key": []}],
    "stop": [5, [5]],
}

OPTIONAL: Final = sorted(
    {name for name, _ in (*HONOURED, *NOTICED)} | {name for name, _, _ in REFUSED} - {"messages", "model"}
)


@both
@pytest.mark.parametrize(("name", "value"), HONOURED, ids=[name for name, _ in HONOURED])
def test_honoured(url: str, letta: StandInLetta, is_async: bool, name: str, value: object) -> None:
    got = send(url, letta.add(hello()).name, {name: value}, is_async=is_async)
    assert (got.status, got.ignored, got.error) == (200, [], None)


@both
@pytest.mark.parametrize(("name", "value"), NOTICED, ids=[name for name, _ in NOTICED])
def test_noticed(url: str, letta: StandInLetta, is_async: bool, name: str, value: object) -> None:
    got = send(url, letta.add(hello()).name, {name: value}, is_async=is_async)
    assert (got.status, got.ignored, got.error) == (200, [name], None)


@both
@pytest.mark.parametrize(("name", "value", "code"), REFUSED, ids=[name for name, _, _ in REFUSED])
def test_refused(url: str, letta: StandInLetta, is_async: bool, name: str, value: object, code: str) -> None:
    agent = letta.add(hello())
    got = send(url, agent.name, {name: value}, is_async=is_async, headers=REFUSE)
    assert type(got.error) is BadRequestError
    assert got.error.param is not None
    assert got.error.param.partition(".")[0] == name
    assert got.error.code == code
    assert agent.requests == []
    if name in ("functions", "function_call"):
        assert "`tools`" in got.error.message


@pytest.mark.parametrize("name", MISTYPED)
def test_wrong_types(url: str, letta: StandInLetta, name: str) -> None:
    agent = letta.add()
    for value in MISTYPED[name]:
        got = send(url, agent.name, {name: value})
        assert type(got.error) is BadRequestError, value
        assert got.error.param is not None
        assert got.error.param.startswith(name), value
        assert got.error.code in ("invalid_type", "unsupported_value", "invalid_value"), value
    assert agent.commands == []


@pytest.mark.parametrize("name", OPTIONAL)
def test_null_means_absent(url: str, letta: StandInLetta, name: str) -> None:
    got = send(url, letta.add(hello()).name, {name: None})
    assert (got.status, got.ignored, got.error) == (200, [], None)


@both
def test_all_nulls_at_once(url: str, letta: StandInLetta, is_async: bool) -> None:
    got = send(url, letta.add(hello()).name, dict.fromkeys(OPTIONAL), is_async=is_async)
    assert (got.status, got.ignored, got.error) == (200, [], None)


@both
def test_all_notices_at_once(url: str, letta: StandInLetta, is_async: bool) -> None:
    got = send(url, letta.add(hello()).name, dict(NOTICED), is_async=is_async)
    assert got.status == 200
    assert sorted(got.ignored) == sorted({name for name, _ in NOTICED})


def test_notices_of_a_stream(url: str, letta: StandInLetta) -> None:
    response = post(url, letta.add(hello()).name, temperature=0, chat_id="0b1c")
    assert response.headers["x-ignored-parameters"].replace(" ", "").split(",") == ["temperature", "chat_id"]
    assert b"temperature" not in response.body


def test_names_that_no_header_can_hold(url: str, letta: StandInLetta) -> None:
    names = ["größe", "a\r\nx-evil: 1", "a,b", " ", "😀" * 500, *map(str, range(1000))]
    got = send(url, letta.add(hello()).name, dict.fromkeys(names, 1))
    assert got.status == 200
    assert "x-evil" not in got.headers
    assert got.ignored[0] == "gr??e"
    assert got.ignored[-1] == "and 955 more"
    assert len(got.headers["x-ignored-parameters"]) < 8192


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_missing_fields(url: str, missing: str) -> None:
    request = {"model": "Milo", "messages": [user("hi")]}
    del request[missing]
    response = fetch(url, "POST", "/chat/completions", request)
    assert response.status == 400
    assert (response.error["code"], response.error["param"]) == ("missing_required_parameter", missing)


def test_answer_has_no_field_that_means_nothing(url: str, letta: StandInLetta) -> None:
    response = post(url, letta.add(hello()).name, stream=False, service_tier="auto", store=True, user="sam")
    answer = pydantic.TypeAdapter(dict[str, Any]).validate_json(response.body)
    assert set(answer) == {"id", "object", "created", "model", "choices", "usage"}
    assert set(answer["choices"][0]) == {"index", "message", "logprobs", "finish_reason"}
    assert set(answer["choices"][0]["message"]) == {"role", "content", "refusal"}


def test_stream_is_decided_by_its_field_alone(url: str, letta: StandInLetta) -> None:
    agent = letta.add(hello(), hello())
    for stream, accept, kind in (
        (True, "application/json", "text/event-stream; charset=utf-8"),
        (False, "text/event-stream", "application/json"),
    ):
        request = {"model": agent.name, "messages": [user("hi")], "stream": stream}
        response = fetch(url, "POST", "/chat/completions", request, headers={"Accept": accept})
        assert response.headers["content-type"] == kind


# --- F21: messages


def told(url: str, letta: StandInLetta, messages: list[Message], *, is_async: bool = False) -> list[object]:
    """The contents of the messages that the agent gets of these."""
    agent = letta.add(hello())
    got = send(url, agent.name, {"messages": messages}, is_async=is_async)
    assert (got.status, got.error) == (200, None)
    return agent.texts


def text(text: str, **more: object) -> dict[str, object]:
    return {"type": "text", "text": text, **more}


def image(url: object) -> dict[str, object]:
    return {"type": "image_url", "image_url": url}


PARTS: Final[list[tuple[list[Any], tuple[wire.TextContent | wire.ImageContent, ...]]]] = [
    ([text("hi")], (wire.TextContent(text="hi"),)),
    ([text("a"), text("b")], (wire.TextContent(text="a"), wire.TextContent(text="b"))),
    (
        [text("what is it?"), image({"url": HTTPS})],
        (wire.TextContent(text="what is it?"), wire.ImageContent(source=wire.UrlSource(url=HTTPS))),
    ),
    *[
        (
            [image({"url": f"data:image/{kind};base64,AAAA", "detail": detail})],
            (wire.ImageContent(source=wire.Base64Source(media_type=f"image/{kind}", data="AAAA")),),
        )
        for kind, detail in (("png", "auto"), ("jpeg", "low"), ("gif", "high"), ("webp", "original"))
    ],
    ([image(HTTPS)], (wire.ImageContent(source=wire.UrlSource(url=HTTPS)),)),
    ([image(HTTP)], (wire.ImageContent(source=wire.UrlSource(url=HTTP)),)),
    (
        [image("data:image/jpg;charset=utf-8;base64, AA\nAA")],
        (wire.ImageContent(source=wire.Base64Source(media_type="image/jpeg", data="AAAA")),),
    ),
]


@both
@pytest.mark.parametrize(("parts", "content"), PARTS)
def test_parts(
    url: str, letta: StandInLetta, is_async: bool, parts: list[object], content: tuple[object, ...]
) -> None:
    assert told(url, letta, [{"role": "user", "content": parts}], is_async=is_async) == [content]


@both
def test_user_messages_keep_their_order(url: str, letta: StandInLetta, is_async: bool) -> None:
    messages = [
        user("one"),
        {"role": "assistant", "content": "1"},
        user("two"),
        {"role": "user", "content": "three", "name": "sam"},
        user("two"),
    ]
    assert told(url, letta, messages, is_async=is_async) == ["two", "three", "two"]


OLD: Final[dict[str, object]] = {
    "a file": [text("see"), {"type": "file", "file": {"filename": "a.pdf", "file_data": "AAAA"}}],
    "audio": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}],
    "a video": [{"type": "video_url", "video_url": {"url": HTTPS}}],
    "HEIC": [image({"url": "data:image/heic;base64,AAAA"})],
    "an object": text("see"),
    "a number": 5,
    "null": None,
}


@both
@pytest.mark.parametrize("content", OLD.values(), ids=OLD.keys())
@pytest.mark.parametrize("role", ["user", "assistant", "tool", "system", "function", "critic"])
def test_what_was_said_before_locks_no_chat(
    url: str, letta: StandInLetta, is_async: bool, role: str, content: object
) -> None:
    history: list[Message] = [
        {"role": role, "content": content},
        {"role": "assistant", "content": "ok"},
        user("new"),
    ]
    assert told(url, letta, history, is_async=is_async)[-1:] == ["new"]


CALL = {"id": "call-1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}

ASSISTANT: Final[dict[str, Message]] = {
    "text": {"content": "Hello"},
    "text parts": {"content": [text("Hello")]},
    "refusal part": {"content": [{"type": "refusal", "refusal": "No."}]},
    "refusal": {"content": None, "refusal": "No."},
    "calls": {"content": None, "tool_calls": [CALL]},
    "calls and text": {"content": "Hello", "tool_calls": [CALL]},
    "calls, no content": {"tool_calls": [CALL]},
    "function call": {"content": None, "function_call": {"name": "f", "arguments": "{}"}},
    "audio": {"content": None, "audio": {"id": "audio-1"}},
    "reasoning": {"content": "Hello", "reasoning_content": "Hm."},
}


@pytest.mark.parametrize("message", ASSISTANT.values(), ids=ASSISTANT.keys())
def test_assistant_messages_are_the_boundary(url: str, letta: StandInLetta, message: Message) -> None:
    history = [user("old"), {"role": "assistant", **message}, user("new")]
    assert told(url, letta, history) == ["new"]


@pytest.mark.parametrize("content", ["", "\n", None, []], ids=["empty", "line break", "null", "no parts"])
def test_an_empty_assistant_message_is_a_failed_answer(url: str, letta: StandInLetta, content: object) -> None:
    history = [user("old"), {"role": "assistant", "content": content}, user("new")]
    assert told(url, letta, history) == ["old", "new"]


@both
@pytest.mark.parametrize("content", ["18 C", [text("18"), text(" C")]], ids=["text", "parts"])
def test_tool_messages(url: str, letta: StandInLetta, is_async: bool, content: object) -> None:
    agent = letta.add(hello(), pending=["call-1"])
    history = [
        user("hi"),
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call-1", "content": content},
    ]
    assert send(url, agent.name, {"messages": history, "tools": TOOLS}, is_async=is_async).status == 200
    (message,) = agent.requests[0].messages
    assert isinstance(message, wire.ApprovalCreate)
    (given,) = message.approvals
    assert isinstance(given, wire.ToolReturn)
    assert (given.tool_call_id, given.status) == ("call-1", "success")
    assert str(given.tool_return).split() == ["18", "C"]


@both
@pytest.mark.parametrize("role", ["system", "developer"])
@pytest.mark.parametrize("content", ["Be brief.", [text("Be brief.")]], ids=["text", "parts"])
def test_instructions_are_given_once(
    url: str, letta: StandInLetta, is_async: bool, role: str, content: object
) -> None:
    agent = letta.add(hello(), hello())
    messages = [{"role": role, "content": content}, user("hi")]
    got = send(url, agent.name, {"messages": messages}, is_async=is_async)
    assert (got.status, got.ignored) == (200, [])
    assert agent.texts == ["Be brief.", "hi"]
    messages = [*messages, {"role": "assistant", "content": "Hello"}, user("more")]
    assert send(url, agent.name, {"messages": messages}, is_async=is_async).status == 200
    assert agent.texts[-1] == "more"


@pytest.mark.parametrize("hint", ["prompt_cache_breakpoint", "cache_control"])
def test_hints_in_parts_are_quiet(url: str, letta: StandInLetta, hint: str) -> None:
    messages = [{"role": "user", "content": [text("hi", **{hint: {"type": "ephemeral"}})]}]
    got = send(url, letta.add(hello()).name, {"messages": messages})
    assert (got.status, got.ignored) == (200, [])


def test_unknown_fields_in_parts_are_noticed(url: str, letta: StandInLetta) -> None:
    messages = [{"role": "user", "content": [text("hi", colour="red")]}]
    got = send(url, letta.add(hello()).name, {"messages": messages})
    assert got.status == 200
    assert [name.rpartition(".")[2] for name in got.ignored] == ["colour"]


BAD_MESSAGES: Final[dict[str, tuple[Message, str, str]]] = {
    "function": ({"role": "function", "name": "f", "content": "x"}, "role", "unsupported_value"),
    "unknown role": ({"role": "wizard", "content": "x"}, "role", "invalid_value"),
    "no role": ({"content": "x"}, "role", "missing_required_parameter"),
    "no content": ({"role": "user"}, "content", "missing_required_parameter"),
    "null content": ({"role": "user", "content": None}, "content", "missing_required_parameter"),
    "content of a wrong type": ({"role": "user", "content": 5}, "content", "invalid_type"),
    "no call id": ({"role": "tool", "content": "x"}, "tool_call_id", "missing_required_parameter"),
    "system image": ({"role": "system", "content": [image({"url": PNG})]}, "content[0].type", "invalid_value"),
}

BAD_PARTS: Final[dict[str, tuple[object, str, str]]] = {
    "audio": (
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        ".type",
        "unsupported_value",
    ),
    "file": ({"type": "file", "file": {"file_id": "file-1"}}, ".type", "unsupported_value"),
    "file data": (
        {"type": "file", "file": {"file_data": "AAAA", "filename": "a.pdf"}},
        ".type",
        "unsupported_value",
    ),
    "video": ({"type": "video_url", "video_url": {"url": HTTPS}}, ".type", "unsupported_value"),
    "unknown": ({"type": "sticker"}, ".type", "invalid_value"),
    "no type": ({"text": "hi"}, ".type", "missing_required_parameter"),
    "no text": ({"type": "text"}, ".text", "missing_required_parameter"),
    "text of a wrong type": ({"type": "text", "text": 5}, ".text", "invalid_type"),
    "a string": ("hi", "", "invalid_type"),
    "HEIC": (image({"url": "data:image/heic;base64,AAAA"}), ".image_url", "invalid_value"),
    "file image": (image({"url": "file:///etc/passwd"}), ".image_url", "invalid_value"),
    "data that is no image": (
        image({"url": "data:application/pdf;base64,AAAA"}),
        ".image_url",
        "invalid_value",
    ),
    "data that is not coded": (image({"url": "data:image/svg+xml,<svg/>"}), ".image_url", "invalid_value"),
}


@both
@pytest.mark.parametrize(("message", "param", "code"), BAD_MESSAGES.values(), ids=BAD_MESSAGES.keys())
def test_messages_that_are_refused(
    url: str, letta: StandInLetta, is_async: bool, message: Message, param: str, code: str
) -> None:
    messages = [user("hi"), message, user("there")]
    got = send(url, letta.add().name, {"messages": messages}, is_async=is_async)
    check_refused(got, f"messages[1].{param}", code)


@both
@pytest.mark.parametrize(("part", "param", "code"), BAD_PARTS.values(), ids=BAD_PARTS.keys())
def test_parts_that_are_refused(
    url: str, letta: StandInLetta, is_async: bool, part: object, param: str, code: str
) -> None:
    messages = [user("hi"), {"role": "user", "content": [text("see"), part]}]
    got = send(url, letta.add().name, {"messages": messages}, is_async=is_async)
    check_refused(got, f"messages[1].content[1]{param}", code)


# --- F21: tools


def offered(url: str, letta: StandInLetta, *, is_async: bool, **fields: object) -> list[wire.ClientTool]:
    """The tools that the agent is given."""
    agent = letta.add(hello())
    got = send(url, agent.name, fields, is_async=is_async)
    assert (got.status, got.error) == (200, None)
    return list(agent.requests[0].client_tools)


def function(**fields: object) -> dict[str, object]:
    return {"type": "function", "function": fields}


@both
def test_tools(url: str, letta: StandInLetta, is_async: bool) -> None:
    schema = {
        "type": "object",
        "properties": {"größe": {"enum": [1, 2.5, None]}},
        "additionalProperties": False,
    }
    tools = [
        function(name="full", description="Does it.", parameters=schema, strict=False),
        function(name="A-z_0" + "9" * 59),
        function(name="nulls", description=None, parameters=None, strict=None),
    ]
    full, bare, nulls = offered(url, letta, is_async=is_async, tools=tools)
    assert (full.name, full.description, full.parameters) == ("full", "Does it.", schema)
    assert (bare.name, nulls.name) == ("A-z_0" + "9" * 59, "nulls")
    for tool in (bare, nulls):
        assert tool.description is None
        assert tool.parameters == {"type": "object", "properties": {}}


@both
def test_strict_tools_are_noticed(url: str, letta: StandInLetta, is_async: bool) -> None:
    fields = {"tools": [function(name="f", parameters={"type": "object"}, strict=True)]}
    got = send(url, letta.add(hello()).name, fields, is_async=is_async)
    assert got.status == 200
    assert [name.rpartition(".")[2] for name in got.ignored] == ["strict"]


BAD_TOOLS: Final[dict[str, tuple[list[object], str, str]]] = {
    "custom": ([{"type": "custom", "custom": {"name": "x"}}], "tools[0].type", "unsupported_value"),
    "hosted": ([GET_WEATHER, {"type": "web_search"}], "tools[1].type", "unsupported_value"),
    "no type": ([{"function": {"name": "f"}}], "tools[0].type", "missing_required_parameter"),
    "no function": ([{"type": "function"}], "tools[0].function", "missing_required_parameter"),
    "no name": ([function(description="x")], "tools[0].function.name", "missing_required_parameter"),
    "empty name": ([function(name="")], "tools[0].function.name", "invalid_value"),
    "name of a wrong type": ([function(name=5)], "tools[0].function.name", "invalid_type"),
    "arguments without names": (
        [GET_WEATHER, function(name="f", parameters={"type": "string"})],
        "tools[1].function.parameters.type",
        "invalid_value",
    ),
    "schema of a wrong type": (
        [function(name="f", parameters="{}")],
        "tools[0].function.parameters",
        "invalid_type",
    ),
}


@both
@pytest.mark.parametrize(("tools", "param", "code"), BAD_TOOLS.values(), ids=BAD_TOOLS.keys())
def test_tools_that_are_refused(
    url: str, letta: StandInLetta, is_async: bool, tools: list[object], param: str, code: str
) -> None:
    check_refused(send(url, letta.add().name, {"tools": tools}, is_async=is_async), param, code)


def allowed(mode: str, *names: str) -> dict[str, object]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


CHOICES: Final[dict[str, tuple[object, list[str]]]] = {
    "null": (None, ["get_weather", "read_file"]),
    "auto": ("auto", ["get_weather", "read_file"]),
    "none": ("none", []),
    "one allowed": (allowed("auto", "read_file"), ["read_file"]),
    "both allowed": (allowed("auto", "read_file", "get_weather"), ["get_weather", "read_file"]),
}

FORCED: Final[dict[str, object]] = {
    "required": "required",
    "function": {"type": "function", "function": {"name": "read_file"}},
    "custom": {"type": "custom", "custom": {"name": "x"}},
    "allowed and required": allowed("required", "read_file"),
}


@both
@pytest.mark.parametrize(("choice", "names"), CHOICES.values(), ids=CHOICES.keys())
def test_tool_choice(url: str, letta: StandInLetta, is_async: bool, choice: object, names: list[str]) -> None:
    tools = offered(url, letta, is_async=is_async, tools=TOOLS, tool_choice=choice)
    assert [tool.name for tool in tools] == names


@both
@pytest.mark.parametrize("choice", FORCED.values(), ids=FORCED.keys())
def test_forcing_tools_may_be_refused(url: str, letta: StandInLetta, is_async: bool, choice: object) -> None:
    agent = letta.add()
    got = send(url, agent.name, {"tools": TOOLS, "tool_choice": choice}, is_async=is_async, headers=REFUSE)
    assert type(got.error) is BadRequestError
    assert got.error.code == "unsupported_value"
    assert got.error.param is not None
    assert got.error.param.partition(".")[0] == "tool_choice"
    assert agent.commands == []


def test_a_bad_name_among_others_is_the_client_s_own_again(url: str, letta: StandInLetta) -> None:
    bad = {"type": "function", "function": {"name": "mcp.weather/größe", "parameters": {"required": None}}}
    offered_tools = offered(url, letta, is_async=False, tools=[*TOOLS, bad, bad])
    assert len(offered_tools) == len(TOOLS) + 1
    name = next(tool.name for tool in offered_tools if tool.name.startswith("mcp_weather_gr__e_"))
    for choice in ("auto", allowed("auto", "mcp.weather/größe")):
        agent = letta.add(runs(PING, want("call-1", name, "{}"), stop("requires_approval"), DONE))
        answer = ask(url, "sync-stream", agent.name, "hi", tools=[*TOOLS, bad], tool_choice=choice)
        assert [call.name for call in answer.calls] == ["mcp.weather/größe"]


def test_call_of_a_tool_that_the_choice_left_out(url: str, letta: StandInLetta) -> None:
    agent = letta.add(runs(PING, want("call-1", "read_file", "{}"), stop("requires_approval"), DONE))
    answer = ask(url, "sync-stream", agent.name, "hi", tools=TOOLS, tool_choice=allowed("auto", "get_weather"))
    assert (answer.calls, answer.finish_reason) == ([], "stop")


# --- F22


class City(pydantic.BaseModel):
    name: str


@both
def test_parse_may_be_refused(url: str, letta: StandInLetta, is_async: bool) -> None:
    agent = letta.add(hello())
    request: dict[str, Any] = {"model": agent.name, "messages": [user("hi")], "response_format": City}
    request["extra_headers"] = REFUSE

    async def main() -> None:
        async with async_client(url, max_retries=2) as client:
            await client.chat.completions.parse(**request)

    with pytest.raises(BadRequestError) as refused:
        if is_async:
            asyncio.run(main())
        else:
            with sync_client(url, max_retries=2) as client:
                client.chat.completions.parse(**request)
    assert (refused.value.param, refused.value.code) == ("response_format", "unsupported_value")
    assert agent.commands == []


def test_parse_without_a_format(url: str, letta: StandInLetta) -> None:
    request: dict[str, Any] = {"model": letta.add(hello()).name, "messages": [user("hi")]}
    with sync_client(url) as client:
        assert client.chat.completions.parse(**request).choices[0].message.content == "Hello"
