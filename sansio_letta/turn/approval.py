"""Approval of calls by a human: the question in the chat, and the answers that count.

A call of one of the agent's own tools may wait for a human's approval. A chat has no buttons, so the reply
describes the call, and the user's next message is the decision. No state is kept in between: the question is in
the history that the client sends back.
"""

from collections.abc import Iterable, Sequence
from itertools import dropwhile
from typing import Final

from attrs import field, frozen

from .agent import PendingCall

#: A message that allows the calls is one of these words, apart from case, and punctuation around it.
APPROVING_WORDS: Final = ("approve", "approved", "yes")
#: A message that denies the calls is one of these; a reason may follow the first.
DENYING_WORDS: Final = ("deny", "denied", "no")

#: Characters of a call's arguments in the question. Longer arguments would be allowed unread.
_MAX_ARGUMENTS: Final = 4000

_EDGES: Final = " \t\r\n.,:;!?\"'`*_()[]"
_DENYING_WORD: Final = DENYING_WORDS[0]  #: the one that a reason may follow


@frozen(kw_only=True)
class Verdict:
    """The decision about pending calls in a user's message. Without such calls, it is an ordinary message.

    :param seen: the agent's last message, as the client has it; None if the client has no history.
    """

    approve: bool
    reason: str | None = field(default=None, repr=False)
    seen: str | None = field(default=None, repr=False)

    def is_on(self, calls: Iterable[PendingCall]) -> bool:
        """Whether it answers the question about these calls, and not a different one.

        Two chats with one agent may show different questions. A client without a history shows nothing, so its
        message counts.
        """
        return self.seen is None or all(_describe(call) in self.seen for call in calls)


def read_verdict(texts: Sequence[str], seen: str | None) -> Verdict | None:
    """Read a decision from new user messages; None if they are not one.

    :param texts: of the messages. Several messages are never a decision.
    :param seen: see `Verdict`.
    """
    if len(texts) != 1:
        return None
    text = texts[0].strip(_EDGES)
    word = text.lower()
    if word in APPROVING_WORDS:
        return Verdict(approve=True, seen=seen)
    if word in DENYING_WORDS:
        return Verdict(approve=False, seen=seen)
    rest = text[len(_DENYING_WORD) :]
    if word.startswith(_DENYING_WORD) and not (rest[0].isalnum() or rest[0] == "_"):
        reason = "".join(dropwhile(lambda char: char.isspace() or char in ".,:;!-", rest)).strip()
        return Verdict(approve=False, reason=reason or None, seen=seen)
    return None


def approval_question(calls: Iterable[PendingCall]) -> str:
    """The question for the user.

    :param calls: the pending calls; one answer decides all of them.
    """
    described = "\n".join(f"- {_describe(call)}" for call in calls)
    return (
        f"[The agent asks for approval to run:\n{described}\n"
        "Answer `approve` (or `yes`) to let it, or `deny` (or `no`), with a reason behind `deny` if you like. "
        "Any other message denies it, too, and goes to the agent.]"
    )


def _describe(call: PendingCall) -> str:
    """A call as the question describes it, whether it is known from a stream or from the pending calls."""
    arguments = call.arguments or "{}"
    more = len(arguments) - _MAX_ARGUMENTS
    return f"{call.name}({arguments[:_MAX_ARGUMENTS]}{f'... and {more} characters more' if more > 0 else ''})"
