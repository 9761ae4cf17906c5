"""The command line's part in who may come in: the file of settings, and keys."""

import os
import sys
from typing import Annotated, Any, Final

from attrs import evolve
from cyclopts import App, ArgumentCollection, Parameter
from cyclopts.config import Dict

from ..access.connections import certificate_of
from ..access.keys import new_key, read_keys, read_table, toml_lines
from ..access.rates import RateCounter
from ..settings.access import Access
from ..settings.errors import SettingsError
from ..settings.server import Settings
from .exit import stop

#: Keys without a file; an option would show them in the list of processes.
KEYS_VARIABLE: Final = "LETTA_PROXY_KEYS"

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


def read_config(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill what neither options nor the environment say from the file of ``--config``."""
    for argument in arguments:
        if "--config" in argument.names and argument.tokens:
            path = argument.tokens[-1].value
            try:
                table = read_table(argument.convert())
            except SettingsError as exc:
                stop(str(exc))
            Dict(_settings_of(table), use_commands_as_keys=False, source=path)(app, commands, arguments)


def _settings_of(table: dict[str, Any]) -> dict[str, Any]:
    """The options in a file, without its keys."""
    return {name: value for name, value in table.items() if not _is_keys(name, value)}


def _is_keys(name: str, value: object) -> bool:
    return name == "keys" and isinstance(value, dict)


def complete(access: Access) -> Access:
    """Add what no option says: the keys of the environment, and whether the file of settings has any.

    :raises SettingsError: if the file cannot be read any more.
    """
    if access.config is not None and not any(_is_keys(*item) for item in read_table(access.config).items()):
        access = evolve(access, config=None)
    return evolve(access, key_list=os.environ.get(KEYS_VARIABLE) or None)


def check(settings: Settings) -> None:
    """Use all files once, so that what is wrong with them is told before anything starts.

    :raises SettingsError: if one is no good.
    """
    access = settings.access
    if access.asks_for_key and not access.pass_through:
        read_keys(access.key_files, access.key_list, access.rate)
    RateCounter(access.rate_store).open()
    certificate_of(settings)
    if settings.recordings is not None:
        try:
            settings.recordings.prepare()
        except OSError as exc:
            raise SettingsError(
                f"record: expected a folder that can be written, got {settings.recordings.path}: "
                f"{(exc.strerror or str(exc)).lower()}"
            ) from None
