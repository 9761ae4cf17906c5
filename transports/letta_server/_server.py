"""Listeners, a task for each connection, a cycle for each request."""

import secrets
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import structlog
import trio
from attrs import asdict, define, evolve, field

from letta_inprocess._recordings import RecordingFolder
from sansio_letta import (
    Cycle,
    HttpRequest,
    LocalProtocolError,
    Proxy,
    RequestError,
    ResponseBody,
    ResponseHead,
    Signal,
    Summary,
)
from sansio_letta.chat_writer import encode_stream_error
from sansio_letta.events import Command, Failure
from sansio_letta.inquiry import error_reply
from sansio_letta.recorder import RecordedCycle

from ._http import BadRequest, BodyTooLarge, ClientConnection, ClientGone
from ._settings import Settings
from ._upstream import LettaPool, Upstream, UpstreamError, UpstreamExchange

_log: Final = structlog.get_logger("letta_server")

Log: TypeAlias = Callable[[Summary, float, float | None], None]

#: How long a refused client may go on sending until its connection is reset.
_LINGER_TIMEOUT: Final = 2.0
#: How long a command may take to be sent whatever else is due; a connection to Letta has ten seconds to stand.
_COMMAND_TIMEOUT: Final = 15.0


def log_request(summary: Summary, seconds: float, first: float | None) -> None:
    """One line for one request; no key and no text."""
    fields: dict[str, Any] = asdict(summary, recurse=False)
    usage, settled = fields.pop("usage"), fields.pop("settled")
    if usage is not None:
        fields |= {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
    if settled is not None:
        fields |= {f"{name}_calls": len(ids) for name, ids in asdict(settled).items() if ids}
    fields["first_seconds"] = None if first is None else round(first, 4)
    fields["seconds"] = round(seconds, 4)
    _log.info("request", **{name: value for name, value in fields.items() if value not in (None, (), 0)})


@define(eq=False)
class Carrier:
    """Carries out one cycle's commands against Letta, until the cycle wants to say something to the client."""

    cycle: Cycle | RecordedCycle
    upstream: Upstream
    _exchange: UpstreamExchange | None = field(default=None, init=False)
    _has_head: bool = field(default=False, init=False)

    async def advance(self, item: Command | Signal) -> None:
        """Carry out a command, or wait for more of the answer to the last one, until the cycle's deadline."""
        deadline = self.cycle.next_deadline()
        if not isinstance(item, Signal):
            # What is due already, or will be in a moment, must not stop a command: it may be the cancel of a
            # run that was silent, or whose client has not read for a minute.
            deadline = max(deadline, trio.current_time() + _COMMAND_TIMEOUT)
        with trio.move_on_at(deadline) as scope:
            if isinstance(item, Signal):
                await self.receive()
            else:
                await self._send(item)
        if scope.cancelled_caught:
            self.cycle.handle_deadline(trio.current_time())

    async def _send(self, command: Command) -> None:
        self.close()
        try:
            self._exchange = await self.upstream.send(command)
        except UpstreamError as exc:
            self.cycle.receive_failure(exc.failure, exc.reason, trio.current_time())

    async def receive(self) -> None:
        """Wait for more of the answer to the last command. May be cancelled at any time, and called again."""
        cycle, exchange = self.cycle, self._exchange
        try:
            if exchange is None:
                cycle.receive_failure(Failure.NOT_SENT, "the request was not sent", trio.current_time())
            elif self._has_head:
                data = await exchange.receive_data()
                cycle.receive_data(data, trio.current_time())
            else:
                status, headers = await exchange.receive_head()
                self._has_head = True
                cycle.receive_response(status, headers, trio.current_time())
        except UpstreamError as exc:
            cycle.receive_failure(exc.failure, exc.reason, trio.current_time())

    async def collect(self) -> tuple[int, bytes]:
        """The cycle's whole answer, where nobody waits for its pieces: status and body."""
        status, body = 0, b""
        try:
            while (item := self.cycle.next_event()) is not Signal.FINISHED:
                match item:
                    case ResponseHead():
                        status = item.status
                    case ResponseBody(data=data):
                        body += data
                    case _:
                        await self.advance(item)
        finally:
            self.close()
        return status, body

    async def finish(self) -> None:
        """The client has left: do what the cycle still wants of Letta."""
        self.cycle.abandon()
        while (item := self.cycle.next_event()) is not Signal.FINISHED:
            if not isinstance(item, ResponseHead | ResponseBody):
                await self.advance(item)

    def close(self) -> None:
        """No more will be asked in the exchange under way."""
        if self._exchange is not None:
            self._exchange.release()
        self._exchange, self._has_head = None, False


def _recording_failed(error: OSError) -> None:
    """A full disk is no reason to leave a client without its answer."""
    _log.error("cannot record", reason=error.strerror or str(error), path=str(error.filename))


async def ask(proxy: Proxy, upstream: Upstream, target: str) -> tuple[int, bytes]:
    """A GET request without a client: for what the server itself wants to know.

    :return: status and body.
    """
    request = HttpRequest(method="GET", target=target)
    cycle = proxy.open(request, token=secrets.token_hex(8), created=int(time.time()), now=trio.current_time())
    return await Carrier(cycle, upstream).collect()


@define(eq=False)
class Server:
    """Serves clients on any listeners.

    :param upstream: carries out the core's commands: a `LettaPool`, or recordings.
    :param log: called once a request has been answered.
    """

    settings: Settings
    upstream: Upstream
    log: Log = log_request
    proxy: Proxy = field(init=False)
    recordings: RecordingFolder | None = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.proxy = Proxy(self.settings.config())
        self.recordings = self.settings.recordings

    async def handle(self, stream: trio.abc.Stream) -> None:
        """Serve one connection until its end; never raises for what a peer does."""
        settings = self.settings
        client = ClientConnection(stream, settings.max_header_size, settings.send_timeout)
        try:
            while await self._serve_request(client):
                pass
        except ClientGone:
            pass
        except Exception:
            # A defect of ours must end this connection and no other.
            _log.exception("connection failed")
        finally:
            with trio.move_on_after(settings.send_timeout, shield=True):
                await _close(stream)

    async def _serve_request(self, client: ClientConnection) -> bool:
        """Answer one request; False if the connection is to be closed."""
        waited = False
        with trio.move_on_after(self.settings.idle_timeout):
            waited = await client.wait_for_request()
        if not waited:
            return False
        token, request = secrets.token_hex(12), HttpRequest(method="", target="")
        try:
            with trio.fail_after(self.settings.request_timeout):
                request = await client.receive_head()
                refusal = self.proxy.refuse(request)
                body = b"" if refusal else await client.receive_body(self.settings.max_request_size)
        except BadRequest as exc:
            if not client.can_respond:
                return False
            refusal = RequestError(
                f"The request is not valid HTTP: {exc.reason}.",
                status=431 if exc.status == 431 else 400,
                code="invalid_http",
            )
        except BodyTooLarge:
            refusal = self.proxy.too_large()
        except trio.TooSlowError:
            return False
        now = trio.current_time()
        if refusal is not None:
            await self._answer(client, self.proxy.reject(refusal, request, token=token, now=now), now)
        else:
            await self._answer(client, self._open(evolve(request, body=body), token, now), now)
        return client.start_next_cycle()

    def _open(self, request: HttpRequest, token: str, now: float) -> Cycle | RecordedCycle:
        created = int(time.time())
        cycle = self.proxy.open(request, token=token, created=created, now=now)
        if self.recordings is None:
            return cycle
        try:
            return self.recordings.record(
                cycle, request, token=token, created=created, now=now, on_error=_recording_failed
            )
        except OSError as exc:
            _recording_failed(exc)
            return cycle

    async def _answer(self, client: ClientConnection, cycle: Cycle | RecordedCycle, began: float) -> None:
        carrier = Carrier(cycle, self.upstream)
        response = _Response(client, carrier)
        finished = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.watch, nursery.cancel_scope)
                await response.run()
                finished = True
                nursery.cancel_scope.cancel()
        except* ClientGone:
            client.gone = True
        except* Exception:
            # A defect of ours: told in full to the log, to the client only that it must not try again.
            _log.exception("request failed", request_id=cycle.summary.request_id)
            cycle.summary.outcome = "internal_error"
            await response.apologise()
        finally:
            if not finished:
                with trio.move_on_after(self.settings.cancel_timeout, shield=True):
                    await carrier.finish()
            carrier.close()
            self.log(cycle.summary, trio.current_time() - began, response.first and response.first - began)
        if client.gone:
            raise ClientGone


