"""The arguments of a transport, and the errors for wrong ones and for wrong use."""

from pathlib import Path
from typing import Any

import httpx
import httpx2
import letta_client
import openai
import pytest

import letta_httpx
import letta_httpx2
from drive import DONE, PING, say, stop, think
from inprocess.kit import (
    AGENT,
    LETTA,
    Kit,
    Script,
    asynchronously,
    everywhere,
    finished,
    found,
    hello,
    runs,
    text_of,
)
from letta_inprocess._drive import LETTA_CLOUD, TransportClosed
from sansio_letta import PRODUCT_ID, Config, LocalProtocolError, ReasoningField

ENVIRONMENT = ("LETTA_BASE_URL", "LETTA_API_KEY", "LETTA_PROJECT")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


async def sent(kit: Kit, **arguments: Any) -> Any:
    """What a transport asks of Letta: its first request."""
    letta = kit.letta(Script("GET", "/v1/agents/?limit=100", [b"[]"]))
    client = kit.client(None, inner=letta.transport(), **arguments)
    assert (await client.send("GET", "/v1/models")).status == 200
    await client.close()
    return letta.requests[0]


@everywhere
async def test_nothing_is_said(kit: Kit) -> None:
    request = await sent(kit)
    assert str(request.url).startswith(f"{LETTA_CLOUD}/v1/agents/")
    assert request.headers["user-agent"] == PRODUCT_ID
    assert request.headers["accept-encoding"] == "identity"
    assert not {"authorization", "x-project"} & request.headers.keys()


@everywhere
async def test_all_is_said(kit: Kit) -> None:
    request = await sent(kit, base_url="http://127.0.0.1:8283/v1/", api_key="key-1", project="mine")
    assert str(request.url).startswith("http://127.0.0.1:8283/v1/agents/")
    assert request.headers["authorization"] == "Bearer key-1"
    assert request.headers["x-project"] == "mine"


@everywhere
async def test_the_environment_says_it(kit: Kit) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(ENVIRONMENT, (LETTA, "key-2", "ours"), strict=True):
            patch.setenv(name, value)
        request = await sent(kit)
        assert request.url.host == "letta.invalid"
        assert request.headers["authorization"] == "Bearer key-2"
        assert request.headers["x-project"] == "ours"
        request = await sent(kit, base_url="http://other.invalid", api_key="", project="")
        assert request.url.host == "other.invalid"
        assert not {"authorization", "x-project"} & request.headers.keys()


@everywhere
async def test_the_clients_own_key_stays_here(kit: Kit) -> None:
    letta = kit.letta(found(), hello())
    client = kit.client(letta, api_key="lettas")
    client.http.headers["authorization"] = "Bearer sk-the-clients-own"
    await client.answer()
    assert {request.headers["authorization"] for request in letta.requests} == {"Bearer lettas"}


@everywhere
async def test_the_core_is_configured(kit: Kit) -> None:
    letta = kit.letta(found(), runs(PING, think("hm"), say("yes"), stop(), DONE))
    client = kit.client(letta, config=Config(reasoning_field=ReasoningField.OFF))
    body = await client.answer()
    assert text_of(body) == "yes"
    assert b"hm" not in body


@everywhere
async def test_a_request_has_the_last_word_where_it_may(kit: Kit) -> None:
    letta = kit.letta(found(), runs(PING, think("hm"), say("yes"), stop(), DONE))
    client = kit.client(letta)
    client.http.headers["X-Letta-Policy-Reasoning"] = "off"
    assert b"hm" not in await client.answer()
    client.http.headers["X-Letta-Policy-Approvals"] = "allow"
    assert (await client.ask()).status == 400


@everywhere
@pytest.mark.parametrize("url", ["127.0.0.1:8283", "", "ftp://letta.invalid"])
async def test_an_address_that_is_none(kit: Kit, url: str) -> None:
    with pytest.raises(TypeError, match=r"base_url: expected an address like http://127\.0\.0\.1:8283"):
        kit.transport_class(base_url=url)


