"""What the proxy remembered of threads, in the head of a recording.

Messages are known by digests of their texts. Where a recording does not hold the texts, it has the digests of
what it holds instead: a replay then finds in the redacted request what the proxy found in the real one.
"""

from collections.abc import Collection, Mapping
from hashlib import sha256
from typing import Final

from attrs import evolve, frozen

from ..turn.events import AgentThread, ConversationThread, Thread
from ..turn.ledger import Heard, HeardMessage, Role, ThreadKnowledge, digest_answer
from ..turn.request import AgentMessage, KnownInstructions, Mark, ToolResult, TurnRequest
from ..upstreams.rest.recovery import EarlierTurn

_ROLES: Final = {role.name.lower(): role for role in Role}


@frozen(kw_only=True)
class RecordedMessage:
    """A message that a thread was known to hold. See `HeardMessage`."""

    role: str
    content: str | None = None
    chain: str | None = None
    run: str | None = None
    is_placeholder: bool = False


@frozen(kw_only=True)
class RecordedThread:
    """What was known of one thread. See `ThreadKnowledge`."""

    agent: str | None = None  #: whose own thread it is
    conversation: str | None = None
    is_known: bool = False  #: False: what it had heard had to be looked up
    is_whole: bool = False
    messages: tuple[RecordedMessage, ...] = ()
    instructions: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    unanswered: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    attempts: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()

    @classmethod
    def of(cls, thread: Thread, known: ThreadKnowledge) -> "RecordedThread":
        """Make the form in which it is recorded."""
        heard = known.heard
        return cls(
            agent=thread.agent_id if isinstance(thread, AgentThread) else None,
            conversation=thread.conversation_id if isinstance(thread, ConversationThread) else None,
            is_known=heard is not None,
            is_whole=heard is not None and heard.is_whole,
            messages=tuple(map(_recorded, heard.messages)) if heard is not None else (),
            instructions=tuple(sorted(known.instructions.digests)),
            lines=tuple(sorted(known.instructions.lines)),
            unanswered=tuple(known.unanswered),
            results=tuple(known.results),
            attempts=_texts(known.attempts),
            lost=_texts(known.lost),
        )

    @property
    def thread(self) -> Thread | None:
        """The thread; None if the recording names none."""
        if self.conversation is not None:
            return ConversationThread(conversation_id=self.conversation)
        return None if self.agent is None else AgentThread(agent_id=self.agent)

    @property
    def knowledge(self) -> ThreadKnowledge:
        """What was known. What a later version knew besides is left out."""
        messages = tuple(_restored(message) for message in self.messages if message.role in _ROLES)
        heard = Heard(messages=messages, is_whole=self.is_whole)
        return ThreadKnowledge(
            heard=heard if self.is_known else None,
            instructions=KnownInstructions(digests=frozenset(self.instructions), lines=frozenset(self.lines)),
            unanswered=self.unanswered,
            results=self.results,
            attempts=_marks(self.attempts),
            lost=_marks(self.lost),
        )

    def translate(self, digests: Mapping[str, str]) -> "RecordedThread":
        """Replace the digests of texts that the recording does not hold.

        :param digests: of redacted texts and of their chains, by those of the real ones.
        """

        def other(text: str) -> str:
            return (
                digests.get(text)
                or sha256(f"unknown {order.setdefault(text, len(order))}".encode()).hexdigest()[:32]
            )

        def mark(text: str) -> str:
            found = Mark.read(text)
            return text if found is None else Mark(other(found.content), other(found.chain)).text

        order: dict[str, int] = {}
        return evolve(
            self,
            messages=tuple(
                message
                if message.content is None or message.role == "result"
                else evolve(
                    message,
                    content=other(message.content),
                    chain=None if message.chain is None else other(message.chain),
                )
                for message in self.messages
            ),
            instructions=tuple(map(other, self.instructions)),
            lines=(),
            attempts=tuple(map(mark, self.attempts)),
            lost=tuple(map(mark, self.lost)),
        )


def redacted_digests(real: TurnRequest, redacted: TurnRequest) -> dict[str, str]:
    """Return the digests of a redacted request's messages, by those of the real one's."""
    digests: dict[str, str] = {}
    given = [request.instructions.messages if request.instructions else () for request in (real, redacted)]
    for items in zip((*given[0], *real.transcript), (*given[1], *redacted.transcript), strict=False):
        match items:
            case (AgentMessage(content=one), AgentMessage(content=other)):
                digests[digest_answer(one)] = digest_answer(other)
            case (ToolResult(), _) | (_, ToolResult()) | (AgentMessage(), _) | (_, AgentMessage()):
                continue
            case (message, hidden) if message.mark is not None and hidden.mark is not None:
                digests[message.mark.content] = hidden.mark.content
                digests[message.mark.chain] = hidden.mark.chain
    return digests


def _recorded(message: HeardMessage) -> RecordedMessage:
    return RecordedMessage(
        role=message.role.name.lower(),
        content=message.content,
        chain=message.chain,
        run=message.run.run_id if isinstance(message.run, EarlierTurn) else None,
        is_placeholder=message.is_placeholder,
    )


def _restored(message: RecordedMessage) -> HeardMessage:
    return HeardMessage(
        role=_ROLES[message.role],
        content=message.content,
        chain=message.chain,
        run=None if message.run is None else EarlierTurn(run_id=message.run),
        is_placeholder=message.is_placeholder,
    )


def _texts(marks: Collection[Mark]) -> tuple[str, ...]:
    return tuple(mark.text for mark in marks)


def _marks(texts: Collection[str]) -> tuple[Mark, ...]:
    return tuple(mark for text in texts if (mark := Mark.read(text)) is not None)
