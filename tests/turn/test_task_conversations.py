"""A background prompt that brings tools: its conversation lives from its first request to its last result."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from drive import AGENT, AGENT_ID, DONE, PING, RUN_ID, USAGE, agent_json, say, stop, want
from drive_cycle import Client, chat
from sansio_letta import Config, HttpRequest, Proxy, Turn
from sansio_letta.config import TaskPolicy
from sansio_letta.errors import Failure
from sansio_letta.proxy.memory import ThreadMemory
from sansio_letta.turn.events import ConversationThread
from sansio_letta.turn.request import Throwaway
from sansio_letta.upstreams.rest.commands import (
    CancelRun,
    Command,
    CreateConversation,
    DeleteConversation,
    FetchLast,
    FindAgent,
    FindConversations,
    OpenStream,
    UpdateConversation,
)
from sansio_letta.upstreams.thread_names import task_deadline, waiting_summary

MEMORY = "You are now acting as the managed memory extraction subagent for a coding assistant."
TOOLS = [{"type": "function", "function": {"name": "read_file"}}]
ASKED = [{"role": "system", "content": MEMORY}, {"role": "user", "content": "Note what matters."}]
CREATED = 1_795_332_551

MADE = {"id": "conv-9", "agent_id": AGENT_ID, "summary": "", "created_at": "2026-11-22T08:00:00"}


def asking(*more: dict[str, Any], **fields: Any) -> HttpRequest:
    return chat(messages=[*ASKED, *more], tools=TOOLS, **fields)


def called(*call_ids: str) -> dict[str, Any]:
    calls = [
        {"id": call_id, "type": "function", "function": {"name": "read_file", "arguments": "{}"}}
        for call_id in call_ids
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result(call_id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": f"result of {call_id}"}


def wants(*call_ids: str) -> tuple[Any, ...]:
    asked = [want(call_id, "read_file", "{}") for call_id in call_ids]
    return (PING, *asked, stop("requires_approval"), USAGE, DONE)


def waits(*call_ids: str) -> list[Any]:
    """What was said last in the conversation."""
    calls = [{"tool_call_id": call_id, "name": "read_file", "arguments": "{}"} for call_id in call_ids]
    return [
        {
            "message_type": "approval_request_message",
            "id": "message-7",
            "tool_call": calls[0],
            "tool_calls": calls,
        }
    ]


def house(**config: Any) -> Proxy:
    made = Proxy(Config(**config))
    made.remember("Milo", AGENT, now=100.0)
    return made


def first(proxy: Proxy, *call_ids: str, **fields: Any) -> UpdateConversation:
    """The first request; the agent calls tools."""
    client = Client(asking(**fields), proxy, token="aaaaaaaa")
    assert [type(command) for command in client.commands] == [CreateConversation]
    client.answer(MADE).stream(*wants(*call_ids))
    update = client.commands[-1]
    assert isinstance(update, UpdateConversation)
    client.answer(MADE)
    assert client.ended
    assert client.status == 200
    return update


def opened(client: Client) -> OpenStream:
    command = client.commands[-1]
    assert isinstance(command, OpenStream)
    return command


def texts(command: OpenStream) -> list[Any]:
    return [getattr(message, "content", message) for message in command.request.messages]


def test_the_conversation_lives_until_the_last_result() -> None:
    proxy = house()
    update = first(proxy, "call-1", "call-2")
    assert update.conversation_id == "conv-9"
    assert "call-1" not in update.summary
    assert task_deadline(update.summary) == CREATED + 3600 + 300

    second = Client(
        asking(called("call-1", "call-2"), result("call-1"), result("call-2")), proxy, token="bbbbbbbb"
    )
    assert second.commands == [FetchLast(conversation_id="conv-9")]
    second.answer(waits("call-1", "call-2"))
    assert opened(second).target == "/v1/conversations/conv-9/messages"
    [answers] = opened(second).request.messages
    assert [each.tool_return for each in answers.approvals] == ["result of call-1", "result of call-2"]  # type: ignore[union-attr]
    second.stream(*wants("call-3"))
    assert isinstance(second.commands[-1], UpdateConversation)
    second.answer(MADE)

    third = Client(
        asking(
            called("call-1", "call-2"), result("call-1"), result("call-2"), called("call-3"), result("call-3")
        ),
        proxy,
        token="cccccccc",
    )
    third.answer(waits("call-3")).stream(PING, say("Noted."), stop(), USAGE, DONE)
    assert third.commands[-1:] == [DeleteConversation(conversation_id="conv-9")]
    third.answer(None)
    assert third.ended
    assert third.json()["choices"][0]["message"]["content"] == "Noted."


def test_another_process_finds_it_by_its_summary() -> None:
    summary = first(house(), "call-1", "call-2").summary
    client = Client(
        asking(called("call-1", "call-2"), result("call-2"), result("call-1")), house(), token="bbbbbbbb"
    )
    [search] = client.commands
    assert isinstance(search, FindConversations)
    assert search.agent_id == AGENT_ID
    assert search.summary in summary
    others = [
        {**MADE, "id": "conv-3", "summary": f"about {search.summary}"},
        {**MADE, "id": "conv-4", "summary": None},
    ]
    client.answer([*others, {**MADE, "summary": summary}])
    assert client.commands[-1:] == [FetchLast(conversation_id="conv-9")]
    client.answer(waits("call-1", "call-2")).stream(PING, say("Noted."), stop(), USAGE, DONE)
    assert client.commands[-1:] == [DeleteConversation(conversation_id="conv-9")]


def test_one_that_is_gone_is_made_again_and_told_everything() -> None:
    client = Client(asking(called("call-1"), result("call-1")), house(), token="bbbbbbbb")
    client.answer([])
    assert isinstance(client.commands[-1], CreateConversation)
    client.answer({**MADE, "id": "conv-10"})
    assert texts(opened(client)) == [
        MEMORY,
        "Note what matters.",
        "[The tool read_file was called with {}. It returned:]\nresult of call-1",
    ]
    client.stream(PING, say("Noted."), stop(), USAGE, DONE)
    assert client.commands[-1:] == [DeleteConversation(conversation_id="conv-10")]


@pytest.mark.parametrize("headers", [{}, {"x-letta-chat-key": "c-1"}], ids=["task", "chat"])
def test_an_agent_that_was_remembered_and_is_gone_is_looked_for(headers: dict[str, str]) -> None:
    client = Client(chat(headers=headers) if headers else asking(), house())
    if headers:
        client.answer([])
        client.answer([])
    client.answer({"detail": "Agent not found"}, 404)
    assert isinstance(client.commands[-1], FindAgent)
    client.answer([])
    assert (client.status, client.json()["error"]["code"]) == (404, "model_not_found")


def test_one_that_was_remembered_and_is_gone_is_made_again() -> None:
    proxy = house()
    first(proxy, "call-1")
    client = Client(asking(called("call-1"), result("call-1")), proxy, token="bbbbbbbb")
    client.answer({"detail": "not found"}, 404)
    assert isinstance(client.commands[-1], FindConversations)
    client.answer([]).answer({**MADE, "id": "conv-10"})
    assert len(texts(opened(client))) == 3
    client.stream(PING, say("Noted."), stop(), USAGE, DONE)
    assert client.commands[-1:] == [DeleteConversation(conversation_id="conv-10")]


def test_results_that_could_not_be_sent_may_come_again() -> None:
    proxy = house()
    summary = first(proxy, "call-1").summary
    request = asking(called("call-1"), result("call-1"))
    client = Client(request, proxy, token="bbbbbbbb")
    client.answer(waits("call-1")).answer({"detail": "no"}, 500)
    assert client.status == 502
    assert client.ended
    again = Client(request, proxy, token="cccccccc")
    assert isinstance(again.commands[-1], FindConversations)
    again.answer([{**MADE, "summary": summary}]).answer(waits("call-1"))
    assert opened(again).target == "/v1/conversations/conv-9/messages"


def test_a_client_that_leaves_in_mid_answer_takes_the_conversation_with_it() -> None:
    proxy = house()
    first(proxy, "call-1")
    client = Client(asking(called("call-1"), result("call-1"), stream=True), proxy, token="bbbbbbbb")
    client.answer(waits("call-1")).stream(PING, say("No"))
    client.leave()
    assert client.commands[-1:] == [CancelRun(agent_id=AGENT_ID, run_id=RUN_ID)]
    client.answer({RUN_ID: "cancelled"})
    assert client.commands[-1:] == [DeleteConversation(conversation_id="conv-9")]


def test_a_client_that_takes_one_call_at_a_time() -> None:
    proxy = house()
    summary = first(proxy, "call-1", "call-2", parallel_tool_calls=False).summary
    client = Client(
        asking(called("call-1"), result("call-1"), parallel_tool_calls=False), proxy, token="bbbbbbbb"
    )
    client.answer(waits("call-1", "call-2"))
    assert client.commands[-1] == UpdateConversation(
        conversation_id="conv-9", summary=summary.replace("aaaaaaaa", "bbbbbbbb")
    )
    client.answer(MADE)
    assert client.json()["choices"][0]["message"]["tool_calls"][0]["id"] == "call-2"
    last = Client(
        asking(
            called("call-1"), result("call-1"), called("call-2"), result("call-2"), parallel_tool_calls=False
        ),
        proxy,
        token="cccccccc",
    )
    last.answer(waits("call-1", "call-2"))
    [answers] = opened(last).request.messages
    assert len(answers.approvals) == 2  # type: ignore[union-attr]


def test_a_client_that_never_comes_back_leaves_nothing_to_those_without_a_sweep() -> None:
    proxy = house(client_tool_ttl=300.0)
    first(proxy, "call-1")
    for now, left in ((401.0, False), (402.5, True), (500.0, False)):
        other = Client(chat(content=f"It is {now}."), proxy, token=f"token{int(now)}", now=now)
        if isinstance(other.commands[-1], FindAgent):
            other.answer([agent_json()], now=now)
        other.stream(PING, say("Hello"), stop(), USAGE, DONE, now=now)
        deleted = [command for command in other.commands if isinstance(command, DeleteConversation)]
        assert deleted == ([DeleteConversation(conversation_id="conv-9")] if left else [])
        if left:
            assert other.cycle.is_complete
            other.answer(None, now=now)
        assert other.ended
    # It may come after all.
    late = Client(asking(called("call-1"), result("call-1")), proxy, token="bbbbbbbb", now=501.0)
    if isinstance(late.commands[-1], FindAgent):
        late.answer([agent_json()], now=501.0)
    assert late.commands[-1:] == [FetchLast(conversation_id="conv-9")]
    late.answer({"detail": "not found"}, 404, now=502.0).answer([], now=502.0)
    assert isinstance(late.commands[-1], CreateConversation)


def test_one_key_does_not_delete_what_is_another_s() -> None:
    memory = ThreadMemory(10)
    ours, theirs = ConversationThread(conversation_id="conv-1"), ConversationThread(conversation_id="conv-2")
    turns = [
        SimpleNamespace(
            agent_id=AGENT_ID,
            request=SimpleNamespace(thread=Throwaway(token="t")),
            state=SimpleNamespace(
                conversation=thread,
                instructions_sent=(),
                left_waiting=None,
                awaited_calls=(ident,),
                has_cancelled=False,
            ),
        )
        for ident, thread in (("a", ours), ("b", theirs))
    ]
    memory.learn(cast("Turn", turns[0]), "ours", 100.0)
    memory.learn(cast("Turn", turns[1]), "theirs", 100.0)
    assert memory.take_expired("ours", 100.0) == ()
    assert memory.take_expired("ours", 100.5) == (ours,)
    assert memory.take_expired("ours", 100.5) == ()
    assert memory.take_expired("theirs", 100.5) == (theirs,)


def test_every_request_of_a_program_may_be_isolated_at_once() -> None:
    proxy = house(tasks=TaskPolicy.ALL)
    clients = [
        Client(chat(content=f"Name change {number}."), proxy, token=f"token{number:03}") for number in range(4)
    ]
    for number, client in enumerate(clients):
        # None of them waits for another.
        assert [type(command) for command in client.commands] == [CreateConversation]
        client.answer({**MADE, "id": f"conv-{number}"})
    for number, client in enumerate(clients):
        assert opened(client).target == f"/v1/conversations/conv-{number}/messages"
        client.stream(PING, say("A name"), stop(), USAGE, DONE)
        assert client.commands[-1] == DeleteConversation(conversation_id=f"conv-{number}")


def test_a_retry_of_a_task_that_broke_off_begins_anew() -> None:
    proxy = house()
    client = Client(asking(stream=True), proxy, token="aaaaaaaa")
    client.answer(MADE).stream(PING, say("No"))
    client.fail(Failure.BROKEN)
    kinds: list[type[Command]] = [type(command) for command in client.commands]
    assert OpenStream in kinds
    client.leave()
    again = Client(asking(stream=True), proxy, token="bbbbbbbb")
    assert isinstance(again.commands[-1], CreateConversation)


@pytest.mark.parametrize("tail", ["", " calls ", " calls 1 2"])
def test_a_deadline_is_read_whatever_stands_behind_it(tail: str) -> None:
    assert task_deadline(f"letta-proxy task: t until 77{tail}") == 77


def test_a_summary_has_an_end() -> None:
    summary = waiting_summary(Throwaway(token="t"), [f"call-{number}" for number in range(1000)], 300)
    assert len(summary) < 1200
