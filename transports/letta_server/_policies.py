"""Options of ``letta-proxy serve`` for what becomes of a turn: the core's policies that a server chooses."""

from typing import Annotated

from attrs import field, frozen
from cyclopts import Parameter

from sansio_letta import Approvals, ServerTools

from ._settings import Settings

_DEFAULT = Settings()


@Parameter(name="*")
@frozen(kw_only=True)
class PolicyOptions:
    """A request may choose for itself, too: `sansio_letta.policies`."""

    approvals: Annotated[
        Approvals,
        Parameter(
            env_var="LETTA_PROXY_APPROVALS",
            help="For the agent's tools that need a human: ask in the chat, allow them, deny them.",
        ),
    ] = field(default=_DEFAULT.approvals)
    server_tools: Annotated[
        ServerTools,
        Parameter(
            env_var="LETTA_PROXY_SERVER_TOOLS",
            help="How the agent's own tools are shown: hidden, as reasoning, as status events of Open WebUI.",
        ),
    ] = field(default=_DEFAULT.server_tools)
