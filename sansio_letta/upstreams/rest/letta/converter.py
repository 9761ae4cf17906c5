"""The converter between Letta's JSON and values, and the shapes that are normalised first."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from cattrs import Converter
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from ...._convert import exactly, strict_converter
from .messages import (
    MESSAGE_TYPES,
    ApprovalRequestMessage,
    AssistantMessage,
    ToolCallMessage,
    ToolReturnMessage,
)
from .requests import Approval, ApprovalCreate, ClientTool, MessageCreate, StreamRequest
from .resources import Agent, PendingApproval


def fold_content(value: object, _: object) -> str:
    """Convert ``content`` of an assistant message, a string or a list of parts, to text."""
    if type(value) is not list:
        return exactly(value, str)
    texts = [part.get("text") for part in value if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def fold_calls(value: object) -> object:
    """Convert ``tool_calls`` to a list: it may be an object (client_tool, step_streaming.jsonl)."""
    if type(value) is not dict:
        return value
    calls = value.get("tool_calls")
    if calls is None:
        calls = value.get("tool_call")
    date = value.get("date")
    return {
        **value,
        "tool_calls": calls if type(calls) is list else [calls],
        # It is only displayed: no turn should fail because of it.
        "date": date if type(date) is str else None,
    }


def fold_returns(value: object) -> object:
    """Convert ``tool_returns`` to a list. In messages of older servers, the message itself is the only item.

    Invalid items are left out: results are only displayed, and no turn should fail because of them.
    """
    if type(value) is not dict:
        return value
    returns = value.get("tool_returns")
    items = returns if type(returns) is list and returns else [value]
    return {
        **value,
        "name": value["name"] if type(value.get("name")) is str else None,
        "tool_returns": [
            {
                "tool_call_id": item["tool_call_id"],
                "tool_return": _return_text(item.get("tool_return")),
                "status": "error" if item.get("status") == "error" else "success",
            }
            for item in items
            if type(item) is dict and type(item.get("tool_call_id")) is str
        ],
    }


def _fold_agent(value: object) -> object:
    """Leave out invalid values that are only displayed: no turn should fail because of them."""
    if type(value) is not dict:
        return value
    config, hidden = value.get("llm_config"), value.get("hidden")
    size = config.get("context_window") if type(config) is dict else None
    return {
        **value,
        "llm_config": {"context_window": size} if type(size) is int and size > 0 else None,
        "hidden": hidden if type(hidden) is bool else None,
    }


def _return_text(value: object) -> str:
    """Convert a result, a string or a list of parts, to text."""
    return fold_content(value, None) if type(value) in (str, list) else ""


def _omit_default(converter: Converter, cls: type[Any], names: tuple[str, ...]) -> None:
    optional: Any = {name: override(omit_if_default=True) for name in names}
    converter.register_unstructure_hook(cls, make_dict_unstructure_fn(cls, converter, **optional))


def _make_converter() -> Converter:
    converter = strict_converter()

    def first(fold: Callable[[object], object], cls: type[Any]) -> None:
        structure = converter.get_structure_hook(cls)
        converter.register_structure_hook(cls, lambda value, _: structure(fold(value), cls))

    # A schema is sent on unchanged: cattrs would copy it, level by level.
    converter.register_unstructure_hook_func(lambda kind: kind == Mapping[str, Any], lambda value: value)
    for cls in (ToolCallMessage, ApprovalRequestMessage, PendingApproval):
        first(fold_calls, cls)
    first(fold_returns, ToolReturnMessage)
    first(_fold_agent, Agent)
    converter.register_structure_hook(
        AssistantMessage,
        make_dict_structure_fn(AssistantMessage, converter, content=override(struct_hook=fold_content)),
    )
    for request, optional in (
        (MessageCreate, ("name", "otid")),
        (Approval, ("reason",)),
        (ApprovalCreate, ("approval_request_id", "approve", "reason")),
        (ClientTool, ("description",)),
        (
            StreamRequest,
            ("client_tools", "override_system", "streaming", "background", "assistant_message_tool_kwarg"),
        ),
    ):
        _omit_default(converter, request, optional)
    return converter


wire: Final = _make_converter()
STRUCTURE: Final = {cls: wire.get_structure_hook(cls) for cls in MESSAGE_TYPES.values()}
