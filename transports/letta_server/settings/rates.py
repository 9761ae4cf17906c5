"""Rates of requests, and where they are counted, as settings name them."""

from typing import TYPE_CHECKING, Final, TypeAlias

from .errors import SettingsError

if TYPE_CHECKING:
    from limits import RateLimitItem

    Rate: TypeAlias = RateLimitItem
else:
    # The library takes a tenth of a second to import: only a server with a rate imports it.
    Rate: TypeAlias = object

#: Requests in one window: a moving window remembers each.
MAX_RATE: Final = 100_000
_STORES: Final = ("redis", "rediss", "redis+unix", "valkey", "valkeys", "valkey+unix")


def parse_rate(text: str, where: str) -> tuple[Rate, ...]:
    """Parse a rate as people write it: ``60/minute``, ``5 per 10 second``, ``10/second; 1000/day``.

    :param where: the setting's name, for an error.
    :raises SettingsError: if it is not a rate.
    """
    import limits

    try:
        items = tuple(limits.parse_many(text))
    except ValueError:
        items = ()
    if not items or not all(0 < item.amount <= MAX_RATE and item.multiples > 0 for item in items):
        raise SettingsError(
            f'{where}: expected "60/minute", or several as in "10/second; 1000/day", each of 1 to {MAX_RATE} '
            f"requests, got {text[:60]!r}"
        )
    return items


def check_store(url: str) -> None:
    """Check the address of a store.

    :raises SettingsError: if rates cannot be counted there.
    """
    if url.partition("://")[0] not in _STORES or "://" not in url:
        raise SettingsError("rate_store: expected an address like redis://127.0.0.1:6379/0 or valkey://...")
