"""Approval of calls by a human: the question in the chat, and the answers that count.

A call of one of the agent's own tools may wait for a human's approval. A chat has no buttons: the reply says in
words what the agent wants to run, and the user's next message decides. Nothing is kept in between: the question
is in the history that the client sends back.
"""

from collections.abc import Iterable, Sequence
from itertools import dropwhile
from typing import Final

from attrs import field, frozen

from .agent import PendingCall

#: The whole of a message that allows the calls; case, blanks and punctuation around it do not matter.
APPROVING_WORDS: Final = ("approve", "approved", "yes")
#: The same for one that denies them. Behind the first of them a reason may follow.
DENYING_WORDS: Final = ("deny", "denied", "no")

#: A call's arguments in the question; who allows more than this does not read it.
_MAX_ARGUMENTS: Final = 4000

_EDGES: Final = " \t\r\n.,:;!?\"'`*_()[]"
_DENYING_WORD: Final = DENYING_WORDS[0]  #: the one that a reason may follow


@frozen(kw_only=True)
class Verdict:
    """What the user's message says about calls that wait, if any do; otherwise it is a message like others.

    :param seen: what the agent said last, as the client has it; None if the client has no history.
    """

    approve: bool
    reason: str | None = field(default=None, repr=False)
    seen: str | None = field(default=None, repr=False)

    def is_on(self, calls: Iterable[PendingCall]) -> bool:
        """Whether it answers the question after these calls, and no other one.

        Of two chats with one agent each may show another question, or none. A client without a history shows
        nothing, and is believed.
        """
        return self.seen is None or all(_wish(call) in self.seen for call in calls)


def read_verdict(texts: Sequence[str], seen: str | None) -> Verdict | None:
    """What new user messages say about calls that may wait; None: nothing that counts.

    :param texts: of the messages. Of several none is an answer.
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
    """What a person is asked.

    :param calls: that wait; all of them are settled by one answer.
    """
    wishes = "\n".join(f"- {_wish(call)}" for call in calls)
    return (
        f"[The agent asks for approval to run:\n{wishes}\n"
        "Answer `approve` (or `yes`) to let it, or `deny` (or `no`), with a reason behind `deny` if you like. "
        "Any other message denies it, too, and goes to the agent.]"
    )


def _wish(call: PendingCall) -> str:
    """A call as the question has it; the same for what a stream told and for what Letta says is pending."""
    arguments = call.arguments or "{}"
    more = len(arguments) - _MAX_ARGUMENTS
    return f"{call.name}({arguments[:_MAX_ARGUMENTS]}{f'... and {more} characters more' if more > 0 else ''})"
