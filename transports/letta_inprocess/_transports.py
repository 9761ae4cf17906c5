"""The transports without the base classes of httpx or httpx2."""

import logging
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, ClassVar, Final

from attrs import evolve

from letta_recordings import RecordingFolder
from sansio_letta import Config, HttpRequest, Proxy, RequestError
from sansio_letta.proxy.routing import route

from ._drive import AsyncExchange, Endpoint, Steps, SyncExchange, TransportClosed, endpoint

_log: Final = logging.getLogger("letta_inprocess")


class Shared:
    """The common parts of the sync and the async transport.

    :param base_url: the Letta server; by default, `LETTA_BASE_URL` or else Letta Cloud.
    :param api_key: its key; by default, `LETTA_API_KEY`.
    :param project: project at Letta Cloud; by default, `LETTA_PROJECT`.
    :param inner: a transport of the same library for the requests to Letta.
    :param client: a configured `letta_client.Letta` or `AsyncLetta`, instead of these four.
    :param config: limits and policies of the core.
    :param record: a folder in which each request is recorded.
    :param passthrough: a transport for requests to other URLs, which get a 404 without it.
    :raises TypeError: if an argument has the wrong type.
    """

    library: ClassVar[Any]
    client_class: ClassVar[Any]
    transport_class: ClassVar[Any]
    stream_class: ClassVar[Any]

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        project: str | None = None,
        inner: Any = None,
        client: Any = None,
        config: Config | None = None,
        record: RecordingFolder | str | os.PathLike[str] | None = None,
        passthrough: Any = None,
    ) -> None:
        for name, given in (("inner", inner), ("passthrough", passthrough)):
            if not isinstance(given, self.transport_class | None):
                # Not by `__module__`, which the official SDKs overwrite.
                wanted = f"{self.library.__name__}.{self.transport_class.__name__}"
                raise TypeError(f"{name}: expected an {wanted}, got {_name(type(given))}")
        if isinstance(record, str | os.PathLike):
            record = RecordingFolder(path=Path(record))
        if not isinstance(record, RecordingFolder | None):
            raise TypeError(f"record: expected a path or a RecordingFolder, got {_name(type(record))}")
        # A program that closes a response ends its turn; no other client could continue it.
        self._proxy = Proxy(
            # No gateway in between can time out, so a failure can stay a status.
            evolve(config or Config(), repeat_wait_timeout=0.0, joins_repeats=False, early_response_timeout=0.0)
        )
        self._lock = threading.Lock()
        self._endpoint: Endpoint = endpoint(
            self.library,
            self.client_class,
            base_url=base_url,
            api_key=api_key,
            project=project,
            inner=inner,
            client=client,
            environment=os.environ,
            timeout=self._proxy.config.letta_silence_timeout,
        )
        self._folder = record
        self._passthrough = passthrough
        self._closed = False

    def _check_open(self) -> None:
        if self._closed:
            raise TransportClosed(f"{type(self).__name__} was closed: create a new one")

    def _is_ours(self, method: str, target: str) -> bool:
        try:
            route(method, target)
        except RequestError as exc:
            return exc.code != "unknown_url"
        return True

    def _open(self, request: Any, body: bytes) -> Steps:
        ours = HttpRequest(
            method=request.method,
            target=request.url.raw_path.decode("ascii"),
            headers=[(name.lower(), value) for name, value in request.headers.multi_items()],
            body=body,
        )
        token, created, now = secrets.token_hex(12), int(time.time()), time.monotonic()
        observer = None
        if self._folder is not None:
            observer = self._folder.recorder(token=token, created=created, on_error=_log_failure)
        with self._lock:
            cycle = self._proxy.open(ours, token=token, created=created, now=now, observer=observer)
        return Steps(cycle, self._lock)

    def _response(self, request: Any, head: Any, stream: Any) -> Any:
        return self.library.Response(head.status, headers=list(head.headers), stream=stream, request=request)


class SyncTransport(Shared):
    """Answers a sync client's requests."""

    def handle_request(self, request: Any) -> Any:
        """Answer a request.

        :raises TransportClosed: after `close`.
        """
        self._check_open()
        if self._passthrough is not None and not self._is_ours(request.method, _target(request)):
            return self._passthrough.handle_request(request)
        exchange = SyncExchange(self._open(request, request.read()), self._endpoint)
        try:
            head = exchange.head()
        except BaseException:
            exchange.close()
            raise
        return self._response(request, head, self.stream_class(exchange))

    async def handle_async_request(self, *_: object) -> Any:
        """Raise TypeError, like the other methods that only an async client calls."""
        raise TypeError(f"{type(self).__name__} is for a sync client: an async one needs AsyncLettaTransport")

    __aenter__ = aclose = handle_async_request

    def close(self) -> None:
        """Close what is ours; a client that was given stays open."""
        self._closed = True
        if self._endpoint.owned:
            self._endpoint.client.close()
        if self._passthrough is not None:
            self._passthrough.close()


class AsyncTransport(Shared):
    """Answers an async client's requests, under asyncio or trio."""

    async def handle_async_request(self, request: Any) -> Any:
        """Answer a request.

        :raises TransportClosed: after `aclose`.
        """
        self._check_open()
        if self._passthrough is not None and not self._is_ours(request.method, _target(request)):
            return await self._passthrough.handle_async_request(request)
        exchange = AsyncExchange(self._open(request, await request.aread()), self._endpoint)
        try:
            head = await exchange.head()
        except BaseException:
            await exchange.aclose()
            raise
        return self._response(request, head, self.stream_class(exchange))

    def handle_request(self, *_: object) -> Any:
        """Raise TypeError, like the other methods that only a sync client calls."""
        raise TypeError(f"{type(self).__name__} is for an async client: a sync one needs LettaTransport")

    __enter__ = close = handle_request

    async def aclose(self) -> None:
        """Close what is ours; a client that was given stays open."""
        self._closed = True
        if self._endpoint.owned:
            await self._endpoint.client.aclose()
        if self._passthrough is not None:
            await self._passthrough.aclose()


class SyncStream:
    """The body of a response; closing it closes the exchange."""

    def __init__(self, exchange: SyncExchange) -> None:
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        return self._exchange.body()

    def close(self) -> None:
        """Cancel the run if it is still running."""
        self._exchange.close()


class AsyncStream:
    """The body of a response; closing it closes the exchange. A generator could be left suspended."""

    def __init__(self, exchange: AsyncExchange) -> None:
        self._exchange = exchange

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._exchange.next_piece()
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Cancel the run if it is still running."""
        await self._exchange.aclose()


def _log_failure(error: OSError) -> None:
    """Log the error only: the program must get its answer even if the disk is full."""
    _log.error("cannot record %s: %s", error.filename, error.strerror or error)


def _name(cls: type) -> str:
    return f"{cls.__module__.partition('.')[0]}.{cls.__name__}"


def _target(request: Any) -> str:
    target: str = request.url.raw_path.decode("ascii")
    return target