@define(eq=False)
class _Response:
    """Writes one cycle's response as it comes."""

    client: ClientConnection
    carrier: Carrier
    first: float | None = field(default=None, init=False)  #: when the first bytes of the body went out
    streaming: bool = field(default=False, init=False)

    async def run(self) -> None:
        """Answer the request, all of it."""
        client, carrier = self.client, self.carrier
        item: Command | Signal = Signal.NEED_DATA
        while item is not Signal.FINISHED:
            with trio.move_on_at(carrier.cycle.next_deadline()) as scope:
                item = await self._pass_on(scope)
            if scope.cancelled_caught:
                carrier.cycle.handle_deadline(trio.current_time())
                continue
            await client.flush()
            if not isinstance(item, Signal):
                await carrier.advance(item)
        client.write_end()
        await client.flush()

    async def apologise(self) -> None:
        """Tell a client that something of ours broke, in whatever form is still possible."""
        client, error = self.client, LocalProtocolError("")
        if client.can_respond:
            reply = error_reply(error)
            length = ("content-length", str(len(reply.body)))
            client.write_head(ResponseHead(status=reply.status, headers=(*reply.headers, length)))
            client.write_body(reply.body)
        elif self.streaming:
            client.write_body(encode_stream_error(error))
        else:
            raise ClientGone
        client.write_end()
        await client.flush()

    async def _pass_on(self, scope: trio.CancelScope) -> Command | Signal:
        """Pass Letta's words on for as long as the client takes them at once.

        One scope serves many waits, since each costs time. Its deadline may be an old one, which only means
        that it is looked at again, but it must not be too late.

        :return: the command that comes next, FINISHED, or NEED_DATA if the client must be waited for.
        """
        client, cycle = self.client, self.carrier.cycle
        while True:
            match cycle.next_event():
                case ResponseBody(data=data):
                    self.first = self.first or trio.current_time()
                    client.write_body(data)
                case ResponseHead() as head:
                    self.streaming = ("content-type", "text/event-stream") in head.headers
                    client.write_head(head)
                case Signal.NEED_DATA:
                    # What came in one read leaves in one write, and nothing waits for more.
                    if not client.flush_now():
                        return Signal.NEED_DATA
                    scope.deadline = min(scope.deadline, cycle.next_deadline())
                    await self.carrier.receive()
                case item:
                    return item


