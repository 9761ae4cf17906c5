"""The names, tags and rules of a client's tools that are attached to an agent.

Some agents and servers ignore the `client_tools` of a request (see `Capabilities.client_tools`). For them, each
of the client's tools is created in Letta as a tool that requires approval, and attached to the agent. Its calls
are then pending like those of `client_tools`. `tool_attachment` sends the commands; this module knows the
conventions:

- A tool's name is unique in an organisation. So ours contain a hash of name, description and schema: clients
  with the same tool share it, and clients with different tools of the same name do not interfere. The prefix
  avoids collisions with the agent's own tools. The client only sees its own names.
- Each tool has a tag with the time until which it is kept even if no agent has it. See `is_expired`.
- An agent with such tools has two tags: one to find it by, and a `Stamp`, which identifies the turn.
- Letta adds rules for attached tools, which stay when the tools are detached (legacy_ephemeral_tool.jsonl).
  They are recognised by the tool's name.
"""

import re
from base64 import b32encode
from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256
from typing import Any, Final

import orjson
from attrs import evolve, frozen

from ...errors import FieldPath, RequestError, RequestField
from ...turn.request import Tool
from . import letta

#: Prefix of the names of our tools. A hash and the client's name follow.
PREFIX: Final = "client_"
#: Limit of model providers; Letta has none.
_MAX_NAME_SIZE: Final = 64
_OURS: Final = re.compile(rf"{PREFIX}[a-z2-7]{{12}}_[A-Za-z0-9_-]+")

#: Tag of each of our tools, and of each agent that has one.
MARK: Final = "letta-proxy-client-tools"
_UNTIL: Final = re.compile(rf"{MARK} until (\d{{1,15}})(?: for (\w{{1,64}}))?")

#: Arguments that Letta adds to the tools of legacy agents. It removes the first from every call, and adds the
#: second to every call.
_RESERVED_ARGUMENTS: Final = ("thinking", "request_heartbeat")
#: Letta serialises the arguments again, with this one last (legacy_client_tool.jsonl).
_HEARTBEAT: Final = re.compile(r'(?:, |(?<=\{))"request_heartbeat": (?:true|false)\}\Z')


@frozen(kw_only=True)
class OfferedTool:
    """A client's tool as the agent gets it.

    :param name: the client's name of it.
    :param tool: the tool, with its name in Letta.
    """

    name: str
    tool: Tool


@frozen(kw_only=True)
class Stamp:
    """Says which turn has attached tools to an agent.

    :param until: Unix time in seconds; afterwards any process may detach them.
    :param owner: the request's token.
    """

    until: int
    owner: str

    @property
    def tag(self) -> str:
        """The stamp as a tag of the agent."""
        return f"{MARK} until {self.until} for {self.owner}"


def is_our_name(name: str | None) -> bool:
    """Return whether a tool with this name was created by this software."""
    return name is not None and _OURS.fullmatch(name) is not None


def is_ours(tool: letta.Tool) -> bool:
    """Return whether a tool was created by this software. No others are ever detached or deleted."""
    return is_our_name(tool.name) and MARK in tool.tags


def tool_tags(until: int) -> tuple[str, ...]:
    """Return the tags of a tool.

    :param until: when it expires, Unix time in seconds.
    """
    return (MARK, f"{MARK} until {until}")


def is_expired(tool: letta.Tool, now: int) -> bool:
    """Return whether one of our tools must be created again before use, or deleted if no agent has it.

    :param now: Unix time in seconds.
    """
    return _until(tool.tags) <= now


def stamp_of(toolbox: letta.Toolbox) -> Stamp:
    """Return an agent's stamp. Without a readable one, return a stamp without an owner that has expired."""
    found = [match for tag in toolbox.tags if (match := _UNTIL.fullmatch(tag)) and match[2]]
    return Stamp(until=int(found[0][1]), owner=found[0][2]) if found else Stamp(until=0, owner="")


def _until(tags: Iterable[str]) -> int:
    return max((int(match[1]) for tag in tags if (match := _UNTIL.fullmatch(tag))), default=0)


