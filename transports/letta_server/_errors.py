"""How the command line ends when it cannot do what was asked."""

import sys
from typing import NoReturn


def stop(message: str) -> NoReturn:
    """Say why on standard error, and end with the code for wrong usage."""
    print(f"letta-proxy: {message}", file=sys.stderr)
    raise SystemExit(2)
