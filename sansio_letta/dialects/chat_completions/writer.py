"""The writers of Chat Completions responses: a stream of chunks, or one completion.

Both take the same events and return the bytes of the response's body.
"""

from typing import Final

import orjson
from attrs import define, evolve, field, frozen

from ... import sse
from ...config import Config, ReasoningField, UsageCount
from ...errors import SansioLettaError
from ...turn.events import (
    CallArguments,
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
from ..base import EVENT_STREAM, Writer
from ..errors import error_body
from . import objects as chat
from .request import field_name

_FINISH_REASONS: Final[dict[FinishReason, chat.FinishReason]] = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.TOOL_CALLS: "tool_calls",
}


@frozen(kw_only=True)
class Heading:
    """What all chunks of one answer have in common."""

    completion_id: str
    created: int  #: Unix time, seconds
    model: str  #: as the client gave it


@define
class ChunkWriter:
    """Writer for ``stream: true``: one chunk for each event, as server-sent events.

    :param include_usage: whether the last chunk is to contain the usage.
    :param max_fragment_size: bytes of a string in one chunk, as JSON; longer strings are split.
    """

    heading: Heading
    include_usage: bool = False
    reasoning_field: ReasoningField = ReasoningField.REASONING_CONTENT
    max_fragment_size: int = 32 * 1024
    usage_count: UsageCount = UsageCount.CONTEXT
    content_type: str = field(default=EVENT_STREAM, init=False)
    streaming: bool = field(default=True, init=False)
    _short_count: int = field(init=False)
    _before_delta: bytes = field(init=False)
    _after_delta: bytes = field(init=False)
    _before_text: bytes = field(init=False)
    _after_text: bytes = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._short_count = short_count(self.max_fragment_size)
        # The chunks of an answer differ only in their deltas. The rest is encoded once.
        frame = chat.encode_chunk(self._chunk(chat.Delta()))
        self._before_delta, _, self._after_delta = frame.rpartition(b"{}")
        self._before_text, self._after_text = self._before_delta + b'{"content":', b"}" + self._after_delta

    def write(self, event: Event) -> bytes:
        match event:
            case TextDelta(text=text) if len(text) <= self._short_count:
                # A short path for nearly all events, with the same result as `deltas`.
                json = orjson.dumps(text)
                if not text.isascii() and ("\u2028" in text or "\u2029" in text or "\x85" in text):
                    json = sse.on_one_line(json)
                return self._before_text + json + self._after_text
            case KeepAlive():
                return sse.encode_comment("keepalive")
            case TurnFailed(error=error):
                return encode_stream_error(error)
            case TurnFinished(reason=reason, usage=usage):
                data = chat.encode_chunk(self._chunk(chat.Delta(), _FINISH_REASONS[reason]))
                if self.include_usage and usage is not None:
                    data += chat.encode_chunk(self._chunk(usage=encode_usage(usage, self.usage_count)))
                return data + chat.DONE
        return b"".join(
            [self._before_delta + chat.encode_delta(delta) + self._after_delta for delta in self.deltas(event)]
        )

    def write_status(self, description: str, *, done: bool) -> bytes:
        """Encode a status for Open WebUI, in a chunk with an empty delta.

        Extensions belong on the chunk's top level: SDKs concatenate unknown fields of deltas.
        """
        event = chat.StatusEvent(data=chat.StatusData(description=description, done=done))
        return chat.encode_chunk(evolve(self._chunk(chat.Delta()), event=event))

    def deltas(self, event: Event) -> list[chat.Delta]:
        """Return the deltas for an event: one, several if its text is long, or none."""
        size = self.max_fragment_size
        match event:
            case TextDelta(text=text):
                return [chat.Delta(content=piece) for piece in fragments(text, size)]
            case ReasoningDelta(text=text):
                if self.reasoning_field is ReasoningField.OFF:
                    return []
                if self.reasoning_field is ReasoningField.REASONING:
                    return [chat.Delta(reasoning=piece) for piece in fragments(text, size)]
                return [chat.Delta(reasoning_content=piece) for piece in fragments(text, size)]
            case CallArguments(index=index, fragment=fragment):
                calls = [
                    chat.ToolCallDelta(index=index, function=chat.Function(arguments=piece))
                    for piece in fragments(fragment, size)
                ]
                return [chat.Delta(tool_calls=(call,)) for call in calls]
            case CallStarted(index=index, call_id=call_id, name=name):
                function = chat.Function(name=name, arguments="")
                call = chat.ToolCallDelta(index=index, id=call_id, type="function", function=function)
                return [chat.Delta(tool_calls=(call,))]
            case TurnStarted():
                return [chat.Delta(role="assistant", content="")]
        return []

    def _chunk(
        self,
        delta: chat.Delta | None = None,
        finish_reason: chat.FinishReason | None = None,
        usage: chat.Usage | None = None,
    ) -> chat.Chunk:
        return chat.Chunk(
            id=self.heading.completion_id,
            created=self.heading.created,
            model=self.heading.model,
            choices=() if delta is None else (chat.ChunkChoice(delta=delta, finish_reason=finish_reason),),
            usage=usage if self.include_usage else chat.Unasked.USAGE,
        )


@define
class _Call:
    id: str
    name: str
    arguments: list[str] = field(factory=list)


