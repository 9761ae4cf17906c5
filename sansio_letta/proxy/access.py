"""The key of a request, and its rate limit.

A transport knows where keys come from and how often one was used; what follows from it is decided here.
"""

import re
from collections.abc import Mapping
from math import ceil
from typing import Final

from attrs import frozen

from ..errors import MAX_RETRY_AFTER_SECONDS, Advice, RequestError, invalid_key
from ..upstreams.rest.response import Headers
from .routing import Endpoint, Route

#: Served without a key: they reveal nothing of agents, and what monitors the process has no key.
_OPEN: Final = frozenset({Endpoint.HEALTH, Endpoint.READY, Endpoint.ROOT, Endpoint.PREFLIGHT})

#: Headers that may bring a client's key: the first as bearer, the others with the key alone.
KEY_HEADERS: Final = ("authorization", "api-key", "x-api-key")
_KEY: Final = re.compile(r"[!-~]{1,4096}")

#: Both official SDKs try three times, a minute apart at most: no repeat of theirs outwaits what takes longer.
_HOPELESS_AFTER_SECONDS: Final = 2 * MAX_RETRY_AFTER_SECONDS


def is_open(route: Route) -> bool:
    """Whether the answer is for everybody, with a key or without."""
    return route.endpoint in _OPEN


def bearer(authorization: str | None) -> str | None:
    """The key of an ``Authorization`` header; None if it is of another kind, or can be no key."""
    scheme, _, key = (authorization or "").strip(" \t").partition(" ")
    key = key.strip(" \t")
    return key if scheme.lower() == "bearer" and _KEY.fullmatch(key) else None


def find_key(headers: Headers) -> str | None:
    """The key that a request brings, in any of `KEY_HEADERS`; None if it brings none.

    Azure's clients send ``api-key``, Anthropic's ``x-api-key``, with the key alone. ``Authorization`` of
    another scheme beside one of these is for another program, like a web server in front.

    :raises RequestError: 401, if what it brings can be no key, or if it brings two different ones.
    """
    given = [value for name, value in headers if name == KEY_HEADERS[0]]
    alone = [text for name, value in headers if name in KEY_HEADERS[1:] and (text := value.strip(" \t"))]
    if not given and not alone:
        return None
    bearers = [value for value in given if not alone or _is_bearer(value)]
    keys = {bearer(value) for value in bearers} | {text if _KEY.fullmatch(text) else None for text in alone}
    # Two keys would be two callers.
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
    """The credentials in the headers.

    :param headers: by lower-case name.
    """
    return tuple(headers.get(name) for name in KEY_HEADERS)


def no_key() -> RequestError:
    """The request brings no key."""
    return invalid_key(
        ": the request has none. Send one as `Authorization: Bearer KEY`, or alone as `api-key` or `x-api-key`."
    )


def wrong_key() -> RequestError:
    """The request brings a key that is not known; it is not repeated."""
    return invalid_key(". Whoever runs this proxy gives out its keys.")


def two_keys() -> RequestError:
    """The request brings two keys."""
    return invalid_key(": the request has two that differ. Send one, in one header.")


@frozen(kw_only=True)
class RateState:
    """How a caller stands with its rate.

    :param limit: requests within the window.
    :param remaining: of them, still to be had now.
    :param reset_timeout: seconds until there is room for one more than now.
    """

    limit: int
    remaining: int
    reset_timeout: float

    def headers(self) -> list[tuple[str, str]]:
        """As OpenAI names them, on every answer."""
        return [
            ("x-ratelimit-limit-requests", str(self.limit)),
            ("x-ratelimit-remaining-requests", str(self.remaining)),
            ("x-ratelimit-reset-requests", _duration(self.reset_timeout)),
        ]


class RateLimitError(RequestError):
    """The caller asks more often than its key may; nothing was done."""

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
    """As OpenAI writes it: ``120ms``, ``7s``, ``6m0s``, ``1h0m0s``."""
    if seconds < 1:
        return f"{max(0, ceil(seconds * 1000))}ms"
    minutes, rest = divmod(ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s" if minutes else f"{rest}s"
