"""Every route gives the same response as the server, since both use the same core."""

import orjson
import pytest

from drive import AGENT_ID, agent_json
from inprocess.kit import CHAT, KITS, Kit, Script, ask, everywhere, found, hello, representative
from inprocess.serving import from_server, from_transport, shown
from sansio_letta.upstreams.rest.commands import CheckHealth, FetchAgent, FindAgent, ListAgents
from server import scripted
from server.scripted import Response

AGENTS = orjson.dumps([agent_json()])

#: What both ask of Letta: the server's command, the transport's request, and the answer.
QUESTIONS = {
    "health": (CheckHealth, "/v1/health/", b'{"version":"0.16.7","status":"ok"}'),
    "page": (ListAgents, "/v1/agents/?limit=100", AGENTS),
    "name": (FindAgent, "/v1/agents/?name=Milo&include=agent.tools", AGENTS),
    "nobody": (FindAgent, "/v1/agents/?name=Nobody&include=agent.tools", b"[]"),
    "id": (
        FetchAgent,
        f"/v1/agents/{AGENT_ID}?include=agent.tools&include=agent.pending_approval",
        orjson.dumps(agent_json()),
    ),
}

ROUTES = {
    "models": ("GET", "/v1/models", "page"),
    "models without a body": ("HEAD", "/v1/models", "page"),
    "models without v1": ("GET", "/models", "page"),
    "a model": ("GET", "/v1/models/Milo", "name"),
    "a model by id": ("GET", f"/v1/models/{AGENT_ID}", "id"),
    "no such model": ("GET", "/v1/models/Nobody", "nobody"),
    "ready": ("GET", "/ready", "health"),
    "health": ("GET", "/health", None),
    "root": ("GET", "/", None),
    "preflight": ("OPTIONS", "/v1/chat/completions", None),
    "wrong method": ("DELETE", "/v1/models", None),
    "chat by PUT": ("PUT", CHAT, None),
    "chats are not kept": ("GET", CHAT, None),
    "responses": ("POST", "/v1/responses", None),
    "embeddings": ("POST", "/v1/embeddings", None),
    "v1 twice": ("POST", "/v1/v1/chat/completions", None),
    "elsewhere": ("GET", "/v2/things?x=1", None),
}


def fetch(kit: Kit, method: str, target: str, *script: Script, body: bytes = b"", **headers: str) -> Response:
    """The transport's answer to a request."""
    got: list[Response] = []

    async def main() -> None:
        letta = kit.letta(*script)
        client = kit.client(letta)
        got.append(await from_transport(client, method, target, body, headers))
        await client.close()
        assert letta.script == []

    kit.run(main)
    return got[0]


@pytest.mark.parametrize("kit", representative(KITS), ids=str)
@pytest.mark.parametrize(("method", "target", "question"), ROUTES.values(), ids=ROUTES)
def test_a_route_answers_as_the_servers(kit: Kit, method: str, target: str, question: str | None) -> None:
    ours, theirs = [], []
    if question is not None:
        command, asked, answer = QUESTIONS[question]
        ours, theirs = [Script("GET", asked, [answer])], [scripted.Script(command, [answer])]
    assert shown(fetch(kit, method, target, *ours)) == shown(from_server(method, target, *theirs))


BAD_REQUESTS = {
    "no JSON": (b"{", {}),
    "nothing": (b"", {}),
    "no model": (b'{"messages": []}', {}),
    "no messages": (b'{"model": "Milo"}', {}),
    "several answers": (ask(n=2), {}),
    "a form": (ask(), {"content-type": "multipart/form-data; boundary=x"}),
    "packed": (ask(), {"content-encoding": "gzip"}),
}


@pytest.mark.parametrize("kit", representative(KITS), ids=str)
@pytest.mark.parametrize(("body", "headers"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_is_refused_as_by_the_server(kit: Kit, body: bytes, headers: dict[str, str]) -> None:
    got = fetch(kit, "POST", CHAT, body=body, **headers)
    assert 400 <= got.status < 500
    assert shown(got) == shown(from_server("POST", CHAT, body=body, headers=headers))


@everywhere
async def test_a_request_for_any_host_is_ours(kit: Kit) -> None:
    """An SDK's own default address, say: what counts is the path."""
    client = kit.client(kit.letta(found(), hello()))
    reply = await client.send("POST", "https://api.openai.com/v1/chat/completions?x=1", ask())
    assert b"Hel" in await reply.read()


# --- What is not ours -----------------------------------------------------------------------------------------


@everywhere
async def test_what_is_not_ours_is_passed_through_if_asked_to(kit: Kit) -> None:
    elsewhere = kit.letta(Script("GET", "/v2/things", [b"things"]), Script("POST", "/v1/embeddings", [b"[1]"]))
    letta = kit.letta(found(), hello())
    client = kit.client(letta, passthrough=elsewhere.transport())
    assert await (await client.send("GET", "/v2/things")).read() == b"things"
    assert await (await client.send("POST", "/v1/embeddings", b"{}")).read() == b"[1]"
    assert b"Hel" in await client.answer()
    # Ours, though wrong: it is not somebody else's.
    assert (await client.send("DELETE", "/v1/models")).status == 405
    assert elsewhere.script == letta.script == []
    await client.close()
    assert elsewhere.closed
    assert letta.closed
