"""Chat Completions input: what is supported, reported, ignored silently, or refused."""

import json
import re
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sansio_letta.config import Config, Enforcement
from sansio_letta.dialects.background_prompts import text_of
from sansio_letta.dialects.chat_completions.decode import decode_request
from sansio_letta.dialects.chat_completions.request import FIELDS
from sansio_letta.dialects.items import (
    AssistantMessage,
    ClientRequest,
    FunctionTool,
    InstructionMessage,
    JsonFormat,
    JsonSchema,
    MadeCall,
    Message,
    ToolMessage,
    UserMessage,
)
from sansio_letta.errors import RequestError
from sansio_letta.turn.request import Image, Text
from support import JSON, spoiled

ROLES = st.sampled_from(["user", "assistant", "system", "developer", "tool", "function", "critic"])
USER = {"role": "user", "content": "Hi"}
FUNCTION = {"name": "f"}
TOOL = {"type": "function", "function": FUNCTION}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def decode(**fields: Any) -> ClientRequest:
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
    assert ClientRequest(model="Milo", messages=(UserMessage(content="Hi"),)) == PLAIN


MALFORMED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "invalid_json"),
    "half an object": (b'{"model":"Milo"', "invalid_json"),
    "something after it": (b"{} {}", "invalid_json"),
    "a form": (b"model=Milo", "invalid_json"),
    "no number": (b'{"n":NaN}', "invalid_json"),
    "no UTF-8": (b'{"model":"\xff"}', "invalid_json"),
    "no UTF-8, and half a surrogate pair": (b'{"model":"\xff\\ud800"}', "invalid_json"),
    "a BOM and nothing": (b"\xef\xbb\xbf", "invalid_json"),
    "infinity": (b'{"n":-Infinity}', "invalid_json"),
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


USER_SAYS = b'{"model":"Milo","messages":[{"role":"user","content":"%b"}]}'

MENDED: dict[str, tuple[bytes, str]] = {
    "the first half": (rb"a\ud83d", "a\ufffd"),
    "the second half": (rb"\ude00b", "\ufffdb"),
    "both, the wrong way": (rb"\ude00\ud83d", "\ufffd\ufffd"),
    "the first half twice": (rb"\uD83D\uD83D\uDE00", "\ufffd\N{GRINNING FACE}"),
    "the second half twice": (rb"\ud83d\ude00\uDE00", "\N{GRINNING FACE}\ufffd"),
    "half an emoji before an escape": (rb"\ud83d\n\u00e4", "\ufffd\nä"),
    "an escaped backslash": (rb"\\ud83d \\\ud83d \\\\", "\\ud83d \\\ufffd \\\\"),
    "not escaped": (b"a\xed\xa0\xbdb", "a\ufffdb"),
    "both, not escaped": (b"a\xed\xa0\xbd\xed\xb8\x80b", "a\ufffdb"),
    "Korean": ("한국어 \\ud83d".encode(), "한국어 \ufffd"),
}


@pytest.mark.parametrize(("written", "read"), MENDED.values(), ids=MENDED)
def test_a_text_that_was_cut_in_an_emoji_is_mended(written: bytes, read: str) -> None:
    request = decode_request(USER_SAYS % written)
    assert request.messages == (UserMessage(content=read),)
    assert request.ignored == ("messages.content.surrogate",)


def test_of_what_is_mended_in_the_history_nobody_needs_to_hear() -> None:
    said = b'{"role":"user","content":"\\ud83d"},{"role":"assistant","content":"\\ud83d"},'
    request = decode_request(b'{"model":"Milo","messages":[%b{"role":"user","content":"Hi"}]}' % said)
    assert request.messages == (
        UserMessage(content="\ufffd"),
        AssistantMessage(content="\ufffd"),
        UserMessage(content="Hi"),
    )
    assert request.ignored == ()


@given(
    st.lists(st.sampled_from(["\\ud83d", "\\ude00", "\\\\", "\\n", "u", "d83d", "\\u00e4", "a"])).map("".join)
)
def test_a_text_is_mended_as_python_reads_it(text: str) -> None:
    read = json.loads(f'"{text}"').encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert decode_request(USER_SAYS % text.encode()).messages == (UserMessage(content=read),)


def test_a_byte_order_mark_is_passed_over() -> None:
    assert decode_request(b"\xef\xbb\xbf" + USER_SAYS % b"Hi") == PLAIN


# --- The fields -----------------------------------------------------------------------------------------------

