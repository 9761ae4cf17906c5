"""One run of a turn, from its preparation to its end: it is read, recovered if it was lost, or cancelled."""

from typing import NoReturn, TypeVar

from attrs import define

from ..errors import Kept, RemoteProtocolError, SansioLettaError
from .ledger import SentInput
from .phases import Phase
from .request import ToolResult
from .settlement import PLACEHOLDERS
from .state import Failed, TurnState
from .upstream import (
    ClientDisconnected,
    Follow,
    Interrupted,
    Located,
    Refused,
    Run,
    RunEnd,
    RunLost,
    RunRequest,
    RunStopped,
    Script,
    ShutDown,
    TimedOut,
)

_End = TypeVar("_End", RunEnd, RunEnd | Refused)


@define
class RunScript:
    """Drives one run after another. Each method that waits undoes its own work if the turn is interrupted."""

    state: TurnState

    def read_to_end(self, request: RunRequest) -> Script[RunEnd | Refused]:
        """PREPARING, SENDING, STREAMING, RECOVERING: one run, to its end."""
        run = self.state.run = self.state.upstream.make_run(request)
        self.state.answer.begin_run()
        yield from self._prepare(run)
        end: RunEnd | Refused | None = None
        kept = Kept.UNKNOWN
        try:
            self.state.move(Phase.SENDING)
            end = yield from self._read(run, self._start(run))
            while isinstance(end, RunLost):
                end = yield from self._recover(run, end)
            kept = Kept.NOTHING
        except Failed as failed:
            kept = failed.kept
            raise
        finally:
            if run.has_kept or isinstance(end, RunStopped):
                is_sure = run.has_kept or not (isinstance(end, RunStopped) and end.was_cancelled)
                kept = Kept.SOMETHING if is_sure else Kept.UNKNOWN
                self.state.instructions_sent += tuple(
                    (self.state.thread, standing) for standing in run.instructions_sent
                )
            unanswered = tuple(
                answer.call_id
                for answer in request.answers
                if isinstance(answer, ToolResult) and answer.content in PLACEHOLDERS
            )
            self.state.sent.append(SentInput(messages=run.sent, kept=kept, unanswered=unanswered))
        return end

    def _prepare(self, run: Run) -> Script[None]:
        preparation = run.prepare()
        if preparation is None:
            return
        self.state.move(Phase.PREPARING)
        try:
            yield from preparation
        except ClientDisconnected:
            raise
        except (SansioLettaError, Interrupted) as exc:
            # Nothing was sent to the agent, except perhaps answers that must precede the message.
            exchange, error = self.state.exchange, exc.error if isinstance(exc, Interrupted) else exc
            is_unsure = exchange is not None and exchange.was_sent and exchange.is_unsure
            raise Failed(error, Kept.UNKNOWN if is_unsure else self.state.kept_before) from exc

    def _start(self, run: Run) -> Script[RunEnd | Refused]:
        refused = yield from run.start()
        if refused is None:
            return (yield from self._stream(run))
        self.state.check_client()
        return refused

    def _stream(self, run: Run) -> Script[RunEnd]:
        if self.state.phase is not Phase.LEAVING:
            self.state.move(Phase.STREAMING)
        end: RunEnd = yield Follow(run)
        if isinstance(end, RunLost) and not run.is_named:
            return (yield from self._rescue(run, end.error, Kept.UNKNOWN))
        return end

    def _read(self, run: Run, reading: Script[_End]) -> Script[_End | RunLost]:
        """Read a run. If that fails, cancel the run or find it again."""
        try:
            return (yield from reading)
        except ShutDown as why:
            return (yield from self._rescue(run, why.error, self.state.kept_before))
        except Interrupted as why:
            return (yield from self._rescue(run, why.error, Kept.UNKNOWN))
        except RemoteProtocolError as error:
            # The agent has the input, and what it does is unknown. A run that may be going on is cancelled.
            return (yield from self._rescue(run, error, Kept.UNKNOWN))

    def _rescue(self, run: Run, error: SansioLettaError | None, kept: Kept) -> Script[RunLost]:
        """Cancel or find a run that is no longer read, but may be going on.

        :param error: for the client; None if it has disconnected.
        :param kept: what is known to be stored if the run cannot be searched for.
        """
        if run.is_named:
            yield from self._cancel(run, error)
        if run.ref is None:
            raise Failed(error, kept)
        return (yield from self._seek(run, error))

    def _seek(self, run: Run, error: SansioLettaError | None) -> Script[RunLost]:
        """SEEKING: search for a run whose id its stream will not bring."""
        self.state.move(Phase.SEEKING)
        try:
            located = yield from run.locate()
        except TimedOut as why:
            raise Failed(why.error, Kept.UNKNOWN) from why
        except SansioLettaError as exc:
            raise Failed(error, Kept.UNKNOWN) from exc
        if located is Located.NEVER_BEGUN or located is Located.UNKNOWN:
            raise Failed(error, Kept.NOTHING if located is Located.NEVER_BEGUN else Kept.UNKNOWN)
        if located is Located.RUNNING and (self.state.is_detached or self.state.interruption is not None):
            yield from self._cancel(run, error)
        if self.state.is_detached or error is None:
            raise Failed(None, Kept.UNKNOWN)
        return RunLost(error=error)

    def _recover(self, run: Run, lost: RunLost) -> Script[RunEnd | Refused]:
        """RECOVERING: find out what became of the run, and send what the client does not have of it."""
        self.state.move(Phase.RECOVERING)
        self.state.resume_count += lost.had_stream
        try:
            past = yield from run.recover()
            if past is not None:
                if past.is_blank:
                    # It ended without a known reason, so the loss of its stream is the error.
                    raise Failed(lost.error, Kept.NOTHING)
                return self.state.add_rest(past.events())
        except Interrupted as why:
            yield from self._cancel(run, why.error)
        except SansioLettaError:
            # The loss of the stream matters more than the reason why it was not recovered.
            yield from self._cancel(run, lost.error)
        return (yield from self._read(run, self._stream(run)))

    def _cancel(self, run: Run, error: SansioLettaError | None) -> Script[NoReturn]:
        """CANCELLING: cancel the run, and end the turn."""
        self.state.move(Phase.CANCELLING)
        must_know = error is not None and error is self.state.interruption
        must_know = must_know and not (self.state.is_detached or self.state.started or self.state.resume_count)
        kept, self.state.has_cancelled = Kept.UNKNOWN, True
        try:
            kept = yield from run.cancel(must_know=must_know)
        except (SansioLettaError, TimedOut) as exc:
            raise Failed(error, Kept.UNKNOWN) from exc
        raise Failed(error, kept if must_know and not self.state.started else Kept.UNKNOWN)
