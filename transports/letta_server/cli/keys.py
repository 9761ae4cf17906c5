"""``letta-proxy keys``: keys for the server's clients."""

import sys
from typing import Annotated, Final

from cyclopts import App, Parameter

from ..access.keys import new_key, toml_lines
from ..settings.errors import SettingsError
from .exit import stop

keys_app: Final = App(name="keys", help="Manage the keys of clients.")


@keys_app.command(name="new")
def new_command(
    name: str,
    /,
    *,
    agent: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            show_default=False,
            help="Agent that the key can use, by name, pattern or id; default: all.",
        ),
    ] = None,
    rate: Annotated[str | None, Parameter(show_default=False, help="Rate limit, like 60/minute.")] = None,
    policy: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            show_default=False,
            help="Policy of the key, as NAME=VALUE, like approvals=deny; can be repeated.",
        ),
    ] = None,
) -> None:
    """Create a key. Its entry for the keys file goes to standard output, the key itself to standard error.

    The entry contains only a digest. Give the key to its owner now: it cannot be shown again.

    Example: letta-proxy keys new alice --agent Milo --rate 60/minute >> keys.toml
    """
    key = new_key()
    try:
        lines = toml_lines(name, key, agents=agent or (), rate=rate, policies=policy or ())
    except SettingsError as exc:
        stop(str(exc))
    print(f"{lines}\n", flush=True)
    print(f"The key of {name}, shown this once:\n{key}", file=sys.stderr)
