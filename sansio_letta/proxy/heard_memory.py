"""What threads have heard, as far as this process knows; the truth is at the upstream."""

from collections import OrderedDict, deque
from collections.abc import Iterable
from itertools import islice
from typing import Final

from attrs import define, field

from ..errors import Kept
from ..turn.events import Thread
from ..turn.ledger import Heard, HeardMessage, Role, SentInput, ThreadKnowledge, digest_answer, result_digest
from ..turn.new_input import RESULT_COUNT
from ..turn.request import (
    NO_INSTRUCTIONS,
    AgentMessage,
    KnownInstructions,
    Mark,
    Message,
    ToolResult,
    TurnRequest,
    UserMessage,
)

#: Messages remembered of each thread: what a client has just said is among the last ones.
_SIZE: Final = 32
#: Results: those of several clients that take turns.
_RESULT_COUNT: Final = 4 * RESULT_COUNT


@define
class _Known:
    """What is known of one thread.

    :param messages: the last ones, oldest first.
    :param is_known: False: something may have been said since; it must be looked up.
    :param instructions: those that it was sent last.
    :param unanswered: ids of calls that were answered without a result, the oldest first. Of those beside a
        message that was not kept, some may still wait.
    :param results: digests of results that it was sent, the oldest first.
    :param unkept: marks of messages that were sent and are not known to be kept; True: known not to be.
    """

    messages: deque[HeardMessage]
    is_known: bool = False
    is_whole: bool = False
    instructions: KnownInstructions = NO_INSTRUCTIONS
    unanswered: OrderedDict[str, None] = field(factory=OrderedDict)
    results: OrderedDict[str, None] = field(factory=OrderedDict)
    unkept: OrderedDict[Mark, bool] = field(factory=OrderedDict)

    @property
    def heard(self) -> Heard:
        """The messages as the matching takes them."""
        return Heard(messages=tuple(self.messages), is_whole=self.is_whole)


