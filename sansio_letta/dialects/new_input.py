"""Conversion of a client's request to a turn's request: its new input, its thread, its instructions.

A client sends the whole history with every request, but the agent has heard most of it. What is new is known
once the history has been compared with the agent's thread. Until then it is what follows the last assistant
message: results of calls (after which Roo Code sends a user message), and the user's messages.
"""

from collections.abc import Mapping
from typing import Final

from attrs import frozen

from .._convert import json_name
from ..config import Enforcement, InstructionPolicy, TaskPolicy, Threads
from ..errors import RequestError, RequestField
from ..turn import request as turn
from ..turn.approval import Verdict, read_verdict
from ..turn.json_schema import Schema
from ..turn.new_input import find_new
from ..turn.reply_format import CallReply, JsonReply, ReplyFormat
from ..turn.request import (
    CONVERSATION_HEADER,
    OWN_THREAD,
    Chat,
    Instructions,
    NamedConversation,
    Text,
    ThreadChoice,
    Throwaway,
    Tool,
    ToolResult,
    TranscriptItem,
    TurnRequest,
    task_end,
)
from .background_prompts import is_probe, is_task, text_of
from .base import RequestContext
from .body_fields import as_text, is_blank
from .items import (
    AssistantMessage,
    BodyField,
    ClientRequest,
    FunctionTool,
    InstructionMessage,
    Message,
    ToolMessage,
    UserMessage,
)
from .speakers import SpeakerNames, named_in
from .transcript import (
    build_transcript,
    drop_empty,
    split_instructions,
    tail_start,
    to_chat,
    to_instructions,
    to_result,
)

#: The key in `metadata` that names a chat, if no header does.
CHAT_KEY_METADATA: Final = "letta_chat_key"

#: The reason why a field is refused, if enforcement is set to refuse.
_REFUSALS: Final[Mapping[RequestField, str]] = {
    RequestField.REPLY_FORMAT: "`{field}`: an agent cannot be held to JSON, and enforcement is set to refuse "
    "here. Ask for JSON in the message, or have replies checked: header X-Letta-Policy-Enforcement: validate.",
    RequestField.TOOL_CHOICE: "`{field}`: an agent cannot be forced to call a tool, and enforcement is set to "
    "refuse here. Use auto, none or allowed_tools of mode auto, or have replies checked: header "
    "X-Letta-Policy-Enforcement: validate.",
}

#: OpenAI's limit for values of `metadata`.
_MAX_KEY_SIZE: Final = 512

_NOTHING_NEW: Final = (
    "`{field}` has nothing new for the agent: it must end with a user message that is not empty, with a system "
    "or developer message, or with results of tool calls. The agent cannot go on from its own last message."
)

_EMPTY_SCHEMA: Final = {"type": "object", "properties": {}}


@frozen(kw_only=True)
class BuiltRequest:
    """A turn's request, and the fields of the client's request that play no part in it."""

    turn_request: TurnRequest
    ignored: tuple[RequestField, ...] = ()


def build_turn_request(request: ClientRequest, context: RequestContext | None = None) -> BuiltRequest:
    """Build a turn's request from a client's.

    :raises RequestError: if it contains nothing new, or is a background prompt that must be refused.
    """
    context = context or RequestContext()
    config = context.config
    messages = drop_empty(request.messages)
    tail = messages[tail_start(messages) :]
    earlier = messages[: len(messages) - len(tail)]
    results = tuple(
        ToolResult(call_id=message.tool_call_id, content=to_result(message.content))
        for message in tail
        if isinstance(message, ToolMessage)
    )
    is_isolated = _is_isolated(request, context)
    # A background prompt comes from no person.
    person = None if is_isolated else named_in(context.headers, request.speakers)
    speakers = SpeakerNames(policy=config.speakers, person=person)
    if is_isolated:
        parts = _isolated(earlier, _with_closing_prompt(tail), results, speakers, context)
    else:
        parts = _remembered(messages, speakers, _thread(request, context), context)
    if not parts.messages and not results:
        raise RequestError(_NOTHING_NEW, field=RequestField.INPUT)
    reply_format, ignored_formats = _reply_format(request, config.enforcement)
    instructions = parts.instructions
    is_ignored = instructions is not None and instructions.policy is InstructionPolicy.IGNORE
    return BuiltRequest(
        turn_request=TurnRequest(
            model=request.model,
            messages=parts.messages,
            results=results,
            thread=parts.thread,
            transcript=parts.transcript,
            history=parts.history,
            input_as_text=parts.input_as_text,
            instructions=instructions,
            client_tools=tuple(_client_tool(tool) for tool in request.tools),
            client_tool_names={tool.alias: tool.name for tool in request.tools if tool.alias is not None},
            past_results=tuple(
                ToolResult(call_id=message.tool_call_id, content=to_result(message.content))
                for message in earlier
                if isinstance(message, ToolMessage)
            ),
            # No question is asked if a format is required, so a message is never a decision.
            verdict=_verdict(earlier, tail) if reply_format is None else None,
            reply_format=reply_format,
            stop=request.stop,
            one_call=bool(request.tools) and not request.parallel_tool_calls,
            preamble=(turn.SystemMessage(content=reply_format.prompt),) if reply_format else (),
            forces_call=request.must_call,
            leaves_calls=_leaves_calls(earlier) and not results,
        ),
        ignored=(
            *((RequestField.INSTRUCTIONS,) if is_ignored else ()),
            *((RequestField.SPEAKER,) if speakers.leaves_out_names(request.messages) else ()),
            *ignored_formats,
        ),
    )


