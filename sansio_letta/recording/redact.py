"""Redaction of recordings: keys are never recorded, and texts as the text mode says."""

import re
import string
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Final

import orjson
from attrs import fields

from .._signal import Signal
from ..errors import RemoteProtocolError
from ..sse import SSEDecoder, encode_data
from ..upstreams.rest import letta
from .format import TextMode

_HASHED: Final = re.compile(r"#[0-9a-f]{12}")

#: Headers whose values are secret.
SECRET_HEADERS: Final = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key", "x-auth-token"}
)

#: Endings of the names of parameters whose values are secret.
_SECRET_NAMES: Final = ("key", "token", "secret", "password", "authorization")
_QUERY_MARKS: Final = re.compile("([?&#])")

#: Keys in the form of common providers, anywhere: the error of a model may quote the key that it got.
_KEY: Final = re.compile(r"\b(sk-|pk-|Bearer )[A-Za-z0-9._~+/*-]{6,}", re.ASCII)
_KEY_IN_BYTES: Final = re.compile(_KEY.pattern.encode())
#: The bytes of a key, or of the word before it.
_KEY_BYTES: Final = string.ascii_letters.encode() + string.digits.encode() + b"._~+/*-"
_BEARER: Final = b"Bearer "
#: How many in a row are checked; with more of them, any will do.
_MAX_BEARER_COUNT: Final = 8

_AGENT_FIELDS: Final = (*(attribute.name for attribute in fields(letta.Agent)), "tools", "tool_rules", "tags")
_MODEL_FIELDS: Final = tuple(attribute.name for attribute in fields(letta.ModelConfig))
_TOOL_FIELDS: Final = tuple(attribute.name for attribute in fields(letta.Tool))

#: Fields of both protocols that contain texts of users, agents and tools.
_TEXT_FIELDS: Final = frozenset(
    {
        "arguments",
        "content",
        "data",
        "detail",
        "hidden_reasoning",
        "input",
        "instructions",
        "message",
        "otid",
        "output",
        "prompt_template",
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


#: Objects in which every string is a text, since clients may store anything in them.
_TEXT_OBJECTS: Final = frozenset({"metadata"})


def redact_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Redact keys in headers."""
    return [
        (name, "<redacted>" if name.lower() in SECRET_HEADERS else redact_keys(value))
        for name, value in headers
    ]


def redact_keys(text: str) -> str:
    """Redact what looks like a key."""
    return _KEY.sub(lambda found: f"{found.group(1)}<redacted>", text)


def redact_target(target: str) -> str:
    """Redact the keys that some programs put in the query of a request's target."""
    path, *rest = _QUERY_MARKS.split(target)
    pieces, is_secret = [path], False
    for mark, piece in zip(rest[::2], rest[1::2], strict=True):
        if mark == "?" and is_secret:
            continue  # more of the value
        name, equals, value = piece.partition("=")
        is_secret = bool(value) and name.lower().endswith(_SECRET_NAMES)
        pieces += [mark, f"{name}{equals}<redacted>" if is_secret else piece]
    return redact_keys("".join(pieces))


def redact_json(value: object, mode: TextMode) -> object:
    """Redact keys and texts in JSON of either protocol. Strings outside of text fields are not texts."""
    return _redact(value, text_redactor(mode), is_text=False)


def text_redactor(mode: TextMode) -> Callable[[str], str]:
    """Return the function that redacts a text; it is idempotent.

    Leading blanks are kept in every mode, so that the separator between two messages is the same whether it is
    added before or after redaction.
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
                key: _redact_all(item, text)
                if key in _TEXT_OBJECTS
                else _redact(item, text, is_text=key in _TEXT_FIELDS and not isinstance(item, dict))
                for key, item in value.items()
            }
        case list():
            return [_redact(item, text, is_text=is_text) for item in value]
    return value


def _redact_all(value: object, text: Callable[[str], str]) -> object:
    match value:
        case str():
            return text(value)
        case dict():
            return {key: _redact_all(item, text) for key, item in value.items()}
        case list():
            return [_redact_all(item, text) for item in value]
    return value


class StreamRedactor:
    """Redacts server-sent events one by one, since half a text could not be recognised.

    :param mode: KEEP passes bytes through at once, apart from what looks like a key, or like its beginning.
    :param max_size: maximum size in bytes of an incomplete event, or of an incomplete word that may be a key.
    """

    def __init__(self, mode: TextMode, max_size: int) -> None:
        self._mode = mode
        self._max_size = max_size
        self._decoder = SSEDecoder(max_size)
        self._held: list[bytes] = []  #: KEEP: the last bytes, in which a key may have begun
        self._held_size = 0
        self._broken: RemoteProtocolError | None = None

    def redact(self, data: bytes) -> bytes:
        """Return what can be written so far; nothing of an incomplete event.

        :raises RemoteProtocolError: beyond `max_size`; from then on, always.
        """
        if self._mode is TextMode.KEEP:
            return self._redact_keys(data)
        redacted = []
        self._decoder.receive_data(data)
        while not isinstance(event := self._decoder.next_event(), Signal):
            name = b"" if event.event == "message" else b"event: %b\n" % event.event.encode()
            redacted.append(name + encode_data(redact_body(event.data, self._mode)))
        return b"".join(redacted)

    def finish(self) -> bytes:
        """Return what was held back, at the end of the stream."""
        return _redact_keys_in(self._take_held())

    def _redact_keys(self, data: bytes) -> bytes:
        if self._broken is not None:
            raise self._broken
        if self._held_size > len(_BEARER) and not data.strip(_KEY_BYTES):
            # A word that is not complete: nothing of it can be written yet.
            self._hold(data)
            return b""
        data = self._take_held() + data
        size = len(data.rstrip(_KEY_BYTES))
        for _ in range(_MAX_BEARER_COUNT):
            if not data.endswith(_BEARER, 0, size):
                break
            # It may be the end of a longer word, and then it does not count.
            size = len(data[: size - len(_BEARER)].rstrip(_KEY_BYTES))
        self._hold(data[size:])
        return _redact_keys_in(data[:size])

    def _take_held(self) -> bytes:
        held = b"".join(self._held)
        self._held.clear()
        self._held_size = 0
        return held

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_size += len(data)
        if self._held_size > self._max_size:
            self._held.clear()
            self._broken = RemoteProtocolError(f"A word of the stream is longer than {self._max_size} bytes.")
            raise self._broken


def _redact_keys_in(data: bytes) -> bytes:
    return _KEY_IN_BYTES.sub(rb"\1<redacted>", data)


def redact_body(data: bytes, mode: TextMode) -> bytes:
    """Redact a JSON body. What is not JSON counts as a text, except for ``[DONE]``."""
    if data == b"[DONE]":
        return data
    try:
        return orjson.dumps(redact_json(_as_read(orjson.loads(data)), mode))
    except orjson.JSONDecodeError:
        return text_redactor(mode)(data.decode("utf-8", "replace")).encode()


def _as_read(value: object) -> object:
    """Reduce agents and tools to the fields that we read: others contain memory, prompts, code and secrets."""
    if isinstance(value, list):
        return [_as_read(item) for item in value]
    if isinstance(value, dict) and "agent_type" in value:
        agent = {name: _as_read(value[name]) for name in _AGENT_FIELDS if name in value}
        if isinstance(config := agent.get("llm_config"), dict):
            agent["llm_config"] = {name: config[name] for name in _MODEL_FIELDS if name in config}
        return agent
    if isinstance(value, dict) and "source_code" in value:
        return {name: value[name] for name in _TOOL_FIELDS if name in value}
    return value
