"""Recordings: what Letta really sent, as JSON lines, read back exchange by exchange.

The first line is the head: ``v``, ``kind``, ``server``, ``scenario``, ``note``. Every other line is one
happening of one exchange: ``x`` its number, ``t`` seconds since the recording began, ``dir`` what happened:

- ``request``: ``method``, ``path``, ``json``
- ``response``: ``status``, ``headers``
- ``data``: ``text``, or ``b64`` where the bytes are no UTF-8
- ``end`` of the body; ``client_closed``: the reader left before it; ``failed``: the connection broke

Exchanges may overlap: one may begin while another's data comes.
"""

import base64
from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal, TypeVar

import orjson
from attrs import evolve, field, frozen
from cattrs import BaseValidationError

from ._convert import WrongType, first_error, strict_converter
from .errors import SansioLettaError

_T = TypeVar("_T")

VERSION: Final = 1
KIND: Final = "letta-v1"


class RecordingError(SansioLettaError):
    """A recording cannot be read; the message names the line."""


@frozen(kw_only=True)
class RecordedRequest:
    """What was asked of Letta."""

    method: str
    path: str  #: with the query
    json: Any = None


@frozen(kw_only=True)
class RecordedData:
    """Bytes of an answer's body, as they arrived together."""

    t: float
    data: bytes = field(repr=False)


@frozen(kw_only=True)
class RecordedExchange:
    """One request to Letta and all of its answer."""

    x: int
    t: float  #: when it began
    request: RecordedRequest
    status: int | None = None  #: None: no answer came
    headers: tuple[tuple[str, str], ...] = ()
    data: tuple[RecordedData, ...] = ()
    end: Literal["end", "client_closed", "failed"] | None = None
    end_t: float | None = None

    @property
    def body(self) -> bytes:
        """All bytes of the answer."""
        return b"".join(item.data for item in self.data)

    @property
    def starts_run(self) -> bool:
        """Whether this is a turn's request, answered by a stream or by a refusal of one."""
        path = self.request.path
        return self.request.method == "POST" and (
            path.endswith("/messages/stream")
            or (path.startswith("/v1/conversations/") and path.endswith("/messages"))
        )


@frozen(kw_only=True)
class Recording:
    """One recorded scenario."""

    server: str  #: the version of the server that was recorded
    scenario: str
    note: str
    exchanges: tuple[RecordedExchange, ...]


@frozen(kw_only=True)
class _Head:
    v: int
    kind: str
    server: str
    scenario: str
    note: str


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


_lines: Final = strict_converter()


def read_recording(data: bytes) -> Recording:
    """A whole recording.

    :param data: the file's bytes.
    :raises RecordingError: naming the line and what was expected there.
    """
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    if not lines:
        raise RecordingError("line 1: expected the head of a recording, got an empty file")
    head = _read_head(*lines[0])
    happenings = [(number, _structure(number, line, _Happening)) for number, line in lines[1:]]
    return Recording(
        server=head.server, scenario=head.scenario, note=head.note, exchanges=tuple(_exchanges(happenings))
    )


def _read_head(number: int, line: bytes) -> _Head:
    head = _structure(number, line, _Head)
    if head.kind != KIND:
        raise RecordingError(f"line {number}: kind: expected {KIND}, got {head.kind[:80]!r}")
    if head.v != VERSION:
        raise RecordingError(
            f"line {number}: v: this library reads version {VERSION}, the recording is of version {head.v}"
        )
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


def _exchanges(happenings: Iterable[tuple[int, _Happening]]) -> Iterator[RecordedExchange]:
    exchanges: dict[int, RecordedExchange] = {}
    for number, item in happenings:
        exchange = exchanges.get(item.x)
        if item.dir == "request":
            if exchange is not None or item.method is None or item.path is None:
                raise RecordingError(f"line {number}: expected a new exchange with method and path")
            request = RecordedRequest(method=item.method, path=item.path, json=item.json)
            exchanges[item.x] = RecordedExchange(x=item.x, t=item.t, request=request)
        elif exchange is None:
            raise RecordingError(f"line {number}: exchange {item.x} has no request before this")
        else:
            exchanges[item.x] = _add(exchange, item, number)
    yield from exchanges.values()


def _add(exchange: RecordedExchange, item: _Happening, number: int) -> RecordedExchange:
    match item.dir:
        case "response":
            if item.status is None:
                raise RecordingError(f"line {number}: status: missing")
            for index, pair in enumerate(item.headers):
                if len(pair) != 2:
                    raise RecordingError(f"line {number}: headers[{index}]: expected a name and a value")
            headers = tuple((pair[0].lower(), pair[1]) for pair in item.headers)
            return evolve(exchange, status=item.status, headers=headers)
        case "data":
            data = RecordedData(t=item.t, data=_bytes(item, number))
            return evolve(exchange, data=(*exchange.data, data))
        case "end" | "client_closed" | "failed":
            return evolve(exchange, end=item.dir, end_t=item.t)
    raise RecordingError(
        f"line {number}: dir: expected request, response, data, end, client_closed or failed, "
        f"got {item.dir[:40]!r}"
    )


def _bytes(item: _Happening, number: int) -> bytes:
    if item.text is not None:
        return item.text.encode()
    if item.b64 is None:
        raise RecordingError(f"line {number}: expected text or b64")
    try:
        return base64.b64decode(item.b64, validate=True)
    except ValueError as exc:
        raise RecordingError(f"line {number}: b64: {exc}") from None
