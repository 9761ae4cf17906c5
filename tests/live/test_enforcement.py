"""Structured output and forced calls with a real Letta server: requested, validated, and requested again."""

import json
from collections.abc import Iterator
from typing import Any, Final

import pydantic
import pytest
from openai import APIError, APIStatusError

from live.asking import FORMS, PAIR, STREAMED, TOOLS, Form, ask, attempt, fetch, result, sync_client, user
from live.embedded import Embedded, embedding
from live.letta_api import Agent, LettaApi
from live.proxy import SHORT_WAIT, Proxy, serving
from live.relay import Cut, relaying
from live.rig import Rig, free_port
from live.test_tools import quoted_results
from sansio_letta import Config, Enforcement
from sansio_letta.config import Background
from sansio_letta.turn.settlement import NO_RESULT_YET, TAKEN


class Person(pydantic.BaseModel):
    name: str
    age: int


SAM: Final = Person(name="Sam", age=4)
JSON: Final = '{"name": "Sam", "age": 4}'
WISH: Final[dict[str, Any]] = {
    "type": "json_schema",
    "json_schema": {"name": "Person", "schema": Person.model_json_schema(), "strict": True},
}
AT_ONCE: Final = f"think Hm.\nsay ```json\nsay {JSON}\nsay ```"
AGAIN: Final = f"think Hm.\nsay Sam is four.\nagain\nthink Oh.\nsay {JSON}"
NEVER: Final = 'say Sam is four.\nagain\nsay {"name": "Sam", "age": "four"}'


@pytest.fixture(scope="module")
def proxy(rig: Rig) -> Iterator[Proxy]:
    """A proxy that checks replies, in place of the one that most tests share."""
    with serving(rig.url, "--enforcement", "validate", *SHORT_WAIT) as proxy:
        yield proxy


def usage_of(form: Form) -> dict[str, Any]:
    return {"stream_options": {"include_usage": True}} if form in STREAMED else {}


