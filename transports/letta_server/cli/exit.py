"""The end of a command that failed."""

import sys
from typing import NoReturn


def stop(message: str, *, code: int = 2) -> NoReturn:
    """Print the reason on standard error and exit.

    :param code: the exit code; 2 is the one for wrong usage.
    """
    print(f"letta-proxy: {message}", file=sys.stderr)
    raise SystemExit(code)
