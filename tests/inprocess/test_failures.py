"""Failures on the way to Letta give the same status or the same event as with the server."""

import gzip
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from drive import CONFLICT, DONE, PING, error, say, stop
from inprocess.kit import (
    CHAT,
    KITS,
    Kit,
    Piece,
    Script,
    ask,
    cancelled,
    error_of,
    everywhere,
    found,
    hello,
    representative,
    runs,
    text_of,
    unreadable,
)
from inprocess.serving import from_server, shown
from letta_httpx import LettaTransport
from letta_server import UpstreamError
from sansio_letta.errors import Failure
from sansio_letta.upstreams.rest.commands import FetchRun, FindAgent
from server import scripted
from server.scripted import Response

#: How a connection can fail: the library's exception, and the server's word for it.
FAILURES = {
    "refused": ("ConnectError", Failure.NOT_SENT),
    "no connection in time": ("ConnectTimeout", Failure.NOT_SENT),
    "no connection free": ("PoolTimeout", Failure.NOT_SENT),
    "silent": ("ReadTimeout", Failure.SILENT),
    "broken": ("ReadError", Failure.BROKEN),
    "not sent whole": ("WriteError", Failure.BROKEN),
    "no HTTP": ("RemoteProtocolError", Failure.BROKEN),
}


def fetch(kit: Kit, *script: Script, stream: bool = True) -> Response:
    """The transport's answer."""
    got: list[Response] = []

    async def main() -> None:
        letta = kit.letta(*script)
        client = kit.client(letta)
        reply = await client.ask(stream=stream)
        got.append(Response(reply.status, reply.headers, await reply.read()))
        assert letta.script == []

    kit.run(main)
    return got[0]


def without_words(response: Response) -> tuple[int, Any]:
    """Status, and the error's type and code: the words of a library are its own."""
    error = orjson.loads(response.body)["error"]
    return response.status, (error["type"], error["code"], response.headers.get("x-should-retry"))


def each_failure(test: Callable[..., None]) -> Callable[..., None]:
    test = pytest.mark.parametrize("stream", [True, False])(test)
    test = pytest.mark.parametrize(("name", "failure"), FAILURES.values(), ids=FAILURES)(test)
    test = pytest.mark.parametrize("kit", representative(KITS), ids=str)(test)
    return test


@each_failure
def test_the_agent_cannot_be_looked_up(kit: Kit, name: str, failure: Failure, stream: bool) -> None:
    broken = found()
    broken.sending = getattr(kit.library, name)("it went wrong")
    got = fetch(kit, broken, stream=stream)
    theirs = scripted.Script(FindAgent, sending=UpstreamError(failure, "it went wrong"))
    assert without_words(got) == without_words(from_server("POST", CHAT, theirs, body=ask(stream=stream)))
    if failure is not Failure.SILENT:
        assert f"{name}: it went wrong" in orjson.loads(got.body)["error"]["message"]


@each_failure
def test_the_message_cannot_be_sent(kit: Kit, name: str, failure: Failure, stream: bool) -> None:
    got = fetch(kit, found(), runs(sending=getattr(kit.library, name)("it went wrong")), stream=stream)
    run = scripted.runs()
    run.sending = UpstreamError(failure, "it went wrong")
    theirs = from_server("POST", CHAT, scripted.found(), run, body=ask(stream=stream))
    assert without_words(got) == without_words(theirs)


@pytest.mark.parametrize("kit", representative(KITS), ids=str)
@pytest.mark.parametrize("name", ["ReadTimeout", "RemoteProtocolError"])
@pytest.mark.parametrize("stream", [True, False])
def test_the_stream_breaks(kit: Kit, name: str, stream: bool) -> None:
    """The run may go on at Letta, so it is ended first if nothing can be learned of it."""
    failure = dict(FAILURES.values())[name]
    broken: list[Piece | dict[str, Any]] = [PING, say("one"), getattr(kit.library, name)("it went wrong")]
    got = fetch(kit, found(), runs(*broken), unreadable(), cancelled(), stream=stream)
    theirs = from_server(
        "POST",
        CHAT,
        scripted.found(),
        scripted.runs(PING, say("one"), UpstreamError(failure, "it went wrong")),
        scripted.Script(FetchRun, status=403),
        scripted.cancelled(),
        body=ask(stream=stream),
    )
    if not stream:
        assert without_words(got) == without_words(theirs)
        assert got.status == 424
        return
    assert got.status == theirs.status == 200
    assert text_of(got.body) == text_of(theirs.body) == "one"
    ours = error_of(got.body)
    assert (ours["type"], ours["code"]) == (error_of(theirs.body)["type"], error_of(theirs.body)["code"])
    assert ours["type"] == "upstream_error"


HTML = b"<html><body>Bad gateway</body></html>"
ANSWERS = {
    "html with 200": (200, "text/html", HTML),
    "html with 502": (502, "text/html", HTML),
    "no content type": (200, None, b""),
    "a redirect": (307, "text/plain", b""),
    "no key": (401, "application/json", b'{"detail": "Unauthorized"}'),
    "too much": (429, "application/json", b'{"detail": "Slow down"}'),
    "busy": (409, "application/json", b'{"detail": "Run run-1 goes on"}'),
    "a defect": (500, "application/json", b'{"detail": "sk-secret-0123456789"}'),
    "not the body": (422, "application/json", b'{"detail": [{"loc": ["body"], "msg": "wrong"}]}'),
}


