"""The commands of Letta's REST API: HTTP requests as values, each with its method, target and body.

Whatever Letta answers goes back through the ``receive_*`` methods of the machine that handed out the command.
"""

from typing import ClassVar, Final, Literal, TypeAlias
from urllib.parse import quote, urlencode

from attrs import frozen

from ...turn.events import AgentThread, Thread
from . import letta

#: Items of one page of a list: tools come with their schemas, agents with their tools.
PAGE_COUNT: Final = 100

_TOOLS = "agent.tools"
_PENDING = "agent.pending_approval"


def messages_target(thread: Thread) -> str:
    """The path of the request that starts a run in a thread and reads its stream."""
    if isinstance(thread, AgentThread):
        return f"/v1/agents/{quote(thread.agent_id, safe='')}/messages/stream"
    return f"/v1/conversations/{quote(thread.conversation_id, safe='')}/messages"


class _Get:
    """A command that only reads; each has a target of its own."""

    __slots__ = ()
    method: ClassVar[Literal["GET"]] = "GET"
    body: ClassVar[None] = None


@frozen(kw_only=True)
class FindAgent(_Get):
    """The agent of this name."""

    name: str
    with_pending: bool = False  #: with the calls that the agent waits for

    @property
    def target(self) -> str:
        # Without the slash before the query Letta answers with a redirect.
        query = {"name": self.name, "include": [_TOOLS, *([_PENDING] if self.with_pending else [])]}
        return f"/v1/agents/?{urlencode(query, doseq=True, quote_via=quote)}"


@frozen(kw_only=True)
class FetchAgent(_Get):
    """An agent, with its tools and the calls that it waits for."""

    agent_id: str

    @property
    def target(self) -> str:
        return f"/v1/agents/{quote(self.agent_id, safe='')}?include={_TOOLS}&include={_PENDING}"


@frozen(kw_only=True)
class OpenStream:
    """Start a run and read its stream.

    :param is_followed: the run has no stream: Letta names it at once, and is asked later how it ended.
    """

    method: ClassVar[Literal["POST"]] = "POST"
    thread: Thread
    request: letta.StreamRequest
    is_followed: bool = False

    @property
    def target(self) -> str:
        target = messages_target(self.thread)
        return f"{target.removesuffix('/stream')}/async" if self.is_followed else target

    @property
    def body(self) -> bytes:
        if self.is_followed:
            return letta.encode_run_request(self.request)
        return letta.encode_stream_request(self.request)


@frozen(kw_only=True)
class CancelRun:
    """Cancel a run."""

    method: ClassVar[Literal["POST"]] = "POST"
    agent_id: str
    run_id: str

    @property
    def target(self) -> str:
        return f"/v1/agents/{quote(self.agent_id, safe='')}/messages/cancel"

    @property
    def body(self) -> bytes:
        return letta.encode_cancel_request(self.run_id)


@frozen(kw_only=True)
class ResumeRun:
    """Read on in the stream of a background run."""

    method: ClassVar[Literal["POST"]] = "POST"
    run_id: str
    seq_id: int  #: of the last item that was read

    @property
    def target(self) -> str:
        return f"/v1/runs/{quote(self.run_id, safe='')}/stream"

    @property
    def body(self) -> bytes:
        return letta.encode_resume_request(self.seq_id)


@frozen(kw_only=True)
class FetchRun(_Get):
    """A run: whether it goes on, and how it ended."""

    run_id: str

    @property
    def target(self) -> str:
        return f"/v1/runs/{quote(self.run_id, safe='')}"


@frozen(kw_only=True)
class FindRuns(_Get):
    """One page of the runs, the newest first."""

    agent_id: str | None = None  #: None: any agent's
    active: bool = False  #: none that are over
    after: str | None = None  #: the id of the last run of the page before

    @property
    def target(self) -> str:
        query = {
            **({"agent_id": self.agent_id} if self.agent_id else {}),
            **({"active": "true"} if self.active else {}),
            "limit": PAGE_COUNT,
            **({"after": self.after} if self.after else {}),
        }
        return f"/v1/runs/?{urlencode(query)}"


@frozen(kw_only=True)
class FetchKept(_Get):
    """The messages of a run that the agent's memory holds."""

    run_id: str

    @property
    def target(self) -> str:
        # No run has more messages: Letta ends it after 50 steps.
        return f"/v1/runs/{quote(self.run_id, safe='')}/messages?limit=1000&order=asc"


@frozen(kw_only=True)
class FetchUsage(_Get):
    """The tokens that a run has used."""

    run_id: str

    @property
    def target(self) -> str:
        return f"/v1/runs/{quote(self.run_id, safe='')}/usage"


@frozen(kw_only=True)
class FindConversations(_Get):
    """One page of the conversations with this text in their summary, the newest first."""

    summary: str
    agent_id: str | None = None  #: None: any agent's
    after: str | None = None  #: the id of the last conversation of the page before

    @property
    def target(self) -> str:
        query = {**({"agent_id": self.agent_id} if self.agent_id else {}), "summary_search": self.summary}
        after = {"after": self.after} if self.after else {}
        return f"/v1/conversations/?{urlencode({**query, 'limit': PAGE_COUNT, **after}, quote_via=quote)}"


@frozen(kw_only=True)
class CreateConversation:
    """Create a conversation with an agent."""

    method: ClassVar[Literal["POST"]] = "POST"
    agent_id: str
    summary: str

    @property
    def target(self) -> str:
        return f"/v1/conversations/?agent_id={quote(self.agent_id, safe='')}"

    @property
    def body(self) -> bytes:
        return letta.encode_conversation(self.summary)


@frozen(kw_only=True)
class FetchConversation(_Get):
    """A conversation, with the id of its agent."""

    conversation_id: str

    @property
    def target(self) -> str:
        return f"/v1/conversations/{quote(self.conversation_id, safe='')}"


