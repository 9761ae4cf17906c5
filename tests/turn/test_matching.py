"""A turn's match of its transcript with the thread: what is remembered, looked up, and sent."""

from collections.abc import Sequence
from typing import Any

import pytest
from attrs import evolve

from drive import AGENT, RUN_ID, agent_json, answer, drain, make_turn
from sansio_letta import Turn
from sansio_letta.turn.events import CallsSettled, Event
from sansio_letta.turn.ledger import ROOT, Heard, HeardMessage, Role, ThreadKnowledge, result_digest
from sansio_letta.turn.request import (
    AgentMessage,
    Mark,
    Tool,
    ToolResult,
    TranscriptItem,
    TurnRequest,
    UserMessage,
)
from sansio_letta.turn.settlement import NO_RESULT_YET, Waiting
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.commands import Command, FetchAgent, FetchMessages, FetchRun, OpenStream
from support import heard, transcript

CALL = AgentMessage(content="")
RESULT = ToolResult(call_id="call-1", content="18 C", name="get_weather")


def begin(*items: TranscriptItem, known: ThreadKnowledge, results: Sequence[ToolResult] = ()) -> Turn:
    asked = TurnRequest(model="Milo", messages=(), transcript=items, results=tuple(results))
    return make_turn(asked, agent=AGENT, recall_heard=lambda thread: known)


def bring(*items: TranscriptItem, known: ThreadKnowledge, left: Waiting | None) -> Turn:
    """A turn of a client that offers the tool, with `RESULT`.

    :param left: what this process has left waiting.
    """
    asked = TurnRequest(
        model="Milo",
        messages=tuple(item for item in items[-1:] if isinstance(item, UserMessage)),
        transcript=items,
        results=(RESULT,),
        client_tools=(Tool(name="get_weather", parameters={}),),
    )
    return make_turn(asked, agent=AGENT, recall_heard=lambda thread: known, recall_waiting=lambda thread: left)


def texts(items: Sequence[Event | Command]) -> list[tuple[str, Any]]:
    """What is sent of messages."""
    [command] = [item for item in items if isinstance(item, OpenStream)]
    sent = command.request.messages
    return [(item.role, item.content) for item in sent if isinstance(item, letta.MessageCreate)]


def results(items: Sequence[Event | Command]) -> dict[str, Any]:
    """What is sent of results, by the ids of their calls."""
    [command] = [item for item in items if isinstance(item, OpenStream)]
    sent = [item for item in command.request.messages if isinstance(item, letta.ApprovalCreate)]
    return {
        answer.tool_call_id: answer.tool_return
        for item in sent
        for answer in item.approvals
        if isinstance(answer, letta.ToolReturn)
    }


def mark_of(item: TranscriptItem) -> Mark:
    assert isinstance(item, UserMessage)
    assert item.mark is not None
    return item.mark


def known(*items: TranscriptItem, **more: Any) -> ThreadKnowledge:
    """What a process remembers of a thread in which it has said these."""
    marks = map(mark_of, items)
    messages = [HeardMessage(role=Role.USER, content=mark.content, chain=mark.chain) for mark in marks]
    return ThreadKnowledge(heard=Heard(messages=messages), **more)


def waiting(call_id: str) -> Waiting:
    return Waiting(is_forced=False, call_ids=frozenset({call_id}))


def test_a_message_that_may_have_been_kept_is_looked_up() -> None:
    """Its client has left behind the last word, and sends it again in another form."""
    items = transcript("u1")
    turn = begin(*items, known=ThreadKnowledge(attempts={mark_of(items[0])}))
    [command] = drain(turn)
    assert isinstance(command, FetchMessages)
    [command] = answer(turn, [heard("u1") | {"run_id": RUN_ID}])
    assert isinstance(command, FetchRun)


def test_a_message_that_may_have_been_kept_and_was_not_is_sent() -> None:
    items = transcript("u1")
    turn = begin(*items, known=ThreadKnowledge(attempts={mark_of(items[0])}))
    drain(turn)
    assert texts(answer(turn, [])) == [("user", "u1")]


def test_a_message_that_was_not_kept_is_sent_at_once() -> None:
    items = transcript("u1")
    mark = mark_of(items[0])
    turn = begin(*items, known=ThreadKnowledge(attempts={mark}, lost={mark}))
    assert texts(drain(turn)) == [("user", "u1")]


def test_a_late_result_that_another_replica_has_told_is_not_told_again() -> None:
    u1, _, u2, answered, u3 = transcript("u1", "a1", "u2", "a2", "u3")
    remembered = known(u1, u2, unanswered={"call-1"})
    turn = begin(u1, CALL, RESULT, u2, answered, u3, known=remembered)
    [command] = drain(turn)
    assert isinstance(command, FetchMessages)
    told = Mark(result_digest("call-1"), ROOT)
    late = {"message_type": "system_message", "id": "message-9", "content": "18 C", "otid": told.text}
    marks = [heard("u2", mark_of(u2).chain), heard("u1")]
    assert texts(answer(turn, [late, *marks])) == [("user", "u3")]


