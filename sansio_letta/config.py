"""Every limit and policy of the core, by name."""

from enum import Enum
from typing import Any, Final

from attrs import evolve, field, frozen, validators


class ReasoningField(Enum):
    """Where the agent's reasoning goes in deltas and messages; clients show two fields as two texts."""

    REASONING_CONTENT = "reasoning_content"
    """DeepSeek's name, read by Open WebUI, Roo Code, Vercel's AI SDK and openai-agents."""
    REASONING = "reasoning"
    """OpenRouter's name; Roo Code does not read it."""
    OFF = "off"


class Background(Enum):
    """Which runs are started in Letta's background, so that a lost stream can be taken up again.

    Letta 0.16.7 gives a background run's items out every half second, not as they come. A lost stream of
    another run is not taken up again: its end is awaited, and the rest is told in one piece.
    """

    AUTO = "auto"
    """Those whose answer is not streamed to the client."""
    ALWAYS = "always"
    NEVER = "never"


class InstructionPolicy(Enum):
    """What becomes of a client's system and developer messages; the agent has instructions of its own."""

    ONCE = "once"
    """A system message before the input, when they differ from what the thread was last given."""
    ALWAYS = "always"
    """The same before every input."""
    OVERRIDE = "override"
    """In place of the agent's own, for the turn."""
    IGNORE = "ignore"
    """Nothing; a header of the answer names them."""


class TaskPolicy(Enum):
    """What becomes of a prompt that is not the user's."""

    ISOLATE = "isolate"
    """It runs in a conversation of its own, which is deleted afterwards."""
    PASS = "pass"
    """It is said to the agent like any other."""
    REFUSE = "refuse"
    """It is answered with an error."""
    ALL = "all"
    """Every request is taken for one, and isolated: the agent answers, and remembers nothing."""


class Speakers(Enum):
    """How the agent learns which person a user message is from."""

    NAME = "name"
    """In the message's `name`, which Letta keeps and shows to models of OpenAI's wire."""
    TEXT = "text"
    """The same, and in front of the text, for models that are shown no names: Anthropic's, Google's."""
    OFF = "off"


class Approvals(Enum):
    """What becomes of a call of the agent's own tool that Letta will not carry out without a human."""

    ASK = "ask"
    """The reply says what the agent wants to run; the next user message settles it."""
    ALLOW = "allow"
    """It is allowed at once, and the reply goes on."""
    DENY = "deny"
    """It is denied at once, and the reply goes on."""


class Enforcement(Enum):
    """What becomes of a wish that Letta cannot be held to: JSON as the reply, or a call of a certain tool."""

    VALIDATE = "validate"
    """The agent is asked for it, and its reply is checked before it is told; it is asked again once."""
    IGNORE = "ignore"
    """Nothing; a header of the answer names the fields."""
    REFUSE = "refuse"
    """The request is an error."""


class ClientTools(Enum):
    """How an agent is given the tools that a client offers."""

    AUTO = "auto"
    """With the request, if the agent's type takes them there; else by attaching them to the agent."""
    NATIVE = "native"
    """With the request; for an agent that does not take them there the request is an error."""
    ATTACH = "attach"
    """By attaching them to the agent, whatever its type: for servers that ignore those of a request."""


class UsageCount(Enum):
    """What an answer's usage counts, where the agent took several steps on its own."""

    CONTEXT = "context"
    """The context as the last step left it, which programs take for the size of their chat. The sum is beside
    it, in `letta`."""
    SUM = "sum"
    """The tokens of all steps together: what the turn has cost."""


class ServerTools(Enum):
    """How the client sees the tools that Letta carries out for the agent."""

    HIDDEN = "hidden"
    REASONING = "reasoning"
    """As lines among the reasoning: the call, and how its return begins."""
    STATUS = "status"
    """As status events beside the answer's chunks, which Open WebUI shows. Streams alone can have them."""


#: Typed for numbers of any kind; attrs ties a validator to the type it was made with.
_positive: Final[Any] = validators.gt(0)
_not_negative: Final[Any] = validators.ge(0)


