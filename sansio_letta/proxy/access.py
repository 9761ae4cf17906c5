"""The key of a request, and its rate limit.

The transport knows the valid keys and counts their requests; the consequences are decided here.
"""

import re
from collections.abc import Mapping
from math import ceil
from typing import Final

from attrs import frozen

from ..errors import MAX_RETRY_AFTER_SECONDS, Advice, RequestError, invalid_key
from ..upstreams.rest.response import Headers
from .routing import Endpoint, Route

#: Served without a key: they reveal nothing about agents, and monitoring has no key.
_OPEN: Final = frozenset({Endpoint.HEALTH, Endpoint.READY, Endpoint.ROOT, Endpoint.PREFLIGHT})

#: Headers that may contain a client's key: the first as a bearer token, the others as it is.
KEY_HEADERS: Final = ("authorization", "api-key", "x-api-key")
_KEY: Final = re.compile(r"[!-~]{1,4096}")

#: Both official SDKs try three times, at most a minute apart; waits longer than that are not worth a retry.
_HOPELESS_AFTER_SECONDS: Final = 2 * MAX_RETRY_AFTER_SECONDS


def is_open(route: Route) -> bool:
    """Return whether this is served without a key."""
    return route.endpoint in _OPEN


def bearer(authorization: str | None) -> str | None:
    """Return the key in an ``Authorization`` header; None if it has another scheme, or cannot be a key."""
    scheme, _, key = (authorization or "").strip(" \t").partition(" ")
    key = key.strip(" \t")
    return key if scheme.lower() == "bearer" and _KEY.fullmatch(key) else None


def find_key(headers: Headers) -> str | None:
    """Return the key of a request, from any of `KEY_HEADERS`; None if it has none.

    Azure's clients send the key in ``api-key``, Anthropic's in ``x-api-key``. If ``Authorization`` has another
    scheme beside one of these, it is for another program, such as a web server in front of the proxy.

    :raises RequestError: 401, if the value cannot be a key, or if there are two different keys.
    """
    given = [value for name, value in headers if name == KEY_HEADERS[0]]
    alone = [text for name, value in headers if name in KEY_HEADERS[1:] and (text := value.strip(" \t"))]
    if not given and not alone:
        return None
    bearers = [value for value in given if not alone or _is_bearer(value)]
    keys = {bearer(value) for value in bearers} | {text if _KEY.fullmatch(text) else None for text in alone}
    # Two keys would mean two callers.
    if len(keys) > 1:
        raise two_keys()
    [key] = keys
    if key is None:
        raise wrong_key()
    return key


def _is_bearer(authorization: str) -> bool:
    scheme, _, key = authorization.strip(" \t").partition(" ")
    return scheme.lower() == "bearer" and bool(key.strip(" \t"))


def credentials(headers: Mapping[str, str]) -> tuple[str | None, ...]:
    """Return the credentials in the headers.

    :param headers: by lower-case name.
    """
    return tuple(headers.get(name) for name in KEY_HEADERS)


def no_key() -> RequestError:
    """Make the error for a request without a key."""
    return invalid_key(
        ": the request has none. Send one as `Authorization: Bearer KEY`, or alone as `api-key` or `x-api-key`."
    )


def wrong_key() -> RequestError:
    """Make the error for an unknown key, which it does not quote."""
    return invalid_key(". Whoever runs this proxy gives out its keys.")


def two_keys() -> RequestError:
    """Make the error for a request with two keys."""
    return invalid_key(": the request has two that differ. Send one, in one header.")


@frozen(kw_only=True)
class RateState:
    """The state of a caller's rate limit.

    :param limit: requests allowed within the window.
    :param remaining: requests left now.
    :param reset_timeout: seconds until one more request is allowed.
    """

    limit: int
    remaining: int
    reset_timeout: float

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers by OpenAI's names, which every response has."""
        return [
            ("x-ratelimit-limit-requests", str(self.limit)),
            ("x-ratelimit-remaining-requests", str(self.remaining)),
            ("x-ratelimit-reset-requests", _duration(self.reset_timeout)),
        ]


class RateLimitError(RequestError):
    """The caller has exceeded its key's rate limit; nothing was done."""

    def __init__(self, state: RateState, rate: str) -> None:
        super().__init__(
            f"Rate limit reached: this key may ask {rate}. Try again in {_duration(state.reset_timeout)}."
        )
        self.advice = Advice(
            status=429,
            type="rate_limit_error",
            code="rate_limit_exceeded",
            should_retry=False if state.reset_timeout > _HOPELESS_AFTER_SECONDS else None,
            retry_after=max(1, min(ceil(state.reset_timeout), MAX_RETRY_AFTER_SECONDS)),
        )


def _duration(seconds: float) -> str:
    """Format a duration as OpenAI does: ``120ms``, ``7s``, ``6m0s``, ``1h0m0s``."""
    if seconds < 1:
        return f"{max(0, ceil(seconds * 1000))}ms"
    minutes, rest = divmod(ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s" if minutes else f"{rest}s"
