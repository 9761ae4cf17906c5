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
    LentTool,
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
from .response import Answer
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
Preparation: TypeAlias = Generator[Command, Answer | None, Prepared]
#: Asked after it; None stands for an answer that never came. Nothing is raised: what cannot be cleaned now is
#: cleaned later.
Cleaning: TypeAlias = Generator[Command, Answer | None, None]


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
class Loan:
    """A client's tools, lent to an agent for one turn.

    :param stamp: how the agent is marked; its owner is unique.
    :param now: when the request came, Unix time in seconds.
    :param made: told what had to be made.
    :param scope: the caller's.
    """

    agent_id: str
    tools: tuple[LentTool, ...]
    stamp: Stamp
    now: int
    made: MadeTools = field(factory=MadeTools)
    scope: Hashable = None
    is_out: bool = field(default=False, init=False)  #: the agent has the tools, or may have
    has_made: bool = field(default=False, init=False)  #: some were not there, or had expired

    def give(self) -> Preparation:
        """Find the tools or make them, and attach them.

        :raises RequestError: if Letta refuses one; it names the field.
        :raises SansioLettaError: if Letta refuses something else, or does not tell.
        """
        answer = yield FetchToolbox(agent_id=self.agent_id)
        assert answer is not None
        if answer.status == 404:
            return Prepared(is_agent_gone=True)
        toolbox = letta.decode_toolbox(answer.data)
        for is_last in (False, True):
            change = ChangeToolbox(toolbox=with_tools(toolbox, (yield from self._provide()), self.stamp))
            self.is_out = True
            answer = yield change
            assert answer is not None
            # Another turn, or process, may have deleted a tool since it was found.
            if answer.status != 409 or is_last:
                break
        letta.decode_agent(answer.data)
        return Prepared()

    def _provide(self) -> Generator[Command, Answer | None, tuple[letta.Tool, ...]]:
        names = tuple(lent.tool.name for lent in self.tools)
        found: dict[str, letta.Tool] = {}
        for start in range(0, len(names), _NAME_COUNT):
            answer = yield FindTools(names=names[start : start + _NAME_COUNT])
            assert answer is not None
            tools = letta.decode_tools(answer.data)
            found.update((tool.name, tool) for tool in tools if is_ours(tool))
        for index, lent in enumerate(self.tools):
            tool = found.get(lent.tool.name)
            if tool is None or is_expired(tool, self.now):
                self.has_made = True
                self.made.add(lent.tool.name, self.stamp.until, self.scope)
                answer = yield MakeTool(tool=to_client_tool(lent.tool), tags=tool_tags(self.stamp.until))
                assert answer is not None
                if answer.status in (400, 413, 422):
                    raise RequestError(
                        f"Letta does not take `{{field}}`: {answer.error().message}",
                        field=FieldPath(RequestField.TOOL, index),
                    )
                found[lent.tool.name] = letta.decode_tool(answer.data)
        return tuple(found[name] for name in names)

    def take_back(self) -> Cleaning:
        """Take the tools away from the agent; they are not deleted."""
        toolbox = _read(letta.decode_toolbox, (yield FetchToolbox(agent_id=self.agent_id)))
        if toolbox is not None and stamp_of(toolbox).owner == self.stamp.owner:
            yield ChangeToolbox(toolbox=without_ours(toolbox))


def clean(now: int, *, names: Collection[str] = ()) -> Generator[Command, Answer | None, bool]:
    """Take away and delete what has expired.

    :param now: Unix time, seconds.
    :param names: of tools that are deleted though they have not expired, if no agent has them.
    :return: whether Letta told what there is.
    """
    toolboxes = yield from _pages(letta.decode_toolboxes, lambda after: FindToolboxes(tag=MARK, after=after))
    if toolboxes is None:
        return False  # some agent may have any of the tools
    lent: set[str] = set()
    for toolbox in toolboxes:
        stamp = stamp_of(toolbox)
        if stamp.until <= now:
            answer = yield ChangeToolbox(toolbox=without_ours(toolbox))
            if answer is not None and answer.status == 200:
                continue
        lent.update(tool.id for tool in toolbox.tools)
    tools = yield from _pages(letta.decode_tools, lambda after: SearchTools(text=PREFIX, after=after))
    for tool in tools or ():
        if is_ours(tool) and tool.id not in lent and (tool.name in names or is_expired(tool, now)):
            yield DeleteTool(tool_id=tool.id)
    return tools is not None


def _pages(
    decode: Callable[[bytes], tuple[_T, ...]], question: Callable[[str | None], Command]
) -> Generator[Command, Answer | None, list[_T] | None]:
    """All items of a list, page by page; None if Letta does not tell."""
    items: list[_T] = []
    after: str | None = None
    while True:
        page = _read(decode, (yield question(after)))
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


def _read(decode: Callable[[bytes], _Read], answer: Answer | None) -> _Read | None:
    """What an answer says; None if there is none, or none that can be read."""
    try:
        return None if answer is None else decode(answer.data)
    except SansioLettaError:
        return None


def prepare(loan: Loan | None, answers: AnswerCalls | None, runs: FindRuns | None) -> Preparation:
    """All that must be done before a run.

    :param loan: tools that the agent is to have.
    :param answers: to what waits, if they cannot be sent with the run.
    :param runs: asks for the runs that the agent has already, if the new one is told apart by them.
    """
    before = None
    if runs is not None:
        answer = yield runs
        assert answer is not None
        before = runs_before(answer)
    prepared = Prepared()
    if loan is not None:
        prepared = yield from loan.give()
    if answers is not None and not prepared.is_agent_gone:
        answer = yield answers
        assert answer is not None
        assert answer.data is not None  # raises for another status than 200
    return evolve(prepared, runs=before)


def clean_up(
    conversation: DeleteConversation | UpdateConversation | None,
    strays: Cleaning | None,
    loan: Loan | None,
    forgotten: Cleaning | None,
    expired: Iterable[ConversationThread] = (),
) -> Cleaning:
    """All that must be done after a turn.

    :param conversation: what becomes of one that was for a background prompt.
    :param strays: deletes such conversations as may have been made without an answer that said so.
    :param loan: tools that the agent has.
    :param forgotten: deletes tools that have expired.
    :param expired: conversations that nobody comes back to.
    """
    if conversation is not None:
        yield conversation
    if strays is not None:
        yield from strays
    if loan is not None:
        yield from loan.take_back()
    if forgotten is not None:
        yield from forgotten
    for thread in expired:
        yield DeleteConversation(conversation_id=thread.conversation_id)
