"""Access through the whole server: keys, passed-through keys, origins and host names."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from drive import AGENT_ID, DONE, PING, USAGE, agent_json, encode, say, stop
from letta_server import Access, LettaPool, Server, Settings
from letta_server.access.keys import toml_lines
from letta_server.settings.errors import SettingsError
from sansio_letta.upstreams.rest.commands import CancelRun, CheckHealth, FetchAgent, ListAgents

from ..scripted import RawClient, Response, Script, ScriptedLetta, ask, cancelled, found, hello, runs

ALICE, BOB = "alices-key-is-long-enough", "bobs-key-is-long-enough"
KEYS = f"alice={ALICE} bob={BOB}"


def guarded(*script: Script, access: Access | None = None, **settings: Any) -> tuple[Server, ScriptedLetta]:
    """A server that asks for keys."""
    letta = ScriptedLetta(list(script))
    chosen = access or Access(key_list=KEYS, allowed_host=("x",))
    return Server(Settings(letta_url="http://letta.invalid", access=chosen, **settings), letta), letta


def connect(nursery: trio.Nursery, server: Server) -> RawClient:
    client, handled = memory_stream_pair()
    nursery.start_soon(server.handle, handled)
    return RawClient(client)


def with_headers(request: bytes, *headers: str) -> bytes:
    return request.replace(b"\r\n\r\n", "".join(f"\r\n{line}" for line in headers).encode() + b"\r\n\r\n", 1)


def get(target: str, *headers: str, method: str = "GET") -> bytes:
    return with_headers(f"{method} {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode(), *headers)


def bearing(key: str) -> str:
    return f"authorization: Bearer {key}"


async def answer(nursery: trio.Nursery, server: Server, request: bytes) -> Response:
    """The answer to one request on a connection of its own."""
    client = connect(nursery, server)
    await client.send(request)
    return await client.receive(request.split()[0].decode())


# --- Keys


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ((), "Incorrect API key provided: the request has none."),
        ((bearing("wrong"),), "Incorrect API key provided."),
        ((bearing(ALICE + "x"),), "Incorrect API key provided."),
        (("authorization: Basic YWxpY2U6eA==",), "Incorrect API key provided."),
        ((bearing(ALICE), bearing("wrong")), "Incorrect API key provided: the request has two that differ."),
        ((bearing(ALICE), "x-api-key: wrong"), "Incorrect API key provided: the request has two that differ."),
        (("api-key: wrong",), "Incorrect API key provided."),
        ((f"x-auth-token: {ALICE}",), "Incorrect API key provided: the request has none."),
    ],
    ids=["none", "wrong", "longer", "basic", "two", "two headers", "azure", "another header"],
)
@pytest.mark.parametrize(
    "request_",
    [ask(), get("/v1/models"), get("/v1/models/Milo"), get("/api/tags"), get("/api/version")],
    ids=["chat", "list", "one", "tags", "version"],
)
async def test_without_a_good_key_letta_hears_nothing(
    nursery: trio.Nursery, request_: bytes, headers: tuple[str, ...], told: str
) -> None:
    server, letta = guarded()
    response = await answer(nursery, server, with_headers(request_, *headers))
    assert (response.status, response.headers["www-authenticate"]) == (401, "Bearer")
    error = response.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_api_key", None)
    assert error["message"].startswith(told)
    assert "wrong" not in error["message"]
    assert letta.commands == []


@pytest.mark.parametrize("header", [bearing(BOB), f"api-key: {BOB}", f"X-Api-Key: {BOB}"])
async def test_a_good_key_and_its_name_in_the_log(header: str, nursery: trio.Nursery) -> None:
    server, _ = guarded(found(), hello())
    lines: list[Any] = []
    server.log = lambda *line: lines.append(line)
    response = await answer(nursery, server, with_headers(ask(), header))
    assert response.status == 200
    await wait_all_tasks_blocked()
    assert lines[0][0].caller == "bob"
    assert BOB not in repr(lines)


async def test_what_needs_no_key(nursery: trio.Nursery) -> None:
    server, letta = guarded(Script(CheckHealth, [b'{"status": "ok", "version": "0.16.7"}']))
    for method, target, status in [
        ("GET", "/", 200),
        ("GET", "/health", 200),
        ("HEAD", "/health", 200),
        ("GET", "/ready", 200),
        ("OPTIONS", "/v1/models", 204),
        ("HEAD", "/v1/models", 200),
        ("HEAD", "/v1/models/Milo", 404),
        ("GET", "/healthz", 200),
        ("GET", "/api/ps", 404),
        ("DELETE", "/v1/models", 405),
    ]:
        assert (await answer(nursery, server, get(target, method=method))).status == status, target
    assert [type(command) for command in letta.commands] == [CheckHealth]
    wrong = await answer(nursery, server, get("/v1/models", bearing("wrong"), method="HEAD"))
    assert wrong.status == 401


@pytest.mark.parametrize("model", ["Milo", AGENT_ID])
async def test_an_agent_of_another_key_does_not_exist(
    nursery: trio.Nursery, tmp_path: Path, model: str
) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(toml_lines("alice", ALICE, agents=["Otto"]), encoding="utf-8")
    path.chmod(0o600)
    one = Script(FetchAgent, [orjson.dumps(agent_json())])
    server, _ = guarded(
        one if model == AGENT_ID else found(),
        Script(ListAgents, [orjson.dumps([agent_json()])]),
        access=Access(keys=path, allowed_host=("x",)),
    )
    response = await answer(nursery, server, with_headers(ask(model=model), bearing(ALICE)))
    assert (response.status, response.json()["error"]["code"]) == (404, "model_not_found")
    listed = await answer(nursery, server, get("/v1/models", bearing(ALICE)))
    assert listed.json()["data"] == []


async def test_a_rate_that_is_used_up(nursery: trio.Nursery) -> None:
    listing = [Script(ListAgents, [b"[]"]) for _ in range(3)]
    access = Access(key_list=KEYS, rate="2/minute", allowed_host=("x",))
    server, letta = guarded(*listing, access=access)
    for left in ("1", "0"):
        response = await answer(nursery, server, get("/v1/models", bearing(ALICE)))
        assert (response.status, response.headers["x-ratelimit-remaining-requests"]) == (200, left)
    refused = await answer(nursery, server, with_headers(ask(), bearing(ALICE)))
    assert refused.status == 429
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 59
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"][-1] == "s"
    assert "x-should-retry" not in refused.headers
    assert len(letta.commands) == 2
    assert (await answer(nursery, server, get("/v1/models", bearing(BOB)))).status == 200


async def test_keys_are_read_again(
    nursery: trio.Nursery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(toml_lines("alice", ALICE), encoding="utf-8")
    path.chmod(0o600)
    listing = [Script(ListAgents, [b"[]"]) for _ in range(3)]
    server, _ = guarded(*listing, access=Access(keys=path, allowed_host=("x",)))

    async def status(key: str) -> int:
        return (await answer(nursery, server, get("/v1/models", bearing(key)))).status

    assert [await status(ALICE), await status(BOB)] == [200, 401]
    path.write_text("[keys.bob]\nsha256 = 'nonsense'\n", encoding="utf-8")
    server.admission.reload()
    assert [await status(ALICE), await status(BOB)] == [200, 401]
    assert "keys.bob.sha256: expected 64 hexadecimal digits" in capsys.readouterr().out
    path.write_text(toml_lines("bob", BOB), encoding="utf-8")
    server.admission.reload()
    assert [await status(ALICE), await status(BOB)] == [401, 200]
    assert "keys reloaded" in capsys.readouterr().out


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)])
def test_a_keys_file_that_is_open_to_everybody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int, warned: bool
) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(toml_lines("alice", ALICE), encoding="utf-8")
    path.chmod(mode)
    guarded(access=Access(keys=path))
    assert ("keys file is open to everybody" in capsys.readouterr().out) is warned


def test_without_keys_there_is_nothing_to_reload(capsys: pytest.CaptureFixture[str]) -> None:
    server, _ = guarded(access=Access())
    server.admission.reload()
    server.connections.reload()
    assert capsys.readouterr().out == ""


# --- The clients' own keys

Answer = Callable[[bytes], bytes]


def http(body: bytes, status: bytes = b"200 OK", kind: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (status, kind, len(body), body)


@asynccontextmanager
async def letta_with_keys(*keys: str) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A Letta where each key sees an agent of its own: its address, and the heads of all requests."""
    heads: list[bytes] = []
    stream_body = b"".join(encode(message) for message in (PING, say("Hello"), stop(), USAGE, DONE))

    async def serve(stream: trio.SocketStream) -> None:
        # Requests come in one piece: all of them are short.
        while request := bytes(await stream.receive_some(65536)):
            heads.append(request.partition(b"\r\n\r\n")[0])
            key = next((key for key in keys if f"Bearer {key}\r\n".encode() in request), None)
            number = keys.index(key) if key else 0
            agent = {**agent_json(), "id": f"{AGENT_ID[:-1]}{number}"}
            if request.startswith(b"GET /v1/health/"):
                await stream.send_all(http(b'{"version": "1", "status": "ok"}'))
            elif key is None:
                await stream.send_all(http(b'{"detail": "Unauthorized"}', b"401 Unauthorized"))
            elif request.startswith(b"GET"):
                await stream.send_all(http(orjson.dumps([agent])))
            else:
                await stream.send_all(http(stream_body, kind=b"text/event-stream"))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}", heads
        nursery.cancel_scope.cancel()