def test_a_late_result_is_told_and_named() -> None:
    u1, _, u2, answered, u3 = transcript("u1", "a1", "u2", "a2", "u3")
    turn = begin(u1, CALL, RESULT, u2, answered, u3, known=known(u1, u2, unanswered={"call-1"}))
    drain(turn)
    items = answer(turn, [heard("u2", mark_of(u2).chain), heard("u1")])
    (system, said) = texts(items)
    assert (system[0], said) == ("system", ("user", "u3"))
    assert "18 C" in system[1]
    assert CallsSettled(stale=("call-1",)) in items


def test_a_result_is_not_given_to_a_call_that_another_process_has_left() -> None:
    """The call of the result has been answered there without it, and another client has led to the new one."""
    (u1,) = transcript("u1")
    turn = bring(u1, CALL, RESULT, known=known(u1), left=waiting("call-1"))
    drain(turn)
    [command] = answer(turn, agent_json("call-2", name="get_weather"))
    assert isinstance(command, FetchMessages)
    answered = {"message_type": "tool_return_message", "id": "message-8", "run_id": RUN_ID}
    placeholder = {"tool_call_id": "call-1", "status": "success", "tool_return": NO_RESULT_YET}
    items = answer(turn, [heard("u2"), answered | {"tool_returns": [placeholder]}, heard("u1")])
    (system,) = texts(items)
    assert system[0] == "system"
    assert "18 C" in system[1]


def test_a_result_that_seemed_to_come_late_is_given_to_its_call() -> None:
    """What was to stand in its place has not come to Letta."""
    (u1,) = transcript("u1")
    turn = bring(u1, CALL, RESULT, known=known(u1, unanswered={"call-1"}), left=None)
    [command] = drain(turn)
    assert isinstance(command, FetchMessages)
    waits = {"message_type": "approval_request_message", "id": "message-2", "run_id": RUN_ID}
    call = {"tool_call_id": "call-1", "name": "get_weather", "arguments": "{}"}
    [command] = answer(turn, [heard("u1"), waits | {"tool_calls": [call]}])
    assert isinstance(command, FetchAgent)
    assert results(answer(turn, agent_json("call-1", name="get_weather"))) == {"call-1": "18 C"}


def returned(call_id: str, result: str) -> dict[str, Any]:
    """A result as Letta lists it."""
    item = {"tool_call_id": call_id, "status": "success", "tool_return": result}
    return {
        "message_type": "tool_return_message",
        "id": f"of-{call_id}",
        "run_id": RUN_ID,
        "tool_returns": [item],
    }


@pytest.mark.parametrize("left", [waiting("call-1"), None])
def test_a_late_result_is_not_given_to_a_later_call_of_its_own_client(left: Waiting | None) -> None:
    """Another process has answered its call without it, and was stopped before the client saw the later one."""
    u1, _, u2 = transcript("u1", "a1", "u2")
    turn = bring(u1, CALL, RESULT, u2, known=known(u1), left=left)
    drain(turn)
    [command] = answer(turn, agent_json("call-2", name="get_weather"))
    assert isinstance(command, FetchMessages)
    listed = [heard("u1"), returned("call-1", NO_RESULT_YET), heard("u2", mark_of(u2).chain)]
    items = answer(turn, listed)
    system, said = texts(items)
    assert (system[0], said) == ("system", ("user", "u2"))
    assert "18 C" in system[1]
    assert results(items) == {"call-2": NO_RESULT_YET}


def test_a_result_that_was_sent_before_is_not_given_to_the_call_that_it_led_to() -> None:
    """The client does not show a call until it has the result."""
    u1, _, u2 = transcript("u1", "a1", "u2")
    sent = known(u1, results={result_digest("call-1")})
    turn = bring(u1, CALL, RESULT, u2, known=sent, left=waiting("call-2"))
    drain(turn)
    [command] = answer(turn, agent_json("call-2", name="get_weather"))
    assert isinstance(command, FetchMessages)
    items = answer(turn, [heard("u1"), returned("call-1", "18 C")])
    assert texts(items) == [("user", "u2")]
    assert results(items) == {"call-2": NO_RESULT_YET}


def test_what_comes_behind_results_is_looked_up_in_a_thread_that_is_not_known() -> None:
    """The client has left out the answer to the second message, which another replica has sent."""
    u1, _, u2, _, u3 = transcript("u1", "a1", "u2", "a2", "u3")
    turn = begin(u1, CALL, RESULT, u2, u3, known=ThreadKnowledge(), results=[RESULT])
    [command] = drain(turn)
    assert isinstance(command, FetchMessages)
    assert texts(answer(turn, [heard("u2", mark_of(u2).chain), heard("u1")])) == [("user", "u3")]


def test_what_led_to_the_call_of_another_model_is_told_with_its_result() -> None:
    """A gateway has sent the first message to the other model alone."""
    (u1,) = transcript("u1")
    turn = begin(u1, CALL, RESULT, known=ThreadKnowledge(), results=[evolve(RESULT, name=None)])
    [command] = drain(turn)
    assert isinstance(command, FetchAgent)
    [command] = answer(turn, agent_json())
    assert isinstance(command, FetchMessages)
    said, system = sorted(texts(answer(turn, [])), reverse=True)
    assert said == ("user", "u1")
    assert "18 C" in system[1]