@pytest.mark.parametrize("kit", representative(KITS), ids=str)
@pytest.mark.parametrize(("status", "kind", "body"), ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("stream", [True, False])
def test_letta_refuses(kit: Kit, status: int, kind: str | None, body: bytes, stream: bool) -> None:
    headers = [] if kind is None else [("content-type", kind)]
    ours, theirs = runs(body, status=status), scripted.runs(body)
    ours.headers, theirs.headers, theirs.status = headers, list(headers), status
    got = fetch(kit, found(), ours, stream=stream)
    assert shown(got) == shown(from_server("POST", CHAT, scripted.found(), theirs, body=ask(stream=stream)))
    assert got.status >= 400
    assert b"sk-secret" not in got.body


def lost() -> list[scripted.Script]:
    """The server finds out nothing of a run whose stream it lost."""
    return [scripted.Script(FetchRun, status=403), scripted.cancelled()]


RUN_FAILURES = {
    "the model": [PING, stop("error"), error("llm_error"), DONE],
    "its limit": [PING, stop("llm_api_error"), error("llm_rate_limit"), DONE],
    "after words": [PING, say("one"), stop("error"), error("llm_error"), DONE],
    "the end too soon": [PING],
}


@pytest.mark.parametrize("kit", representative(KITS), ids=str)
@pytest.mark.parametrize("pieces", RUN_FAILURES.values(), ids=RUN_FAILURES)
@pytest.mark.parametrize("stream", [True, False])
def test_a_run_fails(kit: Kit, pieces: list[Any], stream: bool) -> None:
    ends_too_soon = pieces == [PING]
    after, after_theirs = ([unreadable(), cancelled()], lost()) if ends_too_soon else ([], [])
    got = fetch(kit, found(), runs(*pieces), *after, stream=stream)
    theirs = from_server(
        "POST", CHAT, scripted.found(), scripted.runs(*pieces), *after_theirs, body=ask(stream=stream)
    )
    if got.status != 200:
        assert shown(got) == shown(theirs)
        return
    assert (theirs.status, text_of(got.body)) == (200, text_of(theirs.body))
    assert error_of(got.body) == error_of(theirs.body)


@everywhere
async def test_a_pending_call_is_settled_and_the_message_sent_again(kit: Kit) -> None:
    letta = kit.letta(found(), runs(PING, stop("error"), CONFLICT, DONE), Script("GET", "", []), hello())
    letta.script[2] = looked_up("call-1")
    assert text_of(await kit.client(letta).answer()) == "Hello"
    assert letta.bodies[-1]["messages"][0]["type"] == "approval"


def looked_up(*pending: str) -> Script:
    """The agent is asked for by its id."""
    script = found(*pending)
    script.target = script.target.replace("?name=Milo&", "agent-11111111-1111-4111-8111-111111111111?")
    script.pieces = [orjson.dumps(orjson.loads(b"".join(p for p in script.pieces if isinstance(p, bytes)))[0])]
    return script


@everywhere
async def test_an_error_of_another_kind_is_a_defect_and_shown(kit: Kit) -> None:
    looking = found()
    looking.sending = ZeroDivisionError("a defect")
    with pytest.raises(ZeroDivisionError, match="a defect"):
        await kit.client(kit.letta(looking)).ask()


def test_the_reason_names_no_more_than_a_line() -> None:
    transport = LettaTransport(base_url="http://letta.invalid")
    endpoint = transport._endpoint
    found_one = endpoint.failure(endpoint.library.ReadError("x" * 1000))
    assert found_one is not None
    assert len(found_one[1]) < 300
    assert endpoint.failure(ValueError("none of ours")) is None
    transport.close()


# --- What other transports below may do -----------------------------------------------------------------------


@everywhere
async def test_an_answer_that_was_read_already(kit: Kit) -> None:
    """As a mock's are: no stream, all of it at once."""
    answers = [*found().pieces, b"".join(piece for piece in hello().pieces if isinstance(piece, bytes))]

    def answer(request: Any) -> Any:
        kind = "application/json" if request.method == "GET" else "text/event-stream"
        return kit.library.Response(200, content=answers.pop(0), headers={"content-type": kind})

    client = kit.client(base_url="http://letta.invalid", inner=kit.library.MockTransport(answer))
    assert text_of(await client.answer()) == "Hello"


@everywhere
async def test_an_answer_that_is_packed_all_the_same(kit: Kit) -> None:
    """A gateway may not ask what we accept."""
    packed = [
        gzip.compress(b"".join(piece for piece in script.pieces if isinstance(piece, bytes)))
        for script in (found(), hello())
    ]
    looking, run = found(), hello()
    looking.pieces, run.pieces = [packed[0]], [packed[1][:40], packed[1][40:]]
    for script in (looking, run):
        script.headers = [*script.headers, ("content-encoding", "gzip")]
    assert text_of(await kit.client(kit.letta(looking, run)).answer()) == "Hello"


@everywhere
async def test_an_answer_that_is_not_packed_as_it_says(kit: Kit) -> None:
    if str(kit) == "httpx-trio":
        return  # a generator of httpx's own stays half read there, and trio warns of it
    looking = found()
    looking.headers = [*looking.headers, ("content-encoding", "gzip")]
    reply = await kit.client(kit.letta(looking)).ask()
    assert reply.status == 502
    assert b"DecodingError" in await reply.read()
