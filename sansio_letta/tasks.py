"""Prompts that are not the user's: a chat program asks the same model for titles, tags and follow-ups.

They would stand in the agent's memory as if the user had said them, and often come before the chat itself.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from . import chat_request as chat

Recogniser: TypeAlias = Callable[[chat.ChatRequest, Mapping[str, str]], bool]


def _open_webui_header(_: chat.ChatRequest, headers: Mapping[str, str]) -> bool:
    # Where Open WebUI fills nothing in, the header is empty or its template.
    value = headers.get("x-openwebui-task", "").strip()
    return bool(value) and not value.startswith("{{")


def _open_webui_prompt(request: chat.ChatRequest, _: Mapping[str, str]) -> bool:
    return (
        len(request.messages) == 1
        and not request.stream
        and not request.tools
        and isinstance(request.messages[0], chat.UserMessage)
        and text_of(request.messages[0].content).startswith("### Task:")
    )


def _title_generator(request: chat.ChatRequest, _: Mapping[str, str]) -> bool:
    return any(
        isinstance(message, chat.InstructionMessage)
        and text_of(message.content).startswith("You are a title generator")
        for message in request.messages
    )


#: Who sends such prompts, and how they are known. The headers of Open WebUI are set by its administrator.
RECOGNISERS: Final[Mapping[str, Recogniser]] = {
    "Open WebUI, by its header": _open_webui_header,
    "Open WebUI, by its words": _open_webui_prompt,
    "opencode and Kilo": _title_generator,
}


def is_task(request: chat.ChatRequest, headers: Mapping[str, str], patterns: Sequence[str] = ()) -> bool:
    """Whether a request is a prompt that is not the user's.

    :param headers: by lower-case name.
    :param patterns: beginnings of further such prompts, of a system message or of the only user message.
    """
    if any(known(request, headers) for known in RECOGNISERS.values()):
        return True
    texts = [
        text_of(message.content)
        for message in request.messages
        if isinstance(message, chat.InstructionMessage)
        or (len(request.messages) == 1 and isinstance(message, chat.UserMessage))
    ]
    return any(text.startswith(tuple(patterns)) for text in texts) if patterns else False


def text_of(content: chat.Content | None) -> str:
    """A message's text, without pictures."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text for part in content if isinstance(part, chat.TextPart))