#: Values that are carried out: nothing is ignored.
HONOURED: list[tuple[str, object]] = [
    ("model", "agent-1"),
    ("messages", [USER, USER]),
    ("stream", True),
    ("stream", False),
    ("stream_options", {}),
    ("stream_options", []),
    ("stream_options", {"include_obfuscation": 0}),
    ("stream_options", {"include_usage": True, "include_obfuscation": True}),
    ("tools", [TOOL]),
    ("tools", []),
    ("tool_choice", "auto"),
    ("tool_choice", {"type": "auto"}),
    ("tool_choice", {"type": "none"}),
    ("functions", []),
    ("function_call", "none"),
    ("function_call", "auto"),
    ("metadata", {"key": "value"}),
    ("metadata", {str(key): {"a": [1.5, True, None]} for key in range(20)}),
    ("metadata", {"k" * 1000: "v" * 1000}),
    ("response_format", {"type": "text"}),
    ("modalities", ["text"]),
    ("parallel_tool_calls", True),
    ("parallel_tool_calls", False),
    ("stop", "END"),
    ("stop", ["END", "\n", "", "x"]),
    ("stop", []),
    ("n", 1),
    ("n", 1.0),
    ("logprobs", False),
    ("logprobs", 0),
    ("top_logprobs", 0),
    ("store", False),
    ("logit_bias", []),
    ("logit_bias", {}),
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
    # What has no effect is not judged.
    ("metadata", []),
    ("metadata", "x"),
    ("max_tokens", 1024.0),
    ("max_tokens", "1024"),
    ("max_completion_tokens", -1),
    ("seed", 1.0),
    ("seed", 2.0**64),
    ("temperature", "0.5"),
    ("temperature", True),
    ("top_p", {}),
    ("logit_bias", [1]),
    ("verbosity", 1),
    ("reasoning_effort", {"effort": "low"}),
    ("prediction", []),
    ("web_search_options", True),
    ("store", "yes"),
]

#: Values that have no effect, of which nobody needs to hear.
QUIET: list[tuple[str, object]] = [
    ("user", "user-1"),
    ("safety_identifier", "x"),
    ("prompt_cache_key", "x"),
    ("prompt_cache_options", {"ttl": "1h"}),
    ("prompt_cache_retention", "24h"),
    ("service_tier", "flex"),
    ("user", 5),
    ("user", {"id": 5}),
    ("safety_identifier", []),
    ("prompt_cache_key", 1),
    ("service_tier", False),
]

#: Values with which the answer would not be what was asked for.
REFUSED: list[tuple[str, object, str, str]] = [
    ("model", "", "model", "invalid_value"),
    ("messages", [], "messages", "invalid_value"),
    ("functions", [{"name": "f"}], "functions", "unsupported_parameter"),
    ("function_call", {"name": "f"}, "function_call", "unsupported_parameter"),
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
            ({"name": "a", "description": 1}, ".description", "invalid_type"),
            ({"name": "a", "schema": True}, ".schema", "invalid_type"),
        )
    ),
    ("stop", ["a", "b", "c", "d", "e"], "stop", "invalid_value"),
    ("stop", "x" * 16385, "stop", "invalid_value"),
]

#: Values of the wrong type, and the place of the fault where it is further in.
WRONG_TYPES: list[tuple[str, object, str]] = [
    *((name, 5, name) for name in ("model", "messages", "tools", "response_format", "stream_options")),
    *((name, "true", name) for name in ("stream", "parallel_tool_calls", "logprobs")),
    *((name, 1, name) for name in ("stream", "parallel_tool_calls", "logprobs")),
    *((name, "1", name) for name in ("n", "top_logprobs")),
    ("n", True, "n"),
    ("top_logprobs", False, "top_logprobs"),
    ("stop", 1, "stop"),
    ("stop", ["END", 1], "stop"),
    ("stream_options", {"include_usage": "yes"}, "stream_options.include_usage"),
]


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


def test_a_number_that_no_integer_holds_is_read() -> None:
    body = b'{"model":"Milo","messages":[{"role":"user","content":"Hi"}],"seed":%d}'
    for seed in (2**64, -(2**63) - 1, 10**300):
        assert decode_request(body % seed).ignored == ("seed",)


def test_of_very_many_unknown_fields_a_few_are_named() -> None:
    request = decode(**{f"unknown-{number:03}-{'x' * 100}": 1 for number in range(500)})
    assert len(request.ignored) == 51
    assert request.ignored[0] == f"unknown-000-{'x' * 52}"
    assert request.ignored[-1] == "and 450 more"


