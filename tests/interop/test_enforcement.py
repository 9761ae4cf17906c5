"""Validated replies through the real server, as the OpenAI SDK reads them."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pydantic
import pytest
from openai import APIError, APIStatusError

from drive import DONE, PING, USAGE, say, stop, think, want
from live.asking import TOOLS, async_client, sync_client, user
from server.scripted import Script, runs
from support import matrix

from .asking import HELPERS, HelperForm, helped
from .serving import NO_PAUSES, RunningServer, serving
from .standin import StandInLetta

both = pytest.mark.parametrize("is_async", matrix([False, True], False), ids=["sync", "async"])


class City(pydantic.BaseModel):
    name: str
    people: int | None


PARIS = City(name="Paris", people=2_000_000)
JSON = PARIS.model_dump_json()


def said(*messages: dict[str, Any], reason: str = "end_turn") -> Script:
    return runs(PING, *messages, stop(reason), USAGE, DONE)


@pytest.fixture(scope="module")
def checking() -> Iterator[RunningServer]:
    """A server that asks nothing twice after a pause; it checks replies, as every server does."""
    with serving(StandInLetta(), **NO_PAUSES) as running:
        yield running


@pytest.fixture
def server(checking: RunningServer) -> Iterator[RunningServer]:
    """In place of the one that all other tests share."""
    yield checking
    checking.settle()
    checking.letta.reset()


def parse(url: str, model: str, *, is_async: bool, **more: Any) -> Any:
    """`chat.completions.parse()`, with the retries that the SDK does by itself."""
    request: dict[str, Any] = {"model": model, "messages": [user("hi")], "response_format": City, **more}

    async def main() -> Any:
        async with async_client(url, max_retries=2) as client:
            return await client.chat.completions.parse(**request)

    if is_async:
        return asyncio.run(main())
    with sync_client(url, max_retries=2) as client:
        return client.chat.completions.parse(**request)


@both
def test_parse(url: str, letta: StandInLetta, is_async: bool) -> None:
    agent = letta.add(said(think("Hm."), say(f"```json\n{JSON}\n```", id="m-2")))
    (choice,) = parse(url, agent.name, is_async=is_async).choices
    assert choice.message.parsed == PARIS
    assert choice.message.reasoning_content == "Hm."
    (asked,) = agent.requests
    wish, hi = agent.texts
    assert "City" in str(wish)
    assert '"people"' in str(wish)
    assert hi == "hi"
    assert [message.role for message in asked.messages if hasattr(message, "role")] == ["system", "user"]


@both
def test_parse_when_asked_again(url: str, letta: StandInLetta, is_async: bool) -> None:
    agent = letta.add(said(say("Paris, I think.")), said(say(JSON, id="m-2")))
    completion = parse(url, agent.name, is_async=is_async)
    assert completion.choices[0].message.parsed == PARIS
    assert completion.usage.total_tokens == 240
    assert len(agent.requests) == 2


@both
def test_a_reply_that_stays_wrong_is_raised_and_not_repeated(
    url: str, letta: StandInLetta, is_async: bool
) -> None:
    agent = letta.add(said(say("Paris.")), said(say('{"name": 5, "people": null}', id="m-2")))
    with pytest.raises(APIStatusError) as caught:
        parse(url, agent.name, is_async=is_async)
    assert (caught.value.status_code, caught.value.code) == (424, "invalid_reply")
    assert "$.name: 5 is not of type 'string'" in caught.value.message
    assert len(agent.requests) == 2


@both
def test_a_call_is_no_final_reply(url: str, letta: StandInLetta, is_async: bool) -> None:
    agent = letta.add(said(want("call-1", "read_file", '{"path": "a"}'), reason="requires_approval"))
    # The SDK takes no other tools with `parse`.
    tools = [{**tool, "function": {**tool["function"], "strict": True}} for tool in TOOLS]  # type: ignore[dict-item]
    (choice,) = parse(url, agent.name, is_async=is_async, tools=tools).choices
    assert (choice.finish_reason, choice.message.parsed) == ("tool_calls", None)
    assert choice.message.tool_calls[0].function.name == "read_file"


@pytest.mark.parametrize("form", matrix(HELPERS, HELPERS[0]))
def test_stream_helper(url: str, letta: StandInLetta, form: HelperForm) -> None:
    agent = letta.add(said(say("Paris, I think.")), said(think("Oh."), *(say(part, id="m-3") for part in JSON)))
    got = helped(url, form, agent.name, response_format=City)
    assert got.final is not None
    message: Any = got.final.choices[0].message
    assert message.parsed == PARIS
    assert [event.delta for event in got.of("content.delta") if event.delta] == [JSON]


@pytest.mark.parametrize("form", matrix(HELPERS, HELPERS[0]))
def test_stream_helper_of_a_reply_that_stays_wrong(url: str, letta: StandInLetta, form: HelperForm) -> None:
    agent = letta.add(said(say("Paris.")), said(say("It is Paris.", id="m-2")))
    got = helped(url, form, agent.name, response_format=City, max_retries=2)
    assert type(got.error) is APIError
    assert got.error.code == "invalid_reply"
    assert got.snapshot is not None
    assert not got.snapshot.choices[0].message.content
    assert len(agent.requests) == 2


@pytest.mark.parametrize("form", HELPERS)
def test_a_schema_is_told_once(url: str, letta: StandInLetta, form: HelperForm) -> None:
    agent = letta.add(said(say(JSON)), said(say(f"Here it is: {JSON}", id="m-2")))
    for text in ("hi", "and again"):
        got = helped(url, form, agent.name, text, response_format=City)
        assert got.final is not None
        assert got.final.choices[0].message.parsed == PARIS  # type: ignore[attr-defined]
    assert ["people" in str(text) for text in agent.texts] == [True, False, False, False]


NAMED = {"type": "function", "function": {"name": "read_file"}}


@both
def test_a_forced_call(url: str, letta: StandInLetta, is_async: bool) -> None:
    agent = letta.add(
        said(say("I cannot.")),
        said(want("call-1", "read_file", '{"path": "a"}'), reason="requires_approval"),
    )
    request: dict[str, Any] = {
        "model": agent.name,
        "messages": [user("hi")],
        "tools": TOOLS,
        "tool_choice": NAMED,
    }

    async def main() -> Any:
        async with async_client(url) as client:
            return await client.chat.completions.create(**request)

    if is_async:
        completion = asyncio.run(main())
    else:
        with sync_client(url) as client:
            completion = client.chat.completions.create(**request)
    (call,) = completion.choices[0].message.tool_calls
    assert call.function.name == "read_file"
    assert completion.choices[0].message.content is None
    assert [[tool.name for tool in asked.client_tools] for asked in agent.requests] == [["read_file"]] * 2
