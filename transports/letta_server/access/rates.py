"""Rate limits of keys: moving windows, counted in this process or in a Redis that replicas share."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import structlog
import trio
from attrs import define, field

from sansio_letta.proxy.access import RateState

from ..settings.errors import SettingsError
from ..settings.rates import Rate

if TYPE_CHECKING:
    from limits.strategies import MovingWindowRateLimiter

_log: Final = structlog.get_logger("letta_server")

#: Seconds for one answer of a shared store; every request waits for it.
_STORE_TIMEOUT: Final = 1.0
#: Seconds until an unavailable store is tried again.
_STORE_PAUSE: Final = 5.0


def rate_words(rates: Sequence[Rate]) -> str:
    """Describe rates for a client, like "60 per 1 minute"."""
    return " and ".join(map(str, rates))


@define(eq=False)
class RateCounter:
    """Counts requests of keys.

    While a shared store is unavailable, each process counts for itself: its failure locks no client out, and
    raises a limit by no more than the number of processes.

    :param url: the address of a Redis or a Valkey; None: count in this process.
    :raises SettingsError: if the store's library is not installed.
    """

    url: str | None = field(default=None, repr=False)
    _here: "MovingWindowRateLimiter | None" = field(default=None, init=False)
    _shared: "MovingWindowRateLimiter | None" = field(default=None, init=False)
    _shared_from: float = field(default=0.0, init=False)  #: when the store may be tried again
    _away: bool = field(default=False, init=False)

    async def take(self, name: str, rates: Sequence[Rate]) -> tuple[bool, RateState]:
        """Count one request of a key, if it is within the rates.

        :param name: the key's; replicas that share a store must use the same name for it.
        :param rates: at least one.
        :return: whether the request is within the rates, and the state of the rate with the least left.
        """
        if self.url is not None and trio.current_time() >= self._shared_from:
            try:
                with trio.fail_after(2 * _STORE_TIMEOUT):
                    taken = await trio.to_thread.run_sync(
                        self._take, self._shared_limiter(self.url), name, rates, abandon_on_cancel=True
                    )
            except SettingsError:
                raise
            except Exception as exc:
                # Anything that a store's client library may raise; its text can contain the store's password.
                self._shared_from = trio.current_time() + _STORE_PAUSE
                if not self._away:
                    _log.warning("rate store is away, each process counts for itself", error=type(exc).__name__)
                self._away = True
            else:
                if self._away:
                    _log.info("rate store is back")
                self._away = False
                return taken
        return self._take(self._own_limiter(), name, rates)

    @staticmethod
    def _take(limiter: "MovingWindowRateLimiter", name: str, rates: Sequence[Rate]) -> tuple[bool, RateState]:
        states = []
        for rate in rates:
            taken = limiter.hit(rate, name)
            stats = limiter.get_window_stats(rate, name)
            state = RateState(
                limit=rate.amount,
                remaining=stats.remaining,
                reset_timeout=max(0.0, min(stats.reset_time - time.time(), float(rate.get_expiry()))),
            )
            if not taken:
                return False, state
            states.append(state)
        return True, min(states, key=lambda state: state.remaining)

    def open(self) -> None:
        """Connect to the store now, rather than at the first request.

        :raises SettingsError: if the store's library is not installed.
        """
        if self.url is not None:
            self._shared_limiter(self.url)

    def _shared_limiter(self, url: str) -> "MovingWindowRateLimiter":
        if self._shared is None:
            from limits.errors import ConfigurationError
            from limits.storage import storage_from_string
            from limits.strategies import MovingWindowRateLimiter

            try:
                storage = storage_from_string(
                    url,
                    key_prefix="letta-proxy",
                    socket_timeout=_STORE_TIMEOUT,
                    socket_connect_timeout=_STORE_TIMEOUT,
                )
            except ConfigurationError:
                library = "valkey" if url.startswith("valkey") else "redis"
                raise SettingsError(
                    f"rate_store: {url.partition('://')[0]}:// needs the Python package {library}: "
                    f"pip install {library}"
                ) from None
            except ValueError as exc:
                raise SettingsError(
                    f"rate_store: expected redis://HOST:PORT/NUMBER: {type(exc).__name__}"
                ) from None
            self._shared = MovingWindowRateLimiter(storage)
        return self._shared

    def _own_limiter(self) -> "MovingWindowRateLimiter":
        if self._here is None:
            from limits.storage import MemoryStorage
            from limits.strategies import MovingWindowRateLimiter

            self._here = MovingWindowRateLimiter(MemoryStorage())
        return self._here
