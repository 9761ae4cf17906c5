"""Checks of browsers: web pages of other origins, and host names that point to this machine.

A page can send requests to ``localhost``, and with a name of its own that it lets point there (DNS rebinding)
it can even read the answers. Programs send no ``Origin`` and call the server by its name, so none is affected.
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
#: What a page may read of the answer's headers, beside those that it always may.
_EXPOSED: Final = "x-request-id, retry-after, x-should-retry"
#: Seconds that a browser need not ask again; Chromium takes two hours at most, Firefox a day.
_PREFLIGHT_AGE: Final = 600
#: Names of headers, as a preflight lists them.
_NAMES: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,1024}")
#: An origin as browsers send it: of pages scheme, host and port, of extensions scheme and id.
_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_WEB: Final = {"http": 80, "https": 443}
#: What pages send that were opened from a file, and frames that were made to have no origin.
NO_ORIGIN: Final = "null"
#: What some programs with a browser in them send for their own pages.
_FILES: Final = "file://"


def _normal_all(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(map(normal_origin, texts))


@frozen
class _Names:
    """Origins of one scheme and port whose names end alike."""

    scheme: str
    end: str  #: with its dot; empty: any
    port: str | None


@frozen(kw_only=True)
class OriginRules:
    """Which pages and which names of this server are good.

    :param origins: of pages that may use it (CORS), as `normal_origin` takes them.
    :param hosts: names beside those of the loopback by which it may be called; None: any, for a server that
        other machines can reach.
    """

    origins: tuple[str, ...] = field(default=(), converter=_normal_all)
    hosts: tuple[str, ...] | None = None
    _open: tuple[_Names, ...] = field(init=False, repr=False, eq=False)

    @_open.default
    def _find_stars(self) -> tuple[_Names, ...]:
        return tuple(names for origin in self.origins if (names := _names(origin)) is not None)

    def refuse(self, method: str, target: str, headers: Headers) -> RequestError | None:
        """What is wrong with the name that a request calls us by, or with the page that it comes from.

        :param target: of the request line, raw.
        """
        if self.hosts is None:
            return None
        # An absolute target counts more than the header (RFC 9112, 3.2.2): both must be good.
        for host in (authority(target), _header(headers, "host")):
            if host is not None and not self._is_ours(host):
                return RequestError(
                    f"Host {quoted(host)} is no name of this server, which listens on this machine only; "
                    "a web page may try to reach it so (DNS rebinding). If it is right, start the server with "
                    "--allowed-host and this name.",
                    status=403,
                    code="host_not_allowed",
                )
        origin = _header(headers, "origin")
        if origin is None or self._allows(origin) or self._is_ours(origin.partition("://")[2]):
            return None
        if method == "OPTIONS":
            # It is only a question, and an answer without a word of the page is a no.
            return None
        return RequestError(
            f"Pages of {quoted(origin)} may not use this server. To let them, start it with --cors-origin "
            "and this origin.",
            status=403,
            code="origin_not_allowed",
        )

    def headers(self, method: str, headers: Headers) -> tuple[tuple[str, str], ...]:
        """What a page needs in the head of an answer, be it a success or an error; nothing for programs."""
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
            # A star would not cover Authorization.
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
    """An entry of `OriginRules.origins`, as a browser would write it.

    ``https://chat.example`` and ``http://10.0.0.1:3000`` are one origin; ``https://*.example.com`` is every
    name below it, with this scheme and port; ``moz-extension://*`` every extension of Firefox, whose ids are
    random; ``null`` pages without an origin; ``*`` everybody.

    :raises ValueError: with what was expected, if no browser could send it, or more would match than it says.
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
            "https://NAME, with a port if it has one and no path; https://*.NAME for all below it; "
            "chrome-extension://ID; null for pages of files; or *"
        )
    if star and (found[2].startswith("[") or ("." not in found[2] and found[2] != "localhost")):
        raise ValueError("a name of two parts or more behind the star, like https://*.example.com")
    if found[3] is not None and int(found[3]) > 65535:
        raise ValueError("a port up to 65535")
    if found[3] is not None and _WEB.get(scheme) == int(found[3]):
        # No browser names the port that goes without saying.
        return origin.removesuffix(f":{found[3]}")
    return origin


def _names(origin: str) -> _Names | None:
    """What an entry with a star stands for."""
    scheme, _, rest = origin.partition("://")
    if not rest.startswith("*"):
        return None
    end, _, port = rest[1:].partition(":")
    return _Names(scheme, end, port or None)


def _name(host: str) -> str:
    """``Host`` without its port, in lower case; of an IPv6 address without its brackets."""
    found = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:/@]+))(?::\d{0,5})?", host.strip().lower())
    return "" if found is None else (found[1] or found[2]).removesuffix(".")


def _header(headers: Headers, wanted: str) -> str | None:
    return next((value for name, value in headers if name == wanted), None)
