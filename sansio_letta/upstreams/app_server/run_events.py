"""The events of a run, from the frames of its conversation.

A turn of the App Server has several steps, each with a ``run_id``, a stop reason and a usage of its own. Only
``turn_finished`` ends it. What is said of an attempt that the server repeats by itself is not final either.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson
from attrs import define, evolve, field

from ...errors import Advice, LettaError, SansioLettaError, shown
from ...turn.answer import SEPARATOR
from ...turn.events import (
    RETURN_SIZE,
    CallArguments,
    CallStarted,
    FinishReason,
    KeepAlive,
    ReasoningDelta,
    ServerToolArguments,
    ServerToolReturned,
    ServerToolStarted,
    TextDelta,
    TurnStarted,
    Usage,
)
from ...turn.upstream import RunEvent, RunFailed, RunState, RunStopped
from .frames import Delta, TurnEnd

#: The model's status is only the beginning of a text.
_STATUS: Final = re.compile(r"([45]\d\d)\b")
#: Characters of the model provider's text that are shown.
_MAX_DETAIL: Final = 500
#: Characters of an error that are read at all.
_MAX_ERROR_SIZE: Final = 64 * 1024
_MAX_KIND: Final = 50

#: The model provider's statuses -> the client's error, if nothing was stored.
_STATUSES: Final[Mapping[int, Advice]] = {
    400: Advice(status=400, type="invalid_request_error", code="invalid_value"),
    401: Advice(status=502, type="server_error", code="llm_authentication", should_retry=False),
    403: Advice(status=502, type="server_error", code="llm_authentication", should_retry=False),
    429: Advice(status=429, type="rate_limit_error", code="rate_limit_exceeded"),
    504: Advice(status=504, type="server_error", code="llm_timeout"),
}


@define
class RunEvents:
    """Converts the pieces of one run.

    :param client_names: the client's names of its tools, by the agent's.
    """

    client_names: Mapping[str, str]
    state: RunState = field(default=RunState.WAITING, init=False)
    has_step: bool = field(default=False, init=False)  #: the first step is stored
    usage: Usage | None = field(default=None, init=False)
    client_calls: list[str] = field(factory=list, init=False)
    _started: bool = field(default=False, init=False)
    _text_id: str | None = field(default=None, init=False)
    _reasoning_id: str | None = field(default=None, init=False)
    _names: dict[str, str] = field(factory=dict, init=False)  #: of all calls, by their ids
    _error: str = field(default="", init=False, repr=False)  #: the last one that was reported
    _error_kind: str = field(default="", init=False)

    def receive(self, delta: Delta) -> Iterator[RunEvent]:
        """Convert a piece."""
        body = delta.body
        match delta.kind:
            case "assistant_message":
                text = _joined_text(body.get("content"))
                if text:
                    yield from self._start(RunState.SPEAKING)
                    yield TextDelta(text=self._text_joint(body.get("id")) + text)
            case "reasoning_message":
                if reasoning := body.get("reasoning"):
                    yield from self._start(RunState.THINKING)
                    yield ReasoningDelta(text=self._reasoning_joint(body.get("id")) + str(reasoning))
            case "approval_request_message" | "tool_call_message":
                if isinstance(call := body.get("tool_call"), dict):
                    yield from self._start(RunState.CALLING)
                    yield from self._call(call)
            case "tool_return_message":
                self.has_step = True
                yield from self._start(RunState.WORKING)
                yield from self._returned(body)
            case "usage_statistics":
                self.usage = _sum(self.usage, _usage(body))
            case "stop_reason":
                self.state = RunState.STOPPED
            case "error_message":
                self._error = str(body.get("message") or "")[:_MAX_ERROR_SIZE]
                self._error_kind = str(body.get("error_type") or "")
            case "event_message":
                yield KeepAlive()

    def read_text(self, delta: Delta) -> str:
        """Return more text of the message that is being said; empty if the piece is anything else.

        The short path for the most frequent case: what is left of it needs no other event.
        """
        body = delta.body
        if delta.kind != "assistant_message" or self._text_id is None or body.get("id") != self._text_id:
            return ""
        if self.state is not RunState.SPEAKING:
            return ""
        content = body["content"]
        if type(content) is list and len(content) == 1 and type(part := content[0]) is dict:
            text = part.get("text")
            return text if type(text) is str else ""
        return ""

    def take_calls(self) -> tuple[str, ...]:
        """Return the client's calls since this was called last."""
        calls, self.client_calls = tuple(self.client_calls), []
        return calls

    def end(self, end: TurnEnd) -> RunEvent:
        """Convert the end of the turn."""
        if end.is_whole:
            self.state = RunState.DONE
            is_short = end.is_short or end.stop_reason == "max_steps"
            reason = FinishReason.LENGTH if is_short else FinishReason.STOP
            return RunStopped(reason=reason, usage=self.usage)
        if end.is_cancelled:
            self.state = RunState.DONE
            return RunStopped(reason=FinishReason.STOP, usage=self.usage, was_cancelled=True)
        self.state = RunState.FAILED
        return RunFailed(error=self.failure(end.stop_reason, end.error), is_refusal=end.is_dead)

    def failure(self, reason: str, text: str | None = None) -> SansioLettaError:
        """Make the error for a run that failed.

        :param reason: why, in the server's word.
        """
        said = self._error or _innermost((text or "")[:_MAX_ERROR_SIZE]) or "it gave no reason"
        found = _STATUS.match(said)
        advice = _STATUSES.get(int(found[1]), LettaError.advice) if found else LettaError.advice
        if "insufficient_quota" in said:
            advice = evolve(advice, code="insufficient_quota", should_retry=False)
        kind = shown(self._error_kind or reason, _MAX_KIND)
        text = shown(_provider_text(said), _MAX_DETAIL)
        return LettaError(f"The agent's run failed ({kind}): {text}", advice=advice)

    # --- Within -------------------------------------------------------------------------------------------

    def _start(self, state: RunState) -> Iterator[TurnStarted]:
        self.state = state
        if not self._started:
            self._started = True
            yield TurnStarted()

    def _text_joint(self, ident: object) -> str:
        # A message of several parts has ids "ui-msg-2:assistant:1".
        known, self._text_id = self._text_id, str(ident)
        return SEPARATOR if known is not None and known != self._text_id else ""

    def _reasoning_joint(self, ident: object) -> str:
        known, self._reasoning_id = self._reasoning_id, str(ident)
        return SEPARATOR if known is not None and known != self._reasoning_id else ""

    def _call(self, call: Mapping[str, Any]) -> Iterator[RunEvent]:
        call_id, name = str(call.get("tool_call_id")), str(call.get("name"))
        arguments = str(call.get("arguments") or "{}")
        self._names[call_id] = name
        client_name = self.client_names.get(name)
        if client_name is None:
            yield ServerToolStarted(call_id=call_id, name=name)
            yield ServerToolArguments(call_id=call_id, fragment=arguments)
            return
        index = len(self.client_calls)
        self.client_calls.append(call_id)
        yield CallStarted(index=index, call_id=call_id, name=client_name)
        yield CallArguments(index=index, fragment=arguments)

    def _returned(self, body: Mapping[str, Any]) -> Iterator[RunEvent]:
        call_id = str(body.get("tool_call_id"))
        name = self._names.get(call_id)
        if name is None or name in self.client_names:
            return  # a result that the client brought
        yield ServerToolReturned(
            call_id=call_id,
            name=name,
            failed=body.get("status") == "error",
            beginning=str(body.get("tool_return") or "")[:RETURN_SIZE],
        )


