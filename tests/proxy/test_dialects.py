"""The proxy only uses the `Dialect` of its client: here one that is not Chat Completions."""

from typing import Any

import orjson
import pytest
from attrs import define, field

from drive import DONE, PING, agent_json, error, say, stop
from drive_cycle import Client
from sansio_letta import Config, HttpRequest, SansioLettaError
from sansio_letta.config import InstructionPolicy
from sansio_letta.dialects.base import Dialect, RequestContext
from sansio_letta.dialects.items import ClientRequest, FunctionTool, InstructionMessage, UserMessage
from sansio_letta.errors import FieldPath
from sansio_letta.proxy import proxy as proxy_module
from sansio_letta.proxy.proxy import Proxy
from sansio_letta.proxy.routing import Endpoint
from sansio_letta.turn.events import Event, TextDelta, TurnFailed, TurnFinished


def field_name(path: FieldPath) -> str:
    return f"/{'/'.join((path.field.name.lower(), *path.inside))}"


def decode(data: bytes, config: Config) -> ClientRequest:
    raw = orjson.loads(data)
    return ClientRequest(
        model=raw["agent"],
        messages=(InstructionMessage(content="Be brief."), UserMessage(content=raw["say"])),
        stream=True,
        tools=tuple(FunctionTool(name="f", parameters=schema) for schema in raw.get("schemas", [])),
        ignored=("colour",),
    )


def error_body(failure: SansioLettaError) -> bytes:
    return f"{failure.param_for(field_name)}: {failure.message_for(field_name)}".encode()


@define
class LineWriter:
    content_type: str = field(default="text/plain", init=False)
    streaming: bool = field(default=True, init=False)

    def write(self, event: Event) -> bytes:
        match event:
            case TextDelta(text=text):
                return text.encode() + b"\n"
            case TurnFinished():
                return b"END\n"
            case TurnFailed(error=failure):
                return LINES.stream_error(failure)
        return b""


def writer(request: ClientRequest, context: RequestContext) -> LineWriter:
    return LineWriter()


LINES = Dialect(
    decode=decode,
    writer=writer,
    error_body=error_body,
    stream_error=lambda failure: f"FAILED {failure.code}\n".encode(),
    field_name=field_name,
)


@pytest.fixture(autouse=True)
def _lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_module, "DIALECTS", {Endpoint.CHAT: LINES})


def client(config: Config | None = None, **fields: Any) -> Client:
    body = orjson.dumps({"agent": "Milo", "say": "hi", **fields})
    request = HttpRequest(method="POST", target="/v1/chat/completions", body=body)
    return Client(request, Proxy(config or Config()))


def test_a_turn_is_written_in_it() -> None:
    asking = client(Config(instructions=InstructionPolicy.IGNORE)).answer([agent_json()])
    asking.stream(PING, say("Hello"), say(" you"), stop(), DONE)
    assert (asking.status, asking.headers["content-type"]) == (200, "text/plain")
    assert asking.headers["x-ignored-parameters"] == "colour, /instructions"
    assert asking.body == b"Hello\n you\nEND\n"


def test_a_failure_before_the_response_has_its_body_and_its_names() -> None:
    asking = client(Config(instructions=InstructionPolicy.IGNORE), say="")
    assert asking.status == 400
    assert asking.body.startswith(b"/input: `/input` has nothing new for the agent")


def test_an_unknown_agent_is_told_in_it() -> None:
    asking = client().answer([])
    assert (asking.status, asking.body[:8]) == (404, b"/model: ")


def test_a_place_within_a_schema_has_its_name() -> None:
    taken = {"type": "object", "properties": {"thinking": {"type": "string"}}}
    legacy = agent_json() | {"agent_type": "memgpt_v2_agent"}
    asking = client(schemas=[taken]).answer([legacy])
    assert asking.body.startswith(b"/tool_parameters/properties/thinking: ")


def test_a_failure_in_the_stream_is_an_event_of_its_own() -> None:
    asking = client().answer([agent_json()]).stream(PING, say("Hello"), error("llm_error", "no"), stop("error"))
    assert asking.body.startswith(b"Hello\nFAILED ")