def test_values_are_handed_over() -> None:
    metadata = {**{str(key): key for key in range(15)}, "k" * 64: "v" * 512}
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
        UserMessage(content=(Text(text="Hi"), Image(url=PNG))),
    ),
    "user, null": ({**USER, "name": None}, UserMessage(content="Hi")),
    "system": ({"role": "system", "content": "Be brief."}, InstructionMessage(content="Be brief.")),
    "system, parts": (
        {"role": "system", "content": [TEXT]},
        InstructionMessage(content=(Text(text="Hi"),)),
    ),
    "developer": ({"role": "developer", "content": "Be brief."}, InstructionMessage(content="Be brief.")),
    "developer, parts": (
        {"role": "developer", "content": [TEXT]},
        InstructionMessage(content=(Text(text="Hi"),)),
    ),
    "assistant": ({"role": "assistant", "content": "Hi"}, AssistantMessage(content="Hi")),
    "assistant, parts": (
        {"role": "assistant", "content": [TEXT, {"type": "refusal", "refusal": "No."}]},
        AssistantMessage(content="Hi\nNo."),
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
    "assistant, refusal": (
        {"role": "assistant", "content": None, "refusal": "No."},
        AssistantMessage(content="No."),
    ),
    "assistant, audio": (
        {"role": "assistant", "content": None, "audio": {"id": "x"}},
        AssistantMessage(content="[audio]"),
    ),
    "assistant, audio with a transcript": (
        {"role": "assistant", "content": None, "audio": {"id": "x", "transcript": "Hi"}},
        AssistantMessage(content="Hi"),
    ),
    "assistant, deprecated call": (
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        AssistantMessage(calls=(MadeCall(call_id="", name="f", arguments="{}"),)),
    ),
    "tool": (
        {"role": "tool", "tool_call_id": "call-1", "content": "18 C"},
        ToolMessage(tool_call_id="call-1", content="18 C"),
    ),
    "tool, parts": (
        {"role": "tool", "tool_call_id": "call-1", "content": [TEXT, TEXT]},
        ToolMessage(tool_call_id="call-1", content=(Text(text="Hi"), Text(text="Hi"))),
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
    "an old role without a name": ({"role": "function", "content": ""}, ".role", "unsupported_value"),
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


DETAILS: list[object] = ["auto", "low", "original", None, 5, {}]

PARTS: dict[str, tuple[dict[str, Any], Text | Image]] = {
    "a text": (TEXT, Text(text="Hi")),
    "a PNG": (image(PNG), Image(url=PNG)),
    "a bare string": ({"type": "image_url", "image_url": PNG}, Image(url=PNG)),
    **{f"detail {detail}": (image(PNG, detail=detail), Image(url=PNG)) for detail in DETAILS},
    **{
        url[:30]: (image(url), Image(url=taken))
        for url, taken in (
            ("data:image/jpeg;base64,AAAA", "data:image/jpeg;base64,AAAA"),
            ("data:image/jpg;base64,AAAA", "data:image/jpeg;base64,AAAA"),
            ("data:image/pjpeg;base64,AAAA", "data:image/jpeg;base64,AAAA"),
            ("data:image/gif;base64,AAAA", "data:image/gif;base64,AAAA"),
            ("data:image/webp;base64,AAAA", "data:image/webp;base64,AAAA"),
            ("DATA:IMAGE/PNG;BASE64,AAAA", PNG[:22] + "AAAA"),
            ("data:image/png;charset=utf-8;base64,AAAA", PNG[:22] + "AAAA"),
            ("data:image/png; name=a.png; base64,AAAA", PNG[:22] + "AAAA"),
            ("data:image/png;base64, AA\r\nAA\tAA\n", PNG[:22] + "AAAAAA=="),
            ("data:image/png;base64,AA%2BA%2fAA%0AA%3D", PNG[:22] + "AA+A/AAA"),
            ("data:image/png;base64,-_-_", PNG[:22] + "+/+/"),
            ("data:image/png;base64,AAAAA", PNG[:22] + "AAAAA==="),
            (" data:image/png;base64,AAAA\n", PNG[:22] + "AAAA"),
            ("https://example.org/a.png", "https://example.org/a.png"),
            ("HTTPS://example.org/a.png", "HTTPS://example.org/a.png"),
            ("http://192.168.1.5:8123/a.png?b=c,d", "http://192.168.1.5:8123/a.png?b=c,d"),
            (" https://example.org/a.png ", "https://example.org/a.png"),
        )
    },
}


@pytest.mark.parametrize(("raw", "part"), PARTS.values(), ids=PARTS)
def test_a_part_of_the_user_s_is_taken(raw: dict[str, Any], part: Text | Image) -> None:
    request = decode(messages=[{"role": "user", "content": [raw]}])
    assert request.messages == (UserMessage(content=(part,)),)
    assert request.ignored == ()


BAD_PARTS: dict[str, tuple[object, str, str]] = {
    "a string": ("Hi", "", "invalid_type"),
    "no type": ({"text": "Hi"}, ".type", "missing_required_parameter"),
    "a type that is null": ({"type": None, "text": "Hi"}, ".type", "missing_required_parameter"),
    "a type that is an object": ({"type": {}}, ".type", "invalid_type"),
    "an unknown type": ({"type": "sticker"}, ".type", "invalid_value"),
    "a refusal": ({"type": "refusal", "refusal": "No."}, ".type", "invalid_value"),
    "audio": (
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        ".type",
        "unsupported_value",
    ),
    "a file": ({"type": "file", "file": {"file_id": "x"}}, ".type", "unsupported_value"),
    "a text without text": ({"type": "text"}, ".text", "missing_required_parameter"),
    "a text that is null": ({"type": "text", "text": None}, ".text", "invalid_type"),
    "a video": ({"type": "video_url", "video_url": {"url": "https://a"}}, ".type", "unsupported_value"),
    "a text that is a list": ({"type": "text", "text": []}, ".text", "invalid_type"),
    "an image without one": ({"type": "image_url"}, ".image_url", "missing_required_parameter"),
    "an image that is null": ({"type": "image_url", "image_url": None}, ".image_url", "invalid_type"),
    "an image of numbers": ({"type": "image_url", "image_url": [1]}, ".image_url", "invalid_type"),
    "an image without a URL": (
        {"type": "image_url", "image_url": {}},
        ".image_url.url",
        "missing_required_parameter",
    ),
    "a URL that is a number": (image(5), ".image_url.url", "invalid_type"),
    **{
        repr(url): (image(url), ".image_url", "invalid_value")
        for url in (
            "",
            "https://",
            "http:a.png",
            "httpsx://example.org/a.png",
            "ftp://example.org/a.png",
            "file:///etc/passwd",
            "/a.png",
            "iVBO",
            "data:image/png;base64,",
            "data:image/png,x",
            "data:image/svg+xml;base64,x",
            "data:text/plain;base64,x",
            "data:image/heic;base64,AAAA",
            "data:image/heif;base64,AAAA",
            "data:image/avif;base64,AAAA",
            "data:image/tiff;base64,AAAA",
            "data:image/*;base64,AAAA",
            "data:;base64,AAAA",
            "data:image/png;base64",
            "data:image/png;base64,AA=A",
            "data:image/png;base64,AA!A",
            "data:image/png;base64,ä",
            "data:image/png;base64,====",
            "data:image/png;" + "x" * 300 + ";base64,AAAA",
        )
    },
}


@pytest.mark.parametrize(("raw", "where", "code"), BAD_PARTS.values(), ids=BAD_PARTS)
def test_a_bad_part_is_named_by_its_index(raw: object, where: str, code: str) -> None:
    param = f"messages[0].content[1]{where}"
    assert refusal(messages=[{"role": "user", "content": [TEXT, raw]}]) == (param, code)


AUDIO_PART = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
FILE_PART = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}}


