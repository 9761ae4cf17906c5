"""Letta agents behind an httpx2 client, in-process: no server, no port.

client = OpenAI(http_client=httpx2.Client(transport=LettaTransport(base_url="http://127.0.0.1:8283")))
"""

from typing import Any, ClassVar

import httpx2

from letta_inprocess._transports import AsyncStream, AsyncTransport, SyncStream, SyncTransport
from letta_recordings import RecordingFolder

__all__ = ["AsyncLettaTransport", "LettaTransport", "RecordingFolder"]


class _Stream(SyncStream, httpx2.SyncByteStream):
    """As httpx2 wants its streams."""


class _AsyncStream(AsyncStream, httpx2.AsyncByteStream):
    """As httpx2 wants its streams."""


class LettaTransport(SyncTransport, httpx2.BaseTransport):
    """A transport for `httpx2.Client` that is answered by Letta agents."""

    library: ClassVar[Any] = httpx2
    client_class: ClassVar[Any] = httpx2.Client
    transport_class: ClassVar[Any] = httpx2.BaseTransport
    stream_class: ClassVar[Any] = _Stream


class AsyncLettaTransport(AsyncTransport, httpx2.AsyncBaseTransport):
    """A transport for `httpx2.AsyncClient` that is answered by Letta agents."""

    library: ClassVar[Any] = httpx2
    client_class: ClassVar[Any] = httpx2.AsyncClient
    transport_class: ClassVar[Any] = httpx2.AsyncBaseTransport
    stream_class: ClassVar[Any] = _AsyncStream
