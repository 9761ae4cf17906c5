"""Which conversations the transcripts that name no chat have come to, as far as this process knows."""

from collections import OrderedDict
from hashlib import sha256
from typing import Final

from attrs import define, field, frozen

from ..turn.events import ConversationThread
from ..turn.request import TranscriptChat

#: Conversations remembered for one point: of chats that have been the same so far.
_MAX_COUNT: Final = 8


@frozen
class _Known:
    """A conversation, and what was answered last.

    :param reply: a digest; None if it is not known.
    """

    thread: ConversationThread
    reply: bytes | None = None


@define
class TranscriptMemory:
    """Remembers how far each conversation has come, so that the next request finds it without asking Letta.

    :param max_count: points remembered; beyond it, the one that was used longest ago is dropped.
    """

    max_count: int
    _points: OrderedDict[tuple[str, str], tuple[_Known, ...]] = field(factory=OrderedDict, init=False)
    _places: dict[ConversationThread, tuple[str, str]] = field(factory=dict, init=False)

    def recall(self, agent_id: str, chat: TranscriptChat) -> ConversationThread | None:
        """Return the conversation that a transcript continues; None if that is not certain."""
        if chat.begins:
            return None
        replies = [step.reply for step in reversed(chat.steps)] or [None]
        for point, reply in zip(chat.points, replies, strict=True):
            if known := self._points.get((agent_id, point)):
                return _choose(known, None if reply is None else _digest(reply))
        return None

    def find(self, chat: TranscriptChat) -> dict[str, ConversationThread]:
        """Return the conversations that a transcript continues, by agent id."""
        found = {
            agent_id: self.recall(agent_id, chat) for agent_id in {agent_id for agent_id, _ in self._points}
        }
        return {agent_id: thread for agent_id, thread in found.items() if thread is not None}

    def remember(
        self, agent_id: str, chat: TranscriptChat, thread: ConversationThread, reply: str | None = None
    ) -> None:
        """Note how far a conversation has come.

        :param reply: the answer as the client has received it; None if that is not known.
        """
        self.forget(thread)
        place = agent_id, chat.points[0]
        known = _Known(thread, _digest(reply) if reply else None)
        self._points[place] = (known, *self._points.get(place, ()))
        self._points.move_to_end(place)
        self._places[thread] = place
        for dropped in self._points[place][_MAX_COUNT:]:
            del self._places[dropped.thread]
        self._points[place] = self._points[place][:_MAX_COUNT]
        if len(self._points) > self.max_count:
            for dropped in self._points.popitem(last=False)[1]:
                del self._places[dropped.thread]

    def is_at(self, agent_id: str, chat: TranscriptChat, thread: ConversationThread) -> bool:
        """Return whether this is how far a conversation is known to have come."""
        return self._places.get(thread) == (agent_id, chat.points[0])

    def forget(self, thread: ConversationThread) -> None:
        """Forget a conversation."""
        place = self._places.pop(thread, None)
        if place is None:
            return
        others = tuple(known for known in self._points[place] if known.thread != thread)
        if others:
            self._points[place] = others
        else:
            del self._points[place]


def _choose(known: tuple[_Known, ...], reply: bytes | None) -> ConversationThread | None:
    same = [each for each in known if reply is not None and each.reply == reply]
    if same:
        # If there are several, they are the same word for word.
        return same[0].thread
    [first, *others] = known
    is_open = reply is None or first.reply is None
    return first.thread if is_open and not others else None


def _digest(reply: str) -> bytes:
    return sha256(reply.strip().encode("utf-8", "surrogatepass")).digest()
