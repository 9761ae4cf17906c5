"""What a recording may hold: never a key, and of texts what the one who records has chosen."""

import re
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Final

import orjson
from attrs import fields

from . import letta
from ._signal import Signal
from .recording import TextMode
from .sse import SSEDecoder, encode_data

_HASHED: Final = re.compile(r"#[0-9a-f]{12}")

#: Headers whose values open doors.
_SECRET_HEADERS: Final = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key", "x-auth-token"}
)

_SECRET_QUERY: Final = re.compile(r"(?i)([?&][^=&]*(?:key|token|secret|password|authorization)=)[^&#]+")

#: Keys as providers write them, wherever they stand: a model's error repeats the one it was given.
_KEY: Final = re.compile(r"\b(sk-|pk-|Bearer )[A-Za-z0-9._~+/*-]{6,}")

_AGENT_FIELDS: Final = tuple(attribute.name for attribute in fields(letta.Agent))

#: Fields of both wires that hold what users, agents and tools say.
_TEXT_FIELDS: Final = frozenset(
    {
        "arguments",
        "content",
        "data",
        "detail",
        "hidden_reasoning",
        "message",
        "reason",
        "reasoning",
        "reasoning_content",
        "refusal",
        "signature",
        "stderr",
        "stdout",
        "text",
        "tool_return",
        "url",
    }
)


def redact_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Headers without the keys in them."""
    return [
        (name, "<redacted>" if name.lower() in _SECRET_HEADERS else redact_keys(value))
        for name, value in headers
    ]


def redact_keys(text: str) -> str:
    """Text without what looks like a key."""
    return _KEY.sub(lambda found: f"{found.group(1)}<redacted>", text)


def redact_target(target: str) -> str:
    """A request's target without the keys that some programs put into its query."""
    return redact_keys(_SECRET_QUERY.sub(r"\1<redacted>", target))


def redact_json(value: object, mode: TextMode) -> object:
    """JSON of either wire without keys, and with its texts as the mode says. Strings elsewhere are no texts."""
    return _redact(value, text_redactor(mode), is_text=False)


def text_redactor(mode: TextMode) -> Callable[[str], str]:
    """How one text is written down; done twice it changes nothing more.

    The blanks before a text stay in every mode: the separator that is put between two messages must come out
    the same whether it is added before or after.
    """
    match mode:
        case TextMode.KEEP:
            return redact_keys
        case TextMode.DROP:
            return lambda text: re.sub(r"\S", "x", text)
        case _:
            return _hash


def _hash(text: str) -> str:
    bare = text.lstrip()
    if not bare or _HASHED.fullmatch(bare):
        return text
    return text[: len(text) - len(bare)] + "#" + sha256(bare.encode()).hexdigest()[:12]


def _redact(value: object, text: Callable[[str], str], *, is_text: bool) -> object:
    match value:
        case str():
            return text(value) if is_text else redact_keys(value)
        case dict():
            return {
                key: _redact(item, text, is_text=key in _TEXT_FIELDS and not isinstance(item, dict))
                for key, item in value.items()
            }
        case list():
            return [_redact(item, text, is_text=is_text) for item in value]
    return value


class StreamRedactor:
    """Server-sent events without keys and texts, event by event: a text cut in two would not be recognised.

    :param mode: KEEP passes bytes on as they come, but for what looks like a key.
    :param max_size: bytes of an event that has not ended.
    """

    def __init__(self, mode: TextMode, max_size: int) -> None:
        self._mode = mode
        self._decoder = SSEDecoder(max_size)

    def redact(self, data: bytes) -> bytes:
        """What may be written of these bytes; of an event that has not ended, nothing yet."""
        if self._mode is TextMode.KEEP:
            return redact_keys(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        redacted = []
        self._decoder.receive_data(data)
        while not isinstance(event := self._decoder.next_event(), Signal):
            name = b"" if event.event == "message" else b"event: %b\n" % event.event.encode()
            redacted.append(name + encode_data(redact_body(event.data, self._mode)))
        return b"".join(redacted)


def redact_body(data: bytes, mode: TextMode) -> bytes:
    """A JSON body without keys and texts. What is no JSON is a text as a whole; ``[DONE]`` is none."""
    if data == b"[DONE]":
        return data
    try:
        return orjson.dumps(redact_json(_agents(orjson.loads(data)), mode))
    except orjson.JSONDecodeError:
        return text_redactor(mode)(data.decode("utf-8", "replace")).encode()


def _agents(value: object) -> object:
    """Agents as far as we read them: whole ones hold their memory, their prompts and their tools' secrets."""
    if isinstance(value, list):
        return [_agents(item) for item in value]
    if isinstance(value, dict) and "agent_type" in value:
        return {name: value[name] for name in _AGENT_FIELDS if name in value}
    return value
