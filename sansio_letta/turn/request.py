"""A turn's request, independent of any wire format: a dialect builds it, an upstream translates it."""

from collections.abc import Mapping
from hashlib import sha256
from math import ceil
from typing import Any, ClassVar, Final, TypeAlias

from attrs import evolve, field, frozen

from ..config import InstructionPolicy
from .approval import Verdict
from .reply_format import CallReply, JsonReply, ReplyFormat, retry_message

#: The header by which a client names an existing conversation.
CONVERSATION_HEADER: Final = "X-Letta-Conversation-Id"
_YEAR: Final = 365 * 24 * 3600

# --- Input ----------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Text:
    """Text among the parts of a message."""

    text: str = field(repr=False)


@frozen(kw_only=True)
class Image:
    """An image among the parts of a message.

    :param url: ``http:``, ``https:``, or ``data:`` with the image in base64.
    """

    url: str = field(repr=False)


Part: TypeAlias = Text | Image
Content: TypeAlias = str | tuple[Part, ...]


@frozen(kw_only=True)
class UserMessage:
    """A message to the agent.

    :param name: of its author.
    """

    content: Content = field(repr=False)
    name: str | None = field(default=None, repr=False)


@frozen(kw_only=True)
class AgentMessage:
    """A message of the agent, in a history."""

    content: str = field(repr=False)


@frozen(kw_only=True)
class SystemMessage:
    """A message to the agent that no person has written."""

    content: str = field(repr=False)


Message: TypeAlias = UserMessage | AgentMessage | SystemMessage


@frozen(kw_only=True)
class ToolResult:
    """The result of a pending call."""

    call_id: str
    content: Content = field(repr=False)
    is_error: bool = False


@frozen(kw_only=True)
class Decision:
    """Whether a pending call is allowed, with a reason for the agent."""

    call_id: str
    approve: bool
    reason: str | None = field(default=None, repr=False)


#: The answer to a pending call.
CallAnswer: TypeAlias = ToolResult | Decision


@frozen(kw_only=True)
class Tool:
    """A tool that the client carries out.

    :param parameters: a JSON Schema.
    """

    name: str
    parameters: Mapping[str, Any] = field(repr=False)
    description: str | None = field(default=None, repr=False)


# --- Thread ---------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Chat:
    """The client's chat with this key."""

    key: str


@frozen(kw_only=True)
class NamedConversation:
    """A conversation that the client names by its id at the upstream."""

    conversation_id: str


@frozen(kw_only=True)
class Throwaway:
    """A conversation for one prompt, deleted once the agent has no more pending calls.

    :param token: unique.
    :param until: when the turn must be over, in Unix seconds.
    :param call_ids: of the calls whose results the request contains. If there are any, the conversation exists.
    """

    token: str
    until: int = 0
    call_ids: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The same for all requests with results of the same calls, since they continue one conversation."""
        return f"task {self.call_ids if self.call_ids else self.token}"


#: None: the agent's own thread.
ThreadChoice: TypeAlias = Chat | NamedConversation | Throwaway | None


def thread_kind(choice: ThreadChoice) -> str:
    """The kind of thread in one word, for logs and counters."""
    match choice:
        case Chat():
            return "chat"
        case NamedConversation():
            return "conversation"
        case Throwaway():
            return "task"
        case None:
            return "agent"


def task_end(start: int, seconds: float) -> int:
    """The Unix time, in seconds, when something must be over: at most a year from its start.

    :param start: in Unix seconds.
    """
    return start + ceil(min(seconds, _YEAR))


# --- The request ----------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Instructions:
    """The client's instructions to the agent."""

    text: str = field(repr=False)
    policy: InstructionPolicy

    #: What is sent to a thread again replaces what it was sent before for the same slot.
    slot: ClassVar[str] = "instructions"

    @property
    def digest(self) -> bytes:
        """A hash of the text, to notice a change."""
        return sha256(self.text.encode()).digest()


#: What is sent to a thread once, and again when it changes.
StandingInstruction: TypeAlias = Instructions | JsonReply


@frozen(kw_only=True)
class TurnRequest:
    """What a client wants from a turn, before the agent is known.

    :param model: the agent's name or id, as the client gave it.
    :param messages: the new input, in order.
    :param results: the client's results of pending calls, in order.
    :param client_tools: the client's tools for this turn.
    :param client_tool_names: the client's own names of tools that are renamed in `client_tools`, by the new.
    :param thread: which thread of the agent the input is for.
    :param history: the messages before the input, for a newly created conversation.
    :param input_as_text: the results and messages as text, for a conversation without the calls.
    :param past_results: results in the client's history, whose calls may still be pending.
    :param verdict: the decision that the input expresses if calls wait for a human's approval.
    :param reply_format: the format that the reply must have; None: any.
    :param stop: stop sequences.
    :param one_call: whether the client accepts only one call at a time.
    :param preamble: messages before the input, for this turn only.
    :param forces_call: whether the client requires a call, be that enforced or not.
    :param leaves_calls: whether the client's history ends with calls, and the request has no results of them.
    """

    model: str
    messages: tuple[Message, ...] = ()
    results: tuple[CallAnswer, ...] = ()
    client_tools: tuple[Tool, ...] = ()
    client_tool_names: Mapping[str, str] = field(factory=dict)
    thread: ThreadChoice = None
    history: tuple[Message, ...] = ()
    input_as_text: tuple[Message, ...] = ()
    instructions: Instructions | None = None
    past_results: tuple[ToolResult, ...] = ()
    verdict: Verdict | None = None
    reply_format: ReplyFormat | None = None
    stop: tuple[str, ...] = ()
    one_call: bool = False
    preamble: tuple[Message, ...] = ()
    forces_call: bool = False
    leaves_calls: bool = False

    def without_input(self) -> "TurnRequest":
        """The request once the agent has its input: from then on, only answers to pending calls are sent."""
        given = self.instructions
        lasts = given is not None and given.policy is InstructionPolicy.OVERRIDE
        return evolve(
            self,
            messages=(),
            results=(),
            history=(),
            input_as_text=(),
            verdict=None,
            instructions=given if lasts else None,
            preamble=(),
        )

    def with_tool_names(self, names: Mapping[str, str]) -> "TurnRequest":
        """The request with the names under which the agent has the client's tools.

        :param names: the agent's names, by the client's.
        """
        if not isinstance(self.reply_format, CallReply) or not names:
            return self
        reply_format = evolve(
            self.reply_format, names=tuple(names.get(name, name) for name in self.reply_format.names)
        )
        preamble = (SystemMessage(content=reply_format.prompt),) if self.preamble else ()
        return evolve(self, reply_format=reply_format, preamble=preamble)

    def with_results_as_text(self) -> "TurnRequest":
        """The request for a conversation in which no calls are pending."""
        return evolve(self, messages=self.input_as_text, results=(), input_as_text=(), past_results=())

    def for_retry(self, problem: str, *, in_full: bool) -> "TurnRequest":
        """The request that follows a reply which is not in the required format.

        :param problem: what is wrong with the reply.
        :param in_full: whether to repeat the schema.
        """
        assert self.reply_format is not None
        text = retry_message(self.reply_format, problem, in_full=in_full)
        message = SystemMessage(content=text)
        return evolve(self.without_input(), messages=(message,))
