"""A run whose stream was lost: how it ended, and what of it the agent's memory holds.

Letta's runs go on without a reader (disconnect.jsonl), and what they keep can be read afterwards, whole. So a
turn whose connection broke waits for its run and tells the rest; and a request that comes a second time learns
what became of its first, and says nothing to the agent that it has heard.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from attrs import define, evolve, field, frozen

from ...errors import Advice, LettaError, SansioLettaError
from ...turn.events import (
    CallArguments,
    CallStarted,
    Event,
    ReasoningDelta,
    ServerToolArguments,
    ServerToolReturned,
    ServerToolStarted,
    TextDelta,
    TurnStarted,
)
from . import letta
from .commands import Command, FetchKept, FetchRun, FetchUsage
from .exchange import PAUSES, Pause
from .lookup import SoughtRun, find_run
from .response import Answer
from .run import EndOfStream, RunStream


@frozen(kw_only=True)
class EarlierTurn:
    """A turn for the same request that broke off, after Letta had been told of it.

    :param run_id: its run's; None: Letta had not named it.
    :param sought: how it would be found then.
    """

    run_id: str | None = None
    sought: SoughtRun | None = None


@frozen(kw_only=True)
class EndedRun:
    """A run that is over, as Letta's books have it."""

    run: letta.Run
    kept: letta.KeptMessages
    usage: letta.UsageStatistics | None

    @property
    def is_whole(self) -> bool:
        """Whether it came to its own end: nothing is left to do in it."""
        return self.run.status == "completed" and self.run.stop_reason in _WHOLE

    def tell(self, stream: RunStream) -> Iterator[Event]:
        """All events of the run, as if it were read from its stream.

        :param stream: a new one, whose state moves by it.
        """
        yield from self.tell_kept(stream)
        ending = "end_turn" if self.run.status == "completed" else "error"
        yield from stream.receive_message(letta.StopReason(stop_reason=self.run.stop_reason or ending))
        if self.run.failure is not None:
            failure = letta.ErrorMessage(
                error_type=self.run.stop_reason or ending, message="", detail=self.run.failure
            )
            yield from stream.receive_message(failure)
            return
        if self.usage is not None:
            yield from stream.receive_message(self.usage)
        yield from stream.receive_message(EndOfStream())

    def tell_kept(self, stream: RunStream) -> Iterator[Event]:
        """The same, without the run's end."""
        stream.run_id = self.run.id
        stream.step_kept = bool(self.kept.messages)
        for index, message in enumerate(self.kept.messages[self._input_count :]):
            if stream.bridge.answers_by_tool and isinstance(message, letta.AssistantMessage):
                # Each is a call of its own; of those of one step Letta's books tell one id.
                message = evolve(message, id=f"{message.id} {index}")
            yield from stream.receive_message(message)

    @property
    def _input_count(self) -> int:
        """How many messages come before the agent's own: of the input some may be an assistant's, too."""
        inputs = (letta.UserMessage, letta.SystemMessage, letta.ApprovalResponseMessage)
        return max(
            (i for i, message in enumerate(self.kept.messages, 1) if isinstance(message, inputs)), default=0
        )


#: Stop reasons of a run that did what it wanted.
_WHOLE: Final = frozenset(
    {"end_turn", "requires_approval", "tool_rule", "no_tool_call", "max_steps", "max_tokens_exceeded"}
)

_NO_END: Final = Advice(status=504, type="server_error", code="upstream_timeout", should_retry=False)

Questions: TypeAlias = Generator[Command | Pause, Answer | None, EndedRun]


def read_run(run_id: str, timeout: float) -> Questions:
    """Wait until a run is over and read what was kept of it. Pauses are answered with None.

    :param timeout: seconds of pauses, after which it is waited for no longer.
    :raises SansioLettaError: if Letta does not tell, or the run does not end.
    """
    count, waited = 0, 0.0
    while True:
        answer = yield FetchRun(run_id=run_id)
        if answer is not None and answer.status == 404:
            # Letta knows nothing of it, so nothing of it was kept.
            return EndedRun(run=letta.Run(id=run_id, status="failed"), kept=letta.KeptMessages(), usage=None)
        run = letta.decode_run(_data(answer))
        if run.is_over:
            break
        if waited >= timeout:
            raise LettaError(f"The run did not end within {timeout:g} seconds.", advice=_NO_END)
        pause = PAUSES[min(count, len(PAUSES) - 1)]
        yield Pause(seconds=pause)
        count, waited = count + 1, waited + pause
    kept = letta.decode_kept_messages(_data((yield FetchKept(run_id=run_id))))
    usage = None
    if kept.messages:
        answer = yield FetchUsage(run_id=run_id)
        try:
            usage = letta.decode_usage(_data(answer))
        except SansioLettaError:
            # Older servers do not tell, and an answer without it is an answer.
            usage = None
    return EndedRun(run=run, kept=kept, usage=usage)


def review(earlier: EarlierTurn, timeout: float) -> Questions:
    """Find out what became of an earlier turn: its run is looked for if it has no name yet, and then read.

    :param timeout: see `read_run`.
    :raises SansioLettaError: as that.
    """
    run_id = earlier.run_id
    if run_id is None:
        assert earlier.sought is not None
        # Whoever held the thread before has looked for it for as long as it could take to begin.
        found = yield from find_run(earlier.sought, 0.0)
        if found.run is None:
            none = letta.Run(id="", status="failed")
            return EndedRun(run=none, kept=letta.KeptMessages(), usage=None)
        run_id = found.run.id
    return (yield from read_run(run_id, timeout))


def _data(answer: Answer | None) -> bytes:
    assert answer is not None
    return answer.data


#: Pings in a row, each after 20 s of silence, until Letta's books are asked how the run goes.
_MAX_IDLE_PING_COUNT: Final = 3


@define
class Reading:
    """How far the stream of a background run was read, whose items are numbered."""

    seq_id: int = field(default=0, init=False)  #: of the last item
    is_over: bool = field(default=False, init=False)  #: once lost, it will not tell how the run ends
    _lost_at: int = field(default=-1, init=False)  #: the last item when it was lost last
    _idle_ping_count: int = field(default=0, init=False)  #: since the last item of a stream found again

    def is_after_end(self, message: letta.Message) -> bool:
        """Note an item. In a resumed stream whose run is over a ping stands for its missing end.

        Of such a run Letta has no more items than those that come at once; then it pings for ever.
        """
        seq_id = getattr(message, "seq_id", None)
        if seq_id is not None:
            self.seq_id, self._idle_ping_count = max(self.seq_id, seq_id), 0
            return False
        if type(message) is not letta.Ping:
            return False
        if self._lost_at >= 0:
            self._idle_ping_count += 1
            # Whoever wrote the run's items may be gone, after a restart of Letta.
            self.is_over = self.is_over or self._idle_ping_count > _MAX_IDLE_PING_COUNT
        return self.is_over

    def lose(self) -> bool:
        """It was lost.

        :return: whether anything came since it was lost before.
        """
        progress, self._lost_at = self._lost_at != self.seq_id, self.seq_id
        return progress


@define
class Said:
    """What the client has been told of a turn, so that a second telling leaves it out."""

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
