"""Text, usage and reasoning through the official SDK, in each of its forms; comments; long texts."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk

from drive import DONE, PING, USAGE, say, server_call, stop, think
from live.asking import FORMS, PAIR, STREAMED, WHOLE, Form, ask, attempt
from server.scripted import Script, hello, runs
from support import matrix

from .asking import HELPERS, HelperForm, helped, post
from .standin import StandInLetta

DETAILED_USAGE = USAGE | {"cached_input_tokens": 10, "cache_write_tokens": 3, "reasoning_tokens": 5}
MAX_LINE_SIZE = 64 * 1024

#: A character of each length in UTF-8, and those that readers of lines take for a line's end.
ALPHABET = "aé猫😀\u2028\u2029\x85\n\r\t\"\\'\u200d👩‍👩‍👧‍👦 "
LONG = ALPHABET * (1_000_000 // len(ALPHABET.encode()) + 1)


def thoughtful() -> Script:
    return runs(PING, think("First "), think("this."), say("Hel"), say("lo"), stop(), DETAILED_USAGE, DONE)


# --- F1


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_text(url: str, letta: StandInLetta, form: Form) -> None:
    agent = letta.add(hello())
    answer = ask(url, form, agent.name, "hi")
    assert (answer.text, answer.finish_reason, answer.model) == ("Hello", "stop", agent.name)
    assert (answer.reasoning, answer.calls) == ("", [])
    assert answer.id.startswith("chatcmpl-")
    assert agent.texts == ["hi"]


@pytest.mark.parametrize("form", matrix(STREAMED, *PAIR))
def test_chunks(url: str, letta: StandInLetta, form: Form) -> None:
    chunks = ask(url, form, letta.add(hello()).name, "hi").chunks
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    deltas = [chunk.choices[0].delta.to_dict() for chunk in chunks]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo"}, {}]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]


@pytest.mark.parametrize("form", matrix(WHOLE, *PAIR))
def test_answers_have_ids_of_their_own(url: str, letta: StandInLetta, form: Form) -> None:
    agent = letta.add(hello(), hello())
    assert ask(url, form, agent.name, "hi").id != ask(url, form, agent.name, "hi").id


@pytest.mark.parametrize("form", matrix(HELPERS, HELPERS[0]))
def test_helper(url: str, letta: StandInLetta, form: HelperForm) -> None:
    got = helped(url, form, letta.add(hello()).name)
    assert "".join(event.delta for event in got.of("content.delta")) == "Hello"
    assert [event.content for event in got.of("content.done")] == ["Hello"]
    assert got.final is not None
    (choice,) = got.final.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "Hello")
    assert choice.finish_reason == "stop"


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_texts_of_several_messages_are_one(url: str, letta: StandInLetta, form: Form) -> None:
    agent = letta.add(runs(PING, say("One."), say("Two.", id="message-2"), stop(), USAGE, DONE))
    assert ask(url, form, agent.name, "hi").text == "One.\n\nTwo."


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_an_agent_that_says_nothing(url: str, letta: StandInLetta, form: Form) -> None:
    answer = ask(url, form, letta.add(runs(PING, stop(), USAGE, DONE)).name, "hi")
    assert (answer.text, answer.finish_reason) == ("", "stop")
    assert [chunk.choices[0].delta.role for chunk in answer.chunks[:1]] in ([], ["assistant"])


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
@pytest.mark.parametrize(
    ("reason", "finish"),
    [("max_steps", "length"), ("max_tokens_exceeded", "length"), ("cancelled", "stop"), ("tool_rule", "stop")],
)
def test_finish_reasons(url: str, letta: StandInLetta, form: Form, reason: str, finish: str) -> None:
    agent = letta.add(runs(PING, say("Hello"), stop(reason), USAGE, DONE))
    answer = ask(url, form, agent.name, "hi")
    assert (answer.text, answer.finish_reason) == ("Hello", finish)


# --- F2


@pytest.mark.parametrize("form", matrix(STREAMED, *PAIR))
def test_usage_in_a_stream(url: str, letta: StandInLetta, form: Form) -> None:
    agent = letta.add(thoughtful(), thoughtful())
    whole = ask(url, "sync", agent.name, "hi").usage
    *others, finish, last = ask(url, form, agent.name, "hi", stream_options={"include_usage": True}).chunks
    assert (last.choices, last.usage) == ([], whole)
    assert finish.choices[0].finish_reason == "stop"
    assert all(
        chunk.usage is None and "usage" in chunk.model_fields_set and chunk.choices
        for chunk in (*others, finish)
    )


@pytest.mark.parametrize("form", matrix(HELPERS, HELPERS[0]))
def test_usage_through_the_helper(url: str, letta: StandInLetta, form: HelperForm) -> None:
    agent = letta.add(thoughtful(), thoughtful())
    whole = ask(url, "sync", agent.name, "hi").usage
    final = helped(url, form, agent.name, stream_options={"include_usage": True}).final
    assert whole is not None
    assert final is not None
    assert final.usage == whole


SEVERAL_STEPS = USAGE | {"prompt_tokens": 300, "total_tokens": 320, "context_tokens": 130, "step_count": 3}


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_usage_of_several_steps_is_the_context_and_the_sum_is_beside_it(
    url: str, letta: StandInLetta, form: Form
) -> None:
    agent = letta.add(runs(PING, say("Hello"), stop(), SEVERAL_STEPS, DONE))
    more: dict[str, Any] = {"stream_options": {"include_usage": True}} if form in STREAMED else {}
    answer = ask(url, form, agent.name, "hi", **more)
    usage = answer.chunks[-1].usage if form in STREAMED else answer.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (110, 20, 130)
    assert usage.to_dict()["letta"] == {
        "prompt_tokens": 300,
        "completion_tokens": 20,
        "total_tokens": 320,
        "step_count": 3,
    }


@pytest.mark.parametrize("form", matrix(WHOLE, *PAIR))
def test_usage_of_a_whole_answer(url: str, letta: StandInLetta, form: Form) -> None:
    usage = ask(url, form, letta.add(thoughtful()).name, "hi").usage
    assert usage is not None
    assert usage.to_dict() == {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }


@pytest.mark.parametrize("form", matrix(STREAMED, *PAIR))
@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}], ids=["unsaid", "empty", "false"])
def test_no_usage_unless_asked(
    url: str, letta: StandInLetta, form: Form, options: dict[str, bool] | None
) -> None:
    chunks = ask(url, form, letta.add(thoughtful()).name, "hi", stream_options=options).chunks
    assert all("usage" not in chunk.model_fields_set and chunk.choices for chunk in chunks)


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_usage_that_letta_does_not_tell(url: str, letta: StandInLetta, form: Form) -> None:
    agent = letta.add(runs(PING, say("Hello"), stop(), DONE))
    options = {"include_usage": True} if form in STREAMED else None
    answer = ask(url, form, agent.name, "hi", stream_options=options)
    assert (answer.text, answer.usage) == ("Hello", None)
    assert all(chunk.choices for chunk in answer.chunks)


# --- F6


def kind(chunk: ChatCompletionChunk) -> str:
    extra = chunk.choices[0].delta.model_extra or {}
    assert set(extra) <= {"reasoning_content"}
    return "reasoning" if extra else "text"


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_reasoning(url: str, letta: StandInLetta, form: Form) -> None:
    answer = ask(url, form, letta.add(thoughtful()).name, "hi")
    assert (answer.reasoning, answer.text) == ("First this.", "Hello")
    kinds = [kind(chunk) for chunk in answer.chunks[1:-1]]
    assert kinds == (["reasoning"] * 2 + ["text"] * 2 if form in STREAMED else [])


@pytest.mark.parametrize("form", matrix(HELPERS, HELPERS[0]))
def test_reasoning_through_the_helper(url: str, letta: StandInLetta, form: HelperForm) -> None:
    final = helped(url, form, letta.add(thoughtful()).name).final
    assert final is not None
    message = final.choices[0].message
    assert message.model_extra is not None
    assert message.model_extra["reasoning_content"] == "First this."
    assert "reasoning" not in message.model_extra
    assert message.content == "Hello"


# --- F10


def commented() -> Script:
    """Comments come wherever Letta pings once it has begun: before the text, within it, and after it."""
    return runs(
        PING, server_call("call-1", "search", "{}"), PING, PING, say("Hel"), PING, say("lo"), PING, stop(),
        USAGE, PING, DONE,
    )  # fmt: skip


@pytest.mark.parametrize("form", matrix(STREAMED, *PAIR))
def test_comments_do_not_show(url: str, letta: StandInLetta, form: Form) -> None:
    answer = ask(url, form, letta.add(commented()).name, "hi")
    assert (answer.text, answer.finish_reason, len(answer.chunks)) == ("Hello", "stop", 4)


@pytest.mark.parametrize("form", matrix(HELPERS, HELPERS[0]))
def test_comments_do_not_show_in_the_helper(url: str, letta: StandInLetta, form: HelperForm) -> None:
    got = helped(url, form, letta.add(commented()).name)
    assert "".join(event.delta for event in got.of("content.delta")) == "Hello"
    assert got.final is not None
    assert got.final.choices[0].finish_reason == "stop"


def test_comments_are_whole_lines_between_chunks(url: str, letta: StandInLetta) -> None:
    events = post(url, letta.add(commented()).name).body.split(b"\n\n")
    marks = ["comment" if event.startswith(b": ") else event[:6].decode() for event in events]
    data = "data: "
    assert marks == [data, "comment", "comment", data, "comment", data, "comment", "comment", data, data, ""]


def test_comments_keep_a_short_timeout_from_running_out(url: str, letta: StandInLetta) -> None:
    pings = (0.25, PING) * 8
    agents = [letta.add(runs(PING, say("Hel"), *pings, say("lo"), stop(), USAGE, DONE)) for _ in STREAMED]

    def wait(form: Form, name: str) -> str:
        return ask(url, form, name, "hi", timeout=1.0).text

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(wait, STREAMED, [agent.name for agent in agents])) == ["Hello"] * len(STREAMED)


# --- F12


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_a_megabyte_in_one_piece(url: str, letta: StandInLetta, form: Form) -> None:
    answer = attempt(url, form, letta.add(runs(PING, say(LONG), stop(), USAGE, DONE)).name, "hi")
    assert answer.error is None
    assert answer.text == LONG
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_a_megabyte_in_many_pieces(url: str, letta: StandInLetta, form: Form) -> None:
    pieces = [LONG[at : at + 777] for at in range(0, len(LONG), 777)]
    agent = letta.add(runs(PING, *map(say, pieces), stop(), USAGE, DONE))
    assert ask(url, form, agent.name, "hi").text == LONG


@pytest.mark.parametrize("form", matrix(HELPERS, HELPERS[0]))
def test_a_megabyte_through_the_helper(url: str, letta: StandInLetta, form: HelperForm) -> None:
    final = helped(url, form, letta.add(runs(PING, say(LONG), stop(), USAGE, DONE)).name).final
    assert final is not None
    assert final.choices[0].message.content == LONG


@pytest.mark.parametrize("said", [say(LONG), think(LONG)], ids=["text", "reasoning"])
def test_no_line_of_a_megabyte_is_long(url: str, letta: StandInLetta, said: dict[str, str]) -> None:
    body = post(url, letta.add(runs(PING, said, stop(), USAGE, DONE)).name).body
    assert len(body) > 1_000_000
    assert max(map(len, body.split(b"\n"))) < MAX_LINE_SIZE


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stop_at", ["</code>", ["Observation:", "</code>"]], ids=["one", "several"])
def test_stop_sequence(url: str, letta: StandInLetta, form: Form, stop_at: object) -> None:
    pieces = ["<code>", "\nx = 1\n<", "/co", "de>\nObser", "vation: 2"]
    agent = letta.add(runs(PING, *map(say, pieces), stop(), USAGE, DONE))
    answer = ask(url, form, agent.name, "hi", stop=stop_at)
    assert (answer.text, answer.finish_reason) == ("<code>\nx = 1\n", "stop")


@pytest.mark.parametrize("form", HELPERS)
def test_stop_sequence_through_the_helper(url: str, letta: StandInLetta, form: HelperForm) -> None:
    agent = letta.add(runs(PING, say("one "), say("E"), say("ND two"), stop(), USAGE, DONE))
    got = helped(url, form, agent.name, stop="END")
    assert got.final is not None
    assert got.final.choices[0].message.content == "one "
    assert [event.delta for event in got.of("content.delta") if event.delta] == ["one "]
