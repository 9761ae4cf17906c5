"""What a thread has heard, by the list of its messages at Letta."""

from collections.abc import Callable, Iterator, Sequence

from ...turn.ledger import Heard, HeardMessage, Role, digest, digest_answer
from ...turn.request import Mark
from ...turn.settlement import PLACEHOLDERS
from . import letta
from .recovery import EarlierTurn

_ROLES = {"user_message": Role.USER, "system_message": Role.SYSTEM, "assistant_message": Role.AGENT}


def to_heard(messages: Sequence[letta.ListedMessage], count: int) -> Heard:
    """Return what a thread has heard.

    :param messages: the last ones, oldest first.
    :param count: how many were asked for.
    """
    runs: dict[str, EarlierTurn] = {}
    return Heard(
        messages=tuple(_heard(messages, lambda run_id: runs.setdefault(run_id, EarlierTurn(run_id=run_id)))),
        # Letta lists a step as several messages of one id, whatever the limit.
        is_whole=len({message.id for message in messages}) < count,
    )


def _heard(
    messages: Sequence[letta.ListedMessage], to_ref: Callable[[str], EarlierTurn]
) -> Iterator[HeardMessage]:
    for message in messages:
        run = to_ref(message.run_id) if message.run_id else None
        for returned in message.returns:
            yield HeardMessage(
                role=Role.RESULT,
                content=returned.tool_call_id,
                is_placeholder=returned.tool_return in PLACEHOLDERS,
                is_error=returned.status == "error",
                run=run,
            )
        for call in message.calls:
            yield HeardMessage(role=Role.CALL, content=call.tool_call_id, name=call.name, run=run)
        role = _ROLES.get(message.message_type)
        # What Letta puts first in a thread, its system prompt, is of no run and has no mark.
        if role is None or (role is Role.SYSTEM and message.run_id is None and message.otid is None):
            continue
        mark = None if role is Role.AGENT else Mark.read(message.otid)
        if mark is not None:
            yield HeardMessage(role=role, content=mark.content, chain=mark.chain, run=run)
        else:
            text = message.content
            content = digest_answer(text) if role is Role.AGENT else digest(role.name.lower(), text)
            yield HeardMessage(role=role, content=content, run=run)
