"""The recording format: the traffic between client, proxy and Letta as JSON lines, grouped into exchanges.

The first line is the head: ``v``, ``kind``, ``server``, ``scenario``, ``note``. For a recording with a client,
it also has what the response was made from (``token``, ``created``, ``policies``, ``limits``, ``options``),
what the proxy knew beforehand (``initial``), and how texts were stored (``text``). Every other line is one
thing that happened in one exchange: ``x`` is its number, ``t`` the seconds since the recording began, ``dir``
what happened:

- ``request``: ``method``, ``path``, ``json``; ``kind`` and ``command`` of a request to Letta; ``headers`` of
  the client's request; ``agent`` of a request that starts a run, in a recording without a client
- ``response``: ``status``, ``headers``
- ``data``: ``text``, or ``b64`` if the bytes are not UTF-8
- ``end`` of the body; ``client_closed``: the reader stopped before it; ``failed``: the connection broke
- ``waited``: the client had waited for so long that a comment was due

Exchange 0 is that of the client with the proxy. Exchanges may overlap: one may begin while data of another
arrives. Lines are in the order of events, so that a replay needs no clock.
"""

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, Literal

from attrs import field, fields, frozen

from ..config import ClientTools, Config
from ..errors import SansioLettaError
from ..proxy.policies import POLICIES, with_policies
from ..turn.agent import Agent, Capabilities
from ..upstreams.rest import commands
from .heard import RecordedThread

#: The version that is written; versions 1 and 2 can be read as well.
VERSION: Final = 3
KIND: Final = "letta-v1"
#: Recorded in place of a failure's value if the proxy ended the exchange because it shut down.
INTERRUPTED: Final = "interrupted"


class RecordingError(SansioLettaError):
    """A recording cannot be read; the message names the line."""


#: Names of commands in recordings, independent of the names of their classes.
COMMANDS: Final[Mapping[type[Any], str]] = {
    commands.FindAgent: "find_agent",
    commands.FetchAgent: "fetch_agent",
    commands.OpenStream: "start_run",
    commands.CancelRun: "cancel_run",
    commands.ResumeRun: "resume_run",
    commands.FetchRun: "fetch_run",
    commands.FindRuns: "list_runs",
    commands.FetchKept: "fetch_run_messages",
    commands.FetchUsage: "fetch_run_usage",
    commands.FindConversations: "find_conversations",
    commands.CreateConversation: "create_conversation",
    commands.FetchConversation: "fetch_conversation",
    commands.DeleteConversation: "delete_conversation",
    commands.UpdateConversation: "update_conversation",
    commands.FetchLast: "fetch_last_message",
    commands.FetchMessages: "fetch_messages",
    commands.AnswerCalls: "answer_calls",
    commands.FetchToolbox: "fetch_agent_tools",
    commands.FindToolboxes: "find_agents_by_tag",
    commands.ChangeToolbox: "update_agent_tools",
    commands.FindTools: "find_tools",
    commands.SearchTools: "search_tools",
    commands.MakeTool: "upsert_tool",
    commands.DeleteTool: "delete_tool",
    commands.ListAgents: "list_agents",
    commands.CheckHealth: "check_health",
    commands.IdentifyServer: "identify_server",
}
START_RUN: Final = COMMANDS[commands.OpenStream]

_CAPABILITIES: Final = tuple(attribute.name for attribute in fields(Capabilities))
#: The part of a query that may differ between versions of the proxy.
_INCLUDES: Final = re.compile(r"(?<=[?&])include=[^&]*(?:&|$)")


class ExchangeKind(Enum):
    """How an exchange with Letta is carried out."""

    HTTP = "http"


