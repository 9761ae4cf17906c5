"""From a chat request to a plan: what is new in it, and for whom.

A client resends the whole history every time; Letta holds it already. New is what follows the client's last
assistant message: results of calls (Roo Code sends a user message after them), and what the user wrote.
"""

from typing import Final

from attrs import frozen

from . import chat_request as chat
from . import letta
from .approvals import Verdict, read_verdict
from .errors import RequestError
from .plan import Plan

_EMPTY_SCHEMA: Final = {"type": "object", "properties": {}}


@frozen(kw_only=True)
class Planned:
    """A plan, and what of the request had no part in it."""

    plan: Plan
    ignored: tuple[str, ...] = ()  #: as in ``x-ignored-parameters``


def plan_turn(request: chat.ChatRequest) -> Planned:
    """What the request asks of the agent.

    :raises RequestError: if there is nothing new in it.
    """
    tail = _tail(request.messages)
    messages, results = [], []
    for message in tail:
        match message:
            # Letta refuses an empty message, and with it the whole turn.
            case chat.UserMessage(content=content) if content:
                messages.append(letta.MessageCreate(content=_content(content)))
            case chat.ToolMessage(tool_call_id=call_id, content=content):
                results.append(letta.ToolReturn(tool_call_id=call_id, tool_return=_text(content)))
    earlier = request.messages[: len(request.messages) - len(tail)]
    if not messages and not results:
        raise RequestError(
            "`messages` has nothing new for the agent: it must end with a user message that is not empty, or "
            "with results of tool calls. The agent cannot go on from its own last message.",
            param="messages",
        )
    instructed = any(isinstance(item, chat.InstructionMessage) for item in request.messages)
    return Planned(
        plan=Plan(
            model=request.model,
            messages=tuple(messages),
            results=tuple(results),
            client_tools=tuple(_client_tool(tool) for tool in request.tools),
            past_results=tuple(
                letta.ToolReturn(tool_call_id=message.tool_call_id, tool_return=_text(message.content))
                for message in earlier
                if isinstance(message, chat.ToolMessage)
            ),
            verdict=_verdict(earlier, tail),
        ),
        ignored=(*request.ignored, *(("messages.system",) if instructed else ())),
    )


def _verdict(earlier: tuple[chat.Message, ...], tail: tuple[chat.Message, ...]) -> Verdict | None:
    """What the user says if the agent has asked for an approval; a message with an image is no answer."""
    written = [message.content for message in tail if isinstance(message, chat.UserMessage) and message.content]
    if any(
        not isinstance(part, chat.TextPart)
        for content in written
        if not isinstance(content, str)
        for part in content
    ):
        return None
    last = earlier[-1] if earlier else None
    seen = _text(last.content or "") if isinstance(last, chat.AssistantMessage) else None
    return read_verdict([_text(content) for content in written], seen)


def _tail(messages: tuple[chat.Message, ...]) -> tuple[chat.Message, ...]:
    """What follows the last assistant message; everything if the agent has not spoken yet."""
    spoken = [index for index, message in enumerate(messages) if isinstance(message, chat.AssistantMessage)]
    return messages[spoken[-1] + 1 :] if spoken else messages


def _content(content: chat.Content) -> letta.Content:
    return content if isinstance(content, str) else tuple(_part(part) for part in content)


def _part(part: chat.Part) -> letta.TextContent | letta.ImageContent:
    match part:
        case chat.TextPart(text=text):
            return letta.TextContent(text=text)
        case chat.ImagePart(image_url=image):
            return letta.ImageContent(source=_image_source(image.url))
        case _:
            return letta.TextContent(text=part.refusal)


def _image_source(url: str) -> letta.Base64Source | letta.UrlSource:
    head, comma, data = url.partition(",")
    if comma and head.lower().startswith("data:"):
        media_type = head[len("data:") :].partition(";")[0].lower()
        return letta.Base64Source(media_type=media_type, data=data)
    return letta.UrlSource(url=url)


def _text(content: chat.Content) -> str:
    """A result's content: Letta takes one string."""
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in content if isinstance(part, chat.TextPart))


def _client_tool(tool: chat.FunctionTool) -> letta.ClientTool:
    parameters = tool.parameters if tool.parameters is not None else _EMPTY_SCHEMA
    return letta.ClientTool(name=tool.name, description=tool.description, parameters=parameters)