@frozen(kw_only=True)
class _Input:
    """What is said in a request, and where. See `TurnRequest`."""

    messages: tuple[turn.Message, ...]
    thread: ThreadChoice
    transcript: tuple[TranscriptItem, ...] = ()
    history: tuple[turn.Message, ...] = ()
    input_as_text: tuple[turn.Message, ...] = ()
    instructions: Instructions | None = None


def _remembered(
    messages: tuple[Message, ...],
    speakers: SpeakerNames,
    named: ThreadChoice | Threads,
    context: RequestContext,
) -> _Input:
    """Build the input for a thread that the agent remembers.

    Until it is known what the agent has heard, what follows the last assistant message is new.
    """
    instructions, said = split_instructions(messages, context.config.instructions)
    transcript = build_transcript(said, speakers, context.client)
    thread: ThreadChoice = None
    if named is Threads.TRANSCRIPT:
        thread = to_chat(transcript)
    elif not isinstance(named, Threads):
        thread = named
    return _Input(
        messages=find_new(transcript, None).messages,
        transcript=transcript,
        thread=thread,
        instructions=instructions,
    )


def _isolated(
    earlier: tuple[Message, ...],
    tail: tuple[Message, ...],
    results: tuple[ToolResult, ...],
    speakers: SpeakerNames,
    context: RequestContext,
) -> _Input:
    """Build the input for a conversation that holds nothing else, with the whole history."""
    thread = Throwaway(
        token=context.token,
        until=task_end(context.created, context.config.turn_timeout),
        call_ids=tuple(result.call_id for result in results),
    )
    return _Input(
        messages=tuple(speakers.convert(message) for message in tail if isinstance(message, UserMessage)),
        thread=thread,
        history=_history(earlier, speakers),
        input_as_text=_history(tail, speakers, calls_of=earlier, is_new=True) if results else (),
        instructions=to_instructions((*earlier, *tail), context.config.instructions),
    )


def _leaves_calls(earlier: tuple[Message, ...]) -> bool:
    last = earlier[-1] if earlier else None
    return isinstance(last, AssistantMessage) and bool(last.calls)


def _is_isolated(request: ClientRequest, context: RequestContext) -> bool:
    """Whether a request gets a conversation of its own, to be deleted afterwards.

    :raises RequestError: if it is refused.
    """
    config = context.config
    if config.tasks is TaskPolicy.ALL:
        return True
    if config.tasks is TaskPolicy.PASS or not is_task(request, context.headers, config.task_prompts):
        return False
    # A gateway that probes whether the agent answers would take a refusal for an outage.
    if config.tasks is TaskPolicy.REFUSE and not is_probe(request):
        raise RequestError(
            "This prompt is a chat program's own, for a title, tags or the like, and is put to no agent: "
            "set another model for these in the program.",
            field=RequestField.INPUT,
            code="task_refused",
        )
    return True


def _with_closing_prompt(tail: tuple[Message, ...]) -> tuple[Message, ...]:
    """Turn a system message at the end into a user message, because it is the prompt itself."""
    if any(isinstance(message, UserMessage | ToolMessage) for message in tail):
        return tail
    last = tail[-1] if tail else None
    if not isinstance(last, InstructionMessage):
        return tail
    return (*tail[:-1], UserMessage(content=last.content))


def _reply_format(
    request: ClientRequest, enforcement: Enforcement
) -> tuple[ReplyFormat | None, tuple[RequestField, ...]]:
    """The required format of the reply, and the fields that would require one but are ignored.

    :raises RequestError: if it is refused, or cannot be checked.
    """
    fields = [
        *([RequestField.TOOL_CHOICE] if request.must_call else []),
        *([RequestField.REPLY_FORMAT] if request.response_format else []),
    ]
    if not fields or enforcement is Enforcement.IGNORE:
        return None, tuple(fields)
    if enforcement is Enforcement.REFUSE:
        raise RequestError(_REFUSALS[fields[0]], field=fields[0], code="unsupported_value")
    if request.must_call:
        # A reply that calls a tool is not the final one, which the format is for.
        return CallReply(names=tuple(tool.agent_name for tool in request.tools)), ()
    assert request.response_format is not None
    wanted = request.response_format.json_schema
    if wanted is None:
        return JsonReply(), ()
    raw = wanted.schema if wanted.schema is not None else {}
    schema = Schema(raw)
    return JsonReply(schema=schema, name=wanted.name, description=wanted.description or ""), ()


