"""Summaries of messages, requests and events on one line, and payloads pretty-printed.

Nothing here raises an error: anything that was recorded has some summary.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson
from attrs import field, frozen

from ..errors import SansioLettaError
from ..turn.events import (
    AgentFound,
    AgentGone,
    CallArguments,
    CallsSettled,
    CallStarted,
    Event,
    ReasoningDelta,
    ServerToolArguments,
    ServerToolReturned,
    ServerToolStarted,
    TextDelta,
    TurnFailed,
    TurnFinished,
    TurnStarted,
    Usage,
)

#: Messages that arrive in pieces: the texts of those with the same id are one text.
_FRAGMENTS: Final = frozenset(
    {"assistant_message", "reasoning_message", "tool_call_message", "approval_request_message"}
)


@frozen(kw_only=True)
class MessageSummary:
    """One event of Letta's stream."""

    name: str  #: its ``message_type``, ``[DONE]``, or ``unreadable``
    text: str = field(default="", repr=False)
    whole: str | None = None  #: identifies the message that it is a fragment of


def message_summary(data: bytes) -> MessageSummary:
    """Summarise a message.

    :param data: the data of one event.
    """
    if data.startswith(b"[DONE]"):
        return MessageSummary(name="[DONE]")
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError:
        raw = None
    match raw:
        case {"message_type": "ping"}:
            return MessageSummary(name="ping", text=str(raw.get("run_id") or ""), whole="ping")
        case {"message_type": str(name)}:
            calls = _calls(raw)
            whole = " ".join([name, str(raw.get("id")), *(str(call.get("tool_call_id")) for call in calls)])
            return MessageSummary(
                name=name, text=_content(raw, calls), whole=whole if name in _FRAGMENTS else None
            )
    return MessageSummary(name="unreadable", text=short(decoded(data)))


def _content(raw: Mapping[str, Any], calls: Iterable[Mapping[str, Any]]) -> str:
    """Return the content of a message without its envelope."""
    match raw:
        case {"message_type": "usage_statistics"}:
            return f"{raw.get('prompt_tokens')} in, {raw.get('completion_tokens')} out"
        case {"stop_reason": str(text)} | {"reasoning": str(text)}:
            return text
        case {"error_type": str(kind)}:
            return f"{kind}: {raw.get('message')}"
        case {"tool_returns": [_, *_] as returns}:
            return "; ".join(_text(item) for item in returns)
        case {"tool_return": text}:
            return _text(text)
        case {"content": content}:
            return _text(content)
    return ", ".join(
        (f"{call['name']} " if call.get("name") else "") + str(call.get("arguments") or "") for call in calls
    )


def _calls(raw: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    calls = raw.get("tool_calls") or raw.get("tool_call")
    return _objects(calls if isinstance(calls, list) else [calls])


def request_summary(json: object) -> str:
    """Summarise the messages of a request; of a history, only the new ones at its end."""
    messages = _objects(json.get("messages")) if isinstance(json, dict) else []
    spoken = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
    said = [
        f"{answer.get('role') or answer.get('type')}: {short(_text(answer))}"
        for message in messages[spoken[-1] + 1 if spoken else 0 :]
        for answer in _objects(message.get("approvals")) or [message]
    ]
    before = f"{len(messages)} messages, the last " if len(messages) > len(said[-2:]) else ""
    return before + "; ".join(said[-2:])


def _text(value: object) -> str:
    """Return the text in a message, a result, or a list of parts."""
    match value:
        case str():
            return value
        case list():
            return " ".join(_text(part) for part in value)
        case {"content": text} | {"text": text} | {"tool_return": text} | {"reason": text} if text:
            return _text(text)
        case {"type": kind}:
            return f"[{kind}]"
    return ""


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def event_summary(event: Event) -> str:
    """Summarise an event."""
    match event:
        case TextDelta(text=text) | ReasoningDelta(text=text) | CallArguments(fragment=text):
            return text
        case ServerToolArguments(fragment=text):
            return text
        case ServerToolReturned(beginning=text):
            return f"{event.name or 'a tool'} {'failed: ' if event.failed else ''}{short(text)}"
        case CallStarted() | ServerToolStarted():
            return f"{event.name} {event.call_id}"
        case AgentFound(model=model, agent=agent):
            return f"{model} is {agent.id}"
        case AgentGone(agent_id=agent_id):
            return agent_id
        case CallsSettled():
            told = {"no result": event.missing, "not pending": event.stale, "denied": event.denied}
            return "; ".join(f"{what}: {', '.join(ids)}" for what, ids in told.items() if ids)
        case TurnFinished(reason=reason, usage=usage):
            return f"{reason.value}, {usage_summary(usage)}" if usage else reason.value
        case TurnFailed(error=error, kept=kept):
            return f"{error_summary(error)} Kept: {kept.value}."
        case TurnStarted():
            return "the answer begins"
    return ""


def error_summary(error: SansioLettaError) -> str:
    """Summarise an error: its status, its code and its message."""
    return f"{error.status_hint} {error.code}: {error.message}"


def usage_summary(usage: Usage) -> str:
    """Summarise the token usage of a run."""
    cached = f" ({usage.cached_input_tokens} cached)" if usage.cached_input_tokens else ""
    thought = f" ({usage.reasoning_tokens} reasoning)" if usage.reasoning_tokens else ""
    return f"{usage.prompt_tokens or 0} in{cached}, {usage.completion_tokens or 0} out{thought}"


def short(text: str, limit: int = 240) -> str:
    """Truncate a long text."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def decoded(data: bytes) -> str:
    """Decode any bytes as text."""
    return data.decode("utf-8", "replace")


def pretty(json: object) -> str:
    """Format JSON with indentation; return an empty text for null."""
    return "" if json is None else orjson.dumps(json, option=orjson.OPT_INDENT_2).decode()


def laid_out(data: bytes) -> str:
    """Format a payload with indentation if it is JSON."""
    try:
        return pretty(orjson.loads(data))
    except orjson.JSONDecodeError:
        return decoded(data)


def http_message(headers: Iterable[tuple[str, str]], body: str = "") -> str:
    """Format the headers of an HTTP message, followed by its body if there is one."""
    lines = "".join(f"{name}: {value}\n" for name, value in headers)
    return f"{lines}\n{body}" if body else lines
