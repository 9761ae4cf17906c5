"""The seeds of fuzzing: everything recorded from Letta and clients, as inputs of each target."""

from collections.abc import Iterator, Mapping
from typing import Final

import orjson

from faults.scenes import SCENES, STREAMED
from recordings import FIXTURES, SCENARIOS
from support import payloads

#: Longest input kept: coverage does not grow with length, and speed falls with it.
MAX_SIZE: Final = 6_000


def seeds(target: str) -> Iterator[bytes]:
    """A target's inputs, of at most `MAX_SIZE` bytes, each once."""
    yield from dict.fromkeys(seed for seed in _SEEDS[target] if len(seed) <= MAX_SIZE)


def _streams() -> Iterator[bytes]:
    for cut in (b"\0", b"\1", b"\x40", b"\4", b"\6"):  # the last two with a reply format
        yield from (cut + scene.script.body for scene in SCENES)


def _messages() -> Iterator[bytes]:
    yield from (payload for scenario in SCENARIOS for payload in payloads(scenario))
    yield b'{"status": "ok", "version": "0.16.7"}'
    yield b'{"detail": "Agent not found"}'
    yield from (scene.script.body for scene in SCENES if scene not in STREAMED)


def _bodies() -> Iterator[bytes]:
    for path in sorted((FIXTURES / "requests").glob("*.json")):
        yield orjson.dumps(orjson.loads(path.read_bytes())["body"])


def _wishes() -> Iterator[bytes]:
    """Schemas with all that is looked into; with a blank behind them, too: see the target."""
    part = {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "required": ["a"]}
    older = {"$schema": "http://json-schema.org/draft-07/schema#", "$defs": {"b": {"anyOf": [{"$ref": "#"}]}}}
    newer = {"$defs": {"b": {"type": ["string", "null"], "pattern": "^a"}}, "additionalProperties": False}
    for schema in ({**part, **newer}, {**part, **older}):
        reply_format = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
        body = {
            "model": "Milo",
            "messages": [{"role": "user", "content": "hi"}],
            "response_format": reply_format,
        }
        yield orjson.dumps(body)
        yield orjson.dumps(body) + b" "


def _requests() -> Iterator[bytes]:
    bodies = (*_bodies(), *_wishes())
    yield from (b"POST\n/v1/chat/completions\napplication/json\n" + body for body in bodies)
    for target in (b"/v1/models", b"/v1/models/Milo", b"/health", b"/ready", b"/", b"/v1/v1/models", b"*"):
        yield b"GET\n" + target + b"\n\n"
        yield b"OPTIONS\n" + target + b"\n\n"


def _connections() -> Iterator[bytes]:
    heads = (b"\0", b"\1", b"\x40")
    for cut in heads:
        for number, body in enumerate(_bodies()):
            request = orjson.loads(body) | {"model": "Milo"}
            data = orjson.dumps(request)
            if number % 2:
                framing = b"transfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
            else:
                framing = b"content-length: %d\r\n\r\n%b"
            head = (
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            )
            yield cut + head + framing % (len(data), data)
        models, health = (
            b"%b HTTP/1.1\r\nhost: localhost\r\n\r\n" % line for line in (b"GET /v1/models", b"HEAD /health")
        )
        yield cut + models + health
        yield cut + b"GET / HTTP/1.0\r\n\r\n"
        yield cut + b"\x16\x03\x01\x02\x00"


_SEEDS: Final[Mapping[str, tuple[bytes, ...]]] = {
    "sse": tuple(_streams()),
    "message": tuple(_messages()),
    "turn": tuple(_streams()),
    "request": tuple(_requests()),
    "connection": tuple(_connections()),
}
