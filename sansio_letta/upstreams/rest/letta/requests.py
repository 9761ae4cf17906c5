"""The bodies of requests to Letta, with Letta's names."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from attrs import field, frozen


@frozen(kw_only=True)
class TextContent:
    text: str = field(repr=False)
    type: Literal["text"] = "text"


@frozen(kw_only=True)
class Base64Source:
    media_type: str
    data: str = field(repr=False)
    type: Literal["base64"] = "base64"


@frozen(kw_only=True)
class UrlSource:
    url: str = field(repr=False)
    type: Literal["url"] = "url"


@frozen(kw_only=True)
class ImageContent:
    source: Base64Source | UrlSource
    type: Literal["image"] = "image"


Content: TypeAlias = str | tuple[TextContent | ImageContent, ...]


@frozen(kw_only=True)
class MessageCreate:
    """New input for the agent."""

    content: Content = field(repr=False)
    role: Literal["user", "system", "assistant"] = "user"
    name: str | None = field(default=None, repr=False)  #: of the person; sent on to models with OpenAI's API
    otid: str | None = None  #: stored with the message and listed with it, unless it is the assistant's


@frozen(kw_only=True)
class ToolReturn:
    """A client's result for one pending call. Its images are sent to models that support them."""

    tool_call_id: str
    tool_return: Content = field(repr=False)
    status: Literal["success", "error"] = "success"
    type: Literal["tool"] = "tool"


@frozen(kw_only=True)
class Approval:
    """The approval or denial of a pending call. The agent sees the reason."""

    tool_call_id: str
    approve: bool
    reason: str | None = None
    type: Literal["approval"] = "approval"


@frozen(kw_only=True)
class ApprovalCreate:
    """The answers to all pending calls. Letta rejects answers to some of them (parallel_partial.jsonl).

    A legacy agent has one pending call. It ignores results and reads only the last three fields.
    """

    approvals: tuple[ToolReturn | Approval, ...]
    type: Literal["approval"] = "approval"
    approval_request_id: str | None = None  #: the id of the approval request
    approve: bool | None = None
    reason: str | None = None


@frozen(kw_only=True)
class ClientTool:
    """A client tool, offered in one request."""

    name: str
    parameters: Mapping[str, Any]  #: JSON Schema, sent on unchanged
    description: str | None = None


@frozen(kw_only=True)
class StreamRequest:
    """The body of the request that starts a run and streams its tokens."""

    messages: tuple[MessageCreate | ApprovalCreate, ...]
    client_tools: tuple[ClientTool, ...] = ()
    stream_tokens: bool = True
    include_pings: bool = True
    override_system: str | None = field(default=None, repr=False)  #: replaces the system prompt in this turn
    streaming: bool = False  #: needed in conversations; an agent's own thread has a path for streams
    background: bool = False  #: the stream can be resumed; without Redis, Letta responds with 503
    assistant_message_tool_kwarg: str | None = None  #: by default `message`; see `lookup`
