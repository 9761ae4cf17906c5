"""Letta's responses, the errors that they stand for, and the agent in them."""

import orjson
import pytest

from sansio_letta.errors import (
    FieldPath,
    LettaError,
    RemoteProtocolError,
    RequestError,
    RequestField,
    SansioLettaError,
)
from sansio_letta.turn.agent import Agent
from sansio_letta.upstreams.rest.agents import find_agent, found_agent
from sansio_letta.upstreams.rest.commands import FetchAgent, FindAgent
from sansio_letta.upstreams.rest.response import Response

AGENT_ID = "agent-c52d0716-1824-4a78-9f84-e5b39a7bad99"


def answer(status: int = 200, body: bytes = b"", max_size: int = 1000, **headers: str) -> Response:
    """An answer with this body; an underscore in a header's name is a dash."""
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    collected = Response(status=status, headers=pairs, max_size=max_size)
    for at in range(len(body)):
        collected.receive_data(body[at : at + 1])
    return collected


def raw_agent(name: str, agent_id: str = AGENT_ID) -> dict[str, str]:
    return {"id": agent_id, "name": name, "agent_type": "letta_v1_agent"}


MILO = Agent(id=AGENT_ID, name="Milo", agent_type="letta_v1_agent")

# --- The answer -----------------------------------------------------------------------------------------------


def test_an_answer_collects_its_body() -> None:
    assert answer(body=b"[1, 2]").data == b"[1, 2]"
    assert answer().data == b""


@pytest.mark.parametrize(
    ("value", "content_type"),
    [
        ("text/event-stream; charset=utf-8", "text/event-stream"),
        ("Application/JSON", "application/json"),
        (" text/html ;x", "text/html"),
        ("", ""),
    ],
)
def test_the_content_type_is_the_media_type_alone(value: str, content_type: str) -> None:
    assert answer(content_type=value).content_type == content_type


def test_an_answer_may_have_no_content_type() -> None:
    assert answer(server="x").content_type == ""


def test_a_body_just_as_large_as_allowed_is_taken() -> None:
    assert answer(body=b"x" * 10, max_size=10).data == b"x" * 10


def test_a_larger_body_makes_no_sense_and_is_not_kept() -> None:
    collected = answer(max_size=10)
    for _ in range(100):
        collected.receive_data(b"x" * 8)
    with pytest.raises(RemoteProtocolError, match="larger than 10 bytes"):
        _ = collected.data
    assert len(collected.take()) == 16


def test_what_came_so_far_can_be_taken_by_another_reader() -> None:
    collected = answer(body=b"data: a")
    assert collected.take() == b"data: a"
    assert collected.take() == b""
    collected.receive_data(b"\n\n")
    assert collected.take() == b"\n\n"


@pytest.mark.parametrize("status", [201, 204, 301, 404, 500])
def test_only_200_has_data(status: int) -> None:
    with pytest.raises(LettaError):
        _ = answer(status, b"{}").data


REFUSALS: dict[str, tuple[Response, int, str, str]] = {
    "a detail": (answer(422, b'{"detail":"bad id"}'), 400, "invalid_value", "Letta answered 422: bad id"),
    "HTML": (answer(502, b"<html>"), 502, "upstream_error", "Letta answered 502."),
    "a key": (
        answer(401, b'{"detail":"Unauthorized"}'),
        502,
        "letta_unauthorized",
        "Letta refuses the proxy's key: check LETTA_API_KEY where the proxy runs.",
    ),
    **{
        f"a redirect {status}": (
            answer(status, location="https://elsewhere"),
            502,
            "upstream_error",
            f"Letta answered with a redirect ({status}): the base URL must be its final address.",
        )
        for status in (300, 307, 399)
    },
    "no redirect": (answer(299), 502, "upstream_error", "Letta answered 299."),
}


