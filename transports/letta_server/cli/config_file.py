"""Settings from the file of ``--config``, and keys from the environment."""

import os
from typing import Any, Final

from attrs import evolve
from cyclopts import App, ArgumentCollection
from cyclopts.config import Dict

from ..access.keys import read_table
from ..settings.access import Access
from ..settings.errors import SettingsError
from .exit import stop

#: Keys without a file. There is no option: it would show them in the list of processes.
KEYS_VARIABLE: Final = "LETTA_PROXY_KEYS"


def read_config(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Take what neither an option nor the environment sets from the file of ``--config``."""
    for argument in arguments:
        if "--config" in argument.names and argument.tokens:
            path = argument.tokens[-1].value
            try:
                table = read_table(argument.convert())
            except SettingsError as exc:
                stop(str(exc))
            # No command's table is looked for: options have the names of commands, `record` and `threads`, and
            # would be dropped as such.
            Dict(_settings_of(table), source=path)(app, (), arguments)


def _settings_of(table: dict[str, Any]) -> dict[str, Any]:
    """Return the options in a file, without its keys."""
    return {name: value for name, value in table.items() if not _is_keys(name, value)}


def _is_keys(name: str, value: object) -> bool:
    return name == "keys" and isinstance(value, dict)


def complete(access: Access) -> Access:
    """Add the keys of the environment, and drop a settings file that contains no keys.

    :raises SettingsError: if the file can no longer be read.
    """
    if access.config is not None and not any(_is_keys(*item) for item in read_table(access.config).items()):
        access = evolve(access, config=None)
    return evolve(access, key_list=os.environ.get(KEYS_VARIABLE) or None)
