"""How many files the process may have open, and how many connections that makes."""

import resource
from typing import Final

#: Descriptors that are no connection's: listeners, recordings, idle connections to Letta, what libraries open.
_RESERVE: Final = 64
#: A client's, and that to Letta while it is answered.
_PER_CONNECTION: Final = 2


def raise_open_files() -> None:
    """Raise the soft limit to the hard one: the usual soft one of 1,024 is there for `select` alone."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connection_room() -> int:
    """How many connections of clients the process can have, each with one to Letta."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 30
    # With a limit so low that nothing is left, half of it must do.
    return max(1, soft // 4, (soft - _RESERVE) // _PER_CONNECTION)
