"""Roo Code, which lives in an editor: the requests it sent, in their order, and whether it could go on.

A captured request holds the whole task so far. So it shows those that went before it, too: each ended where
the next assistant message stands. They are sent as they were, but for the agent, and for the ids of calls,
which are those that were given here.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import frozen
from openai.types.chat import ChatCompletionChunk

from live.asking import Answer, Response, fetch
from live.letta_api import Agent, LettaApi
from live.proxy import serving
from live.relay import Cut, relaying
from live.rig import Rig, free_port

CAPTURES: Final = Path(__file__).parents[2] / "fixtures" / "clients" / "roo-code"
FIRST: Final = "chat-turn1"
#: Each task, and the tools its steps call.
TASKS: Final = {
    "chat-turn1": ["attempt_completion"],
    "tool-result-then-environment-details": ["read_file", "attempt_completion"],
    "turn2-inside-tool-result": ["read_file", "attempt_completion", "attempt_completion"],
}
AFTER_AN_ERROR: Final = "retry-after-midstream-error"


@frozen(kw_only=True)
class Captured:
    """One request of Roo Code's."""

    headers: dict[str, str]
    body: dict[str, Any]

    def steps(self) -> Iterator[dict[str, Any]]:
        """The bodies of all requests of the task, this one last."""
        messages = self.body["messages"]
        for number, message in enumerate(messages):
            if message["role"] == "assistant":
                yield {**self.body, "messages": messages[:number]}
        yield self.body

    def send(self, url: str, agent: Agent, body: dict[str, Any], ids: dict[str, str]) -> Response:
        """Send a body to an agent.

        :param ids: of the calls as they were captured, to those that were given here.
        """
        text = json.dumps({**body, "model": agent.name})
        for captured, given in ids.items():
            text = text.replace(captured, given)
        return fetch(url, "POST", "/chat/completions", text.encode(), headers=self.headers)


def read(name: str) -> Captured:
    """Read a capture; later ones have the instructions and the tools of the first."""
    captured = json.loads((CAPTURES / f"{name}.json").read_bytes())
    if name != FIRST:
        first = read(FIRST).body
        assert captured["body"]["messages"][0]["content"] == captured["body"]["tools"] == FIRST
        captured["body"]["messages"][0] = first["messages"][0]
        captured["body"]["tools"] = first["tools"]
    return Captured(headers=captured["headers"], body=captured["body"])


def stream_of(response: Response) -> tuple[Answer, dict[str, Any] | None]:
    """Read a streamed answer, and the error that it may end with."""
    assert response.status == 200, response.body
    assert response.headers["content-type"].startswith("text/event-stream")
    answer = Answer()
    for line in response.body.decode().split("\n"):
        data = line.removeprefix("data: ")
        if data == line or data == "[DONE]":
            continue
        item = json.loads(data)
        if "error" in item:
            return answer, item["error"]
        answer.add_chunk(ChatCompletionChunk.model_validate(item))
    assert response.body.endswith(b"data: [DONE]\n\n")
    return answer, None


def text_of(content: str | list[dict[str, str]]) -> str:
    """Join the parts of a content."""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def called(answer: Answer, tools: list[dict[str, Any]]) -> str:
    """Check that the answer is one that Roo Code carries out; return the id of its call."""
    (call,) = answer.calls
    assert answer.finish_reason == "tool_calls"
    assert answer.usage is not None
    parameters = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}[call.name]
    assert set(json.loads(call.arguments)) <= set(parameters["properties"])
    return call.id


@pytest.mark.parametrize(("name", "names"), TASKS.items(), ids=TASKS.keys())
def test_a_task(url: str, letta: LettaApi, agent: Agent, name: str, names: list[str]) -> None:
    captured = read(name)
    messages = captured.body["messages"]
    ids: dict[str, str] = {}
    steps = list(captured.steps())
    assert len(steps) == len(names)
    for body, wanted in zip(steps, names, strict=True):
        answer, error = stream_of(captured.send(url, agent, body, ids))
        assert error is None
        given = called(answer, captured.body["tools"])
        assert answer.calls[0].name == wanted
        if following := messages[len(body["messages"]) : len(body["messages"]) + 1]:
            (call,) = following[0]["tool_calls"]
            ids[call["id"]] = given
    assert letta.pending_call_ids(agent) == [given]

    # All was told once: what the user said, the state of the editor behind each result, and the results.
    said = [text_of(message["content"]) for message in messages if message["role"] == "user"]
    assert [text_of(content) for content in letta.user_texts(agent)] == said
    results = [
        (ids[message["tool_call_id"]], message["content"]) for message in messages if message["role"] == "tool"
    ]
    assert [(ident, text) for ident, text, _ in letta.tool_returns(agent)] == results
    assert [run["status"] for run in letta.ended_runs(agent)] == ["completed"] * len(steps)


def test_a_connection_to_letta_that_is_lost(rig: Rig, letta: LettaApi, agent: Agent) -> None:
    """In the place where Roo Code met an error and asked again, it now notices nothing: the run is taken up."""
    captured = read(AFTER_AN_ERROR)
    with relaying(rig.url, free_port()) as relay:
        relay.open()
        relay.cut = Cut(after=b'"content":"beta ')
        with serving(relay.url) as proxy:
            answer, error = stream_of(captured.send(proxy.base_url, agent, captured.body, {}))
        assert relay.cut_count == 1
    assert error is None
    assert answer.text == "alpha beta gamma"
    assert answer.finish_reason == "stop"
    said = text_of(captured.body["messages"][-1]["content"])
    assert [text_of(content) for content in letta.user_texts(agent)] == [said]
