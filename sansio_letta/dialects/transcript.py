"""A client's messages as the transcript that is matched with what the agent has heard."""

from collections.abc import Iterable, Sequence
from typing import Final

from ..config import InstructionPolicy
from ..turn import new_input
from ..turn import request as turn
from ..turn.ledger import ROOT, digest, next_chain, root
from ..turn.request import (
    Content,
    Instructions,
    Mark,
    Step,
    Text,
    ToolResult,
    TranscriptChat,
    TranscriptItem,
)
from .background_prompts import text_of
from .items import AssistantMessage, InstructionMessage, Message, ToolMessage, UserMessage
from .speakers import SpeakerNames

#: The user messages by which a chat is recognised that does not name itself.
_MAX_STEP_COUNT: Final = 64


def drop_empty(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages that say something.

    A failed or stopped answer is left by chat programs as an empty assistant message, or as a line break.
    Before a result it stands for the calls.
    """
    if not any(map(_is_empty, messages)):
        return tuple(messages)
    following = (*messages[1:], None)
    return tuple(
        message
        for message, next_one in zip(messages, following, strict=False)
        if not _is_empty(message)
        or (isinstance(message, AssistantMessage) and isinstance(next_one, ToolMessage))
    )


def _is_empty(message: Message) -> bool:
    if isinstance(message, AssistantMessage):
        return not message.calls and not text_of(message.content).strip()
    # Letta refuses an empty message, and with it the whole turn.
    return not isinstance(message, ToolMessage) and not message.content


def split_instructions(
    messages: Sequence[Message], policy: InstructionPolicy
) -> tuple[Instructions | None, tuple[Message, ...]]:
    """Divide what the agent is to go by from what is said to it.

    Those that come first are instructions. Later ones are said in their place, unless the policy takes them all
    together; where nothing else is new they are the input, whatever the policy.
    """
    spoken = [index for index, message in enumerate(messages) if not isinstance(message, InstructionMessage)]
    if not spoken:
        if policy is InstructionPolicy.IGNORE:
            return to_instructions(messages, policy), ()
        return None, tuple(messages)
    in_place = policy is InstructionPolicy.ONCE
    start = tail_start(messages)
    if not in_place and policy is not InstructionPolicy.IGNORE:
        in_place = all(isinstance(message, InstructionMessage) for message in messages[start:])
    first = spoken[0] if in_place else len(messages)
    instructions = to_instructions(messages[:first], policy)
    if in_place:
        return instructions, tuple(messages[first:])
    return instructions, tuple(item for item in messages if not isinstance(item, InstructionMessage))


def to_instructions(messages: Iterable[Message], policy: InstructionPolicy) -> Instructions | None:
    """Return the system and developer messages among these as instructions; None if there are none."""
    texts = [text_of(item.content) for item in messages if isinstance(item, InstructionMessage)]
    said = tuple(
        turn.SystemMessage(content=text, mark=Mark(digest("system", text), ROOT)) for text in texts if text
    )
    return Instructions(messages=said, policy=policy) if said else None


def tail_start(messages: Sequence[Message]) -> int:
    """Return the index of what follows the last assistant message; 0 if the agent has not spoken yet."""
    return new_input.tail_start(messages, AssistantMessage)


def build_transcript(
    messages: Sequence[Message], speakers: SpeakerNames, client: str = ""
) -> tuple[TranscriptItem, ...]:
    """Return the items of a transcript, each input with its mark.

    :param messages: none of them empty, without instructions that are not said in their place.
    :param client: the name of the client's key.
    """
    start, chain = tail_start(messages), root(client)
    names = {
        call.call_id: call.name
        for message in messages
        if isinstance(message, AssistantMessage)
        for call in message.calls
    }
    items: list[TranscriptItem] = []
    for index, message in enumerate(messages):
        match message:
            case UserMessage(content=content):
                mark = Mark(digest("user", content), chain)
                items.append(speakers.convert(message, is_new=index >= start, mark=mark))
                chain = next_chain(chain, mark.content)
            case AssistantMessage(content=content):
                items.append(turn.AgentMessage(content=text_of(content)))
            case InstructionMessage(content=content):
                text = text_of(content)
                items.append(turn.SystemMessage(content=text, mark=Mark(digest("system", text), chain)))
            case ToolMessage(tool_call_id=call_id, content=content):
                name = names.get(call_id)
                items.append(ToolResult(call_id=call_id, content=to_result(content), name=name))
    return tuple(items)


def to_chat(transcript: Sequence[TranscriptItem]) -> TranscriptChat | None:
    """Return the chat of a transcript that does not name it; None if nothing is said in it."""
    marked = [
        (index, item.mark)
        for index, item in enumerate(transcript)
        if isinstance(item, turn.UserMessage) and item.mark is not None
    ]
    ends = [*(index for index, _ in marked[1:]), len(transcript)]
    steps = tuple(
        Step(
            mark=mark,
            chain=next_chain(mark.chain, mark.content),
            reply=_last_reply(transcript[index + 1 : end]),
        )
        for (index, mark), end in list(zip(marked, ends, strict=True))[-_MAX_STEP_COUNT:]
    )
    firsts = [mark for _, mark in marked[:1]] or [
        item.mark for item in transcript if isinstance(item, turn.SystemMessage) and item.mark is not None
    ]
    if not firsts:
        return None
    results = transcript[new_input.tail_start(transcript) :]
    return TranscriptChat(
        first=firsts[0].content,
        steps=steps,
        call_ids=frozenset(item.call_id for item in results if isinstance(item, ToolResult)),
    )


def _last_reply(items: Sequence[TranscriptItem]) -> str | None:
    texts = [item.content for item in items if isinstance(item, turn.AgentMessage) and item.content]
    return texts[-1] if texts else None


def to_result(content: Content) -> Content:
    """A result as the agent gets it; parts only where there is a picture among them."""
    if isinstance(content, str) or all(isinstance(part, Text) for part in content):
        return text_of(content)
    return content
