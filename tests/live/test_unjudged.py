"""Input that is not validated, with a real Letta server: old messages, bad tools, images, bodies."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from openai import BadRequestError

from live.asking import PAIR, Form, Message, ask, attempt, fetch, result, user
from live.letta_api import Agent, LettaApi
from sansio_letta.config import Config
from sansio_letta.dialects.chat_completions.tools import decode_tools
from sansio_letta.dialects.fields import Notices

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
FILE = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}}
REPLY: Message = {"role": "assistant", "content": "ok"}


def function(name: str, **more: object) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


OLD: dict[str, Message] = {
    "a file": {"role": "user", "content": [text("see"), FILE]},
    "audio": {
        "role": "user",
        "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}],
    },
    "HEIC": {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": "data:image/heic;base64,AAAA"}}],
    },
    "an object": {"role": "user", "content": {"a": 1}},
    "a result of nothing": {"role": "tool", "tool_call_id": "x", "content": None},
    "thoughts": {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}, text("a")]},
    "the old role": {"role": "function", "name": "f", "content": "x"},
    "an unknown role": {"role": "critic", "content": "x"},
}


@pytest.mark.parametrize("form", PAIR)
def test_a_chat_goes_on_whatever_was_said(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    assert ask(url, form, agent.name, "say Something else.").text == "Something else."
    messages = [*OLD.values(), REPLY, user("say Hello.")]
    assert ask(url, form, agent.name, messages).text == "Hello."
    assert letta.user_texts(agent) == ["say Something else.", "say Hello."]


def test_a_new_conversation_is_told_what_was_there(url: str, letta: LettaApi, agent: Agent) -> None:
    messages = [*OLD.values(), REPLY, user("say Hello.")]
    metadata = {"letta_chat_key": 17, "other": {"numbers": [1, 2.5, None]}}
    assert ask(url, "sync", agent.name, messages, metadata=metadata).text == "Hello."
    (conversation,) = letta.conversations(agent)
    told = json.dumps(letta.user_texts(agent, conversation))
    for note in ("[file a.pdf]", "[audio]", "[image]", "[critic]", "say Hello."):
        assert note in told
    assert letta.assistant_texts(agent, conversation)[:2] == ["a", "ok"]


#: Tools of which real programs have sent the like.
TOOLS = [
    function("get_weather", description="The weather."),
    function("mcp.files/read größe", parameters={"type": "object", "properties": {"path": {"type": "string"}}}),
    function("f" * 70, parameters=None, description=None),
    function("go", parameters={"type": "object", "properties": None, "required": None}),
    function("go_inner", parameters={"type": "object", "properties": {"a": {"items": None, "enum": None}}}),
    function("php", parameters={"type": "object", "properties": [], "required": []}),
    function("php_none", parameters=[]),
    function("any", parameters=True),
    function("bare", parameters={"properties": {"a": True}}),
    function("nullable", parameters={"type": ["object", "null"]}),
    function("get_weather", description="The weather."),
]  # fmt: skip


@pytest.mark.parametrize("form", PAIR)
def test_one_bad_tool_keeps_no_others_out(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    (bad,) = (tool for tool in decode_tools(TOOLS, Config(), Notices()) if tool.name == "mcp.files/read größe")
    script = f'call {bad.agent_name} {{"path": "a.txt"}}'
    asked = ask(url, form, agent.name, script, tools=TOOLS)
    assert [(call.name, call.arguments) for call in asked.calls] == [
        ("mcp.files/read größe", '{"path": "a.txt"}')
    ]
    assert [call["name"] for call in letta.tool_calls(agent)] == [bad.agent_name]
    answer = ask(
        url, form, agent.name, [user(script), asked.message, result(asked.calls[0], "18")], tools=TOOLS
    )
    assert "18" in answer.text
    assert answer.finish_reason == "stop"


BAD_SCHEMAS: dict[str, tuple[object, str]] = {
    "a string": ({"type": "string"}, ".type"),
    "required": ({"type": "object", "required": 5}, ".required"),
    "properties": ({"type": "object", "properties": "x"}, ".properties"),
    "nothing satisfies it": (False, ""),
}


@pytest.mark.parametrize(("schema", "where"), BAD_SCHEMAS.values(), ids=BAD_SCHEMAS)
def test_a_schema_that_no_run_survives_is_named(
    url: str, letta: LettaApi, agent: Agent, schema: object, where: str
) -> None:
    tools = [function("f"), function("g", parameters=schema)]
    error = attempt(url, "sync", agent.name, "say Hello.", tools=tools).error
    assert type(error) is BadRequestError
    assert error.param == f"tools[1].function.parameters{where}"
    assert letta.runs(agent) == []


@pytest.fixture
def picture() -> Iterator[str]:
    """The URL of a picture on this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/a.png" else 404)
            self.send_header("Content-Type", "image/png")
            self.end_headers()
            self.wfile.write(b"\x89PNG")

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/a.png"
        server.shutdown()


def shown(url: object) -> list[Message]:
    return [{"role": "user", "content": [text("say Hello."), {"type": "image_url", "image_url": url}]}]


def test_letta_fetches_a_picture_of_the_house(url: str, letta: LettaApi, agent: Agent, picture: str) -> None:
    assert ask(url, "sync", agent.name, shown({"url": picture, "detail": 5})).text == "Hello."
    error = attempt(url, "sync", agent.name, shown(picture + "x")).error
    assert type(error) is BadRequestError
    assert "fetch" in error.message


@pytest.mark.parametrize(
    "data",
    [f"data:image/jpg;base64,{PNG}", f"DATA:image/png;charset=utf-8;base64, {PNG[:40]}\n{PNG[40:]}\n"],
    ids=["jpg", "parameters and blanks"],
)
def test_pictures_as_programs_write_them(url: str, agent: Agent, data: str) -> None:
    assert ask(url, "sync", agent.name, shown(data)).text == "Hello."


def test_half_an_emoji(url: str, letta: LettaApi, agent: Agent) -> None:
    said = rb'[{"role":"user","content":"\ude00"},{"role":"assistant","content":"\ud83d"},'
    messages = said + rb'{"role":"user","content":"say cut \ud83d"}]'
    body = b'\xef\xbb\xbf{"model":"%b","seed":18446744073709551616,"messages":%b}' % (
        agent.name.encode(),
        messages,
    )
    response = fetch(url, "POST", "/chat/completions", body)
    assert response.status == 200
    assert json.loads(response.body)["choices"][0]["message"]["content"] == "cut \ufffd"
    assert response.headers["x-ignored-parameters"] == "seed, messages.content.surrogate"
    # An empty thread is told all of the history.
    assert letta.user_texts(agent) == ["\ufffd", "say cut \ufffd"]
