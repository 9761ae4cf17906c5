"""Responses API bodies sent to Chat Completions, as Cursor does for some models.

The response is still one of Chat Completions, which such a client expects. The body is converted field by
field, and then decoded like any other. Items that only OpenAI's models can read, like their reasoning, are left
out.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ..._convert import json_name
from ...errors import RequestError

#: Types of calls -> the field with the arguments.
_CALLS: Final[Mapping[str, str]] = {"function_call": "arguments", "custom_tool_call": "input"}
_RESULTS: Final = frozenset({"function_call_output", "custom_tool_call_output"})
_TEXTS: Final = frozenset({"input_text", "output_text"})
#: Types of items for what a model did by itself; its own calls have other types, which end with `_OWN_CALL`.
_OWN_WORK: Final = frozenset({"reasoning", "mcp_list_tools"})
_OWN_CALL: Final = "_call"


def is_responses_body(given: Mapping[str, Any]) -> bool:
    """Whether a body is in the format of the Responses API."""
    return given.get("messages") is None and given.get("input") is not None


def as_chat_body(given: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a body to Chat Completions.

    :raises RequestError: 400, if it continues an earlier response, or if its input is invalid.
    """
    for name in ("previous_response_id", "conversation"):
        if given.get(name) is not None:
            raise RequestError(
                f"`{name}` is not served: responses are not kept here. Send the whole input each time.",
                param=name,
            )
    chat = dict(given)
    instructions = chat.pop("instructions", None)
    messages = [{"role": "system", "content": instructions}] if instructions is not None else []
    chat["messages"] = [*messages, *_messages(chat.pop("input"))]
    if isinstance(tools := chat.get("tools"), list):
        chat["tools"] = [_tool(tool) for tool in tools]
    choice = chat.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "function" and "name" in choice:
        chat["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    if "max_output_tokens" in chat:
        chat["max_completion_tokens"] = chat.pop("max_output_tokens")
    text = chat.pop("text", None)
    if isinstance(text, dict) and text.get("format") is not None:
        chat["response_format"] = _format(text["format"])
    return chat


def _messages(value: object) -> Iterator[object]:
    if isinstance(value, str):
        yield {"role": "user", "content": value}
        return
    if not isinstance(value, list):
        raise RequestError(
            f"`input` must be a string or an array, got {json_name(value)}.", param="input", code="invalid_type"
        )
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for index, item in enumerate(value):
        kind = item.get("type", "message") if isinstance(item, dict) else "message"
        if kind in _CALLS:
            calls.append(_call(item, _CALLS[kind]))
        elif kind in _RESULTS:
            results.append(_result(item))
        elif kind == "message":
            yield from _round(calls, results)
            calls, results = [], []
            yield _message(item)
        elif not isinstance(kind, str) or not (kind in _OWN_WORK or kind.endswith(_OWN_CALL)):
            raise RequestError(
                f"`input[{index}].type` must be message, function_call or function_call_output.",
                param=f"input[{index}].type",
            )
    yield from _round(calls, results)


def _round(calls: Sequence[object], results: Sequence[object]) -> Iterator[object]:
    """Yield calls and then their results. In the input they may alternate, but all calls must come first."""
    if calls:
        yield {"role": "assistant", "tool_calls": list(calls)}
    yield from results


def _call(item: Mapping[str, Any], given: str) -> dict[str, Any]:
    function = {"name": item.get("name"), "arguments": item.get(given)}
    return {"id": item.get("call_id"), "type": "function", "function": function}


def _result(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": item.get("call_id"), "content": _content(item.get("output"))}


def _message(item: object) -> object:
    if not isinstance(item, dict):
        return item
    return {
        **{name: value for name, value in item.items() if name in ("role", "name")},
        "content": _content(item.get("content")),
    }


def _content(value: object) -> object:
    return [_part(part) for part in value] if isinstance(value, list) else value


def _part(part: object) -> object:
    if not isinstance(part, dict):
        return part
    if part.get("type") in _TEXTS:
        return {"type": "text", "text": part.get("text")}
    if part.get("type") == "input_image":
        return {"type": "image_url", "image_url": {"url": part.get("image_url")}}
    return part


def _tool(tool: object) -> object:
    if not isinstance(tool, dict) or tool.get("type") != "function" or "function" in tool:
        return tool
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _format(value: object) -> object:
    if not isinstance(value, dict) or value.get("type") != "json_schema" or "json_schema" in value:
        return value
    return {"type": "json_schema", "json_schema": {key: item for key, item in value.items() if key != "type"}}
