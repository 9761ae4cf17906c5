"""Policies: how turns are handled. A key or a request can override the server's value.

The operator can set any value for the server and for keys. A request chooses with ``X-Letta-Policy-...``
headers: any value if the policy is a matter of taste, but only a stricter one if the policy protects something.
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final, TypeAlias

from attrs import evolve, frozen

from ..config import (
    AgentToolPolicy,
    Approvals,
    Background,
    Config,
    Enforcement,
    InstructionPolicy,
    NamedTools,
    ReasoningField,
    ServerTools,
    Speakers,
    TaskPolicy,
    Threads,
    UsageCount,
)
from ..errors import RequestError
from ..upstreams.rest.response import Headers

#: Prefix of the headers.
PREFIX: Final = "x-letta-policy-"

PolicyValue: TypeAlias = Enum | NamedTools


@frozen(kw_only=True)
class Policy:
    """One policy.

    :param field: the field of `Config`.
    :param levels: its values, from the most to the least permissive; values within a level are equally strict.
        A request may choose from the level of the current value and from stricter ones.
    :param guards: the purpose of the stricter values, as a clause; empty if there is only one level.
    :param shapes: whether it changes what the agent is asked or does. If it only changes how the answer is
        shown or transferred, the same request with another value is still a retry.
    :param takes_names: whether the operator may list names of tools instead. A request can only replace them
        by the strictest value.
    """

    field: str
    levels: tuple[tuple[Enum, ...], ...]
    guards: str = ""
    shapes: bool = False
    takes_names: bool = False

    @property
    def values(self) -> tuple[Enum, ...]:
        """All values, the most permissive first."""
        return tuple(value for level in self.levels for value in level)

    @property
    def choices(self) -> tuple[str, ...]:
        """What the operator may write, for messages."""
        return (
            *(str(value.value) for value in self.values),
            *(("names of tools",) if self.takes_names else ()),
        )

    def read(self, text: str) -> PolicyValue | None:
        """Return the value with this name; case, blanks around it, and dashes for underscores do not matter."""
        name = text.strip().lower().replace("-", "_")
        found = next((value for value in self.values if value.value.replace("-", "_") == name), None)
        return NamedTools.read(text) if found is None and self.takes_names else found

    def open_to_requests(self, current: PolicyValue) -> tuple[Enum, ...]:
        """Return the values that a request may choose.

        :param current: the value that applies if the request does not choose.
        """
        if isinstance(current, NamedTools):
            return self.levels[-1]
        first = next(number for number, level in enumerate(self.levels) if current in level)
        return tuple(value for level in self.levels[first:] for value in level)


#: By name: what follows the prefix in a header, and the key in a keys file.
POLICIES: Final[Mapping[str, Policy]] = {
    "approvals": Policy(
        field="approvals",
        levels=((Approvals.ALLOW,), (Approvals.ASK,), (Approvals.DENY,)),
        guards="the operator decides what the agent may do without asking",
        shapes=True,
    ),
    # They run on the App Server's host: with `ask`, whoever sends the user's messages decides about a shell.
    "agent-tools": Policy(
        field="agent_tools",
        levels=((AgentToolPolicy.ASK,), (AgentToolPolicy.MEMORY,), (AgentToolPolicy.NONE,)),
        guards="the operator decides what the agent may do on the App Server's host",
        shapes=True,
        takes_names=True,
    ),
    # Hidden tools are not secret: the client can ask the agent what it found. To keep them secret, turn off the
    # reasoning, which includes the arguments and results of tools.
    "server-tools": Policy(field="server_tools", levels=(tuple(ServerTools),)),
    # Instructions that replace the agent's own make it another agent; with once and always they are added.
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
    # A background prompt in other words counts as the user's anyway, so a request may choose `pass`. A key with
    # `all` stores nothing in the agent's memory, which no other value guarantees.
    "tasks": Policy(
        field="tasks",
        levels=((TaskPolicy.ISOLATE, TaskPolicy.PASS), (TaskPolicy.REFUSE,), (TaskPolicy.ALL,)),
        guards="the operator decides which prompts are worth their tokens, and what the agent remembers",
        shapes=True,
    ),
    # A client can name the speaker in any case, for example in the text.
    "speakers": Policy(field="speakers", levels=(tuple(Speakers),), shapes=True),
    # A client that wants another thread can name it, or the agent's own.
    "threads": Policy(field="threads", levels=(tuple(Threads),), shapes=True),
    # It costs one more run at most, which a client could also cause by sending a second request.
    "enforcement": Policy(field="enforcement", levels=(tuple(Enforcement),), shapes=True),
    # The two field names are a matter of taste, but reasoning may contain what should stay private.
    "reasoning": Policy(
        field="reasoning_field",
        levels=((ReasoningField.REASONING_CONTENT, ReasoningField.REASONING), (ReasoningField.OFF,)),
        guards="the operator decides whether clients see the agent's reasoning",
    ),
    # Both values tell the client what a turn has cost.
    "usage": Policy(field="usage", levels=(tuple(UsageCount),)),
    # A client can already get it with `auto` by not streaming, so `always` costs Letta nothing more.
    "background": Policy(
        field="background",
        levels=((Background.AUTO, Background.ALWAYS), (Background.NEVER,)),
        guards="the operator decides whether Letta stores streams",
    ),
}


def with_policies(config: Config, policies: Mapping[str, Any]) -> Config:
    """Return the config with other policies.

    :param policies: values by field of `Config`.
    """
    return evolve(config, **policies) if policies else config


def with_headers(config: Config, headers: Headers) -> Config:
    """Return the config with the policies that a request chooses in its headers.

    :param config: the server's config, with the policies of the request's key.
    :raises RequestError: if a policy or a value is unknown, not allowed in a request, or given twice.
    """
    changes: dict[str, Any] = {}
    for name, header, text in _asked(headers):
        policy = POLICIES.get(name)
        if policy is None:
            known = ", ".join(PREFIX + each for each in POLICIES)
            raise RequestError(f"There is no policy `{header[:80]}`; there are {known}.", param=header[:80])
        if policy.field in changes:
            # A proxy on the way may have added one, and it is unknown which one applies.
            raise RequestError(f"The header `{header}` appears twice.", param=header)
        changes[policy.field] = _choose(policy, header, text, getattr(config, policy.field))
    return with_policies(config, changes)


def shape(config: Config, headers: Headers) -> str:
    """Return the part of a request's policies that distinguishes its turn from others.

    It excludes the policies of the server and of the key: a retry must find its turn even if those change.

    :param config: the result of `with_headers` with the same headers.
    """
    asked = sorted(name for name, _, _ in _asked(headers) if POLICIES[name].shapes)
    return ",".join(f"{name}={getattr(config, POLICIES[name].field).value}" for name in asked)


def _asked(headers: Headers) -> Iterator[tuple[str, str, str]]:
    for header, text in headers:
        if header.startswith(PREFIX):
            yield header.removeprefix(PREFIX), header, text


def _choose(policy: Policy, header: str, text: str, current: PolicyValue) -> PolicyValue:
    value, allowed = policy.read(text), policy.open_to_requests(current)
    if value is not None and (value in allowed or value == current):
        return value
    choice = ", ".join(str(each.value) for each in allowed)
    why = f" It is {current.value} here, and a request can only be stricter: {policy.guards}." if value else ""
    raise RequestError(f"The header `{header}` must be one of: {choice}.{why}", param=header)
