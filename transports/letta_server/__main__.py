"""``python -m letta_server`` and the script ``letta-proxy``."""

import sys


def main() -> None:
    """Run the command line."""
    from .cli.app import app
    from .cli.exit import stop
    from .settings.errors import SettingsError

    try:
        app()
    except SettingsError as exc:
        # Errors in settings that are checked while the command line is parsed.
        stop(str(exc))


if __name__ == "__main__":
    sys.argv[0] = "letta-proxy"
    main()
