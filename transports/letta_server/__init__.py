"""The trio server: OpenAI clients on one side, Letta on the other, `sansio_letta` between them."""

from ._server import Server, serve
from ._settings import Settings
from ._upstream import LettaPool, Upstream, UpstreamError, UpstreamExchange

__all__ = ["LettaPool", "Server", "Settings", "Upstream", "UpstreamError", "UpstreamExchange", "serve"]
