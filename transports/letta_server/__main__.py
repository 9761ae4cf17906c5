"""``python -m letta_server`` and the script ``letta-proxy``."""

import sys


def main() -> None:
    """Run the command line."""
    from ._cli import app

    app()


if __name__ == "__main__":
    sys.argv[0] = "letta-proxy"
    main()