@pytest.mark.parametrize(
    ("part", "told", "odd"),
    [
        (AUDIO_PART, Text(text="[audio]"), ("messages.content.input_audio",)),
        (FILE_PART, Text(text="[file a.pdf]"), ("messages.content.file",)),
        ({"type": "output_text", "text": "Hi"}, Text(text="Hi"), ()),
        ({"type": "resource", "uri": "x"}, Text(text="[resource]"), ("messages.content.resource",)),
        (image(PNG), Image(url=PNG), ()),
    ],
)
def test_a_result_may_be_made_of_parts(part: object, told: object, odd: tuple[str, ...]) -> None:
    request = decode(messages=[{"role": "tool", **CALL_ID, "content": [TEXT, part]}])
    (result,) = request.messages
    assert isinstance(result, ToolMessage)
    assert result.content == (Text(text="Hi"), told)
    assert request.ignored == odd


@pytest.mark.parametrize("part", [{"type": "image_url"}, image("ftp://x/y.png"), {"type": 5}, "x"])
def test_a_result_with_a_bad_part_is_refused(part: object) -> None:
    param, _ = refusal(messages=[{"role": "tool", **CALL_ID, "content": [TEXT, part]}])
    assert param is not None
    assert param.startswith("messages[0].content[1]")


@pytest.mark.parametrize("role", ["system", "developer"])
def test_only_a_user_and_a_tool_send_images(role: str) -> None:
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


# --- Old messages ---------------------------------------------------------------------------------------------

REPLY = {"role": "assistant", "content": "ok"}
FILE = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}}
LINK = "https://example.org/a.png"


def old(content: object, role: object = "user", **more: object) -> list[object]:
    return [{"role": role, "content": content, **more}, REPLY, USER]


#: Content of an old message of the user's, as it is told to a new conversation, and what is named.
OLD: dict[str, tuple[object, object, tuple[str, ...]]] = {
    "a file": ([TEXT, FILE], "Hi\n[file a.pdf]", ("messages.content.file",)),
    "a file without a name": (
        [{"type": "file", "file": {"file_id": "x"}}],
        "[file]",
        ("messages.content.file",),
    ),
    "a file of Anthropic's": (
        [{"type": "document", "title": "A\nB"}],
        "[file A B]",
        ("messages.content.document",),
    ),
    "audio": (
        [{"type": "input_audio", "input_audio": {}}, TEXT],
        "[audio]\nHi",
        ("messages.content.input_audio",),
    ),
    "a video": (
        [{"type": "video_url", "video_url": {"url": LINK}}],
        "[video]",
        ("messages.content.video_url",),
    ),
    "something": ([{"type": "sticker"}], "[sticker]", ("messages.content.sticker",)),
    "HEIC": ([image("data:image/heic;base64,AAAA")], "[image]", ("messages.content.image_url",)),
    "no image": ([{"type": "image_url"}], "[image]", ("messages.content.image_url",)),
    "null": (None, "", ()),
    "a number": (5, "5", ()),
    "a flag": (True, "true", ()),
    "an object": ({"a": [1]}, '{"a":[1]}', ()),
    "one part": (TEXT, "Hi", ()),
    "texts": ([TEXT, "a", {"type": "input_text", "text": "b"}, {"text": "c"}, None], "Hi\na\nb\nc", ()),
    "numbers": ([1, 2.5], "1\n2.5", ()),
    "a text that is none": ([{"type": "text", "text": None}], "[text]", ("messages.content.text",)),
    "an image": ([image(LINK)], (Image(url=LINK),), ()),
    "an image among texts": (
        [TEXT, TEXT, {"type": "input_image", "image_url": LINK}, TEXT],
        (*[Text(text="Hi")] * 2, Image(url=LINK), Text(text="Hi")),
        (),
    ),
    "an image among very many texts": (
        [*[TEXT] * 20, {"type": "input_image", "image_url": LINK}, TEXT],
        (Text(text="\n".join(["Hi"] * 20)), Image(url=LINK), Text(text="Hi")),
        (),
    ),
    "very many texts": ([TEXT] * 20, "\n".join(["Hi"] * 20), ()),
}


