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
    """Writes one cycle's response as it comes."""

    client: ClientConnection
    driver: CycleDriver
    shutdown: Shutdown
    headers: Headers = ()  #: more of them, for whatever answer there is
    first: float | None = field(default=None, init=False)  #: when the first bytes went out, but for comments
    ended: bool = field(default=False, init=False)  #: the client has all of it
    streaming: bool = field(default=False, init=False)

    async def run(self) -> None:
        """Answer the request, all of it."""
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
                await self._end()  # nobody need wait while we clean up
            if item is Signal.WAITING or not isinstance(item, Signal):
                await driver.advance(item)
        await self._end()

    async def _end(self) -> None:
        if not self.ended:
            self.ended = True
            self.client.write_end()
            await self.client.flush()

    async def send_internal_error(self) -> None:
        """Tell a client that something of ours broke, in whatever form is still possible."""
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
        """Pass Letta's words on for as long as the client takes them at once.

        One scope serves many waits, since each costs time. Its deadline may be an old one, which only means
        that it is looked at again, but it must not be too late.

        :return: the command that comes next, FINISHED, WAITING, or NEED_DATA if the client must be waited for.
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
                    # What came in one read leaves in one write, and nothing waits for more.
                    if not client.flush_now() or (cycle.is_complete and not self.ended):
                        return Signal.NEED_DATA
                    scope.deadline = min(scope.deadline, cycle.next_deadline())
                    await self.driver.receive()
                case item:
                    return item
