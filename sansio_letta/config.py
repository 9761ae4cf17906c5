"""The limits and policies of the core."""

import re
from enum import Enum
from typing import Any, Final

from attrs import evolve, field, frozen, validators


class ReasoningField(Enum):
    """Where the agent's reasoning goes in deltas and messages. One field only: clients would show both."""

    REASONING_CONTENT = "reasoning_content"
    """DeepSeek's name, read by Open WebUI, Roo Code, Vercel's AI SDK and openai-agents."""
    REASONING = "reasoning"
    """OpenRouter's name; Roo Code does not read it."""
    OFF = "off"


class Background(Enum):
    """Which runs are started in Letta's background mode, so that a lost stream can be resumed.

    Letta 0.16.7 delivers the items of a background run every half second, not as they are produced. If the
    stream of another run is lost, the rest arrives in one piece once the run has ended.
    """

    AUTO = "auto"
    """Those whose answer is not streamed to the client."""
    ALWAYS = "always"
    NEVER = "never"


class InstructionPolicy(Enum):
    """How a client's system and developer messages are handled. The agent has a system prompt of its own."""

    ONCE = "once"
    """Sent as a system message before the input, unless the same text was the last one sent to the thread."""
    ALWAYS = "always"
    """Sent as a system message before every input."""
    OVERRIDE = "override"
    """Replace the agent's own system prompt for the turn."""
    IGNORE = "ignore"
    """Not sent; a response header names them."""


class TaskPolicy(Enum):
    """How background prompts are handled: those of the client program rather than of its user."""

    ISOLATE = "isolate"
    """Run in a temporary conversation, which is deleted afterwards."""
    PASS = "pass"
    """Sent to the agent like any other message."""
    REFUSE = "refuse"
    """Refused with an error."""
    ALL = "all"
    """Every request is isolated: the agent answers it and remembers nothing."""


class Threads(Enum):
    """Where a request goes that does not name its chat."""

    AGENT = "agent"
    """To the agent's main thread."""
    TRANSCRIPT = "transcript"
    """To a conversation of its transcript, recognised by its messages."""


class Speakers(Enum):
    """How the agent learns which person a user message is from."""

    NAME = "name"
    """From the message's `name`, which Letta stores and passes to models behind OpenAI's API."""
    TEXT = "text"
    """The same, and in front of the text, for models that see no names: Anthropic's, Google's."""
    OFF = "off"


class Approvals(Enum):
    """What happens to a call of the agent's own tool that requires human approval in Letta."""

    ASK = "ask"
    """The reply asks for it; the next user message decides."""
    ALLOW = "allow"
    """Approved at once; the reply continues."""
    DENY = "deny"
    """Denied at once; the reply continues."""


class AgentToolPolicy(Enum):
    """Which of the agent's own tools may be used at an App Server, where they run on the server's host.

    The operator may also list them: see `NamedTools`.
    """

    ASK = "ask"
    """All; except for its memory, the reply asks for each call, and the next user message decides."""
    MEMORY = "memory"
    """Those that read and edit its memory, within the memory's folder."""
    NONE = "none"
    """None. The agent remembers only its conversations."""


#: A tool's name, as far as an operator may list it.
_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")


@frozen
class NamedTools:
    """These of the agent's own tools, without a question, on any file; in place of an `AgentToolPolicy`.

    :param names: ``memory`` among them adds what that policy allows.
    """

    names: tuple[str, ...]

    @property
    def value(self) -> str:
        """The names, as `read` takes them."""
        return ",".join(self.names)

    @classmethod
    def read(cls, text: str) -> "NamedTools | None":
        """Read names between commas or blanks; None if they are not names, or if there are none."""
        names = re.split(r"[\s,]+", text.strip(" \t,"))
        closed = {AgentToolPolicy.ASK.value, AgentToolPolicy.NONE.value}
        if not all(_TOOL_NAME.fullmatch(name) and name not in closed for name in names):
            return None
        return cls(tuple(dict.fromkeys(names)))


class Enforcement(Enum):
    """How structured output is handled: JSON as the reply, or a forced tool call. Letta cannot enforce it."""

    VALIDATE = "validate"
    """The agent is asked for it, and its reply is validated before it is sent; it gets one more try."""
    IGNORE = "ignore"
    """Ignored; a response header names the fields."""
    REFUSE = "refuse"
    """Refused with an error."""


class ClientTools(Enum):
    """How an agent gets the tools that a client offers."""

    AUTO = "auto"
    """With the request, if the agent's type accepts them there; otherwise attached for the turn."""
    NATIVE = "native"
    """With the request; an error for agents that do not accept them there."""
    ATTACH = "attach"
    """Attached to the agent for the turn, whatever its type: for servers that ignore a request's tools."""


class UsageCount(Enum):
    """What an answer's usage counts if the agent took several steps."""

    CONTEXT = "context"
    """The context after the last step, which programs read as the size of the chat; `letta` has the sums."""
    SUM = "sum"
    """The tokens of all steps together, which is what the turn cost."""


