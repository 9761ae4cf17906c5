"""The response to one request, written to the client as the cycle yields it."""

import trio
from attrs import define, evolve, field

from sansio_letta import LocalProtocolError, ResponseBody, ResponseHead, Signal
from sansio_letta.dialects.base import EVENT_STREAM
from sansio_letta.proxy.response import error_reply
from sansio_letta.upstreams.rest.commands import Command
from sansio_letta.upstreams.rest.response import Headers

from .client.connection import ClientConnection, ClientGone
from .cycle_driver import CycleDriver
from .shutdown import Shutdown


@define(eq=False)
class Response:
    """Writes the response of one cycle to its client."""

    client: ClientConnection
    driver: CycleDriver
    shutdown: Shutdown
    headers: Headers = ()  #: added to those of the response
    first: float | None = field(default=None, init=False)  #: when the first bytes other than comments were sent
    ended: bool = field(default=False, init=False)  #: the client has the complete response
    streaming: bool = field(default=False, init=False)

    async def run(self) -> None:
        """Answer the request completely."""
        client, driver = self.client, self.driver
        item: Command | Signal = Signal.NEED_DATA
        while item is not Signal.FINISHED:
            with trio.move_on_at(driver.cycle.next_deadline()) as scope:
                driver.wait = scope
                item = await self._forward(scope)
            if scope.cancelled_caught:
                driver.cycle.handle_deadline(trio.current_time())
                continue
            driver.hold(item)
            await client.flush()
            if driver.cycle.is_complete:
                await self._end()  # the client need not wait for the clean-up
            if item is Signal.WAITING or not isinstance(item, Signal):
                await driver.advance(item)
        await self._end()

    async def _end(self) -> None:
        if not self.ended:
            self.ended = True
            self.client.write_end()
            await self.client.flush()

    async def send_internal_error(self) -> None:
        """Report an internal error to the client, in whatever form is still possible."""
        if self.ended:
            return
        client, error, dialect = self.client, LocalProtocolError(""), self.driver.cycle.dialect
        if client.can_respond:
            reply = error_reply(error, dialect)
            length = ("content-length", str(len(reply.body)))
            headers = (*reply.headers, length, *self.headers)
            client.write_head(ResponseHead(status=reply.status, headers=headers))
            client.write_body(reply.body)
        elif self.streaming:
            client.write_body(dialect.stream_error(error))
        else:
            raise ClientGone
        client.write_end()
        await client.flush()

    async def _forward(self, scope: trio.CancelScope) -> Command | Signal:
        """Forward items to the client for as long as it reads them without delay.

        One cancel scope serves many waits, since each scope costs time. Its deadline may be earlier than
        needed, which only causes an extra check, but never later.

        :return: the next command, FINISHED, WAITING, or NEED_DATA if sending to the client must wait.
        """
        client, cycle = self.client, self.driver.cycle
        while True:
            match cycle.next_event():
                case ResponseBody(data=data):
                    if self.first is None and not data.startswith(b":"):
                        self.first = trio.current_time()
                    client.write_body(data)
                case ResponseHead() as head:
                    self.streaming = ("content-type", EVENT_STREAM) in head.headers
                    head = evolve(head, headers=(*head.headers, *self.headers))
                    client.write_head(head, last=self.shutdown.begun)
                case Signal.NEED_DATA:
                    # Data from one read is sent in one write, without waiting for more.
                    if not client.flush_now() or (cycle.is_complete and not self.ended):
                        return Signal.NEED_DATA
                    scope.deadline = min(scope.deadline, cycle.next_deadline())
                    await self.driver.receive()
                case item:
                    return item
