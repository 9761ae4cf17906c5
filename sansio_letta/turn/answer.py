"""The runs of one turn, presented to the client as one answer.

A turn has more than one run if it answers pending calls automatically, continues an earlier turn, or asks again
for a reply in the required format. The events of a lost run are read a second time, from its start; then what
the client already has is left out.
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

#: Between texts of different messages, which the client sees as one.
SEPARATOR: Final = "\n\n"


@define
class Answer:
    """The answer to the client, from the events of the turn's runs.

    :param reply: withholds the reply until it has been checked.
    :param trimmer: leaves out what the client does not want.
    """

    reply: BufferedReply | None = None
    trimmer: Trimmer | None = None
    started: bool = field(default=False, init=False)  #: the agent has begun to reply, in whichever run
    has_earlier: bool = field(default=False, init=False)  #: the runs before the current one had events
    usage: Usage | None = field(default=None, init=False)  #: of the runs that have stopped
    _has_text: bool = field(default=False, init=False)  #: from earlier runs
    _has_reasoning: bool = field(default=False, init=False)
    _run_has_text: bool = field(default=False, init=False)  #: from the current run
    _run_has_reasoning: bool = field(default=False, init=False)
    _delivered: "Delivered" = field(init=False)  #: of the current run

    def __attrs_post_init__(self) -> None:
        self._delivered = Delivered()

    @property
    def is_plain(self) -> bool:
        """Whether texts are passed on as they come."""
        return self.reply is None and self.trimmer is None

    @property
    def hides_calls(self) -> bool:
        """Whether calls are no longer sent."""
        return self.trimmer is not None and self.trimmer.hides_calls

    @property
    def problem(self) -> str | None:
        """What is wrong with the reply of the run that has stopped; then its end is not sent."""
        return None if self.reply is None else self.reply.problem

    def begin_run(self) -> None:
        """Begin another run."""
        self._delivered = Delivered(started=self.has_earlier)
        self._begin_again()

    def _begin_again(self) -> None:
        self.started = self.has_earlier
        self._run_has_text = self._run_has_reasoning = False
        if self.reply is not None:
            self.reply.begin()

    def end_run(self) -> None:
        """End a run that another one continues: its events follow in the same answer."""
        is_sent = self.reply is None or self.reply.is_released
        self._has_text = is_sent and (self._has_text or self._run_has_text)
        self._has_reasoning = self._has_reasoning or self._run_has_reasoning
        self.has_earlier = self.started

    def add_texts(self, texts: Sequence[str]) -> None:
        """Note that texts are sent, where the answer `is_plain`."""
        self._delivered.add_texts(texts)

    def add(self, event: Event) -> Iterable[Event]:
        """Return what is to be sent of an event of the current run."""
        joined = self._join(event)
        return () if joined is None else self._pass_on(joined)

    def add_rest(self, events: Iterable[Event]) -> Iterator[Event]:
        """Yield what is to be sent of a run that is read again: what the client does not have yet."""
        self._begin_again()
        for event in self._delivered.rest(joined for event in events if (joined := self._join(event))):
            yield from self._pass_on(event)

    def finish(self, end: RunStopped, question: str | None = None) -> Iterator[Event]:
        """End the answer with this run, unless there is a `problem` with the reply.

        :param question: for a human.
        """
        if question is not None:
            joint = SEPARATOR if self._has_text or self._run_has_text else ""
            yield from self._pass_on(TextDelta(text=joint + question))
        finish = TurnFinished(reason=end.reason, usage=self.usage)
        if self.reply is None:
            yield from self.trim(finish)
        else:
            for event in self.reply.finish(finish, was_cancelled=end.was_cancelled):
                yield from self.trim(event)

    def count(self, usage: Usage | None) -> None:
        """Add the tokens of a run that has stopped."""
        self.usage = _sum(self.usage, usage)

    def _join(self, event: Event) -> Event | None:
        """Return the event as part of the whole answer; None if it is left out."""
        tag = type(event)
        if tag is TextDelta:
            if not self._run_has_text:
                self._run_has_text = True
                if self._has_text:
                    return TextDelta(text=SEPARATOR + event.text)  # type: ignore[union-attr]
        elif tag is ReasoningDelta:
            if not self._run_has_reasoning:
                self._run_has_reasoning = True
                if self._has_reasoning:
                    return ReasoningDelta(text=SEPARATOR + event.text)  # type: ignore[union-attr]
        elif tag is TurnStarted:
            if self.started:
                return None
            self.started = True
        elif tag is KeepAlive and not self.started:
            return None
        return event

    def _pass_on(self, event: Event) -> Iterable[Event]:
        if self.reply is None and self.trimmer is None:
            self._delivered.add(event)
            return (event,)
        return self._filter(event)

    def _filter(self, event: Event) -> Iterator[Event]:
        for passed in (event,) if self.reply is None else self.reply.pass_on(event):
            self._delivered.add(passed)
            yield from self.trim(passed)

    def trim(self, event: Event) -> Iterable[Event]:
        """Return what is to be sent of an event that belongs to no run."""
        return (event,) if self.trimmer is None else self.trimmer.trim(event)


@define
class Delivered:
    """What the client has of a run, to be left out when the run is read again."""

    _text_size: int = field(default=0, init=False)
    _reasoning_size: int = field(default=0, init=False)
    _argument_sizes: list[int] = field(factory=list, init=False)
    _server_argument_sizes: dict[str, int] = field(factory=dict, init=False)  #: by the ids of their calls
    _returned: set[str] = field(factory=set, init=False)
    _started: bool = field(default=False, alias="started")

    def add(self, event: Event) -> None:
        """Note an event that is sent."""
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
        """Note texts that are sent."""
        self._text_size += sum(map(len, texts))

    def rest(self, events: Iterable[Event]) -> Iterator[Event]:
        """Yield what has not been sent, of all events from the start."""
        text, reasoning, arguments = self._text_size, self._reasoning_size, list(self._argument_sizes)
        server_arguments = dict(self._server_argument_sizes)
        for event in events:
            match event:
                case TurnStarted():
                    if not self._started:
                        yield event
                case TextDelta(text=whole):
                    if whole[text:]:
                        yield TextDelta(text=whole[text:])
                    text = max(0, text - len(whole))
                case ReasoningDelta(text=whole):
                    if whole[reasoning:]:
                        yield ReasoningDelta(text=whole[reasoning:])
                    reasoning = max(0, reasoning - len(whole))
                case CallStarted(index=index):
                    if index >= len(self._argument_sizes):
                        arguments.append(0)
                        yield event
                case CallArguments(index=index, fragment=whole):
                    if whole[arguments[index] :]:
                        yield CallArguments(index=index, fragment=whole[arguments[index] :])
                    arguments[index] = max(0, arguments[index] - len(whole))
                case ServerToolStarted(call_id=call_id):
                    if call_id not in self._server_argument_sizes:
                        server_arguments[call_id] = 0
                        yield event
                case ServerToolArguments(call_id=call_id, fragment=whole):
                    if whole[server_arguments[call_id] :]:
                        yield ServerToolArguments(call_id=call_id, fragment=whole[server_arguments[call_id] :])
                    server_arguments[call_id] = max(0, server_arguments[call_id] - len(whole))
                case ServerToolReturned(call_id=call_id):
                    if call_id not in self._returned:
                        yield event
                case _:
                    yield event


def _sum(first: Usage | None, second: Usage | None) -> Usage | None:
    """Add the tokens of both. What neither has stays unknown; for the context, the later one counts."""
    if first is None or second is None:
        return first or second
    both = {}
    for attribute in fields(Usage):
        counts = [getattr(usage, attribute.name) for usage in (first, second)]
        known = [count for count in counts if count is not None]
        both[attribute.name] = sum(known) if known else None
    both["context_tokens"] = second.context_tokens
    return Usage(**both)
