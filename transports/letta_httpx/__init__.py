"""Letta agents behind an httpx client, in-process: no server, no port.

client = OpenAI(http_client=httpx.Client(transport=LettaTransport(base_url="http://127.0.0.1:8283")))
"""

from typing import Any, ClassVar

import httpx

from letta_inprocess._transports import AsyncStream, AsyncTransport, SyncStream, SyncTransport
from letta_recordings import RecordingFolder

__all__ = ["AsyncLettaTransport", "LettaTransport", "RecordingFolder"]


class _Stream(SyncStream, httpx.SyncByteStream):
    """As httpx wants its streams."""


class _AsyncStream(AsyncStream, httpx.AsyncByteStream):
    """As httpx wants its streams."""


class LettaTransport(SyncTransport, httpx.BaseTransport):
    """A transport for `httpx.Client` that is answered by Letta agents."""

    library: ClassVar[Any] = httpx
    client_class: ClassVar[Any] = httpx.Client
    transport_class: ClassVar[Any] = httpx.BaseTransport
    stream_class: ClassVar[Any] = _Stream


class AsyncLettaTransport(AsyncTransport, httpx.AsyncBaseTransport):
    """A transport for `httpx.AsyncClient` that is answered by Letta agents."""

    library: ClassVar[Any] = httpx
    client_class: ClassVar[Any] = httpx.AsyncClient
    transport_class: ClassVar[Any] = httpx.AsyncBaseTransport
    stream_class: ClassVar[Any] = _AsyncStream
