"""What the agent says while nobody knows yet whether it is what the client wishes."""

from collections.abc import Iterator

from attrs import define, field

from .events import CallStarted, Event, FinishReason, ServerToolStarted, TextDelta, TurnFinished
from .reply_format import ReplyFormat


@define
class BufferedReply:
    """Holds the agent's words back until its run has ended, and checks them.

    All else is passed on as it comes. A call of a client's tool is an answer of its own, and so is a reply that
    was cut short: with these the words are told as they are. What the agent says on the way, before a call of
    a tool of its own or in a run that another one goes on from, is no part of the reply.
    """

    reply_format: ReplyFormat
    problem: str | None = field(default=None, init=False)
    """What is wrong with the reply of the run that has ended. Its end was not told then, nor were its words."""
    is_released: bool = field(default=False, init=False)  #: nothing is held any more
    _words: list[str] = field(factory=list, init=False)
    _reply_at: int = field(default=0, init=False)  #: where in them the reply begins

    def pass_on(self, event: Event) -> Iterator[Event]:
        """Of an event of the run what may be told now."""
        match event:
            case TextDelta(text=text) if not self.is_released:
                self._words.append(text)
                return
            case ServerToolStarted():
                self._reply_at = len(self._words)
            case CallStarted():
                yield from self._release()
        yield event

    def finish(self, event: TurnFinished, *, was_cancelled: bool) -> Iterator[Event]:
        """The turn ends with this run, unless there is a `problem`.

        :param was_cancelled: somebody has ended the run.
        """
        if self.is_released:
            yield event
        elif was_cancelled:
            yield from self._release()
            # A client takes what stops for complete.
            yield TurnFinished(reason=FinishReason.LENGTH, usage=event.usage)
        elif event.reason is FinishReason.STOP:
            checked = self.reply_format.check("".join(self._words[self._reply_at :]))
            self.problem = checked.problem
            if self.problem is None:
                yield TextDelta(text=checked.text)
                yield event
        else:
            yield from self._release()
            yield event

    def begin(self) -> None:
        """Another run comes, or the same is told again from its start."""
        self._words.clear()
        self._reply_at, self.problem = 0, None

    def _release(self) -> Iterator[TextDelta]:
        if text := "".join(self._words):
            yield TextDelta(text=text)
        self._words.clear()
        self.is_released = True
