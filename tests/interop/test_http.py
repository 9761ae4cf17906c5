"""HTTP around the answer: headers, framing, and every path that clients probe."""

import asyncio
import http.client
from collections.abc import Mapping
from typing import Any, Final

import orjson
import pytest

from drive import DONE, PING, error, say, stop
from live.asking import Response, async_client, fetch, sync_client, user
from server.scripted import hello, runs
from support import matrix

from .asking import post
from .serving import RunningServer
from .standin import StandInLetta, refuses

both = pytest.mark.parametrize("is_async", matrix([False, True], False), ids=["sync", "async"])


# --- F23


def raw_headers(
    url: str, model: str, *, stream: bool, is_async: bool
) -> tuple[int, Mapping[str, str], str | None]:
    """Status, headers and request id as the SDK hands them over."""
    request: dict[str, Any] = {"model": model, "messages": [user("hi")], "stream": stream}

    async def main() -> Any:
        async with async_client(url) as client:
            response = await client.chat.completions.with_raw_response.create(**request)
            if stream:
                async with response.parse() as chunks:
                    assert [chunk async for chunk in chunks]
            else:
                assert response.parse().choices
            return response

    if is_async:
        response = asyncio.run(main())
    else:
        with sync_client(url) as client:
            response = client.chat.completions.with_raw_response.create(**request)
            if stream:
                with response.parse() as chunks:
                    assert list(chunks)
            else:
                assert response.parse().choices
    return response.status_code, response.headers, response.request_id


@both
def test_headers_of_a_stream(url: str, letta: StandInLetta, is_async: bool) -> None:
    status, headers, request_id = raw_headers(url, letta.add(hello()).name, stream=True, is_async=is_async)
    assert status == 200
    assert headers["content-type"].partition(";")[0] == "text/event-stream"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["transfer-encoding"] == "chunked"
    assert "content-length" not in headers
    assert request_id is not None
    assert request_id == headers["x-request-id"]
    assert "x-ignored-parameters" not in headers


@both
def test_headers_of_a_whole_answer(url: str, letta: StandInLetta, is_async: bool) -> None:
    status, headers, request_id = raw_headers(url, letta.add(hello()).name, stream=False, is_async=is_async)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert int(headers["content-length"]) > 0
    assert request_id is not None
    assert request_id == headers["x-request-id"]


def test_every_request_has_an_id_of_its_own(url: str, letta: StandInLetta) -> None:
    agent = letta.add(hello(), hello(), refuses(503))
    responses = [post(url, agent.name), post(url, agent.name, stream=False), post(url, agent.name)]
    responses += [fetch(url, "GET", path) for path in ("/models", "/models/nobody", "/nothing", "/health")]
    ids = {response.headers["x-request-id"] for response in responses}
    assert len(ids) == len(responses)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_headers_of_a_failure(url: str, letta: StandInLetta, stream: bool) -> None:
    agent = letta.add(
        refuses(503, retry_after=3),
        refuses(429, retry_after=600),
        runs(PING, stop("insufficient_credits"), DONE),
    )
    away, limited, quota = (post(url, agent.name, stream=stream) for _ in range(3))
    for response in (away, limited, quota):
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-request-id"]
        assert response.error["message"]
    assert (away.status, away.headers["retry-after"]) == (503, "3")
    assert (limited.status, limited.headers["retry-after"]) == (429, "59")
    assert (quota.status, quota.headers["x-should-retry"]) == (429, "false")


def test_connection_is_used_again(server: RunningServer, letta: StandInLetta) -> None:
    """After a stream, a whole answer, a refusal and a failure in mid-stream."""
    agent = letta.add(
        hello(), hello(), runs(PING, say("Hel"), stop("error"), error(), DONE), refuses(503), hello()
    )
    connection = http.client.HTTPConnection(server.root_url.removeprefix("http://"), timeout=5.0)
    connection.auto_open = 0
    connection.connect()
    statuses = []
    for stream, n in ((True, 1), (False, 1), (True, 1), (False, 1), (True, 2), (True, 1)):
        body = orjson.dumps({"model": agent.name, "messages": [user("hi")], "stream": stream, "n": n})
        connection.request("POST", "/v1/chat/completions", body)
        response = connection.getresponse()
        response.read()
        statuses.append(response.status)
    connection.close()
    assert statuses == [200, 200, 200, 503, 400, 200]


