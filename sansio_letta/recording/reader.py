"""Reads recordings of any version, and returns them as the newest version has them."""

import base64
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import eq
from typing import Any, Final, Literal, TypeVar

import orjson
from attrs import define, field, frozen
from cattrs import BaseValidationError, Converter

from .._convert import WrongType, exactly, first_error, strict_converter
from ..config import ClientTools
from ..proxy.policies import POLICIES
from .format import (
    KIND,
    VERSION,
    ExchangeKind,
    RecordedAgent,
    RecordedData,
    RecordedExchange,
    RecordedRequest,
    RecordedWait,
    Recording,
    RecordingError,
    RecordingHead,
    TextMode,
)
from .versions import upgrade

_T = TypeVar("_T")


@frozen(kw_only=True)
class _Happening:
    x: int
    t: float
    dir: str
    kind: str | None = None
    command: str | None = None
    agent: RecordedAgent | None = None
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
    for kind, plain in (
        (Mapping[str, float], dict[str, float]),
        (Mapping[str, str], dict[str, str]),
        (Mapping[str, bool], dict[str, bool]),
    ):
        structure = converter.get_structure_hook(plain)
        converter.register_structure_hook_func(partial(eq, kind), partial(_structure_object, structure))
    return converter


def _structure_object(structure: Callable[[Any, Any], Any], value: object, kind: object) -> object:
    return structure(exactly(value, dict), kind)


_lines: Final = _make_converter()


def read_recording(data: bytes) -> Recording:
    """Read a recording. If the last line is incomplete, as after a crash, it is left out.

    :param data: the bytes of the file.
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
    recording = Recording(
        head=head,
        exchanges=tuple(exchange.freeze() for exchange in exchanges.values()),
        client=None if client is None else client.freeze(),
        cut_line=cut_line,
    )
    return recording if head.v == VERSION else upgrade(recording)


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
    words["options.client_tools"] = (tuple(ClientTools), head.options.client_tools)
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
    """Builds an exchange from its lines."""

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
        kinds = [kind.value for kind in ExchangeKind]
        if item.kind is not None and item.kind not in kinds:
            raise RecordingError(f"line {number}: kind: expected {', '.join(kinds)}, got {item.kind[:40]!r}")
        request = RecordedRequest(
            method=item.method,
            path=item.path,
            json=item.json,
            headers=_pairs(item.headers, number),
            command=item.command,
            agent=item.agent,
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
