"""Reply formats that a client can require: JSON, or a call of one of its tools.

Letta can enforce neither. The agent is asked for the format in a message before the input, and its reply is
checked.
"""

from hashlib import sha256
from typing import Final, TypeAlias

import orjson
from attrs import field, frozen

from .json_in_text import only_json
from .json_schema import Schema

_FENCE: Final = "```"

_ALONE: Final = "JSON alone, without a word or a code fence around it"
_ASK_JSON: Final = (
    "Your reply to this is read by a program. Call tools first if you need them; the reply with which your "
    f"turn ends must be {_ALONE}"
)
#: Names of tools to list in a sentence. The agent also has the tools themselves.
_MAX_NAME_COUNT: Final = 8


@frozen(kw_only=True)
class CheckedReply:
    """A reply that was checked.

    :param text: the part of the reply that the client gets.
    :param problem: what is wrong with it, for the agent and the client to read; None if it has the format.
    """

    text: str = field(default="", repr=False)
    problem: str | None = None


@frozen(kw_only=True)
class JsonReply:
    """A reply of JSON and nothing else.

    :param schema: for the reply; None: any object.
    :param name: of the schema.
    :param description: of the schema.
    """

    schema: Schema | None = None
    name: str = ""
    description: str = ""

    @property
    def prompt(self) -> str:
        """The message before the input."""
        if self.schema is None:
            return f"{_ASK_JSON}: an object."
        return f"{_ASK_JSON}. It must satisfy this JSON Schema.\n\n{self._named_schema}"

    @property
    def reminder(self) -> str:
        """The message before the input in a thread that already has the schema."""
        if self.schema is None:
            return self.prompt
        return f"{_ASK_JSON}. It must satisfy the JSON Schema {self.name} that you were given before."

    @property
    def slot(self) -> str:
        """What is sent to a thread again replaces what it was sent before for the same slot."""
        return f"schema {self.name}"

    @property
    def digest(self) -> bytes:
        """A hash of the schema, to notice a change."""
        return sha256(self.prompt.encode()).digest()

    def retry_prompt(self, *, in_full: bool) -> str:
        """The message after a reply that does not have the format.

        :param in_full: whether to include the schema, which may no longer be in the agent's context.
        """
        if self.schema is None:
            return f"Reply once more, with {_ALONE}: an object."
        again = f"Reply once more, with {_ALONE}, that satisfies the JSON Schema {self.name}"
        return f"{again}.\n\n{self._named_schema}" if in_full else f"{again} that you were given."

    @property
    def _named_schema(self) -> str:
        assert self.schema is not None
        named = ": ".join(part for part in (self.name, self.description) if part)
        return f"{named}\n{self.schema.data.decode()}"

    def check(self, reply: str) -> CheckedReply:
        """Check a reply that contains no calls. Text around its JSON is removed; the JSON is not changed."""
        text = _unfenced(reply.strip())
        if not text:
            return CheckedReply(problem="it is empty")
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as exc:
            part = only_json(reply)
            if part is None:
                return CheckedReply(problem=f"it is no JSON: {exc}")
            text, value = part, orjson.loads(part)
        if self.schema is None:
            return CheckedReply(text=text, problem=None if isinstance(value, dict) else "it is no JSON object")
        return CheckedReply(text=text, problem="; ".join(self.schema.problems(value)) or None)


def _unfenced(text: str) -> str:
    """The text without its Markdown code fence, if it is in one, as models like to write JSON.

    :param text: without surrounding whitespace.
    """
    opening, _, rest = text.partition("\n")
    language = opening.removeprefix(_FENCE).rstrip()
    if not opening.startswith(_FENCE) or not rest.endswith(_FENCE):
        return text
    if language and not (language.isascii() and language.isalnum()):
        return text
    return rest.removesuffix(_FENCE).strip()


@frozen(kw_only=True)
class CallReply:
    """A reply that calls one of the client's tools.

    :param names: of the tools.
    """

    names: tuple[str, ...]

    @property
    def prompt(self) -> str:
        """The message before the input."""
        return (
            f"Your reply to this is read by a program. It must call {self._which}: a reply in words alone is "
            "no use."
        )

    def retry_prompt(self, *, in_full: bool) -> str:
        """The message after a reply without a call; it is always short."""
        return f"Reply once more, and call {self._which}."

    @property
    def _which(self) -> str:
        if len(self.names) == 1:
            return f"the tool {self.names[0]}"
        more = len(self.names) - _MAX_NAME_COUNT
        named = ", ".join(self.names[:_MAX_NAME_COUNT])
        return f"one of {named}" if more <= 0 else f"one of {named}, or another of the program's {more} tools"

    def check(self, reply: str) -> CheckedReply:
        """Check a reply that contains no calls."""
        return CheckedReply(problem="no tool was called")


ReplyFormat: TypeAlias = JsonReply | CallReply


def retry_message(reply_format: ReplyFormat, problem: str, *, in_full: bool = False) -> str:
    """The message that asks the agent for another reply.

    :param problem: what is wrong with the last one.
    :param in_full: whether to include the schema, which may no longer be in the agent's context.
    """
    return f"Your last reply cannot be used: {problem}. {reply_format.retry_prompt(in_full=in_full)}"
