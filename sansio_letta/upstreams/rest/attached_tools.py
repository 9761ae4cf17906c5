"""A client's tools for agents that cannot be told of them in a request: tools at Letta, for a turn.

Where `client_tools` of a request are of no use (`Capabilities.client_tools`, and servers from before them),
each of the client's tools is made as a tool at Letta that needs a human's approval, and attached to the agent.
Its calls then wait for an answer like those of `client_tools`. `tool_attachment` asks Letta for all this; here
are the names and marks by which our tools are known:

- Tools of one name exist once in an organisation, so the name holds a hash of name, description and schema:
  whoever brings the same tool shares it, whoever brings another of the same name does not see it. The prefix
  keeps it apart from the agent's own tools. What the client is told has its own name again.
- A tool carries a tag that says until when it is kept though no agent has it: see `is_expired`.
- An agent that has such tools carries two tags: one to be found by, and a `Stamp`, which tells whose they are.
- Attached tools bring rules, which detaching leaves behind (legacy_ephemeral_tool.jsonl). They are known by the
  tool's name.
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

#: Begins the names of our tools; a hash and the client's own name follow.
PREFIX: Final = "client_"
#: What model providers take; Letta has no limit of its own.
_MAX_NAME_SIZE: Final = 64
_OURS: Final = re.compile(rf"{PREFIX}[a-z2-7]{{12}}_[A-Za-z0-9_-]+")

#: On every tool of ours, and on every agent that has one.
MARK: Final = "letta-proxy-client-tools"
_UNTIL: Final = re.compile(rf"{MARK} until (\d{{1,15}})(?: for (\w{{1,64}}))?")

#: Arguments that Letta adds to the tools of legacy agents: the first is taken from every call, the second is
#: added to every call.
_TAKEN_ARGUMENTS: Final = ("thinking", "request_heartbeat")
#: Letta writes the arguments anew and puts it last (legacy_client_tool.jsonl).
_HEARTBEAT: Final = re.compile(r'(?:, |(?<=\{))"request_heartbeat": (?:true|false)\}\Z')


@frozen(kw_only=True)
class OfferedTool:
    """A client's tool as the agent gets it.

    :param name: the client's.
    :param tool: with the name that it has at Letta.
    """

    name: str
    tool: Tool


@frozen(kw_only=True)
class Stamp:
    """Whose tools an agent has.

    :param until: Unix time, seconds; after it whoever comes by takes them away.
    :param owner: the request's token.
    """

    until: int
    owner: str

    @property
    def tag(self) -> str:
        """As the agent carries it."""
        return f"{MARK} until {self.until} for {self.owner}"


def is_our_name(name: str | None) -> bool:
    """Whether a tool of this name was made here, or by another process like this one."""
    return name is not None and _OURS.fullmatch(name) is not None


def is_ours(tool: letta.Tool) -> bool:
    """Whether it was made here: nothing else is ever detached or deleted."""
    return is_our_name(tool.name) and MARK in tool.tags


def tool_tags(until: int) -> tuple[str, ...]:
    """The tags of a tool.

    :param until: Unix time, seconds.
    """
    return (MARK, f"{MARK} until {until}")


def is_expired(tool: letta.Tool, now: int) -> bool:
    """Whether a tool of ours is to be made anew before it is used, or deleted if no agent has it.

    :param now: Unix time, seconds.
    """
    return _until(tool.tags) <= now


def stamp_of(toolbox: letta.Toolbox) -> Stamp:
    """Whose tools of ours an agent has; without a stamp that can be read: nobody's, and long ago."""
    found = [match for tag in toolbox.tags if (match := _UNTIL.fullmatch(tag)) and match[2]]
    return Stamp(until=int(found[0][1]), owner=found[0][2]) if found else Stamp(until=0, owner="")


def _until(tags: Iterable[str]) -> int:
    return max((int(match[1]) for tag in tags if (match := _UNTIL.fullmatch(tag))), default=0)


