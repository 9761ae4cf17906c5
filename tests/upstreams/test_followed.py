"""Agents that Letta cannot stream, or that cannot reply at all."""

import orjson
import pytest

from drive import (
    AGENT_ID,
    CONFLICT,
    DONE,
    PING,
    RUN_ID,
    agent,
    agent_json,
    answer,
    drain,
    error,
    make_turn,
    say,
    stop,
    stream,
    turn_request,
)
from sansio_letta import Kept, Signal, Turn
from sansio_letta.errors import shutting_down
from sansio_letta.turn.events import TextDelta, TurnFailed, TurnFinished, TurnStarted
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.commands import (
    AnswerCalls,
    CancelRun,
    FetchAgent,
    FetchKept,
    FetchRun,
    OpenStream,
)

LEGACY = agent(agent_type="memgpt_v2_agent")
SLEEPER = agent(agent_type="memgpt_v2_agent", enable_sleeptime=True)
FOLLOWED = f"/v1/agents/{AGENT_ID}/messages/async"


def followed(*texts: str, background: bool = False) -> Turn:
    """A turn whose run Letta has just named."""
    turn = make_turn(turn_request(*texts or ("hi",)), agent=SLEEPER, background=background)
    (opened,) = drain(turn)
    assert isinstance(opened, OpenStream)
    assert (opened.target, orjson.loads(opened.body).keys()) == (FOLLOWED, {"messages"})
    assert answer(turn, {"id": RUN_ID, "status": "created"}) == [FetchRun(run_id=RUN_ID)]
    return turn


@pytest.mark.parametrize("background", [False, True])
def test_an_agent_that_cannot_stream_is_followed_by_its_run(background: bool) -> None:
    # Where runs in the background are asked for, this one has no stream to resume either.
    turn = followed(background=background)
    answer(turn, {"id": RUN_ID, "status": "running"})
    assert turn.pause is not None
    turn.end_pause()
    drain(turn)
    answer(turn, {"id": RUN_ID, "status": "completed", "stop_reason": "end_turn"})
    answer(turn, [{"message_type": "user_message", "id": "message-0"}, say("Hello.")])
    told = answer(turn, {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2})
    assert [type(item) for item in told] == [TurnStarted, TextDelta, TurnFinished]
    assert turn.next_event() is Signal.FINISHED


@pytest.mark.parametrize("error", ["Error code: 500, key sk-1", None])
def test_a_followed_run_that_failed_may_be_asked_for_again(error: str | None) -> None:
    turn = followed()
    failed = {"id": RUN_ID, "status": "failed", "stop_reason": "error", "metadata": {"error": error}}
    answer(turn, failed)
    (told,) = answer(turn, [])
    assert isinstance(told, TurnFailed)
    assert (told.error.status_hint, told.kept) == (502, Kept.NOTHING)
    assert "sk-1" not in told.error.message


def test_a_followed_run_that_was_refused_is_settled_and_said_again() -> None:
    turn = followed("never mind")
    error = {"error": CONFLICT["message"]}
    answer(turn, {"id": RUN_ID, "status": "failed", "stop_reason": "error", "metadata": error})
    assert answer(turn, []) == [FetchAgent(agent_id=AGENT_ID)]
    waiting = agent_json("call-1") | {"agent_type": SLEEPER.agent_type, "enable_sleeptime": True}
    settled = answer(turn, waiting)
    assert isinstance(settled[-1], AnswerCalls)
    (again,) = answer(turn, {"messages": []})
    assert isinstance(again, OpenStream)
    assert again.is_followed


@pytest.mark.parametrize("is_named", [True, False])
def test_a_client_that_leaves_a_followed_run(is_named: bool) -> None:
    turn = followed() if is_named else make_turn(turn_request("hi"), agent=SLEEPER)
    drain(turn)
    turn.client_disconnected()
    items = drain(turn) if is_named else answer(turn, {"id": RUN_ID, "status": "created"})
    assert items == [CancelRun(agent_id=AGENT_ID, run_id=RUN_ID)]
    answer(turn, {})
    assert turn.next_event() is Signal.FINISHED


def test_an_interrupted_followed_run_is_cancelled_once_it_has_a_name() -> None:
    turn = make_turn(turn_request("hi"), agent=SLEEPER)
    drain(turn)
    turn.shut_down(shutting_down())
    assert answer(turn, {"id": RUN_ID, "status": "created"}) == [CancelRun(agent_id=AGENT_ID, run_id=RUN_ID)]
    assert answer(turn, {RUN_ID: "cancelled"}) == []
    turn.end_pause()
    assert drain(turn) == [FetchKept(run_id=RUN_ID)]
    (told,) = answer(turn, [])
    assert isinstance(told, TurnFailed)
    assert told.kept is Kept.NOTHING


@pytest.mark.parametrize(("tools", "code"), [((), "unsupported_agent"), (None, "upstream_error")])
def test_an_agent_that_can_only_call_tools_says_so(tools: tuple[letta.OwnTool, ...] | None, code: str) -> None:
    turn = make_turn(turn_request("hi"), agent=agent(agent_type="react_agent", tools=tools))
    drain(turn)
    wrote = error("llm_error", "It failed.", "No tool calls found in response, model must make a tool call")
    (told,) = stream(turn, PING, stop("llm_api_error"), wrote, DONE)
    assert isinstance(told, TurnFailed)
    assert (told.error.code, told.kept) == (code, Kept.NOTHING)