@pytest.mark.parametrize(("content", "told", "ignored"), OLD.values(), ids=OLD)
def test_nothing_is_wrong_in_an_old_message(content: object, told: object, ignored: tuple[str, ...]) -> None:
    request = decode(messages=old(content))
    (first, *rest) = request.messages
    assert isinstance(first, UserMessage)
    assert told in (first.content, text_of(first.content))
    assert rest == [AssistantMessage(content="ok"), UserMessage(content="Hi")]
    assert request.ignored == ignored


OLD_SAID: dict[str, tuple[object, object]] = {
    "thoughts": ([{"type": "thinking", "thinking": "Hm."}, {"type": "output_text", "text": "a"}], "a"),
    "reasoning": ([{"type": "reasoning", "summary": []}], ""),
    "a call": ([TEXT, {"type": "tool_use", "id": "x", "name": "f", "input": {}}], "Hi"),
    "a refusal": ([{"type": "refusal", "refusal": "No."}], "No."),
    "an image": ([image(LINK), TEXT], "[image]\nHi"),
    "an object": ({"type": "text", "text": "a"}, "a"),
    "a number": (5, "5"),
}


@pytest.mark.parametrize(("content", "told"), OLD_SAID.values(), ids=OLD_SAID)
def test_nothing_is_wrong_in_what_the_agent_said(content: object, told: object) -> None:
    said = decode(messages=[USER, {"role": "assistant", "content": content}, USER]).messages[1]
    assert isinstance(said, AssistantMessage)
    assert text_of(said.content) == told


MADE: dict[str, tuple[object, tuple[MadeCall, ...]]] = {
    "none": ([], ()),
    "null": (None, ()),
    "no list": ({"id": "call-1"}, ()),
    "some that cannot be read": (
        [
            None,
            {},
            {"id": 5, "function": {"name": "f"}},
            {"id": "x", "function": None},
            {"id": "y", "function": {}},
        ],
        (),
    ),
    "without arguments": ([{"id": "x", "function": {"name": "f"}}], (MadeCall(call_id="x", name="f"),)),
    "with an object": (
        [{"id": "x", "function": {"name": "f", "arguments": {"a": 1}}}],
        (MadeCall(call_id="x", name="f"),),
    ),
}


@pytest.mark.parametrize(("calls", "made"), MADE.values(), ids=MADE)
def test_nothing_is_wrong_in_what_the_agent_called(calls: object, made: tuple[MadeCall, ...]) -> None:
    request = decode(messages=[USER, {"role": "assistant", "content": None, "tool_calls": calls}, USER])
    assert request.messages[1] == AssistantMessage(calls=made)


OLD_RESULTS: dict[str, tuple[object, object]] = {
    "null": (None, ""),
    "a number": (18.5, "18.5"),
    "an object": ({"temperature": 18}, '{"temperature":18}'),
    "an image that is none": ([TEXT, image("ftp://x/y.png")], "Hi\n[image]"),
}


@pytest.mark.parametrize(("content", "told"), OLD_RESULTS.values(), ids=OLD_RESULTS)
def test_nothing_is_wrong_in_an_old_result(content: object, told: object) -> None:
    result = decode(messages=old(content, "tool", **CALL_ID)).messages[0]
    assert isinstance(result, ToolMessage)
    assert (result.tool_call_id, text_of(result.content)) == ("call-1", told)


#: Old messages, and what is left of each.
OLD_MESSAGES: dict[str, tuple[object, list[Message], tuple[str, ...]]] = {
    "a string": ("Hi", [], ("messages",)),
    "null": (None, [], ("messages",)),
    "no role": (
        {"content": "Hi"},
        [UserMessage(content=(Text(text="[?]"), Text(text="Hi")))],
        ("messages.role",),
    ),
    "an unknown role": (
        {"role": "critic", "content": "Hi"},
        [UserMessage(content=(Text(text="[critic]"), Text(text="Hi")))],
        ("messages.role",),
    ),
    "an unknown role, silent": ({"role": "critic"}, [], ("messages.role",)),
    "a role that is a list": (
        {"role": [], "content": "Hi"},
        [UserMessage(content=(Text(text="[?]"), Text(text="Hi")))],
        ("messages.role",),
    ),
    "a result in the old form": ({"role": "function", "name": "f", "content": "x"}, [], ()),
    "a result of nothing": ({"role": "tool", "content": "x"}, [], ()),
    "a result of a number": ({"role": "tool", "tool_call_id": 5, "content": "x"}, [], ()),
    "instructions that are null": ({"role": "system", "content": None}, [InstructionMessage(content="")], ()),
    "instructions with an image": (
        {"role": "system", "content": [TEXT, image(PNG)]},
        [InstructionMessage(content=(Text(text="Hi"), Text(text="[image]")))],
        (),
    ),
    "fields that nobody knows": ({**USER, "a": 1, "b": {}}, [UserMessage(content="Hi")], ()),
}


