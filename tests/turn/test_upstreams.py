"""One turn with two upstreams: Letta's REST API, and one without HTTP. What the client is told is the same."""

from typing import Any, Protocol

import pytest
from attrs import evolve

from drive import AGENT, DONE, PING, RUN_ID, TOOL_RETURN, USAGE, WEATHER, agent_json, make_turn, turn_request
from drive import answer as answer_http
from drive import drain as drain_all
from drive import error as error_message
from drive import more as more_messages
from drive import say as say_message
from drive import stop as stop_message
from drive import want as want_call
from sansio_letta import Kept, LettaError, RemoteProtocolError, Signal, Turn
from sansio_letta.errors import Failure
from sansio_letta.proxy.memory import ThreadMemory
from sansio_letta.turn.agent import Agent, PendingCall, ToolOwner
from sansio_letta.turn.events import (
    CallArguments,
    CallStarted,
    Event,
    FinishReason,
    TextDelta,
    TurnFailed,
    TurnFinished,
    TurnStarted,
    Usage,
)
from sansio_letta.turn.ledger import ROOT, Heard, HeardMessage, Role, digest
from sansio_letta.turn.phases import Phase
from sansio_letta.turn.upstream import RunEvent, RunFailed, RunLost, RunStopped
from sansio_letta.upstreams.rest.commands import CancelRun, FetchMessages
from support import heard, transcript

from .fake_upstream import FakeRun, FakeUpstream

USED = Usage(prompt_tokens=100, completion_tokens=20, total_tokens=120)


class Side(Protocol):
    """Plays an upstream for a turn; each method gives what the client is told by it."""

    turn: Turn
    memory: ThreadMemory
    idle: Signal  #: what the turn answers while nothing of its run is there

    def begin(self, *texts: str, results: tuple[str, ...] = ()) -> list[Event]: ...
    def go_on(self, *texts: str, in_thread: tuple[str, ...]) -> None: ...
    def waits_for(self, call_id: str) -> list[Event]: ...
    def say(self, text: str) -> list[Event]: ...
    def call(self, call_id: str) -> list[Event]: ...
    def keep(self) -> list[Event]: ...
    def stop(self) -> list[Event]: ...
    def fail(self) -> list[Event]: ...
    def lose(self) -> list[Event]: ...
    def recover(self, text: str) -> list[Event]: ...
    def leave(self) -> None: ...
    def confirm_cancel(self) -> list[Event]: ...
    @property
    def is_cancelling(self) -> bool: ...
    @property
    def answers(self) -> int: ...
    @property
    def said(self) -> list[str]: ...


class RestSide:
    """Letta's REST API."""

    turn: Turn
    idle = Signal.NEED_DATA

    def __init__(self) -> None:
        self.commands: list[Any] = []
        self.calls = False
        self.memory = ThreadMemory(10)

    def told(self, items: list[Any]) -> list[Event]:
        self.commands += [item for item in items if not isinstance(item, Event)]
        return [item for item in items if isinstance(item, Event)]

    def begin(self, *texts: str, results: tuple[str, ...] = ()) -> list[Event]:
        self.turn = make_turn(turn_request(*texts, results=results, tools=[WEATHER]), agent=AGENT)
        told = self.told(drain_all(self.turn))
        return told if results else told + self.open()

    def go_on(self, *texts: str, in_thread: tuple[str, ...]) -> None:
        asked = evolve(turn_request(), transcript=transcript(*texts))
        self.turn = make_turn(asked, agent=AGENT, recall_heard=self.memory.heard.recall)
        self.told(drain_all(self.turn))
        if isinstance(self.commands[-1], FetchMessages):
            self.told(answer_http(self.turn, [heard(text) for text in in_thread]))
        self.open()

    def open(self) -> list[Event]:
        self.turn.receive_response(200, [("content-type", "text/event-stream")])
        return self.receive(PING)

    def receive(self, *messages: Any) -> list[Event]:
        return self.told(more_messages(self.turn, *messages, end=False))

    def waits_for(self, call_id: str) -> list[Event]:
        return self.told(answer_http(self.turn, agent_json(call_id))) + self.open()

    def say(self, text: str) -> list[Event]:
        return self.receive(say_message(text))

    def call(self, call_id: str) -> list[Event]:
        self.calls = True
        return self.receive(want_call(call_id, "get_weather", "{}"))

    def keep(self) -> list[Event]:
        return [event for event in self.receive(TOOL_RETURN) if isinstance(event, TurnStarted)]

    def stop(self) -> list[Event]:
        return self.receive(stop_message("requires_approval" if self.calls else "end_turn"), USAGE, DONE)

    def fail(self) -> list[Event]:
        return self.receive(stop_message("error"), error_message())

    def lose(self) -> list[Event]:
        self.turn.receive_failure(Failure.BROKEN, "connection reset")
        return self.told(drain_all(self.turn))

    def recover(self, text: str) -> list[Event]:
        told = self.told(
            answer_http(self.turn, {"id": RUN_ID, "status": "completed", "stop_reason": "end_turn"})
        )
        heard = {"message_type": "user_message", "content": "hi"}
        told += self.told(answer_http(self.turn, [heard, say_message(text)]))
        return told + self.told(answer_http(self.turn, USAGE))

    def leave(self) -> None:
        self.turn.client_disconnected()
        assert self.told(drain_all(self.turn)) == []

    def confirm_cancel(self) -> list[Event]:
        return self.told(answer_http(self.turn, {RUN_ID: "cancelled"}))

    @property
    def is_cancelling(self) -> bool:
        return isinstance(self.commands[-1], CancelRun)

    @property
    def answers(self) -> int:
        messages = self.commands[-1].request.messages
        return sum(len(getattr(message, "approvals", ())) for message in messages)

    @property
    def said(self) -> list[str]:
        return [message.content for message in self.commands[-1].request.messages]