@frozen(kw_only=True)
class Config:
    """Limits and policies of the core. Sizes are bytes, timeouts seconds."""

    #: One client request; OpenAI takes 50 MB with images, nginx 1 MB.
    max_request_size: int = field(default=32 * 1024 * 1024, validator=_positive)
    #: JSON values of one request, by its commas: reading 500,000 takes a quarter of a second, in one piece. The
    #: commas of texts count as well; a book has 20,000.
    max_value_count: int = field(default=500_000, validator=_positive)
    #: Messages of one request, old ones included: Anthropic's limit, too; OpenAI takes 2,048.
    max_message_count: int = field(default=100_000, validator=_positive)
    #: Parts in the content of new messages, all together. Gemini takes 3,600 pictures.
    max_part_count: int = field(default=10_000, validator=_positive)
    #: Tools of one request; OpenAI takes 128.
    max_tool_count: int = field(default=1024, validator=_positive)
    #: One event of Letta's stream; aiohttp's line readers end at 128 KB, but a server tool's return comes as
    #: one line.
    max_event_size: int = field(default=8 * 1024 * 1024, validator=_positive)
    #: A whole JSON answer of Letta: a page of agents with their memory blocks.
    max_answer_size: int = field(default=32 * 1024 * 1024, validator=_positive)
    #: The longest string in one delta, as JSON: line readers of 64 KB (aiohttp's default) must get through.
    max_fragment_size: int = field(default=32 * 1024, validator=validators.ge(64))
    #: Agents in `GET /v1/models`; a listing beyond it ends there.
    max_agent_count: int = field(default=10_000, validator=_positive)
    #: Agents asked for at once while listing. Letta's own page is 50.
    agent_page_count: int = field(default=100, validator=_positive)
    #: How long a found agent is remembered.
    agent_ttl: float = field(default=60.0, validator=_not_negative)
    #: Names remembered at most.
    max_remembered_agent_count: int = field(default=4096, validator=_positive)
    #: A comment goes to a streaming client after this silence; undici gives up after 300, nginx after 60.
    keepalive_timeout: float = field(default=15.0, validator=_positive)
    #: A streamed answer of which nothing has come for this long begins all the same, with a comment: for a head
    #: Vapi waits 20 seconds, nginx 60. From then on a failure is an error in the stream, and no status. 0: it
    #: never begins before the agent's first word.
    early_response_timeout: float = field(default=15.0, validator=_not_negative)
    #: No byte from Letta, pings included, for this long: the stream counts as lost. Letta pings every 20 s.
    letta_silence_timeout: float = field(default=120.0, validator=_positive)
    #: Until a run's stream begins: Letta names the run at once.
    first_item_timeout: float = field(default=60.0, validator=_positive)
    #: A question to Letta that is not answered for this long has failed; its own lists take seconds at worst.
    letta_answer_timeout: float = field(default=30.0, validator=_positive)
    #: A whole turn, from the request to its last chunk. Agents work for long; nobody waits for hours.
    turn_timeout: float = field(default=3600.0, validator=_positive)
    #: How long a turn waits for the one before it in its thread, and for Letta's own lock; then 409.
    queue_timeout: float = field(default=60.0, validator=_not_negative)
    #: Turns that wait in one thread; chat programs send a handful at once.
    max_queue_count: int = field(default=32, validator=_not_negative)
    #: Pauses between attempts to connect to Letta, together: a restart behind a balancer takes this long.
    connect_retry_timeout: float = field(default=0.75, validator=_not_negative)
    #: The same, while a run of ours goes on that we have lost sight of: a restart of Letta itself.
    resume_timeout: float = field(default=30.0, validator=_not_negative)
    #: What becomes of system and developer messages. Coding agents live by theirs.
    instructions: InstructionPolicy = InstructionPolicy.ONCE
    #: What becomes of prompts that are a chat program's own, for titles and the like.
    tasks: TaskPolicy = TaskPolicy.ISOLATE
    #: Beginnings of further prompts of that kind, of a system message or of the last user message.
    task_prompts: tuple[str, ...] = ()
    #: Whether the agent learns who speaks, where several people do.
    speakers: Speakers = Speakers.NAME
    #: Chats and threads remembered at most: their conversations, and the instructions that they were given.
    max_remembered_thread_count: int = field(default=4096, validator=_positive)
    #: A run whose stream was lost and that goes on, as Letta has it, is ended after this long: of runs that its
    #: own restart has killed Letta says so for ever. Who does not stream has given up by then.
    lost_run_timeout: float = field(default=600.0, validator=_positive)
    #: Whether runs are asked for so that they can be found before they are named: without it a run whose name
    #: never came can neither be ended nor taken up.
    finds_runs: bool = True
    #: Whether to ask for runs whose stream can be taken up again.
    background: Background = Background.AUTO
    #: A turn that broke off, and an answer that was given, are remembered for repeats this long.
    repeat_ttl: float = field(default=300.0, validator=_not_negative)
    #: Answers kept for repeats, all together, in characters of text.
    max_kept_answer_size: int = field(default=64 * 1024 * 1024, validator=_not_negative)
    #: A client that is known to try again and leaves before its answer has begun is waited for: this long, and
    #: as long as its own pause. The official SDKs pause for half a second, doubling up to 8.
    repeat_wait_timeout: float = field(default=1.0, validator=_not_negative)
    #: Whether a repeat listens to its turn while that runs. A program that drives both in one thread would wait
    #: for itself: without it the repeat has a turn of its own, after the first.
    joins_repeats: bool = True
    #: Headers that name a chat, the first that is there: each chat has a conversation of its own at Letta.
    #: `X-Letta-Conversation-Id` names one that exists. Without a name a request is of the agent's own thread.
    chat_key_headers: tuple[str, ...] = (
        "x-letta-conversation-id",
        "x-letta-chat-key",
        "x-openwebui-chat-id",
        "x-session-id",
        "agent-session-id",
        "session-id",
    )
    #: What usage counts. Programs that sum up chats when they grow compare it with the context window.
    usage: UsageCount = UsageCount.CONTEXT
    #: Where reasoning goes.
    reasoning_field: ReasoningField = ReasoningField.REASONING_CONTENT
    #: Whether a human is asked before Letta runs a tool that wants one.
    approvals: Approvals = Approvals.ASK
    #: How often a turn may answer for the human. Letta's own limit of 50 steps begins anew with each answer.
    max_approval_count: int = field(default=50, validator=_not_negative)
    #: What becomes of `response_format` and of a `tool_choice` that forces a call.
    enforcement: Enforcement = Enforcement.VALIDATE
    #: How agents are given a client's tools.
    client_tools: ClientTools = ClientTools.AUTO
    #: A client's tool that is attached to agents is kept at Letta this long, to be found again by the next turn
    #: that brings it; and an agent has it for no longer if the process dies. Clients ask their users before
    #: they run some tools.
    client_tool_ttl: float = field(default=300.0, validator=_positive)
    #: How the agent's own tools are shown.
    server_tools: ServerTools = ServerTools.HIDDEN

    def without_pauses(self) -> "Config":
        """The same for a replay, which has all the answers that it will ever get."""
        return evolve(self, queue_timeout=0.0, connect_retry_timeout=0.0, resume_timeout=0.0)
