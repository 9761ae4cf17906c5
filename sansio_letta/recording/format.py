"""Recordings: what passed between client, proxy and Letta, as JSON lines, read back exchange by exchange.

The first line is the head: ``v``, ``kind``, ``server``, ``scenario``, ``note``. Every other line is one
happening of one exchange: ``x`` its number, ``t`` seconds since the recording began, ``dir`` what happened:

- ``request``: ``method``, ``path``, ``json``, and ``headers`` of a client's
- ``response``: ``status``, ``headers``
- ``data``: ``text``, or ``b64`` where the bytes are no UTF-8
- ``end`` of the body; ``client_closed``: the reader left before it; ``failed``: the connection broke
- ``waited``: the client had waited for so long that a comment was due

Exchanges may overlap: one may begin while another's data comes. Since version 2 exchange 0 is the client's own,
with the proxy, ``failed`` says ``failure`` and ``reason``, and the head says how the client's answer was made
(``token``, ``created``, ``policies``, ``limits``) and in ``text`` whether message text was kept. The order of
the lines is that in which things happened: with it a replay does without a clock. Version 1 holds exchanges
with Letta alone.
"""

import base64
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import partial
from operator import eq
from typing import Any, Final, Literal, TypeVar

import orjson
from attrs import define, field, frozen
from cattrs import BaseValidationError, Converter

from .._convert import WrongType, exactly, first_error, strict_converter
from ..config import Config
from ..errors import SansioLettaError
from ..proxy.policies import POLICIES, with_policies

_T = TypeVar("_T")

#: Written; version 1 is read as well.
VERSION: Final = 2
KIND: Final = "letta-v1"
#: Stands in recordings where a failure's value would: it was the proxy that ended the exchange, to end itself.
INTERRUPTED: Final = "interrupted"


class RecordingError(SansioLettaError):
    """A recording cannot be read; the message names the line."""


@frozen(kw_only=True)
class RecordedRequest:
    """What was asked of Letta."""

    method: str
    path: str  #: with the query
    json: Any = None
    headers: tuple[tuple[str, str], ...] = ()  #: of a client's request alone; keys are never recorded


@frozen(kw_only=True)
class RecordedData:
    """Bytes of an answer's body, as they arrived together."""

    t: float
    data: bytes = field(repr=False)
    line: int = 0  #: of the file


@frozen(kw_only=True)
class RecordedWait:
    """A comment was due for a client that waited."""

    t: float
    line: int  #: of the file


@frozen(kw_only=True)
class RecordedExchange:
    """One request to Letta and all of its answer."""

    x: int
    t: float  #: when it began
    request: RecordedRequest
    status: int | None = None  #: None: no answer came
    headers: tuple[tuple[str, str], ...] = ()
    head_t: float | None = None
    head_line: int = 0  #: of the file
    data: tuple[RecordedData, ...] = ()
    waits: tuple[RecordedWait, ...] = ()  #: of the client's own exchange alone
    end: Literal["end", "client_closed", "failed"] | None = None
    end_t: float | None = None
    end_line: int = 0  #: of the file
    failure: str | None = None  #: of ``failed``: a `Failure`'s value
    reason: str | None = None  #: of ``failed``: in words

    @property
    def body(self) -> bytes:
        """All bytes of the answer."""
        return b"".join(item.data for item in self.data)

    def asks(self, method: str, target: str) -> bool:
        """Whether it asked this. Older recordings did not ask for the agent's tools beside the rest."""
        before = target.replace("include=agent.tools&include=agent.pending", "include=agent.pending")
        same = (target, before, before.removesuffix("&include=agent.tools"))
        return self.request.method == method and self.request.path in same

    @property
    def starts_run(self) -> bool:
        """Whether this is a turn's request, answered by a stream or by a refusal of one."""
        path = self.request.path
        return self.request.method == "POST" and (
            path.endswith(("/messages/stream", "/messages/async"))
            or (path.startswith("/v1/conversations/") and path.endswith("/messages"))
        )


class TextMode(Enum):
    """What a recording holds of texts: what users and agents say, think, and give to tools."""

    KEEP = "keep"
    """All of it."""
    HASH = "hash"
    """A short hash of each piece: whether two are the same still shows."""
    DROP = "drop"
    """An x for each character that is no blank: lengths and lines still show."""