@pytest.mark.parametrize(("raw", "left", "ignored"), OLD_MESSAGES.values(), ids=OLD_MESSAGES)
def test_an_old_message_keeps_no_chat_from_going_on(
    raw: object, left: list[Message], ignored: tuple[str, ...]
) -> None:
    request = decode(messages=[raw, REPLY, USER])
    assert request.messages == (*left, AssistantMessage(content="ok"), UserMessage(content="Hi"))
    assert request.ignored == ignored


def test_a_note_is_short_and_in_one_line() -> None:
    request = decode(messages=old([{"type": "a\r\n\x00" + "b" * 1000}]))
    (note, *_) = request.messages
    assert isinstance(note, UserMessage)
    assert note.content == f"[a   {'b' * 196}]"


def test_of_very_many_odd_parts_some_are_told() -> None:
    request = decode_request(
        orjson.dumps({"model": "Milo", "messages": old([FILE] * 5 + [TEXT])}), Config(max_part_count=3)
    )
    assert isinstance(request.messages[0], UserMessage)
    assert text_of(request.messages[0].content).split("\n") == ["[file a.pdf]"] * 3 + ["[...]"]


def test_parts_are_kept_where_a_program_s_own_prompt_may_be() -> None:
    said = {"role": "user", "content": [TEXT, TEXT]}
    messages = decode(messages=[{**said, "role": "system"}, said, REPLY, said, REPLY, USER]).messages
    parts = (Text(text="Hi"), Text(text="Hi"))
    assert [message.content for message in messages] == [parts, "Hi\nHi", "ok", parts, "ok", "Hi"]


@given(st.lists(JSON | st.fixed_dictionaries({"role": JSON | ROLES, "content": JSON}), max_size=4), JSON)
def test_whatever_was_said_before_the_chat_goes_on(said: list[object], content: object) -> None:
    request = decode(messages=[*said, {"role": "assistant", "content": content}, USER])
    assert request.messages[-1] == UserMessage(content="Hi")
    assert isinstance(request.messages[-2], AssistantMessage)


CALLS = [
    {"id": f"call-{number}", "type": "function", "function": {"name": name, "arguments": "{}"}}
    for number, name in enumerate(["f", "g", "f"])
]


def test_a_result_in_the_old_form_is_that_of_a_call_that_waits() -> None:
    results = [{"role": "function", "name": name, "content": name} for name in ("g", "f")]
    answered = {"role": "tool", "tool_call_id": "call-0", "content": ""}
    asking = {"role": "assistant", "content": None, "tool_calls": CALLS}
    request = decode(messages=[USER, asking, answered, *results])
    assert request.messages[-2:] == (
        ToolMessage(tool_call_id="call-1", content="g"),
        ToolMessage(tool_call_id="call-2", content="f"),
    )
    third = {"role": "function", "name": "f", "content": ""}
    for messages in (
        [USER, asking, answered, *results, third],
        [USER, {**asking, "tool_calls": 5}, third],
        [third],
    ):
        assert refusal(messages=messages) == (f"messages[{len(messages) - 1}].role", "unsupported_value")


# --- Limits ---------------------------------------------------------------------------------------------------

LIMITS = Config(max_message_count=3, max_part_count=3, max_tool_count=3)

BEYOND: dict[str, tuple[dict[str, Any], str]] = {
    "messages": ({"messages": [USER] * 4}, "messages"),
    "parts": ({"messages": [{"role": "user", "content": [TEXT] * 4}]}, "messages[0].content"),
    "parts of several": ({"messages": [{"role": "user", "content": [TEXT] * 2}] * 2}, "messages[1].content"),
    "tools": ({"tools": [TOOL] * 4}, "tools"),
}


@pytest.mark.parametrize(("fields", "param"), BEYOND.values(), ids=BEYOND)
def test_counts_have_a_limit(fields: dict[str, Any], param: str) -> None:
    body = {"model": "Milo", "messages": [USER], **fields}
    with pytest.raises(RequestError) as caught:
        decode_request(orjson.dumps(body), LIMITS)
    error = caught.value
    assert (error.status_hint, error.param, error.code) == (400, param, "array_above_max_length")
    assert "3" in error.message
    assert "4" in error.message


def test_values_have_a_limit() -> None:
    many: list[dict[str, Any]] = [{f"x{number}": 1 for number in range(20)}, {"x": [[]] * 20}]
    for fields in (*many, {"metadata": {"a": [1] * 20}}):
        body = orjson.dumps({"model": "Milo", "messages": [USER], **fields})
        assert decode_request(body, Config(max_value_count=body.count(b","))).model == "Milo"
        with pytest.raises(RequestError, match="commas") as caught:
            decode_request(body, Config(max_value_count=body.count(b",") - 1))
        assert (caught.value.status_hint, caught.value.code) == (413, "request_too_large")