async def _close(stream: trio.abc.Stream) -> None:
    """Close so that the client gets our last bytes: with its own unread, closing at once would reset them."""
    try:
        if isinstance(stream, trio.SocketStream):
            await stream.send_eof()
            with trio.move_on_after(_LINGER_TIMEOUT):
                while await stream.receive_some(64 * 1024):
                    pass
        await stream.aclose()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        await trio.aclose_forcefully(stream)


async def serve(
    settings: Settings,
    upstream: Upstream | None = None,
    *,
    task_status: trio.TaskStatus[tuple[Server, list[trio.SocketListener]]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen and serve until cancelled; turns under way are ended then.

    :param upstream: who answers the core's commands; by default a pool of connections to `settings.letta_url`.
    :param task_status: is told the server and its listeners, whose sockets know the port if it was 0.
    :raises OSError: if the address cannot be listened on.
    """
    if upstream is not None:
        await _serve(settings, upstream, task_status)
        return
    pool = LettaPool(settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        try:
            await _serve(settings, pool, task_status)
        finally:
            pool.stop()


async def _serve(
    settings: Settings,
    upstream: Upstream,
    task_status: trio.TaskStatus[tuple[Server, list[trio.SocketListener]]],
) -> None:
    server = Server(settings, upstream)
    listeners = await trio.open_tcp_listeners(settings.port, host=settings.host)
    limiter = trio.CapacityLimiter(settings.max_connection_count)

    async def handle(stream: trio.SocketStream) -> None:
        async with limiter:
            await server.handle(stream)

    async with trio.open_nursery() as connections:
        task_status.started((server, listeners))
        await trio.serve_listeners(handle, listeners, handler_nursery=connections)
