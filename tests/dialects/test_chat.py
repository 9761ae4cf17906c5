"""Chat Completions output: JSON with exactly the keys that the SDKs need."""

from typing import Any

import orjson
import pytest

from sansio_letta.dialects.chat_completions import objects as chat

HEADING = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1795332551, "model": "Milo"}


def chunk(
    *choices: chat.ChunkChoice, usage: chat.Usage | chat.Unasked | None = chat.Unasked.USAGE
) -> chat.Chunk:
    return chat.Chunk(id="chatcmpl-1", created=1795332551, model="Milo", choices=choices, usage=usage)


def decode(event: bytes) -> Any:
    """The JSON of a chunk's event."""
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == 2
    return orjson.loads(event.removeprefix(b"data: "))


DELTAS: dict[str, tuple[chat.Delta, dict[str, Any]]] = {
    "nothing": (chat.Delta(), {}),
    "the role": (chat.Delta(role="assistant", content=""), {"role": "assistant", "content": ""}),
    "text": (chat.Delta(content="Hi\u2028\n"), {"content": "Hi\u2028\n"}),
    "reasoning_content": (chat.Delta(reasoning_content="Hm."), {"reasoning_content": "Hm."}),
    "reasoning": (chat.Delta(reasoning="Hm."), {"reasoning": "Hm."}),
    "a call": (
        chat.Delta(
            tool_calls=(
                chat.ToolCallDelta(
                    index=0, id="call-1", type="function", function=chat.Function(name="f", arguments="")
                ),
            )
        ),
        {
            "tool_calls": [
                {"index": 0, "id": "call-1", "type": "function", "function": {"name": "f", "arguments": ""}}
            ]
        },
    ),
    "a piece of a call": (
        chat.Delta(tool_calls=(chat.ToolCallDelta(index=2, function=chat.Function(arguments='{"a')),)),
        {"tool_calls": [{"index": 2, "function": {"arguments": '{"a'}}]},
    ),
}


@pytest.mark.parametrize(("delta", "raw"), DELTAS.values(), ids=DELTAS)
def test_a_delta_has_no_empty_field(delta: chat.Delta, raw: dict[str, Any]) -> None:
    assert decode(chat.encode_chunk(chunk(chat.ChunkChoice(delta=delta)))) == {
        **HEADING,
        "choices": [{"index": 0, "delta": raw, "finish_reason": None}],
    }


@pytest.mark.parametrize(("delta", "raw"), DELTAS.values(), ids=DELTAS)
def test_a_delta_alone_looks_as_in_its_chunk(delta: chat.Delta, raw: dict[str, Any]) -> None:
    assert orjson.loads(chat.encode_delta(delta)) == raw


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls"])
def test_a_choice_always_has_its_finish_reason(reason: chat.FinishReason) -> None:
    [choice] = decode(chat.encode_chunk(chunk(chat.ChunkChoice(delta=chat.Delta(), finish_reason=reason))))[
        "choices"
    ]
    assert choice == {"index": 0, "delta": {}, "finish_reason": reason}


COUNTS = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
COUNTED = chat.Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)

USAGES: dict[str, tuple[chat.Usage, dict[str, Any]]] = {
    "zeros": (chat.Usage(), dict.fromkeys(COUNTS, 0)),
    "counts": (COUNTED, COUNTS),
    "all details": (
        chat.Usage(
            prompt_tokens=1,
            completion_tokens=2,
            total_tokens=3,
            prompt_tokens_details=chat.PromptTokensDetails(cached_tokens=0, cache_write_tokens=5),
            completion_tokens_details=chat.CompletionTokensDetails(reasoning_tokens=6),
        ),
        {
            **COUNTS,
            "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 5},
            "completion_tokens_details": {"reasoning_tokens": 6},
        },
    ),
    "details that are not known": (
        chat.Usage(
            prompt_tokens_details=chat.PromptTokensDetails(),
            completion_tokens_details=chat.CompletionTokensDetails(),
        ),
        {**dict.fromkeys(COUNTS, 0), "prompt_tokens_details": {}, "completion_tokens_details": {}},
    ),
}


@pytest.mark.parametrize(("usage", "raw"), USAGES.values(), ids=USAGES)
def test_usage_comes_in_a_chunk_without_choices(usage: chat.Usage, raw: dict[str, Any]) -> None:
    assert decode(chat.encode_chunk(chunk(usage=usage))) == {**HEADING, "choices": [], "usage": raw}


def test_usage_is_null_or_absent_as_the_request_decided() -> None:
    assert decode(chat.encode_chunk(chunk(usage=None))) == {**HEADING, "choices": [], "usage": None}
    assert decode(chat.encode_chunk(chunk())) == {**HEADING, "choices": []}


def completion(message: chat.AssistantMessage, **more: Any) -> Any:
    """The JSON of a completion with this message."""
    choice = chat.Choice(message=message, finish_reason="stop")
    return orjson.loads(
        chat.encode(
            chat.Completion(id="chatcmpl-1", created=1795332551, model="Milo", choices=(choice,), **more)
        )
    )


def test_a_completion_has_all_its_keys() -> None:
    assert completion(chat.AssistantMessage(content="Hi"), usage=COUNTED) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1795332551,
        "model": "Milo",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": COUNTS,
    }


def test_a_completion_of_unknown_usage_has_none() -> None:
    assert "usage" not in completion(chat.AssistantMessage(content="Hi"))


ANSWERS: dict[str, tuple[chat.AssistantMessage, dict[str, Any]]] = {
    "calls alone": (
        chat.AssistantMessage(
            content=None,
            tool_calls=(chat.ToolCall(id="call-1", function=chat.Function(name="f", arguments="{}")),),
        ),
        {
            "content": None,
            "tool_calls": [
                {"id": "call-1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            ],
        },
    ),
    "reasoning_content": (
        chat.AssistantMessage(content="Hi", reasoning_content="Hm."),
        {"content": "Hi", "reasoning_content": "Hm."},
    ),
    "reasoning": (chat.AssistantMessage(content="Hi", reasoning="Hm."), {"content": "Hi", "reasoning": "Hm."}),
}


@pytest.mark.parametrize(("message", "raw"), ANSWERS.values(), ids=ANSWERS)
def test_a_message_has_calls_and_reasoning_only_if_there_are_some(
    message: chat.AssistantMessage, raw: dict[str, Any]
) -> None:
    expected = {"role": "assistant", "refusal": None, **raw}
    assert completion(message)["choices"][0]["message"] == expected


def test_done_is_the_sign_of_success() -> None:
    assert chat.DONE == b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    "value",
    [
        chat.Function(arguments="secret"),
        chat.Delta(content="secret", reasoning="secret", reasoning_content="secret"),
        chat.AssistantMessage(content="secret", reasoning="secret", reasoning_content="secret"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_was_said_is_not_shown(value: object) -> None:
    assert "secret" not in repr(value)
