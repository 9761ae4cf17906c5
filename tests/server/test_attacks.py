"""Attacks and their results. What is sent and what is expected is in `attacks`."""

import io
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import h11
import orjson
import pytest
import structlog
import trio
from attrs import define, field
from rich.console import Console
from trio.testing import MockClock, memory_stream_pair

from drive import AGENT_ID, DONE, PING, USAGE, agent_json, encode, say, stop
from letta_recordings.page import page
from letta_recordings.terminal import show
from letta_server import Access, LettaPool, Server, Settings
from letta_server.access.keys import toml_lines
from letta_server.observe.log import configure_log
from letta_server.settings.log import LogFormat
from sansio_letta import Proxy, read_recording
from sansio_letta.turn.ledger import digest, root
from sansio_letta.turn.request import Mark

from .access.test_keys import test_guessing_compares_all_keys_over_digests_of_one_length
from .attacks import ATTACKS, BODY, CHAT, NEAR_PAGES, SUBDOMAINS, TRIALS, Attack

#: Status, content type and body for a method and a target.
Answer: TypeAlias = Callable[[str, str], tuple[int, str, bytes]]


def nobody(_: str, __: str) -> tuple[int, str, bytes]:
    """A Letta without agents."""
    return 200, "application/json", b"[]"


def gone(_: str, __: str) -> tuple[int, str, bytes]:
    """A Letta that does not know the id."""
    return 404, "application/json", b"{}"


def somebody(listed: Sequence[Any] = (), **agent: Any) -> Answer:
    """A Letta with one agent, which greets.

    :param listed: the messages of its thread.
    """
    shown = {**agent_json(), **agent}
    said = b"".join(encode(message) for message in (PING, say("Hello"), stop(), USAGE, DONE))

    def answer(method: str, target: str) -> tuple[int, str, bytes]:
        if method == "POST":
            return 200, "text/event-stream", said
        if "/messages?" in target:
            return 200, "application/json", orjson.dumps(listed)
        return 200, "application/json", orjson.dumps([shown] if "/?" in target else shown)

    return answer


@define(eq=False)
class StrictLetta:
    """Reads requests as strictly as h11 does, and keeps them; anything else than requests is an error."""

    answer: Answer
    lines: list[str] = field(factory=list)
    headers: list[dict[bytes, bytes]] = field(factory=list)
    bodies: list[bytes] = field(factory=list)

    async def serve(self, stream: trio.SocketStream) -> None:
        http = h11.Connection(h11.SERVER)
        body = b""
        while True:
            try:
                event = http.next_event()
            except h11.RemoteProtocolError:
                self.lines.append("nonsense")
                return
            if event is h11.NEED_DATA:
                http.receive_data(bytes(await stream.receive_some(65536)))
            elif isinstance(event, h11.Request):
                self.lines.append(f"{event.method.decode()} {event.target.decode()}")
                assert len({name for name, _ in event.headers}) == len(list(event.headers))
                self.headers.append(dict(event.headers))
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.bodies.append(body)
                status, kind, data = self.answer(*self.lines[-1].split(" "))
                headers = [("content-type", kind), ("content-length", str(len(data)))]
                out = http.send(h11.Response(status_code=status, headers=headers)) or b""
                out += (http.send(h11.Data(data=data)) or b"") + (http.send(h11.EndOfMessage()) or b"")
                await stream.send_all(out)
                http.start_next_cycle()
                body = b""
            else:
                return


@asynccontextmanager
async def attacked(answer: Answer = nobody, **settings: Any) -> AsyncIterator[tuple[Server, StrictLetta]]:
    """A server in front of a Letta on a real socket."""
    letta = StrictLetta(answer)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, letta.serve, 0)
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        chosen = Settings(letta_url=url, **settings)
        pool = LettaPool(chosen)
        await nursery.start(pool.run)
        try:
            yield Server(chosen, pool), letta
        finally:
            pool.stop()
        nursery.cancel_scope.cancel()


async def exchange(server: Server, sent: bytes) -> tuple[bytes, bool]:
    """All that comes back, and whether the server ended the connection by itself."""
    client, handled = memory_stream_pair()
    came, ended = b"", False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.handle, handled)
        await client.send_all(sent)
        with trio.move_on_after(3.0):
            while data := await client.receive_some():
                came += data
            ended = True
        nursery.cancel_scope.cancel()
    return came, ended


