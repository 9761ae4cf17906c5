"""What a client has asked not to get of an answer: text from a stop sequence on, and a second call.

Letta is asked for neither: its run goes on to its end, and the agent remembers all of it.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from attrs import define, evolve, field

from .events import (
    CallArguments,
    CallStarted,
    Event,
    FinishReason,
    ReasoningDelta,
    ServerToolArguments,
    ServerToolReturned,
    ServerToolStarted,
    TextDelta,
    TurnFailed,
    TurnFinished,
)

#: What a model that had stopped would not have said.
_SAID: Final = (ReasoningDelta, ServerToolStarted, ServerToolArguments, ServerToolReturned)
#: Times the size of a sequence.
_LONG: Final = 4


@define
class _Sequence:
    """A stop sequence, looked for in a text that comes in pieces: the automaton of Knuth, Morris and Pratt.

    Each character is looked at twice at most, whatever the text and the sequence are.
    """

    text: str
    size: int = field(default=0, init=False)  #: how much of the sequence the text so far ends with
    _borders: list[int] = field(init=False)
    """For each beginning of the sequence: the longest shorter one that it ends with."""

    def __attrs_post_init__(self) -> None:
        self._borders, border = [0], 0
        for char in self.text[1:]:
            while border and char != self.text[border]:
                border = self._borders[border - 1]
            border += char == self.text[border]
            self._borders.append(border)

    def find(self, piece: str) -> int | None:
        """Where in the next piece of the text the sequence ends; None if it does not."""
        if len(piece) > _LONG * len(self.text):
            # Python looks through long pieces faster; what matters of one that is none is its end.
            text = self.text[: self.size] + piece
            if (begin := text.find(self.text)) >= 0:
                return begin + len(self.text) - self.size
            self.size, piece = 0, text[len(text) - len(self.text) + 1 :]
        sequence, borders, size, place = self.text, self._borders, self.size, 0
        while place < len(piece):
            if not size:
                # Most of a text looks like no beginning of it.
                place = piece.find(sequence[0], place)
                if place < 0:
                    break
            while size and piece[place] != sequence[size]:
                size = borders[size - 1]
            size += piece[place] == sequence[size]
            place += 1
            if size == len(sequence):
                return place
        self.size = size
        return None


@define
class Trimmer:
    """Leaves out of a turn's events what its client does not want. Once for all runs of the turn.

    :param stop: the text ends before the first of these that it holds, wherever its pieces were cut.
    :param one_call: of the calls of the client's tools only the first is told.
    :param must_call: the reply must be a call: it is told, whatever the text before it was.
    """

    stop: Iterable[str] = ()
    one_call: bool = False
    must_call: bool = False
    has_stopped: bool = field(default=False, init=False)  #: the text has come to a stop sequence
    _sequences: list[_Sequence] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._sequences = [_Sequence(text) for text in self.stop]

    @property
    def hides_calls(self) -> bool:
        """Whether no call is told any more."""
        return self.has_stopped and not self.must_call

    def trim(self, event: Event) -> Iterator[Event]:
        """What is left of an event, behind the text that was held back and may be told by now."""
        match event:
            case TextDelta(text=text) if self._sequences:
                if not self.has_stopped and (told := self._told(text)):
                    yield TextDelta(text=told)
                return
            case CallStarted(index=index) | CallArguments(index=index) if self.one_call and index:
                return
            case CallStarted() | CallArguments() if self.has_stopped:
                if not self.hides_calls:
                    yield event
                return
            case TurnFinished(reason=reason) if self.has_stopped:
                called = reason is FinishReason.TOOL_CALLS and not self.hides_calls
                yield event if called else evolve(event, reason=FinishReason.STOP)
                return
            case CallStarted() | TurnFinished() | TurnFailed():
                # No text comes behind these that could go on with it.
                yield from self._release()
        if not (self.has_stopped and isinstance(event, _SAID)):
            yield event

    def _told(self, piece: str) -> str:
        """Of the text so far what was not told and cannot be the beginning of a stop sequence."""
        held = self._held
        ends = [(end, len(sequence.text)) for sequence in self._sequences if (end := sequence.find(piece))]
        if ends:
            # The one that is whole first; of two that end at the same place the longer one.
            end, size = min(ends, key=lambda found: (found[0], -found[1]))
            self.has_stopped = True
            self._forget()
            return (held + piece)[: len(held) + end - size]
        return (held + piece)[: len(held) + len(piece) - len(self._held)]

    @property
    def _held(self) -> str:
        """The end of the text so far that may be the beginning of a stop sequence."""
        return max((sequence.text[: sequence.size] for sequence in self._sequences), key=len, default="")

    def _release(self) -> Iterator[TextDelta]:
        if held := self._held:
            yield TextDelta(text=held)
        self._forget()

    def _forget(self) -> None:
        for sequence in self._sequences:
            sequence.size = 0
