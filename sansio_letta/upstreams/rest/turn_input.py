"""Convert the turn's messages, answers to calls and tools to Letta's types."""

from ...turn.request import (
    AgentMessage,
    CallAnswer,
    Content,
    Decision,
    Image,
    Mark,
    Message,
    SystemMessage,
    Text,
    Tool,
    ToolResult,
    UserMessage,
)
from . import letta


def to_message(message: Message, request_id: str = "") -> letta.MessageCreate:
    """Convert a message.

    :param request_id: unique to the request for a run; required if messages have marks.
    """
    match message:
        case UserMessage(content=content, name=name, mark=mark):
            return letta.MessageCreate(content=_content(content), name=name, otid=_otid(mark, request_id))
        case AgentMessage(content=content):
            return letta.MessageCreate(role="assistant", content=content)
        case SystemMessage(content=content, mark=mark):
            return letta.MessageCreate(role="system", content=content, otid=_otid(mark, request_id))


def _otid(mark: Mark | None, request_id: str) -> str | None:
    """Convert a mark, and make it unique.

    To a background request in a conversation Letta 0.16.7 answers with the stream of an earlier run, whatever
    the agent, if that was asked for with the same otids within three hours. No two requests may have the same.
    """
    if mark is None:
        return None
    return f"{mark.text}-{request_id}" if request_id else mark.text


def to_answer(answer: CallAnswer) -> letta.ToolReturn | letta.Approval:
    """Convert the answer to a pending call."""
    match answer:
        case ToolResult(call_id=call_id, content=content, is_error=is_error):
            return letta.ToolReturn(
                tool_call_id=call_id, tool_return=_content(content), status="error" if is_error else "success"
            )
        case Decision(call_id=call_id, approve=approve, reason=reason):
            return letta.Approval(tool_call_id=call_id, approve=approve, reason=reason)


def to_client_tool(tool: Tool) -> letta.ClientTool:
    """Convert a tool that is offered in a request for a run."""
    return letta.ClientTool(name=tool.name, description=tool.description, parameters=tool.parameters)


def to_result(kept: letta.ToolReturn) -> ToolResult:
    """Convert a stored result, so that it can be sent again."""
    content = kept.tool_return if isinstance(kept.tool_return, str) else ""
    return ToolResult(call_id=kept.tool_call_id, content=content, is_error=kept.status == "error")


def _content(content: Content) -> letta.Content:
    return content if isinstance(content, str) else tuple(map(_part, content))


def _part(part: Text | Image) -> letta.TextContent | letta.ImageContent:
    match part:
        case Text(text=text):
            return letta.TextContent(text=text)
        case Image(url=url):
            return letta.ImageContent(source=_image_source(url))


def _image_source(url: str) -> letta.Base64Source | letta.UrlSource:
    head, comma, data = url.partition(",")
    if comma and head.lower().startswith("data:"):
        media_type = head[len("data:") :].partition(";")[0].lower()
        return letta.Base64Source(media_type=media_type, data=data)
    return letta.UrlSource(url=url)
