"""The events that a turn reports, in the wire format of neither side.

The writer of a dialect turns them into bytes for the client.
"""

from enum import Enum
from typing import Final, TypeAlias

from attrs import field, frozen

from ..errors import Kept, SansioLettaError
from .agent import Agent

#: Characters of a tool's return that are reported, since it is shown within a chat.
RETURN_SIZE: Final = 2000

# --- Threads --------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class AgentThread:
    """The agent's own thread, without a conversation. The caller must run its turns one at a time."""

    agent_id: str


@frozen(kw_only=True)
class ConversationThread:
    """A conversation with an agent. The upstream runs its turns one at a time (conversation_busy.jsonl)."""

    conversation_id: str


Thread: TypeAlias = AgentThread | ConversationThread

# --- Events ---------------------------------------------------------------------------------------------------


class FinishReason(Enum):
    """Why the reply has ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


@frozen(kw_only=True)
class Usage:
    """Tokens of all steps of a turn together; None: not counted."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    context_tokens: int | None = None  #: not a sum: what the agent's context held after the last step
    step_count: int | None = None


@frozen(kw_only=True)
class AgentFound:
    """The agent that `model` resolved to, to be remembered."""

    model: str
    agent: Agent


@frozen(kw_only=True)
class AgentGone:
    """A remembered agent no longer exists."""

    agent_id: str


@frozen(kw_only=True)
class CallsSettled:
    """How calls and results that did not match were settled, before anything was sent."""

    missing: tuple[str, ...] = ()  #: pending calls that got an error result, since the client sent none
    stale: tuple[str, ...] = ()  #: results that were dropped, since no such call is pending
    denied: tuple[str, ...] = ()  #: pending calls that got a denial or no result: a message came instead


class Matched(Enum):
    """How a request's input differs from what follows the client's last assistant message."""

    REPEATED = "repeated"  #: the agent has heard it before, and hears it again for another answer
    EDITED = "edited"  #: the agent has heard another message in its place, and remembers both
    CAUGHT_UP = "caught-up"  #: the agent also hears earlier messages that it had not heard


@frozen(kw_only=True)
class InputMatched:
    """The input was matched with what the agent has heard, and is not what the client would expect."""

    how: Matched


@frozen(kw_only=True)
class ThreadGone:
    """A remembered conversation no longer exists."""

    thread: ConversationThread


@frozen(kw_only=True)
class TurnStarted:
    """The commit: the agent has begun to reply. From here on, a failure is an event in the stream."""


@frozen(kw_only=True)
class ReasoningDelta:
    """A fragment of the agent's reasoning."""

    text: str = field(repr=False)


@frozen(kw_only=True)
class TextDelta:
    """A fragment of the agent's reply."""

    text: str = field(repr=False)


@frozen(kw_only=True)
class CallStarted:
    """The agent calls one of the client's tools."""

    index: int  #: 0, 1, 2... in the reply
    call_id: str
    name: str


@frozen(kw_only=True)
class CallArguments:
    """A fragment of a call's arguments, JSON text as the model wrote it."""

    index: int
    fragment: str = field(repr=False)


@frozen(kw_only=True)
class ServerToolStarted:
    """The agent calls a tool of its own, which runs at the upstream."""

    call_id: str
    name: str


@frozen(kw_only=True)
class ServerToolArguments:
    """A fragment of the arguments of such a call, JSON text as the model wrote it."""

    call_id: str
    fragment: str = field(repr=False)


@frozen(kw_only=True)
class ServerToolReturned:
    """Such a call has returned."""

    call_id: str
    name: str | None  #: None: it was called in an earlier turn, and the upstream does not say
    failed: bool
    beginning: str = field(repr=False)  #: of what it returned, at most `RETURN_SIZE` characters


@frozen(kw_only=True)
class KeepAlive:
    """No news: the upstream is alive."""


@frozen(kw_only=True)
class TurnFinished:
    """The reply is complete. The last event of a turn, unless it failed."""

    reason: FinishReason
    usage: Usage | None  #: None: the stream ended without it


@frozen(kw_only=True)
class TurnFailed:
    """The reply will not be completed. The last event of a turn."""

    error: SansioLettaError
    kept: Kept


#: The parts of a reply. The frequent ones are first, since `isinstance` tests in this order.
ReplyEvent: TypeAlias = (
    TextDelta
    | ReasoningDelta
    | CallArguments
    | CallStarted
    | ServerToolArguments
    | ServerToolStarted
    | ServerToolReturned
    | KeepAlive
)
Event: TypeAlias = (
    ReplyEvent
    | AgentFound
    | AgentGone
    | CallsSettled
    | InputMatched
    | ThreadGone
    | TurnStarted
    | TurnFinished
    | TurnFailed
)
