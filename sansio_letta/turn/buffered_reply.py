"""What the agent says while nobody knows yet whether it is what the client wishes."""

from collections.abc import Iterable, Iterator

from attrs import define, field

from ..upstreams.rest.run import RunStream
from .events import CallStarted, Event, FinishReason, ServerToolStarted, TextDelta, TurnFinished
from .reply_format import Wish


@define
class HeldReply:
    """Holds the agent's words back until its run has ended, and checks them.

    All else is passed on as it comes. A call of a client's tool is an answer of its own, and so is a reply that
    was cut short: with these the words are told as they are. What the agent says on the way, before a call of
    a tool of its own or in a run that another one goes on from, is no part of the reply.
    """

    wish: Wish
    complaint: str | None = field(default=None, init=False)
    """What is wrong with the reply of the run that has ended. Its end was not told then, nor were its words."""
    is_released: bool = field(default=False, init=False)  #: nothing is held any more
    _words: list[str] = field(factory=list, init=False)
    _reply_at: int = field(default=0, init=False)  #: where in them the reply begins

    def pass_on(self, events: Iterable[Event], run: RunStream) -> Iterator[Event]:
        """Of a run's events those that may be told now.

        :param run: whose events they are.
        """
        for event in events:
            match event:
                case TextDelta(text=text) if not self.is_released:
                    self._words.append(text)
                    continue
                case ServerToolStarted():
                    self._reply_at = len(self._words)
                case CallStarted():
                    yield from self._release()
                case TurnFinished(usage=usage) if run.was_cancelled and not self.is_released:
                    yield from self._release()
                    # A client takes what stops for whole.
                    yield TurnFinished(reason=FinishReason.LENGTH, usage=usage)
                    continue
                case TurnFinished(reason=FinishReason.STOP) if not self.is_released:
                    checked = self.wish.check("".join(self._words[self._reply_at :]))
                    self.complaint = checked.complaint
                    if self.complaint is not None:
                        continue
                    yield TextDelta(text=checked.text)
                case TurnFinished():
                    yield from self._release()
            yield event

    def begin(self) -> None:
        """Another run comes, or the same is told again from its start."""
        self._words.clear()
        self._reply_at, self.complaint = 0, None

    def _release(self) -> Iterator[TextDelta]:
        if text := "".join(self._words):
            yield TextDelta(text=text)
        self._words.clear()
        self.is_released = True
