"""The contents of a client's request in any dialect: messages, tools, and structured output."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from attrs import field, frozen

from ..turn.request import Content


@frozen(kw_only=True)
class InstructionMessage:
    """A system or developer message: text, or text parts."""

    content: Content = field(repr=False)


@frozen(kw_only=True)
class UserMessage:
    """Text, or parts of text and images.

    :param name: of the person, where several speak.
    """

    content: Content = field(repr=False)
    name: str | None = None


@frozen(kw_only=True)
class AssistantMessage:
    """What the agent said before, as the client remembers it; null or absent beside calls. Letta has a memory:
    the text counts for a new conversation, and where it asks for an approval."""

    content: Content | None = field(default=None, repr=False)
    calls: tuple["MadeCall", ...] = ()  #: of the client's tools


@frozen(kw_only=True)
class MadeCall:
    """A call that the agent made before, as the client remembers it."""

    call_id: str
    name: str
    arguments: str = field(default="", repr=False)


@frozen(kw_only=True)
class ToolMessage:
    """The result of one call: text, or parts."""

    tool_call_id: str
    content: Content = field(repr=False)


Message: TypeAlias = InstructionMessage | UserMessage | AssistantMessage | ToolMessage


@frozen(kw_only=True)
class FunctionTool:
    """A tool that the client carries out.

    :param alias: its name towards the agent, if `name` is one that models do not take.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = field(default=None, repr=False)
    strict: bool | None = None
    alias: str | None = None

    @property
    def agent_name(self) -> str:
        """What the agent calls it."""
        return self.alias or self.name


@frozen(kw_only=True)
class JsonSchema:
    """What JSON must satisfy; whether that is a schema at all is not checked here."""

    name: str
    description: str | None = None
    schema: Mapping[str, Any] | None = field(default=None, repr=False)


@frozen(kw_only=True)
class JsonFormat:
    """The reply must be JSON.

    :param json_schema: what it must satisfy; None: any object will do.
    """

    json_schema: JsonSchema | None = None


@frozen(kw_only=True)
class ClientRequest:
    """A valid request.

    :param model: the agent's name or id, as asked.
    :param messages: all of them; what follows the last one of the assistant is new.
    :param include_usage: whether the usage is asked for at a stream's end.
    """

    model: str
    messages: tuple[Message, ...]
    stream: bool = False
    include_usage: bool = False
    tools: tuple[FunctionTool, ...] = ()  #: those that `tool_choice` leaves
    must_call: bool = False  #: `tool_choice` forces a call of one of them
    response_format: JsonFormat | None = None  #: None: text
    parallel_tool_calls: bool = True  #: otherwise calls are told one at a time
    stop: tuple[str, ...] = ()  #: the text ends before the first of these
    max_tokens: int | None = None  #: of the reply; what tells a gateway's probe, and is not honoured
    metadata: Mapping[str, Any] = field(factory=dict, repr=False)  #: as it came: it may hold anything
    ignored: tuple[str, ...] = ()  #: fields that were given and have no effect, each once
