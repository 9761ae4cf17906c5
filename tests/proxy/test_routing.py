"""The endpoint for a method and a path, or what to use instead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sansio_letta.errors import RequestError
from sansio_letta.proxy.routing import Endpoint, Route, route

SERVED: dict[str, Endpoint] = {
    "/v1/models": Endpoint.MODELS,
    "/v1/models/": Endpoint.MODELS,
    "/models": Endpoint.MODELS,
    "/models/": Endpoint.MODELS,
    "/v1/models?client_version=1.2.3": Endpoint.MODELS,
    "/v1/models/?limit=5": Endpoint.MODELS,
    "/v1/models#x": Endpoint.MODELS,
    "http://127.0.0.1:8284/v1/models": Endpoint.MODELS,
    "https://example.org/v1/models?a=http://b": Endpoint.MODELS,
    "/health": Endpoint.HEALTH,
    "/health/": Endpoint.HEALTH,
    "/v1/health": Endpoint.HEALTH,
    "/healthz": Endpoint.HEALTH,
    "/livez": Endpoint.HEALTH,
    "/ready": Endpoint.READY,
    "/readyz": Endpoint.READY,
    "/api/version": Endpoint.OLLAMA_VERSION,
    "/api/tags": Endpoint.OLLAMA_TAGS,
    "/v1/api/tags": Endpoint.OLLAMA_TAGS,
    "/": Endpoint.ROOT,
    "/?a=b": Endpoint.ROOT,
    "/v1": Endpoint.ROOT,
    "/v1/": Endpoint.ROOT,
    "http://127.0.0.1:8284": Endpoint.ROOT,
    "//": Endpoint.ROOT,
    "//v1//": Endpoint.ROOT,
    "/v1//models": Endpoint.MODELS,
    "//v1/models": Endpoint.MODELS,
    "//v1///models//": Endpoint.MODELS,
    "http://127.0.0.1:8284//v1//models": Endpoint.MODELS,
    "/v1/chat/completions/models": Endpoint.MODELS,
    "/chat/completions//models/": Endpoint.MODELS,
}

CHAT = [
    "/v1/chat/completions",
    "/v1/chat/completions/",
    "/chat/completions",
    "/chat/completions/",
    "/v1/chat/completions?api-version=2024-10-21",
    "http://127.0.0.1:8284/v1/chat/completions",
    "/v1//chat/completions",
    "//v1/chat//completions",
    "/v1/chat/completions/chat/completions",
    "/chat/completions/chat/completions",
    "/v1/chat/completions//chat/completions/",
]


@pytest.mark.parametrize(("target", "endpoint"), SERVED.items(), ids=SERVED)
def test_a_path_is_served_with_and_without_v1_and_a_slash(target: str, endpoint: Endpoint) -> None:
    assert route("GET", target) == Route(endpoint=endpoint)


@pytest.mark.parametrize(("target", "endpoint"), SERVED.items(), ids=SERVED)
def test_head_is_get_without_a_body(target: str, endpoint: Endpoint) -> None:
    assert route("HEAD", target) == Route(endpoint=endpoint, head_only=True)


@pytest.mark.parametrize("target", CHAT)
def test_chat_is_posted(target: str) -> None:
    assert route("POST", target) == Route(endpoint=Endpoint.CHAT)


MODELS = {
    "Milo": "Milo",
    "My%20Agent": "My Agent",
    "letta%2FMy%20Agent": "letta/My Agent",
    "letta/Milo": "letta/Milo",
    "letta//Milo": "letta//Milo",
    "a%252Fc": "a%2Fc",
    "a+b": "a+b",
    "a:b@c": "a:b@c",
    "%C3%84da%F0%9F%98%80": "Äda😀",
    "%FF": "\ufffd",
    "100%25": "100%",
    "100%": "100%",
    "a%3Fb%23c": "a?b#c",
    "Milo?client_version=1": "Milo",
    "models": "models",
    "v1": "v1",
    "..": "..",
    "/Milo": "/Milo",
}


@pytest.mark.parametrize(("quoted", "model"), MODELS.items(), ids=MODELS)
@pytest.mark.parametrize(
    "stem",
    [
        "/v1/models/",
        "/models/",
        "http://127.0.0.1:8284/v1/models/",
        "//v1//models/",
        "/v1/chat/completions/models/",
    ],
)
def test_a_model_is_all_that_follows_decoded_once(stem: str, quoted: str, model: str) -> None:
    assert route("GET", stem + quoted) == Route(endpoint=Endpoint.MODEL, model=model)


def test_an_ollama_model_is_shown_to_a_post() -> None:
    assert route("POST", "/api/show") == Route(endpoint=Endpoint.OLLAMA_SHOW)


@pytest.mark.parametrize("target", [*CHAT, *SERVED, "/v1/models/Milo", "/nowhere", "*"])
def test_any_path_may_be_asked_for_its_options(target: str) -> None:
    assert route("OPTIONS", target) == Route(endpoint=Endpoint.PREFLIGHT)


METHODS: dict[str, tuple[str, str, str]] = {
    "DELETE chat": ("DELETE", "/v1/chat/completions", "POST, OPTIONS"),
    "PUT chat": ("PUT", "/chat/completions/", "POST, OPTIONS"),
    "POST models": ("POST", "/v1/models", "GET, HEAD, OPTIONS"),
    "DELETE a model": ("DELETE", "/v1/models/Milo", "GET, HEAD, OPTIONS"),
    "POST health": ("POST", "/health", "GET, HEAD, OPTIONS"),
    "POST ready": ("POST", "/ready", "GET, HEAD, OPTIONS"),
    "GET an Ollama model": ("GET", "/api/show", "POST, OPTIONS"),
    "POST the root": ("POST", "/", "GET, HEAD, OPTIONS"),
    "POST the base": ("POST", "/v1", "GET, HEAD, OPTIONS"),
    "lower case": ("get", "/v1/models", "GET, HEAD, OPTIONS"),
    "nonsense": ("BREW", "/v1/models", "GET, HEAD, OPTIONS"),
}


@pytest.mark.parametrize(("method", "target", "allow"), METHODS.values(), ids=METHODS)
def test_a_wrong_method_is_told_the_right_ones(method: str, target: str, allow: str) -> None:
    with pytest.raises(RequestError) as caught:
        route(method, target)
    error = caught.value
    assert (error.status_hint, error.code, error.param) == (405, "method_not_allowed", None)
    assert error.headers() == [("allow", allow)]


GENERAL = "Served are POST /v1/chat/completions, GET /v1/models"
CHAT_ONLY = "use POST /v1/chat/completions"
NO_RESPONSES = "set the client to Chat Completions"
COMPATIBLE = "set the client to an OpenAI-compatible provider"
NOT_KEPT = "Completions are not stored"
TWICE = "contains /v1 twice"

UNKNOWN: dict[tuple[str, str], str] = {
    ("POST", "/v1/completions"): CHAT_ONLY,
    ("POST", "/completions/"): CHAT_ONLY,
    ("POST", "/v1/responses"): NO_RESPONSES,
    ("GET", "/v1/responses/resp_1/input_items"): NO_RESPONSES,
    ("POST", "/v1/chat/completions/responses"): NO_RESPONSES,
    ("POST", "/v1/messages"): COMPATIBLE,
    ("POST", "/v1/messages/count_tokens"): COMPATIBLE,
    ("POST", "/api/chat"): COMPATIBLE,
    ("POST", "/api/generate"): COMPATIBLE,
    ("POST", "/openai/deployments/Milo/chat/completions"): COMPATIBLE,
    ("POST", "/v1/chat/completions/embeddings"): "embedding model",
    ("POST", "/v1/embeddings"): "embedding model",
    ("GET", "/v1/chat/completions"): NOT_KEPT,
    ("HEAD", "/v1/chat/completions"): NOT_KEPT,
    ("GET", "/v1/chat/completions/chatcmpl-1"): NOT_KEPT,
    ("GET", "/chat/completions/chatcmpl-1/messages"): NOT_KEPT,
    ("POST", "/v1/v1/chat/completions"): TWICE,
    ("GET", "/v1/v1/models"): TWICE,
    ("GET", "/v1/v1"): TWICE,
    **dict.fromkeys(
        (
            ("POST", "/v1/moderations"),
            ("GET", "/v1/files"),
            ("POST", "/v1/images/generations"),
            ("POST", "/v1/audio/speech"),
            ("POST", "/v1/batches"),
            ("POST", "/v1/conversations"),
            ("POST", "/api/pull"),
            ("GET", "/api/ps"),
            ("GET", "/props"),
            ("GET", "/slots"),
            ("GET", "/v1beta/models"),
            ("GET", "/v10/models"),
            ("GET", "/V1/models"),
            ("GET", "/v2/models"),
            ("GET", "/v1/modelss"),
            ("POST", "/v1/completionsx"),
            ("GET", "/metrics"),
            ("GET", "/favicon.ico"),
            ("GET", "/v1/chat%2Fcompletions"),
            ("GET", "*"),
        ),
        GENERAL,
    ),
}


@pytest.mark.parametrize(("asked", "hint"), UNKNOWN.items(), ids=map(" ".join, UNKNOWN))
def test_an_unknown_path_is_told_what_would_be_right(asked: tuple[str, str], hint: str) -> None:
    with pytest.raises(RequestError) as caught:
        route(*asked)
    error = caught.value
    assert (error.status_hint, error.code, error.headers()) == (404, "unknown_url", [])
    assert hint in error.message
    assert error.message.startswith(f"Unknown path {asked[1]}. ")


def test_a_long_path_and_method_are_cut_in_the_message() -> None:
    for method, target in (("GET", "/" + "x" * 5000), ("X" * 5000, "/v1/models")):
        with pytest.raises(RequestError) as caught:
            route(method, target)
        assert len(caught.value.message) < 500


def test_the_query_is_not_repeated() -> None:
    with pytest.raises(RequestError) as caught:
        route("GET", "/nowhere?key=sk-secret")
    assert "secret" not in caught.value.message


@given(
    st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT", ""]) | st.text(),
    st.text("/v1modelschat%2F?#:") | st.text(),
)
def test_anything_is_a_route_or_an_error_with_a_status(method: str, target: str) -> None:
    try:
        assert isinstance(route(method, target), Route)
    except RequestError as error:
        assert error.status_hint in (404, 405)
