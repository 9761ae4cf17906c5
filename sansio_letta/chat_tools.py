"""The tools of a chat request, and which of them its `tool_choice` leaves."""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson
from attrs import field, frozen

from .chat_fields import Notices, array, missing, object_at, structure, tag
from .errors import RequestError

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@frozen(kw_only=True)
class FunctionTool:
    """A tool that the client carries out."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = field(default=None, repr=False)
    strict: bool | None = None


def decode_tools(value: object, notices: Notices) -> tuple[FunctionTool, ...]:
    tools: dict[str, FunctionTool] = {}
    for index, item in enumerate(array(value, "tools")):
        path = f"tools[{index}]"
        raw = object_at(item, path)
        if tag(raw, "type", path) != "function":
            raise RequestError(
                f"`{path}.type` must be function: other tools would have to run at the agent.",
                param=f"{path}.type",
                code="unsupported_value",
            )
        where = f"{path}.function"
        if raw.get("function") is None:
            raise missing(where)
        tool = structure(raw["function"], FunctionTool, where)
        check_name(tool.name, f"{where}.name")
        if tool.name in tools:
            raise RequestError(f"`{where}.name`: {tool.name} is there twice.", param=f"{where}.name")
        check_depth(tool.parameters, f"{where}.parameters")
        if tool.parameters is not None and "properties" in tool.parameters:
            # If they are no object, every run that has the tool breaks inside of Letta.
            object_at(tool.parameters["properties"], f"{where}.parameters.properties")
        if tool.strict:
            notices.add("tools.function.strict")
        tools[tool.name] = tool
    return tuple(tools.values())


def check_name(name: str, path: str) -> None:
    if not _NAME.fullmatch(name):
        raise RequestError(f"`{path}` must be 1 to 64 letters, digits, underscores or dashes.", param=path)


def check_depth(schema: Mapping[str, Any] | None, path: str) -> None:
    """orjson reads deeper JSON than it writes, and Letta must be sent the schema, as a tool's, in a list."""
    try:
        orjson.dumps({"client_tools": [{"parameters": schema}]})
    except orjson.JSONEncodeError:
        raise RequestError(f"`{path}` is nested too deeply.", param=path) from None


def choose_tools(tools: tuple[FunctionTool, ...], choice: object) -> tuple[tuple[FunctionTool, ...], bool]:
    """What `tool_choice` leaves, and whether one of these must be called."""
    match choice:
        case None | "auto":
            return tools, False
        case "none":
            return (), False
        case "required":
            chosen, forced = tools, True
        case {"type": "function"}:
            name = _named_tool(choice, "tool_choice", tools)
            chosen, forced = tuple(tool for tool in tools if tool.name == name), True
        case {"type": "allowed_tools", **rest}:
            chosen, forced = _allowed_tools(tools, rest.get("allowed_tools"))
        case {"type": "custom"}:
            raise RequestError(
                "`tool_choice.type` must be function or allowed_tools: other tools would have to run at the "
                "agent.",
                param="tool_choice",
                code="unsupported_value",
            )
        case _:
            raise RequestError(
                "`tool_choice` must be auto, none, required, or an object of type function or allowed_tools.",
                param="tool_choice",
            )
    if forced and not chosen:
        raise RequestError("`tool_choice` wants a tool called, and there is none.", param="tool_choice")
    return chosen, forced


def _allowed_tools(tools: tuple[FunctionTool, ...], value: object) -> tuple[tuple[FunctionTool, ...], bool]:
    path = "tool_choice.allowed_tools"
    allowed = object_at(value, path)
    mode = allowed.get("mode")
    if mode not in ("auto", "required"):
        raise RequestError(f"`{path}.mode` must be auto or required.", param=f"{path}.mode")
    items = array(allowed.get("tools"), f"{path}.tools")
    names = {_named_tool(item, f"{path}.tools[{index}]", tools) for index, item in enumerate(items)}
    return tuple(tool for tool in tools if tool.name in names), mode == "required"


def _named_tool(value: object, path: str, tools: tuple[FunctionTool, ...]) -> str:
    function = value.get("function") if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or name not in {tool.name for tool in tools}:
        where = f"{path}.function.name"
        raise RequestError(f"`{where}` names no tool of `tools`.", param=where)
    return name
