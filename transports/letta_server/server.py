"""The server: listeners, a task for each connection, a cycle for each request."""

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Final

import structlog
import trio
from attrs import define, evolve, field

from letta_recordings import RecordingFolder
from sansio_letta import (
    Caller,
    Cycle,
    HttpRequest,
    Proxy,
    RequestError,
    SansioLettaError,
)
from sansio_letta.errors import overloaded
from sansio_letta.proxy.observer import Observer, join_observers

from .access.admission import Admission, AdmissionControl
from .access.connections import ConnectionLimiter
from .access.tls import close_gently
from .client.bodies import BodyBudget, BudgetExceeded, too_many_chunks
from .client.connection import BadRequest, BodyTooLarge, ClientConnection, ClientGone, TooManyChunks
from .cycle_driver import CycleDriver
from .observe.log import Log, log_defect, log_request
from .process_identity import has_died, own_name
from .response import Response
from .settings.errors import SettingsError
from .settings.server import Settings
from .shutdown import Shutdown
from .upstream.base import FramedUpstream, KeyedUpstream, Upstream
from .upstream.finder import LettaFinder
from .upstream.pool import LettaPool

_log: Final = structlog.get_logger("letta_server")


def _recording_failed(error: OSError) -> None:
    """Log the error only: the client must get its answer even if the disk is full."""
    _log.error("cannot record", reason=error.strerror or str(error), path=str(error.filename))


async def sweep_periodically(server: "Server") -> None:
    """Clean up in Letta periodically after processes that died, until cancelled."""
    await sweep(server)
    while True:
        await trio.sleep(server.settings.turns.client_tool_ttl)
        await sweep(server)


async def sweep(server: "Server", *, ends: bool = False) -> None:
    """Clean up in Letta; if Letta is unavailable, leave it for the next time.

    :param ends: see `Proxy.sweep`.
    """
    token, now = secrets.token_hex(8), trio.current_time()
    cycle = server.proxy.sweep(token=token, created=int(time.time()), now=now, ends=ends, has_died=has_died)
    status, body = await CycleDriver(cycle, server.upstream).collect(cancel_timeout=0.0)
    _log.debug("swept", status=status, answer=body.decode(errors="replace")[:200])


