"""The trio server: OpenAI clients on one side, Letta on the other, `sansio_letta` between them."""

from .server import Server, serve
from .settings.access import Access
from .settings.policies import PolicySettings
from .settings.server import Settings
from .settings.threads import ThreadSettings
from .settings.turns import TurnSettings
from .upstream.base import Upstream, UpstreamError, UpstreamExchange
from .upstream.pool import LettaPool

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