async def test_the_clients_key_goes_to_letta_and_what_it_finds_stays_with_it(
    nursery: trio.Nursery, capsys: pytest.CaptureFixture[str]
) -> None:
    async with letta_with_keys(ALICE, BOB) as (url, heads):
        settings = Settings(letta_url=url, access=Access(pass_through=True, allowed_host=("x",)))
        pool = LettaPool(settings)
        await nursery.start(pool.run)
        server = Server(settings, pool)

        async def status(request: bytes, key: str | None) -> tuple[int, Any]:
            header = [bearing(key)] if key else []
            response = await answer(nursery, server, with_headers(request, *header))
            return response.status, response.json() if response.body.startswith(b"{") else None

        for key, ending in [(ALICE, b"0"), (BOB, b"1"), (ALICE, b"0")]:
            assert (await status(ask(stream=False), key))[0] == 200
            assert heads[-1].startswith(b"POST /v1/agents/%b%b/messages" % (AGENT_ID[:-1].encode(), ending))
            assert b"Bearer " + key.encode() in heads[-1]
            assert heads[-1].lower().count(b"authorization:") == 1
        assert len(heads) == 5  # each key looked the agent up once
        for request in (ask(), get("/v1/models"), get("/v1/models/Milo")):
            code, body = await status(request, "a-key-that-letta-does-not-know")
            assert (code, body["error"]["code"]) == (401, "invalid_api_key")
            assert body["error"]["message"].startswith("Incorrect API key provided: Letta does not accept it")
        seen = len(heads)
        assert (await status(ask(), None))[0] == 401
        assert len(heads) == seen
        assert (await status(get("/ready"), None))[0] == 200
        assert b"authorization" not in heads[-1].lower()
        pool.stop()
    said = capsys.readouterr().out
    assert "request" in said
    assert ALICE not in said + repr(server.proxy) + repr(settings)