#: The numbers of a `Config` that an answer depends on.
LIMITS: Final = (
    "max_request_size",
    "max_value_count",
    "max_message_count",
    "max_part_count",
    "max_tool_count",
    "max_event_size",
    "max_answer_size",
    "max_fragment_size",
    "max_agent_count",
    "agent_page_count",
    "keepalive_timeout",
    "early_response_timeout",
    "letta_silence_timeout",
    "first_item_timeout",
    "letta_answer_timeout",
    "turn_timeout",
    "client_tool_ttl",
    "queue_timeout",
    "connect_retry_timeout",
    "resume_timeout",
    "lost_run_timeout",
    "max_approval_count",
)


@frozen(kw_only=True)
class RecordingHead:
    """The first line."""

    v: int
    kind: str
    server: str  #: the version of the Letta server, or of what recorded it
    scenario: str
    note: str
    token: str | None = None  #: what the ids of the client's answer were made of
    created: int | None = None  #: Unix time, seconds
    policies: Mapping[str, str] = field(factory=dict)  #: of `POLICIES`; what is missing is as today
    limits: Mapping[str, float] = field(factory=dict)  #: of `LIMITS`, as well
    text: str = TextMode.KEEP.value

    @classmethod
    def begin(
        cls,
        *,
        server: str,
        scenario: str,
        note: str,
        token: str,
        created: int,
        config: Config,
        text: TextMode,
    ) -> "RecordingHead":
        """The head of a recording that is made now."""
        return cls(
            v=VERSION,
            kind=KIND,
            server=server,
            scenario=scenario,
            note=note,
            token=token,
            created=created,
            policies={name: getattr(config, policy.field).value for name, policy in POLICIES.items()},
            limits={name: getattr(config, name) for name in LIMITS},
            text=text.value,
        )

    @property
    def has_texts(self) -> bool:
        """Whether what was said can be read."""
        return self.text == TextMode.KEEP.value

    @property
    def config(self) -> Config:
        """What the answer was made by.

        :raises ValueError: if a limit is out of its range, which is told while the recording is read.
        """
        # Others are of a later version.
        limits: dict[str, Any] = {name: self.limits[name] for name in LIMITS if name in self.limits}
        known = [(POLICIES[name], text) for name, text in self.policies.items() if name in POLICIES]
        return with_policies(Config(**limits), {policy.field: policy.read(text) for policy, text in known})


@frozen(kw_only=True)
class Recording:
    """One recorded scenario."""

    head: RecordingHead
    exchanges: tuple[RecordedExchange, ...]  #: with Letta, in the order in which they began
    client: RecordedExchange | None = None  #: the client's own, since version 2
    cut_line: int | None = None  #: the number of a last line that was not written to its end

    @property
    def scenario(self) -> str:
        """The recording's name."""
        return self.head.scenario


@frozen(kw_only=True)
class _Happening:
    x: int
    t: float
    dir: str
    method: str | None = None
    path: str | None = None
    json: Any = None
    status: int | None = None
    headers: tuple[tuple[str, ...], ...] = ()
    text: str | None = None
    b64: str | None = None
    failure: str | None = None
    reason: str | None = None


def _make_converter() -> Converter:
    converter = strict_converter()
    for kind, plain in ((Mapping[str, float], dict[str, float]), (Mapping[str, str], dict[str, str])):
        structure = converter.get_structure_hook(plain)
        converter.register_structure_hook_func(partial(eq, kind), partial(_structure_object, structure))
    return converter


def _structure_object(structure: Callable[[Any, Any], Any], value: object, kind: object) -> object:
    return structure(exactly(value, dict), kind)


_lines: Final = _make_converter()


def read_recording(data: bytes) -> Recording:
    """A whole recording, or what a crash left of one: a last line that was not written to its end is left out.

    :param data: the file's bytes.
    :raises RecordingError: naming the line and what was expected there.
    """
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    if not lines:
        raise RecordingError("line 1: expected the head of a recording, got an empty file")
    head = _read_head(*lines[0])
    exchanges: dict[int, _Exchange] = {}
    cut_line = None
    for number, line in lines[1:]:
        if number == lines[-1][0] and not data.endswith(b"\n") and not _is_json(line):
            cut_line = number
            break
        _take(_structure(number, line, _Happening), number, exchanges)
    client = exchanges.pop(0, None)
    return Recording(
        head=head,
        exchanges=tuple(exchange.freeze() for exchange in exchanges.values()),
        client=None if client is None else client.freeze(),
        cut_line=cut_line,
    )


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _read_head(number: int, line: bytes) -> RecordingHead:
    head = _structure(number, line, RecordingHead)
    if head.kind != KIND:
        raise RecordingError(f"line {number}: kind: expected {KIND}, got {head.kind[:80]!r}")
    if not 1 <= head.v <= VERSION:
        raise RecordingError(
            f"line {number}: v: versions 1 to {VERSION} can be read, the recording is of version {head.v}"
        )
    words = {f"policies.{name}": (policy.values, head.policies.get(name)) for name, policy in POLICIES.items()}
    for name, (members, word) in {**words, "text": (tuple(TextMode), head.text)}.items():
        known = [str(member.value) for member in members]
        if word is not None and word not in known:
            raise RecordingError(f"line {number}: {name}: expected one of {', '.join(known)}")
    try:
        assert head.config
    except ValueError as exc:
        raise RecordingError(f"line {number}: limits: {exc.args[0]}") from None
    return head