def _joined_text(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))


def _count(body: Mapping[str, Any], key: str) -> int | None:
    value = body.get(key)
    return value if type(value) is int else None


def _usage(body: Mapping[str, Any]) -> Usage:
    prompt, cached = _count(body, "prompt_tokens"), _count(body, "cached_input_tokens")
    return Usage(
        # The server counts cached tokens beside the prompt, OpenAI within it.
        prompt_tokens=None if prompt is None else prompt + (cached or 0),
        completion_tokens=_count(body, "completion_tokens"),
        total_tokens=_count(body, "total_tokens"),
        cached_input_tokens=cached,
        cache_write_tokens=_count(body, "cache_write_tokens"),
        reasoning_tokens=_count(body, "reasoning_tokens"),
        context_tokens=_count(body, "context_tokens"),
        step_count=1,
    )


def _sum(first: Usage | None, more: Usage) -> Usage:
    if first is None:
        return more

    def add(one: int | None, two: int | None) -> int | None:
        return None if one is None and two is None else (one or 0) + (two or 0)

    return Usage(
        prompt_tokens=add(first.prompt_tokens, more.prompt_tokens),
        completion_tokens=add(first.completion_tokens, more.completion_tokens),
        total_tokens=add(first.total_tokens, more.total_tokens),
        cached_input_tokens=add(first.cached_input_tokens, more.cached_input_tokens),
        cache_write_tokens=add(first.cache_write_tokens, more.cache_write_tokens),
        reasoning_tokens=add(first.reasoning_tokens, more.reasoning_tokens),
        context_tokens=more.context_tokens,
        step_count=add(first.step_count, more.step_count),
    )


def _innermost(text: str) -> str:
    """Return the message in an error that is JSON within JSON."""
    for _ in range(4):
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            return text
        while isinstance(value, dict) and isinstance(value.get("error"), dict):
            value = value["error"]
        if not isinstance(value, dict) or not isinstance(value.get("message"), str):
            return text
        text = value["message"]
    return text


def _provider_text(said: str) -> str:
    """Return what the model's provider said, without the JSON around it: "429: rate limit"."""
    found = _STATUS.match(said)
    if found is None:
        return said
    rest = said[found.end() :].lstrip(": ")
    return f"{found[1]}: {_innermost(rest)}"
