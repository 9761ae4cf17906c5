"""Names of tools: if models do not accept a client's name, the agent gets another one.

The client never sees it.
"""

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from attrs import evolve

from ..errors import RequestError
from .items import FunctionTool

#: The names that models accept. Letta itself accepts any.
_MAX_NAME_SIZE: Final = 64
_NAME: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{_MAX_NAME_SIZE}}}")
_NO_LETTER: Final = re.compile(r"[^A-Za-z0-9_-]")
_DIGEST_SIZE: Final = 8


def with_aliases(tools: Iterable[FunctionTool]) -> tuple[FunctionTool, ...]:
    """Return the tools, each with a unique name that models accept."""
    named = tuple(tools)
    taken = {tool.name for tool in named if _NAME.fullmatch(tool.name)}
    if len(taken) == len(named):
        return named
    found = []
    for tool in named:
        if tool.name not in taken:
            alias = _alias(tool.name)
            while alias in taken:
                alias = _alias(tool.name, alias)
            taken.add(alias)
            found.append(evolve(tool, alias=alias))
        else:
            found.append(tool)
    return tuple(found)


def _alias(name: str, refused: str = "") -> str:
    """Make a similar name: always the same one for a name, and different for different names.

    :param refused: a name that is taken.
    """
    digest = sha256(f"{refused}\0{name}".encode()).hexdigest()[:_DIGEST_SIZE]
    like = _NO_LETTER.sub("_", name[: _MAX_NAME_SIZE - _DIGEST_SIZE - 1])
    return f"{like}_{digest}"


def check_name(name: str, path: str) -> None:
    """Check that models accept the name."""
    if not _NAME.fullmatch(name):
        raise RequestError(f"`{path}` must be 1 to 64 letters, digits, underscores or dashes.", param=path)