@pytest.mark.parametrize("form", FORMS)
def test_json_at_once(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    answer = ask(url, form, agent.name, AT_ONCE, response_format=WISH, **usage_of(form))
    assert (answer.text, answer.reasoning, answer.finish_reason) == (JSON, "Hm.", "stop")
    assert answer.usage is not None
    assert answer.usage.total_tokens == 120
    assert len(letta.runs(agent)) == 1


@pytest.mark.parametrize("form", FORMS)
def test_json_when_asked_again(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    answer = ask(url, form, agent.name, AGAIN, response_format=WISH, **usage_of(form))
    assert (answer.text, answer.reasoning, answer.finish_reason) == (JSON, "Hm.\n\nOh.", "stop")
    assert answer.usage is not None
    # What Letta counts is the sum of both runs.
    assert (answer.usage.model_extra or {})["letta"]["total_tokens"] == 240
    assert letta.user_texts(agent) == [AGAIN]
    assert letta.assistant_texts(agent) == ["Sam is four.", JSON]
    history = [user(AGAIN), answer.message, user("say And now without.")]
    assert ask(url, form, agent.name, history).text == "And now without."


@pytest.mark.parametrize("form", FORMS)
def test_json_that_never_comes(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    answer = attempt(url, form, agent.name, NEVER, response_format=WISH, max_retries=2)
    assert answer.text == ""
    assert isinstance(answer.error, APIError if form in STREAMED else APIStatusError)
    assert answer.error.code == "invalid_reply"
    assert "$.age: 'four' is not of type 'integer'" in answer.error.message
    assert answer.request_count == 1
    assert len(letta.ended_runs(agent)) == 2
    assert letta.user_texts(agent) == [NEVER]


def test_parse(url: str, agent: Agent) -> None:
    with sync_client(url) as client:
        request: dict[str, Any] = {
            "model": agent.name,
            "messages": [user(AGAIN)],
            "response_format": Person,
        }
        assert client.chat.completions.parse(**request).choices[0].message.parsed == SAM


@pytest.mark.parametrize("form", PAIR)
def test_json_in_a_chat_of_its_own(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    history = [user("Hello."), {"role": "assistant", "content": "Hello to you."}, user(AGAIN)]
    answer = ask(
        url, form, agent.name, history, response_format=WISH, metadata={"letta_chat_key": f"chat-{form}"}
    )
    assert answer.text == JSON
    (conversation,) = letta.conversations(agent)
    assert letta.user_texts(agent, conversation) == ["Hello.", AGAIN]
    assert letta.assistant_texts(agent, conversation) == ["Hello to you.", "Sam is four.", JSON]


@pytest.mark.parametrize("form", PAIR)
def test_a_call_and_then_json(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    text = f'call get_weather {{"city": "Bern"}}\nthen\nsay {JSON}'
    answer = ask(url, form, agent.name, text, tools=TOOLS, response_format=WISH)
    assert answer.finish_reason == "tool_calls"
    history = [user(text), answer.message, result(answer.calls[0], "3 C")]
    answer = ask(url, form, agent.name, history, tools=TOOLS, response_format=WISH)
    assert (answer.text, answer.finish_reason) == (JSON, "stop")
    assert [returned for _, returned, _ in letta.tool_returns(agent)] == ["3 C"]


@pytest.mark.parametrize("form", PAIR)
def test_a_remark_before_the_agents_own_tool_is_left_out(
    url: str, letta: LettaApi, agent: Agent, form: Form
) -> None:
    note = json.dumps({"label": "human", "new_string": "Likes tea."})
    text = f"say Let me note that.\ncall memory_insert {note}\nthen\nsay {JSON}"
    assert ask(url, form, agent.name, text, response_format=WISH).text == JSON
    assert "Likes tea." in letta.memory(agent)


@pytest.mark.parametrize("form", PAIR)
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_forced_call(url: str, letta: LettaApi, agent: Agent, form: Form, choice: object) -> None:
    text = 'say It is sunny.\nagain\nsay Well.\ncall get_weather {"city": "Bern"}'
    answer = ask(url, form, agent.name, text, tools=TOOLS, tool_choice=choice)
    assert (answer.text, answer.finish_reason) == ("Well.", "tool_calls")
    (call,) = answer.calls
    assert (call.name, call.arguments) == ("get_weather", '{"city": "Bern"}')
    history = [user(text), answer.message, result(call, "3 C")]
    assert quoted_results(ask(url, form, agent.name, history, tools=TOOLS).text) == ["3 C"]
    assert letta.user_texts(agent) == [text]


def test_a_call_that_never_comes(url: str, agent: Agent) -> None:
    answer = attempt(url, "sync", agent.name, "say It is sunny.", tools=TOOLS, tool_choice="required")
    assert isinstance(answer.error, APIStatusError)
    assert "no tool was called" in answer.error.message


def test_a_schema_that_is_none(url: str, letta: LettaApi, agent: Agent) -> None:
    schema = {"name": "a", "schema": {"$ref": "http://127.0.0.1/a.json"}}
    body = {
        "model": agent.name,
        "messages": [user("say Hello.")],
        "response_format": {"type": "json_schema", "json_schema": schema},
    }
    error = fetch(url, "POST", "/chat/completions", body).error
    assert error["param"] == "response_format.json_schema.schema"
    assert letta.runs(agent) == []


@pytest.fixture(scope="module", params=[Background.NEVER, Background.ALWAYS], ids=["foreground", "background"])
def lossy(rig: Rig, request: pytest.FixtureRequest) -> Iterator[tuple[Embedded, Any]]:
    """A proxy whose connections to Letta can be cut."""
    config = Config(enforcement=Enforcement.VALIDATE, background=request.param)
    with relaying(rig.url, free_port()) as relay:
        relay.open()
        with embedding(relay.url, config) as embedded:
            yield embedded, relay


@pytest.mark.parametrize("form", PAIR)
@pytest.mark.parametrize("script", [AT_ONCE, AGAIN], ids=["at once", "asked again"])
@pytest.mark.parametrize("after", [b'"message_type":"assistant_message"', b'"stop_reason":"end_turn"'])
def test_held_words_survive_a_lost_connection(
    lossy: tuple[Embedded, Any], letta: LettaApi, agent: Agent, form: Form, script: str, after: bytes
) -> None:
    embedded, relay = lossy
    relay.cut_next(Cut(after=after, reset=True))
    answer = ask(embedded.base_url, form, agent.name, script, response_format=WISH)
    assert relay.cut_count == 1
    relay.cut = None
    assert (answer.text, answer.finish_reason) == (JSON, "stop")
    assert letta.user_texts(agent) == [script]


@pytest.mark.parametrize("form", PAIR)
def test_a_schema_is_told_once(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    history = [user(f"say Here it is: {JSON}")]
    answer = ask(url, form, agent.name, history, response_format=WISH)
    assert answer.text == JSON, "without the words around it"
    history += [answer.message, user(NEVER)]
    answer = attempt(url, form, agent.name, history, response_format=WISH)
    assert answer.error is not None
    history += [user(AGAIN)]
    assert ask(url, form, agent.name, history, response_format=WISH).text == JSON
    told = [text for text in letta.instructions(agent) if "program" in text or "cannot be used" in text]
    assert len(told) == 5
    # In full at first, and where a reference was no help.
    assert ['"properties"' in text for text in told] == [True, False, True, False, True]


@pytest.mark.parametrize("form", PAIR)
@pytest.mark.parametrize("is_forced", [True, False])
def test_a_call_that_the_client_takes_for_the_reply(
    url: str, letta: LettaApi, agent: Agent, form: Form, is_forced: bool
) -> None:
    """Programs that extract data force a call and never send a result; others send it as text."""
    forced: dict[str, Any] = {"tool_choice": "required"} if is_forced else {}
    for city in ("Rome", "Oslo"):
        asked = ask(url, form, agent.name, f'call get_weather {{"city": "{city}"}}', tools=TOOLS, **forced)
        assert [call.arguments for call in asked.calls] == [f'{{"city": "{city}"}}']
    assert ask(url, form, agent.name, "say And now?", tools=TOOLS).text == "And now?"
    returns = [text for _, text, _ in letta.tool_returns(agent)]
    assert returns == [TAKEN if is_forced else NO_RESULT_YET] * 2
    assert "denied" not in json.dumps(letta.history(agent))
    assert [run["status"] for run in letta.ended_runs(agent)] == ["completed"] * 3
