"""Letta's resources other than messages: agents, runs, conversations and tools. Unused fields are left out."""

from collections.abc import Mapping
from typing import Any, Final

from attrs import field, frozen

from .messages import Message, Returned, ToolCall
from .requests import ToolReturn


@frozen(kw_only=True)
class PendingApproval:
    """The pending calls of an agent. Until all are answered, it accepts no new message."""

    id: str
    tool_calls: tuple[ToolCall, ...]
    run_id: str | None = None
    date: str | None = None  #: ISO 8601


@frozen(kw_only=True)
class OwnTool:
    """A tool of an agent."""

    name: str | None = None
    tool_type: str | None = None  #: letta_core, letta_memory_core, custom, external_mcp...


#: The tool with which an agent replies if its model can only call tools, and the argument with the text.
SEND_MESSAGE: Final = "send_message"
SEND_MESSAGE_ARGUMENT: Final = "message"


@frozen(kw_only=True)
class ModelConfig:
    """The configuration of an agent's language model."""

    context_window: int | None = None  #: tokens


@frozen(kw_only=True)
class Agent:
    """One agent, as listed or fetched."""

    id: str
    name: str
    agent_type: str
    created_at: str | None = None  #: ISO 8601
    description: str | None = None
    pending_approval: PendingApproval | None = None  #: also null if it was not requested
    tools: tuple[OwnTool, ...] | None = None  #: None if unknown
    enable_sleeptime: bool | None = None
    llm_config: ModelConfig | None = None
    hidden: bool | None = None


@frozen(kw_only=True)
class Health:
    """The response of ``GET /v1/health/``."""

    status: str
    version: str | None = None


@frozen(kw_only=True)
class RequestConfig:
    """Fields of the request that started a run."""

    assistant_message_tool_kwarg: str | None = None


@frozen(kw_only=True)
class Run:
    """One run of an agent."""

    id: str
    status: str  #: created, running, completed, failed or cancelled
    stop_reason: str | None = None
    background: bool | None = None
    agent_id: str | None = None
    conversation_id: str | None = None  #: null in the agent's own thread
    created_at: str | None = None  #: ISO 8601
    request_config: RequestConfig | None = None
    metadata: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def failure(self) -> str | None:
        """Why it failed. The client must not see it, since it may contain the model provider's keys."""
        error = (self.metadata or {}).get("error")
        return error if isinstance(error, str) and self.status == "failed" else None

    @property
    def is_over(self) -> bool:
        """Whether the run is over."""
        return self.status not in ("created", "running")

    @property
    def text_argument(self) -> str | None:
        """The name of the text argument in its request; None if Letta does not show it."""
        return None if self.request_config is None else self.request_config.assistant_message_tool_kwarg


@frozen(kw_only=True)
class Conversation:
    """One conversation of an agent. The agent's own thread is not among them."""

    id: str
    agent_id: str | None = None
    summary: str | None = None
    created_at: str | None = None  #: ISO 8601


@frozen(kw_only=True)
class Tool:
    """A tool."""

    id: str
    name: str
    tags: tuple[str, ...] = ()


@frozen(kw_only=True)
class Toolbox:
    """The tools, tool rules and tags of an agent."""

    agent_id: str
    tools: tuple[Tool, ...]
    rules: tuple[Mapping[str, Any], ...]  #: sent back unchanged
    tags: tuple[str, ...]


@frozen(kw_only=True)
class ListedMessage:
    """A message in the list of a thread's messages, as far as it tells what the agent has heard.

    :param content: text, or the texts of its parts.
    :param calls: those that wait for a result or for approval, or have waited.
    :param otid: what the sender has marked it with; of the agent's own messages Letta makes one up.
    """

    id: str
    message_type: str
    content: str = field(default="", repr=False)
    otid: str | None = None
    run_id: str | None = None
    returns: tuple[Returned, ...] = ()
    calls: tuple[ToolCall, ...] = ()


@frozen(kw_only=True)
class KeptMessages:
    """The stored messages of a run. There are none if it failed in its first step."""

    messages: tuple[Message, ...] = ()  #: complete, in order
    has_input: bool = False  #: the user's message is one of them
    returns: tuple[ToolReturn, ...] = ()  #: the results of the last calls
