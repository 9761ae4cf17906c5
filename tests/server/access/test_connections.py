"""Accepting connections: TLS on real sockets, and limits on their number."""

import errno
import resource
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from trio.testing import MockClock, wait_all_tasks_blocked

from letta_server import Access, Server, Settings, serve
from letta_server.access.connections import ConnectionLimiter
from letta_server.access.tls import Certificate
from letta_server.observe.timing import TimedObserver
from letta_server.settings.errors import SettingsError
from sansio_letta.proxy.observer import CycleOpened
from sansio_letta.upstreams.rest.commands import ListAgents, OpenStream

from ..scripted import RawClient, Script, ScriptedLetta, ask, found, hello

CA = trustme.CA()


def issue(folder: Path, name: str = "localhost", ca: trustme.CA = CA) -> Access:
    """Settings with a certificate, in the same files each time."""
    made = ca.issue_cert(name, "127.0.0.1")
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    made.private_key_pem.write_to_path(str(key))
    return Access(tls_cert=cert, tls_key=key, allowed_host=("x",))


@asynccontextmanager
async def serving(*script: Script, **settings: Any) -> AsyncIterator[tuple[Server, int]]:
    """A whole server on a port."""
    options = {"port": 0, "letta_url": "http://letta.invalid", **settings}
    async with trio.open_nursery() as nursery:
        server, listeners = await nursery.start(serve, Settings(**options), ScriptedLetta(list(script)))
        yield server, listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def tls_client(port: int, ca: trustme.CA = CA) -> tuple[RawClient, trio.SSLStream[trio.SocketStream]]:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    stream = await trio.open_ssl_over_tcp_stream("localhost", port, ssl_context=context, https_compatible=True)
    await stream.do_handshake()
    return RawClient(stream), stream


async def test_a_streamed_answer_and_the_next_over_tls(tmp_path: Path) -> None:
    async with serving(found(), hello(), hello(), access=issue(tmp_path)) as (_, port):
        client, stream = await tls_client(port)
        assert stream.selected_alpn_protocol() is None
        await client.send(ask())
        response = await client.receive()
        assert response.body.endswith(b"data: [DONE]\n\n")
        await client.send(ask(stream=False))
        assert (await client.receive()).json()["choices"][0]["message"]["content"] == "Hello"
        await stream.aclose()


async def test_an_answer_before_the_body_is_read_arrives_over_tls(tmp_path: Path) -> None:
    access = issue(tmp_path)
    async with serving(access=access, max_request_size=1000) as (_, port):
        client, stream = await tls_client(port)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 500000\r\n\r\n"
        await client.send(head + b"x" * 200_000)
        response = await client.receive()
        assert (response.status, response.headers["connection"]) == (413, "close")
        assert await client.ended()
        await stream.aclose()


