"""Recordings: what passed between client, proxy and Letta, as JSON lines, exchange by exchange.

The first line is the head: ``v``, ``kind``, ``server``, ``scenario``, ``note``; of a recording with a client
how its response was made (``token``, ``created``, ``policies``, ``limits``, ``options``), what the proxy knew
beforehand (``initial``), and whether texts were kept (``text``). Every other line is one thing that happened in
one exchange: ``x`` its number, ``t`` seconds since the recording began, ``dir`` what happened:

- ``request``: ``method``, ``path``, ``json``; of one to Letta its ``kind`` and its ``command``; of the client's
  own its ``headers``; of one that starts a run in a recording without a client the ``agent``
- ``response``: ``status``, ``headers``
- ``data``: ``text``, or ``b64`` where the bytes are no UTF-8
- ``end`` of the body; ``client_closed``: the reader left before it; ``failed``: the connection broke
- ``waited``: the client had waited for so long that a comment was due

Exchange 0 is the client's own, with the proxy. Exchanges may overlap: one may begin while the data of another
comes. The order of the lines is that in which things happened: with it a replay does without a clock.
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

#: Written; versions 1 and 2 are read as well.
VERSION: Final = 3
KIND: Final = "letta-v1"
#: Stands in recordings where a failure's value would: it was the proxy that ended the exchange, to end itself.
INTERRUPTED: Final = "interrupted"


class RecordingError(SansioLettaError):
    """A recording cannot be read; the message names the line."""


#: What commands are called in a recording, whatever becomes of their classes.
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
}
START_RUN: Final = COMMANDS[commands.OpenStream]

_CAPABILITIES: Final = tuple(attribute.name for attribute in fields(Capabilities))
#: What is asked for beside a thing itself: more of it from one version of the proxy to the next.
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
    capabilities: Mapping[str, bool] = field(factory=dict)  #: those of `Capabilities` that are not the default

    @classmethod
    def of(cls, agent: Agent) -> "RecordedAgent":
        """The agent as it is written down."""
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
        """The agent for a turn. Capabilities that are not known are of a later version."""
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
    path: str  #: with the query
    json: Any = None
    headers: tuple[tuple[str, str], ...] = ()  #: of a client's request alone; keys are never recorded
    command: str | None = None  #: of `COMMANDS`; None: the client's own, or what the proxy does not ask
    agent: RecordedAgent | None = None  #: that a run is started for, if no client's request says so


@frozen(kw_only=True)
class RecordedData:
    """Bytes of an answer's body, as they arrived together."""

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
    """One request to Letta and all of its answer."""

    x: int
    t: float  #: when it began
    request: RecordedRequest
    status: int | None = None  #: None: no answer came
    headers: tuple[tuple[str, str], ...] = ()
    head_t: float | None = None
    head_line: int = 0  #: of the file
    data: tuple[RecordedData, ...] = ()
    waits: tuple[RecordedWait, ...] = ()  #: of the client's own exchange alone
    end: Literal["end", "client_closed", "failed"] | None = None
    end_t: float | None = None
    end_line: int = 0  #: of the file
    failure: str | None = None  #: of ``failed``: a `Failure`'s value
    reason: str | None = None  #: of ``failed``: in words

    @property
    def body(self) -> bytes:
        """All bytes of the answer."""
        return b"".join(item.data for item in self.data)

    def matches(self, command: commands.Command) -> bool:
        """Whether it is a command of this kind, to the same target; what is included beside may be more now."""
        asked, name = _INCLUDES.sub("", command.target), COMMANDS[type(command)]
        return self.request.command == name and _INCLUDES.sub("", self.request.path) == asked

    @property
    def starts_run(self) -> bool:
        """Whether this is a turn's request, answered by a stream or by a refusal of one."""
        return self.request.command == START_RUN


class TextMode(Enum):
    """What a recording holds of texts: what users and agents say, think, and give to tools."""

    KEEP = "keep"
    """All of it."""
    HASH = "hash"
    """A short hash of each piece: whether two are the same still shows."""
    DROP = "drop"
    """An x for each character that is no blank: lengths and lines still show."""


#: The numbers of a `Config` that an answer depends on.
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


@frozen(kw_only=True)
class RecordedOptions:
    """What else of a `Config` an answer depends on."""

    client_tools: str = ClientTools.AUTO.value
    finds_runs: bool = True
    lookback_count: int = 0
    chat_key_headers: tuple[str, ...] = Config().chat_key_headers


@frozen(kw_only=True)
class RecordedState:
    """What the proxy knew before the client's request came, and did not have to ask."""

    agent: RecordedAgent | None = None  #: the agent that the model's name resolves to
    threads: Mapping[str, str] = field(factory=dict)  #: the chat's conversation, by agent
    background: bool = True  #: False: Letta had refused background runs


@frozen(kw_only=True)
class RecordingHead:
    """The first line."""

    v: int
    kind: str
    server: str  #: the version of the Letta server, or of what recorded it
    scenario: str
    note: str
    token: str | None = None  #: what the ids of the client's answer were made of
    created: int | None = None  #: Unix time, seconds
    policies: Mapping[str, str] = field(factory=dict)  #: of `POLICIES`; what is missing is as today
    limits: Mapping[str, float] = field(factory=dict)  #: of `LIMITS`, as well
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
        """The head of a recording that is made now."""
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
            ),
            initial=initial,
            text=text.value,
        )

    @property
    def has_texts(self) -> bool:
        """Whether what was said can be read."""
        return self.text == TextMode.KEEP.value

    @property
    def config(self) -> Config:
        """What the answer was made by.

        :raises ValueError: if a limit is out of its range, which is told while the recording is read.
        """
        # Others are of a later version.
        limits: dict[str, Any] = {name: self.limits[name] for name in LIMITS if name in self.limits}
        known = [(POLICIES[name], text) for name, text in self.policies.items() if name in POLICIES]
        config = Config(
            **limits,
            client_tools=ClientTools(self.options.client_tools),
            finds_runs=self.options.finds_runs,
            lookback_count=self.options.lookback_count,
            chat_key_headers=self.options.chat_key_headers,
        )
        return with_policies(config, {policy.field: policy.read(text) for policy, text in known})


@frozen(kw_only=True)
class Recording:
    """One recorded scenario."""

    head: RecordingHead
    exchanges: tuple[RecordedExchange, ...]  #: with Letta, in the order in which they began
    client: RecordedExchange | None = None  #: the client's own, since version 2
    cut_line: int | None = None  #: the number of a last line that was not written to its end

    @property
    def scenario(self) -> str:
        """The recording's name."""
        return self.head.scenario
