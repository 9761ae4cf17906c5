"""How the command line ends when it cannot do what was asked."""

import sys
from typing import NoReturn


def stop(message: str, *, code: int = 2) -> NoReturn:
    """Say why on standard error, and end.

    :param code: the exit code; 2 is the one for wrong usage.
    """
    print(f"letta-proxy: {message}", file=sys.stderr)
    raise SystemExit(code)
