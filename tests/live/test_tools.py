"""The client's tools and the agent's own, round trip, on a real Letta server."""

import asyncio
import json

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionToolParam

from live.asking import (
    FORMS,
    PAIR,
    TOOLS,
    Form,
    Message,
    ask,
    ask_for_calls,
    async_client,
    result,
    sync_client,
    user,
)
from live.letta_api import Agent, LettaApi
from sansio_letta.dialects.chat_completions.decode import decode_request
from sansio_letta.dialects.new_input import build_turn_request
from sansio_letta.turn.settlement import NO_RESULT_YET
from sansio_letta.upstreams.rest.attached_tools import offer_in_request

ROME = '{"city": "Rome", "note": "caf\\u00e9 \\"x\\""}'
OSLO = '{"city":"Oslo","days":[1, 2.50, null]}'
ONE_CALL = f"say Looking.\ncall get_weather {ROME}"
THREE_CALLS = f"call get_weather {ROME}\ncall read_file\ncall get_weather {OSLO}"
NOTE = 'say Noting.\ncall memory_insert {"label": "human", "new_string": "Likes tea."}'
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
OFFERED: list[ChatCompletionToolParam] = [
    {"type": "function", "function": {"name": "get_weather"}},
    {"type": "function", "function": {"name": "read_file"}},
]


def name_beside(tool: Message) -> str:
    """What a client's tool is called at Letta where the agent has one of its name."""
    body = {"model": "x", "messages": [user("x")], "tools": [tool]}
    turn_request = build_turn_request(decode_request(json.dumps(body).encode())).turn_request
    return offer_in_request(turn_request.client_tools, {tool["function"]["name"]})[0].tool.name


def quoted_results(text: str) -> list[str]:
    """Read the results out of the scripted model's answer: Letta hands each over as an object."""
    assert text.startswith("results: ")
    return [json.loads(part)["message"] for part in text.removeprefix("results: ").split(" | ")]