@pytest.mark.parametrize(("collected", "status", "code", "message"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_an_error_for_the_client(
    collected: Response, status: int, code: str, message: str
) -> None:
    error = collected.error()
    assert isinstance(error, LettaError)
    assert (error.status_hint, error.code, error.message) == (status, code, message)


@pytest.mark.parametrize(("body", "detail"), [(b'{"detail":"busy"}', "busy"), (b"<html>", None), (b"", None)])
def test_a_refusal_s_detail_is_there_or_not(body: bytes, detail: str | None) -> None:
    assert answer(409, body).refusal.text == detail


RETRY_AFTER = {
    "seconds": ("7", "7"),
    "too many": ("3600", "59"),
    "far too many": ("9" * 5000, "59"),
    "none": ("", "5"),
    "a date": ("Wed, 21 Oct 2026 07:28:00 GMT", "5"),
    "a fraction": ("1.5", "5"),
    "a debt": ("-1", "5"),
    "digits of another script": ("٣", "5"),
    "a superscript": ("²", "5"),
}


@pytest.mark.parametrize(("value", "shown"), RETRY_AFTER.values(), ids=RETRY_AFTER)
def test_retry_after_counts_in_seconds(value: str, shown: str) -> None:
    assert dict(answer(409, retry_after=value).error().headers()) == {"retry-after": shown}


# --- Which agent ----------------------------------------------------------------------------------------------

NO_IDS = {
    "a name": "Milo",
    "nothing": "",
    "a short id": "agent-1",
    "an id in capitals": AGENT_ID.upper(),
    "an id and more": AGENT_ID + "\n",
    "an id of another version": "agent-c52d0716-1824-1a78-9f84-e5b39a7bad99",
    "an id of another variant": "agent-c52d0716-1824-4a78-7f84-e5b39a7bad99",
    "an id without its kind": AGENT_ID.removeprefix("agent-"),
}


@pytest.mark.parametrize("model", NO_IDS.values(), ids=NO_IDS)
@pytest.mark.parametrize("with_pending", [True, False])
def test_a_name_is_searched_for(model: str, with_pending: bool) -> None:
    assert find_agent(model, with_pending=with_pending) == FindAgent(name=model, with_pending=with_pending)


@pytest.mark.parametrize("with_pending", [True, False])
def test_an_id_is_fetched(with_pending: bool) -> None:
    assert find_agent(AGENT_ID, with_pending=with_pending) == FetchAgent(agent_id=AGENT_ID)


def test_a_name_is_found_exactly() -> None:
    agents = [raw_agent("milo", "agent-2"), raw_agent("Milo"), raw_agent("Milo 2", "agent-3")]
    assert found_agent("Milo", answer(body=orjson.dumps(agents))).agent == MILO


def test_an_id_is_found() -> None:
    assert found_agent(AGENT_ID, answer(body=orjson.dumps(raw_agent("Milo")))).agent == MILO


NOT_FOUND: dict[str, tuple[str, Response, type[SansioLettaError], int, str]] = {
    "no agent has the name": ("Milo", answer(body=b"[]"), RequestError, 404, "model_not_found"),
    "only similar names": (
        "Milo",
        answer(body=orjson.dumps([raw_agent("milo")])),
        RequestError,
        404,
        "model_not_found",
    ),
    "several have it": (
        "Milo",
        answer(body=orjson.dumps([raw_agent("Milo", "agent-1"), raw_agent("Milo", "agent-2")])),
        RequestError,
        400,
        "invalid_value",
    ),
    "no agent has the id": (AGENT_ID, answer(404, b'{"detail":"x"}'), RequestError, 404, "model_not_found"),
    "a name is answered 404": ("Milo", answer(404), LettaError, 502, "upstream_error"),
    "Letta is down": (AGENT_ID, answer(503), LettaError, 503, "upstream_error"),
    "HTML for names": ("Milo", answer(body=b"<html>"), RemoteProtocolError, 502, "upstream_error"),
    "HTML for an id": (AGENT_ID, answer(body=b"<html>"), RemoteProtocolError, 502, "upstream_error"),
    "a list for an id": (AGENT_ID, answer(body=b"[]"), RemoteProtocolError, 502, "upstream_error"),
}


@pytest.mark.parametrize(("model", "collected", "cls", "status", "code"), NOT_FOUND.values(), ids=NOT_FOUND)
def test_no_agent_is_guessed(
    model: str, collected: Response, cls: type[SansioLettaError], status: int, code: str
) -> None:
    with pytest.raises(cls) as caught:
        found_agent(model, collected)
    assert (caught.value.status_hint, caught.value.code) == (status, code)


def test_agents_of_one_name_are_told_by_their_ids() -> None:
    agents = [raw_agent("Milo", "agent-1"), raw_agent("Ada", "agent-2"), raw_agent("Milo", "agent-3")]
    with pytest.raises(RequestError, match=r"2 agents are named .* agent-1, agent-3"):
        found_agent("Milo", answer(body=orjson.dumps(agents)))


def test_a_name_too_long_for_any_agent_is_not_searched_for() -> None:
    assert isinstance(find_agent("x" * 512), FindAgent)
    with pytest.raises(RequestError) as caught:
        find_agent("x" * 513)
    assert (caught.value.status_hint, caught.value.code, caught.value.field) == (
        404,
        "model_not_found",
        FieldPath(RequestField.MODEL),
    )
    assert len(caught.value.message) < 400
