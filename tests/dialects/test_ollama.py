"""Agents as models of an Ollama server, as Visual Studio Code reads them."""

from typing import Any

import orjson
import pytest

from drive import AGENT_ID
from sansio_letta import HttpRequest, Proxy, ResponseBody, ResponseHead, Signal
from sansio_letta.dialects.ollama import decode_show
from sansio_letta.errors import RequestError
from sansio_letta.upstreams.rest.commands import Command, FetchAgent, FindAgent, ListAgents

AGENT = {
    "id": AGENT_ID,
    "name": "Milo",
    "agent_type": "letta_v1_agent",
    "created_at": "2026-11-22T08:00:19.090319Z",
    "llm_config": {"context_window": 128_000, "model": "gpt-4o-mini"},
}
HELPER = {**AGENT, "id": AGENT_ID.replace("1", "2"), "name": "Milo-sleep", "agent_type": "sleeptime_agent"}


def ask(method: str, target: str, *answers: object, body: object = None) -> tuple[int, Any, list[Command]]:
    """Status and body of an answer, and what Letta was asked for it."""
    data = b"" if body is None else body if isinstance(body, bytes) else orjson.dumps(body)
    request = HttpRequest(method=method, target=target, body=data)
    cycle = Proxy().open(request, token="token-123", created=1, now=0.0)
    status, told, commands, left = 0, b"", list[Command](), list(answers)
    while (item := cycle.next_event()) is not Signal.FINISHED:
        match item:
            case ResponseHead():
                status = item.status
            case ResponseBody():
                told += item.data
            case Signal.NEED_DATA:
                cycle.receive_response(200, [("content-type", "application/json")], 0.0)
                cycle.receive_data(orjson.dumps(left.pop(0)), 0.0)
                cycle.receive_data(b"", 0.0)
            case command:
                assert not isinstance(command, Signal)
                commands.append(command)
    return status, orjson.loads(told), commands


@pytest.mark.parametrize("target", ["/api/version", "/v1/api/version", "//api//version"])
def test_the_version_is_new_enough_and_letta_is_not_asked(target: str) -> None:
    status, told, commands = ask("GET", target)
    assert (status, commands) == (200, [])
    assert tuple(map(int, told["version"].split("."))) >= (0, 6, 4)


def test_the_list_names_each_agent_for_people_as_a_model() -> None:
    status, told, commands = ask("GET", "/api/tags", [AGENT, HELPER])
    assert status == 200
    assert [type(command) for command in commands] == [ListAgents]
    [model] = told["models"]
    assert (model["model"], model["name"]) == ("Milo", "Milo")
    assert model["modified_at"] == AGENT["created_at"]
    assert len(model["digest"]) == 64
    # Programs that are written in Go or Rust fail where one of these is missing.
    assert model["details"].keys() == {
        "parent_model",
        "format",
        "family",
        "families",
        "parameter_size",
        "quantization_level",
    }
    assert type(model["size"]) is int


@pytest.mark.parametrize(
    ("body", "model", "command", "answer"),
    [
        ({"model": "Milo"}, "Milo", FindAgent(name="Milo"), [AGENT]),
        ({"name": "Milo"}, "Milo", FindAgent(name="Milo"), [AGENT]),
        ({"model": AGENT_ID, "verbose": True}, "Milo", FetchAgent(agent_id=AGENT_ID), AGENT),
    ],
)
def test_a_model_is_shown_with_its_context_and_what_it_can(
    body: object, model: str, command: Command, answer: object
) -> None:
    status, told, commands = ask("POST", "/api/show", answer, body=body)
    assert (status, commands) == (200, [command])
    info = told["model_info"]
    assert info["general.basename"] == model
    assert info[f"{info['general.architecture']}.context_length"] == 128_000
    assert {"completion", "tools", "vision"} <= set(told["capabilities"])


def test_an_unknown_model_is_not_shown() -> None:
    status, told, _ = ask("POST", "/api/show", [], body={"model": "Otto"})
    assert (status, told["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_type"),
        (b"{}", "invalid_value"),
        (b'{"model":7}', "invalid_value"),
        (b'{"model":"","name":null}', "invalid_value"),
    ],
)
def test_a_body_that_names_no_model(body: bytes, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        decode_show(body)
    assert (caught.value.status_hint, caught.value.code) == (400, code)
    status, told, commands = ask("POST", "/api/show", body=body)
    assert (status, told["error"]["code"], commands) == (400, code, [])
