"""Text, reasoning and usage of a real agent, through the official openai SDK."""

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI
from openai.types.chat import ChatCompletion

from live.asking import (
    FORMS,
    PAIR,
    STREAMED,
    TOOLS,
    WHOLE,
    Answer,
    Form,
    ask,
    async_client,
    attempt,
    fetch,
    sync_client,
    user,
)
from live.conftest import MakeAgent
from live.letta_api import Agent, LettaApi
from sansio_letta import Signal
from sansio_letta.upstreams.rest.reader import MessageReader

GREETING = "Good morning, Sam. It is 7:30."
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
THOUGHT = "He asks for the time of day."
SCRIPT = f"think {THOUGHT}\nsay {GREETING}"
MAX_LINE_SIZE = 64 * 1024  # bytes: line readers of clients fail beyond it


@pytest.mark.parametrize("form", FORMS)
def test_text(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    answer = ask(url, form, agent.name, f"say {GREETING}")
    assert answer.text == GREETING
    assert answer.finish_reason == "stop"
    assert answer.model == agent.name
    assert answer.reasoning == ""
    assert answer.calls == []
    assert letta.user_texts(agent) == [f"say {GREETING}"]
    assert letta.assistant_texts(agent) == [GREETING]


@pytest.mark.parametrize("form", PAIR)
def test_only_what_is_new_is_sent(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    first = ask(url, form, agent.name, "say One.")
    history = [user("say One."), first.message, user("say Two.")]
    second = ask(url, form, agent.name, history)
    third = ask(url, form, agent.name, [*history, second.message, user("say Three."), user("say Four.")])
    assert (second.text, third.text) == ("Two.", "Four.")
    assert letta.user_texts(agent) == ["say One.", "say Two.", "say Three.", "say Four."]


def test_letta_repeats_all_but_the_text(letta: LettaApi, agent: Agent) -> None:
    # The short way of a text lives by it. Nothing would break without, but all would cost more.
    body = {"messages": [{"role": "user", "content": f"say {GREETING}"}], "stream_tokens": True}
    target, reader, passed = (
        f"{letta.url}/v1/agents/{agent.id}/messages/stream",
        MessageReader(100_000),
        list[str](),
    )
    with httpx.stream("POST", target, json=body, timeout=60.0, trust_env=False) as response:
        for line in response.iter_lines():
            if line:
                data = f"{line}\n\n".encode()
                texts = reader.read_texts(data)
                passed += texts
                if not texts:
                    reader.receive_data(data)
                    while not isinstance(reader.next_message(), Signal):
                        pass
    assert len(passed) > 3
    assert GREETING.endswith("".join(passed))
    assert len(GREETING.removesuffix("".join(passed)).split()) == 1


def test_system_message_does_not_hinder(url: str, agent: Agent) -> None:
    instructions = {"role": "system", "content": "You are a pirate."}
    assert ask(url, "sync-stream", agent.name, [instructions, user("say Ahoy.")]).text == "Ahoy."
    again = [instructions, user("say Ahoy."), {"role": "assistant", "content": "Ahoy."}, user("say Aye.")]
    assert ask(url, "sync-stream", agent.name, again).text == "Aye."


@pytest.mark.parametrize("form", PAIR)
def test_parts(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}}
    parts = [{"type": "text", "text": "Look at this."}, image, {"type": "text", "text": "say Green."}]
    assert ask(url, form, agent.name, [{"role": "user", "content": parts}]).text == "Green."
    (kept,) = letta.user_texts(agent)
    assert [part["type"] for part in kept] == ["text", "image", "text"]


@pytest.mark.parametrize("form", PAIR)
def test_an_image_that_cannot_be_fetched(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://nowhere.invalid/a.png"}}
    parts = [{"type": "text", "text": "say Green."}, image]
    answer = attempt(url, form, agent.name, [{"role": "user", "content": parts}], max_retries=2)
    assert type(answer.error) is BadRequestError
    assert answer.error.message.count("INVALID_ARGUMENT") == 1
    assert "Failed to fetch image from https://nowhere.invalid/a.png" in answer.error.message
    assert answer.request_count == 1
    assert letta.user_texts(agent) == []
    assert ask(url, form, agent.name, "say Hello.").text == "Hello."


@pytest.mark.parametrize("form", STREAMED)
def test_chunks(url: str, agent: Agent, form: Form) -> None:
    chunks = ask(url, form, agent.name, SCRIPT).chunks
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert all(len(chunk.choices) == 1 for chunk in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content == ""
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:])
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len(chunks) > 10  # several words each: they come as the model says them


@pytest.mark.parametrize("form", FORMS)
def test_reasoning(url: str, agent: Agent, form: Form) -> None:
    answer = ask(url, form, agent.name, SCRIPT)
    assert answer.reasoning == THOUGHT
    assert answer.text == GREETING
    kinds = [
        "reasoning" if "reasoning_content" in chunk.choices[0].delta.model_fields_set else "text"
        for chunk in answer.chunks[1:-1]
    ]
    assert kinds == sorted(kinds)  # all of the reasoning before all of the text
    assert all("reasoning" not in chunk.choices[0].delta.model_fields_set for chunk in answer.chunks)


@pytest.mark.parametrize("form", WHOLE)
def test_usage_of_a_whole_answer(url: str, agent: Agent, form: Form) -> None:
    usage = ask(url, form, agent.name, SCRIPT).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (100, 20, 120)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 10
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 5


@pytest.mark.parametrize("form", STREAMED)
def test_usage_in_a_stream(url: str, agent: Agent, form: Form) -> None:
    whole = ask(url, "sync", agent.name, SCRIPT).usage
    answer = ask(url, form, agent.name, SCRIPT, stream_options={"include_usage": True})
    *others, last = answer.chunks
    assert last.choices == []
    assert last.usage == whole
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in others)
    assert others[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("form", STREAMED)
@pytest.mark.parametrize("options", [None, {"include_usage": False}], ids=["unsaid", "false"])
def test_no_usage_unless_asked(url: str, agent: Agent, form: Form, options: dict[str, bool] | None) -> None:
    answer = ask(url, form, agent.name, SCRIPT, stream_options=options)
    assert all("usage" not in chunk.model_fields_set for chunk in answer.chunks)
    assert all(chunk.choices for chunk in answer.chunks)


def check_final(completion: ChatCompletion) -> None:
    message = completion.choices[0].message
    assert message.role == "assistant"
    assert message.content == GREETING
    assert (message.model_extra or {})["reasoning_content"] == THOUGHT
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.total_tokens == 120


def test_stream_helper(url: str, agent: Agent) -> None:
    def final(client: OpenAI) -> ChatCompletion:
        with client.chat.completions.stream(
            model=agent.name,
            messages=[{"role": "user", "content": SCRIPT}],
            stream_options={"include_usage": True},
        ) as stream:
            events = list(stream)
            assert "".join(event.delta for event in events if event.type == "content.delta") == GREETING
            assert [event.content for event in events if event.type == "content.done"] == [GREETING]
            return stream.get_final_completion()

    with sync_client(url) as client:
        check_final(final(client))


def test_async_stream_helper(url: str, agent: Agent) -> None:
    async def final(client: AsyncOpenAI) -> ChatCompletion:
        async with client.chat.completions.stream(
            model=agent.name,
            messages=[{"role": "user", "content": SCRIPT}],
            stream_options={"include_usage": True},
        ) as stream:
            events = [event async for event in stream]
            assert "".join(event.delta for event in events if event.type == "content.delta") == GREETING
            assert [event.content for event in events if event.type == "content.done"] == [GREETING]
            return await stream.get_final_completion()

    async def main() -> ChatCompletion:
        async with async_client(url) as client:
            return await final(client)

    check_final(asyncio.run(main()))


def test_bytes_of_a_stream(url: str, agent: Agent) -> None:
    body = {"model": agent.name, "messages": [user(SCRIPT)], "stream": True}
    response = fetch(url, "POST", "/chat/completions", body)
    assert response.status == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.headers["x-request-id"]
    *events, end = response.body.split(b"\n\n")
    assert end == b""
    assert events[-1] == b"data: [DONE]"
    for event in events[:-1]:
        if not event.startswith(b":"):
            assert event.startswith(b"data: {")
            json.loads(event.removeprefix(b"data: "))


@pytest.mark.parametrize("form", PAIR)
@pytest.mark.parametrize(
    ("count", "piece"),
    [(256, "é😀\u2028" * 450), (8, "Größe 😀 \\n\u2028" * 10_000)],
    ids=["many fragments", "long fragments"],
)
def test_a_megabyte(url: str, agent: Agent, form: Form, count: int, piece: str) -> None:
    expected = piece * count
    assert len(expected.encode()) > 1_000_000
    answer = ask(url, form, agent.name, f"repeat {count} {piece}")
    assert answer.text == expected
    assert answer.finish_reason == "stop"


def test_lines_of_a_long_stream_are_short(url: str, agent: Agent) -> None:
    body = {"model": agent.name, "messages": [user("repeat 2 " + '"😀\u2028' * 40_000)], "stream": True}
    response = fetch(url, "POST", "/chat/completions", body)
    assert len(response.body) > 400_000
    assert max(len(line) for line in re.split(rb"[\r\n]", response.body)) < MAX_LINE_SIZE


def test_a_pause_longer_than_the_clients_timeout(url: str, make_agent: MakeAgent) -> None:
    def wait(form: Form) -> Answer:
        return ask(url, form, make_agent(f"pause-{form}").name, "slow 24\nsay Late.", timeout=18.0)

    with ThreadPoolExecutor() as pool:  # both at once, for they take their time
        answers = list(pool.map(wait, STREAMED))
    assert [(answer.text, answer.finish_reason) for answer in answers] == [("Late.", "stop")] * 2


CODE = "think </code>\nsay <code>\nsay print(6 * 7)\nsay </code>\nsay Observation: 41"


@pytest.mark.parametrize("form", FORMS)
def test_the_text_ends_before_a_stop_sequence(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    answer = ask(url, form, agent.name, CODE, stop=["Observation:", "</code>"])
    assert (answer.text, answer.finish_reason) == ("<code>\nprint(6 * 7)\n", "stop")
    assert answer.reasoning == "</code>"
    assert letta.assistant_texts(agent) == ["<code>\nprint(6 * 7)\n</code>\nObservation: 41"]
    history = [user(CODE), answer.message, user("say The agent is free.")]
    assert ask(url, form, agent.name, history, stop=["</code>"]).text == "The agent is free."


@pytest.mark.parametrize("form", PAIR)
def test_a_call_behind_a_stop_sequence_leaves_the_agent_free(
    url: str, letta: LettaApi, agent: Agent, form: Form
) -> None:
    script = 'say one END two\ncall get_weather {"city": "Bern"}'
    answer = ask(url, form, agent.name, script, tools=TOOLS, stop="END")
    assert (answer.text, answer.calls, answer.finish_reason) == ("one ", [], "stop")
    assert len(letta.pending_call_ids(agent)) == 1
    history = [user(script), answer.message, user("say Go on.")]
    assert ask(url, form, agent.name, history, tools=TOOLS, stop="END").text == "Go on."
    assert letta.pending_call_ids(agent) == []
