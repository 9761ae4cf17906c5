"""Questions to the server, as steps of a turn's script."""

from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from ...errors import LettaError, shown
from ...turn.upstream import Script, Wait
from .connection import AppServerConnection
from .frames import Json


class NotFound(LettaError):
    """What was asked about does not exist."""


@frozen
class Questions:
    """Asks the server for one turn.

    :param wake: has the turn go on.
    """

    connection: AppServerConnection
    wake: Callable[[], None]

    def ask(self, kind: str, content: Mapping[str, Any]) -> Script[Json]:
        """Ask, and wait for the answer.

        :raises NotFound: if the server does not know the agent or the conversation.
        :raises LettaError: if it refuses, or cannot be reached.
        :raises RemoteProtocolError: if it did not answer.
        """
        request = self.connection.ask(kind, content, wake=self.wake)
        while not request.is_done:
            yield Wait()
        if request.error is not None:
            raise request.error
        assert request.answer is not None
        if (reason := request.answer.error) is not None:
            error = NotFound if reason.endswith("not found") else LettaError
            raise error(f"The App Server refused {kind}: {shown(reason)}")
        return request.answer.body
