"""Read a run whose stream was lost: how it ended, and which of its messages Letta has stored.

Letta's runs continue without a reader (disconnect.jsonl), and their stored messages can be read afterwards. So
a turn whose connection broke waits until its run is over and sends the rest. A retried request finds out the
same way what happened to the first one, and sends the agent nothing twice.
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
from .lookup import RunCriteria, find_run
from .response import Response
from .run import EndOfStream, RunStream
from .turn_input import to_result


@frozen(kw_only=True)
class EarlierTurn:
    """An earlier turn for the same request, which ended after its run may have been started.

    :param run_id: the id of its run; None if that is not known.
    :param criteria: how to find the run without its id.
    """

    run_id: str | None = None
    criteria: RunCriteria | None = None


@frozen(kw_only=True)
class EndedRun:
    """A run that is over, with its stored messages."""

    run: letta.Run
    kept: letta.KeptMessages
    usage: letta.UsageStatistics | None

    def events(self, stream: RunStream) -> Iterator[RunEvent]:
        """Return all events of the run, as if they were read from its stream.

        :param stream: converts the messages; must be new.
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
        """Return the events of the run without the last one, its end."""
        stream.run_id = self.run.id
        stream.step_kept = bool(self.kept.messages)
        for index, message in enumerate(self.kept.messages[self._input_count :]):
            if stream.bridge.replies_by_tool and isinstance(message, letta.AssistantMessage):
                # Each is a call of its own, but stored messages of one step share one id.
                message = evolve(message, id=f"{message.id} {index}")
            yield from stream.receive_message(message)

    @property
    def _input_count(self) -> int:
        """Number of messages that are input. These may include assistant messages, from a history."""
        inputs = (letta.UserMessage, letta.SystemMessage, letta.ApprovalResponseMessage)
        return max(
            (i for i, message in enumerate(self.kept.messages, 1) if isinstance(message, inputs)), default=0
        )


@frozen
class KeptRun:
    """A run that is over, as events. See `turn.upstream.PastRun`.

    :param stream: converts its messages; must be new.
    """

    ended: EndedRun
    stream: RunStream

    @property
    def has_anything(self) -> bool:
        """Whether any of its messages were stored."""
        return bool(self.ended.kept.messages)

    @property
    def is_blank(self) -> bool:
        """Whether nothing was stored, and the reason is unknown."""
        return not self.has_anything and self.ended.run.stop_reason is None

    @property
    def is_complete(self) -> bool:
        """Whether it ended by itself, so that nothing is left to do."""
        return self.ended.run.status == "completed" and self.ended.run.stop_reason in _COMPLETE

    @property
    def can_continue(self) -> bool:
        """False: a run takes an input."""
        return False

    @property
    def has_input(self) -> bool:
        """Whether its input was stored."""
        return self.ended.kept.has_input

    @property
    def results(self) -> tuple[ToolResult, ...]:
        """The last tool results, from which the agent can continue."""
        return tuple(map(to_result, self.ended.kept.returns))

    def events(self) -> Iterator[RunEvent]:
        """Return all its events, the last of which is its end."""
        return self.ended.events(self.stream)

    def kept_events(self) -> Iterator[RunEvent]:
        """Return its events without the end."""
        return self.ended.kept_events(self.stream)


#: Stop reasons of runs that ended by themselves.
_COMPLETE: Final = frozenset(
    {"end_turn", "requires_approval", "tool_rule", "no_tool_call", "max_steps", "max_tokens_exceeded"}
)

_NO_END: Final = Advice(status=504, type="server_error", code="upstream_timeout", should_retry=False)

RunQuery: TypeAlias = Generator[Command | Pause, Response | None, EndedRun]


def read_run(run_id: str, timeout: float) -> RunQuery:
    """Wait until a run is over, and read its stored messages. Send None after a pause.

    :param timeout: limit for the sum of the pauses, in seconds.
    :raises SansioLettaError: if a command failed, or the run does not end.
    """
    count, waited = 0, 0.0
    while True:
        response = yield FetchRun(run_id=run_id)
        if response is not None and response.status == 404:
            # The run does not exist, so nothing of it was stored.
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
            # Older servers do not have it, and the reply is valid without it.
            usage = None
    return EndedRun(run=run, kept=kept, usage=usage)


def read_earlier_turn(earlier: EarlierTurn, timeout: float) -> RunQuery:
    """Read the run of an earlier turn. If its id is unknown, find it first.

    :param timeout: see `read_run`.
    :raises SansioLettaError: see `read_run`.
    """
    run_id = earlier.run_id
    if run_id is None:
        assert earlier.criteria is not None
        # The earlier turn has already searched for as long as a run may take to start.
        found = yield from find_run(earlier.criteria, 0.0)
        if found.run is None:
            none = letta.Run(id="", status="failed")
            return EndedRun(run=none, kept=letta.KeptMessages(), usage=None)
        run_id = found.run.id
    return (yield from read_run(run_id, timeout))


def _data(response: Response | None) -> bytes:
    assert response is not None
    return response.data


#: Consecutive pings, each after 20 s of silence, before the status of the run is looked up.
_MAX_IDLE_PING_COUNT: Final = 3


@define
class StreamPosition:
    """The position in the numbered stream of a background run."""

    seq_id: int = field(default=0, init=False)  #: number of the last item
    is_over: bool = field(default=False, init=False)  #: the run is over; a resumed stream has no end
    _lost_at: int = field(default=-1, init=False)  #: the last item when the stream was last lost, or -1
    _idle_ping_count: int = field(default=0, init=False)  #: since the last item of a resumed stream

    def advance(self, message: letta.Message) -> bool:
        """Advance by one item. Return whether it is a ping after the last item of a run that is over.

        When the stream of such a run is resumed, Letta sends the remaining items at once, and then only pings.
        """
        seq_id = getattr(message, "seq_id", None)
        if seq_id is not None:
            self.seq_id, self._idle_ping_count = max(self.seq_id, seq_id), 0
            return False
        if type(message) is not letta.Ping:
            return False
        if self._lost_at >= 0:
            self._idle_ping_count += 1
            # After a restart of Letta, no more items of the run are written.
            self.is_over = self.is_over or self._idle_ping_count > _MAX_IDLE_PING_COUNT
        return self.is_over

    def note_loss(self) -> bool:
        """Note that the stream was lost.

        :return: whether any item has arrived since it was lost before.
        """
        progress, self._lost_at = self._lost_at != self.seq_id, self.seq_id
        return progress
