"""The limit on open files, and how many connections it allows."""

import resource
from typing import Final

#: Descriptors for everything else: listeners, recordings, idle connections to Letta, files of libraries.
_RESERVE: Final = 64
#: The client's connection, and one to Letta while a request is answered.
_PER_CONNECTION: Final = 2


def raise_file_limit() -> None:
    """Raise the soft limit to the hard one: the usual soft limit of 1,024 only exists for `select`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def affordable_connection_count() -> int:
    """Return how many client connections the process can have, each with one to Letta."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 30
    # With a limit so low that nothing is left, use half of it.
    return max(1, soft // 4, (soft - _RESERVE) // _PER_CONNECTION)
