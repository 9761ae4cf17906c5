"""Parts of an answer that the client does not want: text after a stop sequence, and further calls.

Letta supports neither. Its run continues to its end, and the agent remembers all of it.
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

#: Events that a model that had stopped would not have caused.
_SAID: Final = (ReasoningDelta, ServerToolStarted, ServerToolArguments, ServerToolReturned)
#: A piece of text is long if it has this many times the length of the sequence.
_LONG: Final = 4


@define
class _Sequence:
    """Search for a stop sequence in a text that arrives in pieces, by Knuth, Morris and Pratt.

    Each character is compared at most twice, whatever the text and the sequence.
    """

    text: str
    size: int = field(default=0, init=False)  #: how many characters of the sequence the text so far ends with
    _borders: list[int] = field(init=False)
    """For each prefix of the sequence: the length of its longest proper prefix that is also a suffix."""

    def __attrs_post_init__(self) -> None:
        self._borders, border = [0], 0
        for char in self.text[1:]:
            while border and char != self.text[border]:
                border = self._borders[border - 1]
            border += char == self.text[border]
            self._borders.append(border)

    def find(self, piece: str) -> int | None:
        """Return where in the next piece of the text the sequence ends; None if it does not."""
        if len(piece) > _LONG * len(self.text):
            # `str.find` is faster for long pieces. If it finds nothing, only the end of the piece matters.
            text = self.text[: self.size] + piece
            if (begin := text.find(self.text)) >= 0:
                return begin + len(self.text) - self.size
            self.size, piece = 0, text[len(text) - len(self.text) + 1 :]
        sequence, borders, size, place = self.text, self._borders, self.size, 0
        while place < len(piece):
            if not size:
                # Skip text that cannot be the start of the sequence.
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
    """Filter for the events of a turn, across all its runs.

    :param stop: the text ends before the first of these that occurs, wherever its pieces were cut.
    :param one_call: only the first call of a client tool is passed on.
    :param must_call: the reply must be a call, which is passed on whatever the text before it.
    """

    stop: Iterable[str] = ()
    one_call: bool = False
    must_call: bool = False
    has_stopped: bool = field(default=False, init=False)  #: a stop sequence has occurred
    _sequences: list[_Sequence] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._sequences = [_Sequence(text) for text in self.stop]

    @property
    def hides_calls(self) -> bool:
        """Whether calls are no longer passed on."""
        return self.has_stopped and not self.must_call

    def trim(self, event: Event) -> Iterator[Event]:
        """Yield withheld text that may be sent by now, then what is left of the event."""
        match event:
            case TextDelta(text=text) if self._sequences:
                if not self.has_stopped and (sendable := self._sendable(text)):
                    yield TextDelta(text=sendable)
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
                # No text follows that could continue the withheld text.
                yield from self._release()
        if not (self.has_stopped and isinstance(event, _SAID)):
            yield event

    def _sendable(self, piece: str) -> str:
        """Return unsent text that cannot be the start of a stop sequence."""
        withheld = self._withheld
        ends = [(end, len(sequence.text)) for sequence in self._sequences if (end := sequence.find(piece))]
        if ends:
            # The one that ends first; of two that end at the same place, the longer one.
            end, size = min(ends, key=lambda found: (found[0], -found[1]))
            self.has_stopped = True
            self._forget()
            return (withheld + piece)[: len(withheld) + end - size]
        return (withheld + piece)[: len(withheld) + len(piece) - len(self._withheld)]

    @property
    def _withheld(self) -> str:
        """The end of the text so far that may be the start of a stop sequence."""
        return max((sequence.text[: sequence.size] for sequence in self._sequences), key=len, default="")

    def _release(self) -> Iterator[TextDelta]:
        if withheld := self._withheld:
            yield TextDelta(text=withheld)
        self._forget()

    def _forget(self) -> None:
        for sequence in self._sequences:
            sequence.size = 0