@define
class HeardMemory:
    """Remembers what threads have heard, so that the upstream need not be asked.

    :param max_count: threads remembered; beyond it the one that was used longest ago is dropped.
    """

    max_count: int
    _threads: OrderedDict[Thread, _Known] = field(factory=OrderedDict, init=False)

    def recall(self, thread: Thread) -> ThreadKnowledge:
        """What is known of a thread."""
        known = self._threads.get(thread)
        if known is None:
            return ThreadKnowledge()
        return ThreadKnowledge(
            heard=known.heard if known.is_known else None,
            instructions=known.instructions,
            unanswered=tuple(known.unanswered),
            results=tuple(known.results),
            attempts=tuple(known.unkept),
            lost=tuple(mark for mark, is_sure in known.unkept.items() if is_sure),
        )

    def restore(self, thread: Thread, knowledge: ThreadKnowledge) -> None:
        """Remember what another process knew of a thread."""
        known, heard = self._find(thread), knowledge.heard
        known.is_known, known.instructions = heard is not None, knowledge.instructions
        if heard is not None:
            known.messages = deque(heard.messages, _SIZE)
            known.is_whole = heard.is_whole
        known.unanswered = OrderedDict.fromkeys(knowledge.unanswered)
        known.results = OrderedDict.fromkeys(knowledge.results)
        lost = frozenset(knowledge.lost)
        known.unkept = OrderedDict((mark, mark in lost) for mark in knowledge.attempts)

    def forget(self, thread: Thread) -> None:
        """Forget a thread that is gone."""
        self._threads.pop(thread, None)

    def learn_heard(self, thread: Thread, heard: Heard) -> None:
        """A thread was looked up."""
        known = self._find(thread)
        known.messages = deque((message for message in heard.messages if message.role is not Role.CALL), _SIZE)
        known.unanswered = OrderedDict.fromkeys(heard.unanswered)
        for message in heard.messages:
            if message.mark is not None:
                known.unkept.pop(message.mark, None)
        known.is_known, known.is_whole = True, heard.is_whole and len(heard.messages) <= _SIZE
        if not known.instructions.digests:
            known.instructions = heard.instructions

    def learn_sent(self, thread: Thread, sent: SentInput, request: TurnRequest) -> None:
        """A run has ended: its input was kept, or not, or that is not known.

        :param request: what it was made of.
        """
        known = self._find(thread)
        marks = [mark for message in sent.messages if (mark := _mark(message)) is not None]
        if sent.kept is not Kept.SOMETHING:
            for mark in marks:
                known.unkept[mark] = sent.kept is Kept.NOTHING
            while len(known.unkept) > _SIZE:
                known.unkept.popitem(last=False)
            # What stands for a result is stored at once, whatever becomes of the run.
            self._learn_unanswered(known, sent.unanswered)
            known.is_known = known.is_known and sent.kept is Kept.NOTHING
            return
        # All that leads to what was kept has been heard, be it through another process.
        for item in (*sent.messages, *request.transcript) if known.unkept else ():
            if not isinstance(item, ToolResult) and (mark := _mark(item)) is not None:
                known.unkept.pop(mark, None)
        self._learn_instructions(known, marks, request)
        self._learn_calls(known, marks, sent.unanswered)
        self._learn_results(known, request)
        known.is_whole = known.is_whole and len(known.messages) + len(sent.messages) <= _SIZE
        known.messages.extend(_heard(sent.messages))
        if sent.messages and not any(isinstance(message, UserMessage) for message in sent.messages):
            # What the agent has said is not known here; that it has, is.
            known.messages.append(HeardMessage(role=Role.AGENT, content=None))
        known.is_known = True

    def _learn_instructions(self, known: _Known, marks: Iterable[Mark], request: TurnRequest) -> None:
        given = known.instructions.digests | {mark.content for mark in marks}
        digests, before = request.instruction_digests & given, known.instructions
        if digests != before.digests or not before.lines:
            own = request.instructions
            is_given = own is not None and own.digests <= digests
            known.instructions = KnownInstructions(
                digests=digests, lines=own.lines if own is not None and is_given else frozenset()
            )

    def _learn_calls(self, known: _Known, marks: Iterable[Mark], unanswered: Iterable[str]) -> None:
        told = {mark.content for mark in marks}
        for call_id in [each for each in known.unanswered if result_digest(each) in told]:
            del known.unanswered[call_id]
        self._learn_unanswered(known, unanswered)

    def _learn_unanswered(self, known: _Known, unanswered: Iterable[str]) -> None:
        known.unanswered.update(dict.fromkeys(unanswered))
        while len(known.unanswered) > _SIZE:
            known.unanswered.popitem(last=False)

    def _learn_results(self, known: _Known, request: TurnRequest) -> None:
        results = (item for item in reversed(request.transcript) if isinstance(item, ToolResult))
        for result in reversed(list(islice(results, RESULT_COUNT))):
            digest = result_digest(result.call_id)
            known.results[digest] = None
            known.results.move_to_end(digest)
        while len(known.results) > _RESULT_COUNT:
            known.results.popitem(last=False)

    def _find(self, thread: Thread) -> _Known:
        known = self._threads.get(thread)
        if known is None:
            known = self._threads[thread] = _Known(deque(maxlen=_SIZE))
            if len(self._threads) > self.max_count:
                self._threads.popitem(last=False)
        else:
            self._threads.move_to_end(thread)
        return known


def _mark(message: Message) -> Mark | None:
    return None if isinstance(message, AgentMessage) else message.mark


def _heard(messages: Iterable[Message]) -> Iterable[HeardMessage]:
    for message in messages:
        if isinstance(message, AgentMessage):
            yield HeardMessage(role=Role.AGENT, content=digest_answer(message.content))
        elif message.mark is not None:
            role = Role.USER if isinstance(message, UserMessage) else Role.SYSTEM
            yield HeardMessage(role=role, content=message.mark.content, chain=message.mark.chain)
