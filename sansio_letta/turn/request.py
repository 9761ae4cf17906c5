"""A turn's request, independent of any wire format: a dialect builds it, an upstream translates it."""

import re
from collections.abc import Collection, Mapping
from hashlib import sha256
from math import ceil
from typing import Any, Final, TypeAlias

from attrs import evolve, field, frozen

from ..config import InstructionPolicy
from .approval import Verdict
from .reply_format import CallReply, JsonReply, ReplyFormat, retry_message

#: The header by which a client names an existing conversation.
CONVERSATION_HEADER: Final = "X-Letta-Conversation-Id"
#: What it holds for the agent's own thread; the agent's id means the same.
OWN_THREAD: Final = "default"
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


def content_text(content: Content, image: str = "[image]") -> str:
    """Return content as text, a part a line.

    :param image: what stands in place of each image.
    """
    if isinstance(content, str):
        return content
    return "\n".join(part.text if isinstance(part, Text) else image for part in content)


#: Begins every mark; another version's are not read.
_MARK_VERSION: Final = "lp1"
#: An upstream may add what makes it unique.
_MARK: Final = re.compile(rf"{_MARK_VERSION}-([0-9a-f]{{32}})-([0-9a-f]{{32}})(?:-[0-9A-Za-z-]{{1,80}})?")


@frozen
class Mark:
    """What a message carries at the upstream, by which a thread tells later what it has heard. See `ledger`.

    :param content: a digest of the message.
    :param chain: a digest of the user messages before it in the client's transcript.
    """

    content: str
    chain: str

    @property
    def text(self) -> str:
        """The mark as the upstream keeps it: no text of the message and no secret."""
        return f"{_MARK_VERSION}-{self.content}-{self.chain}"

    @classmethod
    def read(cls, text: str | None) -> "Mark | None":
        """Read a message's mark; None if it has none of ours."""
        found = _MARK.fullmatch(text or "")
        return cls(found[1], found[2]) if found else None


@frozen(kw_only=True)
class UserMessage:
    """A message to the agent.

    :param name: of its author.
    """

    content: Content = field(repr=False)
    name: str | None = field(default=None, repr=False)
    mark: Mark | None = None


@frozen(kw_only=True)
class AgentMessage:
    """A message of the agent, as the client has it.

    :param content: empty beside calls.
    """

    content: str = field(repr=False)


@frozen(kw_only=True)
class SystemMessage:
    """A message to the agent that no person has written."""

    content: str = field(repr=False)
    mark: Mark | None = None


Message: TypeAlias = UserMessage | AgentMessage | SystemMessage


@frozen(kw_only=True)
class ToolResult:
    """The result of a pending call.

    :param name: of the tool, if the client's history has the call.
    """

    call_id: str
    content: Content = field(repr=False)
    is_error: bool = False
    name: str | None = None


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


@frozen(kw_only=True)
class Step:
    """A user message of a transcript, and what the client shows as the answer to it.

    :param chain: of what follows the message, see `Mark`: the same for all transcripts that go so far.
    :param reply: the last text before the next user message; None if there is none.
    """

    mark: Mark
    chain: str
    reply: str | None = field(default=None, repr=False)


