"""Drives a cycle with an HTTP client of httpx or httpx2, sync or async."""

import sys
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, aclosing, closing, suppress
from typing import Any, Final

import anyio
from attrs import define, field, frozen

from sansio_letta import PRODUCT_ID, Cycle, LocalProtocolError, ResponseBody, ResponseHead, Signal
from sansio_letta.errors import Failure
from sansio_letta.proxy.cycle import Item
from sansio_letta.upstreams.rest.commands import CancelRun, Command

#: Letta Cloud, the default of the official client.
LETTA_CLOUD: Final = "https://api.letta.com"
_CANCEL_TIMEOUT: Final = 10.0
#: After [DONE], Letta takes a moment to end its response; a connection that is read to the end can be reused.
_DRAIN_TIMEOUT: Final = 5.0


#: Looking up a member of an Enum runs Python code, and these are needed for every token.
_NEED_DATA: Final = Signal.NEED_DATA
_FINISHED: Final = Signal.FINISHED


class TransportClosed(LocalProtocolError):
    """The transport was used after it had been closed."""


@frozen(kw_only=True)
class Endpoint:
    """A Letta server, and the HTTP client for it.

    :param client: a client of httpx or httpx2, sync or async.
    :param library: the module of the client, for its exceptions.
    :param owned: whether we must close the client.
    """

    base_url: str
    headers: Mapping[str, str] = field(repr=False)
    client: Any
    library: Any
    owned: bool

    def request(self, item: Command | Signal) -> Any:
        """Convert a command to a request of the HTTP client."""
        # The cycle waits for a response, but the request was cancelled: part of it may have been sent.
        if isinstance(item, Signal):
            raise self.library.WriteError("the request was cancelled")
        body = item.body
        headers = {**self.headers, "accept-encoding": "identity"}
        if body is not None:
            headers["content-type"] = "application/json"
        return self.client.build_request(
            item.method, self.base_url + item.target, content=body, headers=headers
        )

    def failure(self, error: BaseException) -> tuple[Failure, str] | None:
        """Return how an exchange failed, or None if the exception is not about the exchange."""
        library = self.library
        name = type(error).__name__
        if isinstance(error, library.ConnectError | library.ConnectTimeout | library.PoolTimeout):
            return Failure.NOT_SENT, f"{name}: {str(error)[:200]}"
        if isinstance(error, library.ReadTimeout):
            return Failure.SILENT, "no byte came in time"
        if isinstance(error, library.TransportError | library.DecodingError):
            return Failure.BROKEN, f"{name}: {str(error)[:200]}"
        return None


def endpoint(
    library: Any,
    make_client: Any,
    *,
    base_url: str | None,
    api_key: str | None,
    project: str | None,
    inner: Any,
    client: Any,
    environment: Mapping[str, str],
    timeout: float,
) -> Endpoint:
    """Make an endpoint from the arguments of a transport.

    :param library: `httpx` or `httpx2`.
    :param make_client: its client class, sync or async.
    :param client: a configured `letta_client.Letta` or `AsyncLetta`: its address, headers and HTTP client.
    :param environment: provides missing arguments, by the variables of the official client.
    :raises TypeError: if `client` is combined with arguments that it already contains, or has the wrong type.
    """
    if client is not None:
        if (base_url, api_key, project, inner) != (None, None, None, None):
            raise TypeError("client: has its own base_url, api_key, project and inner; pass either it or these")
        return _of_letta_client(client, make_client)
    key = api_key if api_key is not None else environment.get("LETTA_API_KEY")
    name = project if project is not None else environment.get("LETTA_PROJECT")
    headers = {"user-agent": PRODUCT_ID}
    if key:
        headers["authorization"] = f"Bearer {key}"
    if name:
        headers["x-project"] = name
    url = base_url if base_url is not None else environment.get("LETTA_BASE_URL") or LETTA_CLOUD
    if url.startswith(("ws://", "wss://")):
        raise TypeError(
            f"base_url: {url[:100]} is an App Server, whose connection must live on between requests. Run "
            f"`letta-proxy serve --letta-url {url[:100]}`, and give the client that server's base URL."
        )
    if not url.startswith(("http://", "https://")):
        raise TypeError(f"base_url: expected an address like http://127.0.0.1:8283, got {url[:100]!r}")
    http = make_client(transport=inner, timeout=library.Timeout(timeout, connect=10.0), follow_redirects=False)
    return Endpoint(
        base_url=url.rstrip("/").removesuffix("/v1"), headers=headers, client=http, library=library, owned=True
    )


def _of_letta_client(client: Any, make_client: Any) -> Endpoint:
    expected = "AsyncLetta" if make_client.__name__.startswith("Async") else "Letta"
    names = [f"{_package(cls)}.{cls.__name__}" for cls in type(client).__mro__]
    # By name, since letta-client takes a second to import, and an `OpenAI` has the same attributes.
    if f"letta_client.{expected}" not in names:
        raise TypeError(f"client: this transport needs a letta_client.{expected}, got {names[0]}")
    http = client._client
    headers = {
        name.lower(): value
        for name, value in {**client.default_headers, **client.auth_headers}.items()
        if isinstance(value, str) and name.lower() not in ("accept", "content-type")
    }
    return Endpoint(
        base_url=str(client.base_url).rstrip("/").removesuffix("/v1"),
        headers=headers,
        client=http,
        # letta-client may use another httpx than the program, with its own exceptions.
        library=next(
            module
            for cls in type(http).__mro__
            if hasattr(module := sys.modules[_package(cls)], "ConnectError")
        ),
        owned=False,
    )


