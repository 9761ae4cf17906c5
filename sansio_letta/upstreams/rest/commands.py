"""The commands of Letta's REST API: HTTP requests as values, each with its method, target and body.

Pass Letta's response to the ``receive_*`` methods of the object that returned the command.
"""

from typing import ClassVar, Final, Literal, TypeAlias
from urllib.parse import quote, urlencode

from attrs import frozen

from ...turn.events import AgentThread, Thread
from . import letta

#: Items per page of a list. Tools are listed with their schemas, agents with their tools.
PAGE_COUNT: Final = 100

_TOOLS = "agent.tools"
_PENDING = "agent.pending_approval"


def messages_target(thread: Thread) -> str:
    """Return the path of the request that starts a run in a thread and reads its stream."""
    if isinstance(thread, AgentThread):
        return f"/v1/agents/{quote(thread.agent_id, safe='')}/messages/stream"
    return f"/v1/conversations/{quote(thread.conversation_id, safe='')}/messages"


class _Get:
    """A command that only reads. Subclasses define its target."""

    __slots__ = ()
    method: ClassVar[Literal["GET"]] = "GET"
    body: ClassVar[None] = None


@frozen(kw_only=True)
class FindAgent(_Get):
    """Find the agent with this name."""

    name: str
    with_pending: bool = False  #: include the pending calls

    @property
    def target(self) -> str:
        # Without the slash before the query, Letta responds with a redirect.
        query = {"name": self.name, "include": [_TOOLS, *([_PENDING] if self.with_pending else [])]}
        return f"/v1/agents/?{urlencode(query, doseq=True, quote_via=quote)}"


@frozen(kw_only=True)
class FetchAgent(_Get):
    """Fetch an agent, with its tools and pending calls."""

    agent_id: str

    @property
    def target(self) -> str:
        return f"/v1/agents/{quote(self.agent_id, safe='')}?include={_TOOLS}&include={_PENDING}"


