"""The owners of calls, and the events that their fragments and results become."""

from typing import Any

import pytest
from attrs import evolve

from sansio_letta.config import Approvals
from sansio_letta.turn import settlement
from sansio_letta.turn.agent import PendingCall
from sansio_letta.turn.events import (
    CallArguments,
    CallsSettled,
    CallStarted,
    ServerToolArguments,
    ServerToolStarted,
)
from sansio_letta.turn.request import Decision, ToolResult
from sansio_letta.turn.settlement import MOVED_ON, NO_RESULT, NO_RESULT_YET, NOT_ALLOWED, TAKEN, Settlement
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.agents import pending_calls
from sansio_letta.upstreams.rest.calls import ReplyText, ToolBridge, owner_of


def fragment(call_id: str, name: str | None = None, arguments: str | None = None) -> letta.ToolCall:
    return letta.ToolCall(tool_call_id=call_id, name=name, arguments=arguments)


def test_arguments_that_come_before_the_name_are_held_back() -> None:
    bridge = ToolBridge({"f": "f"})
    assert list(bridge.receive_request(fragment("1", None, '{"a"'))) == []
    assert list(bridge.receive_request(fragment("1", "f", ": 1}"))) == [
        CallStarted(index=0, call_id="1", name="f"),
        CallArguments(index=0, fragment='{"a"'),
        CallArguments(index=0, fragment=": 1}"),
    ]
    assert list(bridge.close()) == []
    assert bridge.client_call_count == 1


def test_interleaved_calls_keep_their_indexes() -> None:
    bridge = ToolBridge({"f": "f"})
    events = [
        event
        for piece in (
            fragment("1", "f"),
            fragment("2", "f"),
            fragment("1", None, "a"),
            fragment("2", None, "b"),
        )
        for event in bridge.receive_request(piece)
    ]
    assert events[2:] == [CallArguments(index=0, fragment="a"), CallArguments(index=1, fragment="b")]


def test_legacy_agents_report_later_fragments_as_calls_of_their_own() -> None:
    # legacy_ephemeral_tool.jsonl
    bridge = ToolBridge({"f": "f"})
    list(bridge.receive_request(fragment("1", "f")))
    assert list(bridge.receive_call(fragment("1", None, "{}"))) == [CallArguments(index=0, fragment="{}")]


def test_server_tools_that_wait() -> None:
    bridge = ToolBridge({})
    assert not bridge.waiting
    list(bridge.receive_request(fragment("1", "rm", '{"path"')))
    list(bridge.receive_request(fragment("1", None, ': "/"}')))
    assert bridge.waiting == (PendingCall(call_id="1", name="rm", arguments='{"path": "/"}'),)
    assert bridge.client_call_count == 0


def test_a_call_of_lettas_own_is_told_once_it_has_a_name() -> None:
    bridge = ToolBridge({})
    assert list(bridge.receive_call(fragment("1", None, '{"a"'))) == []
    assert list(bridge.receive_call(fragment("1", "f", ": 1}"))) == [
        ServerToolStarted(call_id="1", name="f"),
        ServerToolArguments(call_id="1", fragment='{"a": 1}'),
    ]


def returned(*call_ids: str, name: str | None = None) -> letta.ToolReturnMessage:
    returns = [
        letta.Returned(tool_call_id=call_id, tool_return="x" * 3000, status="error") for call_id in call_ids
    ]
    return letta.ToolReturnMessage(id="message-3", name=name, tool_returns=tuple(returns))


def test_returns_are_told_without_the_clients_own_results() -> None:
    # mixed_tools.jsonl: the message's name is one tool's, its first return another's.
    bridge = ToolBridge({"f": "f"}, result_ids=("1",), names={"2": "rm"})
    list(bridge.receive_call(fragment("3", "ls", "{}")))
    told = list(bridge.receive_returns(returned("1", "2", "3", "4", name="ls")))
    assert [(event.call_id, event.name) for event in told] == [("2", "rm"), ("3", "ls"), ("4", None)]
    assert {(event.failed, len(event.beginning)) for event in told} == {(True, 2000)}
    [alone] = bridge.receive_returns(returned("1", "4", name="ls"))
    assert alone.name == "ls"


def pending(*calls: letta.ToolCall) -> tuple[PendingCall, ...]:
    return pending_calls(letta.PendingApproval(id="message-1", tool_calls=calls))


def settle(
    calls: tuple[PendingCall, ...],
    results: tuple[ToolResult, ...],
    *,
    client_tools: tuple[str, ...],
    own_tools: tuple[str, ...] | None = None,
    **more: Any,
) -> Settlement:
    """As for an agent with these tools."""
    owned = [evolve(call, owner=owner_of(call.name, client_tools, own_tools)) for call in calls]
    return settlement.settle(owned, results, **more)


def result(call_id: str) -> ToolResult:
    return ToolResult(call_id=call_id, content="18 C")