def test_what_a_long_chat_brings_is_within_the_limits() -> None:
    tools = [function(f"f{number}", parameters=SCHEMA) for number in range(500)]
    said = [{"role": "user", "content": [TEXT, TEXT]}, REPLY] * 10_000
    request = decode(messages=[*said, USER], tools=tools)
    assert (len(request.messages), len(request.tools)) == (20_001, 500)


# --- Tools ----------------------------------------------------------------------------------------------------


def function(name: object = "f", **more: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, **more}}


TOOLS: dict[str, tuple[dict[str, Any], FunctionTool]] = {
    "a name": (TOOL, FunctionTool(name="f")),
    "everything": (
        function(description="Does it.", parameters=SCHEMA, strict=False),
        FunctionTool(name="f", description="Does it.", parameters=SCHEMA, strict=False),
    ),
    "strict that is a string": (function(strict="yes"), FunctionTool(name="f")),
    "an empty array for an object": (function(parameters=[]), FunctionTool(name="f")),
    "anything": (function(parameters=True), FunctionTool(name="f")),
    "nulls": (function(description=None, parameters=None, strict=None), FunctionTool(name="f")),
    "an empty schema": (function(parameters={}), FunctionTool(name="f", parameters={})),
    "a long name": (function("aZ0_-" * 12 + "1234"), FunctionTool(name="aZ0_-" * 12 + "1234")),
}


@pytest.mark.parametrize(("raw", "tool"), TOOLS.values(), ids=TOOLS)
def test_a_tool_is_taken(raw: dict[str, Any], tool: FunctionTool) -> None:
    request = decode(tools=[raw])
    assert request.tools == (tool,)
    assert request.ignored == ()


SCHEMAS: dict[str, tuple[object, object]] = {
    "no type": ({"properties": {"a": {}}}, {"properties": {"a": {}}, "type": "object"}),
    "no properties": ({"type": "object"}, {"type": "object", "properties": {}}),
    "types": ({"type": ["null", "object"]}, {"type": "object", "properties": {}}),
    "null everywhere": (
        {
            **dict.fromkeys(
                ("type", "properties", "required", "additionalProperties", "title", "anyOf", "items")
            ),
            "$defs": {"a": None, "b": {"enum": None, "type": "string", "description": None}},
        },
        {"type": "object", "properties": {}, "$defs": {"a": {}, "b": {"type": "string"}}},
    ),
    "null within": (
        {
            "type": "object",
            "required": ["a", None],
            "properties": {
                "a": None,
                "b": {"type": "array", "items": None},
                "c": {"type": "array", "items": {"properties": None, "type": "object"}},
                "d": {"anyOf": [None, {"type": "null", "format": None}]},
                "e": {"not": {"const": None, "pattern": None}},
            },
        },
        {
            "type": "object",
            "required": ["a"],
            "properties": {
                "a": {},
                "b": {"type": "array"},
                "c": {"type": "array", "items": {"type": "object"}},
                "d": {"anyOf": [{"type": "null"}]},
                "e": {"not": {"const": None}},
            },
        },
    ),
    "arrays of PHP": (
        {
            "type": "object",
            "properties": {
                "a": [],
                "b": {"type": "object", "properties": []},
                "c": {"items": [], "additionalProperties": [], "enum": [], "required": []},
                "items": {"prefixItems": [[], {"$defs": []}]},
            },
        },
        {
            "type": "object",
            "properties": {
                "a": {},
                "b": {"type": "object", "properties": {}},
                "c": {"items": {}, "additionalProperties": {}, "enum": [], "required": []},
                "items": {"prefixItems": [{}, {"$defs": {}}]},
            },
        },
    ),
    "data that may be null": (
        {"type": "object", "properties": {"a": {"default": None, "const": None, "enum": [None, []]}}},
        {"type": "object", "properties": {"a": {"default": None, "const": None, "enum": [None, []]}}},
    ),
    "data like a schema": (
        {"type": "object", "properties": {"a": {"default": {"items": None}, "example": {"properties": []}}}},
        {"type": "object", "properties": {"a": {"default": {"items": None}, "example": {"properties": []}}}},
    ),
    "schemas that are flags": (
        {"type": "object", "properties": {"a": True, "b": False}, "additionalProperties": False},
        {"type": "object", "properties": {"a": True, "b": False}, "additionalProperties": False},
    ),
}


@pytest.mark.parametrize(("schema", "mended"), SCHEMAS.values(), ids=SCHEMAS)
def test_a_schema_is_mended_where_letta_would_break_on_it(schema: object, mended: object) -> None:
    (tool,) = decode(tools=[function(parameters=schema)]).tools
    assert tool.parameters == mended


def test_the_schema_of_a_reply_is_mended_too() -> None:
    schema: object = {"type": "array", "items": None, "prefixItems": [{"properties": []}]}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    request = decode(response_format=wanted)
    assert request.response_format == JsonFormat(
        json_schema=JsonSchema(name="n", schema={"type": "array", "prefixItems": [{"properties": {}}]})
    )


