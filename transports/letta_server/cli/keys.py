"""``letta-proxy keys``: keys for the server's clients."""

import sys
from typing import Annotated, Final

from cyclopts import App, Parameter

from ..access.keys import new_key, toml_lines
from ..settings.errors import SettingsError
from .exit import stop

keys_app: Final = App(name="keys", help="Keys for the server's clients.")


@keys_app.command(name="new")
def new_command(
    name: str,
    /,
    *,
    agent: Annotated[
        list[str] | None,
        Parameter(
            negative="", show_default=False, help="Agent it opens, by name, pattern or id; default: all."
        ),
    ] = None,
    rate: Annotated[
        str | None, Parameter(show_default=False, help="How often it may be used, like 60/minute.")
    ] = None,
    policy: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            show_default=False,
            help="NAME=VALUE: a policy of the key's own, like approvals=deny; may be repeated.",
        ),
    ] = None,
) -> None:
    """Make a key. The lines for the keys file go to standard output, the key itself to standard error.

    The file gets its digest only: give the key to its owner now, it cannot be shown again.

    Example: letta-proxy keys new alice --agent Milo --rate 60/minute >> keys.toml
    """
    key = new_key()
    try:
        lines = toml_lines(name, key, agents=agent or (), rate=rate, policies=policy or ())
    except SettingsError as exc:
        stop(str(exc))
    print(f"{lines}\n", flush=True)
    print(f"The key of {name}, shown this once:\n{key}", file=sys.stderr)
