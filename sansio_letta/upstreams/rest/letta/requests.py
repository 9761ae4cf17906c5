"""The bodies of requests to Letta, under Letta's own names."""

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
    name: str | None = field(default=None, repr=False)  #: of the person; models of OpenAI's wire are shown it
    otid: str | None = None  #: kept with the message and listed with it; of assistant messages it is lost


@frozen(kw_only=True)
class ToolReturn:
    """A client's result of one pending call; of parts Letta gives its model the images, if that sees any."""

    tool_call_id: str
    tool_return: Content = field(repr=False)
    status: Literal["success", "error"] = "success"
    type: Literal["tool"] = "tool"


@frozen(kw_only=True)
class Approval:
    """A pending call allowed or denied; the agent is told the reason."""

    tool_call_id: str
    approve: bool
    reason: str | None = None
    type: Literal["approval"] = "approval"


@frozen(kw_only=True)
class ApprovalCreate:
    """The answers to all pending calls at once; a part of them is refused (parallel_partial.jsonl).

    A legacy agent has one call pending, and looks at the last three fields alone: results are not for it.
    """

    approvals: tuple[ToolReturn | Approval, ...]
    type: Literal["approval"] = "approval"
    approval_request_id: str | None = None  #: of the message that asks
    approve: bool | None = None
    reason: str | None = None


@frozen(kw_only=True)
class ClientTool:
    """A tool of the client's, offered for one request."""

    name: str
    parameters: Mapping[str, Any]  #: JSON Schema, passed on untouched
    description: str | None = None


@frozen(kw_only=True)
class StreamRequest:
    """The body that starts a run and asks for its stream, token by token."""

    messages: tuple[MessageCreate | ApprovalCreate, ...]
    client_tools: tuple[ClientTool, ...] = ()
    stream_tokens: bool = True
    include_pings: bool = True
    override_system: str | None = field(default=None, repr=False)  #: in place of the agent's, for this turn
    streaming: bool = False  #: asked for by name in a conversation; an agent's own thread has a path for it
    background: bool = False  #: the run's stream can be taken up again; needs Redis at the server, else 503
    assistant_message_tool_kwarg: str | None = None  #: by default `message`; see `lookup`
