"""The trio server: OpenAI clients on one side, Letta on the other, `sansio_letta` between them."""

from ._access import Access
from ._policies import PolicySettings
from ._server import Server, serve
from ._settings import Settings
from ._threads import ThreadSettings
from ._turns import TurnSettings
from ._upstream import LettaPool, Upstream, UpstreamError, UpstreamExchange

__all__ = [
    "Access",
    "LettaPool",
    "PolicySettings",
    "Server",
    "Settings",
    "ThreadSettings",
    "TurnSettings",
    "Upstream",
    "UpstreamError",
    "UpstreamExchange",
    "serve",
]
