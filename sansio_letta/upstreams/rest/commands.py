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


class _Question:
    """A command that changes nothing at Letta; each has a target of its own."""

    __slots__ = ()
    method: ClassVar[Literal["GET"]] = "GET"
    body: ClassVar[None] = None


@frozen(kw_only=True)
class FindAgent(_Question):
    """Which agent has this name?"""

    name: str
    with_pending: bool = False  #: also tell what the agent waits for

    @property
    def target(self) -> str:
        # Without the slash before the query Letta answers with a redirect.
        query = {"name": self.name, "include": [_TOOLS, *([_PENDING] if self.with_pending else [])]}
        return f"/v1/agents/?{urlencode(query, doseq=True, quote_via=quote)}"


@frozen(kw_only=True)
class FetchAgent(_Question):
    """What is this agent, and what does it wait for?"""

    agent_id: str

    @property
    def target(self) -> str:
        return f"/v1/agents/{quote(self.agent_id, safe='')}?include={_TOOLS}&include={_PENDING}"


@frozen(kw_only=True)
class OpenStream:
    """Start a run and read its stream.

    :param is_followed: there is none: Letta names the run at once, and is asked later what came of it.
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
    """End a run that nobody reads any more."""

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
class FetchRun(_Question):
    """Does this run go on, and how did it end?"""

    run_id: str

    @property
    def target(self) -> str:
        return f"/v1/runs/{quote(self.run_id, safe='')}"


@frozen(kw_only=True)
class FindRuns(_Question):
    """One page of the runs that there are, the newest first."""

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
class FetchKept(_Question):
    """What does the agent's memory hold of this run?"""

    run_id: str

    @property
    def target(self) -> str:
        # More messages than that a run does not have: Letta ends it after 50 steps.
        return f"/v1/runs/{quote(self.run_id, safe='')}/messages?limit=1000&order=asc"


@frozen(kw_only=True)
class FetchUsage(_Question):
    """What did this run cost?"""

    run_id: str

    @property
    def target(self) -> str:
        return f"/v1/runs/{quote(self.run_id, safe='')}/usage"


@frozen(kw_only=True)
class FindConversations(_Question):
    """Which conversations of an agent have this in their summary? The newest come first."""

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
    """A new conversation with an agent."""

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
class FetchConversation(_Question):
    """Whose is this conversation?"""

    conversation_id: str

    @property
    def target(self) -> str:
        return f"/v1/conversations/{quote(self.conversation_id, safe='')}"


@frozen(kw_only=True)
class DeleteConversation:
    """Nobody needs this conversation any more."""

    method: ClassVar[Literal["DELETE"]] = "DELETE"
    body: ClassVar[None] = None
    conversation_id: str

    @property
    def target(self) -> str:
        return f"/v1/conversations/{quote(self.conversation_id, safe='')}"


@frozen(kw_only=True)
class UpdateConversation:
    """A conversation is to be found by another summary from now on."""

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
class FetchLast(_Question):
    """What was said last in a conversation? A call that waits there is not shown by the agent."""

    conversation_id: str

    @property
    def target(self) -> str:
        return f"/v1/conversations/{quote(self.conversation_id, safe='')}/messages?limit=1&order=desc"


@frozen(kw_only=True)
class AnswerCalls:
    """Note answers to what waits in an agent's own thread; the agent does not go on yet."""

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
class FetchToolbox(_Question):
    """Which tools has this agent?"""

    agent_id: str

    @property
    def target(self) -> str:
        return f"/v1/agents/{quote(self.agent_id, safe='')}?{_TOOLBOX}"


@frozen(kw_only=True)
class FindToolboxes(_Question):
    """One page of the agents that have this tag: which tools have they?"""

    tag: str
    after: str | None = None  #: the id of the last agent of the page before

    @property
    def target(self) -> str:
        query = {"tags": self.tag, "limit": PAGE_COUNT, **({"after": self.after} if self.after else {})}
        return f"/v1/agents/?{urlencode(query, quote_via=quote)}&{_TOOLBOX}"


@frozen(kw_only=True)
class ChangeToolbox:
    """An agent shall have these tools, rules and tags, and no others."""

    method: ClassVar[Literal["PATCH"]] = "PATCH"
    toolbox: letta.Toolbox

    @property
    def target(self) -> str:
        return f"/v1/agents/{quote(self.toolbox.agent_id, safe='')}"

    @property
    def body(self) -> bytes:
        return letta.encode_toolbox(self.toolbox)


@frozen(kw_only=True)
class FindTools(_Question):
    """Which tools have these names?"""

    names: tuple[str, ...]

    @property
    def target(self) -> str:
        return f"/v1/tools/?{urlencode({'names': self.names}, doseq=True)}&limit={len(self.names)}"


@frozen(kw_only=True)
class SearchTools(_Question):
    """One page of the tools in whose names this stands, the oldest first."""

    text: str
    after: str | None = None  #: the id of the last tool of the page before

    @property
    def target(self) -> str:
        after = {"after": self.after} if self.after else {}
        query = {"search": self.text, "order": "asc", "limit": PAGE_COUNT, **after}
        return f"/v1/tools/?{urlencode(query)}"


@frozen(kw_only=True)
class MakeTool:
    """A tool of this name shall be there, and look like this."""

    method: ClassVar[Literal["PUT"]] = "PUT"
    target: ClassVar[str] = "/v1/tools/"
    tool: letta.ClientTool
    tags: tuple[str, ...]

    @property
    def body(self) -> bytes:
        return letta.encode_tool(self.tool, self.tags)


@frozen(kw_only=True)
class DeleteTool:
    """Nobody needs this tool any more; agents that have it lose it."""

    method: ClassVar[Literal["DELETE"]] = "DELETE"
    body: ClassVar[None] = None
    tool_id: str

    @property
    def target(self) -> str:
        return f"/v1/tools/{quote(self.tool_id, safe='')}"


@frozen(kw_only=True)
class ListAgents(_Question):
    """One page of all agents."""

    limit: int
    after: str | None = None  #: the id of the last agent of the page before

    @property
    def target(self) -> str:
        query = {"limit": self.limit, **({"after": self.after} if self.after else {})}
        return f"/v1/agents/?{urlencode(query)}"


@frozen(kw_only=True)
class CheckHealth(_Question):
    """Is Letta there? Needs no key."""

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
