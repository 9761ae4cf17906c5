"""Policies that a request may choose for itself, by headers ``X-Letta-Policy-...``; else the server's count.

What is a matter of taste may be chosen freely. What guards something may only be made stricter: who runs the
server decides what the agent may do unasked.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from attrs import evolve, frozen

from .config import Approvals, Config, ServerTools
from .errors import RequestError

#: How the headers begin.
PREFIX: Final = "x-letta-policy-"


@frozen(kw_only=True)
class Policy:
    """One policy that a request may choose.

    :param field: of `Config`.
    :param values: that it may have, by their names in the header. If it guards something: the laxest first.
    :param guards: whether a request may only make it stricter.
    """

    field: str
    values: Mapping[str, Enum]
    guards: bool = False

    def choose(self, header: str, text: str, current: Enum) -> Enum:
        """The value that a header asks for.

        :param current: the server's.
        :raises RequestError: if there is no such value, or if it is laxer than the server's.
        """
        value = self.values.get(text.strip().lower())
        allowed = list(self.values.values())
        if self.guards:
            allowed = allowed[allowed.index(current) :]
        if value in allowed:
            return value
        choice = ", ".join(str(each.value) for each in allowed)
        why = f" The server's is {current.value}, and a request can only be stricter." if value else ""
        raise RequestError(f"The header `{header}` must be one of: {choice}.{why}", param=header)


def _named(*values: Enum) -> Mapping[str, Enum]:
    return {str(value.value): value for value in values}


#: By what follows the prefix.
POLICIES: Final[Mapping[str, Policy]] = {
    "approvals": Policy(
        field="approvals", values=_named(Approvals.ALLOW, Approvals.ASK, Approvals.DENY), guards=True
    ),
    "server-tools": Policy(field="server_tools", values=_named(*ServerTools)),
}


def with_policies(config: Config, headers: Mapping[str, str]) -> Config:
    """The config with what a request chooses for itself.

    :param headers: by lower-case name.
    :raises RequestError: if a policy or a value is unknown, or not for a request to choose.
    """
    changes: dict[str, Any] = {}
    for header, text in headers.items():
        if not header.startswith(PREFIX):
            continue
        policy = POLICIES.get(header.removeprefix(PREFIX))
        if policy is None:
            known = ", ".join(PREFIX + name for name in POLICIES)
            raise RequestError(f"There is no policy `{header[:80]}`; there are {known}.", param=header[:80])
        changes[policy.field] = policy.choose(header, text, getattr(config, policy.field))
    return evolve(config, **changes) if changes else config