@pytest.mark.parametrize("form", FORMS)
def test_one_call_and_its_result(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    history, asked = ask_for_calls(url, form, agent.name, ONE_CALL)
    assert asked.text == "Looking."
    assert [(made.name, made.arguments) for made in asked.calls] == [("get_weather", ROME)]
    assert [made.id for made in asked.calls] == letta.pending_call_ids(agent)

    history.append(result(asked.calls[0], "18 C, sunny"))
    answer = ask(url, form, agent.name, history, tools=TOOLS)
    assert quoted_results(answer.text) == ["18 C, sunny"]
    assert answer.finish_reason == "stop"
    assert answer.calls == []

    assert letta.user_texts(agent) == [ONE_CALL]
    assert letta.tool_returns(agent) == [(asked.calls[0].id, "18 C, sunny", "success")]
    assert letta.assistant_texts(agent) == ["Looking.", answer.text]
    assert len(letta.runs(agent)) == 2


@pytest.mark.parametrize("form", FORMS)
def test_three_calls_and_their_results(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    history, asked = ask_for_calls(url, form, agent.name, THREE_CALLS)
    names = [(made.name, made.arguments) for made in asked.calls]
    assert names == [("get_weather", ROME), ("read_file", "{}"), ("get_weather", OSLO)]
    assert [made.id for made in asked.calls] == letta.pending_call_ids(agent)
    assert len({made.id for made in asked.calls}) == 3
    assert asked.text == ""

    history += [result(made, f"result {number}") for number, made in reversed(list(enumerate(asked.calls)))]
    answer = ask(url, form, agent.name, history, tools=TOOLS)
    assert sorted(quoted_results(answer.text)) == ["result 0", "result 1", "result 2"]
    assert answer.finish_reason == "stop"

    assert letta.user_texts(agent) == [THREE_CALLS]
    expected = {(made.id, f"result {number}", "success") for number, made in enumerate(asked.calls)}
    assert set(letta.tool_returns(agent)) == expected
    assert len(letta.tool_returns(agent)) == 3
    assert len(letta.runs(agent)) == 2


def check_helper(completion: ChatCompletion, done: list[tuple[str, str]]) -> None:
    calls = completion.choices[0].message.tool_calls or []
    got = [(made.function.name, made.function.arguments) for made in calls if made.type == "function"]
    assert got == done == [("get_weather", ROME), ("read_file", "{}"), ("get_weather", OSLO)]
    assert len({made.id for made in calls}) == 3
    assert completion.choices[0].finish_reason == "tool_calls"


def test_stream_helper(url: str, agent: Agent) -> None:
    with (
        sync_client(url) as client,
        client.chat.completions.stream(
            model=agent.name, messages=[{"role": "user", "content": THREE_CALLS}], tools=OFFERED
        ) as stream,
    ):
        done = [
            (event.name, event.arguments)
            for event in stream
            if event.type == "tool_calls.function.arguments.done"
        ]
        check_helper(stream.get_final_completion(), done)


def test_async_stream_helper(url: str, agent: Agent) -> None:
    async def main() -> None:
        async with (
            async_client(url) as client,
            client.chat.completions.stream(
                model=agent.name, messages=[{"role": "user", "content": THREE_CALLS}], tools=OFFERED
            ) as stream,
        ):
            done = [
                (event.name, event.arguments)
                async for event in stream
                if event.type == "tool_calls.function.arguments.done"
            ]
            check_helper(await stream.get_final_completion(), done)

    asyncio.run(main())


@pytest.mark.parametrize("form", FORMS)
def test_server_tool_is_not_the_clients_business(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    answer = ask(url, form, agent.name, NOTE, tools=TOOLS)
    assert answer.calls == []
    assert answer.finish_reason == "stop"
    first, blank, second = answer.text.partition("\n\n")
    assert (first, blank) == ("Noting.", "\n\n")
    assert "Likes tea." in quoted_results(second)[0]
    assert "Likes tea." in letta.memory(agent)
    if not answer.chunks:
        assert answer.usage is not None
        assert answer.usage.total_tokens == 120  # what the context held in the last step
        assert answer.usage.model_extra is not None
        assert answer.usage.model_extra["letta"]["total_tokens"] == 2 * 120  # of both steps
    assert letta.user_texts(agent) == [NOTE]
    assert len(letta.tool_returns(agent)) == 1


@pytest.mark.parametrize("form", PAIR)
def test_server_and_client_tool_in_one_step(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    history, asked = ask_for_calls(url, form, agent.name, f"{NOTE}\ncall get_weather {ROME}")
    assert [made.name for made in asked.calls] == ["get_weather"]
    answer = ask(url, form, agent.name, [*history, result(asked.calls[0], "18 C")], tools=TOOLS)
    assert answer.calls == []
    assert answer.finish_reason == "stop"
    assert "18 C" in quoted_results(answer.text)
    assert "Likes tea." in letta.memory(agent)
    assert letta.user_texts(agent) == [history[0]["content"]]


@pytest.mark.parametrize("form", PAIR)
def test_an_error_as_result(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    history, asked = ask_for_calls(url, form, agent.name, ONE_CALL)
    text = "Error: no city of that name"
    answer = ask(url, form, agent.name, [*history, result(asked.calls[0], text)], tools=TOOLS)
    assert quoted_results(answer.text) == [text]
    assert [(ident, said) for ident, said, _ in letta.tool_returns(agent)] == [(asked.calls[0].id, text)]


@pytest.mark.parametrize("form", PAIR)
@pytest.mark.parametrize("script", [ONE_CALL, THREE_CALLS], ids=["one call", "three calls"])
def test_a_user_message_instead_of_results(
    url: str, letta: LettaApi, agent: Agent, form: Form, script: str
) -> None:
    history, asked = ask_for_calls(url, form, agent.name, script)
    history.append(user("say Never mind."))
    answer = ask(url, form, agent.name, history, tools=TOOLS)
    assert answer.text == "Never mind."
    assert answer.finish_reason == "stop"
    assert letta.pending_call_ids(agent) == []

    history += [answer.message, user("say Still here.")]
    assert ask(url, form, agent.name, history, tools=TOOLS).text == "Still here."
    assert letta.user_texts(agent) == [script, "say Never mind.", "say Still here."]
    returned = letta.tool_returns(agent)
    assert returned == [(made.id, NO_RESULT_YET, "success") for made in asked.calls]


@pytest.mark.parametrize("form", PAIR)
@pytest.mark.parametrize("script", [ONE_CALL, THREE_CALLS], ids=["one call", "three calls"])
def test_a_new_chat_while_calls_are_pending(
    url: str, letta: LettaApi, agent: Agent, form: Form, script: str
) -> None:
    """Another client knows nothing of the calls, and offers no tools: it is answered all the same."""
    _, asked = ask_for_calls(url, form, agent.name, script)
    answer = ask(url, form, agent.name, "say Hello from elsewhere.")
    assert (answer.text, answer.finish_reason) == ("Hello from elsewhere.", "stop")
    assert letta.pending_call_ids(agent) == []
    assert letta.user_texts(agent) == [script, "say Hello from elsewhere."]
    returned = letta.tool_returns(agent)
    assert returned == [(made.id, NO_RESULT_YET, "success") for made in asked.calls]


@pytest.mark.parametrize("form", PAIR)
def test_results_and_a_user_message(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    history, asked = ask_for_calls(url, form, agent.name, ONE_CALL)
    history += [result(asked.calls[0], "18 C"), user("say Thanks.")]
    assert ask(url, form, agent.name, history, tools=TOOLS).text == "Thanks."
    assert letta.user_texts(agent) == [ONE_CALL, "say Thanks."]
    assert letta.tool_returns(agent) == [(asked.calls[0].id, "18 C", "success")]


@pytest.mark.parametrize("form", PAIR)
def test_a_result_of_three_is_missing_or_more(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    history, asked = ask_for_calls(url, form, agent.name, THREE_CALLS)
    history.append(result(asked.calls[1], "the file"))
    answer = ask(url, form, agent.name, history, tools=TOOLS)
    assert "the file" in quoted_results(answer.text)
    assert answer.finish_reason == "stop"
    assert letta.pending_call_ids(agent) == []
    returned = {ident: (text, status) for ident, text, status in letta.tool_returns(agent)}
    assert len(letta.tool_returns(agent)) == len(returned) == 3
    assert returned[asked.calls[1].id] == ("the file", "success")
    assert [returned[asked.calls[number].id][1] for number in (0, 2)] == ["error", "error"]
    assert ask(url, form, agent.name, [*history, answer.message, user("say On.")]).text == "On."


@pytest.mark.parametrize("form", PAIR)
def test_results_sent_again_are_not_kept_twice(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    history, asked = ask_for_calls(url, form, agent.name, ONE_CALL)
    history.append(result(asked.calls[0], "18 C"))
    first = ask(url, form, agent.name, history, tools=TOOLS)
    again = [*history, first.message, user("say A."), {"role": "assistant", "content": "A."}]
    again += [result(asked.calls[0], "18 C"), user("say B.")]
    assert ask(url, form, agent.name, again, tools=TOOLS).text == "B."
    assert letta.tool_returns(agent) == [(asked.calls[0].id, "18 C", "success")]


@pytest.mark.parametrize("form", FORMS)
def test_three_calls_one_at_a_time(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    history: list[Message] = [user(THREE_CALLS)]
    made = []
    for number in range(3):
        answer = ask(url, form, agent.name, history, tools=TOOLS, parallel_tool_calls=False)
        assert (answer.finish_reason, len(answer.calls)) == ("tool_calls", 1)
        made += answer.calls
        history += [answer.message, result(answer.calls[0], f"result {number}")]
    pending = letta.pending_call_ids(agent)
    assert [call.id for call in made] == pending
    assert [(call.name, call.arguments) for call in made] == [
        ("get_weather", ROME),
        ("read_file", "{}"),
        ("get_weather", OSLO),
    ]
    answer = ask(url, form, agent.name, history, tools=TOOLS, parallel_tool_calls=False)
    assert quoted_results(answer.text) == ["result 0", "result 1", "result 2"]
    assert answer.finish_reason == "stop"
    assert letta.user_texts(agent) == [THREE_CALLS]
    assert [status for _, _, status in letta.tool_returns(agent)] == ["success"] * 3
    assert len(letta.runs(agent)) == 2


@pytest.mark.parametrize("form", PAIR)
def test_a_message_ends_calls_that_come_one_at_a_time(
    url: str, letta: LettaApi, agent: Agent, form: Form
) -> None:
    history: list[Message] = [user(THREE_CALLS)]
    chat = {"letta_chat_key": "one by one"}
    for number in range(2):
        answer = ask(url, form, agent.name, history, tools=TOOLS, parallel_tool_calls=False, metadata=chat)
        history += [answer.message, result(answer.calls[0], f"result {number}")]
    history[-1] = user("say Stopped.")
    answer = ask(url, form, agent.name, history, tools=TOOLS, parallel_tool_calls=False, metadata=chat)
    assert (answer.text, answer.finish_reason) == ("Stopped.", "stop")
    (conversation,) = letta.conversations(agent)
    assert letta.user_texts(agent, conversation) == [THREE_CALLS, "say Stopped."]
    returned = [text for _, text, _ in letta.tool_returns(agent, conversation)]
    assert (len(returned), returned.count("result 0")) == (3, 1)
    assert letta.pending_call_ids(agent, conversation) == []


@pytest.mark.parametrize("form", PAIR)
def test_a_tool_named_as_one_of_the_agents_own(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    """The client's is offered under another name, and the agent's own goes on writing to its memory."""
    mine = {"type": "function", "function": {"name": "memory_insert", "parameters": {"type": "object"}}}
    history = [user(f"call {name_beside(mine)} {{}}")]
    asked = ask(url, form, agent.name, history, tools=[mine, *TOOLS])
    assert [call.name for call in asked.calls] == ["memory_insert"]
    history += [asked.message, result(asked.calls[0], "the client's own")]
    assert quoted_results(ask(url, form, agent.name, history, tools=[mine]).text) == ["the client's own"]
    note = json.dumps({"label": "human", "new_string": "Likes tea."})
    answer = ask(url, form, agent.name, f"call memory_insert {note}\nthen\nsay Noted.", tools=[mine])
    assert (answer.text, answer.calls) == ("Noted.", [])
    assert "Likes tea." in letta.memory(agent)


@pytest.mark.parametrize("form", PAIR)
def test_a_result_with_a_picture(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    """Letta keeps it; this model's provider is given a note in its place."""
    history, asked = ask_for_calls(url, form, agent.name, ONE_CALL)
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    audio = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    shot = result(asked.calls[0], "") | {"content": [{"type": "text", "text": "A dot:"}, picture, audio]}
    answer = ask(url, form, agent.name, [*history, shot], tools=TOOLS)
    assert "A dot:" in answer.text
    (kept,) = [
        returned["tool_return"]
        for item in letta.history(agent)
        if item["message_type"] == "tool_return_message"
        for returned in item["tool_returns"]
    ]
    assert [part["type"] for part in kept] == ["text", "image", "text"]
    assert kept[1]["source"]["data"] == PNG
    assert kept[2]["text"] == "[audio]"
