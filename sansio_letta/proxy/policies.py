"""Policies: how turns are handled. A key or a request can override the server's value.

The operator sets the values of the server and its keys without restriction. A request can choose with headers,
``X-Letta-Policy-...``: freely if the policy is a matter of taste, but only a stricter value if it protects
something.
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final

from attrs import evolve, frozen

from ..config import (
    Approvals,
    Background,
    Config,
    Enforcement,
    InstructionPolicy,
    ReasoningField,
    ServerTools,
    Speakers,
    TaskPolicy,
    UsageCount,
)
from ..errors import RequestError
from ..upstreams.rest.response import Headers

#: How the headers begin.
PREFIX: Final = "x-letta-policy-"


@frozen(kw_only=True)
class Policy:
    """One policy.

    :param field: of `Config`.
    :param levels: its values, the laxest first; within a level none is stricter than another. A request may
        choose from the level that counts without its word, and from those behind it.
    :param guards: what the stricter values are for, as a clause; empty if there is but one level.
    :param shapes: whether the agent is asked something else by it, or does something else. If its answer is
        only shown or carried in another way, a request that comes again with another value is a repeat.
    """

    field: str
    levels: tuple[tuple[Enum, ...], ...]
    guards: str = ""
    shapes: bool = False

    @property
    def values(self) -> tuple[Enum, ...]:
        """All of them, the laxest first."""
        return tuple(value for level in self.levels for value in level)

    def read(self, text: str) -> Enum | None:
        """The value of this name, in any case, with blanks around it, and with dashes as options have them."""
        name = text.strip().lower().replace("-", "_")
        return next((value for value in self.values if value.value.replace("-", "_") == name), None)

    def open_to_requests(self, current: Enum) -> tuple[Enum, ...]:
        """What a request may choose.

        :param current: what counts without its word.
        """
        first = next(number for number, level in enumerate(self.levels) if current in level)
        return tuple(value for level in self.levels[first:] for value in level)


#: By what follows the prefix, which is their name in a file of keys, too.
POLICIES: Final[Mapping[str, Policy]] = {
    "approvals": Policy(
        field="approvals",
        levels=((Approvals.ALLOW,), (Approvals.ASK,), (Approvals.DENY,)),
        guards="the operator decides what the agent may do without asking",
        shapes=True,
    ),
    # Even what is hidden is no secret: the client may ask the agent what it has found. Where it must be one,
    # reasoning is off, and with it what tools are given and return.
    "server-tools": Policy(field="server_tools", levels=(tuple(ServerTools),)),
    # A client whose instructions replace the agent's own has another agent; once and always say them beside it.
    "instructions": Policy(
        field="instructions",
        levels=(
            (InstructionPolicy.OVERRIDE,),
            (InstructionPolicy.ONCE, InstructionPolicy.ALWAYS),
            (InstructionPolicy.IGNORE,),
        ),
        guards="the operator decides which instructions the agent follows",
        shapes=True,
    ),
    # A prompt that is said in other words is taken for the user's, so no header need be kept from saying so. A
    # key with `all` writes nothing into the agent's memory, and no value but this one promises that.
    "tasks": Policy(
        field="tasks",
        levels=((TaskPolicy.ISOLATE, TaskPolicy.PASS), (TaskPolicy.REFUSE,), (TaskPolicy.ALL,)),
        guards="the operator decides which prompts are worth their tokens, and what the agent remembers",
        shapes=True,
    ),
    # A client can say who speaks in one way or another.
    "speakers": Policy(field="speakers", levels=(tuple(Speakers),), shapes=True),
    # What it costs, a second run at most, a client could have by asking twice.
    "enforcement": Policy(field="enforcement", levels=(tuple(Enforcement),), shapes=True),
    # The two names of the field are taste; what an agent thinks may hold what its owner keeps to themselves.
    "reasoning": Policy(
        field="reasoning_field",
        levels=((ReasoningField.REASONING_CONTENT, ReasoningField.REASONING), (ReasoningField.OFF,)),
        guards="the operator decides whether clients see the agent's reasoning",
    ),
    # What a turn has cost its client is told by either.
    "usage": Policy(field="usage", levels=(tuple(UsageCount),)),
    # A client that does not stream has it by `auto` anyway: `always` costs Letta nothing more.
    "background": Policy(
        field="background",
        levels=((Background.AUTO, Background.ALWAYS), (Background.NEVER,)),
        guards="the operator decides whether Letta stores streams",
    ),
}


def with_policies(config: Config, policies: Mapping[str, Any]) -> Config:
    """The config with other policies.

    :param policies: by their fields.
    """
    return evolve(config, **policies) if policies else config


def with_headers(config: Config, headers: Headers) -> Config:
    """The config with what a request chooses for itself.

    :param config: the server's, with the policies of the request's key.
    :raises RequestError: if a policy or a value is unknown, not for a request to choose, or given twice.
    """
    changes: dict[str, Any] = {}
    for name, header, text in _asked(headers):
        policy = POLICIES.get(name)
        if policy is None:
            known = ", ".join(PREFIX + each for each in POLICIES)
            raise RequestError(f"There is no policy `{header[:80]}`; there are {known}.", param=header[:80])
        if policy.field in changes:
            # One may have been added on the way, and it cannot be known which of them counts.
            raise RequestError(f"The header `{header}` is there twice.", param=header)
        changes[policy.field] = _choose(policy, header, text, getattr(config, policy.field))
    return with_policies(config, changes)


def shape(config: Config, headers: Headers) -> str:
    """What a request asks for that makes its turn another one.

    A policy of a server or a key that changes meanwhile makes none: the repeat of a request must find its turn.

    :param config: by `with_headers`, of these.
    """
    asked = sorted(name for name, _, _ in _asked(headers) if POLICIES[name].shapes)
    return ",".join(f"{name}={getattr(config, POLICIES[name].field).value}" for name in asked)


def _asked(headers: Headers) -> Iterator[tuple[str, str, str]]:
    for header, text in headers:
        if header.startswith(PREFIX):
            yield header.removeprefix(PREFIX), header, text


def _choose(policy: Policy, header: str, text: str, current: Enum) -> Enum:
    value, allowed = policy.read(text), policy.open_to_requests(current)
    if value in allowed:
        return value
    choice = ", ".join(str(each.value) for each in allowed)
    why = f" It is {current.value} here, and a request can only be stricter: {policy.guards}." if value else ""
    raise RequestError(f"The header `{header}` must be one of: {choice}.{why}", param=header)
