"""Several runs of one turn, presented to the client as one answer.

A turn has more than one run if it answers for a human what a run waits for, goes on from an earlier turn, or
asks again for a reply that was not as the client wishes. And a run that was lost is told a second time, from
its start: then what the client has had already is left out.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from attrs import define, field, fields

from .buffered_reply import BufferedReply
from .events import (
    CallArguments,
    CallStarted,
    Event,
    KeepAlive,
    ReasoningDelta,
    ServerToolArguments,
    ServerToolReturned,
    ServerToolStarted,
    TextDelta,
    TurnFinished,
    TurnStarted,
    Usage,
)
from .trimming import Trimmer
from .upstream import RunStopped

#: Joins texts of different messages: the client sees one.
SEPARATOR: Final = "\n\n"


@define
class Answer:
    """What the client gets of the turn's runs.

    :param reply: holds back what the client is told only once it was checked.
    :param trimmer: leaves out what the client has asked not to get.
    """

    reply: BufferedReply | None = None
    trimmer: Trimmer | None = None
    started: bool = field(default=False, init=False)  #: the agent has begun to answer, in whichever run
    has_earlier: bool = field(default=False, init=False)  #: runs before the one under way have said something
    usage: Usage | None = field(default=None, init=False)  #: of the runs that have stopped
    _has_text: bool = field(default=False, init=False)  #: of earlier runs
    _has_reasoning: bool = field(default=False, init=False)
    _says_text: bool = field(default=False, init=False)  #: the run under way has said some
    _says_reasoning: bool = field(default=False, init=False)
    _delivered: "Delivered" = field(init=False)  #: of the run under way

    def __attrs_post_init__(self) -> None:
        self._delivered = Delivered()

    @property
    def is_plain(self) -> bool:
        """Whether more of a text is passed on as it comes."""
        return self.reply is None and self.trimmer is None

    @property
    def hides_calls(self) -> bool:
        """Whether the client is told of no call any more."""
        return self.trimmer is not None and self.trimmer.hides_calls

    @property
    def problem(self) -> str | None:
        """What is wrong with the reply of the run that has stopped; its end was not told then."""
        return None if self.reply is None else self.reply.problem

    def begin_run(self) -> None:
        """A run is asked for; nothing was said of it."""
        self._delivered = Delivered(started=self.has_earlier)
        self._begin_again()

    def _begin_again(self) -> None:
        self.started = self.has_earlier
        self._says_text = self._says_reasoning = False
        if self.reply is not None:
            self.reply.begin()

    def end_run(self) -> None:
        """The run came to an end that is not the turn's: what comes is told behind what it has said."""
        is_told = self.reply is None or self.reply.is_released
        self._has_text = is_told and (self._has_text or self._says_text)
        self._has_reasoning = self._has_reasoning or self._says_reasoning
        self.has_earlier = self.started

    def add_texts(self, texts: Sequence[str]) -> None:
        """Note that more of a text is told, where the answer `is_plain`."""
        self._delivered.add_texts(texts)

    def add(self, event: Event) -> Iterable[Event]:
        """What the client is told of an event of the run under way."""
        joined = self._join(event)
        return () if joined is None else self._tell(joined)

    def add_rest(self, events: Iterable[Event]) -> Iterator[Event]:
        """The same for a run that is told again, from its start: what the client has not had."""
        self._begin_again()
        for event in self._delivered.rest(joined for event in events if (joined := self._join(event))):
            yield from self._tell(event)

    def finish(self, end: RunStopped, question: str | None = None) -> Iterator[Event]:
        """The turn ends with this run, unless there is a `problem` with the reply.

        :param question: what a human is asked.
        """
        if question is not None:
            joint = SEPARATOR if self._has_text or self._says_text else ""
            yield from self._tell(TextDelta(text=joint + question))
        finish = TurnFinished(reason=end.reason, usage=self.usage)
        if self.reply is None:
            yield from self.trim(finish)
        else:
            for event in self.reply.finish(finish, was_cancelled=end.was_cancelled):
                yield from self.trim(event)

    def count(self, usage: Usage | None) -> None:
        """A run has stopped."""
        self.usage = _sum(self.usage, usage)

    def _join(self, event: Event) -> Event | None:
        """The event as a part of the whole answer."""
        tag = type(event)
        if tag is TextDelta:
            if not self._says_text:
                self._says_text = True
                if self._has_text:
                    return TextDelta(text=SEPARATOR + event.text)  # type: ignore[union-attr]
        elif tag is ReasoningDelta:
            if not self._says_reasoning:
                self._says_reasoning = True
                if self._has_reasoning:
                    return ReasoningDelta(text=SEPARATOR + event.text)  # type: ignore[union-attr]
        elif tag is TurnStarted:
            if self.started:
                return None
            self.started = True
        elif tag is KeepAlive and not self.started:
            return None
        return event

    def _tell(self, event: Event) -> Iterable[Event]:
        if self.reply is None and self.trimmer is None:
            self._delivered.add(event)
            return (event,)
        return self._hold_back(event)

    def _hold_back(self, event: Event) -> Iterator[Event]:
        for passed in (event,) if self.reply is None else self.reply.pass_on(event):
            self._delivered.add(passed)
            yield from self.trim(passed)

    def trim(self, event: Event) -> Iterable[Event]:
        """What the client is told of an event that is of no run."""
        return (event,) if self.trimmer is None else self.trimmer.trim(event)