def _package(cls: type) -> str:
    return cls.__module__.partition(".")[0]


@define
class Steps:
    """The items of a cycle, with the output from one read joined into one piece.

    :param lock: shared by all cycles of a proxy, which share state and may run in different threads.
    """

    cycle: Cycle
    lock: AbstractContextManager[Any]
    _held: Item | Signal | None = field(default=None, init=False)
    _closed_early: bool = field(default=False, init=False)
    ended_well: bool = field(default=False, init=False)  #: nothing but the end of Letta's response is left

    def next_step(self) -> Item | Signal:
        """Return the next item."""
        held, self._held = self._held, None
        if held is not None:
            return held
        with self.lock:
            return self._next_step()

    def _next_step(self) -> Item | Signal:
        first = self.cycle.next_event()
        if type(first) is not ResponseBody:
            self._note_end(first)
            return first
        more: list[bytes] = []
        while type(item := self.cycle.next_event()) is ResponseBody:
            more.append(item.data)
        self._note_end(item)
        self._held = item
        return ResponseBody(data=b"".join([first.data, *more])) if more else first

    def _note_end(self, item: Item | Signal) -> None:
        if item is _FINISHED:
            self.ended_well = not self._closed_early and self.cycle.summary.kept is None

    def receive_response(self, response: Any) -> None:
        """Receive the head of Letta's response, as a response of the HTTP client."""
        headers = [(name.lower(), value) for name, value in response.headers.multi_items()]
        with self.lock:
            self.cycle.receive_response(response.status_code, headers, time.monotonic())

    def receive_piece(self, piece: bytes | None) -> bytes | None:
        """Receive more of Letta's response, None at its end. Empty pieces are skipped: they would mean the end.

        :return: more of the body, if that is the next item.
        """
        if piece or piece is None:
            with self.lock:
                self.cycle.receive_data(piece or b"", time.monotonic())
                step = self._next_step()
            if type(step) is ResponseBody:
                return step.data
            self._held = step
        return None

    def receive_exception(self, error: BaseException, item: Item | Signal, endpoint: Endpoint) -> None:
        """Receive an exception from carrying out an item, possibly a cancellation.

        :raises BaseException: the same, if it is not a failure of the exchange.
        """
        found = endpoint.failure(error)
        if found is None:
            # Closing the exchange tries again to cancel the run.
            if isinstance(item, CancelRun):
                self._held = item
            raise error
        with self.lock:
            self.cycle.receive_failure(*found, time.monotonic())

    @property
    def wait_timeout(self) -> float:
        """Seconds that a WAITING cycle may wait before `end_wait`."""
        with self.lock:
            return max(0.0, self.cycle.next_deadline() - time.monotonic())

    def end_wait(self) -> None:
        """End a wait: the cycle was woken, or `wait_timeout` has passed."""
        with self.lock:
            self.cycle.handle_deadline(time.monotonic())

    def close(self) -> None:
        """Release the cycle: no more commands will be carried out."""
        with self.lock:
            self.cycle.close()

    def hurry(self) -> bool:
        """Look up a run whose id is not known yet at once, since there is little time left.

        :return: whether there is a run to look up and to cancel.
        """
        with self.lock:
            if self.cycle.seeks_run:
                self._held = None
                self.cycle.hurry(time.monotonic())
                return True
        return False

    def response_closed(self) -> Item | Signal:
        """End the turn, since the response was closed, before or after its end.

        :return: the next item, which `next_step` will return; NEED_DATA while waiting for Letta.
        """
        self._closed_early = not self.ended_well
        if not isinstance(self._held, CancelRun):
            self._held = None
        with self.lock:
            self.cycle.cancel(time.monotonic())
        item = self.next_step()
        # After NEED_DATA, there may be another item by the next call.
        self._held = None if item is Signal.NEED_DATA else item
        return item


def _is_plain(response: Any) -> bool:
    """Return whether a response needs no decoding, and was not read before, for example by a hook.

    Then its stream is read directly, because the library's own methods cost half as much as our translation.
    """
    coding = response.headers.get("content-encoding", "identity")
    return coding == "identity" and not response.is_stream_consumed


