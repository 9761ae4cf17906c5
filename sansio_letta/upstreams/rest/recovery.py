"""A run whose stream was lost: how it ended, and what of it the agent's memory holds.

Letta's runs go on without a reader (disconnect.jsonl), and what they keep can be read afterwards, whole. So a
turn whose connection broke waits for its run and tells the rest; and a request that comes a second time learns
what became of its first, and says nothing to the agent that it has heard.
"""

from collections.abc import Generator, Iterator
from typing import Final, TypeAlias

from attrs import define, evolve, field, frozen

from ...errors import Advice, LettaError, SansioLettaError
from ...turn.request import ToolResult
from ...turn.upstream import Pause, RunEvent
from . import letta
from .commands import Command, FetchKept, FetchRun, FetchUsage
from .exchange import PAUSES
from .lookup import SoughtRun, find_run
from .response import Response
from .run import EndOfStream, RunStream
from .turn_input import to_result


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

    def events(self, stream: RunStream) -> Iterator[RunEvent]:
        """All events of the run, as if it were read from its stream.

        :param stream: a new one, whose state moves by it.
        """
        yield from self.kept_events(stream)
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

    def kept_events(self, stream: RunStream) -> Iterator[RunEvent]:
        """The same, without the run's end."""
        stream.run_id = self.run.id
        stream.step_kept = bool(self.kept.messages)
        for index, message in enumerate(self.kept.messages[self._input_count :]):
            if stream.bridge.replies_by_tool and isinstance(message, letta.AssistantMessage):
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


@frozen
class KeptRun:
    """A run that is over, as events. See `turn.upstream.PastRun`.

    :param stream: makes events of it; a new one, whose state moves by them.
    """

    ended: EndedRun
    stream: RunStream

    @property
    def has_anything(self) -> bool:
        """Whether anything of it was kept."""
        return bool(self.ended.kept.messages)

    @property
    def is_blank(self) -> bool:
        """Whether nothing was kept and nothing tells why."""
        return not self.has_anything and self.ended.run.stop_reason is None

    @property
    def is_complete(self) -> bool:
        """Whether it came to its own end: nothing is left to do in it."""
        return self.ended.run.status == "completed" and self.ended.run.stop_reason in _WHOLE

    @property
    def has_input(self) -> bool:
        """Whether its input was kept."""
        return self.ended.kept.has_input

    @property
    def results(self) -> tuple[ToolResult, ...]:
        """Results of tools behind which the agent can go on."""
        return tuple(map(to_result, self.ended.kept.returns))

    def events(self) -> Iterator[RunEvent]:
        """All its events; the last is its end."""
        return self.ended.events(self.stream)

    def kept_events(self) -> Iterator[RunEvent]:
        """The same without the end."""
        return self.ended.kept_events(self.stream)


#: Stop reasons of a run that did what it wanted.
_WHOLE: Final = frozenset(
    {"end_turn", "requires_approval", "tool_rule", "no_tool_call", "max_steps", "max_tokens_exceeded"}
)

_NO_END: Final = Advice(status=504, type="server_error", code="upstream_timeout", should_retry=False)

RunQuery: TypeAlias = Generator[Command | Pause, Response | None, EndedRun]


def read_run(run_id: str, timeout: float) -> RunQuery:
    """Wait until a run is over and read what was kept of it. Pauses are answered with None.

    :param timeout: seconds of pauses, after which it is waited for no longer.
    :raises SansioLettaError: if Letta does not tell, or the run does not end.
    """
    count, waited = 0, 0.0
    while True:
        response = yield FetchRun(run_id=run_id)
        if response is not None and response.status == 404:
            # Letta knows nothing of it, so nothing of it was kept.
            return EndedRun(run=letta.Run(id=run_id, status="failed"), kept=letta.KeptMessages(), usage=None)
        run = letta.decode_run(_data(response))
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
        response = yield FetchUsage(run_id=run_id)
        try:
            usage = letta.decode_usage(_data(response))
        except SansioLettaError:
            # Older servers do not tell, and an answer without it is an answer.
            usage = None
    return EndedRun(run=run, kept=kept, usage=usage)


def read_earlier_turn(earlier: EarlierTurn, timeout: float) -> RunQuery:
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


def _data(response: Response | None) -> bytes:
    assert response is not None
    return response.data


#: Pings in a row, each after 20 s of silence, until Letta's books are asked how the run goes.
_MAX_IDLE_PING_COUNT: Final = 3


@define
class StreamPosition:
    """How far the stream of a background run was read, whose items are numbered."""

    seq_id: int = field(default=0, init=False)  #: of the last item
    is_over: bool = field(default=False, init=False)  #: once lost, it will not tell how the run ends
    _lost_at: int = field(default=-1, init=False)  #: the last item when it was lost last
    _idle_ping_count: int = field(default=0, init=False)  #: since the last item of a stream found again

    def advance(self, message: letta.Message) -> bool:
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

    def note_loss(self) -> bool:
        """It was lost.

        :return: whether anything came since it was lost before.
        """
        progress, self._lost_at = self._lost_at != self.seq_id, self.seq_id
        return progress
