"""Attach a client's tools to an agent, detach them, and delete those that have expired.

The agent has the tools from just before a run until the turn has ended. Letta reads an agent's tools when a run
starts, and a pending call can be answered without its tool (legacy_answer_first.jsonl). So the tools can be
detached at any time after the start, even if the run continues or has pending calls.

The tools stay in Letta until they expire, so the next turn with the same tools need not create them. A process
that dies also leaves tools behind, and perhaps an agent that has them. Expired tools are swept by a turn that
created a tool, by the first turn after all tools created by this process have expired, and by a server at
intervals: tools are detached from an agent once its stamp has expired, and deleted once they have expired and
no agent has them. All this information is stored in Letta, so each process can clean up after any other.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Generator, Hashable, Iterable
from typing import Final, TypeAlias, TypeVar

from attrs import define, evolve, field, frozen

from ...errors import FieldPath, RequestError, RequestField, SansioLettaError
from ...turn.events import ConversationThread
from . import letta
from .attached_tools import (
    MARK,
    PREFIX,
    OfferedTool,
    Stamp,
    is_expired,
    is_ours,
    stamp_of,
    tool_tags,
    with_tools,
    without_ours,
)
from .commands import (
    PAGE_COUNT,
    AnswerCalls,
    ChangeToolbox,
    Command,
    DeleteConversation,
    DeleteTool,
    FetchToolbox,
    FindRuns,
    FindToolboxes,
    FindTools,
    MakeTool,
    SearchTools,
    UpdateConversation,
)
from .lookup import runs_before
from .response import Response
from .turn_input import to_client_tool

_T = TypeVar("_T", letta.Tool, letta.Toolbox)

#: Names in one command, so that the request line is shorter than 16 KB.
_NAME_COUNT: Final = 100


@frozen(kw_only=True)
class Prepared:
    """The result of the preparations for a run.

    :param is_agent_gone: whether the agent no longer exists.
    :param runs: ids of the agent's earlier runs; None if unknown.
    """

    is_agent_gone: bool = False
    runs: frozenset[str] | None = None


#: Commands to send before a run. What is raised ends the turn.
Preparation: TypeAlias = Generator[Command, Response | None, Prepared]
#: Commands to send after a turn; None stands for a missing response. Nothing is raised: what cannot be cleaned
#: up now is swept later.
Cleaning: TypeAlias = Generator[Command, Response | None, None]


@define
class CreatedTools:
    """The tools that the turns of one process have created in Letta, and when they expire.

    :param max_count: limit of remembered names, and of scopes. Beyond it, the oldest are forgotten, which does
        not keep the tools from expiring.
    """

    max_count: int = 4096
    _names: OrderedDict[str, int] = field(factory=OrderedDict, init=False)
    _until: OrderedDict[Hashable, int] = field(
        factory=OrderedDict, init=False
    )  #: when the last tool of a scope expires

    def __bool__(self) -> bool:
        return bool(self._names)

    def names(self, now: int) -> frozenset[str]:
        """Return the names of the tools that have not expired. Others may belong to another process by now.

        :param now: Unix time in seconds.
        """
        return frozenset(name for name, until in self._names.items() if until > now)

    def add(self, name: str, until: int, scope: Hashable) -> None:
        """Note that a tool is being created.

        :param until: when it expires, Unix time in seconds.
        :param scope: the caller's. Other callers may have no key that can delete the tool.
        """
        self._names[name] = max(self._names.pop(name, 0), until)
        self._until[scope] = max(self._until.pop(scope, 0), until)
        if len(self._names) > self.max_count:
            self._names.popitem(last=False)
        if len(self._until) > self.max_count:
            self._until.popitem(last=False)

    def have_expired(self, scope: Hashable, now: int) -> bool:
        """Return whether all tools of a scope have expired and have not been swept since."""
        return self._until.get(scope, now + 1) <= now

    def forget_expired(self, scope: Hashable, now: int) -> None:
        """Forget the expired tools of a scope, which have been swept."""
        if self.have_expired(scope, now):
            del self._until[scope]


@define(kw_only=True)
class ToolAttachment:
    """A client's tools, attached to an agent for one turn.

    :param stamp: marks the agent; its owner is unique.
    :param now: when the request was received, Unix time in seconds.
    :param created_tools: remembers the tools that are created.
    :param scope: the caller's.
    """

    agent_id: str
    tools: tuple[OfferedTool, ...]
    stamp: Stamp
    now: int
    created_tools: CreatedTools = field(factory=CreatedTools)
    scope: Hashable = None
    is_attached: bool = field(default=False, init=False)  #: the agent has the tools, or may have them
    has_made: bool = field(default=False, init=False)  #: some did not exist, or had expired

    def attach(self) -> Preparation:
        """Find or create the tools, and attach them.

        :raises RequestError: if Letta rejects a tool; it names the field.
        :raises SansioLettaError: if a command failed otherwise.
        """
        response = yield FetchToolbox(agent_id=self.agent_id)
        assert response is not None
        if response.status == 404:
            return Prepared(is_agent_gone=True)
        toolbox = letta.decode_toolbox(response.data)
        for is_last in (False, True):
            change = ChangeToolbox(toolbox=with_tools(toolbox, (yield from self._provide()), self.stamp))
            self.is_attached = True
            response = yield change
            assert response is not None
            # Another turn or process may have deleted a tool since it was found.
            if response.status != 409 or is_last:
                break
        letta.decode_agent(response.data)
        return Prepared()

    def _provide(self) -> Generator[Command, Response | None, tuple[letta.Tool, ...]]:
        names = tuple(offer.tool.name for offer in self.tools)
        found: dict[str, letta.Tool] = {}
        for start in range(0, len(names), _NAME_COUNT):
            response = yield FindTools(names=names[start : start + _NAME_COUNT])
            assert response is not None
            tools = letta.decode_tools(response.data)
            found.update((tool.name, tool) for tool in tools if is_ours(tool))
        for index, offer in enumerate(self.tools):
            tool = found.get(offer.tool.name)
            if tool is None or is_expired(tool, self.now):
                self.has_made = True
                self.created_tools.add(offer.tool.name, self.stamp.until, self.scope)
                response = yield MakeTool(tool=to_client_tool(offer.tool), tags=tool_tags(self.stamp.until))
                assert response is not None
                if response.status in (400, 413, 422):
                    raise RequestError(
                        f"Letta does not take `{{field}}`: {response.error().message}",
                        field=FieldPath(RequestField.TOOL, index),
                    )
                found[offer.tool.name] = letta.decode_tool(response.data)
        return tuple(found[name] for name in names)

    def detach(self) -> Cleaning:
        """Detach the tools from the agent, without deleting them."""
        toolbox = _read(letta.decode_toolbox, (yield FetchToolbox(agent_id=self.agent_id)))
        if toolbox is not None and stamp_of(toolbox).owner == self.stamp.owner:
            yield ChangeToolbox(toolbox=without_ours(toolbox))


def sweep_tools(now: int, *, names: Collection[str] = ()) -> Generator[Command, Response | None, bool]:
    """Detach and delete tools that have expired.

    :param now: Unix time in seconds.
    :param names: tools to delete even before they expire, if no agent has them.
    :return: whether Letta could list all agents and tools.
    """
    toolboxes = yield from _pages(letta.decode_toolboxes, lambda after: FindToolboxes(tag=MARK, after=after))
    if toolboxes is None:
        return False  # an agent may have any of the tools
    attached: set[str] = set()
    for toolbox in toolboxes:
        stamp = stamp_of(toolbox)
        if stamp.until <= now:
            response = yield ChangeToolbox(toolbox=without_ours(toolbox))
            if response is not None and response.status == 200:
                continue
        attached.update(tool.id for tool in toolbox.tools)
    tools = yield from _pages(letta.decode_tools, lambda after: SearchTools(text=PREFIX, after=after))
    for tool in tools or ():
        if is_ours(tool) and tool.id not in attached and (tool.name in names or is_expired(tool, now)):
            yield DeleteTool(tool_id=tool.id)
    return tools is not None


def _pages(
    decode: Callable[[bytes], tuple[_T, ...]], query: Callable[[str | None], Command]
) -> Generator[Command, Response | None, list[_T] | None]:
    """Read all pages of a list. Return None if one of them is missing or cannot be read."""
    items: list[_T] = []
    after: str | None = None
    while True:
        page = _read(decode, (yield query(after)))
        if page is None:
            return None
        items += page
        following = _id(page[-1]) if len(page) == PAGE_COUNT else None
        # A page with nothing new would be fetched again and again.
        if following is None or following == after:
            return items
        after = following


def _id(item: letta.Tool | letta.Toolbox) -> str:
    return item.id if isinstance(item, letta.Tool) else item.agent_id


_Read = TypeVar("_Read")


def _read(decode: Callable[[bytes], _Read], response: Response | None) -> _Read | None:
    """Decode a response. Return None if it is missing or cannot be read."""
    try:
        return None if response is None else decode(response.data)
    except SansioLettaError:
        return None


def prepare(
    attachment: ToolAttachment | None, answers: AnswerCalls | None, runs: FindRuns | None
) -> Preparation:
    """Do all that must be done before a run.

    :param attachment: the tools to attach.
    :param answers: to pending calls, if they must be sent before the run.
    :param runs: lists the agent's earlier runs, if the new one is found by comparing with them.
    """
    before = None
    if runs is not None:
        response = yield runs
        assert response is not None
        before = runs_before(response)
    prepared = Prepared()
    if attachment is not None:
        prepared = yield from attachment.attach()
    if answers is not None and not prepared.is_agent_gone:
        response = yield answers
        assert response is not None
        assert response.data is not None  # raises for another status than 200
    return evolve(prepared, runs=before)


def clean_up(
    conversation: DeleteConversation | UpdateConversation | None,
    strays: Cleaning | None,
    attachment: ToolAttachment | None,
    sweep: Cleaning | None,
    expired: Iterable[ConversationThread] = (),
) -> Cleaning:
    """Do all that must be done after a turn.

    :param conversation: deletes or updates the conversation of a background prompt.
    :param strays: deletes conversations whose creation was not confirmed.
    :param attachment: the tools to detach.
    :param sweep: deletes tools that have expired.
    :param expired: conversations that are no longer needed.
    """
    if conversation is not None:
        yield conversation
    if strays is not None:
        yield from strays
    if attachment is not None:
        yield from attachment.detach()
    if sweep is not None:
        yield from sweep
    for thread in expired:
        yield DeleteConversation(conversation_id=thread.conversation_id)
