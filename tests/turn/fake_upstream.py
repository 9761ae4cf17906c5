"""An upstream without HTTP, as small as it can be: the agent is an object, and a run a queue of events."""

from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from typing import Any

from attrs import define, field

from sansio_letta import Kept, Signal
from sansio_letta.turn.agent import Agent, PendingCall
from sansio_letta.turn.events import AgentThread
from sansio_letta.turn.ledger import Heard
from sansio_letta.turn.request import CallAnswer, Message, StandingInstruction, TurnRequest
from sansio_letta.turn.upstream import Located, Refused, RunEvent, RunRequest, RunState, Script, Wait


@define(eq=False)
class FakeRun:
    """One run, and what was kept of it."""

    request: RunRequest
    connection: "FakeUpstream"
    events_to_come: deque[RunEvent] = field(factory=deque)
    kept: list[RunEvent] = field(factory=list)
    ref: str | None = None
    sent: tuple[Message, ...] = ()
    has_kept: bool = False
    state: RunState = RunState.WAITING
    instructions_sent: tuple[StandingInstruction, ...] = ()
    is_cancelled: bool = False
    has_input: bool = True
    can_continue: bool = False
    is_blank: bool = False
    results: tuple[CallAnswer, ...] = ()

    @property
    def run_id(self) -> str | None:
        return self.ref

    @property
    def is_named(self) -> bool:
        return self.ref is not None

    @property
    def has_results(self) -> bool:
        return self.request.has_results

    @property
    def has_anything(self) -> bool:
        return bool(self.kept)

    is_complete = has_anything

    def prepare(self) -> Script[None] | None:
        return None

    def start(self) -> Script[Refused | None]:
        yield from self.connection.wait(lambda: self.connection.is_open)
        self.ref = "run-1"
        return None

    def next_event(self) -> RunEvent | Signal:
        return self.events_to_come.popleft() if self.events_to_come else Signal.WAITING

    def read_texts(self, data: bytes) -> Sequence[str]:
        return ()

    def locate(self) -> Script[Located]:
        yield Wait()
        return Located.UNKNOWN

    def recover(self) -> Script["FakeRun | None"]:
        yield from self.connection.wait(lambda: bool(self.kept))
        return self

    def cancel(self, *, must_know: bool) -> Script[Kept]:
        self.is_cancelled = True
        yield from self.connection.wait(lambda: self.connection.is_open)
        return Kept.UNKNOWN if self.has_kept else Kept.NOTHING

    def events(self) -> Iterator[RunEvent]:
        return iter(self.kept)

    def kept_events(self) -> Iterator[RunEvent]:
        return iter(self.kept[:-1])


@define(eq=False)
class FakeUpstream:
    """One turn's side of it.

    :param calls: what the agent waits for.
    :param in_thread: what the thread holds.
    """

    agent: Agent | None = None
    calls: tuple[PendingCall, ...] | None = None
    heard: Heard | None = None
    past: FakeRun | None = None
    is_open: bool = True
    runs: list[FakeRun] = field(factory=list)
    is_released: bool = False
    is_new: bool = False
    in_thread: Heard = field(factory=Heard)

    @property
    def thread(self) -> AgentThread | None:
        return None if self.agent is None else AgentThread(agent_id=self.agent.id)

    @property
    def queue_keys(self) -> tuple[Hashable, ...]:
        return (self.thread,)

    def wait(self, until: Callable[[], bool]) -> Generator[Wait, Any, None]:
        while not until():
            yield Wait()

    def resolve_agent(self, *, with_calls: bool) -> Script[Agent]:
        yield from self.wait(lambda: self.is_open)
        self.agent = Agent(id="agent-1", name="Milo")
        return self.agent

    def fit(self, request: TurnRequest) -> TurnRequest:
        return request

    def recall_thread(self) -> None: ...

    def open_thread(self) -> Script[None]:
        yield Wait()

    def look_up_calls(self) -> Script[None]:
        yield from self.wait(lambda: self.is_open)
        self.calls = self.calls or ()

    def client_name(self, name: str) -> str:
        return name

    def look_up_heard(self) -> Script[None]:
        yield from self.wait(lambda: self.is_open)
        self.heard = self.in_thread

    def forget_calls(self) -> None:
        self.calls = self.heard = None

    def confirm(self) -> None: ...

    def make_run(self, request: RunRequest) -> FakeRun:
        self.runs.append(FakeRun(request, self, sent=(*request.request.history, *request.request.messages)))
        return self.runs[-1]

    def look_up(self, ref: str) -> Script[FakeRun]:
        yield from self.wait(lambda: self.is_open)
        assert self.past is not None
        return self.past

    def release(self, *, awaited_calls: Sequence[str], left_nothing: bool, had_turn: bool) -> None:
        self.is_released = True
