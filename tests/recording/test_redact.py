"""Redaction: no key is recorded, and texts as the text mode says."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drive import AGENT, PING, agent_json, encode, error, say, stop, think, want
from recordings import SCENARIOS, recording
from sansio_letta.errors import RemoteProtocolError
from sansio_letta.recording.format import TextMode
from sansio_letta.recording.redact import (
    StreamRedactor,
    redact_body,
    redact_headers,
    redact_json,
    redact_keys,
    redact_target,
    text_redactor,
)
from sansio_letta.upstreams.rest import letta
from support import JSON

KEY = "sk-proj-0123456789abcdef"


def stream(mode: TextMode, *parts: bytes) -> bytes:
    redactor = StreamRedactor(mode, 10_000)
    return b"".join(redactor.redact(part) for part in parts)


# --- Keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"my key is {KEY}.", "my key is sk-<redacted>"),
        ("Authorization: Bearer abc.def-123=", "Authorization: Bearer <redacted>="),
        ("pk-lf-0123456789", "pk-<redacted>"),
        (f"{KEY} and {KEY}", "sk-<redacted> and sk-<redacted>"),
        ("a task-list, a desk-lamp, sk-8", "a task-list, a desk-lamp, sk-8"),
        ("Bearer of news", "Bearer of news"),
        ("", ""),
    ],
)
def test_what_looks_like_a_key_goes(text: str, expected: str) -> None:
    assert redact_keys(text) == expected


def test_headers_that_open_doors_go() -> None:
    names = (
        "authorization",
        "Proxy-Authorization",
        "cookie",
        "set-cookie",
        "x-api-key",
        "api-key",
        "X-Auth-Token",
    )
    assert redact_headers([(name, "Basic secret") for name in names]) == [
        (name, "<redacted>") for name in names
    ]
    assert redact_headers([("accept", "*/*"), ("x-more", KEY)]) == [
        ("accept", "*/*"),
        ("x-more", "sk-<redacted>"),
    ]


@pytest.mark.parametrize("mode", TextMode)
def test_keys_go_wherever_they_stand(mode: TextMode) -> None:
    value: Any = {
        "a": [KEY, {"b": KEY}],
        "content": KEY,
        "message": {"text": KEY},
        "user": KEY,
        "n": 1,
        "z": None,
    }
    assert KEY not in str(redact_json(value, mode))


@pytest.mark.parametrize("mode", TextMode)
def test_keys_go_from_streams(mode: TextMode) -> None:
    data = encode(say(f"it is {KEY}")) + b": " + KEY.encode() + b"\n\n" + encode(error("llm_error", KEY, KEY))
    assert KEY.encode() not in stream(mode, data)


@given(
    st.lists(
        st.sampled_from(
            ["sk-", "pk-", "Bearer ", "Bearer", KEY, "task", "é", " ", '"', "_", "\n\n", "abc123", "sk"]
        )
    ),
    st.data(),
)
def test_where_a_kept_stream_is_cut_does_not_show(words: list[str], data: st.DataObject) -> None:
    whole = "".join(words).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    parts = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert kept(*parts) == kept(whole)


def kept(*parts: bytes) -> bytes:
    """What is written of a stream whose texts are kept, to its end."""
    redactor = StreamRedactor(TextMode.KEEP, 10_000)
    return b"".join([*(redactor.redact(part) for part in parts), redactor.finish()])


def test_a_word_beyond_the_limit_is_an_error_ever_after() -> None:
    redactor = StreamRedactor(TextMode.KEEP, 100)
    assert redactor.redact(b"data: sk-") == b"data: "
    for data in (b"x" * 100, b" and more"):
        with pytest.raises(RemoteProtocolError):
            redactor.redact(data)
    assert redactor.finish() == b""


@pytest.mark.parametrize("mode", [TextMode.DROP, TextMode.HASH])
def test_what_a_client_notes_is_its_own(mode: TextMode) -> None:
    noted = {"topic": "secret", "list": ["secret", {"deep": "secret"}], "n": 1}
    redacted: Any = redact_json({"model": "Milo", "metadata": noted, "tools": [{"metadata": "secret"}]}, mode)
    assert "secret" not in str(redacted)
    assert redacted["model"] == "Milo"
    assert redacted["metadata"].keys() == noted.keys()
    assert redacted["metadata"]["n"] == 1


# --- Texts ----------------------------------------------------------------------------------------------------


def test_texts_are_kept() -> None:
    assert text_redactor(TextMode.KEEP)(" Hello\n Sam ") == " Hello\n Sam "


def test_of_texts_the_shape_is_kept() -> None:
    assert text_redactor(TextMode.DROP)(" Hello\n Säm ") == " xxxxx\n xxx "


def test_texts_are_hashed() -> None:
    redact = text_redactor(TextMode.HASH)
    assert redact("Hello") == redact("Hello") != redact("Hallo")
    assert redact("\n\nHello") == "\n\n" + redact("Hello")
    assert redact("Hello").startswith("#")
    assert len(redact("Hello" * 100)) == 13
    assert (redact(""), redact(" \n")) == ("", " \n")


@given(st.text(), st.sampled_from(TextMode))
def test_once_redacted_is_redacted(text: str, mode: TextMode) -> None:
    redact = text_redactor(mode)
    assert redact(redact(text)) == redact(text)


def test_what_is_a_text_goes_and_what_is_a_name_stays() -> None:
    value = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "secret"}, "secret"]}],
        "message": {"role": "assistant", "content": "secret", "reasoning_content": None},
        "tool_calls": [{"id": "call-1", "function": {"name": "get_weather", "arguments": "secret"}}],
        "approvals": [
            {"tool_call_id": "call-1", "tool_return": "secret", "status": "success", "approve": True}
        ],
        "image_url": {"url": "secret"},
        "model": "Milo",
    }
    redacted = redact_json(value, TextMode.DROP)
    assert "secret" not in str(redacted)
    for kept in ("user", "assistant", "get_weather", "call-1", "success", "Milo", "text"):
        assert f"'{kept}'" in str(redacted)


@given(JSON, st.sampled_from(TextMode))
def test_any_json_keeps_its_shape(value: Any, mode: TextMode) -> None:
    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shape(item) for key, item in value.items()}
        return [shape(item) for item in value] if isinstance(value, list) else type(value)

    redacted = redact_json(value, mode)
    assert shape(redacted) == shape(value)
    assert redact_json(redacted, mode) == redacted


# --- Bodies and streams ---------------------------------------------------------------------------------------


def test_of_agents_only_what_we_read_is_kept() -> None:
    agent = agent_json() | {"system": "secret", "memory": {"blocks": ["secret"]}, "secrets": [KEY]}
    agent["llm_config"] = {"context_window": 8192, "model_endpoint": "secret"}
    for value in (agent, [agent, agent]):
        found = orjson.loads(redact_body(orjson.dumps(value), TextMode.KEEP))
        assert "secret" not in str(found)
        first = found[0] if isinstance(found, list) else found
        assert (first["id"], first["name"], first["agent_type"]) == (AGENT.id, AGENT.name, AGENT.agent_type)
        assert first["llm_config"] == {"context_window": 8192}


def test_of_a_body_of_the_responses_api_no_text_is_kept() -> None:
    said = {"role": "user", "content": [{"type": "input_text", "text": "secret"}]}
    made = {"type": "function_call", "call_id": "call-1", "name": "f", "arguments": "secret"}
    returned = {"type": "function_call_output", "call_id": "call-1", "output": "secret"}
    for body in ({"input": [said, made, returned], "instructions": "secret"}, {"input": "secret"}):
        kept = redact_body(orjson.dumps({"model": "Milo", **body}), TextMode.DROP)
        assert b"secret" not in kept
        assert orjson.loads(kept)["model"] == "Milo"


def test_of_tools_only_what_we_read_is_kept() -> None:
    told = {"id": "tool-1", "name": "f", "tags": ["mine"]}
    tool = told | {"source_code": "secret", "json_schema": {"a": "secret"}}
    rules = [{"type": "continue_loop", "tool_name": "f", "prompt_template": "secret"}]
    agent = agent_json() | {"tools": [tool], "tool_rules": rules, "tags": ["mine"]}
    assert orjson.loads(redact_body(orjson.dumps([tool]), TextMode.KEEP)) == [told]
    found = orjson.loads(redact_body(orjson.dumps(agent), TextMode.DROP))
    assert "secret" not in str(found)
    assert (found["tools"], found["tags"]) == ([told], ["mine"])
    assert letta.decode_toolbox(orjson.dumps(found)).rules[0]["tool_name"] == "f"


def test_what_is_no_json_is_a_text() -> None:
    assert redact_body(b"<html> \xff", TextMode.DROP) == b"xxxxxx x"
    assert redact_body(b"<html>", TextMode.KEEP) == b"<html>"
    assert redact_body(b"[DONE]", TextMode.HASH) == b"[DONE]"


def test_a_kept_stream_passes_as_it_comes() -> None:
    redactor = StreamRedactor(TextMode.KEEP, 10)
    for part in (b'data: {"a"', b"\xe2\x82", b"\xac: 1}\n\n", b": ping\n"):
        assert redactor.redact(part) == part


@pytest.mark.parametrize("mode", [TextMode.HASH, TextMode.DROP])
def test_of_an_event_that_has_not_ended_nothing_is_written(mode: TextMode) -> None:
    whole = encode(say("secret"))
    redactor = StreamRedactor(mode, 10_000)
    assert redactor.redact(whole[:-1]) == b""
    assert b"message-1" in redactor.redact(whole[-1:])


@pytest.mark.parametrize("mode", [TextMode.HASH, TextMode.DROP])
def test_events_keep_their_names_and_their_order(mode: TextMode) -> None:
    data = encode(PING) + b"event: error\n" + encode(error("llm_error", "secret")) + encode("[DONE]")
    redacted = stream(mode, data)
    assert redacted.count(b"data: ") == 3
    assert b"\n\nevent: error\ndata: " in redacted
    assert redacted.endswith(b"data: [DONE]\n\n")
    assert b"secret" not in redacted
    assert stream(mode, redacted) == redacted


@pytest.mark.parametrize("mode", [TextMode.HASH, TextMode.DROP])
def test_an_event_beyond_the_limit_is_an_error(mode: TextMode) -> None:
    with pytest.raises(RemoteProtocolError):
        StreamRedactor(mode, 100).redact(b"data: " + b"x" * 200)


@pytest.mark.parametrize("mode", [TextMode.HASH, TextMode.DROP])
def test_words_of_every_kind_go(mode: TextMode) -> None:
    data = b"".join(
        encode(item) for item in (say("secret"), think("secret"), want("call-1", "get", "secret"), stop())
    )
    assert b"secret" not in stream(mode, data)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_recordings_lose_their_texts(scenario: str) -> None:
    """No word of a real server's text is left; what is left can be read as before."""
    for exchange in recording(scenario).exchanges:
        if not exchange.body.startswith(b"data:"):
            continue
        redacted = stream(TextMode.DROP, exchange.body)
        assert redacted.count(b"data: ") == exchange.body.count(b"data: ")
        for line in exchange.body.split(b"\n"):
            if line.startswith(b"data: {") and (text := orjson.loads(line[6:]).get("content")):
                assert len(text) < 6 or text.encode() not in redacted


@pytest.mark.parametrize(
    ("target", "written"),
    [
        ("/v1/models?api_key=abc&x=1", "/v1/models?api_key=<redacted>&x=1"),
        ("/v1/models?x=1&access_token=abc", "/v1/models?x=1&access_token=<redacted>"),
        ("/v1/agents/?name=Milo&limit=2", "/v1/agents/?name=Milo&limit=2"),
        ("/v1/models/sk-0123456789", "/v1/models/sk-<redacted>"),
        ("/v1/models?API-KEY=abc#x?token=d", "/v1/models?API-KEY=<redacted>#x?token=<redacted>"),
        ("/a?next=http://b?key=abc?def&x=1", "/a?next=http://b?key=<redacted>&x=1"),
        ("/a?key=&token", "/a?key=&token"),
        ("/a=key=b", "/a=key=b"),
    ],
)
def test_keys_in_a_target_are_not_written(target: str, written: str) -> None:
    assert redact_target(target) == written
