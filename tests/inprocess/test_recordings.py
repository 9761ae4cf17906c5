"""`record=`: what is recorded, what never is, and that a replay gives what the client got."""

import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import orjson
import pytest
import trio
import trio.testing
from attrs import evolve

from drive import AGENT_ID, DONE, PING, RUN_ID, USAGE, agent_json, encode, error, say, stop, think, want
from inprocess.kit import (
    CHAT,
    KITS,
    Kit,
    Piece,
    Script,
    ask,
    cancelled,
    everywhere,
    found,
    hello,
    representative,
    runs,
    unreadable,
)
from letta_recordings import RecordingFolder
from sansio_letta import HttpRequest, Proxy, Signal
from sansio_letta.recording.compare import compare
from sansio_letta.recording.format import Recording, RecordingError, TextMode
from sansio_letta.recording.reader import read_recording
from sansio_letta.upstreams.rest.commands import FetchRun
from server import scripted
from server.scripted import RawClient, make_server

Test: TypeAlias = Callable[..., None]

KEYS = ("sk-0123456789abcdef", "Zm9vYmFyYmF6", "lettas-own-key", "the-agents-secret", "a-cookie", "other-key-1")


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)


def only(folder: Path) -> Recording:
    """The one recording there is."""
    [path] = files(folder)
    return read_recording(path.read_bytes())


