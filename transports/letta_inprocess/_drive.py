"""Carries out a cycle with an HTTP client of httpx or httpx2, sync or async."""

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

#: Letta Cloud, as the official client has it.
LETTA_CLOUD: Final = "https://api.letta.com"
_CANCEL_TIMEOUT: Final = 10.0
#: After [DONE] Letta takes a moment to close its books; a connection that was read to its end is used again.
_DRAIN_TIMEOUT: Final = 5.0


#: An Enum looks its members up with Python code, and these are asked for with every token.
_NEED_DATA: Final = Signal.NEED_DATA
_FINISHED: Final = Signal.FINISHED


class TransportClosed(LocalProtocolError):
    """The transport was used after it had been closed."""


@frozen(kw_only=True)
class Endpoint:
    """Which Letta, and the client that reaches it.

    :param client: an `httpx.Client` or its like of httpx2, sync or async.
    :param library: the module that the client is of: its exceptions are told apart.
    :param owned: whether the client is ours to close.
    """

    base_url: str
    headers: Mapping[str, str] = field(repr=False)
    client: Any
    library: Any
    owned: bool

    def request(self, item: Command | Signal) -> Any:
        """A command as the client's own request."""
        # The cycle waits for an answer, but the request was cancelled: some of it may have been sent.
        if isinstance(item, Signal):
            raise self.library.WriteError("the request was given up")
        body = item.body
        headers = {**self.headers, "accept-encoding": "identity"}
        if body is not None:
            headers["content-type"] = "application/json"
        return self.client.build_request(
            item.method, self.base_url + item.target, content=body, headers=headers
        )

    def failure(self, error: BaseException) -> tuple[Failure, str] | None:
        """What an exception of the client's means, or None if it is none of an exchange."""
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
    """Where to find Letta, from a transport's arguments.

    :param library: the transport's own module, `httpx` or `httpx2`.
    :param make_client: its client class, sync or async.
    :param client: a configured `letta_client.Letta` or `AsyncLetta`: its address, headers and HTTP client.
    :param environment: gives what is not said, as for the official client.
    :raises TypeError: if `client` comes with arguments that it has itself, or is of the wrong kind.
    """
    if client is not None:
        if (base_url, api_key, project, inner) != (None, None, None, None):
            raise TypeError("client: brings its own base_url, api_key, project and inner: give either")
        return _of_letta_client(client, make_client)
    key = api_key if api_key is not None else environment.get("LETTA_API_KEY")
    name = project if project is not None else environment.get("LETTA_PROJECT")
    headers = {"user-agent": PRODUCT_ID}
    if key:
        headers["authorization"] = f"Bearer {key}"
    if name:
        headers["x-project"] = name
    url = base_url if base_url is not None else environment.get("LETTA_BASE_URL") or LETTA_CLOUD
    if not url.startswith(("http://", "https://")):
        raise TypeError(f"base_url: expected an address like http://127.0.0.1:8283, got {url[:100]!r}")
    http = make_client(transport=inner, timeout=library.Timeout(timeout, connect=10.0), follow_redirects=False)
    return Endpoint(
        base_url=url.rstrip("/").removesuffix("/v1"), headers=headers, client=http, library=library, owned=True
    )


