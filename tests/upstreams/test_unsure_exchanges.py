"""Exchanges with Letta that a turn must not cut off, and those that the agent may have heard."""

import pytest
from attrs import evolve

from drive import AGENT, AGENT_ID, JSON, SSE, WEATHER, answer, drain, make_turn, turn_request
from legacy_letta import turn_of
from sansio_letta import Signal, Turn
from sansio_letta.errors import Failure
from sansio_letta.turn.events import AgentThread
from sansio_letta.turn.request import Throwaway
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.commands import (
    AnswerCalls,
    Command,
    CreateConversation,
    DeleteConversation,
    FetchAgent,
    FetchToolbox,
    FindRuns,
    OpenStream,
)
from sansio_letta.upstreams.rest.exchange import Exchange

OPEN = OpenStream(thread=AgentThread(agent_id=AGENT_ID), request=letta.StreamRequest(messages=()))
ANSWER = AnswerCalls(thread=AgentThread(agent_id=AGENT_ID), answers=letta.ApprovalCreate(approvals=()))

# --- The agent may have heard it


def exchange(command: Command, status: int | None = None, failure: Failure | None = None) -> Exchange:
    made = Exchange(command, max_answer_size=1000, key_is_clients=False)
    if status is not None:
        made.receive_response(status, JSON)
    if failure is not None:
        made.receive_failure(failure, "as the test wants it")
    return made


@pytest.mark.parametrize("command", [OPEN, ANSWER], ids=["a message", "answers"])
@pytest.mark.parametrize(
    ("status", "failure", "is_unsure"),
    [
        (None, None, True),
        (None, Failure.NOT_SENT, False),
        (None, Failure.BROKEN, True),
        (None, Failure.SILENT, True),
        (200, None, False),
        (200, Failure.BROKEN, False),
        (404, None, False),
        (499, Failure.SILENT, False),
        (500, None, True),
        (503, Failure.BROKEN, True),
    ],
)
def test_whether_the_agent_heard_it(
    command: Command, status: int | None, failure: Failure | None, is_unsure: bool
) -> None:
    assert exchange(command, status, failure).is_unsure is is_unsure


@pytest.mark.parametrize("failure", [None, *Failure])
def test_the_agent_hears_no_question(failure: Failure | None) -> None:
    assert not exchange(FetchAgent(agent_id=AGENT_ID), failure=failure).is_unsure


# --- It must finish


def throwaway() -> Turn:
    """A turn that makes a conversation of its own."""
    request = evolve(turn_request("hi"), thread=Throwaway(token="t1"))
    turn = make_turn(request, agent=AGENT, token="t1")
    assert [type(command) for command in drain(turn)] == [CreateConversation]
    return turn


def test_a_conversation_that_is_being_made_is_awaited_and_deleted() -> None:
    turn = throwaway()
    turn.client_disconnected()
    assert turn.next_event() is Signal.NEED_DATA
    made = {"id": "conv-9", "agent_id": AGENT_ID, "summary": "", "created_at": "2026-11-22T08:00:00"}
    assert answer(turn, made) == [DeleteConversation(conversation_id="conv-9")]


def test_tools_that_are_being_attached_are_awaited() -> None:
    turn = turn_of(turn_request("hi", tools=[WEATHER]))
    assert [type(command) for command in drain(turn)] == [FindRuns]
    assert [type(command) for command in answer(turn, [])] == [FetchToolbox]
    turn.client_disconnected()
    assert turn.next_event() is Signal.NEED_DATA


def test_a_run_that_is_being_started_is_awaited() -> None:
    turn = make_turn(turn_request("hi"), agent=AGENT)
    assert [type(command) for command in drain(turn)] == [OpenStream]
    turn.client_disconnected()
    assert turn.next_event() is Signal.NEED_DATA
    turn.receive_response(200, SSE)
    assert turn.next_event() is Signal.NEED_DATA, "its id comes with the first message"


@pytest.mark.parametrize("is_sent", [True, False])
def test_a_question_is_not_awaited(is_sent: bool) -> None:
    turn = make_turn(turn_request("hi", model=AGENT_ID))
    if is_sent:
        assert drain(turn) == [FetchAgent(agent_id=AGENT_ID)]
    turn.client_disconnected()
    assert turn.next_event() is Signal.FINISHED