@frozen(kw_only=True)
class TranscriptChat:
    """The chat of a transcript that does not name it.

    :param first: the digest of the first user message, or of the first message if there is none.
    :param steps: the last user messages, oldest first.
    :param call_ids: of the calls whose results the request brings.
    :param scope: of the caller: another one's transcript is another chat.
    :param is_retry: the request may have been sent before.
    """

    first: str
    steps: tuple[Step, ...] = field(default=(), repr=False)
    call_ids: frozenset[str] = frozenset()
    scope: str = ""
    is_retry: bool = False

    @property
    def root(self) -> str:
        """What its conversation is found by."""
        return self._digest(self.first)

    @property
    def begins(self) -> bool:
        """Whether it is a new chat, even if another one has begun with the same message."""
        return len(self.steps) < 2 and not self.call_ids and not self.is_retry

    @property
    def points(self) -> tuple[str, ...]:
        """What a transcript is remembered by that goes as far as each step, the last one first."""
        return tuple(self._digest(step.chain) for step in reversed(self.steps)) or (self.root,)

    def _digest(self, text: str) -> str:
        return sha256(f"{self.scope}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


#: None: the agent's own thread.
ThreadChoice: TypeAlias = Chat | NamedConversation | TranscriptChat | Throwaway | None


def thread_kind(choice: ThreadChoice) -> str:
    """The kind of thread in one word, for logs and counters."""
    match choice:
        case Chat():
            return "chat"
        case NamedConversation():
            return "conversation"
        case TranscriptChat():
            return "transcript"
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
class KnownInstructions:
    """What a thread has been given of the client's instructions.

    :param digests: of those that the client sent last.
    :param lines: digests of their lines; empty if these are not known.
    """

    digests: frozenset[str] = frozenset()
    lines: frozenset[str] = frozenset()

    def has(self, message: Message) -> bool:
        """Whether a message is one of them."""
        mark = message.mark if isinstance(message, SystemMessage) else None
        return mark is not None and mark.content in self.digests


#: What a thread knows that has been given none.
NO_INSTRUCTIONS: Final = KnownInstructions()


@frozen(kw_only=True)
class Instructions:
    """The client's instructions to the agent.

    :param messages: each with its mark: if one changes, the others are not sent again.
    :param known: those that the thread has been given.
    """

    messages: tuple[SystemMessage, ...] = field(repr=False)
    policy: InstructionPolicy
    known: KnownInstructions = NO_INSTRUCTIONS

    @property
    def text(self) -> str:
        """All of them together."""
        return "\n\n".join(message.content for message in self.messages)

    @property
    def new(self) -> tuple[SystemMessage, ...]:
        """Those that the thread must be given; of long ones that have hardly changed, the lines that have."""
        new = [message for message in self.messages if not self.known.has(message)]
        known = self.known.lines
        # If lines are gone, no other line says so.
        if not new or not known or len(known - self.lines) > len(self.lines - known):
            return tuple(new)
        return tuple(_changes(message, known) for message in new)

    @property
    def digests(self) -> frozenset[str]:
        """What they are recognised by."""
        return frozenset(message.mark.content for message in self.messages if message.mark is not None)

    @property
    def lines(self) -> frozenset[str]:
        """Digests of their lines; empty if there are too many to remember."""
        lines = [line for message in self.messages for line in message.content.splitlines()]
        return frozenset(map(_digest_line, lines)) if len(lines) <= _MAX_LINE_COUNT else frozenset()


#: Lines of instructions that are remembered.
_MAX_LINE_COUNT: Final = 2000
#: A message is sent whole if more than one of so many lines is new.
_FEW: Final = 4
_CHANGED: Final = "[These lines of your instructions have changed. They now read:]\n"


def _changes(message: SystemMessage, known: Collection[str]) -> SystemMessage:
    """Return a message with the lines that are not known, or the message itself if these are not few."""
    lines = message.content.splitlines()
    new = [line for line in lines if line.strip() and _digest_line(line) not in known]
    if not new or len(new) * _FEW > len(lines):
        return message
    return evolve(message, content=_CHANGED + "\n".join(new))


def _digest_line(line: str) -> str:
    return sha256(line.encode("utf-8", "surrogatepass")).hexdigest()[:16]


#: A client's messages without its instructions, oldest first; none without content.
TranscriptItem: TypeAlias = Message | ToolResult


#: What is sent to a thread once, and again when it changes.
StandingInstruction: TypeAlias = JsonReply


@frozen(kw_only=True)
class TurnRequest:
    """What a client wants from a turn, before the agent is known.

    :param model: the agent's name or id, as the client gave it.
    :param messages: the new input, in order.
    :param results: the client's results of pending calls, in order.
    :param client_tools: the client's tools for this turn.
    :param client_tool_names: the client's own names of tools that are renamed in `client_tools`, by the new.
    :param thread: which thread of the agent the input is for.
    :param transcript: all messages that the client has sent; empty if it is not compared with a thread.
    :param history: the messages before the input that the agent has not heard. In a `Throwaway` all of them, if
        the conversation is newly created.
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
    transcript: tuple[TranscriptItem, ...] = field(default=(), repr=False)
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

    @property
    def instruction_digests(self) -> frozenset[str]:
        """What all system and developer messages are recognised by, those in their place included."""
        marks = (item.mark for item in self.transcript if isinstance(item, SystemMessage))
        in_place = frozenset(mark.content for mark in marks if mark is not None)
        return in_place if self.instructions is None else in_place | self.instructions.digests

    def with_new_input(
        self, earlier: tuple[Message, ...], messages: tuple[Message, ...], known: KnownInstructions
    ) -> "TurnRequest":
        """The request once it is known what the agent has heard.

        :param earlier: what it has not heard of what comes before the input.
        :param messages: the input.
        :param known: the instructions that it has been given.
        """
        given = self.instructions
        if given is not None and given.policy is InstructionPolicy.ONCE:
            given = evolve(given, known=known)
        if self.results or any(isinstance(message, UserMessage) for message in messages):
            messages = tuple(message for message in messages if not known.has(message))
        if not earlier and not self.history and messages == self.messages and given is self.instructions:
            return self
        return evolve(self, history=earlier, messages=messages, instructions=given)

    def without_results(self, call_ids: Collection[str]) -> "TurnRequest":
        """Return the request once it is known that results are older than what the agent has heard last."""
        if not call_ids:
            return self
        old = (each for each in self.results if each.call_id in call_ids and isinstance(each, ToolResult))
        new = tuple(each for each in self.results if each.call_id not in call_ids)
        return evolve(self, results=new, past_results=(*self.past_results, *old))

    def with_late_results(self, messages: tuple[Message, ...], call_ids: Collection[str]) -> "TurnRequest":
        """The request once it is known that calls do not wait for their results any more.

        :param messages: by which the results are told.
        :param call_ids: of the calls.
        """
        if not call_ids:
            return self
        return evolve(
            self,
            messages=(*messages, *self.messages),
            results=tuple(result for result in self.results if result.call_id not in call_ids),
            past_results=tuple(result for result in self.past_results if result.call_id not in call_ids),
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