def _of_letta_client(client: Any, make_client: Any) -> Endpoint:
    expected = "AsyncLetta" if make_client.__name__.startswith("Async") else "Letta"
    names = [f"{_package(cls)}.{cls.__name__}" for cls in type(client).__mro__]
    # By name: letta-client takes a second to import. An `OpenAI` has all the same attributes.
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
        # letta-client may be of another httpx than the program: the exceptions are its own.
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
    """A cycle's items, bodies joined: what comes of one read of Letta's leaves as one piece.

    :param lock: shared by all cycles of a proxy, which know of each other: threads take turns.
    """

    cycle: Cycle
    lock: AbstractContextManager[Any]
    _held: Item | Signal | None = field(default=None, init=False)
    _closed_early: bool = field(default=False, init=False)
    ended_well: bool = field(default=False, init=False)  #: what is left of Letta's answer is its end

    def next_step(self) -> Item | Signal:
        """The next item."""
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
        """Letta's answer has begun: a response of the client's."""
        headers = [(name.lower(), value) for name, value in response.headers.multi_items()]
        with self.lock:
            self.cycle.receive_response(response.status_code, headers, time.monotonic())

    def receive_piece(self, piece: bytes | None) -> bytes | None:
        """More of Letta's answer, None at its end. An empty piece is none: a cycle takes it for the end.

        :return: more of the body, if that comes of it.
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
        """Carrying out an item went wrong, or was cancelled.

        :raises BaseException: the same, if it means nothing to the cycle.
        """
        found = endpoint.failure(error)
        if found is None:
            # What ends a run is tried again, by who closes the exchange.
            if isinstance(item, CancelRun):
                self._held = item
            raise error
        with self.lock:
            self.cycle.receive_failure(*found, time.monotonic())

    @property
    def wait_timeout(self) -> float:
        """Seconds that a cycle which waits for another may wait, until `end_wait`."""
        with self.lock:
            return max(0.0, self.cycle.next_deadline() - time.monotonic())

    def end_wait(self) -> None:
        """It was woken, or has waited long enough."""
        with self.lock:
            self.cycle.handle_deadline(time.monotonic())

    def close(self) -> None:
        """Nothing more will be carried out."""
        with self.lock:
            self.cycle.close()

    def hurry(self) -> bool:
        """The response was closed, and the one who did will not wait much longer.

        :return: whether there is still a run to be found, and ended.
        """
        with self.lock:
            if self.cycle.seeks_run:
                self._held = None
                self.cycle.hurry(time.monotonic())
                return True
        return False

    def response_closed(self) -> Item | Signal:
        """The response was closed, before its end or after it: none of it comes any more.

        :return: what comes next, and will be handed out: NEED_DATA if Letta must speak first.
        """
        self._closed_early = not self.ended_well
        if not isinstance(self._held, CancelRun):
            self._held = None
        with self.lock:
            self.cycle.cancel(time.monotonic())
        item = self.next_step()
        # After NEED_DATA there may be another item by the time somebody asks.
        self._held = None if item is Signal.NEED_DATA else item
        return item


def _is_plain(response: Any) -> bool:
    """Whether a response's stream is its body: nothing to decode, and nobody has read it, a hook perhaps.

    Then it is read as it stands: the library's own reading of it costs as much as half of our translation.
    """
    coding = response.headers.get("content-encoding", "identity")
    return coding == "identity" and not response.is_stream_consumed


@define
class SyncExchange:
    """One request through a sync client: its head first, then its body by iteration."""

    steps: Steps
    endpoint: Endpoint
    _response: Any = field(default=None, init=False)  #: Letta's, while it is read
    _data: Generator[bytes] = field(init=False)
    _woken: threading.Event = field(factory=threading.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self.steps.cycle.wake = self._woken.set

    def head(self) -> ResponseHead:
        """The head of the client's response."""
        item = self._advance()
        assert isinstance(item, ResponseHead)
        return item

    def body(self) -> Iterator[bytes]:
        """The body, each piece as it comes."""
        while type(piece := self._advance()) is bytes:
            yield piece

    def close(self) -> None:
        """Whether it was read to its end or not: a run that goes on is cancelled."""
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
    """One request through an async client, under asyncio or trio."""

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
        """The head of the client's response.

        If the task is cancelled after a run may have begun, Letta is given a moment to name it: a run can be
        ended by its name alone, and goes on without a reader. So Letta is asked in a task of its own.
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
        """The next piece of the body as it comes; None at its end."""
        piece = await self._advance()
        return piece if type(piece) is bytes else None

    async def aclose(self) -> None:
        """Whether it was read to its end or not: a run that goes on is cancelled, even if the task is, too."""
        try:
            self.steps.response_closed()
            with anyio.move_on_after(_CANCEL_TIMEOUT, shield=True):
                await self._advance()
            # Its name may come later still, but Letta may list it already.
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
        # Of generators that stand one in another, closing ends the outermost alone, and trio warns of the rest.
        # An exception ends them all: that of a wait which is over at once.
        with suppress(self.endpoint.library.TransportError), anyio.move_on_after(0):
            async for _ in data:
                pass