@frozen(kw_only=True)
class RecordedAgent:
    """An agent, as far as a turn depends on it."""

    id: str
    name: str = ""
    agent_type: str = ""
    tool_names: tuple[str, ...] | None = None
    capabilities: Mapping[str, bool] = field(factory=dict)  #: `Capabilities` that differ from the default

    @classmethod
    def of(cls, agent: Agent) -> "RecordedAgent":
        """Make the recorded form of an agent."""
        default = Capabilities()
        pairs = {name: getattr(agent.capabilities, name) for name in _CAPABILITIES}
        return cls(
            id=agent.id,
            name=agent.name,
            agent_type=agent.agent_type,
            tool_names=None if agent.tool_names is None else tuple(sorted(agent.tool_names)),
            capabilities={name: has for name, has in pairs.items() if has != getattr(default, name)},
        )

    @property
    def agent(self) -> Agent:
        """The agent for a turn. Unknown capabilities, from a later version, are ignored."""
        known = {name: has for name, has in self.capabilities.items() if name in _CAPABILITIES}
        return Agent(
            id=self.id,
            name=self.name,
            agent_type=self.agent_type,
            tool_names=None if self.tool_names is None else frozenset(self.tool_names),
            capabilities=Capabilities(**known),
        )


@frozen(kw_only=True)
class RecordedRequest:
    """A request to Letta, or the client's own."""

    method: str
    path: str  #: including the query
    json: Any = None
    headers: tuple[tuple[str, str], ...] = ()  #: only of a client's request; keys are never recorded
    command: str | None = None  #: from `COMMANDS`; None: not a request of the proxy
    agent: RecordedAgent | None = None  #: whose run is started, if there is no client's request


@frozen(kw_only=True)
class RecordedData:
    """Bytes of a response's body that arrived together."""

    t: float
    data: bytes = field(repr=False)
    line: int = 0  #: of the file


@frozen(kw_only=True)
class RecordedWait:
    """A comment was due for a client that waited."""

    t: float
    line: int  #: of the file


@frozen(kw_only=True)
class RecordedExchange:
    """One request and its complete response."""

    x: int
    t: float  #: when it began
    request: RecordedRequest
    status: int | None = None  #: None: there was no response
    headers: tuple[tuple[str, str], ...] = ()
    head_t: float | None = None
    head_line: int = 0  #: of the file
    data: tuple[RecordedData, ...] = ()
    waits: tuple[RecordedWait, ...] = ()  #: only of the client's own exchange
    end: Literal["end", "client_closed", "failed"] | None = None
    end_t: float | None = None
    end_line: int = 0  #: of the file
    failure: str | None = None  #: for ``failed``: the value of a `Failure`
    reason: str | None = None  #: for ``failed``: in words

    @property
    def body(self) -> bytes:
        """The complete body of the response."""
        return b"".join(item.data for item in self.data)

    def matches(self, command: commands.Command) -> bool:
        """Return whether this is the same command for the same target, apart from what the query includes."""
        asked, name = _INCLUDES.sub("", command.target), COMMANDS[type(command)]
        return self.request.command == name and _INCLUDES.sub("", self.request.path) == asked

    @property
    def starts_run(self) -> bool:
        """Whether this is a request to start a run, answered by a stream or refused."""
        return self.request.command == START_RUN


class TextMode(Enum):
    """How texts are recorded: messages, reasoning, and arguments and results of tools."""

    KEEP = "keep"
    """Unchanged."""
    HASH = "hash"
    """A short hash of each piece, which shows whether two are equal."""
    DROP = "drop"
    """Every non-space character becomes ``x``, which keeps lengths and lines."""


#: Fields of `Config` with numbers that a response depends on.
LIMITS: Final = (
    "max_request_size",
    "max_value_count",
    "max_message_count",
    "max_part_count",
    "max_tool_count",
    "max_event_size",
    "max_answer_size",
    "max_fragment_size",
    "max_agent_count",
    "agent_page_count",
    "keepalive_timeout",
    "early_response_timeout",
    "letta_silence_timeout",
    "first_item_timeout",
    "letta_answer_timeout",
    "turn_timeout",
    "client_tool_ttl",
    "queue_timeout",
    "connect_retry_timeout",
    "resume_timeout",
    "lost_run_timeout",
    "max_approval_count",
)


