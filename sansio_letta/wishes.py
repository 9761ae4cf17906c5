"""What a client wishes a reply to be: JSON, or a call of one of its tools.

Letta can force neither. The agent is asked for it, beside the input, and its reply is checked.
"""

from typing import Final, TypeAlias

import orjson
from attrs import field, frozen

from .schemas import Schema

_FENCE: Final = "```"


@frozen(kw_only=True)
class Checked:
    """What a reply comes to.

    :param complaint: what is wrong with it, in words for the agent and for the client; None: it is as wished.
    """

    text: str = field(default="", repr=False)
    complaint: str | None = None


@frozen(kw_only=True)
class JsonWish:
    """The reply is JSON and nothing else.

    :param schema: what it must satisfy; None: any object will do.
    """

    schema: Schema | None = None
    name: str = ""
    description: str = ""

    @property
    def asking(self) -> str:
        """What the agent is told before the input."""
        ask = (
            "Your reply to this is read by a program. Call tools first if you need them; the reply with which "
            "your turn ends must be JSON alone, without a word or a code fence around it"
        )
        if self.schema is None:
            return f"{ask}: an object."
        named = ": ".join(part for part in (self.name, self.description) if part)
        return f"{ask}. It must satisfy this JSON Schema.\n\n{named}\n{self.schema.data.decode()}"

    def check(self, reply: str) -> Checked:
        """A reply in which nothing was called: the JSON in it, as the agent wrote it, without a fence."""
        text = _unfenced(reply.strip())
        if not text:
            return Checked(complaint="it is empty")
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as exc:
            return Checked(complaint=f"it is no JSON: {exc}")
        if self.schema is None:
            return Checked(text=text, complaint=None if isinstance(value, dict) else "it is no JSON object")
        return Checked(text=text, complaint="; ".join(self.schema.complaints(value)) or None)


def _unfenced(text: str) -> str:
    """The text in a fence of Markdown: models like to put JSON into one, and no reader of JSON takes it.

    :param text: without blanks around it.
    """
    opening, _, rest = text.partition("\n")
    language = opening.removeprefix(_FENCE).rstrip()
    if not opening.startswith(_FENCE) or not rest.endswith(_FENCE):
        return text
    if language and not (language.isascii() and language.isalnum()):
        return text
    return rest.removesuffix(_FENCE).strip()


@frozen(kw_only=True)
class CallWish:
    """The reply calls one of the client's tools.

    :param names: of the tools that are offered.
    """

    names: tuple[str, ...]

    @property
    def asking(self) -> str:
        """What the agent is told before the input."""
        which = f"the tool {self.names[0]}" if len(self.names) == 1 else f"one of {', '.join(self.names)}"
        return (
            f"Your reply to this is read by a program. It must call {which}: a reply in words alone is no use."
        )

    def check(self, reply: str) -> Checked:
        """A reply in which nothing was called."""
        return Checked(complaint="no tool was called")


Wish: TypeAlias = JsonWish | CallWish


def text_to_ask_again(wish: Wish, complaint: str) -> str:
    """What the agent is told when its reply was not as wished."""
    return f"Your last reply cannot be used: {complaint}. Reply once more. {wish.asking}"