class FakeSide:
    """The upstream without HTTP."""

    turn: Turn
    idle = Signal.WAITING

    def __init__(self) -> None:
        self.upstream = FakeUpstream(agent=Agent(id="agent-1", name="Milo"))
        self.memory = ThreadMemory(10)

    @property
    def run(self) -> FakeRun:
        return self.upstream.runs[-1]

    def drain(self) -> list[Event]:
        told = []
        while not isinstance(item := self.turn.next_event(), Signal):
            told.append(item)
        return told

    def begin(self, *texts: str, results: tuple[str, ...] = ()) -> list[Event]:
        self.upstream.is_open = not results
        self.turn = Turn(turn_request(*texts, results=results, tools=[WEATHER]), self.upstream)
        return self.drain()

    def go_on(self, *texts: str, in_thread: tuple[str, ...]) -> None:
        messages = [
            HeardMessage(role=Role.USER, content=digest("user", text), chain=ROOT) for text in in_thread
        ]
        self.upstream = FakeUpstream(
            agent=self.upstream.agent, in_thread=Heard(messages=messages, is_whole=True)
        )
        asked = evolve(turn_request(), transcript=transcript(*texts))
        self.turn = Turn(asked, self.upstream, recall_heard=self.memory.heard.recall)
        self.drain()

    def waits_for(self, call_id: str) -> list[Event]:
        call = PendingCall(
            call_id=call_id, name="get_weather", owner=ToolOwner.CLIENT, client_name="get_weather"
        )
        self.upstream.calls, self.upstream.is_open = (call,), True
        return self.drain()

    def receive(self, *events: RunEvent) -> list[Event]:
        begun = [] if self.turn.state.answer.started else [TurnStarted()]
        self.run.events_to_come.extend([*begun, *events])
        return self.drain()

    def say(self, text: str) -> list[Event]:
        return self.receive(TextDelta(text=text))

    def call(self, call_id: str) -> list[Event]:
        started = CallStarted(index=0, call_id=call_id, name="get_weather")
        self.calls = (call_id,)
        return self.receive(started, CallArguments(index=0, fragment="{}"))

    def keep(self) -> list[Event]:
        self.run.has_kept = True
        return self.receive()

    def stop(self) -> list[Event]:
        calls = getattr(self, "calls", ())
        reason = FinishReason.TOOL_CALLS if calls else FinishReason.STOP
        return self.receive(RunStopped(reason=reason, usage=USED, calls=calls))

    def fail(self) -> list[Event]:
        self.run.events_to_come.append(RunFailed(error=LettaError("It broke.")))
        return self.drain()

    def lose(self) -> list[Event]:
        self.run.events_to_come.append(RunLost(error=RemoteProtocolError("The connection broke.")))
        return self.drain()

    def recover(self, text: str) -> list[Event]:
        end = RunStopped(reason=FinishReason.STOP, usage=USED)
        self.run.kept = [TurnStarted(), TextDelta(text=text), end]
        return self.drain()

    def leave(self) -> None:
        self.upstream.is_open = False
        self.turn.client_disconnected()
        assert self.drain() == []

    def confirm_cancel(self) -> list[Event]:
        self.upstream.is_open = True
        return self.drain()

    @property
    def is_cancelling(self) -> bool:
        return self.run.is_cancelled

    @property
    def answers(self) -> int:
        return len(self.run.request.answers)

    @property
    def said(self) -> list[str]:
        return [str(message.content) for message in self.run.sent]


