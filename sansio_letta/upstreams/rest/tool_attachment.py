"""Questions to Letta that give an agent a client's tools, and take them away again.

An agent has them from just before a run until the turn has ended. Letta reads an agent's tools when a run
begins, and a call that waits is answered without its tool (legacy_answer_first.jsonl): so they may be taken
away at any time after that, though the run goes on or waits.

The tools stay at Letta until they expire: the next turn that brings them need not make them. A process that
dies leaves tools, too, and perhaps an agent that has them. Both are looked for by a turn that had to make a
tool, by the first turn after all that this process has made has expired, and by a server every now and then: an
agent's tools are taken away once their stamp has expired, and tools are deleted once they have expired and no
agent has them. All that is known of this stands at Letta, so any process can do it for any other.
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

#: Names in one question: with all that is around them they fit into a request line of 16 KB.
_NAME_COUNT: Final = 100


@frozen(kw_only=True)
class Prepared:
    """All that could be done before a run has been done.

    :param is_agent_gone: there is no such agent any more.
    :param runs: those that the agent had before; None if that is not known.
    """

    is_agent_gone: bool = False
    runs: frozenset[str] | None = None


#: Asked before a run; what is raised ends the turn.
Preparation: TypeAlias = Generator[Command, Response | None, Prepared]
#: Asked after it; None stands for an answer that never came. Nothing is raised: what cannot be cleaned now is
#: cleaned later.
Cleaning: TypeAlias = Generator[Command, Response | None, None]


@define
class MadeTools:
    """What the turns of one process have made at Letta, and when it expires.

    :param max_count: names, and scopes, remembered; beyond it the oldest is dropped. What is forgotten here
        expires all the same.
    """

    max_count: int = 4096
    _names: OrderedDict[str, int] = field(factory=OrderedDict, init=False)
    _until: OrderedDict[Hashable, int] = field(factory=OrderedDict, init=False)  #: the last of a scope's

    def __bool__(self) -> bool:
        return bool(self._names)

    def names(self, now: int) -> frozenset[str]:
        """Of those that have not expired. One that has may be another process's by now.

        :param now: Unix time, seconds.
        """
        return frozenset(name for name, until in self._names.items() if until > now)

    def add(self, name: str, until: int, scope: Hashable) -> None:
        """A tool is being made.

        :param until: Unix time, seconds.
        :param scope: of the caller: others may have no key to delete it with.
        """
        self._names[name] = max(self._names.pop(name, 0), until)
        self._until[scope] = max(self._until.pop(scope, 0), until)
        if len(self._names) > self.max_count:
            self._names.popitem(last=False)
        if len(self._until) > self.max_count:
            self._until.popitem(last=False)

    def have_expired(self, scope: Hashable, now: int) -> bool:
        """Whether a scope's are all over, and nobody has looked for them since."""
        return self._until.get(scope, now + 1) <= now

    def forget_expired(self, scope: Hashable, now: int) -> None:
        """Those of a scope that were over have been deleted."""
        if self.have_expired(scope, now):
            del self._until[scope]


@define(kw_only=True)
class ToolAttachment:
    """A client's tools, lent to an agent for one turn.

    :param stamp: how the agent is marked; its owner is unique.
    :param now: when the request came, Unix time in seconds.
    :param made: told what had to be made.
    :param scope: the caller's.
    """

    agent_id: str
    tools: tuple[OfferedTool, ...]
    stamp: Stamp
    now: int
    made: MadeTools = field(factory=MadeTools)
    scope: Hashable = None
    is_attached: bool = field(default=False, init=False)  #: the agent has the tools, or may have
    has_made: bool = field(default=False, init=False)  #: some were not there, or had expired

    def attach(self) -> Preparation:
        """Find the tools or make them, and attach them.

        :raises RequestError: if Letta refuses one; it names the field.
        :raises SansioLettaError: if Letta refuses something else, or does not tell.
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
            # Another turn, or process, may have deleted a tool since it was found.
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
                self.made.add(offer.tool.name, self.stamp.until, self.scope)
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
        """Take the tools away from the agent; they are not deleted."""
        toolbox = _read(letta.decode_toolbox, (yield FetchToolbox(agent_id=self.agent_id)))
        if toolbox is not None and stamp_of(toolbox).owner == self.stamp.owner:
            yield ChangeToolbox(toolbox=without_ours(toolbox))


def sweep_tools(now: int, *, names: Collection[str] = ()) -> Generator[Command, Response | None, bool]:
    """Take away and delete what has expired.

    :param now: Unix time, seconds.
    :param names: of tools that are deleted though they have not expired, if no agent has them.
    :return: whether Letta told what there is.
    """
    toolboxes = yield from _pages(letta.decode_toolboxes, lambda after: FindToolboxes(tag=MARK, after=after))
    if toolboxes is None:
        return False  # some agent may have any of the tools
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
    """All items of a list, page by page; None if Letta does not tell."""
    items: list[_T] = []
    after: str | None = None
    while True:
        page = _read(decode, (yield query(after)))
        if page is None:
            return None
        items += page
        following = _id(page[-1]) if len(page) == PAGE_COUNT else None
        # A page that brings nothing new would be asked for for ever.
        if following is None or following == after:
            return items
        after = following


def _id(item: letta.Tool | letta.Toolbox) -> str:
    return item.id if isinstance(item, letta.Tool) else item.agent_id


_Read = TypeVar("_Read")


def _read(decode: Callable[[bytes], _Read], response: Response | None) -> _Read | None:
    """What an answer says; None if there is none, or none that can be read."""
    try:
        return None if response is None else decode(response.data)
    except SansioLettaError:
        return None


def prepare(
    attachment: ToolAttachment | None, answers: AnswerCalls | None, runs: FindRuns | None
) -> Preparation:
    """All that must be done before a run.

    :param attachment: tools that the agent is to have.
    :param answers: to what waits, if they cannot be sent with the run.
    :param runs: asks for the runs that the agent has already, if the new one is told apart by them.
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
    forgotten: Cleaning | None,
    expired: Iterable[ConversationThread] = (),
) -> Cleaning:
    """All that must be done after a turn.

    :param conversation: what becomes of one that was for a background prompt.
    :param strays: deletes such conversations as may have been made without an answer that said so.
    :param attachment: tools that the agent has.
    :param forgotten: deletes tools that have expired.
    :param expired: conversations that nobody comes back to.
    """
    if conversation is not None:
        yield conversation
    if strays is not None:
        yield from strays
    if attachment is not None:
        yield from attachment.detach()
    if forgotten is not None:
        yield from forgotten
    for thread in expired:
        yield DeleteConversation(conversation_id=thread.conversation_id)
