"""The trio server: OpenAI clients on one side, Letta on the other, `sansio_letta` between them.

Names are imported on first use, so that commands that do not serve do not import a server.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
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

#: Name -> the module that defines it.
_MODULES: Final = {
    "Access": ".settings.access",
    "LettaPool": ".upstream.pool",
    "PolicySettings": ".settings.policies",
    "Server": ".server",
    "Settings": ".settings.server",
    "ThreadSettings": ".settings.threads",
    "TurnSettings": ".settings.turns",
    "Upstream": ".upstream.base",
    "UpstreamError": ".upstream.base",
    "UpstreamExchange": ".upstream.base",
    "serve": ".server",
}

if not TYPE_CHECKING:  # otherwise, type checkers would accept any name

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODULES[name], __name__), name)