def _structure(number: int, line: bytes, kind: type[_T]) -> _T:
    try:
        value: _T = _lines.structure(orjson.loads(line), kind)
        return value
    except orjson.JSONDecodeError as exc:
        raise RecordingError(f"line {number}: expected one JSON object, got {exc}") from None
    except (WrongType, BaseValidationError) as exc:
        path, cause = first_error(exc)
        why = "missing" if isinstance(cause, KeyError) else str(cause)
        raise RecordingError(f"line {number}: {path + ': ' if path else ''}{why}") from None


@define
class _Exchange:
    """An exchange while its lines are read."""

    x: int
    t: float
    request: RecordedRequest
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    head_t: float | None = None
    head_line: int = 0
    data: list[RecordedData] = field(factory=list)
    waits: list[RecordedWait] = field(factory=list)
    end: Literal["end", "client_closed", "failed"] | None = None
    end_t: float | None = None
    end_line: int = 0
    failure: str | None = None
    reason: str | None = None

    def freeze(self) -> RecordedExchange:
        return RecordedExchange(
            x=self.x,
            t=self.t,
            request=self.request,
            status=self.status,
            headers=self.headers,
            head_t=self.head_t,
            head_line=self.head_line,
            data=tuple(self.data),
            waits=tuple(self.waits),
            end=self.end,
            end_t=self.end_t,
            end_line=self.end_line,
            failure=self.failure,
            reason=self.reason,
        )


def _take(item: _Happening, number: int, exchanges: dict[int, _Exchange]) -> None:
    """Add one line to its exchange."""
    exchange = exchanges.get(item.x)
    if item.dir == "request":
        if exchange is not None or item.method is None or item.path is None:
            raise RecordingError(f"line {number}: expected a new exchange with method and path")
        request = RecordedRequest(
            method=item.method, path=item.path, json=item.json, headers=_pairs(item.headers, number)
        )
        exchanges[item.x] = _Exchange(item.x, item.t, request)
        return
    if exchange is None:
        raise RecordingError(f"line {number}: exchange {item.x} has no request before this")
    match item.dir:
        case "response":
            if item.status is None:
                raise RecordingError(f"line {number}: status: missing")
            exchange.status, exchange.headers = item.status, _pairs(item.headers, number)
            exchange.head_t, exchange.head_line = item.t, number
        case "data" if exchange.status is None:
            raise RecordingError(f"line {number}: data of exchange {item.x} before its response")
        case "data":
            exchange.data.append(RecordedData(t=item.t, data=_bytes(item, number), line=number))
        case "waited":
            exchange.waits.append(RecordedWait(t=item.t, line=number))
        case "end" | "client_closed" | "failed":
            exchange.end, exchange.end_t, exchange.end_line = item.dir, item.t, number
            exchange.failure, exchange.reason = item.failure, item.reason
        case _:
            raise RecordingError(
                f"line {number}: dir: expected request, response, data, waited, end, client_closed or failed, "
                f"got {item.dir[:40]!r}"
            )


def _pairs(headers: Iterable[tuple[str, ...]], number: int) -> tuple[tuple[str, str], ...]:
    pairs = []
    for index, pair in enumerate(headers):
        if len(pair) != 2:
            raise RecordingError(f"line {number}: headers[{index}]: expected a name and a value")
        pairs.append((pair[0].lower(), pair[1]))
    return tuple(pairs)


def _bytes(item: _Happening, number: int) -> bytes:
    if item.text is not None:
        return item.text.encode()
    if item.b64 is None:
        raise RecordingError(f"line {number}: expected text or b64")
    try:
        return base64.b64decode(item.b64, validate=True)
    except ValueError as exc:
        raise RecordingError(f"line {number}: b64: {exc}") from None