@define(eq=False)
class Server:
    """Serves clients on any listeners.

    :param upstream: carries out the core's commands: a `LettaPool`, or recordings.
    :param log: called after each request.
    :param observers: factories, each called for every request.
    :raises SettingsError: if keys or certificate cannot be read.
    """

    settings: Settings
    upstream: Upstream
    log: Log = log_request
    observers: Sequence[Callable[[], Observer]] = ()
    proxy: Proxy = field(init=False)
    shutdown: Shutdown = field(init=False)
    recordings: RecordingFolder | None = field(init=False)
    admission: AdmissionControl = field(init=False)
    connections: ConnectionLimiter = field(init=False)
    body_budget: BodyBudget = field(init=False)
    _background: trio.Nursery | None = field(default=None, init=False)  #: turns without a client

    def __attrs_post_init__(self) -> None:
        self.proxy = Proxy(self.settings.config(), owner=own_name())
        if isinstance(self.upstream, FramedUpstream):
            self.use_app_server(self.upstream)
        self.shutdown = Shutdown(self.settings)
        self.admission, self.connections = AdmissionControl(self.settings), ConnectionLimiter(self.settings)
        self.body_budget = BodyBudget(self.settings.max_buffered_size)
        if self.settings.access.pass_through and not isinstance(self.upstream, KeyedUpstream):
            raise SettingsError("pass_through: expected an upstream that takes a client's key")
        self.recordings = self.settings.recordings

    def use_app_server(self, upstream: FramedUpstream) -> None:
        """Use an App Server from now on: it has turned out that one answers at Letta's address."""
        self.upstream, self.proxy.app_server = upstream, upstream.connection
        upstream.on_defect = partial(log_defect, "connection to the App Server failed")

    def end(self) -> None:
        """Shut down after the current turns; called again, shut down at once. See `Shutdown`."""
        self.proxy.ending = True
        self.shutdown.begin()

    async def run(self, listeners: Sequence[trio.abc.Listener[trio.abc.Stream]]) -> None:
        """Serve clients until `end` or until cancelled; then the listeners are closed."""

        async def handle(stream: trio.abc.Stream) -> None:
            if isinstance(stream, trio.SocketStream):
                await self.connections.serve_connection(stream, self.handle)
            else:
                await self.handle(stream)

        async with trio.open_nursery() as beside:
            async with trio.open_nursery() as self._background:
                async with trio.open_nursery() as connections:
                    with trio.CancelScope() as accepting:
                        beside.start_soon(self.shutdown.run, accepting, connections.cancel_scope)
                        doors = [self.connections.accepting(listener) for listener in listeners]
                        await trio.serve_listeners(handle, doors, handler_nursery=connections)
                # No client is left: turns that continue get the time for a cancel.
                self._background.cancel_scope.cancel()
            beside.cancel_scope.cancel()

    async def handle(self, stream: trio.abc.Stream) -> None:
        """Serve one connection until its end; nothing that a peer does raises an error."""
        settings = self.settings
        client = ClientConnection(
            stream,
            settings.max_header_size,
            settings.send_timeout,
            settings.max_header_count,
            settings.max_chunk_count,
        )
        try:
            while await self._serve_request(client):
                pass
        except ClientGone:
            pass
        except Exception:
            # A bug must only end this connection.
            log_defect("connection failed")
        finally:
            with trio.move_on_after(settings.send_timeout, shield=True):
                await _close(stream, linger=not client.is_idle)

    async def _serve_request(self, client: ClientConnection) -> bool:
        """Answer one request; False if the connection is to be closed."""
        with ExitStack() as waiting:
            waiting.enter_context(self.connections.waiting(client.stream))
            waited = False
            with trio.move_on_after(self.settings.idle_timeout) as scope, self.shutdown.waiting(scope):
                waited = await client.wait_for_request()
            received = await self._receive(client, waiting) if waited else None
        if received is None:
            return False
        await self._answer(client, *received)
        return client.start_next_cycle()

    async def _receive(
        self, client: ClientConnection, waiting: ExitStack
    ) -> tuple[Cycle, float, Admission] | None:
        """Receive a request, and return its cycle and when it began; the body is not kept.

        Return None if the connection must be closed without a response.

        :param waiting: closed once a request arrives.
        """
        token, request, admission = secrets.token_hex(12), HttpRequest(method="", target=""), Admission()
        refusal: SansioLettaError | None
        with self.body_budget.reserve() as reservation:
            try:
                with trio.fail_after(self.settings.request_timeout):
                    request = await client.receive_head()
                    waiting.close()
                    admission = await self.admission.admit(request)
                    refusal = admission.refusal or self.proxy.refuse(request)
                    body = (
                        b""
                        if refusal
                        else await client.receive_body(self.settings.max_request_size, reservation.grow)
                    )
            except BadRequest as exc:
                if not client.can_respond:
                    return None
                refusal = RequestError(
                    f"The request is not valid HTTP: {exc.reason}.",
                    status=431 if exc.status == 431 else 400,
                    code="invalid_http",
                )
            except BodyTooLarge:
                refusal = self.proxy.too_large()
            except TooManyChunks:
                refusal = too_many_chunks(self.settings.max_chunk_count)
            except BudgetExceeded:
                refusal = overloaded()
            except trio.TooSlowError:
                return None
            now = trio.current_time()
            if refusal is not None:
                cycle = self.proxy.reject(
                    refusal,
                    request,
                    token=token,
                    now=now,
                    caller=admission.caller,
                    observer=self._observer(),
                )
            else:
                cycle = self._open(evolve(request, body=body), token, now, admission.caller)
        return cycle, now, admission

    def _open(self, request: HttpRequest, token: str, now: float, caller: Caller) -> Cycle:
        created = int(time.time())
        recorder = None
        if self.recordings is not None:
            recorder = self.recordings.recorder(token=token, created=created, on_error=_recording_failed)
        observer = self._observer(recorder)
        return self.proxy.open(request, token=token, created=created, now=now, caller=caller, observer=observer)

    def _observer(self, recorder: Observer | None = None) -> Observer | None:
        return join_observers(recorder, *(make() for make in self.observers))

    def _upstream_for(self, admission: Admission) -> Upstream:
        if admission.letta_key is None:
            return self.upstream
        assert isinstance(self.upstream, KeyedUpstream)
        return self.upstream.with_key(admission.letta_key)

    async def _answer(
        self,
        client: ClientConnection,
        cycle: Cycle,
        began: float,
        admission: Admission,
    ) -> None:
        driver = CycleDriver(cycle, self._upstream_for(admission))
        response = Response(client, driver, self.shutdown, admission.headers)
        with self.shutdown.responding(driver):
            await self._carry(response, began)
        if client.gone:
            raise ClientGone

    async def _carry(self, response: Response, began: float) -> None:
        client, driver = response.client, response.driver
        cycle = driver.cycle
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
            # A bug: the log gets the details, the client only an error that it must not retry.
            log_defect("request failed", request_id=cycle.summary.request_id)
            cycle.summary.outcome = "internal_error"
            await response.send_internal_error()
        finally:
            if finished:
                self._close(response, began)
            elif self._background is None:
                await self._finish(response, began)
            else:
                # The connection need not wait, since Letta may take long to report the id of a run.
                self._background.start_soon(self._finish, response, began)

    async def _finish(self, response: Response, began: float) -> None:
        """Do the remaining work for a response after its client has disconnected."""
        driver = response.driver
        try:
            with self.shutdown.responding(driver):
                await driver.finish(self.settings.cancel_timeout)
        except Exception:
            log_defect("request failed", request_id=driver.cycle.summary.request_id)
        finally:
            self._close(response, began)

    def _close(self, response: Response, began: float) -> None:
        response.driver.close()
        seconds = trio.current_time() - began
        self.log(response.driver.cycle.summary, seconds, response.first and response.first - began)


