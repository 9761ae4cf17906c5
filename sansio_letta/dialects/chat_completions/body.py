"""The body of a chat request as JSON.

Programs send what RFC 8259 does not allow: a byte order mark, and lone surrogates, where a text was split
within an emoji. This is not the user's fault, and such text stays in a chat's history, so it is repaired: each
lone surrogate becomes U+FFFD. The patterns match a fixed number of bytes, so they take linear time.
"""

import re
from typing import Any, Final

import orjson
from attrs import field, frozen

from ..._convert import json_name
from ...errors import RequestError

_BOM: Final = b"\xef\xbb\xbf"

#: Replaces an escaped backslash, so that every other one begins an escape. It does not occur in UTF-8.
_BACKSLASH: Final = b"\xff"
_HIGH: Final = rb"[89abAB][0-9a-fA-F]{2}"
_LOW: Final = rb"[c-fC-F][0-9a-fA-F]{2}"
_HALF: Final = re.compile(
    rb"\\u[dD](?:%(high)b(?!\\u[dD]%(low)b)|(?<!\\u[dD]%(high)b\\u[dD])%(low)b)"
    % {b"high": _HIGH, b"low": _LOW}
)
#: Lone surrogates that are not escaped: three bytes each, invalid in UTF-8. Two in a row are one character.
_RAW_HALVES: Final = re.compile(rb"(?:\xed[\xa0-\xbf][\x80-\xbf])+")


@frozen(kw_only=True)
class Body:
    """A request's fields.

    :param is_mended: whether lone surrogates were replaced.
    """

    fields: dict[str, Any] = field(repr=False)
    is_mended: bool = False


def read_body(data: bytes, max_value_count: int) -> Body:
    """Parse the JSON object in a request's body.

    :param max_value_count: commas are counted, because a parser cannot be interrupted.
    :raises RequestError: if the body is not a JSON object.
    """
    if (count := data.count(b",")) > max_value_count:
        raise RequestError(
            f"The body has {count} commas, so about as many JSON values; this proxy takes {max_value_count} "
            "(LETTA_PROXY_MAX_VALUE_COUNT).",
            status=413,
            code="request_too_large",
        )
    data = data.removeprefix(_BOM)
    is_mended = False
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        mended = _mend(data)
        if mended == data:
            raise _invalid(exc) from None
        is_mended = True
        try:
            raw = orjson.loads(mended)
        except orjson.JSONDecodeError as exc:
            raise _invalid(exc) from None
    if type(raw) is not dict:
        raise RequestError(f"The body must be a JSON object, got {json_name(raw)}.", code="invalid_type")
    return Body(fields=raw, is_mended=is_mended)


def _mend(data: bytes) -> bytes:
    if _BACKSLASH in data:
        return data
    found = data.replace(rb"\\", _BACKSLASH)
    if rb"\ud" in found or rb"\uD" in found:
        found = _HALF.sub(rb"\\ufffd", found)
    if b"\xed" in found:
        found = _RAW_HALVES.sub("\ufffd".encode(), found)
    return found.replace(_BACKSLASH, rb"\\")


def _invalid(exc: orjson.JSONDecodeError) -> RequestError:
    why = str(exc)
    if exc.doc[exc.pos : exc.pos + 9].lstrip("-").startswith(("NaN", "Infinity")):
        why = f"NaN and Infinity are no JSON, send null ({why})"
    return RequestError(f"The body is not valid JSON: {why}.", code="invalid_json")
