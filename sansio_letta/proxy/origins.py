"""Checks of browsers: web pages of other origins, and host names that point to this machine.

A page can send requests to ``localhost``. With a host name of its own that resolves to this machine (DNS
rebinding), it could even read the responses. Other programs send no ``Origin`` and use the server's real name,
so they are not affected.
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from attrs import field, frozen

from ..errors import RequestError, quoted
from ..upstreams.rest.response import Headers
from .routing import authority

_METHODS: Final = "GET, HEAD, POST, OPTIONS"
#: Response headers that a page may read, besides those that it always may.
_EXPOSED: Final = "x-request-id, retry-after, x-should-retry"
#: Seconds for which a browser may cache a preflight; Chromium allows two hours, Firefox a day.
_PREFLIGHT_AGE: Final = 600
#: Header names, as a preflight lists them.
_NAMES: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,1024}")
#: An origin as browsers send it: scheme, host and port of a page, or scheme and id of an extension.
_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_WEB: Final = {"http": 80, "https": 443}
#: Sent by pages that were opened from a file, and by sandboxed frames.
NO_ORIGIN: Final = "null"
#: Sent by some programs with an embedded browser for their own pages.
_FILES: Final = "file://"


def _normal_all(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(map(normal_origin, texts))


@frozen
class _Names:
    """Origins with the same scheme and port whose names have the same ending."""

    scheme: str
    end: str  #: with its leading dot; empty: any name
    port: str | None


@frozen(kw_only=True)
class OriginRules:
    """Rules for the origins of web pages and for the host names of this server.

    :param origins: origins of pages that may use the server (CORS), as accepted by `normal_origin`.
    :param hosts: host names to accept besides those of loopback; None: any, for a server that other machines
        can reach.
    """

    origins: tuple[str, ...] = field(default=(), converter=_normal_all)
    hosts: tuple[str, ...] | None = None
    _open: tuple[_Names, ...] = field(init=False, repr=False, eq=False)

    @_open.default
    def _find_stars(self) -> tuple[_Names, ...]:
        return tuple(names for origin in self.origins if (names := _names(origin)) is not None)

    def refuse(self, method: str, target: str, headers: Headers) -> RequestError | None:
        """Return the error for a host name or an origin that is not allowed, if any.

        :param target: from the request line, raw.
        """
        if self.hosts is None:
            return None
        # An absolute target takes precedence over the header (RFC 9112, 3.2.2); both must be allowed.
        for host in (authority(target), _header(headers, "host")):
            if host is not None and not self._is_ours(host):
                return RequestError(
                    f"Host {quoted(host)} is not a name of this server, which listens on this machine only; "
                    "a web page may be trying to reach it this way (DNS rebinding). If the name is right, "
                    "start the server with --allowed-host and this name.",
                    status=403,
                    code="host_not_allowed",
                )
        origin = _header(headers, "origin")
        if origin is None or self._allows(origin) or self._is_ours(origin.partition("://")[2]):
            return None
        if method == "OPTIONS":
            # A preflight is refused by a response without CORS headers.
            return None
        return RequestError(
            f"Pages of {quoted(origin)} may not use this server. To allow them, start it with --cors-origin "
            "and this origin.",
            status=403,
            code="origin_not_allowed",
        )

    def headers(self, method: str, headers: Headers) -> tuple[tuple[str, str], ...]:
        """Return the CORS headers of a response or an error; none for requests without an origin."""
        if not self.origins:
            return ()
        origin = _header(headers, "origin")
        vary = (("vary", "origin"),)
        if origin is None or not self._allows(origin):
            return vary
        allowed = (*vary, ("access-control-allow-origin", origin))
        if method != "OPTIONS" or _header(headers, "access-control-request-method") is None:
            return (*allowed, ("access-control-expose-headers", _EXPOSED))
        asked = _header(headers, "access-control-request-headers") or ""
        private = _header(headers, "access-control-request-private-network") == "true"
        return (
            *allowed,
            ("access-control-allow-methods", _METHODS),
            # A star would not include Authorization.
            *([("access-control-allow-headers", asked)] if _NAMES.fullmatch(asked) else []),
            *([("access-control-allow-private-network", "true")] if private else []),
            ("access-control-max-age", str(_PREFLIGHT_AGE)),
        )

    def _allows(self, origin: str) -> bool:
        origin = origin.lower()
        if "*" in self.origins or origin in self.origins:
            return True
        if (found := _ORIGIN.fullmatch(origin)) is None:
            return False
        scheme, host, port = found.groups()
        return "" not in host.split(".") and any(
            (scheme, port) == (entry.scheme, entry.port) and host.endswith(entry.end) for entry in self._open
        )

    def _is_ours(self, host: str) -> bool:
        name = _name(host)
        if name == "localhost" or name.endswith(".localhost") or name in (self.hosts or ()):
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


def normal_origin(text: str) -> str:
    """Normalise an entry of `OriginRules.origins` to the form that browsers send.

    ``https://chat.example`` and ``http://10.0.0.1:3000`` are single origins. ``https://*.example.com`` matches
    every name below it, with this scheme and port; ``moz-extension://*`` every Firefox extension, since their
    ids are random; ``null`` pages without an origin; ``*`` every origin.

    :raises ValueError: with what was expected, if no browser sends such an origin, or if it matches too much.
    """
    origin = text.lower()
    if origin in ("*", NO_ORIGIN, _FILES):
        return origin
    if not origin.isascii():
        raise ValueError("a name in ASCII, as browsers send it (xn--...)")
    scheme, separator, rest = origin.partition("://")
    is_web = scheme in _WEB
    star, host = rest.startswith("*."), rest.removeprefix("*.")
    if rest == "*" and not is_web and _ORIGIN.fullmatch(f"{scheme}://x"):
        return origin
    found = _ORIGIN.fullmatch(f"{scheme}{separator}{host}")
    if found is None or (star and not is_web) or "" in found[2].split("."):
        raise ValueError(
            "https://NAME, with its port if it has one, without a path; https://*.NAME for all names below it; "
            "chrome-extension://ID; null for pages opened from files; or *"
        )
    if star and (found[2].startswith("[") or ("." not in found[2] and found[2] != "localhost")):
        raise ValueError("a name of at least two parts after the star, like https://*.example.com")
    if found[3] is not None and int(found[3]) > 65535:
        raise ValueError("a port up to 65535")
    if found[3] is not None and _WEB.get(scheme) == int(found[3]):
        # Browsers omit the default port.
        return origin.removesuffix(f":{found[3]}")
    return origin


def _names(origin: str) -> _Names | None:
    """Return what an entry with a star matches; None for other entries."""
    scheme, _, rest = origin.partition("://")
    if not rest.startswith("*"):
        return None
    end, _, port = rest[1:].partition(":")
    return _Names(scheme, end, port or None)


def _name(host: str) -> str:
    """Return ``Host`` in lower case, without the port and without the brackets of an IPv6 address."""
    found = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:/@]+))(?::\d{0,5})?", host.strip().lower())
    return "" if found is None else (found[1] or found[2]).removesuffix(".")


def _header(headers: Headers, wanted: str) -> str | None:
    return next((value for name, value in headers if name == wanted), None)
