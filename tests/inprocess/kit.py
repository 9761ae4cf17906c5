"""One test for all: both libraries, each sync, under asyncio and under trio, behind the same few methods.

A test is a coroutine. For the sync transports it runs without a loop, as nothing in it ever waits.
"""

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from types import ModuleType
from typing import Any, Final, TypeAlias

import anyio
import anyio.lowlevel
import httpx
import httpx2
import orjson
import pytest
from attrs import define, field, frozen

import letta_httpx
import letta_httpx2
from drive import DONE, JSON, PING, RUN_ID, SSE, USAGE, agent_json, encode, say, stop
from sansio_letta import Config
from support import matrix

LETTA: Final = "http://letta.invalid"
CHAT: Final = "/v1/chat/completions"

Headers: TypeAlias = list[tuple[str, str]]
Test: TypeAlias = Callable[..., Coroutine[Any, Any, None]]


@define(eq=False)
class Hold:
    """Letta says nothing until it is told to, for async tests."""

    reached: anyio.Event = field(factory=anyio.Event, init=False)
    release: anyio.Event = field(factory=anyio.Event, init=False)

    async def wait(self) -> None:
        self.reached.set()
        await self.release.wait()


#: What a scripted answer consists of: bytes, an error, something to do or check then, or a wait.
Piece: TypeAlias = bytes | BaseException | Callable[[], None] | Hold


@define(eq=False)
class Script:
    """One request that is expected, and how it is answered.

    :param sending: happens before the head of the answer comes.
    """

    method: str
    target: str
    pieces: Sequence[Piece] = ()
    status: int = 200
    headers: Headers = field(factory=lambda: list(JSON))
    sending: Piece = b""
    closing: Exception | None = None  #: raised when the answer is closed
    waits: bool = True  #: each piece takes a moment to come
    closed: bool = field(default=False, init=False)


@define(eq=False)
class ScriptedLetta:
    """A transport below ours that answers requests in the order of its script and fails on a surprise."""

    library: ModuleType
    script: list[Script]
    requests: list[Any] = field(factory=list, init=False)
    closed: bool = field(default=False, init=False)
    search_count: int = field(default=0, init=False)  #: lists of runs that were asked for in vain

    @property
    def targets(self) -> list[str]:
        """What was asked, in order."""
        return [f"{request.method} {request.url.raw_path.decode()}" for request in self.requests]

    @property
    def bodies(self) -> list[Any]:
        """What was sent, of the requests that had a body."""
        return [orjson.loads(request.content) for request in self.requests if request.content]

    def transport(self) -> Any:
        """The transport, for sync and async clients."""
        bases = (_Inner, self.library.BaseTransport, self.library.AsyncBaseTransport)
        return type("Inner", bases, {})(self)

    def expect(self, request: Any) -> Script:
        """The answer to a request."""
        target = request.url.raw_path.decode()
        if target.startswith("/v1/runs/?") and not (self.script and self.script[0].target == target):
            # Letta does not tell which runs there are.
            self.search_count += 1
            return Script("GET", target, [orjson.dumps({"detail": "Not Found"})], status=404)
        self.requests.append(request)
        asked = self.targets[-1]
        assert self.script, f"a surprise: {asked}"
        expected = self.script.pop(0)
        assert asked == f"{expected.method} {expected.target}"
        return expected


class _Inner:
    def __init__(self, letta: ScriptedLetta) -> None:
        self._letta = letta

    def _response(self, script: Script) -> Any:
        library = self._letta.library
        stream = type("Body", (_Body, library.SyncByteStream, library.AsyncByteStream), {})(script)
        return library.Response(script.status, headers=script.headers, stream=stream)

    def handle_request(self, request: Any) -> Any:
        request.read()
        script = self._letta.expect(request)
        _play(script.sending)
        return self._response(script)

    async def handle_async_request(self, request: Any) -> Any:
        await request.aread()
        script = self._letta.expect(request)
        await _play_async(script.sending)
        return self._response(script)

    def close(self) -> None:
        self._letta.closed = True

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self._letta.closed = True


class _Body:
    def __init__(self, script: Script) -> None:
        self._script = script

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._script.pieces:
            yield _play(piece)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._script.pieces:
            yield await _play_async(piece) if self._script.waits else _play(piece)

    def close(self) -> None:
        self._script.closed = True
        if self._script.closing is not None:
            raise self._script.closing

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.close()


def _play(piece: Piece) -> bytes:
    assert not isinstance(piece, Hold)
    if isinstance(piece, BaseException):
        raise piece
    if not isinstance(piece, bytes):
        piece()
        return b""
    return piece


async def _play_async(piece: Piece) -> bytes:
    await anyio.lowlevel.checkpoint()
    if isinstance(piece, Hold):
        await piece.wait()
        return b""
    return _play(piece)


# --- What Letta says ------------------------------------------------------------------------------------------

AGENT: Final[str] = agent_json()["id"]
STREAM: Final = f"/v1/agents/{AGENT}/messages/stream"
CANCEL: Final = f"/v1/agents/{AGENT}/messages/cancel"


def found(*pending: str) -> Script:
    """The agent is found by its name."""
    target = "/v1/agents/?name=Milo&include=agent.tools" + (
        "&include=agent.pending_approval" if pending else ""
    )
    return Script("GET", target, [orjson.dumps([agent_json(*pending)])])


def runs(*pieces: Piece | dict[str, Any] | str, **more: Any) -> Script:
    """A run's stream, message by message."""
    encoded = [encode(piece) if isinstance(piece, dict | str) else piece for piece in pieces]
    return Script("POST", STREAM, encoded, headers=list(SSE), **more)


def hello() -> Script:
    """A short reply."""
    return runs(PING, say("Hel"), say("lo"), stop(), USAGE, DONE)