@frozen(kw_only=True)
class OpenStream:
    """Start a run and read its stream.

    :param is_followed: whether to start it without a stream. Letta returns its id, and it is looked up later.
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
    """Resume the stream of a background run."""

    method: ClassVar[Literal["POST"]] = "POST"
    run_id: str
    seq_id: int  #: the number of the last item that was read

    @property
    def target(self) -> str:
        return f"/v1/runs/{quote(self.run_id, safe='')}/stream"

    @property
    def body(self) -> bytes:
        return letta.encode_resume_request(self.seq_id)


@frozen(kw_only=True)
class FetchRun(_Get):
    """Fetch a run: its status, and how it ended."""

    run_id: str

    @property
    def target(self) -> str:
        return f"/v1/runs/{quote(self.run_id, safe='')}"


@frozen(kw_only=True)
class FindRuns(_Get):
    """List one page of runs, the newest first."""

    agent_id: str | None = None  #: None for all agents
    active: bool = False  #: only runs that are not over
    after: str | None = None  #: the id of the last run of the previous page

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
    """Fetch the stored messages of a run."""

    run_id: str

    @property
    def target(self) -> str:
        # No run has more messages, since Letta stops it after 50 steps.
        return f"/v1/runs/{quote(self.run_id, safe='')}/messages?limit=1000&order=asc"


@frozen(kw_only=True)
class FetchUsage(_Get):
    """Fetch the token usage of a run."""

    run_id: str

    @property
    def target(self) -> str:
        return f"/v1/runs/{quote(self.run_id, safe='')}/usage"


@frozen(kw_only=True)
class FindConversations(_Get):
    """List one page of the conversations with this text in their summary, the newest first."""

    summary: str = ""  #: empty for all conversations
    agent_id: str | None = None  #: None for all agents
    after: str | None = None  #: the id of the last conversation of the previous page

    @property
    def target(self) -> str:
        query = {
            **({"agent_id": self.agent_id} if self.agent_id else {}),
            **({"summary_search": self.summary} if self.summary else {}),
        }
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
    """Fetch a conversation, with the id of its agent."""

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
    """Change the summary of a conversation, by which it is found."""

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
    """Fetch the last messages of a conversation, which have its pending calls. An agent does not list those."""

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
        # Without its name those of the conversations are listed, too.
        query = f"limit={self.count}&order=desc&conversation_id=default"
        return f"/v1/agents/{quote(self.agent_id, safe='')}/messages?{query}"


@frozen(kw_only=True)
class AnswerCalls:
    """Answer the pending calls of a thread, without continuing the agent."""

    method: ClassVar[Literal["POST"]] = "POST"
    thread: Thread
    answers: letta.ApprovalCreate

    @property
    def target(self) -> str:
        return messages_target(self.thread).removesuffix("/stream")

    @property
    def body(self) -> bytes:
        # Letta 0.16.7 shows a run in a conversation as "created" for ever if its stream is not asked for.
        return letta.encode_answers(self.answers, streaming=not isinstance(self.thread, AgentThread))


_TOOLBOX = "include=agent.tools&include=agent.tags"


@frozen(kw_only=True)
class FetchToolbox(_Get):
    """Fetch the tools, rules and tags of an agent."""

    agent_id: str

    @property
    def target(self) -> str:
        return f"/v1/agents/{quote(self.agent_id, safe='')}?{_TOOLBOX}"


@frozen(kw_only=True)
class FindToolboxes(_Get):
    """List one page of the agents with this tag, with their tools, rules and tags."""

    tag: str
    after: str | None = None  #: the id of the last agent of the previous page

    @property
    def target(self) -> str:
        query = {"tags": self.tag, "limit": PAGE_COUNT, **({"after": self.after} if self.after else {})}
        return f"/v1/agents/?{urlencode(query, quote_via=quote)}&{_TOOLBOX}"


@frozen(kw_only=True)
class ChangeToolbox:
    """Replace the tools, rules and tags of an agent."""

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
    """List the tools with these names."""

    names: tuple[str, ...]

    @property
    def target(self) -> str:
        return f"/v1/tools/?{urlencode({'names': self.names}, doseq=True)}&limit={len(self.names)}"


@frozen(kw_only=True)
class SearchTools(_Get):
    """List one page of the tools with this text in their name, the oldest first."""

    text: str
    after: str | None = None  #: the id of the last tool of the previous page

    @property
    def target(self) -> str:
        after = {"after": self.after} if self.after else {}
        query = {"search": self.text, "order": "asc", "limit": PAGE_COUNT, **after}
        return f"/v1/tools/?{urlencode(query)}"


@frozen(kw_only=True)
class MakeTool:
    """Create a tool, or replace the one with its name."""

    method: ClassVar[Literal["PUT"]] = "PUT"
    target: ClassVar[str] = "/v1/tools/"
    tool: letta.ClientTool
    tags: tuple[str, ...]

    @property
    def body(self) -> bytes:
        return letta.encode_tool(self.tool, self.tags)


@frozen(kw_only=True)
class DeleteTool:
    """Delete a tool. Agents that have it lose it."""

    method: ClassVar[Literal["DELETE"]] = "DELETE"
    body: ClassVar[None] = None
    tool_id: str

    @property
    def target(self) -> str:
        return f"/v1/tools/{quote(self.tool_id, safe='')}"


@frozen(kw_only=True)
class ListAgents(_Get):
    """List one page of all agents."""

    limit: int
    after: str | None = None  #: the id of the last agent of the previous page

    @property
    def target(self) -> str:
        query = {"limit": self.limit, **({"after": self.after} if self.after else {})}
        return f"/v1/agents/?{urlencode(query)}"


@frozen(kw_only=True)
class CheckHealth(_Get):
    """Check whether Letta is up. This needs no key."""

    @property
    def target(self) -> str:
        return "/v1/health/"


@frozen(kw_only=True)
class IdentifyServer(_Get):
    """Ask whether this is an App Server; Letta's REST API answers 404."""

    @property
    def target(self) -> str:
        return "/app-server-info"


Command: TypeAlias = (
    FindAgent
    | IdentifyServer
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