# --- F28

JSON: Final = "application/json"


def error_of(response: Response) -> dict[str, Any]:
    """The error, which must be whole."""
    assert response.headers["x-request-id"]
    error = response.error
    assert isinstance(error["message"], str)
    assert error["type"] == "invalid_request_error"
    return error


@pytest.mark.parametrize("prefix", ["", "/v1"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_served_paths(server: RunningServer, letta: StandInLetta, prefix: str, slash: str) -> None:
    agent = letta.add(hello())
    models = fetch(server.root_url, "GET", f"{prefix}/models{slash}")
    assert (models.status, models.headers["content-type"]) == (200, JSON)
    assert [model["id"] for model in orjson.loads(models.body)["data"]] == [agent.name]
    body = {"model": agent.name, "messages": [user("hi")]}
    chat = fetch(server.root_url, "POST", f"{prefix}/chat/completions{slash}", body)
    assert (chat.status, chat.headers["content-type"]) == (200, JSON)


@pytest.mark.parametrize("path", ["", "/", "/health", "/health/", "/ready"])
def test_probes_need_no_key(server: RunningServer, path: str) -> None:
    response = fetch(server.root_url, "GET", path)
    assert (response.status, response.headers["content-type"]) == (200, JSON)
    assert isinstance(orjson.loads(response.body), dict)


ABSENT: Final = (
    ("POST", "/embeddings"),
    ("POST", "/moderations"),
    ("GET", "/files"),
    ("POST", "/files"),
    ("POST", "/images/generations"),
    ("POST", "/images/edits"),
    ("POST", "/audio/speech"),
    ("POST", "/audio/transcriptions"),
    ("GET", "/batches"),
    ("POST", "/conversations"),
    ("POST", "/responses"),
    ("GET", "/responses/resp_1"),
    ("GET", "/responses/resp_1/input_items"),
    ("POST", "/responses/resp_1/cancel"),
    ("GET", "/chat/completions"),
    ("GET", "/chat/completions/chatcmpl-1"),
    ("POST", "/completions"),
    ("GET", "/assistants"),
    ("GET", "/MODELS"),
    ("GET", "/modelsx"),
)

FOREIGN: Final = (
    ("POST", "/api/chat"),
    ("POST", "/api/generate"),
    ("GET", "/props"),
    ("GET", "/slots"),
    ("POST", "/openai/deployments/gpt-4o/chat/completions"),
    ("GET", "/openai/deployments"),
    ("GET", "/favicon.ico"),
    ("GET", "/robots.txt"),
    ("GET", "/v2/models"),
    ("GET", "/v1models"),
    ("GET", "/../models"),
)


@pytest.mark.parametrize(("method", "path"), ABSENT)
@pytest.mark.parametrize("prefix", ["/v1", ""])
def test_paths_of_openai_that_are_absent(server: RunningServer, prefix: str, method: str, path: str) -> None:
    body = {"model": "Milo"} if method == "POST" else None
    response = fetch(server.root_url, method, f"{prefix}{path}", body)
    assert response.status == 404
    error = error_of(response)
    assert error["code"] == "unknown_url"
    if path == "/completions":
        assert "/v1/chat/completions" in error["message"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/models"), ("POST", "/chat/completions"), ("GET", "")])
def test_v1_twice(server: RunningServer, method: str, path: str) -> None:
    response = fetch(server.root_url, method, f"/v1/v1{path}")
    assert response.status == 404
    assert "base URL" in error_of(response)["message"]


@pytest.mark.parametrize(("method", "path"), FOREIGN)
def test_paths_of_other_programs(server: RunningServer, method: str, path: str) -> None:
    response = fetch(server.root_url, method, path, {"name": "Milo"} if method == "POST" else None)
    assert response.status == 404
    assert error_of(response)["code"] == "unknown_url"


METHODS: Final = (
    ("DELETE", "/v1/models", {"GET", "HEAD", "OPTIONS"}),
    ("POST", "/v1/models", {"GET", "HEAD", "OPTIONS"}),
    ("PUT", "/v1/models/Milo", {"GET", "HEAD", "OPTIONS"}),
    ("DELETE", "/models/Milo", {"GET", "HEAD", "OPTIONS"}),
    ("PUT", "/v1/chat/completions", {"POST", "OPTIONS"}),
    ("DELETE", "/chat/completions/", {"POST", "OPTIONS"}),
    ("POST", "/health", {"GET", "HEAD", "OPTIONS"}),
    ("POST", "/", {"GET", "HEAD", "OPTIONS"}),
    ("BREW", "/ready", {"GET", "HEAD", "OPTIONS"}),
)


@pytest.mark.parametrize(("method", "path", "allowed"), METHODS)
def test_methods_that_do_not_exist(server: RunningServer, method: str, path: str, allowed: set[str]) -> None:
    response = fetch(server.root_url, method, path)
    assert response.status == 405
    assert error_of(response)["code"] == "method_not_allowed"
    assert set(response.headers["allow"].replace(" ", "").split(",")) == allowed


HEADS: Final = {
    "/": 200,
    "/health": 200,
    "/ready": 200,
    "/v1/models": 200,
    "/models/": 200,
    "/v1/models/Milo": 200,
    "/v1/models/nobody": 404,
    "/v1/chat/completions": 404,
    "/v1/embeddings": 404,
    "/api/tags": 200,
    "/api/chat": 404,
}


@pytest.mark.parametrize("path", HEADS)
def test_head_is_get_without_its_body(server: RunningServer, letta: StandInLetta, path: str) -> None:
    letta.add(name="Milo")
    head, get = (fetch(server.root_url, method, path) for method in ("HEAD", "GET"))
    assert head.status == get.status == HEADS[path]
    assert head.body == b""
    assert get.body
    for name in ("content-type", "content-length"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/models/Milo", "/", "/api/tags"])
def test_options(server: RunningServer, path: str) -> None:
    asked = {"Origin": "https://example.com", "Access-Control-Request-Method": "POST"}
    response = fetch(server.root_url, "OPTIONS", path, headers=asked)
    assert (response.status, response.body) == (204, b"")
    # Off unless it is configured: no page of a stranger's may use the agents.
    assert not [name for name in response.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-www-form-urlencoded", ""])
def test_body_is_json_whatever_its_type(url: str, letta: StandInLetta, kind: str) -> None:
    body = {"model": letta.add(hello()).name, "messages": [user("hi")]}
    response = fetch(url, "POST", "/chat/completions", body, headers={"Content-Type": kind})
    assert response.status == 200


BODIES: Final[dict[str, tuple[bytes, dict[str, str], int, str]]] = {
    "none": (b"", {}, 400, "invalid_json"),
    "half": (b'{"model": "Milo"', {}, 400, "invalid_json"),
    "not UTF-8": (b'{"model": "\xff"}', {}, 400, "invalid_json"),
    "a lone surrogate": (b'{"model": "\\ud800", "messages": 1}', {}, 400, "invalid_type"),
    "deep": (b"[" * 100_000, {}, 400, "invalid_json"),
    "an array": (b"[]", {}, 400, "invalid_type"),
    "null": (b"null", {}, 400, "invalid_type"),
    "a form": (b"model=Milo", {}, 400, "invalid_json"),
    "multipart": (b"--x--", {"Content-Type": "multipart/form-data; boundary=x"}, 400, "invalid_json"),
    "coded": (b"\x1f\x8b", {"Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
}


@pytest.mark.parametrize(("body", "headers", "status", "code"), BODIES.values(), ids=BODIES.keys())
def test_bodies_that_are_refused(
    url: str, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    response = fetch(url, "POST", "/chat/completions", body, headers=headers)
    assert response.status == status
    assert error_of(response)["code"] == code


def test_letta_is_away(server: RunningServer, letta: StandInLetta) -> None:
    """What needs Letta says so, and what does not goes on."""
    letta.failing = lambda: refuses(500)
    for path in ("/v1/models", "/v1/models/Milo"):
        response = fetch(server.root_url, "GET", path)
        assert response.status == 502
        assert response.error["type"] == "server_error"
    assert fetch(server.root_url, "GET", "/health").status == 200