@everywhere
async def test_an_app_server_needs_a_server(kit: Kit) -> None:
    with pytest.raises(TypeError, match=r"letta-proxy serve --letta-url ws://127\.0\.0\.1:4500"):
        kit.transport_class(base_url="ws://127.0.0.1:4500")


@everywhere
@pytest.mark.parametrize("name", ["inner", "passthrough"])
async def test_a_transport_of_another_kind(kit: Kit, name: str) -> None:
    other = httpx2 if kit.library is httpx else httpx
    wrong: list[Any] = [other.HTTPTransport(), other.AsyncHTTPTransport(), "http://letta.invalid"]
    wrong.append(kit.library.AsyncHTTPTransport() if kit.is_sync else kit.library.HTTPTransport())
    kind = f"{kit.library.__name__}.{'' if kit.is_sync else 'Async'}BaseTransport"
    for given in wrong:
        with pytest.raises(TypeError, match=f"^{name}: expected an {kind}, got "):
            kit.transport_class(**{name: given})


@everywhere
async def test_a_record_of_another_kind(kit: Kit) -> None:
    with pytest.raises(TypeError, match=r"^record: expected a path or a RecordingFolder, got builtins\.int$"):
        kit.transport_class(record=1)


# --- A configured client of Letta's ---------------------------------------------------------------------------


def letta_clients(kit: Kit, **arguments: Any) -> tuple[Any, Any]:
    """Letta's official client of the right kind, and one of the wrong."""
    right, wrong = letta_client.Letta, letta_client.AsyncLetta
    if not kit.is_sync:
        right, wrong = wrong, right  # type: ignore[assignment]
    return right(**arguments), wrong(api_key="x")


@everywhere
async def test_a_configured_client(kit: Kit) -> None:
    if kit.library is httpx2:  # letta-client is of httpx
        return
    letta = kit.letta(found(), hello())
    http = kit.client_class(transport=letta.transport(), headers={"x-mine": "1"})
    given, _ = letta_clients(
        kit,
        base_url=f"{LETTA}/",
        api_key="key-3",
        project="theirs",
        default_headers={"X-More": "2"},
        http_client=http,
    )
    client = kit.client(None, client=given)
    assert text_of(await client.answer()) == "Hello"
    assert letta.targets[-1] == f"POST /v1/agents/{AGENT}/messages/stream"
    for request in letta.requests:
        assert request.url.host == "letta.invalid"
        assert request.headers["authorization"] == "Bearer key-3"
        assert (request.headers["x-mine"], request.headers["x-more"]) == ("1", "2")
        assert request.headers["accept-encoding"] == "identity"
    assert letta.requests[1].headers["content-type"] == "application/json"
    # It is not ours to close.
    await client.close()
    assert not letta.closed
    await finished(http.close() if kit.is_sync else http.aclose())


@everywhere
async def test_a_hook_of_its_client_may_read_the_answer(kit: Kit) -> None:
    read: list[Any] = []

    def look(response: Any) -> None:
        read.append(response.read())

    async def look_async(response: Any) -> None:
        read.append(await response.aread())

    letta = Kit(httpx, letta_httpx, kit.backend).letta(found(), hello())
    base = httpx.Client if kit.is_sync else httpx.AsyncClient
    hooks: Any = {"response": [look if kit.is_sync else look_async]}
    http: Any = base(transport=letta.transport(), event_hooks=hooks)
    given, _ = letta_clients(kit, base_url=LETTA, api_key="x", http_client=http)
    assert text_of(await kit.client(None, client=given).answer()) == "Hello"
    assert len(read) == 2
    assert read[1].endswith(b"data: [DONE]\n\n")
    await finished(http.close() if kit.is_sync else http.aclose())


@everywhere
async def test_its_client_is_of_its_own_library(kit: Kit) -> None:
    """letta-client uses httpx whatever the program uses: its exceptions are understood."""
    refused = httpx.ConnectError("refused")

    class Mixin:
        """Not the library's."""

    def refuse(_: object) -> httpx.Response:
        raise refused

    bases = (httpx.Client if kit.is_sync else httpx.AsyncClient, Mixin)
    http: Any = type("Mine", bases, {})(transport=httpx.MockTransport(refuse))
    given, _ = letta_clients(kit, base_url=LETTA, api_key="x", http_client=http)
    client = kit.client(None, client=given)
    reply = await client.ask()
    assert reply.status == 502
    assert b"ConnectError: refused" in await reply.read()
    await finished(http.close() if kit.is_sync else http.aclose())


