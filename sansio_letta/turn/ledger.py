"""What an agent has heard: the marks by which its thread tells, and what is known of the thread.

A client resends its whole transcript and assumes that the model has no memory; an agent remembers. Its own
thread at the upstream is the ledger: each message that is sent carries a `Mark`, which the upstream keeps and
lists with the message. So what a thread has heard can be read from it at any time: after a restart, and by
another replica.

A mark has a digest of the message and one of the user messages before it in the transcript, the chain. Two
equal messages ("yes", "yes") differ by their chains, and a client that has dropped the beginning of its history
is still recognised by the messages themselves.
"""

from collections.abc import Collection, Sequence
from enum import Enum, auto
from hashlib import sha256
from typing import Final

from attrs import field, frozen

from ..errors import Kept
from .request import (
    NO_INSTRUCTIONS,
    Content,
    KnownInstructions,
    Mark,
    Message,
    SystemMessage,
    Text,
    ToolResult,
    content_text,
)

#: Hexadecimal digits of a digest: too many for a collision to be found.
_DIGEST_SIZE: Final = 32
#: The chain of the first user message in a transcript of a client without a name.
ROOT: Final = "0" * _DIGEST_SIZE


def digest(role: str, content: Content) -> str:
    """Return the digest of a message.

    Adjacent texts are one text: it makes no difference in how many parts a client sends it, and the parts of
    older messages are joined.

    :param role: ``user``, ``system`` or ``assistant``.
    """
    if isinstance(content, str):
        return _digest(f"{role}\ntext {content}")
    lines, follows_text = [role], False
    for part in content:
        if isinstance(part, Text):
            lines.append(part.text if follows_text else f"text {part.text}")
        else:
            lines.append(f"image {part.url}")
        follows_text = isinstance(part, Text)
    return _digest("\n".join(lines))


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_SIZE]


def result_digest(call_id: str) -> str:
    """Return what marks the message by which a result is told whose call does not wait any more."""
    return digest("result", call_id)


def late_result(result: ToolResult, *, is_own: bool) -> SystemMessage:
    """Return the message by which a result is told whose call does not wait any more.

    :param is_own: whether the agent has made the call; otherwise another model has, or the client itself.
    """
    what = result.name or "a tool"
    why = "it arrived after the conversation had gone on" if is_own else "its call is not in your history"
    mark = Mark(result_digest(result.call_id), ROOT)
    return SystemMessage(content=f"[Result of {what}; {why}:]\n{content_text(result.content)}", mark=mark)


def digest_answer(text: str) -> str:
    """Return the digest of an assistant message. Programs strip the blanks around it."""
    return digest("assistant", text.strip())


def root(client: str) -> str:
    """Return the chain of the first user message in a client's transcripts.

    :param client: the name of its key; empty if it has none.
    """
    return next_chain(ROOT, digest("client", client)) if client else ROOT


def next_chain(chain: str, content: str) -> str:
    """Return the chain of what follows a user message.

    :param chain: the message's own; see `root`.
    :param content: its digest.
    """
    return _digest(f"{chain} {content}")


class Role(Enum):
    """Whose a message of a thread is."""

    USER = auto()
    SYSTEM = auto()
    AGENT = auto()
    CALL = auto()  #: of a client's tool, or of one that needs approval
    RESULT = auto()  #: of a call


@frozen(kw_only=True)
class HeardMessage:
    """A message that a thread holds.

    :param content: its digest, or the id of a call, also of a result's; None if it is not known, as that of a
        reply which was only passed on.
    :param chain: from its mark; None without one: it was sent before there were marks, or by another program.
    :param run: how its run is found, in the upstream's own terms; None if that is not known.
    :param is_placeholder: the agent was told that there is no result.
    :param is_error: the tool has failed, or its call was cancelled.
    :param name: of the called tool, as the agent has it.
    """

    role: Role
    content: str | None
    chain: str | None = None
    run: object = None
    is_placeholder: bool = False
    is_error: bool = False
    name: str | None = None

    @property
    def mark(self) -> Mark | None:
        """Its mark, if it has one."""
        if self.chain is None or self.content is None:
            return None
        return Mark(content=self.content, chain=self.chain)


@frozen(kw_only=True)
class Heard:
    """What is known of a thread.

    :param messages: the last ones, oldest first.
    :param is_whole: there are none before them.
    """

    messages: Sequence[HeardMessage] = ()
    is_whole: bool = False

    @property
    def unanswered(self) -> frozenset[str]:
        """Ids of calls that were answered without a result, which has not come since."""
        answered = [message.content for message in self.messages if message.is_placeholder and message.content]
        if not answered:
            return frozenset()
        told = {message.content for message in self.messages if message.role is Role.SYSTEM}
        return frozenset(call_id for call_id in answered if result_digest(call_id) not in told)

    @property
    def waiting(self) -> frozenset[str]:
        """Ids of calls that have no answer yet, as far as calls are known."""
        answered = {message.content for message in self.messages if message.role is Role.RESULT}
        return frozenset(
            message.content
            for message in self.messages
            if message.role is Role.CALL and message.content and message.content not in answered
        )

    def run_with_results(self, call_ids: Collection[str]) -> object:
        """Return how the run is found that was started with these results; None if that is not known."""
        found = [
            message
            for message in self.messages
            if message.role is Role.RESULT and message.content in call_ids and not message.is_placeholder
        ]
        return found[-1].run if found and len(found) == len(call_ids) else None

    @property
    def instructions(self) -> KnownInstructions:
        """The system messages, any of which may be instructions that still hold."""
        contents = (message.content for message in self.messages if message.role is Role.SYSTEM)
        return KnownInstructions(digests=frozenset(content for content in contents if content is not None))

    def has_call(self, call_ids: Collection[str]) -> bool:
        """Whether the agent has made one of these calls."""
        return any(
            message.role in (Role.CALL, Role.RESULT) and message.content in call_ids
            for message in self.messages
        )

    def has_result(self, call_id: str) -> bool:
        """Whether the agent has had the result of a call, in time or later."""
        late = result_digest(call_id)
        return any(
            (message.role is Role.RESULT and message.content == call_id and not message.is_placeholder)
            or (message.role is Role.SYSTEM and message.content == late)
            for message in self.messages
        )


@frozen(kw_only=True)
class ThreadKnowledge:
    """What is remembered of a thread.

    :param heard: None: nothing, or something may have been said since.
    :param instructions: those that it was sent last.
    :param unanswered: ids of calls that were answered without a result, as far as is known.
    :param results: digests of the last results that it was sent, see `result_digest`.
    :param attempts: marks of messages that were sent, and are not known to be kept.
    :param lost: those of them that are known not to be.
    """

    heard: Heard | None = None
    instructions: KnownInstructions = NO_INSTRUCTIONS
    unanswered: Collection[str] = frozenset()
    results: Collection[str] = frozenset()
    attempts: Collection[Mark] = frozenset()
    lost: Collection[Mark] = frozenset()


@frozen(kw_only=True)
class SentInput:
    """The input of a run, and what became of it.

    :param unanswered: ids of the calls that were answered without a result.
    """

    messages: tuple[Message, ...] = field(repr=False)
    kept: Kept
    unanswered: tuple[str, ...] = ()
