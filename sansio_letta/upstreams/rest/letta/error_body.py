"""Decode the body of an error response, in any of Letta's forms."""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from attrs import frozen


@frozen(kw_only=True)
class ErrorBody:
    """The contents of an error response."""

    code: str | None = None  #: like PENDING_APPROVAL
    message: str | None = None
    run_id: str | None = None  #: the run that keeps the conversation busy
    reasons: tuple[str, ...] = ()

    @property
    def text(self) -> str | None:
        """The message and the reasons, or else the code; None if there is nothing."""
        reasons = ", ".join(self.reasons)
        if self.message and reasons:
            return f"{self.message} ({reasons})"
        return self.message or reasons or self.code


#: Limit of reasons, and of faults in a body, since a fault in a union is reported once for each of its types.
_MAX_REASON_COUNT: Final = 5


def decode_error_body(data: bytes) -> ErrorBody:
    """Decode the body of an error response. Accept anything that a server or a gateway sends.

    Servers send ``{"detail": str}``, maybe with ``run_id``; ``{"detail": {code, message, pending_request_id}}``
    if no stream was requested; ``{"detail": [{loc, msg}, ...]}`` for an invalid body; ``{"error": {type,
    message}}``, whose ``detail`` comes from the model provider and is left out. Letta Cloud sends
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
    """Describe a fault of a body, without its ``input``, which is the user's."""
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
