"""The settings that `serve` makes from options, environment and file, without serving."""

from typing import TypeVar

import pytest
from cyclopts import CycloptsError

from letta_server.cli.app import app

_T = TypeVar("_T")


def parsed(kind: type[_T], *words: str) -> _T:
    """What `serve` would make of its arguments, of this class of settings."""
    bound = app.parse_args(["serve", *words], exit_on_error=False, print_error=False)[1]
    bound.apply_defaults()
    [found] = [value for value in bound.arguments.values() if isinstance(value, kind)]
    return found


def check_refused(option: str, value: str, told: str) -> None:
    """The value makes no sense, and its user is told so."""
    with pytest.raises(CycloptsError) as refused:
        app.parse_args(["serve", option, value], exit_on_error=False, print_error=False)
    assert f"for {option}" in str(refused.value)
    assert told in str(refused.value)
