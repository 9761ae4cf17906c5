"""The author of a user message, if several people talk to one agent.

The name is only information for the agent. It never selects the thread, since a client can send any name.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

#: Headers that name the author of a request; the first one that is present counts. Open WebUI sends both, and
#: percent-encodes what is not ASCII.
SPEAKER_HEADERS: Final = ("x-openwebui-user-name", "x-openwebui-user-email")

#: OpenAI's limit for a message's `name`. Letta stores any text, but shows a model only names that fit.
_MAX_NAME_SIZE: Final = 64
_MAX_TEXT_SIZE: Final = 512
_UNFIT: Final = str.maketrans("", "", "<|\\/>")


def named_in(headers: Mapping[str, str]) -> str | None:
    """Return the author that a request's headers name.

    :param headers: by lower-case name.
    """
    for header in SPEAKER_HEADERS:
        value = headers.get(header, "").strip()
        # A chat program that has no value sends its template.
        if value and not value.startswith("{{"):
            return unquote(value)
    return None


def readable(name: str | None) -> str | None:
    """Shorten a name to one printable line; None if nothing is left."""
    line = " ".join((name or "")[:_MAX_TEXT_SIZE].split())
    if not line.isprintable():
        line = "".join(char for char in line if char.isprintable())
    return line[:_MAX_NAME_SIZE] or None


def as_field(name: str | None) -> str | None:
    """Convert a name to the form that Letta shows to a model, without blanks and brackets."""
    line = readable(name)
    return None if line is None else line.translate(_UNFIT).replace(" ", "_") or None