BAD_NAMES = ["f" * 65, "a.b", "mcp/read file", "größe", "f\n", "a b", ".", "日本語", "x" * 5000]


def test_a_name_that_models_do_not_take_is_another_one_for_the_agent() -> None:
    request = decode(tools=[function("g"), *(function(name) for name in BAD_NAMES)])
    assert [tool.name for tool in request.tools] == ["g", *BAD_NAMES]
    names = [tool.agent_name for tool in request.tools]
    assert names[0] == "g"
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in names)
    assert len(set(names)) == len(names)
    assert names[2].startswith("a_b_")
    alone = decode(tools=[function("größe")])
    assert alone.tools[0].agent_name == names[BAD_NAMES.index("größe") + 1]


def test_a_name_that_is_made_is_nobody_else_s() -> None:
    (made,) = decode(tools=[function("a.b")]).tools
    both = decode(tools=[function("a.b"), function(made.alias)]).tools
    assert [tool.name for tool in both] == ["a.b", made.alias]
    assert both[0].agent_name != both[1].agent_name == made.alias


def test_tools_of_names_that_are_alike_are_told_apart() -> None:
    names = ["a.b", "a/b", "a b", "a_b", "a?b"]
    request = decode(tools=[function(name) for name in names])
    assert len({tool.agent_name for tool in request.tools}) == len(names)


def test_a_tool_that_is_there_twice_is_taken_once() -> None:
    request = decode(tools=[function("f", parameters=SCHEMA), function("g"), function("f", parameters=SCHEMA)])
    assert [tool.name for tool in request.tools] == ["f", "g"]
    assert request.ignored == ()


def test_of_two_tools_of_one_name_the_last_counts() -> None:
    request = decode(tools=[function("f", description="a"), function("g"), function("f", description="b")])
    assert [(tool.name, tool.description) for tool in request.tools] == [("f", "b"), ("g", None)]
    assert request.ignored == ("tools.function.name",)


@pytest.mark.parametrize("choice", [{"type": "function", "function": {"name": "a.b"}}, "allowed"], ids=str)
def test_a_choice_names_a_tool_as_the_client_does(choice: object) -> None:
    choice = allowed("a.b") if choice == "allowed" else choice
    (tool,) = decode(tools=[function("a.b"), function("g")], tool_choice=choice).tools
    assert tool.name == "a.b"


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
    "a description that is a number": (function(description=5), ".function.description", "invalid_type"),
    "properties that are a list": (
        function(parameters={"properties": ["a"]}),
        ".function.parameters.properties",
        "invalid_type",
    ),
    "a property that is a string": (
        function(parameters={"properties": {"a": "string"}}),
        ".function.parameters.properties.a",
        "invalid_type",
    ),
    "a list of arguments": (
        function(parameters={"type": "array"}),
        ".function.parameters.type",
        "invalid_value",
    ),
    "required that is a flag": (
        function(parameters={"required": True}),
        ".function.parameters.required",
        "invalid_type",
    ),
    "required that is a number": (
        function(parameters={"required": 5}),
        ".function.parameters.required",
        "invalid_type",
    ),
    "parameters that nothing satisfies": (function(parameters=False), ".function.parameters", "invalid_type"),
    "parameters that are a list": (function(parameters=[1]), ".function.parameters", "invalid_type"),
    "parameters that are a string": (function(parameters="{}"), ".function.parameters", "invalid_type"),
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
    "an object of type auto": ({"type": "auto"}, ["f", "g", "h"]),
    "an object of type none": ({"type": "none"}, []),
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
    "an object of type required": ({"type": "required"}, ["f", "g", "h"]),
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
            "json_schema": {"name": "n", "description": "d", "schema": {"type": "null"}, "strict": 1},
        },
        JsonFormat(json_schema=JsonSchema(name="n", description="d", schema={"type": "null"})),
    ),
}


@pytest.mark.parametrize(("raw", "wanted"), FORMATS.values(), ids=FORMATS)
def test_a_format_is_taken(raw: object, wanted: JsonFormat | None) -> None:
    assert decode(response_format=raw).response_format == wanted


def test_a_format_that_is_ignored_is_not_judged() -> None:
    body = {"model": "Milo", "messages": [USER], "response_format": {"type": "grammar", "grammar": 5}}
    request = decode_request(orjson.dumps(body), Config(enforcement=Enforcement.IGNORE))
    assert request.response_format == JsonFormat()


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
    "a wrong type": ({"stream": "yes"}, "`stream`: expected true or false, got a string."),
    "several answers": ({"n": 2}, "`n` cannot be honoured: an agent has one memory and so one answer."),
    "an old field": (
        {"functions": [FUNCTION]},
        "`functions` cannot be honoured: `functions` and `function_call` are deprecated: use `tools`.",
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
        "`messages[0].content[0].type`: input_audio cannot be sent: an agent cannot hear: send what was "
        "said as text.",
    ),
    "a part": (
        {"messages": [{"role": "user", "content": [{"type": "sticker"}]}]},
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
        assert isinstance(request, ClientRequest)
        assert request.model
        assert request.messages