@define
class SyncExchange:
    """One request with a sync client: first the head, then the body by iteration."""

    steps: Steps
    endpoint: Endpoint
    _response: Any = field(default=None, init=False)  #: Letta's, while it is read
    _data: Generator[bytes] = field(init=False)
    _woken: threading.Event = field(factory=threading.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self.steps.cycle.wake = self._woken.set

    def head(self) -> ResponseHead:
        """Return the head of the response."""
        item = self._advance()
        assert isinstance(item, ResponseHead)
        return item

    def body(self) -> Iterator[bytes]:
        """Yield the pieces of the body as they arrive."""
        while type(piece := self._advance()) is bytes:
            yield piece

    def close(self) -> None:
        """Close the response, and cancel the run if it is still running."""
        try:
            self.steps.response_closed()
            self._advance()
        finally:
            self.steps.close()

    def _advance(self) -> ResponseHead | bytes | None:
        while True:
            item = self.steps.next_step()
            if isinstance(item, ResponseBody):
                return item.data
            if isinstance(item, ResponseHead):
                return item
            try:
                if item is _NEED_DATA and self._response is not None:
                    data = self.steps.receive_piece(next(self._data, None))
                    if data is not None:
                        return data
                    continue
                if item is Signal.WAITING:
                    self._woken.wait(self.steps.wait_timeout)
                    self._woken.clear()
                    self.steps.end_wait()
                    continue
                self._release()
                if item is Signal.FINISHED:
                    return None
                self._response = self.endpoint.client.send(self.endpoint.request(item), stream=True)
                response = self._response
                self._data = iter(response.stream if _is_plain(response) else response.iter_bytes())
                self.steps.receive_response(self._response)
            except BaseException as exc:
                self.steps.receive_exception(exc, item, self.endpoint)

    def _release(self) -> None:
        """Close what was read last: all of it that matters is known."""
        response, self._response = self._response, None
        if response is None:
            return
        with suppress(self.endpoint.library.TransportError), closing(response):
            if self.steps.ended_well:
                next(self._data, b"")
            self._data.close()


@define
class AsyncExchange:
    """One request with an async client, under asyncio or trio."""

    steps: Steps
    endpoint: Endpoint
    _response: Any = field(default=None, init=False)  #: Letta's, while it is read
    _data: AsyncIterator[bytes] | None = field(default=None, init=False)
    _woken: anyio.Event = field(factory=anyio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self.steps.cycle.wake = self._wake

    def _wake(self) -> None:
        self._woken.set()

    async def head(self) -> ResponseHead:
        """Return the head of the response.

        If the task is cancelled after a run may have begun, Letta gets a moment to report the run's id: a run
        continues without a reader, and cancelling it needs the id. So the request is made in a task of its own.
        """
        outcome: list[ResponseHead | bytes | Exception | None] = []
        asking, asked = anyio.CancelScope(shield=True), anyio.Event()

        async def ask() -> None:
            with asking:
                try:
                    outcome.append(await self._advance())
                except Exception as exc:
                    outcome.append(exc)
            asked.set()

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            try:
                await asked.wait()
            except BaseException:
                if self.steps.response_closed() is Signal.NEED_DATA:
                    asking.deadline = anyio.current_time() + _CANCEL_TIMEOUT
                else:
                    asking.cancel()
                raise
        [item] = outcome
        if isinstance(item, Exception):
            raise item
        assert isinstance(item, ResponseHead)
        return item

    async def next_piece(self) -> bytes | None:
        """Return the next piece of the body as it arrives; None at its end."""
        piece = await self._advance()
        return piece if type(piece) is bytes else None

    async def aclose(self) -> None:
        """Close the response, and cancel the run if it is still running, even if the task is cancelled."""
        try:
            self.steps.response_closed()
            with anyio.move_on_after(_CANCEL_TIMEOUT, shield=True):
                await self._advance()
            # Letta may report its id even later, but may list the run already.
            if self.steps.hurry():
                with anyio.move_on_after(_CANCEL_TIMEOUT, shield=True):
                    await self._advance()
        finally:
            self.steps.close()

    async def _advance(self) -> ResponseHead | bytes | None:
        while True:
            item = self.steps.next_step()
            if isinstance(item, ResponseBody):
                return item.data
            if isinstance(item, ResponseHead):
                return item
            try:
                if item is _NEED_DATA and self._data is not None:
                    data = self.steps.receive_piece(await anext(self._data, None))
                    if data is not None:
                        return data
                    continue
                if item is Signal.WAITING:
                    with anyio.move_on_after(self.steps.wait_timeout):
                        await self._woken.wait()
                    self._woken = anyio.Event()
                    self.steps.end_wait()
                    continue
                await self._release()
                if item is Signal.FINISHED:
                    return None
                self._response = await self.endpoint.client.send(self.endpoint.request(item), stream=True)
                response = self._response
                self._data = aiter(response.stream if _is_plain(response) else response.aiter_bytes())
                self.steps.receive_response(self._response)
            except BaseException as exc:
                self.steps.receive_exception(exc, item, self.endpoint)

    async def _release(self) -> None:
        """Close what was read last: all of it that matters is known."""
        response, data, self._response, self._data = self._response, self._data, None, None
        if data is None:
            return
        with suppress(self.endpoint.library.TransportError):
            async with aclosing(response):
                if self.steps.ended_well:
                    with anyio.move_on_after(_DRAIN_TIMEOUT):
                        await anext(data, b"")
        # Closing nested generators only ends the outermost one, and trio warns about the others. An exception
        # ends them all, here the cancellation by a timeout of zero.
        with suppress(self.endpoint.library.TransportError), anyio.move_on_after(0):
            async for _ in data:
                pass