async def test_a_client_that_leaves_over_tls_is_noticed(tmp_path: Path) -> None:
    gate = trio.Event()
    async with serving(Script(ListAgents, heading=gate), access=issue(tmp_path)) as (server, port):
        client, stream = await tls_client(port)
        done = trio.Event()
        server.log = lambda summary, *_: done.set()
        await client.send(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
        await wait_all_tasks_blocked()
        await trio.aclose_forcefully(stream)
        with trio.fail_after(10):
            await done.wait()


async def test_a_handshake_that_never_ends_is_dropped(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with serving(access=issue(tmp_path), handshake_timeout=5.0) as (_, port):
        silent, began = await trio.open_tcp_stream("127.0.0.1", port), trio.current_time()
        await silent.send_all(b"\x16\x03\x01")
        assert await silent.receive_some(1) == b""
        assert trio.current_time() - began == pytest.approx(5.0, abs=0.5)
        await silent.aclose()


async def test_plain_http_on_a_tls_port_is_closed(tmp_path: Path) -> None:
    async with serving(access=issue(tmp_path)) as (_, port):
        plain, answer = await trio.open_tcp_stream("127.0.0.1", port), b""
        await plain.send_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        with suppress(trio.BrokenResourceError):
            while data := await plain.receive_some(4096):
                answer += data
        assert b"HTTP" not in answer
        await plain.aclose()
        client, stream = await tls_client(port)
        assert (await client.get()).status == 200
        await stream.aclose()


async def test_a_new_certificate_is_for_new_connections(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = trustme.CA()
    access = issue(tmp_path)
    async with serving(access=access) as (server, port):
        old, old_stream = await tls_client(port)
        assert access.tls_cert is not None
        assert access.tls_key is not None
        access.tls_key.write_bytes(other.issue_cert("localhost").private_key_pem.bytes())
        server.connections.reload()
        assert "certificate not reloaded" in capsys.readouterr().out
        same, same_stream = await tls_client(port)
        assert (await same.get()).status == 200
        issue(tmp_path, ca=other)
        server.connections.reload()
        assert "certificate reloaded" in capsys.readouterr().out
        new, new_stream = await tls_client(port, other)
        assert [(await client.get()).status for client in (old, same, new)] == [200, 200, 200]
        for stream in (old_stream, same_stream, new_stream):
            await stream.aclose()


def test_files_that_are_no_certificate(tmp_path: Path) -> None:
    access = issue(tmp_path)
    assert access.tls_cert is not None
    assert access.tls_key is not None
    with pytest.raises(SettingsError, match=r"tls_key: .*absent: no such file or directory"):
        Certificate(access.tls_cert, tmp_path / "absent")
    other = trustme.CA().issue_cert("localhost").private_key_pem.bytes()
    access.tls_key.write_bytes(other)
    with pytest.raises(SettingsError, match=r"unencrypted key, got .*: key values mismatch"):
        Certificate(access.tls_cert, access.tls_key)
    access.tls_cert.write_bytes(b"nonsense")
    with pytest.raises(SettingsError, match="tls_cert, tls_key: expected a PEM certificate"):
        Certificate(access.tls_cert, access.tls_key)


def test_an_encrypted_key_asks_nobody_for_its_password(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    access = issue(tmp_path)
    assert access.tls_cert is not None
    assert access.tls_key is not None
    key = serialization.load_pem_private_key(access.tls_key.read_bytes(), None)
    access.tls_key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    with pytest.raises(
        SettingsError, match="tls_cert, tls_key: expected a PEM certificate and its own unencrypted"
    ):
        Certificate(access.tls_cert, access.tls_key)


async def test_clients_without_an_address_are_not_counted_as_one() -> None:
    """They come through a socket of the file system, and a program in front of us may bring them all."""
    door = ConnectionLimiter(Settings(letta_url="http://letta.invalid", max_peer_connection_count=1))
    served: list[trio.abc.Stream] = []
    done = trio.Event()

    async def serve(stream: trio.abc.Stream) -> None:
        served.append(stream)
        await done.wait()

    async with trio.open_nursery() as nursery:
        for end in trio.socket.socketpair():
            nursery.start_soon(door.serve_connection, trio.SocketStream(end), serve)
        await wait_all_tasks_blocked()
        assert len(served) == 2
        done.set()
    for stream in served:
        await stream.aclose()


ACCESS = Access(allowed_host=("x",))


async def test_one_connection_too_many_of_an_address_is_closed(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(access=ACCESS, max_peer_connection_count=2) as (_, port):
        streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(2)]
        clients = [RawClient(stream) for stream in streams]
        assert [(await client.get()).status for client in clients] == [200, 200]
        for _ in range(2):
            async with await trio.open_tcp_stream("127.0.0.1", port) as refused:
                assert await refused.receive_some(1) == b""
        assert capsys.readouterr().out.count("limit=max_peer_connection_count") == 1
        await streams[0].aclose()
        await wait_all_tasks_blocked()
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            assert (await RawClient(stream).get()).status == 200
        await streams[1].aclose()


@pytest.mark.parametrize(
    "begun", [b"", b"GET /health HTTP/1.1\r\nhost:"], ids=["nothing sent", "half a head sent"]
)
async def test_one_connection_too_many_takes_the_place_of_the_one_that_waits_longest(
    begun: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(access=ACCESS, max_connection_count=2) as (_, port):
        first, second = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(2)]
        await first.send_all(begun)
        await wait_all_tasks_blocked()
        # Whoever has asked meanwhile waits less long.
        assert (await RawClient(first).get()).status == 200 if not begun else True
        async with await trio.open_tcp_stream("127.0.0.1", port) as third:
            assert (await RawClient(third).get()).status == 200
            closed, kept = (first, second) if begun else (second, first)
            assert await closed.receive_some(1) == b""
            assert (await RawClient(kept).get()).status == 200
        assert capsys.readouterr().out.count("too many connections, the longest idle ones are closed") == 1
        await first.aclose()
        await second.aclose()


async def test_a_connection_that_is_answered_is_not_closed_for_another() -> None:
    asked = trio.Event()
    script = (found(), Script(OpenStream, heading=trio.Event()))
    async with serving(*script, access=ACCESS, max_connection_count=1) as (server, port):

        class Asked(TimedObserver):
            def begin(self, opened: CycleOpened) -> None:
                asked.set()

        server.observers = [Asked]
        busy = await trio.open_tcp_stream("127.0.0.1", port)
        await busy.send_all(ask())
        await asked.wait()
        async with await trio.open_tcp_stream("127.0.0.1", port) as refused:
            assert await refused.receive_some(1) == b""
        await trio.aclose_forcefully(busy)


async def test_the_connections_fit_into_the_files_that_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    assert ConnectionLimiter(Settings(letta_url="http://letta.invalid")).limit == (256 - 64) // 2
    assert ConnectionLimiter(Settings(letta_url="http://letta.invalid", max_connection_count=5)).limit == 5
    monkeypatch.setattr(resource, "getrlimit", lambda _: (32, 32))
    assert ConnectionLimiter(Settings(letta_url="http://letta.invalid")).limit == 8
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: unlimited)
    assert ConnectionLimiter(Settings(letta_url="http://letta.invalid")).limit == 10_000


async def test_a_process_without_files_closes_what_waits_and_goes_on(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    door = ConnectionLimiter(Settings(letta_url="http://letta.invalid"))
    ours, theirs = trio.socket.socketpair()
    failures = [OSError(errno.EMFILE, "Too many open files") for _ in range(30)]

    class Listener(trio.abc.Listener[trio.abc.Stream]):
        async def accept(self) -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            if failures:
                raise failures.pop()
            return trio.SocketStream(theirs)

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        waiting = trio.SocketStream(ours)

        async def serve(stream: trio.abc.Stream) -> None:
            with door.waiting(stream), suppress(trio.ClosedResourceError):
                await waiting.receive_some(1)

        nursery.start_soon(door.serve_connection, waiting, serve)
        await wait_all_tasks_blocked()
        assert isinstance(await door.accepting(Listener()).accept(), trio.SocketStream)
    assert waiting.socket.fileno() == -1
    printed = capsys.readouterr().out
    # A second has ten tries.
    assert printed.count("cannot accept a connection") == 3
    assert "Traceback" not in printed
    theirs.close()
