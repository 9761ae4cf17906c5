"""The author of a user message, if several people talk to one agent.

The name is only information for the agent. It never selects the thread, since a client can send any name.
"""

from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import unquote

from attrs import frozen

from ..config import Speakers
from ..turn import request as turn
from ..turn.request import Mark, Text
from .body_fields import as_text, is_blank
from .items import BodyField, Message, UserMessage

#: Headers that name the author of a request; the first one that is present counts. Open WebUI sends both, and
#: percent-encodes what is not ASCII.
SPEAKER_HEADERS: Final = ("x-openwebui-user-name", "x-openwebui-user-email")

#: OpenAI's limit for a message's `name`. Letta stores any text, but shows a model only names that fit.
_MAX_NAME_SIZE: Final = 64
_MAX_TEXT_SIZE: Final = 512
_UNFIT: Final = str.maketrans("", "", "<|\\/>")


def named_in(headers: Mapping[str, str], chosen: Iterable[BodyField] = ()) -> str | None:
    """Return the author that a request's headers name, or else its body.

    :param headers: by lower-case name.
    :param chosen: fields of the body; what is no name is passed over.
    """
    for header in SPEAKER_HEADERS:
        value = headers.get(header, "")
        if not is_blank(value):
            return unquote(value.strip())
    return next((text for each in chosen if (text := as_text(each.value)) is not None), None)


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


@frozen(kw_only=True)
class SpeakerNames:
    """Adds the authors' names to user messages.

    :param person: the author that the request names, for its new messages that do not name one themselves.
    """

    policy: Speakers
    person: str | None

    def convert(
        self, message: UserMessage, *, is_new: bool = True, mark: Mark | None = None
    ) -> turn.UserMessage:
        """Convert a user message."""
        content = message.content
        name = message.name or (self.person if is_new else None)
        if not name or self.policy is Speakers.OFF or readable(name) is None:
            return turn.UserMessage(content=content, mark=mark)
        if self.policy is Speakers.TEXT:
            prefix = f"{readable(name)}: "
            content = prefix + content if isinstance(content, str) else (Text(text=prefix.rstrip()), *content)
        return turn.UserMessage(content=content, name=as_field(name), mark=mark)

    def leaves_out_names(self, messages: tuple[Message, ...]) -> bool:
        """Whether the name of an author is left out."""
        return self.policy is Speakers.OFF and any(
            isinstance(message, UserMessage) and message.name for message in messages
        )