class ServerTools(Enum):
    """How the client sees calls of the agent's own tools."""

    HIDDEN = "hidden"
    REASONING = "reasoning"
    """As lines in the reasoning: the call, and the start of its result."""
    STATUS = "status"
    """As status events next to the chunks, which Open WebUI shows. Only in streams."""


#: Typed as Any, because attrs ties a validator to the type of number it was made with.
_positive: Final[Any] = validators.gt(0)
_not_negative: Final[Any] = validators.ge(0)


#: A field of a client's body, or of an object in it.
_BODY_FIELD: Final = re.compile(r"[a-z_]{1,64}(\.[^\s]{1,64})?")


def _check_body_fields(_: object, attribute: object, paths: tuple[str, ...]) -> None:
    for path in paths:
        if not _BODY_FIELD.fullmatch(path):
            name = getattr(attribute, "name", "fields")
            raise ValueError(
                f"{name}: expected a field of a request's body, like `a_field` or `an_object.its_field`, got "
                f"{path[:100]!r}"
            )


@frozen(kw_only=True)
class Config:
    """Limits and policies of the core. Sizes are in bytes, timeouts in seconds."""

    #: Size of one client request. OpenAI accepts 50 MB with images, nginx 1 MB.
    max_request_size: int = field(default=32 * 1024 * 1024, validator=_positive)
    #: JSON values in one request, counted by its commas: parsing 500,000 takes a quarter of a second without
    #: interruption. Commas in texts count as well; a book has 20,000.
    max_value_count: int = field(default=500_000, validator=_positive)
    #: Messages in one request, including old ones. Anthropic has the same limit; OpenAI accepts 2,048.
    max_message_count: int = field(default=100_000, validator=_positive)
    #: Content parts of all new messages together. Gemini accepts 3,600 images.
    max_part_count: int = field(default=10_000, validator=_positive)
    #: Tools in one request. OpenAI accepts 128.
    max_tool_count: int = field(default=1024, validator=_positive)
    #: One event of Letta's stream. A result of the agent's own tool is a single event, however long.
    max_event_size: int = field(default=8 * 1024 * 1024, validator=_positive)
    #: What an App Server has sent of a reply and the client has not read: the connection is shared and cannot
    #: wait. Beyond this, the rest is read from the conversation later.
    max_unread_size: int = field(default=8 * 1024 * 1024, validator=_positive)
    #: A whole JSON response from Letta, such as a page of agents with their memory blocks.
    max_answer_size: int = field(default=32 * 1024 * 1024, validator=_positive)
    #: The longest string in one delta, as JSON. Line readers with a limit of 64 KB (aiohttp's default) must
    #: manage.
    max_fragment_size: int = field(default=32 * 1024, validator=validators.ge(64))
    #: Agents in `GET /v1/models`; the list is cut off after this many.
    max_agent_count: int = field(default=10_000, validator=_positive)
    #: Agents per page when they are listed. Letta's own default is 50.
    agent_page_count: int = field(default=100, validator=_positive)
    #: How long the agent found for a name is remembered.
    agent_ttl: float = field(default=60.0, validator=_not_negative)
    #: How many such names are remembered.
    max_remembered_agent_count: int = field(default=4096, validator=_positive)
    #: A streaming client gets a comment after this time without data. undici times out after 300, nginx after
    #: 60.
    keepalive_timeout: float = field(default=15.0, validator=_positive)
    #: A streamed response that has no content after this time starts with a comment. Vapi waits 20 seconds for
    #: a response to start, nginx 60. From then on a failure is an error in the stream rather than a status. 0:
    #: never.
    early_response_timeout: float = field(default=15.0, validator=_not_negative)
    #: A stream from Letta counts as lost after this time without data, pings included. Letta pings every 20 s.
    letta_silence_timeout: float = field(default=120.0, validator=_positive)
    #: Until the first item of a run's stream, which brings the run's id.
    first_item_timeout: float = field(default=60.0, validator=_positive)
    #: A lookup in Letta without a response for this long has failed. Letta's own lists take seconds at worst.
    letta_answer_timeout: float = field(default=30.0, validator=_positive)
    #: A whole turn, from the request to its last chunk. Agents may work for long, but no client waits for
    #: hours.
    turn_timeout: float = field(default=3600.0, validator=_positive)
    #: How long a turn waits for the previous one in its thread, and for Letta's own lock, before it gets a 409.
    queue_timeout: float = field(default=60.0, validator=_not_negative)
    #: How long a message from another client waits for the results of a call that the agent has made; then the
    #: call is answered without a result. 0: at once.
    pending_call_timeout: float = field(default=60.0, validator=_not_negative)
    #: How long a thread is left alone after a run in it was cancelled: Letta may keep its step even so. 0: not.
    #: Letta 0.16.7 looks for a cancellation with an item of the run's stream, at most once in half a second. A
    #: step that ends before it has looked is kept.
    cancelled_run_timeout: float = field(default=1.0, validator=_not_negative)
    #: Turns that may wait in one thread. Chat programs send a handful at once.
    max_queue_count: int = field(default=32, validator=_not_negative)
    #: Pauses between attempts to connect to Letta, in total: long enough for a restart behind a load balancer.
    connect_retry_timeout: float = field(default=0.75, validator=_not_negative)
    #: The same while a run of ours continues unobserved: long enough for a restart of Letta itself.
    resume_timeout: float = field(default=30.0, validator=_not_negative)
    #: How system and developer messages are handled. Coding agents depend on theirs.
    instructions: InstructionPolicy = InstructionPolicy.ONCE
    #: Where a request goes that does not name its chat.
    threads: Threads = Threads.AGENT
    #: How background prompts are handled, such as a chat program's request for a title.
    tasks: TaskPolicy = TaskPolicy.ISOLATE
    #: Beginnings of further background prompts: of a system message, or of the last user message.
    task_prompts: tuple[str, ...] = ()
    #: Messages of a thread that are read to find out what the agent has heard of a transcript: once for each
    #: thread that is not remembered. 0: never; what follows the last assistant message counts as new.
    lookback_count: int = field(default=100, validator=_not_negative)
    #: How the agent learns who is speaking, if several people are.
    speakers: Speakers = Speakers.NAME
    #: Fields of the body that name the person if neither the message nor a header does, in order of precedence.
    #: Off by default: most programs send an account's id there, or nothing that is a name.
    speaker_fields: tuple[str, ...] = field(default=(), validator=_check_body_fields)
    #: Threads remembered, with the conversation of their chat and the system prompt last sent to them.
    max_remembered_thread_count: int = field(default=4096, validator=_positive)
    #: A run whose stream was lost is cancelled if it still runs after this time, according to Letta. Letta
    #: reports a run killed by a restart as running forever. A client that does not stream has timed out by
    #: then.
    lost_run_timeout: float = field(default=600.0, validator=_positive)
    #: Whether runs are started with a marker by which they can be found before their id is known. Without it, a
    #: run whose id never arrived can be neither cancelled nor resumed.
    finds_runs: bool = True
    #: Which runs are started so that their stream can be resumed.
    background: Background = Background.AUTO
    #: How long answers and interrupted turns are remembered for retries.
    repeat_ttl: float = field(default=300.0, validator=_not_negative)
    #: Answers stored for retries, in total, in characters of text.
    max_kept_answer_size: int = field(default=64 * 1024 * 1024, validator=_not_negative)
    #: How long to wait for the retry of a client that disconnects before its answer has begun, in addition to
    #: the client's own pause. The official SDKs pause for half a second, doubling up to 8.
    repeat_wait_timeout: float = field(default=1.0, validator=_not_negative)
    #: Whether a retry joins its turn while that is running. A program that drives both requests in one thread
    #: would wait for itself; without this, the retry waits for the first turn to end.
    joins_repeats: bool = True
    #: Headers that name a chat, in order of precedence. Each chat has its own conversation in Letta.
    #: `X-Letta-Conversation-Id` names an existing one. Requests without any go to the agent's main thread.
    chat_key_headers: tuple[str, ...] = (
        "x-letta-conversation-id",
        "x-letta-chat-key",
        "x-openwebui-chat-id",
        "x-session-id",
        "agent-session-id",
        "session-id",
        "x-litellm-session-id",
    )
    #: Fields of the body that name a chat if nothing else does, in order of precedence. Off by default: what
    #: they mean depends on the program, and some send a constant.
    chat_key_fields: tuple[str, ...] = field(default=(), validator=_check_body_fields)
    #: What usage counts. Programs that compact long chats compare it with the context window.
    usage: UsageCount = UsageCount.CONTEXT
    #: The field for reasoning.
    reasoning_field: ReasoningField = ReasoningField.REASONING_CONTENT
    #: What happens when one of the agent's own tools requires human approval.
    approvals: Approvals = Approvals.ASK
    #: How many approvals a turn may decide automatically. Letta's limit of 50 steps starts anew after each.
    max_approval_count: int = field(default=50, validator=_not_negative)
    #: Which of the agent's own tools may be used at an App Server. Letta's REST API has rules of its own.
    agent_tools: AgentToolPolicy | NamedTools = AgentToolPolicy.MEMORY
    #: How `response_format` and a forced `tool_choice` are handled.
    enforcement: Enforcement = Enforcement.VALIDATE
    #: How agents get a client's tools.
    client_tools: ClientTools = ClientTools.AUTO
    #: How long a client tool that is attached to agents is kept in Letta, for the next turn that uses it. If
    #: the process dies, it also stays attached for no longer. Some clients ask their users before they run a
    #: tool.
    client_tool_ttl: float = field(default=300.0, validator=_positive)
    #: How calls of the agent's own tools are shown.
    server_tools: ServerTools = ServerTools.HIDDEN

    def without_pauses(self) -> "Config":
        """Return the same config for a replay, which already has all the responses it will ever get."""
        return evolve(
            self, queue_timeout=0.0, cancelled_run_timeout=0.0, connect_retry_timeout=0.0, resume_timeout=0.0
        )