def responses(came: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """The answers, read strictly."""
    http, found, status, headers, body = h11.Connection(h11.CLIENT), [], 0, dict[str, str](), b""
    http.receive_data(came)
    while http.trailing_data[0]:
        if http.our_state is h11.IDLE:
            http.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
            http.send(h11.EndOfMessage())
        event = http.next_event()
        if isinstance(event, h11.Response):
            status, body = event.status_code, b""
            headers = {name.decode(): value.decode() for name, value in event.headers}
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            found.append((status, headers, body))
            if http.our_state is not h11.DONE:
                break
            http.start_next_cycle()
        else:
            break
    if status and (not found or found[-1][2] != body):
        found.append((status, headers, body))
    return found


@pytest.mark.parametrize("attack", ATTACKS, ids=[f"{attack.kind}: {attack.what}" for attack in ATTACKS])
async def test_attack(attack: Attack, autojump_clock: MockClock, capfd: pytest.CaptureFixture[str]) -> None:
    access = Access(cors_origin=(SUBDOMAINS,)) if attack in NEAR_PAGES else Access()
    async with attacked(access=access) as (server, letta):
        came, ended = await exchange(server, attack.sent)
    answers = responses(came)
    assert came.count(b"HTTP/1.1 ") == len(answers) == 1
    [(status, headers, body)] = answers
    assert status == attack.status
    error = orjson.loads(body).get("error")
    assert (error["code"] if error else None) == attack.code
    assert ended is attack.closes
    assert (headers.get("connection") == "close") is attack.closes
    assert letta.lines == list(attack.targets)
    assert "x-evil" not in headers
    assert "access-control-allow-origin" not in headers
    assert all(b"x-evil" not in sent for sent in letta.headers)
    assert len(capfd.readouterr().out.splitlines()) == 1


def test_every_trial_is_tried() -> None:
    assert {name for name in globals() if name.startswith("test_")} >= {f"test_{name}" for name in TRIALS}
    rows = [(attack.kind, attack.what) for attack in ATTACKS]
    rows += [(trial.kind, trial.what) for trial in TRIALS.values()]
    assert len(set(rows)) == len(rows)


# --- Agents with odd names, as somebody at Letta may call them


def asking(model: str, *headers: str, stream: bool = True) -> bytes:
    body = orjson.dumps({**orjson.loads(BODY), "model": model, "stream": stream})
    lines = "".join(f"{header}\r\n" for header in headers).encode()
    return CHAT + lines + b"content-length: %d\r\n\r\n" % len(body) + body


async def test_an_agents_id_is_one_segment(autojump_clock: MockClock) -> None:
    odd = "../a/b?c=d&e#f;g%2f \r\nx-evil: 1\u00e9"
    async with attacked(somebody(id=odd)) as (server, letta):
        came, _ = await exchange(server, asking("Milo"))
    assert b"[DONE]" in came
    encoded = "..%2Fa%2Fb%3Fc%3Dd%26e%23f%3Bg%252f%20%0D%0Ax-evil%3A%201%C3%A9"
    assert letta.lines[1] == f"POST /v1/agents/{encoded}/messages/stream"
    assert all(b"x-evil" not in headers for headers in letta.headers)


@pytest.mark.parametrize("name", ["Mi\r\n\r\nlo: x", "a\u2028b\u0085c\x1b[2J", 'x"}\n\ndata: {"evil":1}'])
async def test_an_agents_name_ends_no_line(name: str, autojump_clock: MockClock) -> None:
    async with attacked(somebody(name=name)) as (server, letta):
        came, _ = await exchange(server, asking(name))
    [(status, headers, body)] = responses(came)
    assert status == 200
    assert headers.keys() >= {"content-type", "x-request-id"}
    assert not any(set(value) & set("\r\n") for value in headers.values())
    events = body.decode().removesuffix("\n\n").split("\n\n")
    assert events[-1] == "data: [DONE]"
    for event in events[:-1]:
        assert orjson.loads(event.removeprefix("data: "))["model"] == name
    assert len(letta.lines) == 2


# --- Keys

KEY, OTHER = "alices-key-is-long-enough", "bobs-key-is-long-enough"


def test_guessing_a_key() -> None:
    test_guessing_compares_all_keys_over_digests_of_one_length()


@pytest.mark.parametrize(
    "given",
    [
        KEY.upper(),
        KEY[:-1],
        KEY + KEY,
        KEY + "\t",
        "\u00a0" + KEY,
        f"{KEY} {OTHER}",
        f"{KEY},{OTHER}",
        f"{KEY}\0",
    ],
    ids=repr,
)
async def test_a_key_in_another_case(given: str, autojump_clock: MockClock) -> None:
    async with attacked(somebody(), access=Access(key_list=f"alice={KEY}")) as (server, letta):
        sent = asking("Milo").replace(b"\r\n", f"\r\nauthorization: Bearer {given}\r\n".encode("latin1"), 1)
        [(status, _, body)] = responses((await exchange(server, sent))[0])
    if given.rstrip("\t") == KEY:
        # White space around a header's value is none of it.
        assert status == 200
        return
    assert (status, orjson.loads(body)["error"]["code"]) in [(401, "invalid_api_key"), (400, "invalid_http")]
    assert letta.lines == []


BRINGING = (f"authorization: Bearer {KEY}", f"api-key: {KEY}", f"x-api-key: {KEY}")
BRINGING_OTHER = tuple(header.replace(KEY, OTHER) for header in BRINGING)


@pytest.mark.parametrize("bad", [*BRINGING_OTHER, "api-key: \u00e9"])
@pytest.mark.parametrize("good", BRINGING)
async def test_two_keys_that_differ(good: str, bad: str, autojump_clock: MockClock) -> None:
    async with attacked(somebody(), access=Access(key_list=f"alice={KEY}")) as (server, letta):
        for headers in ((good, bad), (bad, good)):
            [(status, _, body)] = responses((await exchange(server, asking("Milo", *headers)))[0])
            assert (status, orjson.loads(body)["error"]["code"]) == (401, "invalid_api_key")
        assert letta.lines == []
        [(status, _, _)] = responses((await exchange(server, asking("Milo", *BRINGING)))[0])
    assert status == 200


@pytest.mark.parametrize(("first", "second"), list(zip(BRINGING, BRINGING_OTHER, strict=True)))
async def test_another_clients_answer(first: str, second: str, autojump_clock: MockClock) -> None:
    """The same body, sent as a repeat: with the same key it gets the answer that was given."""
    access = Access(key_list=f"alice={KEY} bob={OTHER}")
    asked = []
    text = orjson.loads(BODY)["messages"][0]["content"]
    mark = Mark(digest("user", text), root("alice")).text
    heard = {
        "message_type": "user_message",
        "id": "message-1",
        "content": text,
        "otid": mark,
        "run_id": "run-1",
    }
    async with attacked(somebody([heard]), access=access) as (server, letta):
        for key, count in ((first, 0), (first, 1), (second, 1)):
            sent = asking("Milo", key, f"x-stainless-retry-count: {count}")
            [(status, _, _)] = responses((await exchange(server, sent))[0])
            assert status == 200
            asked.append(len([line for line in letta.lines if line.startswith("POST")]))
    assert asked == [1, 1, 2]


@pytest.mark.parametrize("model", ["Milo", AGENT_ID, AGENT_ID.upper(), f" {AGENT_ID}", "mILO", "*", "M*"])
async def test_another_keys_agent(model: str, tmp_path: Path, autojump_clock: MockClock) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(toml_lines("alice", KEY, agents=["Otto", AGENT_ID.replace("1", "2")]), encoding="utf-8")
    path.chmod(0o600)
    bearing = f"authorization: Bearer {KEY}"
    told = []
    for answer in (somebody(), nobody if model != AGENT_ID else gone):
        async with attacked(answer, access=Access(keys=path)) as (server, _):
            [(status, headers, body)] = responses((await exchange(server, asking(model, bearing)))[0])
            headers.pop("x-request-id")
            told.append((status, headers, body))
    assert told[0] == told[1]
    assert (told[0][0], orjson.loads(told[0][2])["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("given", ["a\r\n b", "a b", "a\r\nx-evil: 1", "a\rb", "\u00e9"], ids=repr)
async def test_a_clients_key_of_two_lines(given: str, autojump_clock: MockClock) -> None:
    async with attacked(somebody(), access=Access(pass_through=True)) as (server, letta):
        sent = asking("Milo").replace(b"\r\n", f"\r\nauthorization: Bearer {given}\r\n".encode("latin1"), 1)
        [(status, _, _)] = responses((await exchange(server, sent))[0])
    if "x-evil" in given:
        # To us it is a header of its own, and those of a client go no further.
        assert status == 200
        assert all(b"x-evil" not in headers for headers in letta.headers)
        return
    assert status in (400, 401)
    assert letta.lines == []


# --- Logs


@pytest.fixture(params=[LogFormat.JSON, LogFormat.CONSOLE], ids=["json", "console"])
def logged(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[LogFormat, io.StringIO]]:
    """The log as the command line sets it up."""
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    configure_log(request.param)
    yield request.param, out
    structlog.reset_defaults()


async def test_a_forged_log_line(logged: tuple[LogFormat, io.StringIO], autojump_clock: MockClock) -> None:
    form, out = logged
    forged = 'x\r\n{"event": "request", "caller": "root"}\x1b[2J\x1b]0;evil\x07\u202e\u2028\u0085'
    sent = [
        asking(forged),
        asking("y" * 1_000_000),
        b"GET /%0d%0a%1b[2J\x7f HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /a HTTP/1.1\r\nhost: localhost\r\nuser-agent: \x1b[2J\r\n\r\n",
        asking("Milo", "user-agent: a\tb\u00ff"),
    ]
    async with attacked() as (server, _):
        for each in sent:
            await exchange(server, each)
    lines = out.getvalue().removesuffix("\n").split("\n")
    assert len(lines) == len(sent)
    for line in lines:
        # The console's own colours are none of the client's.
        plain = line.replace("\x1b[", "") if form is LogFormat.CONSOLE and "\x1b[0m" in line else line
        assert plain.isprintable()
        assert len(line) < 2000
        if form is LogFormat.JSON:
            assert orjson.loads(line).get("caller") is None
    assert r"\x1b[2J" in lines[0].replace("\\\\", "\\").replace("\\u001b", r"\x1b")


async def test_a_secret_in_the_log(
    logged: tuple[LogFormat, io.StringIO], autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out = logged

    def broken(*_: Any, **__: Any) -> Any:
        secret_of_a_variable = "text-of-a-user"  # what a traceback with variables would show
        raise ZeroDivisionError(len(secret_of_a_variable) and "a defect")

    async with attacked(somebody(), access=Access(key_list=f"alice={KEY} bob={OTHER}")) as (server, _):
        for key in (KEY, "a-wrong-key-that-is-long"):
            await exchange(server, asking("Milo", f"authorization: Bearer {key}"))
        monkeypatch.setattr(Proxy, "open", broken)
        await exchange(server, asking("Milo", f"authorization: Bearer {KEY}"))
        server.admission.settings = None  # type: ignore[assignment]
        await exchange(server, asking("Milo", f"authorization: Bearer {KEY}"))
    said = out.getvalue()
    assert "ZeroDivisionError" in said
    assert "alice" in said
    for secret in (KEY, OTHER, "a-wrong-key", "text-of-a-user\n", "= 'text-of-a-user'", '"content":"hi"'):
        assert secret not in said


# --- Recordings


def test_escapes_in_inspect() -> None:
    evil = "\x1b[2J\x1b]0;evil\x07[bold]x[/bold]</script><script>alert(1)</script>\u202e"
    lines = [
        {"v": 1, "kind": "letta-v1", "server": evil, "scenario": evil, "note": evil},
        {"x": 1, "t": 0, "dir": "request", "method": "POST", "path": f"/v1/agents/{evil}/messages/stream",
         "json": {"messages": [{"role": "user", "content": evil}], "streaming": True}},
        {"x": 1, "t": 0.1, "dir": "response", "status": 200,
         "headers": [["content-type", "text/event-stream"]]},
        {"x": 1, "t": 0.2, "dir": "data", "text": "".join(
            encode(message).decode() for message in (PING, say(evil), stop(evil), USAGE, DONE))},
        {"x": 1, "t": 0.3, "dir": "end"},
    ]  # fmt: skip
    recording = read_recording(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    out = io.StringIO()
    show(recording, Console(file=out, width=120, color_system=None, force_terminal=False))
    assert out.getvalue().replace("\n", "").isprintable()
    assert "[bold]" in out.getvalue()
    shown = page(recording)
    assert "<script>alert(1)" not in shown
    assert "\x1b" not in shown


# --- What Letta would fetch


async def test_an_image_is_not_fetched_here(autojump_clock: MockClock) -> None:
    url = "https://10.0.0.1/x.png"
    image = [{"type": "image_url", "image_url": {"url": url}}]
    body = orjson.dumps({"model": "Milo", "messages": [{"role": "user", "content": image}]})
    async with attacked(somebody()) as (server, letta):
        await exchange(server, CHAT + b"content-length: %d\r\n\r\n" % len(body) + body)
    assert [line.partition(" ")[0] for line in letta.lines] == ["GET", "POST"]
    [content] = orjson.loads(letta.bodies[1])["messages"][0]["content"]
    assert content["source"] == {"type": "url", "url": url}
