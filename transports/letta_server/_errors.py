"""A setting that cannot be used, and how the command line ends then."""

import sys
from typing import NoReturn


class SettingsError(ValueError):
    """A setting has a value that cannot be used; the message names it and what was expected."""


def stop(message: str, *, code: int = 2) -> NoReturn:
    """Say why on standard error, and end.

    :param code: the exit code; 2 is the one for wrong usage.
    """
    print(f"letta-proxy: {message}", file=sys.stderr)
    raise SystemExit(code)