def unreadable() -> Script:
    """Letta does not tell what became of the run."""
    return Script("GET", f"/v1/runs/{RUN_ID}", status=403)


def cancelled() -> Script:
    """The run is cancelled."""
    return Script("POST", CANCEL, [b"{}"])


def ask(*, stream: bool = True, **more: Any) -> bytes:
    """A chat request's body."""
    return orjson.dumps(
        {"model": "Milo", "messages": [{"role": "user", "content": "hi"}], "stream": stream, **more}
    )


def text_of(body: bytes) -> str:
    """The text of a streamed answer."""
    chunks = [orjson.loads(line[6:]) for line in body.split(b"\n\n") if line.startswith(b"data: {")]
    return "".join(
        choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ())
    )


def error_of(body: bytes) -> dict[str, Any]:
    """The error that a streamed answer ends with."""
    [line] = [line for line in body.split(b"\n\n") if b'"error"' in line]
    error: dict[str, Any] = orjson.loads(line[line.index(b"{") :])["error"]
    return error


# --- The client's side ----------------------------------------------------------------------------------------


@frozen
class Kit:
    """One of the transports, and how it is driven."""

    library: Any  #: httpx or httpx2
    package: Any  #: ours for it
    backend: str  #: sync, asyncio or trio

    def __str__(self) -> str:
        return f"{self.library.__name__}-{self.backend}"

    @property
    def is_sync(self) -> bool:
        return self.backend == "sync"

    @property
    def client_class(self) -> Any:
        return self.library.Client if self.is_sync else self.library.AsyncClient

    @property
    def transport_class(self) -> Any:
        return self.package.LettaTransport if self.is_sync else self.package.AsyncLettaTransport

    def run(self, test: Test, *args: Any, **kwargs: Any) -> None:
        """Run a test that is a coroutine."""
        if not self.is_sync:
            anyio.run(functools.partial(test, *args, **kwargs), backend=self.backend)
            return
        try:
            test(*args, **kwargs).send(None)
        except StopIteration:
            return
        raise AssertionError("a sync test waited")

    def letta(self, *script: Script) -> ScriptedLetta:
        return ScriptedLetta(self.library, list(script))

    def client(self, letta: ScriptedLetta | None = None, **arguments: Any) -> "Client":
        """A client in front of a script, or of whatever else the arguments say."""
        if letta is not None:
            arguments = {
                "base_url": LETTA,
                "inner": letta.transport(),
                # A script has no second answer to the same question.
                "config": Config().without_pauses(),
                **arguments,
            }
        return Client(self, self.transport_class(**arguments))


@define(eq=False)
class Reply:
    """An answer whose head has come."""

    kit: Kit
    response: Any
    _pieces: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        # One generator, not those of the library that stand in it: trio warns of what is not read to its end.
        stream = self.response.stream
        self._pieces = iter(stream) if self.kit.is_sync else aiter(stream)

    @property
    def status(self) -> int:
        return int(self.response.status_code)

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.response.headers)

    async def next(self) -> bytes:
        """The next piece; nothing at the end."""
        piece: bytes = next(self._pieces, b"") if self.kit.is_sync else await anext(self._pieces, b"")
        return piece

    async def read(self) -> bytes:
        """What is left."""
        body = b""
        while piece := await self.next():
            body += piece
        await self.close()
        return body

    async def close(self) -> None:
        await finished(self._pieces.close() if self.kit.is_sync else self._pieces.aclose())
        await finished(self.response.close() if self.kit.is_sync else self.response.aclose())


@define(eq=False)
class Client:
    """A client of the library's with our transport."""

    kit: Kit
    transport: Any
    http: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.http = self.kit.client_class(transport=self.transport, base_url="http://client.invalid")

    async def send(
        self, method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        request = self.http.build_request(method, target, content=body, headers=headers)
        return Reply(self.kit, await finished(self.http.send(request, stream=True)))

    async def ask(self, *, stream: bool = True, **more: Any) -> Reply:
        """Ask the agent something."""
        return await self.send("POST", CHAT, ask(stream=stream, **more))

    async def answer(self, *, stream: bool = True, **more: Any) -> bytes:
        """Ask, and read the whole answer."""
        return await (await self.ask(stream=stream, **more)).read()

    async def close(self) -> None:
        await finished(self.http.close() if self.kit.is_sync else self.http.aclose())


async def finished(value: Any) -> Any:
    """What a method returned, sync or async."""
    return await value if inspect.isawaitable(value) else value


KITS: Final = [
    Kit(library, package, backend)
    for library, package in ((httpx, letta_httpx), (httpx2, letta_httpx2))
    for backend in ("sync", "asyncio", "trio")
]


#: Each library and each backend once, and each library under an event loop.
REPRESENTATIVES: Final = ("httpx-sync", "httpx2-asyncio", "httpx-trio")


def representative(kits: Sequence[Kit]) -> list[Any]:
    """Kits as parameters, of which some stand for all."""
    return matrix(kits, *(kit for kit in kits if str(kit) in REPRESENTATIVES))


def _test_for(kits: Sequence[Kit], test: Test) -> Callable[..., None]:
    @functools.wraps(test)
    def run(kit: Kit, **arguments: Any) -> None:
        kit.run(test, kit=kit, **arguments)

    parametrized: Callable[..., None] = pytest.mark.parametrize("kit", representative(kits), ids=str)(run)
    return parametrized


def everywhere(test: Test) -> Callable[..., None]:
    """Run a test with each transport, under each backend."""
    return _test_for(KITS, test)


def asynchronously(test: Test) -> Callable[..., None]:
    """Run a test with the async transports alone."""
    return _test_for([kit for kit in KITS if not kit.is_sync], test)