def without_ours(toolbox: letta.Toolbox) -> letta.Toolbox:
    """Return an agent's toolbox without our tools, their rules and our tags."""
    return evolve(
        toolbox,
        tools=tuple(tool for tool in toolbox.tools if not is_ours(tool)),
        rules=tuple(rule for rule in toolbox.rules if not is_our_name(rule.get("tool_name"))),
        tags=tuple(tag for tag in toolbox.tags if tag != MARK and not _UNTIL.fullmatch(tag)),
    )


def with_tools(toolbox: letta.Toolbox, tools: Iterable[letta.Tool], stamp: Stamp) -> letta.Toolbox:
    """Return an agent's toolbox with these of our tools and no others."""
    own, attached = without_ours(toolbox), tuple(tools)
    rules = tuple({"type": "requires_approval", "tool_name": tool.name} for tool in attached)
    return evolve(
        own, tools=(*own.tools, *attached), rules=(*own.rules, *rules), tags=(*own.tags, MARK, stamp.tag)
    )


def offer_attached(tools: Iterable[Tool], *, adds_arguments: bool) -> tuple[OfferedTool, ...]:
    """Return the client's tools as they are attached to an agent.

    :param adds_arguments: whether Letta adds arguments of its own to the agent's tools.
    :raises RequestError: if Letta could not offer a tool to the agent; it names the field.
    """
    return tuple(
        _with_hashed_name(evolve(tool, parameters=_check(tool.parameters, index, adds_arguments)))
        for index, tool in enumerate(tools)
    )


def _with_hashed_name(tool: Tool) -> OfferedTool:
    identity = orjson.dumps([tool.name, tool.description, tool.parameters], option=orjson.OPT_SORT_KEYS)
    digest = b32encode(sha256(identity).digest()).decode().lower()[:12]
    # The hash also covers the part of a long name that is cut off.
    return OfferedTool(name=tool.name, tool=evolve(tool, name=f"{PREFIX}{digest}_{tool.name}"[:_MAX_NAME_SIZE]))


def offer_in_request(tools: Iterable[Tool], own_names: Collection[str]) -> tuple[OfferedTool, ...]:
    """Return the client's tools as they are sent in a request.

    A client's tool with the name of one of the agent's own would replace it in Letta, and what the agent wants
    to store in its memory might be sent to the client. So it is renamed like an attached tool, and its
    description says what it is.

    :param own_names: the names of the agent's own tools.
    """
    return tuple(
        _renamed(tool) if tool.name in own_names else OfferedTool(name=tool.name, tool=tool) for tool in tools
    )


def _renamed(tool: Tool) -> OfferedTool:
    offer = _with_hashed_name(tool)
    note = f"The user's program has this tool and calls it {tool.name}; your own tool of that name is another."
    description = f"{tool.description}\n\n{note}" if tool.description else note
    return evolve(offer, tool=evolve(offer.tool, description=description))


def _check(parameters: Mapping[str, Any], index: int, adds_arguments: bool) -> dict[str, Any]:
    """Return a schema with all the keys that Letta requires. Without them every run fails.

    :param index: of the tool.
    """
    given = {name: value for name, value in parameters.items() if value is not None}
    whole = {"type": "object", "properties": {}, "required": [], **given}
    if whole["type"] != "object":
        raise _unfit(index, ("type",), "must be object")
    if not isinstance(whole["properties"], dict):
        raise _unfit(index, ("properties",), "must be an object")
    if not isinstance(whole["required"], list) or not all(isinstance(name, str) for name in whole["required"]):
        raise _unfit(index, ("required",), "must be a list of names")
    for name in _RESERVED_ARGUMENTS if adds_arguments else ():
        if name in whole["properties"]:
            raise _unfit(
                index,
                ("properties", name),
                "cannot be an argument: Letta adds one of this name to every tool",
            )
    return whole


def _unfit(index: int, inside: tuple[str, ...], why: str) -> RequestError:
    return RequestError(
        f"`{{field}}` {why}, for an agent that gets the client's tools as its own.",
        field=FieldPath(RequestField.TOOL_PARAMETERS, index, inside),
    )


def strip_heartbeat(arguments: str) -> str:
    """Return a call's arguments without the one that Letta adds for legacy agents.

    :param arguments: complete, as Letta serialises them.
    """
    return _HEARTBEAT.sub("}", arguments)
