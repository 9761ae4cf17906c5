"""The body of an answer with an error status, in whichever of Letta's forms it came."""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from attrs import frozen


@frozen(kw_only=True)
class ErrorBody:
    """What an answer with an error status says, in whichever of Letta's forms it came."""

    code: str | None = None  #: like PENDING_APPROVAL
    message: str | None = None
    run_id: str | None = None  #: of the run that is in the way
    reasons: tuple[str, ...] = ()

    @property
    def text(self) -> str | None:
        """All of it that a person can read; None if there is nothing."""
        reasons = ", ".join(self.reasons)
        if self.message and reasons:
            return f"{self.message} ({reasons})"
        return self.message or reasons or self.code


#: Reasons, and faults of a body, that are told; one fault of a union is reported once for each of its types.
_MAX_REASON_COUNT: Final = 5


def decode_error_body(data: bytes) -> ErrorBody:
    """The body of an error answer: whatever a server or a gateway sent is taken.

    Servers say ``{"detail": str}``, beside it ``run_id``; ``{"detail": {code, message, pending_request_id}}``
    where no stream was asked for; ``{"detail": [{loc, msg}, ...]}`` of a body's faults; ``{"error": {type,
    message}}``, whose own ``detail`` repeats the model's provider and is left out. Letta Cloud says
    ``{"error": str, "reasons": [...]}`` and ``{"message": str}``.
    """
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError:
        return ErrorBody()
    return _error_body(raw) if isinstance(raw, dict) else ErrorBody()


def _error_body(raw: Mapping[str, Any], *, is_inner: bool = False) -> ErrorBody:
    code, message = _text(raw, "code") or _text(raw, "errorCode"), None
    for name in ("message", "error", "title") if is_inner else ("detail", "error", "message", "title"):
        match raw.get(name):
            case str(text) if text:
                message = text
            case dict() as inner if not is_inner:
                found = _error_body(inner, is_inner=True)
                code, message = found.code or code or _text(inner, "type"), found.message
            case list() as faults if name == "detail":
                message = "; ".join(filter(None, map(_fault, faults[:_MAX_REASON_COUNT])))
        if message:
            break
    detail = raw.get("detail")
    reasons = raw.get("reasons")
    return ErrorBody(
        code=code,
        message=message or None,
        run_id=_text(raw, "run_id") or (_text(detail, "run_id") if isinstance(detail, dict) else None),
        reasons=tuple(item for item in reasons[:_MAX_REASON_COUNT] if isinstance(item, str))
        if isinstance(reasons, list)
        else (),
    )


def _fault(fault: object) -> str | None:
    """One of a body's faults. Its ``input`` is the user's, and is left out."""
    if not isinstance(fault, dict):
        return None
    place = fault.get("loc")
    path = (
        ".".join(str(part) for part in place if isinstance(part, str | int)) if isinstance(place, list) else ""
    )
    return ": ".join(filter(None, (path, _text(fault, "msg")))) or None


def _text(raw: Mapping[str, Any], name: str) -> str | None:
    value = raw.get(name)
    return value if isinstance(value, str) and value else None