@everywhere
async def test_a_turn_is_a_file(kit: Kit, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    client = kit.client(kit.letta(found(), hello()), record=str(folder))
    body = await client.answer()
    [path] = files(folder)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    recording = only(folder)
    assert recording.cut_line is None
    assert recording.head.text == "drop"
    assert recording.head.note == "POST /v1/chat/completions"
    assert recording.client is not None
    assert (recording.client.status, recording.client.end) == (200, "end")
    assert recording.client.request.path == CHAT
    assert [exchange.request.method for exchange in recording.exchanges] == ["GET", "POST"]
    assert b"Hel" in body
    assert b"Hel" not in path.read_bytes()
    assert compare(recording).same


@everywhere
async def test_other_requests_are_recorded_too(kit: Kit, tmp_path: Path) -> None:
    agents = Script("GET", "/v1/agents/?limit=100", [orjson.dumps([agent_json()])])
    client = kit.client(kit.letta(agents), record=tmp_path)
    await (await client.send("GET", "/v1/models")).read()
    await (await client.send("GET", "/v2/nothing")).read()
    first, second = (read_recording(path.read_bytes()) for path in files(tmp_path))
    assert compare(first).same
    assert compare(second).same
    assert second.client is not None
    assert second.client.status == 404


# --- What is never written ------------------------------------------------------------------------------------


def secretive() -> list[Script]:
    """A Letta that tells its secrets."""
    agent = agent_json() | {
        "system": "the-agents-secret",
        "tool_exec_environment_variables": [{"key": "TOKEN", "value": "the-agents-secret"}],
        "llm_config": {"api_key": "the-agents-secret"},
    }
    looking = Script("GET", "/v1/agents/?name=Milo&include=agent.tools", [orjson.dumps([agent])])
    looking.headers = [("content-type", "application/json"), ("set-cookie", "session=a-cookie")]
    words = say("Your key is sk-0123456789abcdef, mine Bearer Zm9vYmFyYmF6.")
    failure = error("llm_error", "Incorrect key: sk-0123456789abcdef", "sk-0123456789abcdef")
    return [looking, runs(PING, words, stop("error"), failure, DONE)]


@everywhere
@pytest.mark.parametrize("mode", TextMode)
@pytest.mark.parametrize("stream", [True, False])
async def test_keys_are_never_written(kit: Kit, tmp_path: Path, mode: TextMode, stream: bool) -> None:
    letta = kit.letta(*secretive())
    client = kit.client(
        letta, record=RecordingFolder(path=tmp_path, text=mode), api_key="lettas-own-key", project="mine"
    )
    headers = {"authorization": "Bearer Zm9vYmFyYmF6", "cookie": "a=a-cookie", "x-api-key": "other-key-1"}
    body = ask(
        stream=stream, user="sk-0123456789abcdef", messages=[{"role": "user", "content": f"my {KEYS[0]}"}]
    )
    await (await client.send("POST", CHAT, body, headers)).read()
    assert letta.script == []
    [path] = files(tmp_path)
    text = path.read_text()
    assert [key for key in KEYS if key in text] == []
    assert "Milo" in text
    assert compare(read_recording(path.read_bytes())).same


@everywhere
@pytest.mark.parametrize(
    ("mode", "kept"), [(TextMode.KEEP, True), (TextMode.HASH, False), (TextMode.DROP, False)]
)
async def test_texts_are_written_by_choice(kit: Kit, tmp_path: Path, mode: TextMode, kept: bool) -> None:
    words = {"asked": "my question", "thought": "some reasoning", "said": "an answer", "called": "Rome"}
    letta = kit.letta(
        found(),
        runs(
            PING,
            think(words["thought"]),
            say(words["said"]),
            want("call-1", "get_weather", '{"city": "Rome"}'),
            stop("requires_approval"),
            DONE,
        ),
    )
    client = kit.client(letta, record=RecordingFolder(path=tmp_path, text=mode))
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
    await client.answer(messages=[{"role": "user", "content": words["asked"]}], tools=tools)
    [path] = files(tmp_path)
    assert {name: word in path.read_text() for name, word in words.items()} == dict.fromkeys(words, kept)
    assert "get_weather" in path.read_text()
    assert only(tmp_path).head.text == mode.value
    assert compare(only(tmp_path)).same


# --- A folder that does not grow for ever ---------------------------------------------------------------------


async def turns(kit: Kit, count: int, **folder: Any) -> None:
    """Record some turns, a moment apart: the file system's clock may be coarse."""
    client = kit.client(kit.letta(found(), *(hello() for _ in range(count))), record=RecordingFolder(**folder))
    for number in range(count):
        await client.answer()
        newest = files(folder["path"])[-1]
        os.utime(newest, ns=(number * 10**9, number * 10**9))


@everywhere
async def test_the_oldest_go_when_there_are_too_many(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not ours")
    await turns(kit, 5, path=tmp_path, max_count=3)
    assert sorted(path.stat().st_mtime_ns // 10**9 for path in files(tmp_path)) == [2, 3, 4]
    assert (tmp_path / "notes.txt").exists()


@everywhere
async def test_the_oldest_go_when_they_are_too_large(kit: Kit, tmp_path: Path) -> None:
    await turns(kit, 1, path=tmp_path)
    size = files(tmp_path)[0].stat().st_size
    await turns(kit, 5, path=tmp_path, max_size=int(size * 2.5))
    # Two fit, and the one that was written last is beyond the limit at most until the next.
    assert len(files(tmp_path)) == 3


@pytest.mark.parametrize("limit", ["max_count", "max_size"])
def test_a_limit_below_one_is_none(limit: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=limit):
        RecordingFolder(path=tmp_path, **{limit: 0})  # type: ignore[arg-type]


@everywhere
async def test_one_that_made_room_is_not_written_again(kit: Kit, tmp_path: Path) -> None:
    """Two turns at once and room for one: the older recording is gone for good, its turn goes on."""
    other = agent_json() | {"name": "Ada", "id": AGENT_ID.replace("1", "2")}
    letta = kit.letta(
        found(),
        runs(PING, say("one"), say(" two"), stop(), DONE),
        Script("GET", "/v1/agents/?name=Ada&include=agent.tools", [orjson.dumps([other])]),
        evolve(hello(), target=f"/v1/agents/{other['id']}/messages/stream"),
    )
    client = kit.client(letta, record=RecordingFolder(path=tmp_path, max_count=1))
    slow = await client.ask()
    first = await slow.next()
    assert b"Hel" in await client.answer(model="Ada")
    assert b"two" in first + await slow.read()
    assert only(tmp_path).client is not None
    assert compare(only(tmp_path)).unanswered is None


@everywhere
async def test_a_file_that_another_process_removes(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    client = kit.client(kit.letta(found(), hello()), record=tmp_path)
    assert b"Hel" in await client.answer()


@everywhere
async def test_a_folder_that_cannot_be_made(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    client = kit.client(kit.letta(found(), hello()), record=tmp_path / "file" / "folder")
    with logged() as messages:
        assert b"Hel" in await client.answer()
    assert len(messages) == 1
    assert messages[0].startswith("cannot record ")


@everywhere
async def test_a_disk_that_is_full(kit: Kit, tmp_path: Path) -> None:
    """Told once; the turn goes on, and what was written stays."""

    def fill() -> None:
        [path] = files(tmp_path)
        path.rename(tmp_path / "begun")
        path.mkdir()

    pieces: list[Piece | dict[str, Any] | str] = [PING, say("one"), fill, say(" two"), stop(), DONE]
    client = kit.client(kit.letta(found(), runs(*pieces)), record=tmp_path)
    with logged() as messages:
        assert b"two" in await client.answer()
    assert len(messages) == 1
    assert "s a directory" in messages[0]
    begun = read_recording((tmp_path / "begun").read_bytes())
    assert begun.client is not None
    assert begun.client.end is None


@everywhere
async def test_what_is_told_of_a_full_disk_names_the_file(kit: Kit, tmp_path: Path) -> None:
    def fill() -> None:
        [path] = files(tmp_path)
        path.unlink()
        path.symlink_to("/dev/full")

    pieces: list[Piece | dict[str, Any] | str] = [PING, say("one"), fill, say(" two"), stop(), DONE]
    client = kit.client(kit.letta(found(), runs(*pieces)), record=tmp_path)
    with logged() as messages:
        assert b"two" in await client.answer()
    [message] = messages
    assert message.startswith(f"cannot record {tmp_path}/")
    assert message.endswith(".jsonl: No space left on device")


@contextmanager
def logged() -> Iterator[list[str]]:
    """What the transports log meanwhile."""
    messages: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Handler()
    logging.getLogger("letta_inprocess").addHandler(handler)
    yield messages
    logging.getLogger("letta_inprocess").removeHandler(handler)


# --- Cut off --------------------------------------------------------------------------------------------------


def test_what_a_crash_leaves_is_readable(tmp_path: Path) -> None:
    """Cut at every byte: each whole line counts, and no more."""

    async def main() -> None:
        await KITS[0].client(KITS[0].letta(found(), hello()), record=tmp_path).answer()

    KITS[0].run(main)
    [path] = files(tmp_path)
    data = path.read_bytes()
    head_size = data.index(b"\n")
    for size in range(1, len(data)):
        left = data[:size]
        if size < head_size:
            with pytest.raises(RecordingError, match=r"^line 1: "):
                read_recording(left)
            continue
        whole = [line for line in left.split(b"\n") if is_json(line)]
        recording = read_recording(left)
        exchanges = [*recording.exchanges, *([recording.client] if recording.client else [])]
        happenings = sum(
            1 + (item.status is not None) + len(item.data) + (item.end is not None) for item in exchanges
        )
        assert happenings == len(whole) - 1
        assert recording.cut_line == (
            len(whole) + 1 if not left.endswith(b"\n") and left.split(b"\n")[-1] not in whole else None
        )


def is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def test_each_line_is_out_of_our_hands_at_once(tmp_path: Path) -> None:
    seen: list[int] = []

    def look() -> None:
        seen.append(files(tmp_path)[0].read_bytes().count(b"\n"))

    async def main() -> None:
        letta = KITS[0].letta(found(), runs(PING, look, say("one"), look, say("two"), look, stop(), DONE))
        await KITS[0].client(letta, record=tmp_path).answer()

    KITS[0].run(main)
    assert seen == sorted(set(seen))


# --- Replayed -------------------------------------------------------------------------------------------------

WEATHER = {
    "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
}
CALLS = [
    want("call-1", "get_weather", '{"city":'),
    want("call-1", None, ' "Rome"}'),
    want("call-2", "get_weather", "{}"),
    stop("requires_approval"),
]

#: What Letta says in a run, what the client asks for, and whether the run is cancelled then.
TURNS: dict[str, tuple[list[Any], dict[str, Any], bool]] = {
    "text": ([say("Hel"), say("lo"), stop(), USAGE, DONE], {"stream_options": {"include_usage": True}}, False),
    "two messages": ([say("Hello."), say("More.", id="message-9"), stop(), USAGE, DONE], {}, False),
    "reasoning": ([think("Let me "), think("think."), say("Yes."), stop(), USAGE, DONE], {}, False),
    "tools": ([say("Looking."), *CALLS, DONE], WEATHER, False),
    "umlauts": ([say("Grüße"), say(" 😀\u2028 ok\n\n x"), stop(), DONE], {}, False),
    "a ping": ([say("one"), PING, say("two"), stop(), DONE], {}, False),
    "the model fails": ([stop("error"), error("llm_error", "sk-0123456789abcdef"), DONE], {}, False),
    "it fails in the middle": ([say("one"), stop("error"), error("llm_error"), DONE], {}, False),
    "nonsense": ([say("one"), b"data: {nonsense\n\n"], {}, True),
    "the end too soon": ([say("one")], {}, True),
    "several at once": (
        [b"".join(encode(item) for item in (say("a"), say("b"), stop(), USAGE, DONE))],
        {},
        False,
    ),
}


def recorded_by_transport(kit: Kit, folder: RecordingFolder, letta: list[Script], body: bytes) -> bytes:
    """A turn through a transport: what its client got."""
    got: list[bytes] = []

    async def main() -> None:
        client = kit.client(kit.letta(*letta), record=folder)
        got.append(await (await client.send("POST", CHAT, body)).read())

    kit.run(main)
    return got[0]


def recorded_by_server(folder: RecordingFolder, letta: list[scripted.Script], body: bytes) -> bytes:
    """The same turn through the server."""
    got: list[bytes] = []

    async def main() -> None:
        server, _ = make_server(*letta, recordings=folder)
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.handle, theirs)
            client = RawClient(ours)
            await client.send(
                b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (CHAT.encode(), len(body)) + body
            )
            got.append((await client.receive()).body)
            await ours.aclose()

    trio.run(main)
    return got[0]


def each_turn(test: Test) -> Test:
    test = pytest.mark.parametrize(("pieces", "asked", "cancels"), TURNS.values(), ids=TURNS)(test)
    test = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])(test)
    test = pytest.mark.parametrize("mode", TextMode)(test)
    return test


def check_replays(recording: Recording, got: bytes, mode: TextMode) -> None:
    """Today's answer is what the client got: byte for byte, if all was kept."""
    compared = compare(recording)
    assert list(compared.lines()) == []
    assert compared.same
    assert recording.client is not None
    if mode is TextMode.KEEP and b"<redacted>" not in recording.client.body:
        assert recording.client.body == got
        assert compared.replayed.endswith(got)


@pytest.mark.parametrize("kit", representative(KITS), ids=str)
@each_turn
def test_a_turn_of_a_transport_replays(
    kit: Kit,
    mode: TextMode,
    stream: bool,
    pieces: list[Any],
    asked: dict[str, Any],
    cancels: bool,
    tmp_path: Path,
) -> None:
    looks = [unreadable()] if pieces == TURNS["the end too soon"][0] else []
    letta = [found(), runs(PING, *pieces), *looks, *([cancelled()] if cancels else [])]
    got = recorded_by_transport(
        kit, RecordingFolder(path=tmp_path, text=mode), letta, ask(stream=stream, **asked)
    )
    check_replays(only(tmp_path), got, mode)


@each_turn
def test_a_turn_of_the_server_replays(
    mode: TextMode, stream: bool, pieces: list[Any], asked: dict[str, Any], cancels: bool, tmp_path: Path
) -> None:
    looks = [scripted.Script(FetchRun, status=403)] if pieces == TURNS["the end too soon"][0] else []
    cancel = [scripted.cancelled()] if cancels else []
    letta = [scripted.found(), scripted.runs(PING, *pieces), *looks, *cancel]
    got = recorded_by_server(RecordingFolder(path=tmp_path, text=mode), letta, ask(stream=stream, **asked))
    check_replays(only(tmp_path), got, mode)


@everywhere
@pytest.mark.parametrize("mode", TextMode)
async def test_a_turn_that_the_client_left_replays(kit: Kit, tmp_path: Path, mode: TextMode) -> None:
    # Times are written to a tenth of a millisecond: the client must be seen to leave in the second exchange.
    pieces: list[Piece | dict[str, Any] | str] = [
        PING,
        lambda: time.sleep(0.002),
        say("one"),
        say("two"),
        stop(),
    ]
    letta = kit.letta(found(), runs(*pieces), cancelled())
    client = kit.client(letta, record=RecordingFolder(path=tmp_path, text=mode))
    reply = await client.ask()
    got = await reply.next()
    await reply.close()
    recording = only(tmp_path)
    assert recording.client is not None
    assert recording.client.end == "client_closed"
    assert [exchange.end for exchange in recording.exchanges] == ["end", "client_closed", "end"]
    check_replays(recording, got, mode)


@everywhere
async def test_failures_of_the_connection_replay(kit: Kit, tmp_path: Path) -> None:
    library = kit.library
    refused = found()
    refused.sending = library.ConnectError("refused")
    client = kit.client(
        kit.letta(
            refused,
            found(),
            runs(PING, say("one"), library.ReadTimeout("slow")),
            unreadable(),
            cancelled(),
            runs(PING, library.RemoteProtocolError("broken")),
            unreadable(),
            Script("POST", cancelled().target, sending=library.ConnectError("refused")),
        ),
        record=tmp_path,
    )
    for word in ("first", "second", "third"):  # the same again would ask what became of the one before
        await client.answer(messages=[{"role": "user", "content": word}])
    recordings = [read_recording(path.read_bytes()) for path in files(tmp_path)]
    failures = [exchange.failure for item in recordings for exchange in item.exchanges if exchange.failure]
    assert sorted(failures) == ["broken", "not sent", "not sent", "silent"]
    assert [compare(item).same for item in recordings] == [True] * 3


@everywhere
async def test_a_letta_without_background_runs_replays(kit: Kit, tmp_path: Path) -> None:
    """That it has none is known from the request before, and a lost run is then read in another way."""
    refused = Script("POST", runs().target, [b'{"detail": "no Redis"}'], status=503)
    run = {"id": RUN_ID, "status": "completed", "stop_reason": "end_turn"}
    letta = kit.letta(
        found(),
        refused,
        hello(),
        runs(PING, say("Hel")),
        Script("GET", f"/v1/runs/{RUN_ID}", [orjson.dumps(run)]),
        Script("GET", f"/v1/runs/{RUN_ID}/messages?limit=1000&order=asc", [orjson.dumps([say("Hello")])]),
        Script("GET", f"/v1/runs/{RUN_ID}/usage", [orjson.dumps(USAGE)]),
    )
    client = kit.client(letta, record=tmp_path)
    for word in ("first", "second"):
        body = await client.answer(stream=False, messages=[{"role": "user", "content": word}])
        assert orjson.loads(body)["choices"][0]["message"]["content"] == "Hello"
    assert letta.script == []
    assert [compare(read_recording(path.read_bytes())).same for path in files(tmp_path)] == [True, True]


@everywhere
async def test_a_remembered_agent_replays(kit: Kit, tmp_path: Path) -> None:
    client = kit.client(kit.letta(found(), hello(), hello()), record=tmp_path)
    await client.answer()
    await client.answer()
    second = max(
        (read_recording(path.read_bytes()) for path in files(tmp_path)), key=lambda item: -len(item.exchanges)
    )
    assert [exchange.request.method for exchange in second.exchanges] == ["POST"]
    assert compare(second).same


def test_a_cycle_without_anybody_to_tell_raises(tmp_path: Path) -> None:
    request = HttpRequest(method="GET", target="/health")
    recorder = RecordingFolder(path=tmp_path).recorder(token="0123456789", created=1)
    recorded = Proxy().open(request, token="0123456789", created=1, now=0.0, observer=recorder)
    [path] = files(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        recorded.next_event()
    # Once is enough: what follows is not recorded.
    recorded.client_disconnected(time.monotonic())
    assert recorded.next_event() is Signal.FINISHED
