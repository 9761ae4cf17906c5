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

    :param name: of its author, if several people use one chat.
    """

    content: Content = field(repr=False)
    name: str | None = None


@frozen(kw_only=True)
class AssistantMessage:
    """An earlier message of the agent, as the client has it. There may be no content if there are calls.

    Letta has its own memory. The text matters for a new conversation, and if it asks for approval.
    """

    content: Content | None = field(default=None, repr=False)
    calls: tuple["MadeCall", ...] = ()  #: of the client's tools


@frozen(kw_only=True)
class MadeCall:
    """An earlier call of the agent, as the client has it."""

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

    :param alias: its name for the agent, if models do not accept `name`.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = field(default=None, repr=False)
    strict: bool | None = None
    alias: str | None = None

    @property
    def agent_name(self) -> str:
        """Its name for the agent."""
        return self.alias or self.name


@frozen(kw_only=True)
class JsonSchema:
    """A schema for JSON, not yet checked."""

    name: str
    description: str | None = None
    schema: Mapping[str, Any] | None = field(default=None, repr=False)


@frozen(kw_only=True)
class JsonFormat:
    """The reply must be JSON.

    :param json_schema: for the reply; None: any object.
    """

    json_schema: JsonSchema | None = None


@frozen(kw_only=True)
class BodyField:
    """A field of the body that the operator has chosen to be read.

    :param path: the client's name for it, like ``metadata.room``.
    :param value: as it came: it may be anything.
    """

    path: str
    value: object = field(repr=False)


@frozen(kw_only=True)
class ClientRequest:
    """A valid request.

    :param model: the agent's name or id, as the client gave it.
    :param messages: all of them. What follows the last assistant message is new.
    :param include_usage: whether the stream is to end with the usage.
    """

    model: str
    messages: tuple[Message, ...]
    stream: bool = False
    include_usage: bool = False
    tools: tuple[FunctionTool, ...] = ()  #: those that `tool_choice` allows
    must_call: bool = False  #: `tool_choice` requires a call of one of them
    response_format: JsonFormat | None = None  #: None: text
    parallel_tool_calls: bool = True  #: if not, calls are sent one at a time
    stop: tuple[str, ...] = ()  #: stop sequences
    max_tokens: int | None = None  #: of the reply; identifies gateways' probes, and is not enforced
    metadata: Mapping[str, Any] = field(factory=dict, repr=False)  #: unchecked: it may contain anything
    chat_keys: tuple[BodyField, ...] = ()  #: chosen to name the chat if nothing else does
    speakers: tuple[BodyField, ...] = ()  #: chosen to name the author if nothing else does
    ignored: tuple[str, ...] = ()  #: names of fields without effect, each once
