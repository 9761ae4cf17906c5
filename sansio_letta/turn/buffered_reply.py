"""A reply whose text is withheld until it has been checked."""

from collections.abc import Iterator

from attrs import define, field

from .events import CallStarted, Event, FinishReason, ServerToolStarted, TextDelta, TurnFinished
from .reply_format import ReplyFormat


@define
class BufferedReply:
    """Withholds the agent's text until its run has ended, and checks it.

    Other events are passed on as they come. A call of a client's tool is a complete reply, and a reply that was
    cut short cannot be checked; with these, the text is sent as it is. Text before a call of one of the agent's
    own tools, or of a run that another one continues, is not part of the reply.
    """

    reply_format: ReplyFormat
    problem: str | None = field(default=None, init=False)
    """What is wrong with the reply of the run that has ended; then neither its text nor its end is sent."""
    is_released: bool = field(default=False, init=False)  #: text is no longer withheld
    _texts: list[str] = field(factory=list, init=False)
    _reply_at: int = field(default=0, init=False)  #: index of the first text of the reply

    def pass_on(self, event: Event) -> Iterator[Event]:
        """Yield what may be sent of an event of the run."""
        match event:
            case TextDelta(text=text) if not self.is_released:
                self._texts.append(text)
                return
            case ServerToolStarted():
                self._reply_at = len(self._texts)
            case CallStarted():
                yield from self._release()
        yield event

    def finish(self, event: TurnFinished, *, was_cancelled: bool) -> Iterator[Event]:
        """End the turn with this run, unless there is a `problem` with its reply.

        :param was_cancelled: whether the run was cancelled from outside.
        """
        if self.is_released:
            yield event
        elif was_cancelled:
            yield from self._release()
            # With `stop`, the client would take the reply for complete.
            yield TurnFinished(reason=FinishReason.LENGTH, usage=event.usage)
        elif event.reason is FinishReason.STOP:
            checked = self.reply_format.check("".join(self._texts[self._reply_at :]))
            self.problem = checked.problem
            if self.problem is None:
                yield TextDelta(text=checked.text)
                yield event
        else:
            yield from self._release()
            yield event

    def begin(self) -> None:
        """Start again, for another run, or for the same one from its start."""
        self._texts.clear()
        self._reply_at, self.problem = 0, None

    def _release(self) -> Iterator[TextDelta]:
        if text := "".join(self._texts):
            yield TextDelta(text=text)
        self._texts.clear()
        self.is_released = True
