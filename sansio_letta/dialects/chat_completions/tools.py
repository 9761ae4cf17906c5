"""The tools of a chat request, and which of them its `tool_choice` allows.

A tool that is there twice is used once.
"""

from collections.abc import Mapping

from ..._convert import WrongType
from ...config import Config
from ...errors import RequestError
from ..fields import Notices, array_at, missing, object_at, string_at, string_in, too_many, wrong_type
from ..items import FunctionTool
from ..schemas import read_parameters
from ..tool_names import with_aliases


def decode_tools(value: object, config: Config, notices: Notices) -> tuple[FunctionTool, ...]:
    """Decode the client's tools, each name once.

    :raises RequestError: if one of them is invalid; the error contains its index.
    """
    items = array_at(value, "tools")
    if len(items) > config.max_tool_count:
        raise too_many("tools", len(items), config.max_tool_count)
    tools: dict[str, FunctionTool] = {}
    for index, item in enumerate(items):
        tool = _decode_tool(item, f"tools[{index}]")
        if tool.strict:
            notices.add("tools.function.strict")
        if tools.get(tool.name, tool) != tool:
            # A program that stores tools by name would use the last one of two with one name.
            notices.add("tools.function.name")
        tools[tool.name] = tool
    return with_aliases(tools.values())


def _decode_tool(value: object, path: str) -> FunctionTool:
    raw = object_at(value, path)
    if string_in(raw, "type", path) != "function":
        raise RequestError(
            f"`{path}.type` must be function: other tools would have to run at the agent.",
            param=f"{path}.type",
            code="unsupported_value",
        )
    where = f"{path}.function"
    if raw.get("function") is None:
        raise missing(where)
    function = raw["function"]
    if type(function) is not dict:
        raise wrong_type(where, WrongType(function, "an object"))
    if "name" not in function:
        raise missing(f"{where}.name")
    name = string_at(function["name"], f"{where}.name")
    if not name:
        raise RequestError(f"`{where}.name` is empty.", param=f"{where}.name")
    description = function.get("description")
    strict = function.get("strict")
    return FunctionTool(
        name=name,
        description=None if description is None else string_at(description, f"{where}.description"),
        parameters=read_parameters(function.get("parameters"), f"{where}.parameters"),
        strict=strict if isinstance(strict, bool) else None,
    )


def choose_tools(tools: tuple[FunctionTool, ...], choice: object) -> tuple[tuple[FunctionTool, ...], bool]:
    """Return the tools that `tool_choice` allows, and whether one of them must be called."""
    match choice:
        case None | "auto" | {"type": "auto"}:
            return tools, False
        case "none" | {"type": "none"}:
            return (), False
        case "required" | {"type": "required"}:
            chosen, forced = tools, True
        case {"type": "function"}:
            named = {tool.name: tool for tool in tools}
            chosen, forced = (named[_named_tool(choice, "tool_choice", named)],), True
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
    if value is None:
        raise wrong_type(path, WrongType(value, "an object"))
    allowed = object_at(value, path)
    mode = allowed.get("mode")
    if mode not in ("auto", "required"):
        raise RequestError(f"`{path}.mode` must be auto or required.", param=f"{path}.mode")
    items = array_at(allowed.get("tools"), f"{path}.tools")
    named = {tool.name: tool for tool in tools}
    names = {_named_tool(item, f"{path}.tools[{index}]", named) for index, item in enumerate(items)}
    return tuple(tool for tool in tools if tool.name in names), mode == "required"


def _named_tool(value: object, path: str, named: Mapping[str, FunctionTool]) -> str:
    function = value.get("function") if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or name not in named:
        where = f"{path}.function.name"
        raise RequestError(f"`{where}` names no tool of `tools`.", param=where)
    return name
