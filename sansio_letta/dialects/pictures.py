"""Images in messages: what programs send, and what Letta and models accept."""

from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

#: The media types that models accept, by the names that programs use.
_MEDIA_TYPES: Final = {
    "image/png": "image/png",
    "image/x-png": "image/png",
    "image/jpeg": "image/jpeg",
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/gif": "image/gif",
    "image/webp": "image/webp",
}

#: What is expected, for errors.
EXPECTED: Final = (
    "expected an http: or https: URL, of no link-local address, or a data: URL with a base64 png, jpeg, gif or "
    "webp; convert other types"
)

#: Characters within which the head of a data URL must end.
_MAX_HEAD_SIZE: Final = 256
_BLANKS: Final = b" \t\r\n\f\v"
_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
#: Characters of base64 that URLs escape, and whitespace.
_ESCAPED: Final = {b"%2B": b"+", b"%2F": b"/", b"%3D": b"=", b"%0A": b"", b"%0D": b"", b"%20": b""}
#: The URL-safe variant of base64 has two other letters.
_TO_BASE64: Final = bytes.maketrans(b"-_", b"+/")


def picture_url(text: str) -> str | None:
    """Return the URL of an image if it can be sent; a ``data:`` URL in the one form that models accept."""
    text = text.strip()
    scheme, colon, rest = text[:8].partition(":")
    match scheme.lower():
        case "http" | "https" if colon and rest.startswith("//") and len(text) > len(scheme) + 3:
            return None if _is_link_local(text) else text
        case "data" if colon:
            return _data_url(text)
    return None


def _is_link_local(url: str) -> bool:
    """Whether a URL has a link-local address, like that of a cloud's metadata service."""
    authority = url.partition("//")[2]
    for mark in "/?#":
        authority = authority.partition(mark)[0]
    # `urlsplit` caches its argument, so it gets the host only.
    host = authority.rpartition("@")[2][:_MAX_HEAD_SIZE]
    try:
        return ip_address(urlsplit(f"//{host}").hostname or "").is_link_local
    except ValueError:
        return False


def _data_url(text: str) -> str | None:
    head, comma, _ = text[:_MAX_HEAD_SIZE].partition(",")
    kind, *parameters = (part.strip().lower() for part in head[len("data:") :].split(";"))
    media_type = _MEDIA_TYPES.get(kind)
    if not comma or media_type is None or "base64" not in parameters:
        return None
    try:
        data = text[len(head) + 1 :].encode("ascii")
    except UnicodeEncodeError:
        return None
    if b"%" in data:
        for escaped, letter in _ESCAPED.items():
            data = data.replace(escaped, letter).replace(escaped.lower(), letter)
    data = data.translate(_TO_BASE64, _BLANKS).rstrip(b"=")
    if not data or data.translate(None, _BASE64):
        return None
    padding = b"=" * (-len(data) % 4)
    return f"data:{media_type};base64,{(data + padding).decode()}"
