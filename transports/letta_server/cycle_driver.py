"""Drives a cycle of the core: carries out its commands against an upstream."""

import secrets
import time
from math import inf
from typing import Final

import trio
from attrs import define, field

from sansio_letta import Cycle, HttpRequest, Proxy, ResponseBody, ResponseHead, Signal
from sansio_letta.errors import Failure
from sansio_letta.upstreams.rest.commands import Command

from .upstream.base import Upstream, UpstreamError, UpstreamExchange

#: Seconds in which a command can be sent even if the deadline is earlier; connecting to Letta may take ten.
_COMMAND_TIMEOUT: Final = 15.0


@define(eq=False)
class CycleDriver:
    """Carries out the commands of one cycle against Letta, until the cycle has something for the client."""

    cycle: Cycle
    upstream: Upstream
    _exchange: UpstreamExchange | None = field(default=None, init=False)
    _has_head: bool = field(default=False, init=False)
    _held: bool = field(default=False, init=False)  #: a command was taken from the cycle and not sent yet
    _woken: trio.Event = field(factory=trio.Event, init=False)
    wait: trio.CancelScope | None = field(default=None, init=False)  #: around waiting for Letta, not sending

    def __attrs_post_init__(self) -> None:
        self.cycle.wake = self._wake

    def _wake(self) -> None:
        self._woken.set()

    def hold(self, item: Command | Signal) -> None:
        """Note the next item for `advance`. If it is a command that `advance` never gets, it was not sent."""
        self._held = not isinstance(item, Signal)

    async def advance(self, item: Command | Signal) -> None:
        """Carry out a command, or wait as a signal says, until the cycle's deadline."""
        deadline = self.cycle.next_deadline()
        if not isinstance(item, Signal):
            # A deadline that has passed, or soon will, must not stop a command: it may cancel a run that was
            # silent, or whose client has not read for a minute.
            deadline = max(deadline, trio.current_time() + _COMMAND_TIMEOUT)
        with trio.move_on_at(deadline) as scope:
            self.wait = scope if isinstance(item, Signal) else None
            if item is Signal.WAITING:
                await self._woken.wait()
            elif isinstance(item, Signal):
                await self.receive()
            else:
                await self._send(item)
        if item is Signal.WAITING:
            self._woken = trio.Event()
        if item is Signal.WAITING or scope.cancelled_caught:
            self.cycle.handle_deadline(trio.current_time())

    async def _send(self, command: Command) -> None:
        self._held = False
        self._release()
        try:
            self._exchange = await self.upstream.send(command)
        except UpstreamError as exc:
            self.cycle.receive_failure(exc.failure, exc.reason, trio.current_time())

    async def receive(self) -> None:
        """Wait for more of the response to the last command. Can be cancelled at any time, and called again."""
        if self._held:
            self._held = False
            self._release()
        cycle, exchange = self.cycle, self._exchange
        try:
            if exchange is None:
                cycle.receive_failure(Failure.NOT_SENT, "the request was not sent", trio.current_time())
            elif self._has_head:
                cycle.receive_data(await exchange.receive_data(), trio.current_time())
            else:
                status, headers = await exchange.receive_head()
                self._has_head = True
                cycle.receive_response(status, headers, trio.current_time())
        except UpstreamError as exc:
            cycle.receive_failure(exc.failure, exc.reason, trio.current_time())

    async def collect(self, *, cancel_timeout: float) -> tuple[int, bytes]:
        """Drive the cycle to its end, and return the status and the body of its response.

        :param cancel_timeout: seconds for cancelling the run, if this is cancelled or fails.
        """
        status, body = 0, bytearray()
        finished = False
        try:
            while (item := self.cycle.next_event()) is not Signal.FINISHED:
                match item:
                    case ResponseHead():
                        status = item.status
                    case ResponseBody(data=data):
                        body += data
                    case _:
                        await self.advance(item)
            finished = True
        finally:
            try:
                if not finished:
                    await self.finish(cancel_timeout)
            finally:
                self.close()
        return status, bytes(body)

    async def finish(self, cancel_timeout: float) -> None:
        """Carry out the remaining commands after the client has disconnected.

        There is no timeout while retries follow the turn, or while the id of a run to cancel is not known yet.
        If this is cancelled, the turn ends, with `cancel_timeout` for clean-up.

        :param cancel_timeout: seconds for cancelling a run that no client waits for.
        """
        cycle = self.cycle
        ended = False
        try:
            cycle.client_disconnected(trio.current_time())
            with trio.CancelScope() as scope:
                while (item := cycle.next_event()) is not Signal.FINISHED:
                    if isinstance(item, ResponseHead | ResponseBody):
                        continue
                    if cycle.is_detached or cycle.seeks_run:
                        scope.deadline = inf
                    elif scope.deadline == inf:
                        scope.deadline = trio.current_time() + cancel_timeout
                    await self.advance(item)
            ended = True
        finally:
            if not ended:
                with trio.move_on_after(cancel_timeout, shield=True):
                    cycle.hurry(trio.current_time())
                    while (item := cycle.next_event()) is not Signal.FINISHED:
                        if not isinstance(item, ResponseHead | ResponseBody):
                            await self.advance(item)

    def interrupt(self, timeout: float) -> None:
        """See `Interruptible`. Stop waiting for Letta."""
        self.cycle.shut_down(trio.current_time(), timeout)
        if self.wait is not None:
            self.wait.cancel()

    def close(self) -> None:
        """Release the cycle: no more commands will be carried out."""
        self._release()
        self.cycle.close()

    def _release(self) -> None:
        """Stop reading the current exchange."""
        if self._exchange is not None:
            self._exchange.release()
        self._exchange, self._has_head = None, False


async def ask(proxy: Proxy, upstream: Upstream, target: str) -> tuple[int, bytes]:
    """Make a GET request without a client, for the server itself.

    :return: the status and the body.
    """
    request = HttpRequest(method="GET", target=target)
    cycle = proxy.open(request, token=secrets.token_hex(8), created=int(time.time()), now=trio.current_time())
    # A GET request starts no run.
    return await CycleDriver(cycle, upstream).collect(cancel_timeout=0.0)
