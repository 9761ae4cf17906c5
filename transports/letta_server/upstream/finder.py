"""Which Letta answers at the address of the settings: the REST API, or an App Server."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio
from attrs import define, field

from ..settings.server import Settings
from .identify import is_app_server, socket_url
from .pool import LettaPool

if TYPE_CHECKING:
    from .app_server import AppServerTransport

#: Schemes of an App Server's address; one of HTTP is asked what it is.
_SOCKET_SCHEMES: Final = ("ws:", "wss:")
#: Seconds between questions, while nothing answers.
_PAUSE: Final = 2.0


@define(eq=False)
class LettaFinder:
    """Finds out what answers, and opens the connection to an App Server.

    :param nursery: where that connection runs, until `stop`.
    """

    settings: Settings
    nursery: trio.Nursery
    is_sure: bool = field(default=True, init=False)  #: something has answered, or the address says it
    _transport: "AppServerTransport | None" = field(default=None, init=False)
    _scope: trio.CancelScope = field(factory=trio.CancelScope, init=False)

    async def find(self, pool: LettaPool) -> "AppServerTransport | None":
        """Return the App Server; None if Letta's REST API answers, or nothing does yet."""
        if self.settings.access.pass_through:
            return None  # each client has a key of its own: only the REST API takes those
        is_one = True
        if not self.settings.letta_url.startswith(_SOCKET_SCHEMES):
            answer = await is_app_server(pool)
            self.is_sure, is_one = answer is not None, answer is True
        return await self._open() if is_one else None

    async def keep_looking(self, pool: LettaPool, use: Callable[["AppServerTransport"], None]) -> None:
        """Ask again until something answers. Letta may start later than this server.

        :param use: called with the App Server if it is one.
        """
        with self._scope:
            while (answer := await is_app_server(pool)) is None:  # noqa: ASYNC110 (nothing says when)
                await trio.sleep(_PAUSE)
            if answer:
                use(await self._open())

    def stop(self) -> None:
        """Close the connection, and look no more."""
        self._scope.cancel()
        if self._transport is not None:
            self._transport.stop()

    async def _open(self) -> "AppServerTransport":
        # Imported only if used, since each import delays the start.
        from .app_server import AppServerTransport

        self._transport = AppServerTransport(self.settings, socket_url(self.settings.letta_url))
        await self.nursery.start(self._transport.run)
        return self._transport