def without_ours(toolbox: letta.Toolbox) -> letta.Toolbox:
    """The agent as it was: without tools of ours, their rules, and our tags."""
    return evolve(
        toolbox,
        tools=tuple(tool for tool in toolbox.tools if not is_ours(tool)),
        rules=tuple(rule for rule in toolbox.rules if not is_our_name(rule.get("tool_name"))),
        tags=tuple(tag for tag in toolbox.tags if tag != MARK and not _UNTIL.fullmatch(tag)),
    )


def with_tools(toolbox: letta.Toolbox, tools: Iterable[letta.Tool], stamp: Stamp) -> letta.Toolbox:
    """The agent with these tools, and no others of ours."""
    own, attached = without_ours(toolbox), tuple(tools)
    rules = tuple({"type": "requires_approval", "tool_name": tool.name} for tool in attached)
    return evolve(
        own, tools=(*own.tools, *attached), rules=(*own.rules, *rules), tags=(*own.tags, MARK, stamp.tag)
    )


def offer_attached(tools: Iterable[Tool], *, adds_arguments: bool) -> tuple[OfferedTool, ...]:
    """The client's tools as an agent gets them.

    :param adds_arguments: whether it is an agent whose calls Letta takes arguments from.
    :raises RequestError: if Letta could not offer one of them to the agent; it names the field.
    """
    return tuple(
        _with_hashed_name(evolve(tool, parameters=_check(tool.parameters, index, adds_arguments)))
        for index, tool in enumerate(tools)
    )


def _with_hashed_name(tool: Tool) -> OfferedTool:
    known_by = orjson.dumps([tool.name, tool.description, tool.parameters], option=orjson.OPT_SORT_KEYS)
    digest = b32encode(sha256(known_by).digest()).decode().lower()[:12]
    # What is cut off of a long name is in the hash.
    return OfferedTool(name=tool.name, tool=evolve(tool, name=f"{PREFIX}{digest}_{tool.name}"[:_MAX_NAME_SIZE]))


def offer_in_request(tools: Iterable[Tool], own_names: Collection[str]) -> tuple[OfferedTool, ...]:
    """The client's tools as they go with a request to an agent that has tools of its own.

    Letta would give the agent the client's in place of its own of the same name, and the agent's memory might
    go to the client. Such a tool gets a name like those that are lent, and its description says whose it is.

    :param own_names: of the agent's own.
    """
    return tuple(
        _renamed(tool) if tool.name in own_names else OfferedTool(name=tool.name, tool=tool) for tool in tools
    )


def _renamed(tool: Tool) -> OfferedTool:
    offer = _with_hashed_name(tool)
    whose = f"The user's program has this tool and calls it {tool.name}; your own tool of that name is another."
    description = f"{tool.description}\n\n{whose}" if tool.description else whose
    return evolve(offer, tool=evolve(offer.tool, description=description))


def _check(parameters: Mapping[str, Any], index: int, adds_arguments: bool) -> dict[str, Any]:
    """A schema with all that Letta reads without asking whether it is there: without it every run fails.

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
    for name in _TAKEN_ARGUMENTS if adds_arguments else ():
        if name in whole["properties"]:
            raise _unfit(
                index,
                ("properties", name),
                "cannot be an argument: Letta gives one of this name to every tool, and keeps it",
            )
    return whole


def _unfit(index: int, inside: tuple[str, ...], why: str) -> RequestError:
    return RequestError(
        f"`{{field}}` {why}, for an agent that gets the client's tools as its own.",
        field=FieldPath(RequestField.TOOL_PARAMETERS, index, inside),
    )


def strip_heartbeat(arguments: str) -> str:
    """A call's arguments without what Letta has added for a legacy agent.

    :param arguments: whole, as Letta writes them.
    """
    return _HEARTBEAT.sub("}", arguments)