class OneLetta:
    """Takes commands only of a client with a key."""

    def __init__(self, letta: ScriptedLetta) -> None:
        self.letta, self.keys = letta, list[str]()

    def with_key(self, key: str) -> ScriptedLetta:
        self.keys.append(key)
        return self.letta

    async def send(self, _: Any) -> Script:
        raise AssertionError("a command without a key")


async def test_a_run_is_cancelled_with_the_key_of_its_client(nursery: trio.Nursery) -> None:
    letta = OneLetta(ScriptedLetta([found(), runs(PING, say("Hel"), trio.Event()), cancelled()]))
    access = Access(pass_through=True, allowed_host=("x",))
    server = Server(Settings(letta_url="http://letta.invalid", access=access), letta)
    client = connect(nursery, server)
    await client.send(with_headers(ask(), bearing(ALICE)))
    await wait_all_tasks_blocked()
    await client.stream.aclose()
    await letta.letta.saw(CancelRun)
    assert letta.keys == [ALICE]


def test_an_upstream_that_takes_no_keys() -> None:
    with pytest.raises(SettingsError, match="pass_through: expected an upstream that takes a client's key"):
        guarded(access=Access(pass_through=True))


# --- Pages and names


async def test_a_name_that_is_made_to_mean_this_machine(nursery: trio.Nursery) -> None:
    server, letta = guarded(access=Access())
    for target in ("/v1/models", "/health", "/"):
        response = await answer(nursery, server, get(target))
        assert (response.status, response.json()["error"]["code"]) == (403, "host_not_allowed")
    assert letta.commands == []
    open_to_all, _ = guarded(access=Access(key_list=KEYS), host="0.0.0.0")
    assert (await answer(nursery, open_to_all, get("/health"))).status == 200


