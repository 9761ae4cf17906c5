"""What a recording may hold: never a key, and of texts what the one who records has chosen."""

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

#: Headers whose values open doors.
SECRET_HEADERS: Final = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key", "x-auth-token"}
)

#: How names of parameters end whose values open doors.
_SECRET_NAMES: Final = ("key", "token", "secret", "password", "authorization")
_QUERY_MARKS: Final = re.compile("([?&#])")

#: Keys as providers write them, wherever they stand: a model's error repeats the one it was given.
_KEY: Final = re.compile(r"\b(sk-|pk-|Bearer )[A-Za-z0-9._~+/*-]{6,}", re.ASCII)
_KEY_IN_BYTES: Final = re.compile(_KEY.pattern.encode())
#: What a key, or the word before it, can consist of.
_KEY_BYTES: Final = string.ascii_letters.encode() + string.digits.encode() + b"._~+/*-"
_BEARER: Final = b"Bearer "
#: One behind the other, that are looked at: of more of them the last is as good as any.
_MAX_BEARER_COUNT: Final = 8

_AGENT_FIELDS: Final = (*(attribute.name for attribute in fields(letta.Agent)), "tools", "tool_rules", "tags")
_MODEL_FIELDS: Final = tuple(attribute.name for attribute in fields(letta.ModelConfig))
_TOOL_FIELDS: Final = tuple(attribute.name for attribute in fields(letta.Tool))

#: Fields of both wires that hold what users, agents and tools say.
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


#: Objects of which every string is a text: what a client notes there is its own.
_TEXT_OBJECTS: Final = frozenset({"metadata"})


def redact_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Headers without the keys in them."""
    return [
        (name, "<redacted>" if name.lower() in SECRET_HEADERS else redact_keys(value))
        for name, value in headers
    ]


def redact_keys(text: str) -> str:
    """Text without what looks like a key."""
    return _KEY.sub(lambda found: f"{found.group(1)}<redacted>", text)


def redact_target(target: str) -> str:
    """A request's target without the keys that some programs put into its query."""
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
    """Server-sent events without keys and texts, event by event: a text cut in two would not be recognised.

    :param mode: KEEP passes bytes on as they come, but for what looks like a key, or like the start of one.
    :param max_size: bytes of an event that has not ended, or of what may be a key that has not.
    """

    def __init__(self, mode: TextMode, max_size: int) -> None:
        self._mode = mode
        self._max_size = max_size
        self._decoder = SSEDecoder(max_size)
        self._held: list[bytes] = []  #: KEEP: the end of what came, in which a key may have begun
        self._held_size = 0
        self._broken: RemoteProtocolError | None = None

    def redact(self, data: bytes) -> bytes:
        """What may be written of these bytes; of an event that has not ended, nothing yet.

        :raises RemoteProtocolError: beyond `max_size`; again ever after.
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
        """What was held back: no more will come."""
        return _redact_keys_in(self._take_held())

    def _redact_keys(self, data: bytes) -> bytes:
        if self._broken is not None:
            raise self._broken
        if self._held_size > len(_BEARER) and not data.strip(_KEY_BYTES):
            # More of a word that began long ago: nothing of it can be written yet.
            self._hold(data)
            return b""
        data = self._take_held() + data
        size = len(data.rstrip(_KEY_BYTES))
        for _ in range(_MAX_BEARER_COUNT):
            if not data.endswith(_BEARER, 0, size):
                break
            # It may be the end of a longer word, and then it is none.
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
    """A JSON body without keys and texts. What is no JSON is a text as a whole; ``[DONE]`` is none."""
    if data == b"[DONE]":
        return data
    try:
        return orjson.dumps(redact_json(_as_read(orjson.loads(data)), mode))
    except orjson.JSONDecodeError:
        return text_redactor(mode)(data.decode("utf-8", "replace")).encode()


def _as_read(value: object) -> object:
    """Agents and tools as far as we read them: whole ones hold memory, prompts, code and secrets."""
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