#: The list before it was recorded: by then no other header named a chat unless it was chosen.
_EARLIER_KEY_HEADERS: Final = (
    "x-letta-conversation-id",
    "x-letta-chat-key",
    "x-openwebui-chat-id",
    "x-session-id",
    "agent-session-id",
    "session-id",
)


@frozen(kw_only=True)
class RecordedOptions:
    """Other fields of `Config` that a response depends on."""

    client_tools: str = ClientTools.AUTO.value
    finds_runs: bool = True
    lookback_count: int = 0
    chat_key_headers: tuple[str, ...] = _EARLIER_KEY_HEADERS
    chat_key_fields: tuple[str, ...] = ()
    speaker_fields: tuple[str, ...] = ()


@frozen(kw_only=True)
class RecordedState:
    """What the proxy already knew when the client's request arrived, and did not have to look up."""

    agent: RecordedAgent | None = None  #: the agent that the model's name resolves to
    threads: Mapping[str, str] = field(factory=dict)  #: the chat's conversation, by agent id
    heard: tuple[RecordedThread, ...] = ()  #: what was remembered of threads
    background: bool = True  #: False: Letta had refused background runs


@frozen(kw_only=True)
class RecordingHead:
    """The first line."""

    v: int
    kind: str
    server: str  #: the version of the Letta server, or the program that recorded
    scenario: str
    note: str
    token: str | None = None  #: from which the ids in the client's response were derived
    created: int | None = None  #: Unix time, seconds
    policies: Mapping[str, str] = field(factory=dict)  #: of `POLICIES`; missing ones have today's default
    limits: Mapping[str, float] = field(factory=dict)  #: of `LIMITS`; the same
    options: RecordedOptions = field(factory=RecordedOptions)
    initial: RecordedState = field(factory=RecordedState)
    text: str = TextMode.KEEP.value

    @classmethod
    def begin(
        cls,
        *,
        server: str,
        scenario: str,
        note: str,
        token: str,
        created: int,
        config: Config,
        initial: RecordedState,
        text: TextMode,
    ) -> "RecordingHead":
        """Make the head of a new recording."""
        return cls(
            v=VERSION,
            kind=KIND,
            server=server,
            scenario=scenario,
            note=note,
            token=token,
            created=created,
            policies={name: getattr(config, policy.field).value for name, policy in POLICIES.items()},
            limits={name: getattr(config, name) for name in LIMITS},
            options=RecordedOptions(
                client_tools=config.client_tools.value,
                finds_runs=config.finds_runs,
                lookback_count=config.lookback_count,
                chat_key_headers=config.chat_key_headers,
                chat_key_fields=config.chat_key_fields,
                speaker_fields=config.speaker_fields,
            ),
            initial=initial,
            text=text.value,
        )

    @property
    def has_texts(self) -> bool:
        """Whether texts are recorded unchanged."""
        return self.text == TextMode.KEEP.value

    @property
    def config(self) -> Config:
        """The config that the response was made with.

        :raises ValueError: if a limit is out of range; reading a recording reports it.
        """
        # Unknown limits are from a later version.
        limits: dict[str, Any] = {name: self.limits[name] for name in LIMITS if name in self.limits}
        known = [(POLICIES[name], text) for name, text in self.policies.items() if name in POLICIES]
        config = Config(
            **limits,
            client_tools=ClientTools(self.options.client_tools),
            finds_runs=self.options.finds_runs,
            lookback_count=self.options.lookback_count,
            chat_key_headers=self.options.chat_key_headers,
            chat_key_fields=self.options.chat_key_fields,
            speaker_fields=self.options.speaker_fields,
        )
        return with_policies(config, {policy.field: policy.read(text) for policy, text in known})


@frozen(kw_only=True)
class Recording:
    """One recorded scenario."""

    head: RecordingHead
    exchanges: tuple[RecordedExchange, ...]  #: with Letta, in the order of their beginnings
    client: RecordedExchange | None = None  #: the client's own, since version 2
    cut_line: int | None = None  #: the number of a last line that was not written to its end

    @property
    def scenario(self) -> str:
        """The recording's name."""
        return self.head.scenario