@everywhere
async def test_a_client_of_the_wrong_kind(kit: Kit) -> None:
    right, wrong = letta_clients(kit, api_key="x")
    other = openai.OpenAI(api_key="x") if kit.is_sync else openai.AsyncOpenAI(api_key="x")
    name = f"letta_client.{'Letta' if kit.is_sync else 'AsyncLetta'}"
    for given in (wrong, other, kit.client_class(), "http://letta.invalid"):
        with pytest.raises(TypeError, match=f"^client: this transport needs a {name}, got "):
            kit.transport_class(client=given)
    with pytest.raises(TypeError, match="got openai"):
        kit.transport_class(client=other)
    for more in ({"base_url": LETTA}, {"api_key": "x"}, {"project": "x"}, {"inner": kit.letta().transport()}):
        with pytest.raises(TypeError, match=r"^client: has its own base_url, api_key, project and inner"):
            kit.transport_class(client=right, **more)


# --- Used wrongly ---------------------------------------------------------------------------------------------


@everywhere
async def test_used_after_close(kit: Kit) -> None:
    letta = kit.letta()
    client = kit.client(letta)
    request = client.http.build_request("GET", "/v1/models")
    await client.close()
    assert letta.closed
    name = kit.transport_class.__name__
    with pytest.raises(TransportClosed, match=f"^{name} was closed: create a new one"):
        await finished(
            client.transport.handle_request(request)
            if kit.is_sync
            else client.transport.handle_async_request(request)
        )
    assert issubclass(TransportClosed, LocalProtocolError)


@everywhere
async def test_closed_twice(kit: Kit) -> None:
    client = kit.client(kit.letta())
    await client.close()
    await finished(client.transport.close() if kit.is_sync else client.transport.aclose())


SYNC = r"^LettaTransport is for a sync client: an async one needs AsyncLettaTransport$"
ASYNC = r"^AsyncLettaTransport is for an async client: a sync one needs LettaTransport$"


@asynchronously
async def test_a_sync_transport_in_an_async_client(kit: Kit) -> None:
    client = kit.library.AsyncClient(transport=kit.package.LettaTransport(base_url=LETTA))
    with pytest.raises(TypeError, match=SYNC):
        await client.get("http://x/v1/models")
    with pytest.raises(TypeError, match=SYNC):
        await client.aclose()
    client = kit.library.AsyncClient(transport=kit.package.LettaTransport(base_url=LETTA))
    with pytest.raises(TypeError, match=SYNC):
        await client.__aenter__()


@pytest.mark.parametrize(("library", "package"), [(httpx, letta_httpx), (httpx2, letta_httpx2)])
def test_an_async_transport_in_a_sync_client(library: Any, package: Any) -> None:
    client = library.Client(transport=package.AsyncLettaTransport(base_url=LETTA))
    with pytest.raises(TypeError, match=ASYNC):
        client.get("http://x/v1/models")
    with pytest.raises(TypeError, match=ASYNC):
        client.close()
    client = library.Client(transport=package.AsyncLettaTransport(base_url=LETTA))
    with pytest.raises(TypeError, match=ASYNC):
        client.__enter__()


def test_the_packages_give_the_same_names() -> None:
    names = ["AsyncLettaTransport", "LettaTransport", "RecordingFolder"]
    assert letta_httpx.__all__ == letta_httpx2.__all__ == names
    assert letta_httpx.RecordingFolder is letta_httpx2.RecordingFolder
    assert Path(letta_httpx.__file__).read_text() == Path(letta_httpx2.__file__).read_text().replace(
        "httpx2", "httpx"
    )


@everywhere
async def test_keys_do_not_show(kit: Kit) -> None:
    client = kit.client(kit.letta(), api_key="key-secret")
    assert "key-secret" not in repr(client.transport._endpoint)
    await client.close()