async def test_pages(nursery: trio.Nursery) -> None:
    access = Access(cors_origin=("https://Chat.example",), allowed_host=("X",), key_list=KEYS)
    server, letta = guarded(found(), hello(), access=access)
    page = "origin: https://chat.example"
    asked = ("access-control-request-method: POST", "access-control-request-headers: authorization")
    preflight = await answer(nursery, server, get("/v1/chat/completions", page, *asked, method="OPTIONS"))
    assert (preflight.status, preflight.headers["access-control-allow-headers"]) == (204, "authorization")
    refused = await answer(nursery, server, with_headers(ask(), page))
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, "https://chat.example")
    streamed = await answer(nursery, server, with_headers(ask(), page, bearing(ALICE)))
    assert streamed.body.endswith(b"[DONE]\n\n")
    assert "x-request-id" in streamed.headers["access-control-expose-headers"]
    seen = len(letta.commands)
    foreign = await answer(nursery, server, with_headers(ask(), "origin: https://evil.example", bearing(ALICE)))
    assert (foreign.status, foreign.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in foreign.headers
    assert len(letta.commands) == seen


async def test_a_defect_of_ours_can_be_read_by_a_page(nursery: trio.Nursery) -> None:
    access = Access(cors_origin=("https://chat.example",), allowed_host=("x",))
    server, _ = guarded(access=access)
    broken = await answer(nursery, server, with_headers(ask(), "origin: https://chat.example"))
    assert (broken.status, broken.headers["access-control-allow-origin"]) == (500, "https://chat.example")


async def test_too_many_headers(nursery: trio.Nursery) -> None:
    server, _ = guarded(access=Access(allowed_host=("x",)), max_header_count=10)
    fine = await answer(nursery, server, get("/health", *(f"x-{number}: 1" for number in range(9))))
    many = await answer(nursery, server, get("/health", *(f"x-{number}: 1" for number in range(10))))
    assert (fine.status, many.status) == (200, 431)


# --- Settings


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"pass_through": True, "key_list": KEYS}, "pass_through: expected no keys of the proxy's own"),
        ({"pass_through": True, "keys": Path("k")}, "pass_through: expected no keys of the proxy's own"),
        ({"pass_through": True, "rate": "1/minute"}, "rate: expected keys of the proxy's own"),
        ({"rate": "often"}, 'rate: expected "60/minute"'),
        ({"rate_store": "http://:password@x"}, "rate_store: expected an address like redis://"),
        ({"tls_cert": Path("c")}, "tls_key: expected a file, since tls_cert is given"),
        ({"tls_key": Path("k")}, "tls_cert: expected a file, since tls_key is given"),
        ({"cors_origin": ("chat.example",)}, "cors_origin: expected https://NAME"),
        ({"allowed_host": ("http://x",)}, "allowed_host: expected a name without port or scheme"),
        ({"allowed_host": ("x:80",)}, "allowed_host: expected a name without port or scheme"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Access(**given)
    assert str(caught.value).startswith(told)
    assert "password" not in str(caught.value)
    assert ALICE not in str(caught.value)


def test_beyond_this_machine_only_with_keys_or_in_so_many_words() -> None:
    with pytest.raises(SettingsError, match=r"host: 0\.0\.0\.0 can be reached from other machines"):
        Settings(host="0.0.0.0")
    Settings(host="0.0.0.0", allow_anyone=True)
    Settings(host="0.0.0.0", access=Access(key_list=KEYS))
    Settings(host="0.0.0.0", access=Access(pass_through=True))
    with pytest.raises(SettingsError, match="letta_api_key: expected none beside pass_through"):
        Settings(letta_api_key="k", access=Access(pass_through=True))


def test_nothing_secret_shows_in_settings() -> None:
    access = Access(key_list=KEYS, rate_store="redis://:password@127.0.0.1/0")
    assert ALICE not in repr(Settings(access=access))
    assert "password" not in repr(Settings(access=access))


def test_nobody_is_asked_for_a_key_that_there_is_none_of() -> None:
    assert not Access().requires_key
    assert Access(keys=Path("k")).requires_key
    assert Access(config=Path("c"), keys=Path("k")).key_files == (Path("c"), Path("k"))
