"""The speaker of a user message, if several people talk to one agent.

A name only tells the agent who speaks. It never chooses the thread: any client can write any name.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from attrs import frozen

from ..config import Speakers
from ..turn import request as turn
from ..turn.request import Mark, Text
from .items import Message, UserMessage

#: Headers that name the person behind a whole request; the first that is there. Open WebUI sends both, and
#: writes what is not ASCII with percent signs.
SPEAKER_HEADERS: Final = ("x-openwebui-user-name", "x-openwebui-user-email")

#: What OpenAI takes as a message's `name`. Letta keeps any text, but shows a model no other.
_MAX_NAME_SIZE: Final = 64
_MAX_TEXT_SIZE: Final = 512
_UNFIT: Final = str.maketrans("", "", "<|\\/>")


def named_in(headers: Mapping[str, str]) -> str | None:
    """The person that a request's headers name.

    :param headers: by lower-case name.
    """
    for header in SPEAKER_HEADERS:
        value = headers.get(header, "").strip()
        # A chat program that has nothing to fill in sends its template.
        if value and not value.startswith("{{"):
            return unquote(value)
    return None


def readable(name: str | None) -> str | None:
    """A name as one short line; None if nothing is left of it."""
    line = " ".join((name or "")[:_MAX_TEXT_SIZE].split())
    if not line.isprintable():
        line = "".join(char for char in line if char.isprintable())
    return line[:_MAX_NAME_SIZE] or None


def as_field(name: str | None) -> str | None:
    """A name as Letta shows it to a model: without blanks and brackets."""
    line = readable(name)
    return None if line is None else line.translate(_UNFIT).replace(" ", "_") or None


@frozen(kw_only=True)
class Voice:
    """Whose user messages are.

    :param person: the sender that the request names: its new messages are theirs, unless they name another.
    """

    policy: Speakers
    person: str | None

    def say(self, message: UserMessage, *, is_new: bool = True, mark: Mark | None = None) -> turn.UserMessage:
        """A user message for the agent."""
        content = message.content
        name = message.name or (self.person if is_new else None)
        if self.policy is Speakers.OFF or readable(name) is None:
            return turn.UserMessage(content=content, mark=mark)
        if self.policy is Speakers.TEXT:
            said_by = f"{readable(name)}: "
            content = said_by + content if isinstance(content, str) else (Text(text=said_by.rstrip()), *content)
        return turn.UserMessage(content=content, name=as_field(name), mark=mark)

    def is_unheard(self, messages: tuple[Message, ...]) -> bool:
        """Whether a message names its speaker, and the agent is not told."""
        return self.policy is Speakers.OFF and any(
            isinstance(message, UserMessage) and message.name for message in messages
        )