async def _close(stream: trio.abc.Stream, *, linger: bool) -> None:
    """Close so that the client receives our last bytes; closing with its own bytes unread would reset them."""
    try:
        if linger and isinstance(stream, trio.SocketStream):
            await close_gently(stream)
        else:
            await stream.aclose()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        await trio.aclose_forcefully(stream)


async def serve(
    settings: Settings,
    upstream: Upstream | None = None,
    *,
    listeners: Sequence[trio.SocketListener] | None = None,
    observers: Sequence[Callable[[], Observer]] = (),
    task_status: trio.TaskStatus[tuple[Server, list[trio.SocketListener]]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen and serve until `Server.end`, or until cancelled, which also cancels the current turns.

    :param upstream: carries out the core's commands; by default, a pool of connections to `settings.letta_url`.
    :param listeners: by default, new ones at the host and port of the settings.
    :param observers: see `Server`.
    :param task_status: gets the server and its listeners, whose sockets know the port if it was 0.
    :raises OSError: if the address cannot be bound.
    """
    listening = listeners or await trio.open_tcp_listeners(settings.port, host=settings.host)
    if upstream is not None:
        await _serve(Server(settings, upstream, observers=observers), listening, task_status)
        return
    async with trio.open_nursery() as nursery:
        pool, found = LettaPool(settings), LettaFinder(settings, nursery)
        await nursery.start(pool.run)
        app_server = await found.find(pool)
        server = Server(settings, app_server or pool, observers=observers)
        if not found.is_sure:
            nursery.start_soon(found.keep_looking, pool, server.use_app_server)
        try:
            await _serve(server, listening, task_status)
            if server.proxy.has_made_tools:
                with trio.move_on_after(settings.cancel_timeout):
                    await sweep(server, ends=True)
        finally:
            pool.stop()
            found.stop()


async def _serve(
    server: Server,
    listeners: Sequence[trio.SocketListener],
    task_status: trio.TaskStatus[tuple[Server, list[trio.SocketListener]]],
) -> None:
    task_status.started((server, list(listeners)))
    await server.run(listeners)
