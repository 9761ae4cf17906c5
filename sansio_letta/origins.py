"""What a browser may do here: pages of other sites, and names that are made to mean this machine.

A page can send requests to ``localhost``, and with a name of its own that it lets point there (DNS rebinding)
it can even read the answers. Programs send no ``Origin`` and call the server by its name, so none is affected.
"""

import ipaddress
import re
from typing import Final

from attrs import frozen

from .errors import RequestError, quoted
from .exchange import Headers
from .routing import authority

_METHODS: Final = "GET, HEAD, POST, OPTIONS"
#: What a page may read of the answer's headers, beside those that it always may.
_EXPOSED: Final = "x-request-id, retry-after, x-should-retry"
#: Seconds that a browser need not ask again; Chromium takes two hours at most, Firefox a day.
_PREFLIGHT_AGE: Final = 600
#: Names of headers, as a preflight lists them.
_NAMES: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,1024}")
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s@?#]+")


@frozen(kw_only=True)
class OriginRules:
    """Which pages and which names of this server are good.

    :param origins: of pages that may use it (CORS), like ``https://chat.example``; ``*`` for all.
    :param hosts: names beside those of the loopback by which it may be called; None: any, for a server that
        other machines can reach.
    """

    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] | None = None

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
        return "*" in self.origins or origin.lower() in self.origins

    def _is_ours(self, host: str) -> bool:
        name = _name(host)
        if name == "localhost" or name.endswith(".localhost") or name in (self.hosts or ()):
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


def is_origin(text: str) -> bool:
    """Whether a browser could send this as its page's origin; `null` stands for too much."""
    return text == "*" or _ORIGIN.fullmatch(text) is not None


def _name(host: str) -> str:
    """``Host`` without its port, in lower case; of an IPv6 address without its brackets."""
    found = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:/@]+))(?::\d{0,5})?", host.strip().lower())
    return "" if found is None else (found[1] or found[2]).removesuffix(".")


def _header(headers: Headers, wanted: str) -> str | None:
    return next((value for name, value in headers if name == wanted), None)