@define
class CompletionWriter:
    """Writer for ``stream: false``: the whole turn as one completion."""

    heading: Heading
    reasoning_field: ReasoningField = ReasoningField.REASONING_CONTENT
    usage_count: UsageCount = UsageCount.CONTEXT
    content_type: str = field(default="application/json", init=False)
    streaming: bool = field(default=False, init=False)
    _text: list[str] = field(factory=list, init=False)
    _reasoning: list[str] = field(factory=list, init=False)
    _calls: list[_Call] = field(factory=list, init=False)

    def write(self, event: Event) -> bytes:
        match event:
            case TextDelta(text=text):
                self._text.append(text)
            case ReasoningDelta(text=text):
                self._reasoning.append(text)
            case CallStarted(call_id=call_id, name=name):
                self._calls.append(_Call(id=call_id, name=name))
            case CallArguments(index=index, fragment=fragment):
                self._calls[index].arguments.append(fragment)
            case TurnFinished():
                return chat.encode(self.completion(event))
            case TurnFailed(error=error):
                return encode_error(error)
        return b""

    def completion(self, finished: TurnFinished) -> chat.Completion:
        """Build the whole answer."""
        calls = tuple(
            chat.ToolCall(id=call.id, function=chat.Function(name=call.name, arguments="".join(call.arguments)))
            for call in self._calls
        )
        text, reasoning = "".join(self._text), "".join(self._reasoning) or None
        message = chat.AssistantMessage(
            content=text if text or not calls else None,
            reasoning_content=reasoning if self.reasoning_field is ReasoningField.REASONING_CONTENT else None,
            reasoning=reasoning if self.reasoning_field is ReasoningField.REASONING else None,
            tool_calls=calls,
        )
        return chat.Completion(
            id=self.heading.completion_id,
            created=self.heading.created,
            model=self.heading.model,
            choices=(chat.Choice(message=message, finish_reason=_FINISH_REASONS[finished.reason]),),
            usage=None if finished.usage is None else encode_usage(finished.usage, self.usage_count),
        )


def encode_error(error: SansioLettaError) -> bytes:
    """Encode an error as the body of a response with an error status."""
    return orjson.dumps(error_body(error, field_name))


def encode_stream_error(error: SansioLettaError) -> bytes:
    """Encode an error after the first chunk, in the nested form, which all SDKs raise.

    Since the status and the headers were sent already, only the type can say whether to try again: opencode
    retries ``server_error`` but not ``upstream_error``.
    """
    body = error_body(error, field_name)
    if error.advice.type != "invalid_request_error":
        body["error"]["type"] = "upstream_error" if error.advice.should_retry is False else "server_error"
    return sse.encode_json(orjson.dumps(body))


def encode_usage(usage: Usage, count: UsageCount = UsageCount.CONTEXT) -> chat.Usage:
    """Convert Letta's usage to OpenAI's. Unknown numbers are left out, or 0 if they are required.

    :param count: which numbers; if the context's size is unknown, always the sums.
    """
    prompt_tokens, completion_tokens = usage.prompt_tokens or 0, usage.completion_tokens or 0
    total_tokens = usage.total_tokens or prompt_tokens + completion_tokens
    cached, written, sums = usage.cached_input_tokens, usage.cache_write_tokens, None
    if count is UsageCount.CONTEXT and usage.context_tokens and usage.context_tokens != total_tokens:
        sums = chat.LettaUsage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=total_tokens,
            step_count=usage.step_count,
        )
        # The last step's context contains the output of earlier ones, and may be smaller after a compaction.
        prompt_tokens = max(usage.context_tokens - completion_tokens, 0)
        total_tokens = prompt_tokens + completion_tokens
        # These are parts of the prompt, and programs subtract them from it to calculate costs.
        cached = cached and min(cached, prompt_tokens)
        written = written and min(written, prompt_tokens - (cached or 0))
    prompt = chat.PromptTokensDetails(cached_tokens=cached, cache_write_tokens=written)
    completion = chat.CompletionTokensDetails(reasoning_tokens=usage.reasoning_tokens)
    return chat.Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=total_tokens,
        prompt_tokens_details=prompt if prompt != chat.PromptTokensDetails() else None,
        completion_tokens_details=completion if completion != chat.CompletionTokensDetails() else None,
        letta=sums,
    )


def make_writer(heading: Heading, config: Config, *, stream: bool, include_usage: bool = False) -> Writer:
    """Make a writer, according to the policies of a config.

    :param stream: whether to write chunks, or one completion.
    :param include_usage: whether the last chunk is to contain the usage.
    """
    if not stream:
        return CompletionWriter(heading, config.reasoning_field, config.usage)
    return ChunkWriter(
        heading, include_usage, config.reasoning_field, config.max_fragment_size, usage_count=config.usage
    )


def short_count(max_size: int) -> int:
    """How many characters always fit: each takes at most six bytes of JSON, and the quotes take two."""
    return (max_size - 2) // 6


def fragments(text: str, max_size: int) -> list[str]:
    """Split a text into pieces of at most `max_size` bytes of JSON each, including quotes.

    Programs that read the stream by lines fail on long ones.
    """
    if len(text) <= max(short_count(max_size), 1) or len(sse.on_one_line(orjson.dumps(text))) <= max_size:
        return [text]
    middle = len(text) // 2
    return fragments(text[:middle], max_size) + fragments(text[middle:], max_size)
