"""The objects of Chat Completions responses: chunks, completions and usage.

They have the form that the official SDKs need: an empty field of a delta is never written, ``finish_reason``
always is, and ``usage`` is absent or null depending on the request. OpenAPI document of 2026-08-21.
"""

from enum import Enum, auto
from typing import Any, Final, Literal, TypeAlias

import orjson
from attrs import field, frozen
from cattrs import Converter
from cattrs.gen import make_dict_unstructure_fn, override

from ... import sse


class Unasked(Enum):
    """The client did not request the usage in its stream, so no chunk may have the key."""

    USAGE = auto()


@frozen(kw_only=True)
class Function:
    """The function of a call. Later fragments contain only a piece of the arguments."""

    name: str | None = None
    arguments: str = field(repr=False)


@frozen(kw_only=True)
class ToolCallDelta:
    """A fragment of a call. The first has all fields, later ones only `index` and a piece of the arguments."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: Function


@frozen(kw_only=True)
class Delta:
    """The part of the message in one chunk."""

    role: Literal["assistant"] | None = None
    content: str | None = field(default=None, repr=False)
    reasoning_content: str | None = field(default=None, repr=False)
    reasoning: str | None = field(default=None, repr=False)
    tool_calls: tuple[ToolCallDelta, ...] = ()


@frozen(kw_only=True)
class PromptTokensDetails:
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


@frozen(kw_only=True)
class CompletionTokensDetails:
    reasoning_tokens: int | None = None


@frozen(kw_only=True)
class LettaUsage:
    """Tokens of all the agent's steps together. Numbers only, because some programs add up all fields."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    step_count: int | None = None


@frozen(kw_only=True)
class Usage:
    """Tokens of a turn, by `Config.usage`."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: PromptTokensDetails | None = None
    completion_tokens_details: CompletionTokensDetails | None = None
    letta: LettaUsage | None = None  #: if its numbers are different


FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]


@frozen(kw_only=True)
class ChunkChoice:
    index: Literal[0] = 0
    delta: Delta
    finish_reason: FinishReason | None = None


@frozen(kw_only=True)
class StatusData:
    description: str
    done: bool


@frozen(kw_only=True)
class StatusEvent:
    """A status that Open WebUI shows above an unfinished answer. Other clients ignore it."""

    type: Literal["status"] = "status"
    data: StatusData


@frozen(kw_only=True)
class Chunk:
    """One item of the stream; `choices` is empty in the one with the usage."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int  #: Unix time, seconds
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: Usage | Unasked | None = Unasked.USAGE
    event: StatusEvent | None = None  #: beside an empty delta


@frozen(kw_only=True)
class ToolCall:
    id: str
    type: Literal["function"] = "function"
    function: Function


@frozen(kw_only=True)
class AssistantMessage:
    """The message of a whole answer; `content` is null if there are only calls."""

    role: Literal["assistant"] = "assistant"
    content: str | None = field(repr=False)
    reasoning_content: str | None = field(default=None, repr=False)
    reasoning: str | None = field(default=None, repr=False)
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: None = None


@frozen(kw_only=True)
class Choice:
    index: Literal[0] = 0
    message: AssistantMessage
    finish_reason: FinishReason
    logprobs: None = None


@frozen(kw_only=True)
class Completion:
    """The whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int  #: Unix time, seconds
    model: str
    choices: tuple[Choice, ...]
    usage: Usage | None = None


#: The end of a stream that was successful. It is not sent after an error.
DONE: Final = sse.encode_data(b"[DONE]")


def encode_chunk(chunk: Chunk) -> bytes:
    """Encode a chunk as one event of the stream."""
    return sse.encode_json(orjson.dumps(_wire.unstructure(chunk)))


def encode_delta(delta: Delta) -> bytes:
    """Encode a chunk's delta, as JSON."""
    return sse.on_one_line(orjson.dumps(_unstructure_delta(delta)))


def encode(completion: Completion) -> bytes:
    """Encode a whole answer as a JSON body."""
    return orjson.dumps(_wire.unstructure(completion))


def _make_converter() -> Converter:
    converter = Converter(unstruct_collection_overrides={tuple: list})
    omit: Any = override(omit_if_default=True)
    partly: dict[type[Any], tuple[str, ...]] = {
        Function: ("name",),
        ToolCallDelta: ("id", "type"),
        Delta: ("role", "content", "reasoning_content", "reasoning", "tool_calls"),
        PromptTokensDetails: ("cached_tokens", "cache_write_tokens"),
        CompletionTokensDetails: ("reasoning_tokens",),
        LettaUsage: ("step_count",),
        Usage: ("prompt_tokens_details", "completion_tokens_details", "letta"),
        Chunk: ("usage", "event"),
        AssistantMessage: ("reasoning_content", "reasoning", "tool_calls"),
        Completion: ("usage",),
    }
    for cls, names in partly.items():
        converter.register_unstructure_hook(
            cls, make_dict_unstructure_fn(cls, converter, **dict.fromkeys(names, omit))
        )
    return converter


_wire: Final = _make_converter()
_unstructure_delta: Final = _wire.get_unstructure_hook(Delta)