@define
class Delivered:
    """What the client has had of a run, so that a second telling leaves it out."""

    _text_size: int = field(default=0, init=False)
    _reasoning_size: int = field(default=0, init=False)
    _argument_sizes: list[int] = field(factory=list, init=False)
    _server_argument_sizes: dict[str, int] = field(factory=dict, init=False)  #: by the ids of their calls
    _returned: set[str] = field(factory=set, init=False)
    _started: bool = field(default=False, alias="started")

    def add(self, event: Event) -> None:
        """Note what is told."""
        tag = type(event)
        if tag is TextDelta:
            self._text_size += len(event.text)  # type: ignore[union-attr]  # faster than `match`, for each token
        elif tag is ReasoningDelta:
            self._reasoning_size += len(event.text)  # type: ignore[union-attr]
        elif tag is CallArguments:
            self._argument_sizes[event.index] += len(event.fragment)  # type: ignore[union-attr]
        elif tag is CallStarted:
            self._argument_sizes.append(0)
        elif tag is ServerToolArguments:
            self._server_argument_sizes[event.call_id] += len(event.fragment)  # type: ignore[union-attr]
        elif tag is ServerToolStarted:
            self._server_argument_sizes[event.call_id] = 0  # type: ignore[union-attr]
        elif tag is ServerToolReturned:
            self._returned.add(event.call_id)  # type: ignore[union-attr]
        elif tag is TurnStarted:
            self._started = True

    def add_texts(self, texts: Sequence[str]) -> None:
        """Note that more of a text is told."""
        self._text_size += sum(map(len, texts))

    def rest(self, events: Iterable[Event]) -> Iterator[Event]:
        """Of the whole turn, told again from its start: what has not been told."""
        text, reasoning, arguments = self._text_size, self._reasoning_size, list(self._argument_sizes)
        server_arguments = dict(self._server_argument_sizes)
        for event in events:
            match event:
                case TurnStarted():
                    if not self._started:
                        yield event
                case TextDelta(text=told):
                    if told[text:]:
                        yield TextDelta(text=told[text:])
                    text = max(0, text - len(told))
                case ReasoningDelta(text=told):
                    if told[reasoning:]:
                        yield ReasoningDelta(text=told[reasoning:])
                    reasoning = max(0, reasoning - len(told))
                case CallStarted(index=index):
                    if index >= len(self._argument_sizes):
                        arguments.append(0)
                        yield event
                case CallArguments(index=index, fragment=told):
                    if told[arguments[index] :]:
                        yield CallArguments(index=index, fragment=told[arguments[index] :])
                    arguments[index] = max(0, arguments[index] - len(told))
                case ServerToolStarted(call_id=call_id):
                    if call_id not in self._server_argument_sizes:
                        server_arguments[call_id] = 0
                        yield event
                case ServerToolArguments(call_id=call_id, fragment=told):
                    if told[server_arguments[call_id] :]:
                        yield ServerToolArguments(call_id=call_id, fragment=told[server_arguments[call_id] :])
                    server_arguments[call_id] = max(0, server_arguments[call_id] - len(told))
                case ServerToolReturned(call_id=call_id):
                    if call_id not in self._returned:
                        yield event
                case _:
                    yield event


def _sum(first: Usage | None, second: Usage | None) -> Usage | None:
    """The tokens of both; what neither knows stays unknown, and of the context the later counts."""
    if first is None or second is None:
        return first or second
    both = {}
    for attribute in fields(Usage):
        counts = [getattr(usage, attribute.name) for usage in (first, second)]
        known = [count for count in counts if count is not None]
        both[attribute.name] = sum(known) if known else None
    both["context_tokens"] = second.context_tokens
    return Usage(**both)
