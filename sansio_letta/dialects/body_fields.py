"""Fields of a client's body that an operator chooses to be read, for a chat's key or a speaker's name.

No such field means the same in all programs: OpenAI's `user` is a person in one, a constant in another, and a
chat in a third. So none is read unless it is chosen.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from .items import BodyField

#: Those that can be chosen, beside any in `metadata`.
CHOOSABLE: Final = ("user", "prompt_cache_key", "session_id")
_IN_METADATA: Final = "metadata."


def is_choosable(path: str) -> bool:
    """Return whether a field can be chosen.

    :param path: like ``user``, or ``metadata.room``.
    """
    return path in CHOOSABLE or (path.startswith(_IN_METADATA) and path != _IN_METADATA)


def choose_fields(
    given: Mapping[str, Any], metadata: Mapping[str, Any], paths: Iterable[str]
) -> tuple[BodyField, ...]:
    """Return the chosen fields that hold something, in their order.

    :param given: the body.
    :param metadata: empty if the body has none that can be read.
    """
    found = []
    for path in paths:
        in_metadata = path.startswith(_IN_METADATA)
        value = metadata.get(path[len(_IN_METADATA) :]) if in_metadata else given.get(path)
        if not is_blank(value):
            found.append(BodyField(path=path, value=value))
    return tuple(found)


def is_blank(value: object) -> bool:
    """Return whether a header or a field says nothing.

    A chat program that has nothing to fill in sends its template.
    """
    return value is None or (isinstance(value, str) and (not value.strip() or value.lstrip().startswith("{{")))


def as_text(value: object) -> str | None:
    """Return a string or a number as text; None for anything else."""
    if isinstance(value, str):
        return value.strip()
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
