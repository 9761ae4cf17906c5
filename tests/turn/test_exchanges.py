"""What a turn reads of an exchange: whether it must finish, and whether the agent may have heard it."""

from collections.abc import Sequence

import pytest
from attrs import define, field

from drive import turn_request
from sansio_letta import Kept, LettaError, SansioLettaError, Signal, Turn
from sansio_letta.errors import Failure
from sansio_letta.turn.agent import Agent
from sansio_letta.turn.events import AgentFound, TurnFailed
from sansio_letta.turn.phases import Phase
from sansio_letta.turn.upstream import RunRequest, Script

from .fake_upstream import FakeRun, FakeUpstream

TOO_LONG = LettaError("It took too long.")


@define(eq=False)
class FakeExchange:
    """An exchange that ends with its response, or fails."""

    must_finish: bool = False
    is_unsure: bool = False
    is_heard: bool = True
    command: str = "ask"
    was_sent: bool = field(default=False, init=False)
    has_ended: bool = field(default=False, init=False)
    error: SansioLettaError | None = field(default=None, init=False)

    @property
    def is_ready(self) -> bool:
        return self.has_ended

    def receive_response(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        self.has_ended = True

    def receive_data(self, data: bytes) -> None: ...

    def receive_failure(self, failure: Failure, reason: str) -> None:
        self.error, self.has_ended = LettaError(reason), True


# --- It must finish


@define(eq=False)
class AskingUpstream(FakeUpstream):
    """It finds its agent in an exchange."""

    exchange: FakeExchange = field(factory=FakeExchange)

    def resolve_agent(self, *, with_calls: bool) -> Script[Agent]:
        yield self.exchange
        self.agent = Agent(id="agent-1", name="Milo")
        return self.agent


def test_an_exchange_that_must_finish_is_awaited_before_the_turn_ends() -> None:
    upstream = AskingUpstream(exchange=FakeExchange(must_finish=True), is_open=False)
    turn = Turn(turn_request("hi"), upstream)
    assert turn.next_event() == "ask"
    turn.client_disconnected()
    assert (turn.next_event(), upstream.is_released) == (Signal.NEED_DATA, False)
    turn.receive_response(200, [])
    assert isinstance(turn.next_event(), AgentFound)
    assert (turn.next_event(), turn.phase, upstream.is_released) == (Signal.FINISHED, Phase.DONE, True)


@pytest.mark.parametrize(
    ("must_finish", "is_sent"), [(False, True), (True, False)], ids=["it need not finish", "it was not sent"]
)
def test_another_exchange_is_cut_off(must_finish: bool, is_sent: bool) -> None:
    upstream = AskingUpstream(exchange=FakeExchange(must_finish=must_finish), is_open=False)
    turn = Turn(turn_request("hi"), upstream)
    if is_sent:
        assert turn.next_event() == "ask"
    turn.client_disconnected()
    assert (turn.next_event(), turn.phase) == (Signal.FINISHED, Phase.DONE)
    assert (upstream.agent, upstream.is_released) == (None, True)


# --- The agent may have heard it


class PreparedRun(FakeRun):
    """A run before which something is sent."""

    def prepare(self) -> Script[None]:
        assert isinstance(self.connection, PreparingUpstream)
        exchange = self.connection.exchange
        yield exchange
        if exchange.error is not None:
            raise exchange.error


@define(eq=False)
class PreparingUpstream(FakeUpstream):
    """Its runs are prepared in an exchange."""

    exchange: FakeExchange = field(factory=FakeExchange)

    def make_run(self, request: RunRequest) -> FakeRun:
        self.runs.append(PreparedRun(request, self))
        return self.runs[-1]


def failure_of(turn: Turn) -> TurnFailed:
    failure = turn.next_event()
    assert isinstance(failure, TurnFailed)
    assert turn.next_event() is Signal.FINISHED
    return failure


@pytest.mark.parametrize(("is_unsure", "kept"), [(True, Kept.UNKNOWN), (False, Kept.NOTHING)])
@pytest.mark.parametrize("ends", ["failure", "time out"])
def test_what_is_kept_of_a_preparation_that_ends_too_soon(is_unsure: bool, kept: Kept, ends: str) -> None:
    agent = Agent(id="agent-1", name="Milo")
    turn = Turn(turn_request("hi"), PreparingUpstream(agent=agent, exchange=FakeExchange(is_unsure=is_unsure)))
    assert (turn.next_event(), turn.phase) == ("ask", Phase.PREPARING)
    if ends == "failure":
        turn.receive_failure(Failure.BROKEN, "connection reset")
    else:
        turn.time_out(TOO_LONG)
    assert failure_of(turn).kept is kept


def test_nothing_is_kept_of_a_preparation_that_was_not_sent() -> None:
    agent = Agent(id="agent-1", name="Milo")
    turn = Turn(turn_request("hi"), PreparingUpstream(agent=agent, exchange=FakeExchange(is_unsure=True)))
    turn.time_out(TOO_LONG)
    assert failure_of(turn).kept is Kept.NOTHING