@pytest.mark.parametrize("has_message", [True, False])
def test_all_results_there(has_message: bool) -> None:
    settled = settle(
        pending(fragment("1", "f"), fragment("2", "f")),
        (result("2"), result("1")),
        client_tools=("f",),
        has_message=has_message,
    )
    assert settled == Settlement(answers=(result("1"), result("2")))


@pytest.mark.parametrize(("policy", "has_message"), [(Approvals.ASK, True), (Approvals.DENY, False)])
def test_missing_results_are_errors_for_client_tools_and_denials_for_others(
    policy: Approvals, has_message: bool
) -> None:
    settled = settle(
        pending(fragment("1", "f"), fragment("2", "f"), fragment("3", "rm")),
        (result("1"),),
        client_tools=("f",),
        has_message=has_message,
        policy=policy,
    )
    assert settled.answers == (
        result("1"),
        ToolResult(call_id="2", content=NO_RESULT, is_error=True),
        Decision(call_id="3", approve=False, reason=NOT_ALLOWED),
    )
    assert settled.calls == CallsSettled(missing=("2", "3"))


@pytest.mark.parametrize(("is_taken", "text"), [(False, NO_RESULT_YET), (True, TAKEN)])
@pytest.mark.parametrize(
    ("client_tools", "own_tools"), [(("f",), None), (("f",), ("rm",)), ((), ("rm",)), ((), ())]
)
def test_a_message_in_place_of_results_denies_no_call_of_a_client(
    client_tools: tuple[str, ...], own_tools: tuple[str, ...] | None, is_taken: bool, text: str
) -> None:
    settled = settle(
        pending(fragment("1", "f")),
        (result("9"),),
        client_tools=client_tools,
        has_message=True,
        own_tools=own_tools,
        is_taken=is_taken,
    )
    assert settled.answers == (ToolResult(call_id="1", content=text),)
    assert settled.calls == CallsSettled(denied=("1",), stale=("9",))


@pytest.mark.parametrize("own_tools", [None, ("rm",)])
def test_a_message_in_place_of_an_approval_denies_the_agents_own_call(
    own_tools: tuple[str, ...] | None,
) -> None:
    waiting = pending(fragment("1", "rm"), fragment("2", "f"))
    settled = settle(waiting, (), client_tools=("f",), has_message=True, own_tools=own_tools, is_taken=True)
    assert settled.answers == (
        Decision(call_id="1", approve=False, reason=MOVED_ON),
        ToolResult(call_id="2", content=TAKEN),
    )


@pytest.mark.parametrize("has_message", [True, False])
def test_nothing_pending(has_message: bool) -> None:
    settled = settle((), (result("9"),), client_tools=(), has_message=has_message)
    assert settled == Settlement(calls=CallsSettled(stale=("9",)))


def test_stale_results_alone_answer_nothing_for_others() -> None:
    # The pending call may be another client's: only a user who writes may deny it.
    settled = settle(pending(fragment("1", "f")), (result("9"),), client_tools=("f",), has_message=False)
    assert settled == Settlement(calls=CallsSettled(stale=("9",)))


SAID = '{"message": "Hi \\"you\\" \\ud83d\\ude00"}'


def test_what_an_agent_says_by_calling_send_message() -> None:
    bridge = ToolBridge({"send_message_to": "send_message_to"})
    pieces = [
        fragment("1", None, SAID[:5]),
        fragment("1", "send_message"),
        *[fragment("1", None, char) for char in SAID[5:]],
    ]
    words = [word for piece in pieces for word in bridge.receive_call(piece)]
    assert {type(word) for word in words} == {ReplyText}
    assert "".join(word.text for word in words if isinstance(word, ReplyText)) == 'Hi "you" \U0001f600'
    assert list(bridge.receive_returns(returned("1", name="send_message"))) == []
    assert bridge.client_call_count == 0


def test_that_a_message_was_sent_is_no_news_in_the_next_run() -> None:
    sent = letta.Returned(tool_call_id="1", tool_return="Sent message successfully.", status="success")
    message = letta.ToolReturnMessage(id="message-3", tool_returns=(sent,))
    assert list(ToolBridge({}).receive_returns(message)) == []
    assert list(ToolBridge({}, names={"1": "send_message"}).receive_returns(returned("1"))) == []
    # Of a tool that is known by another name it may be news.
    assert len(list(ToolBridge({}, names={"1": "mail"}).receive_returns(message))) == 1


def test_a_tool_of_that_name_that_is_not_lettas_says_nothing() -> None:
    bridge = ToolBridge({}, reads_reply_tool=False)
    assert list(bridge.receive_call(fragment("1", "send_message", SAID))) == [
        ServerToolStarted(call_id="1", name="send_message"),
        ServerToolArguments(call_id="1", fragment=SAID),
    ]
    assert len(list(bridge.receive_returns(returned("1")))) == 1


def test_a_clients_tool_of_that_name_is_the_clients() -> None:
    bridge = ToolBridge({"send_message": "send_message"})
    assert list(bridge.receive_request(fragment("1", "send_message", SAID))) == [
        CallStarted(index=0, call_id="1", name="send_message"),
        CallArguments(index=0, fragment=SAID),
    ]