def _thread(request: ClientRequest, context: RequestContext) -> ThreadChoice | Threads:
    """The thread that a request names, by the first header that is present, or else in its body.

    :return: the policy if it names none.
    """
    for name in context.config.chat_key_headers:
        if name not in context.headers or is_blank(value := context.headers[name].strip()):
            continue
        # All other headers name a chat, by the client's own key.
        if name != CONVERSATION_HEADER.lower():
            return Chat(key=_check_key(value, param=name))
        if value == OWN_THREAD:
            return None
        return NamedConversation(conversation_id=_check_key(value, param=name))
    if key := _key_in(request.metadata):
        return Chat(key=_check_key(key))
    for each in request.chat_keys:
        return Chat(key=_check_key(_to_key(each), param=each.path))
    return context.config.threads


def _key_in(metadata: Mapping[str, object]) -> str:
    """The chat's key in the metadata, or an empty string."""
    value = metadata.get(CHAT_KEY_METADATA)
    if value is None or isinstance(value, str):
        return value or ""
    text = as_text(value)
    if text is None:
        raise RequestError(
            f"`{{field}}`: expected a string or a number, got {json_name(value)}.",
            field=RequestField.CHAT_KEY,
            code="invalid_type",
        )
    return text


def _to_key(chosen: BodyField) -> str:
    """The chat's key in a field that the operator has chosen."""
    text = as_text(chosen.value)
    if text is None:
        raise RequestError(
            f"`{chosen.path}`: expected a string or a number, got {json_name(chosen.value)}. This server takes "
            "the chat's key from it.",
            param=chosen.path,
            code="invalid_type",
        )
    return text


def _check_key(key: str, *, param: str | None = None) -> str:
    """Check a chat's key, and return it.

    :param param: the header or the field that it comes from; None: the one in `metadata`.
    :raises RequestError: if it is too long, or not printable.
    """
    if not key.isprintable() or len(key) > _MAX_KEY_SIZE:
        named = f"`{param or '{field}'}`"
        raise RequestError(
            f"{named}: a chat's key is up to {_MAX_KEY_SIZE} printable characters; this one has {len(key)} "
            f"characters{'' if key.isprintable() else ', some of them not printable'}.",
            param=param,
            field=RequestField.CHAT_KEY if param is None else None,
        )
    return key


def _history(
    messages: tuple[Message, ...],
    speakers: SpeakerNames,
    *,
    calls_of: tuple[Message, ...] = (),
    is_new: bool = False,
) -> tuple[turn.Message, ...]:
    """Convert earlier messages, for a newly created conversation: calls and results as text.

    :param calls_of: still earlier messages, whose calls the results may belong to.
    :param is_new: whether the messages are by the author of the request.
    """
    converted: list[turn.Message] = []
    calls = {
        call.call_id: call
        for message in (*calls_of, *messages)
        if isinstance(message, AssistantMessage)
        for call in message.calls
    }
    for message in messages:
        match message:
            case UserMessage(content=content) if content:
                converted.append(speakers.convert(message, is_new=is_new))
            case AssistantMessage(content=content) if text := text_of(content):
                converted.append(turn.AgentMessage(content=text))
            case ToolMessage(tool_call_id=call_id, content=content):
                call = calls.get(call_id)
                what = (
                    "A tool was called"
                    if call is None
                    else f"The tool {call.name} was called with {call.arguments}"
                )
                converted.append(
                    turn.UserMessage(content=f"[{what}. It returned:]\n{turn.content_text(content)}")
                )
    return tuple(converted)


def _verdict(earlier: tuple[Message, ...], tail: tuple[Message, ...]) -> Verdict | None:
    """The decision in the user's message, if it is one. A message with an image is not."""
    written = [message.content for message in tail if isinstance(message, UserMessage) and message.content]
    if any(
        not isinstance(part, Text) for content in written if not isinstance(content, str) for part in content
    ):
        return None
    last = earlier[-1] if earlier else None
    seen = text_of(last.content) if isinstance(last, AssistantMessage) else None
    return read_verdict([text_of(content) for content in written], seen)


def _client_tool(tool: FunctionTool) -> Tool:
    parameters = tool.parameters if tool.parameters is not None else _EMPTY_SCHEMA
    return Tool(name=tool.agent_name, description=tool.description, parameters=parameters)
