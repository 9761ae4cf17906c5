"""What Letta shows beside messages: agents, runs, conversations and tools. Only what is read is modelled."""

from collections.abc import Mapping
from typing import Any, Final

from attrs import field, frozen

from .messages import Message, Returned, ToolCall
from .requests import ToolReturn


@frozen(kw_only=True)
class PendingApproval:
    """The calls that an agent waits for; until each is answered it takes no new message."""

    id: str
    tool_calls: tuple[ToolCall, ...]
    run_id: str | None = None


@frozen(kw_only=True)
class OwnTool:
    """A tool that an agent has at Letta."""

    name: str | None = None
    tool_type: str | None = None  #: letta_core, letta_memory_core, custom, external_mcp...


#: The tool by which an agent speaks whose model may only call tools, and the argument that holds the text.
SEND_MESSAGE: Final = "send_message"
SEND_MESSAGE_ARGUMENT: Final = "message"


@frozen(kw_only=True)
class ModelConfig:
    """What an agent's language model is; the rest of it is Letta's own."""

    context_window: int | None = None  #: tokens


@frozen(kw_only=True)
class Agent:
    """One agent, as listed or fetched."""

    id: str
    name: str
    agent_type: str
    created_at: str | None = None  #: ISO 8601
    description: str | None = None
    pending_approval: PendingApproval | None = None  #: null, too, where it was not asked for
    tools: tuple[OwnTool, ...] | None = None  #: None: not known
    enable_sleeptime: bool | None = None
    llm_config: ModelConfig | None = None
    hidden: bool | None = None


@frozen(kw_only=True)
class Health:
    """The answer of ``GET /v1/health/``."""

    status: str
    version: str | None = None


@frozen(kw_only=True)
class RequestConfig:
    """Of the request that a run was begun by, as Letta keeps it."""

    assistant_message_tool_kwarg: str | None = None


@frozen(kw_only=True)
class Run:
    """One run of an agent, as Letta keeps it."""

    id: str
    status: str  #: created, running, completed, failed or cancelled
    stop_reason: str | None = None
    background: bool | None = None
    agent_id: str | None = None
    conversation_id: str | None = None  #: null in the agent's own thread
    request_config: RequestConfig | None = None
    metadata: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def failure(self) -> str | None:
        """How it failed, in words that may be the model provider's, keys and all: not for the client."""
        error = (self.metadata or {}).get("error")
        return error if isinstance(error, str) and self.status == "failed" else None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status not in ("created", "running")

    @property
    def asked_as(self) -> str | None:
        """What its request named as the argument that holds text; None if Letta does not show that."""
        return None if self.request_config is None else self.request_config.assistant_message_tool_kwarg


@frozen(kw_only=True)
class Conversation:
    """One conversation of an agent, beside its own thread."""

    id: str
    agent_id: str | None = None
    summary: str | None = None
    created_at: str | None = None  #: ISO 8601


@frozen(kw_only=True)
class Tool:
    """A tool at Letta."""

    id: str
    name: str
    tags: tuple[str, ...] = ()


@frozen(kw_only=True)
class Toolbox:
    """An agent's tools, and the agent's own rules and tags."""

    agent_id: str
    tools: tuple[Tool, ...]
    rules: tuple[Mapping[str, Any], ...]  #: each names a tool, and goes back as it came
    tags: tuple[str, ...]


@frozen(kw_only=True)
class ListedMessage:
    """A message in the list of a thread's messages, as far as it tells what the agent has heard.

    :param content: text, or the texts of its parts.
    :param otid: what the sender has marked it with; of the agent's own messages Letta makes one up.
    """

    id: str
    message_type: str
    content: str = field(default="", repr=False)
    otid: str | None = None
    run_id: str | None = None
    returns: tuple[Returned, ...] = ()


@frozen(kw_only=True)
class KeptMessages:
    """What the agent's memory holds of a run. Nothing, if the run failed in its first step."""

    messages: tuple[Message, ...] = ()  #: in order, each whole
    has_input: bool = False  #: the user's message among them
    returns: tuple[ToolReturn, ...] = ()  #: of the calls that returned last