@pytest.fixture(params=[RestSide, FakeSide], ids=["rest", "fake"])
def side(request: pytest.FixtureRequest) -> Side:
    made: Side = request.param()
    return made


def finished(reason: FinishReason = FinishReason.STOP) -> TurnFinished:
    return TurnFinished(reason=reason, usage=USED)


def test_text(side: Side) -> None:
    assert side.begin("hi") == []
    assert side.say("Hel") == [TurnStarted(), TextDelta(text="Hel")]
    assert (side.turn.next_event(), side.turn.phase, side.turn.pause) == (side.idle, Phase.STREAMING, None)
    assert side.say("lo") == [TextDelta(text="lo")]
    assert side.stop() == [finished()]
    assert (side.turn.next_event(), side.turn.phase) == (Signal.FINISHED, Phase.DONE)


def test_a_call_and_its_result(side: Side) -> None:
    side.begin("How is the weather?")
    told = side.call("call-1") + side.stop()
    assert told == [
        TurnStarted(),
        CallStarted(index=0, call_id="call-1", name="get_weather"),
        CallArguments(index=0, fragment="{}"),
        finished(FinishReason.TOOL_CALLS),
    ]
    assert side.turn.state.awaited_calls == ("call-1",)


def test_a_result_is_the_answer_to_its_call(side: Side) -> None:
    assert side.begin(results=("call-1",)) == []
    assert side.waits_for("call-1") == []
    assert side.answers == 1
    assert side.say("18 C.") + side.stop() == [TurnStarted(), TextDelta(text="18 C."), finished()]


def test_a_failure_before_the_commit(side: Side) -> None:
    side.begin("hi")
    [failure] = side.fail()
    assert isinstance(failure, TurnFailed)
    assert (failure.kept, side.turn.state.started, side.turn.phase) == (Kept.NOTHING, False, Phase.FAILED)


def test_a_failure_after_the_commit(side: Side) -> None:
    side.begin("hi")
    side.say("Hel")
    side.keep()
    [failure] = side.fail()
    assert isinstance(failure, TurnFailed)
    assert (failure.kept, failure.error.status_hint, side.turn.state.started) == (Kept.SOMETHING, 424, True)


def test_a_client_that_leaves(side: Side) -> None:
    side.begin("hi")
    side.say("Hel")
    side.leave()
    assert side.is_cancelling
    assert side.turn.phase is Phase.CANCELLING
    assert side.confirm_cancel() == []
    assert (side.turn.next_event(), side.turn.phase) == (Signal.FINISHED, Phase.DONE)


def test_a_lost_run_is_recovered_and_nothing_is_told_twice(side: Side) -> None:
    side.begin("hi")
    side.say("Hel")
    assert side.lose() == []
    assert side.turn.phase is Phase.RECOVERING
    assert side.recover("Hello") == [TextDelta(text="lo"), finished()]
    assert (side.turn.next_event(), side.turn.state.resume_count) == (Signal.FINISHED, 1)


@pytest.mark.parametrize(
    ("in_thread", "said"),
    [((), ["one", "partial", "two"]), (("one",), ["two"])],
    ids=["nothing was kept", "it was kept"],
)
def test_what_was_stopped_is_told_with_the_next_message_unless_it_was_kept(
    side: Side, in_thread: tuple[str, ...], said: list[str]
) -> None:
    side.go_on("one", in_thread=())
    assert side.said == ["one"]
    side.say("partial")
    side.leave()
    side.confirm_cancel()
    side.memory.learn_sent(side.turn, 0.0)
    side.go_on("one", "partial", "two", in_thread=in_thread)
    assert side.said == said


def test_what_was_heard_is_not_looked_up(side: Side) -> None:
    side.go_on("one", in_thread=())
    side.say("Yes?")
    side.keep()
    side.stop()
    side.memory.learn_sent(side.turn, 0.0)
    side.go_on("one", "Yes?", "two", in_thread=())
    assert side.said == ["two"]
    assert side.turn.upstream.heard is None
