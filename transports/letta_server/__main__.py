"""``python -m letta_server`` and the script ``letta-proxy``."""

import sys


def main() -> None:
    """Run the command line."""
    from ._cli import app
    from ._errors import SettingsError, stop

    try:
        app()
    except SettingsError as exc:
        # Those that are checked while the command line is read.
        stop(str(exc))


if __name__ == "__main__":
    sys.argv[0] = "letta-proxy"
    main()
