"""The events of a turn as the body of a response: a stream of chunks, or one completion."""

from typing import Any

import orjson
import pytest
from attrs import evolve
from hypothesis import example, given
from hypothesis import strategies as st

from sansio_letta.config import Config, ReasoningField, UsageCount
from sansio_letta.dialects.chat_completions import objects as chat
from sansio_letta.dialects.chat_completions.writer import (
    ChunkWriter,
    CompletionWriter,
    Heading,
    encode_stream_error,
    encode_usage,
    fragments,
    make_writer,
)
from sansio_letta.errors import Kept, LettaError, RequestError
from sansio_letta.turn.agent import Agent
from sansio_letta.turn.events import (
    AgentFound,
    AgentGone,
    CallArguments,
    CallsSettled,
    CallStarted,
    Event,
    FinishReason,
    KeepAlive,
    ReasoningDelta,
    TextDelta,
    TurnFailed,
    TurnFinished,
    TurnStarted,
    Usage,
)

HEADING = Heading(completion_id="chatcmpl-1", created=1795332551, model="Milo")
CHUNK: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1795332551,
    "model": "Milo",
}
USAGE = Usage(prompt_tokens=100, completion_tokens=20, total_tokens=120)
COUNTS = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
FAILED = TurnFailed(error=LettaError("The model failed."), kept=Kept.NOTHING)
FAILURE = {
    "error": {"message": "The model failed.", "type": "server_error", "param": None, "code": "upstream_error"}
}

#: Events that are for the log, or for whoever remembers agents.
SILENT: dict[str, Event] = {
    "AgentFound": AgentFound(model="Milo", agent=Agent(id="agent-1", name="Milo", agent_type="x")),
    "AgentGone": AgentGone(agent_id="agent-1"),
    "CallsSettled": CallsSettled(stale=("call-1",)),
}


def finished(reason: FinishReason = FinishReason.STOP, usage: Usage | None = USAGE) -> TurnFinished:
    return TurnFinished(reason=reason, usage=usage)


def written(writer: ChunkWriter | CompletionWriter, *events: Event) -> bytes:
    return b"".join(writer.write(event) for event in events)


def items(body: bytes) -> list[Any]:
    """The events of a body: JSON, or the bytes themselves where they are none."""
    assert body.endswith(b"\n\n")
    lines = body.removesuffix(b"\n\n").split(b"\n\n")
    return [orjson.loads(line[6:]) if line.startswith(b"data: {") else line for line in lines]


def choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {**CHUNK, "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def call(index: int, **fields: Any) -> dict[str, Any]:
    return choice({"tool_calls": [{"index": index, **fields}]})


# --- Chunks ---------------------------------------------------------------------------------------------------

ROLE = choice({"role": "assistant", "content": ""})

STREAMS: dict[str, tuple[list[Event], list[dict[str, Any]], str]] = {
    "text": (
        [TextDelta(text="Hel"), TextDelta(text="lo")],
        [choice({"content": "Hel"}), choice({"content": "lo"})],
        "stop",
    ),
    "reasoning, then text": (
        [ReasoningDelta(text="Hm."), TextDelta(text="Hi")],
        [choice({"reasoning_content": "Hm."}), choice({"content": "Hi"})],
        "stop",
    ),
    "cut off": ([TextDelta(text="Hel")], [choice({"content": "Hel"})], "length"),
    "nothing": ([], [], "stop"),
    "one call": (
        [
            CallStarted(index=0, call_id="call-1", name="f"),
            CallArguments(index=0, fragment='{"a'),
            CallArguments(index=0, fragment='":1}'),
        ],
        [
            call(0, id="call-1", type="function", function={"name": "f", "arguments": ""}),
            call(0, function={"arguments": '{"a'}),
            call(0, function={"arguments": '":1}'}),
        ],
        "tool_calls",
    ),
    "text and two calls at once": (
        [
            TextDelta(text="Let me see."),
            CallStarted(index=0, call_id="call-1", name="f"),
            CallStarted(index=1, call_id="call-2", name="g"),
            CallArguments(index=1, fragment="{}"),
            CallArguments(index=0, fragment="{}"),
        ],
        [
            choice({"content": "Let me see."}),
            call(0, id="call-1", type="function", function={"name": "f", "arguments": ""}),
            call(1, id="call-2", type="function", function={"name": "g", "arguments": ""}),
            call(1, function={"arguments": "{}"}),
            call(0, function={"arguments": "{}"}),
        ],
        "tool_calls",
    ),
}


@pytest.mark.parametrize(("events", "chunks", "reason"), STREAMS.values(), ids=STREAMS)
def test_a_turn_becomes_chunks(events: list[Event], chunks: list[dict[str, Any]], reason: str) -> None:
    body = written(ChunkWriter(HEADING), TurnStarted(), *events, finished(FinishReason(reason)))
    assert items(body) == [ROLE, *chunks, choice({}, reason), b"data: [DONE]"]


@pytest.mark.parametrize(("events", "chunks", "reason"), STREAMS.values(), ids=STREAMS)
def test_usage_is_null_until_the_last_chunk_if_it_was_asked_for(
    events: list[Event], chunks: list[dict[str, Any]], reason: str
) -> None:
    writer = ChunkWriter(HEADING, include_usage=True)
    body = written(writer, TurnStarted(), *events, finished(FinishReason(reason)))
    expected: list[Any] = [{**chunk, "usage": None} for chunk in [ROLE, *chunks, choice({}, reason)]]
    assert items(body) == [*expected, {**CHUNK, "choices": [], "usage": COUNTS}, b"data: [DONE]"]


def test_usage_that_letta_did_not_tell_has_no_chunk() -> None:
    body = written(ChunkWriter(HEADING, include_usage=True), finished(usage=None))
    last: dict[str, Any] = {**choice({}, "stop"), "usage": None}
    assert items(body) == [last, b"data: [DONE]"]


REASONING: dict[ReasoningField, list[dict[str, Any]]] = {
    ReasoningField.REASONING_CONTENT: [choice({"reasoning_content": "Hm."})],
    ReasoningField.REASONING: [choice({"reasoning": "Hm."})],
    ReasoningField.OFF: [],
}


@pytest.mark.parametrize(("reasoning_field", "chunks"), REASONING.items(), ids=lambda value: str(value))
def test_reasoning_goes_where_the_config_says(
    reasoning_field: ReasoningField, chunks: list[dict[str, Any]]
) -> None:
    writer = ChunkWriter(HEADING, reasoning_field=reasoning_field)
    body = written(writer, ReasoningDelta(text="Hm."), TextDelta(text="Hi"))
    assert items(body) == [*chunks, choice({"content": "Hi"})]


@pytest.mark.parametrize("model", ["{}", '"delta":{}', "Ä\u2028\\", ""])
def test_every_chunk_names_the_model_as_it_was_asked_for(model: str) -> None:
    writer = ChunkWriter(Heading(completion_id="chatcmpl-1", created=0, model=model), include_usage=True)
    body = written(writer, TurnStarted(), TextDelta(text="{}"), ReasoningDelta(text=model), finished())
    assert [item["model"] for item in items(body)[:-1]] == [model] * 5


def test_a_failure_in_the_stream_is_an_error_event_without_done() -> None:
    body = written(ChunkWriter(HEADING), TurnStarted(), TextDelta(text="Hel"), FAILED)
    assert items(body) == [ROLE, choice({"content": "Hel"}), FAILURE]


def test_an_error_event_carries_the_error_s_fields() -> None:
    error = RequestError("Not so.", param="tools", code="unsupported_parameter")
    assert encode_stream_error(error) == (
        b'data: {"error":{"message":"Not so.","type":"invalid_request_error","param":"tools",'
        b'"code":"unsupported_parameter"}}\n\n'
    )


def test_a_ping_is_passed_on_as_a_comment() -> None:
    assert ChunkWriter(HEADING).write(KeepAlive()) == b": keepalive\n\n"


@pytest.mark.parametrize("event", SILENT.values(), ids=SILENT)
def test_some_events_are_not_for_the_client(event: Event) -> None:
    assert ChunkWriter(HEADING, include_usage=True).write(event) == b""
    assert CompletionWriter(HEADING).write(event) == b""


@pytest.mark.parametrize("event", [KeepAlive(), FAILED], ids=["a comment", "an error"])
def test_comments_and_errors_are_no_chunks(event: Event) -> None:
    assert ChunkWriter(HEADING).deltas(event) == []


# --- Fragments ------------------------------------------------------------------------------------------------

LONG = 'He said: "ä\u2028😀\0\\"\n' * 40


@pytest.mark.parametrize(
    ("event", "path"),
    [
        (TextDelta(text=LONG), ["content"]),
        (ReasoningDelta(text=LONG), ["reasoning_content"]),
        (CallArguments(index=3, fragment=LONG), ["tool_calls", 0, "function", "arguments"]),
    ],
    ids=["text", "reasoning", "arguments"],
)
def test_a_long_fragment_is_split_and_nothing_is_lost(event: Event, path: list[str | int]) -> None:
    chunks = items(ChunkWriter(HEADING, max_fragment_size=100).write(event))
    pieces = []
    for chunk in chunks:
        piece = chunk["choices"][0]["delta"]
        for step in path:
            piece = piece[step]
        pieces.append(piece)
    assert len(pieces) > 5
    assert "".join(pieces) == LONG
    assert all(len(orjson.dumps(piece)) <= 100 for piece in pieces)


#: All that ends a line to `str.splitlines`.
LINE_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


@pytest.mark.parametrize("text", [f"a{end}b" for end in LINE_ENDS] + [LINE_ENDS, "ä" + LINE_ENDS], ids=ascii)
def test_no_reader_of_lines_finds_one_within_a_chunk(text: str) -> None:
    heading = Heading(completion_id=f"c{text}", created=1, model=text)
    writer = ChunkWriter(heading, include_usage=True, max_fragment_size=100)
    error = RequestError(text, code="invalid_value")
    call = (CallStarted(index=0, call_id=text, name=text), CallArguments(index=0, fragment=text))
    for event in (
        TurnStarted(),
        TextDelta(text=text),
        TextDelta(text=text * 200),
        ReasoningDelta(text=text),
        *call,
        TurnFailed(error=error, kept=Kept.NOTHING),
        TurnFinished(reason=FinishReason.STOP, usage=USAGE),
    ):
        body = writer.write(event)
        assert body.decode().splitlines() == body.decode().split("\n")[:-1]
    frame = len(writer.write(TextDelta(text="")))
    long = ChunkWriter(heading, max_fragment_size=100).write(TextDelta(text=text * 200))
    assert max(map(len, long.split(b"\n"))) <= frame + 100, "an escape counts towards a fragment's size"
    assert orjson.loads(writer.write(TextDelta(text=text))[6:])["choices"][0]["delta"]["content"] == text
    assert writer.write_status(text, done=True).decode().count("\n") == 2
    assert len(writer.write_status(text, done=True).decode().splitlines()) == 2


def test_no_line_of_the_stream_is_too_long_for_a_reader_of_64_kb() -> None:
    body = ChunkWriter(HEADING).write(TextDelta(text="\0" * 500_000))
    assert max(map(len, body.split(b"\n"))) < 64 * 1024
    assert "".join(item["choices"][0]["delta"]["content"] for item in items(body)) == "\0" * 500_000


@given(st.text() | st.text('\0\x1f"\\', max_size=60), st.integers(64, 200))
@example("\0" * 11, 66)
def test_fragments_join_to_the_text_and_fit(text: str, max_size: int) -> None:
    pieces = list(fragments(text, max_size))
    assert "".join(pieces) == text
    assert all(len(orjson.dumps(piece)) <= max_size for piece in pieces)


@given(st.text(max_size=9))
def test_a_short_text_stays_whole(text: str) -> None:
    assert list(fragments(text, 64)) == [text]


def test_one_character_is_never_split() -> None:
    assert list(fragments("\0\0", 1)) == ["\0", "\0"]


# --- Usage ----------------------------------------------------------------------------------------------------

USAGES: dict[str, tuple[Usage, chat.Usage]] = {
    "sums": (USAGE, chat.Usage(prompt_tokens=100, completion_tokens=20, total_tokens=120)),
    "nothing known": (Usage(), chat.Usage()),
    "no total": (
        Usage(prompt_tokens=100, completion_tokens=20),
        chat.Usage(prompt_tokens=100, completion_tokens=20, total_tokens=120),
    ),
    "Letta's total counts": (
        Usage(prompt_tokens=1, total_tokens=7),
        chat.Usage(prompt_tokens=1, total_tokens=7),
    ),
    "details": (
        Usage(cached_input_tokens=10, cache_write_tokens=3, reasoning_tokens=5),
        chat.Usage(
            prompt_tokens_details=chat.PromptTokensDetails(cached_tokens=10, cache_write_tokens=3),
            completion_tokens_details=chat.CompletionTokensDetails(reasoning_tokens=5),
        ),
    ),
    "a zero is known": (
        Usage(cache_write_tokens=0, reasoning_tokens=0),
        chat.Usage(
            prompt_tokens_details=chat.PromptTokensDetails(cache_write_tokens=0),
            completion_tokens_details=chat.CompletionTokensDetails(reasoning_tokens=0),
        ),
    ),
}


THREE_STEPS = Usage(
    prompt_tokens=30_000,
    completion_tokens=300,
    total_tokens=30_300,
    cached_input_tokens=20_000,
    cache_write_tokens=900,
    reasoning_tokens=50,
    context_tokens=10_500,
    step_count=3,
)
SUMS = chat.LettaUsage(prompt_tokens=30_000, completion_tokens=300, total_tokens=30_300, step_count=3)
REASONED = chat.CompletionTokensDetails(reasoning_tokens=50)
CONTEXTS: dict[str, tuple[Usage, chat.Usage]] = {
    "several steps": (
        THREE_STEPS,
        chat.Usage(
            prompt_tokens=10_200,
            completion_tokens=300,
            total_tokens=10_500,
            prompt_tokens_details=chat.PromptTokensDetails(cached_tokens=10_200, cache_write_tokens=0),
            completion_tokens_details=REASONED,
            letta=SUMS,
        ),
    ),
    "one step, whose sum is the context": (
        evolve(USAGE, context_tokens=120, step_count=1),
        chat.Usage(prompt_tokens=100, completion_tokens=20, total_tokens=120),
    ),
    "less is left after a compaction than the agent has written": (
        evolve(USAGE, context_tokens=5),
        chat.Usage(
            prompt_tokens=0,
            completion_tokens=20,
            total_tokens=20,
            letta=chat.LettaUsage(prompt_tokens=100, completion_tokens=20, total_tokens=120),
        ),
    ),
    "no context known": (
        evolve(THREE_STEPS, context_tokens=None, cached_input_tokens=None, cache_write_tokens=None),
        chat.Usage(
            prompt_tokens=30_000,
            completion_tokens=300,
            total_tokens=30_300,
            completion_tokens_details=REASONED,
        ),
    ),
}


@pytest.mark.parametrize(("theirs", "ours"), CONTEXTS.values(), ids=CONTEXTS)
def test_usage_is_the_context_as_the_last_step_left_it(theirs: Usage, ours: chat.Usage) -> None:
    for writer in (
        make_writer(HEADING, Config(), stream=True, include_usage=True),
        make_writer(HEADING, Config(), stream=False),
    ):
        body = writer.write(TurnFinished(reason=FinishReason.STOP, usage=theirs))
        told = items(body)[-2]["usage"] if writer.streaming else orjson.loads(body)["usage"]
        assert told["prompt_tokens"] + told["completion_tokens"] == told["total_tokens"]
    assert encode_usage(theirs) == ours


@pytest.mark.parametrize("stream", [True, False])
def test_usage_is_the_sum_of_the_steps_on_request(stream: bool) -> None:
    config = Config(usage=UsageCount.SUM)
    writer = make_writer(HEADING, config, stream=stream, include_usage=True)
    body = writer.write(TurnFinished(reason=FinishReason.STOP, usage=THREE_STEPS))
    assert (items(body)[-2] if stream else orjson.loads(body))["usage"] == {
        "prompt_tokens": 30_000,
        "completion_tokens": 300,
        "total_tokens": 30_300,
        "prompt_tokens_details": {"cached_tokens": 20_000, "cache_write_tokens": 900},
        "completion_tokens_details": {"reasoning_tokens": 50},
    }


@pytest.mark.parametrize(("theirs", "ours"), USAGES.values(), ids=USAGES)
def test_usage_gets_openai_s_names(theirs: Usage, ours: chat.Usage) -> None:
    assert encode_usage(theirs) == ours


# --- One completion -------------------------------------------------------------------------------------------

MESSAGES: dict[str, tuple[list[Event], dict[str, Any], str]] = {
    "text": ([TextDelta(text="Hel"), TextDelta(text="lo")], {"content": "Hello"}, "stop"),
    "cut off": ([TextDelta(text="Hel")], {"content": "Hel"}, "length"),
    "nothing": ([], {"content": ""}, "stop"),
    "reasoning and text": (
        [ReasoningDelta(text="H"), ReasoningDelta(text="m."), TextDelta(text="Hi")],
        {"content": "Hi", "reasoning_content": "Hm."},
        "stop",
    ),
    "calls alone": (
        [
            CallStarted(index=0, call_id="call-1", name="f"),
            CallStarted(index=1, call_id="call-2", name="g"),
            CallArguments(index=1, fragment="{}"),
            CallArguments(index=0, fragment='{"a'),
            CallArguments(index=0, fragment='":1}'),
        ],
        {
            "content": None,
            "tool_calls": [
                {"id": "call-1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
                {"id": "call-2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        },
        "tool_calls",
    ),
    "text and a call": (
        [TextDelta(text="Let me see."), CallStarted(index=0, call_id="call-1", name="f")],
        {
            "content": "Let me see.",
            "tool_calls": [{"id": "call-1", "type": "function", "function": {"name": "f", "arguments": ""}}],
        },
        "tool_calls",
    ),
}


@pytest.mark.parametrize(("events", "message", "reason"), MESSAGES.values(), ids=MESSAGES)
def test_a_turn_becomes_one_completion(events: list[Event], message: dict[str, Any], reason: str) -> None:
    writer = CompletionWriter(HEADING)
    assert written(writer, TurnStarted(), KeepAlive(), *events) == b""
    assert orjson.loads(writer.write(finished(FinishReason(reason)))) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1795332551,
        "model": "Milo",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "refusal": None, **message},
                "logprobs": None,
                "finish_reason": reason,
            }
        ],
        "usage": COUNTS,
    }


def test_a_completion_of_unknown_usage_has_none() -> None:
    assert "usage" not in orjson.loads(CompletionWriter(HEADING).write(finished(usage=None)))


@pytest.mark.parametrize("reasoning_field", ReasoningField, ids=lambda value: value.value)
def test_a_message_has_its_reasoning_where_the_config_says(reasoning_field: ReasoningField) -> None:
    writer = CompletionWriter(HEADING, reasoning_field)
    writer.write(ReasoningDelta(text="Hm."))
    message = orjson.loads(writer.write(finished()))["choices"][0]["message"]
    fields = {name for name in message if name.startswith("reasoning")}
    assert fields == {reasoning_field.value} - {"off"}


def test_a_failure_instead_of_a_completion_is_the_error_alone() -> None:
    writer = CompletionWriter(HEADING)
    assert orjson.loads(written(writer, TurnStarted(), TextDelta(text="Hel"), FAILED)) == FAILURE


@pytest.mark.parametrize(
    ("writer", "content_type", "streaming"),
    [
        (ChunkWriter(HEADING), "text/event-stream; charset=utf-8", True),
        (CompletionWriter(HEADING), "application/json", False),
    ],
    ids=["chunks", "a completion"],
)
def test_a_writer_says_what_it_writes_and_when(
    writer: ChunkWriter | CompletionWriter, content_type: str, streaming: bool
) -> None:
    assert (writer.content_type, writer.streaming) == (content_type, streaming)


@given(st.lists(st.text(max_size=20), max_size=8), st.integers(64, 100))
def test_both_forms_say_the_same(texts: list[str], max_size: int) -> None:
    events = [TextDelta(text=text) for text in texts]
    chunks = items(written(ChunkWriter(HEADING, max_fragment_size=max_size), *events, finished()))
    whole = orjson.loads(written(CompletionWriter(HEADING), *events, finished()))
    streamed = [item["choices"][0]["delta"].get("content", "") for item in chunks[:-1]]
    assert "".join(streamed) == whole["choices"][0]["message"]["content"] == "".join(texts)