@frozen(kw_only=True)
class DeleteConversation:
    """Delete a conversation."""

    method: ClassVar[Literal["DELETE"]] = "DELETE"
    body: ClassVar[None] = None
    conversation_id: str

    @property
    def target(self) -> str:
        return f"/v1/conversations/{quote(self.conversation_id, safe='')}"


@frozen(kw_only=True)
class UpdateConversation:
    """Give a conversation another summary, by which it is found from now on."""

    method: ClassVar[Literal["PATCH"]] = "PATCH"
    conversation_id: str
    summary: str

    @property
    def target(self) -> str:
        return f"/v1/conversations/{quote(self.conversation_id, safe='')}"

    @property
    def body(self) -> bytes:
        return letta.encode_conversation(self.summary)


@frozen(kw_only=True)
class FetchLast(_Get):
    """The last messages of a conversation. The agent itself does not show the calls that wait there."""

    conversation_id: str
    count: int = 1

    @property
    def target(self) -> str:
        return (
            f"/v1/conversations/{quote(self.conversation_id, safe='')}/messages?limit={self.count}&order=desc"
        )


@frozen(kw_only=True)
class FetchMessages(_Get):
    """The last messages of an agent's own thread."""

    agent_id: str
    count: int

    @property
    def target(self) -> str:
        return f"/v1/agents/{quote(self.agent_id, safe='')}/messages?limit={self.count}&order=desc"


@frozen(kw_only=True)
class AnswerCalls:
    """Answer the calls that wait in an agent's own thread; the agent does not go on yet."""

    method: ClassVar[Literal["POST"]] = "POST"
    agent_id: str
    answers: letta.ApprovalCreate

    @property
    def target(self) -> str:
        return f"/v1/agents/{quote(self.agent_id, safe='')}/messages"

    @property
    def body(self) -> bytes:
        return letta.encode_answers(self.answers)


_TOOLBOX = "include=agent.tools&include=agent.tags"


@frozen(kw_only=True)
class FetchToolbox(_Get):
    """The tools, rules and tags of an agent."""

    agent_id: str

    @property
    def target(self) -> str:
        return f"/v1/agents/{quote(self.agent_id, safe='')}?{_TOOLBOX}"


@frozen(kw_only=True)
class FindToolboxes(_Get):
    """One page of the agents with this tag, each with its tools, rules and tags."""

    tag: str
    after: str | None = None  #: the id of the last agent of the page before

    @property
    def target(self) -> str:
        query = {"tags": self.tag, "limit": PAGE_COUNT, **({"after": self.after} if self.after else {})}
        return f"/v1/agents/?{urlencode(query, quote_via=quote)}&{_TOOLBOX}"


@frozen(kw_only=True)
class ChangeToolbox:
    """Give an agent these tools, rules and tags in place of those that it has."""

    method: ClassVar[Literal["PATCH"]] = "PATCH"
    toolbox: letta.Toolbox

    @property
    def target(self) -> str:
        return f"/v1/agents/{quote(self.toolbox.agent_id, safe='')}"

    @property
    def body(self) -> bytes:
        return letta.encode_toolbox(self.toolbox)


@frozen(kw_only=True)
class FindTools(_Get):
    """The tools of these names."""

    names: tuple[str, ...]

    @property
    def target(self) -> str:
        return f"/v1/tools/?{urlencode({'names': self.names}, doseq=True)}&limit={len(self.names)}"


@frozen(kw_only=True)
class SearchTools(_Get):
    """One page of the tools with this text in their name, the oldest first."""

    text: str
    after: str | None = None  #: the id of the last tool of the page before

    @property
    def target(self) -> str:
        after = {"after": self.after} if self.after else {}
        query = {"search": self.text, "order": "asc", "limit": PAGE_COUNT, **after}
        return f"/v1/tools/?{urlencode(query)}"


@frozen(kw_only=True)
class MakeTool:
    """Create a tool, or replace the one of its name."""

    method: ClassVar[Literal["PUT"]] = "PUT"
    target: ClassVar[str] = "/v1/tools/"
    tool: letta.ClientTool
    tags: tuple[str, ...]

    @property
    def body(self) -> bytes:
        return letta.encode_tool(self.tool, self.tags)


@frozen(kw_only=True)
class DeleteTool:
    """Delete a tool; agents that have it lose it."""

    method: ClassVar[Literal["DELETE"]] = "DELETE"
    body: ClassVar[None] = None
    tool_id: str

    @property
    def target(self) -> str:
        return f"/v1/tools/{quote(self.tool_id, safe='')}"


@frozen(kw_only=True)
class ListAgents(_Get):
    """One page of all agents."""

    limit: int
    after: str | None = None  #: the id of the last agent of the page before

    @property
    def target(self) -> str:
        query = {"limit": self.limit, **({"after": self.after} if self.after else {})}
        return f"/v1/agents/?{urlencode(query)}"


@frozen(kw_only=True)
class CheckHealth(_Get):
    """Whether Letta is up; needs no key."""

    @property
    def target(self) -> str:
        return "/v1/health/"


Command: TypeAlias = (
    FindAgent
    | FetchAgent
    | OpenStream
    | CancelRun
    | ResumeRun
    | FetchRun
    | FindRuns
    | FetchKept
    | FetchUsage
    | FindConversations
    | CreateConversation
    | FetchConversation
    | DeleteConversation
    | UpdateConversation
    | FetchLast
    | FetchMessages
    | AnswerCalls
    | FetchToolbox
    | FindToolboxes
    | ChangeToolbox
    | FindTools
    | SearchTools
    | MakeTool
    | DeleteTool
    | ListAgents
    | CheckHealth
)
