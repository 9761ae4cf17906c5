"""Threads: a chat's conversation, one that is given, one that is thrown away; and the client's instructions."""

from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest
from attrs import evolve

from drive import (
    AGENT,
    AGENT_ID,
    DONE,
    PING,
    RUN_ID,
    USAGE,
    WEATHER,
    agent_json,
    answer,
    drain,
    error,
    make_turn,
    say,
    stop,
    stream,
    turn_request,
    want,
)
from drive_cycle import Client, chat
from sansio_letta import Config, HttpRequest, Proxy, RemoteProtocolError, RequestError, Signal, Turn
from sansio_letta.config import InstructionPolicy, TaskPolicy
from sansio_letta.dialects.background_prompts import is_task
from sansio_letta.dialects.base import RequestContext
from sansio_letta.dialects.chat_completions.decode import decode_request
from sansio_letta.dialects.chat_completions.request import field_name
from sansio_letta.dialects.errors import error_body
from sansio_letta.dialects.new_input import build_turn_request
from sansio_letta.errors import Failure, shutting_down
from sansio_letta.proxy.memory import ThreadMemory
from sansio_letta.turn.events import (
    AgentThread,
    ConversationThread,
    Event,
    TextDelta,
    ThreadGone,
    TurnFailed,
    TurnFinished,
)
from sansio_letta.turn.json_schema import Schema
from sansio_letta.turn.reply_format import JsonReply
from sansio_letta.turn.request import (
    Chat,
    NamedConversation,
    ThreadChoice,
    Throwaway,
    ToolResult,
    TurnRequest,
    UserMessage,
    thread_kind,
)
from sansio_letta.turn.settlement import Waiting
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.commands import (
    PAGE_COUNT,
    CancelRun,
    Command,
    CreateConversation,
    DeleteConversation,
    FetchConversation,
    FetchLast,
    FindConversations,
    FindRuns,
    FindToolboxes,
    OpenStream,
    SearchTools,
)
from sansio_letta.upstreams.rest.conversations import MAX_PAGE_COUNT
from sansio_letta.upstreams.rest.turn_input import to_answer
from sansio_letta.upstreams.thread_names import chat_key, chat_summary, task_summary
from support import heard, instructions, transcript

HELLO = (PING, say("Hello"), stop(), USAGE, DONE)
CHAT, TASK, GIVEN = (
    Chat(key="c-1"),
    Throwaway(token="t-1", until=3600),
    NamedConversation(conversation_id="conv-7"),
)
DIGEST = "a6f7ef47ee8dc84af9056a3051ddc302"
SUMMARY = f'letta-proxy chat: "c-1" {DIGEST}'
FIND = FindConversations(agent_id=AGENT_ID, summary=DIGEST)
#: One without a digest, as earlier versions have made them.
FIND_EARLIER = FindConversations(agent_id=AGENT_ID, summary='letta-proxy chat: "c-1"')
CREATE = CreateConversation(agent_id=AGENT_ID, summary=SUMMARY)


def conversation(name: str, summary: str = SUMMARY, created: str = "2026-11-22T08:00:00") -> Any:
    return {"id": name, "agent_id": AGENT_ID, "summary": summary, "created_at": created}


#: The conversation so far, and how Letta lists its last messages, the newest first.
SAID = transcript("before", "Yes?", "hi")
LISTED = [say("Yes?", id="message-0"), heard("before")]


def begin(thread: ThreadChoice, *, config: Config | None = None) -> Turn:
    asked = TurnRequest(model="Milo", messages=(UserMessage(content="hi"),), thread=thread)
    if isinstance(thread, Throwaway):
        asked = evolve(asked, history=(UserMessage(content="before"),))
    else:
        asked = evolve(asked, transcript=SAID)
    return make_turn(asked, config or Config(), AGENT)


def opened(items: Sequence[Event | Command]) -> OpenStream:
    [command] = [item for item in items if isinstance(item, OpenStream)]
    return command


def texts(command: OpenStream) -> list[tuple[str, Any]]:
    return [
        (item.role, item.content) for item in command.request.messages if isinstance(item, letta.MessageCreate)
    ]


# --- A chat


def test_a_chat_that_is_known_at_letta() -> None:
    turn = begin(CHAT)
    assert drain(turn) == [FIND]
    longer = conversation("conv-3", f'letta-proxy chat: "b" and "c-1" {DIGEST}')
    others = [longer, conversation("conv-2", created="2027")]
    assert answer(turn, [*others, conversation("conv-1")]) == [FetchLast(conversation_id="conv-1", count=100)]
    command = opened(answer(turn, LISTED))
    assert command.target == "/v1/conversations/conv-1/messages"
    assert orjson.loads(command.body)["streaming"] is True
    assert texts(command) == [("user", "hi")]
    assert isinstance(stream(turn, *HELLO)[-1], TurnFinished)


def test_a_chat_that_is_new_begins_with_its_history() -> None:
    turn = begin(CHAT)
    drain(turn)
    assert answer(turn, []) == [FIND_EARLIER]
    assert answer(turn, []) == [CREATE]
    assert answer(turn, conversation("conv-1")) == [FIND]
    command = opened(answer(turn, [conversation("conv-1")]))
    assert texts(command) == [("user", "before"), ("assistant", "Yes?"), ("user", "hi")]


def test_two_processes_make_one_conversation() -> None:
    turn = begin(CHAT)
    drain(turn)
    answer(turn, [])
    answer(turn, [])
    answer(turn, conversation("conv-2", created="2026-11-22T08:00:02"))
    both = [conversation("conv-2", created="2026-11-22T08:00:02"), conversation("conv-1")]
    assert answer(turn, both) == [DeleteConversation(conversation_id="conv-2")]
    assert answer(turn, None) == [FetchLast(conversation_id="conv-1", count=100)]
    command = opened(answer(turn, LISTED))
    assert command.thread == ConversationThread(conversation_id="conv-1")
    assert texts(command) == [("user", "hi")]


def test_a_chat_that_an_earlier_version_began() -> None:
    turn = begin(CHAT)
    drain(turn)
    assert answer(turn, []) == [FIND_EARLIER]
    longer = conversation("conv-3", 'letta-proxy chat: "c-1" and more')
    earlier = conversation("conv-1", 'letta-proxy chat: "c-1"')
    assert answer(turn, [longer, earlier]) == [FetchLast(conversation_id="conv-1", count=100)]


@pytest.mark.parametrize("key", ["CORP\\alice", "100%", "a_b", 'with "quotes"', "ключ", "%"])
def test_a_chat_is_searched_without_what_a_search_reads_in_its_own_way(key: str) -> None:
    turn = begin(Chat(key=key))
    [found] = drain(turn)
    assert isinstance(found, FindConversations)
    assert found.summary.isalnum()
    summary = chat_summary(key)
    assert summary.startswith('letta-proxy chat: "')
    assert chat_key(summary) == key
    assert chat_key(f'letta-proxy chat: "{key}"') == key
    assert answer(turn, [conversation("conv-1", summary)]) == [FetchLast(conversation_id="conv-1", count=100)]


def test_an_earlier_key_with_a_backslash_is_searched_so_that_letta_finds_it() -> None:
    turn = begin(Chat(key="CORP\\alice"))
    drain(turn)
    [found] = answer(turn, [])
    assert isinstance(found, FindConversations)
    assert found.summary == 'letta-proxy chat: "CORP_alice"'
    others = [conversation("conv-2", 'letta-proxy chat: "CORP-alice"')]
    mine = conversation("conv-1", 'letta-proxy chat: "CORP\\alice"')
    assert answer(turn, [*others, mine]) == [FetchLast(conversation_id="conv-1", count=100)]


def test_a_chat_is_searched_to_the_last_page_and_no_further() -> None:
    turn = begin(Chat(key="%"))
    drain(turn)
    asked = answer(turn, [])
    for page in range(1, MAX_PAGE_COUNT):
        others = [conversation(f"conv-{page}-{each}", "letta-proxy chat: x") for each in range(PAGE_COUNT)]
        asked = answer(turn, others)
        assert asked == [
            FindConversations(agent_id=AGENT_ID, summary='letta-proxy chat: "%"', after=others[-1]["id"])
        ]
    others[-1] = conversation("conv-end", 'letta-proxy chat: "%"')
    assert answer(turn, others) == [FetchLast(conversation_id="conv-end", count=100)]


def test_a_page_of_a_search_that_comes_again_is_the_last() -> None:
    turn = begin(CHAT)
    drain(turn)
    page = [conversation(f"conv-{each}", "another's") for each in range(PAGE_COUNT)]
    assert len(answer(turn, page)) == 1
    assert answer(turn, page) == [FIND_EARLIER]


@pytest.mark.parametrize("last", [[], [{"message_type": "system_message"}]], ids=["nothing", "Letta's own"])
def test_a_chat_whose_first_turn_left_no_trace_begins_with_its_history(last: list[Any]) -> None:
    turn = begin(CHAT)
    drain(turn)
    answer(turn, [conversation("conv-1")])
    assert texts(opened(answer(turn, last))) == [("user", "before"), ("assistant", "Yes?"), ("user", "hi")]


def test_a_conversation_that_was_deleted_is_made_again() -> None:
    gone = ConversationThread(conversation_id="conv-1")
    turn = make_turn(begin(CHAT).request, agent=AGENT, thread=gone)
    assert drain(turn) == [FetchLast(conversation_id="conv-1", count=100)]
    assert answer(turn, {"detail": "not found"}, 404) == [ThreadGone(thread=gone), FIND]
    answer(turn, [])
    answer(turn, [])
    answer(turn, conversation("conv-2"))
    command = opened(answer(turn, [conversation("conv-2")]))
    assert texts(command) == [("user", "before"), ("assistant", "Yes?"), ("user", "hi")]
    [failure] = answer(turn, {"detail": "not found"}, 404)
    assert isinstance(failure, TurnFailed)
    assert failure.error.code == "conversation_not_found"


def test_a_conversation_that_is_gone_when_a_first_message_is_sent_is_made_again() -> None:
    gone = ConversationThread(conversation_id="conv-1")
    turn = make_turn(evolve(turn_request("hi"), thread=CHAT), agent=AGENT, thread=gone)
    assert opened(drain(turn)).thread == gone
    assert answer(turn, {"detail": "not found"}, 404) == [ThreadGone(thread=gone), FIND]


def test_results_are_looked_up_in_the_conversation() -> None:
    turn_request = TurnRequest(
        model="Milo",
        results=(ToolResult(call_id="call-1", content="18 C"),),
        client_tools=(WEATHER,),
        thread=CHAT,
    )
    turn = make_turn(turn_request, agent=AGENT, thread=ConversationThread(conversation_id="conv-1"))
    assert drain(turn) == [FetchLast(conversation_id="conv-1")]
    command = opened(answer(turn, [want("call-1", "get_weather", "{}") | {"run_id": RUN_ID}]))
    assert command.request.messages == (
        letta.ApprovalCreate(approvals=tuple(map(to_answer, turn_request.results))),
    )


@pytest.mark.parametrize("last", [[], [say("Hello")]], ids=["nothing", "text"])
def test_results_that_the_conversation_does_not_wait_for(last: list[Any]) -> None:
    turn_request = TurnRequest(
        model="Milo", results=(ToolResult(call_id="call-1", content="18 C"),), thread=CHAT
    )
    turn = make_turn(turn_request, agent=AGENT, thread=ConversationThread(conversation_id="conv-1"))
    drain(turn)
    [failure] = answer(turn, last)
    assert isinstance(failure, TurnFailed)
    assert failure.error.status_hint == 400


def test_letta_does_not_tell_of_conversations() -> None:
    turn = begin(CHAT)
    drain(turn)
    [failure] = answer(turn, {"detail": "no"}, 500)
    assert isinstance(failure, TurnFailed)
    assert failure.error.status_hint == 502


# --- A conversation that is given


def test_a_given_conversation_is_the_agents() -> None:
    turn = begin(GIVEN)
    assert drain(turn) == [FetchConversation(conversation_id="conv-7")]
    assert answer(turn, conversation("conv-7")) == [FetchLast(conversation_id="conv-7", count=100)]
    assert texts(opened(answer(turn, LISTED))) == [("user", "hi")]


def test_whether_another_agent_has_a_given_conversation_is_not_told() -> None:
    failures = []
    for told in (
        (conversation("conv-7") | {"agent_id": "agent-2"}, 200),
        ({"detail": "not found"}, 404),
        ({"detail": "no id"}, 422),
    ):
        turn = begin(GIVEN)
        drain(turn)
        [failure] = answer(turn, *told)
        assert isinstance(failure, TurnFailed)
        failures.append((failure.error.status_hint, error_body(failure.error, field_name), failure.kept))
    assert failures[0] == failures[1] == failures[2]
    status, body, _ = failures[0]
    assert (status, body["error"]["code"]) == (404, "conversation_not_found")
    assert body["error"]["param"] == "x-letta-conversation-id"
    assert "no conversation of this id" in body["error"]["message"]


# --- One that is thrown away


def test_a_task_leaves_nothing_behind() -> None:
    turn = begin(TASK)
    assert drain(turn) == [CreateConversation(agent_id=AGENT_ID, summary=task_summary(TASK))]
    assert texts(opened(answer(turn, conversation("conv-9")))) == [("user", "before"), ("user", "hi")]
    items = stream(turn, *HELLO)
    assert isinstance(items[-2], TurnFinished)
    assert items[-1] == DeleteConversation(conversation_id="conv-9")
    assert answer(turn, None) == []
    assert turn.phase.name == "DONE"


def test_a_task_whose_client_leaves_leaves_nothing_behind() -> None:
    turn = begin(TASK)
    drain(turn)
    answer(turn, conversation("conv-9"))
    stream(turn, PING, say("Hel"), end=False)
    turn.client_disconnected()
    assert drain(turn) == [CancelRun(agent_id=AGENT_ID, run_id=RUN_ID)]
    assert answer(turn, {}) == [DeleteConversation(conversation_id="conv-9")]
    turn.client_disconnected()
    turn.receive_failure(Failure.SILENT, "no byte came")
    assert drain(turn) == []
    assert turn.phase.name == "DONE"


@pytest.mark.parametrize("end", [Turn.client_disconnected, lambda turn: turn.shut_down(shutting_down())])
def test_a_task_that_ends_while_its_conversation_is_made_deletes_it(end: Callable[[Turn], None]) -> None:
    turn = begin(TASK)
    drain(turn)
    end(turn)
    assert turn.next_event() is Signal.NEED_DATA
    assert answer(turn, conversation("conv-9"))[-1] == DeleteConversation(conversation_id="conv-9")
    assert answer(turn, None) == []
    assert turn.next_event() is Signal.FINISHED


@pytest.mark.parametrize(
    "end",
    [
        lambda turn: turn.receive_failure(Failure.BROKEN, "it broke"),
        lambda turn: turn.time_out(RemoteProtocolError("It took too long.")),
    ],
)
def test_a_conversation_that_may_have_been_made_is_looked_for(end: Callable[[Turn], None]) -> None:
    turn = begin(TASK, config=Config(connect_retry_timeout=0.0))
    drain(turn)
    end(turn)
    failure, look = drain(turn)
    assert isinstance(failure, TurnFailed)
    assert look == FindConversations(agent_id=AGENT_ID, summary=task_summary(TASK))
    other = conversation("conv-8", task_summary(TASK) + "0")
    assert answer(turn, [conversation("conv-9", task_summary(TASK)), other]) == [
        DeleteConversation(conversation_id="conv-9")
    ]
    assert answer(turn, None) == []
    assert turn.phase.name == "FAILED"


def test_of_two_conversations_that_were_made_none_is_left() -> None:
    turn = begin(TASK)
    drain(turn)
    turn.receive_failure(Failure.BROKEN, "it broke")
    drain(turn)
    turn.end_pause()
    assert drain(turn) == [CreateConversation(agent_id=AGENT_ID, summary=task_summary(TASK))]
    answer(turn, conversation("conv-9", task_summary(TASK)))
    assert stream(turn, *HELLO)[-1] == DeleteConversation(conversation_id="conv-9")
    [look] = answer(turn, None)
    assert isinstance(look, FindConversations)
    assert answer(turn, [conversation("conv-8", task_summary(TASK))]) == [
        DeleteConversation(conversation_id="conv-8")
    ]


def test_a_conversation_that_letta_refused_to_make_is_not_looked_for() -> None:
    turn = begin(TASK)
    drain(turn)
    assert [type(item) for item in answer(turn, {"detail": "no"}, 422)] == [TurnFailed]
    assert turn.phase.name == "FAILED"


def test_a_task_that_fails_leaves_nothing_behind() -> None:
    turn = begin(TASK)
    drain(turn)
    answer(turn, conversation("conv-9"))
    failure, delete = answer(turn, {"detail": "no"}, 500)
    assert isinstance(failure, TurnFailed)
    assert delete == DeleteConversation(conversation_id="conv-9")
    turn.receive_failure(Failure.NOT_SENT, "refused")
    drain(turn)
    assert turn.pause == 0.25
    turn.end_pause()
    assert drain(turn) == [delete]
    answer(turn, None)
    assert turn.phase.name == "FAILED"


# --- Instructions


def instructed(policy: InstructionPolicy) -> Turn:
    return make_turn(
        evolve(turn_request("hi"), instructions=instructions("Be kind.", policy=policy)), agent=AGENT
    )


def ruled(house: Proxy, words: str, *rules: str) -> Client:
    """A message to the agent's own thread, with instructions."""
    system = [{"role": "system", "content": rule} for rule in rules]
    return Client(chat(stream=True, messages=[*system, {"role": "user", "content": words}]), house)


def test_instructions_are_given_once() -> None:
    house = Proxy()
    house.remember("Milo", AGENT, now=100.0)
    lost = ruled(house, "zero", "Be kind.")
    lost.stream(PING, stop("error"), error(), DONE)
    first = ruled(house, "one", "Be kind.")
    assert texts(opened(first.commands)) == [("system", "Be kind."), ("user", "one")], "nothing was kept of it"
    first.stream(*HELLO)
    second = ruled(house, "two", "Be kind.")
    assert texts(opened(second.commands)) == [("user", "two")]
    second.stream(*HELLO)
    third = ruled(house, "three", "Be kind.", "It is noon.")
    assert texts(opened(third.commands)) == [("system", "It is noon."), ("user", "three")]


def test_instructions_that_were_left_out_are_given_again() -> None:
    house = Proxy()
    house.remember("Milo", AGENT, now=100.0)
    for rule in ("Be kind.", "Be brief.", "Be kind."):
        client = ruled(house, rule, rule)
        assert texts(opened(client.commands)) == [("system", rule), ("user", rule)]
        client.stream(*HELLO)


def test_instructions_are_given_always() -> None:
    house = Proxy(Config(instructions=InstructionPolicy.ALWAYS))
    house.remember("Milo", AGENT, now=100.0)
    for words in ("one", "two"):
        client = ruled(house, words, "Be kind.")
        assert texts(opened(client.commands)) == [("system", "Be kind."), ("user", words)]
        client.stream(*HELLO)


def test_instructions_take_the_place_of_the_agents_own() -> None:
    command = opened(drain(instructed(InstructionPolicy.OVERRIDE)))
    assert (texts(command), command.request.override_system) == ([("user", "hi")], "Be kind.")
    assert orjson.loads(command.body)["override_system"] == "Be kind."


def test_instructions_are_ignored() -> None:
    command = opened(drain(instructed(InstructionPolicy.IGNORE)))
    assert (texts(command), command.request.override_system) == ([("user", "hi")], None)
    assert b"override_system" not in command.body


# --- What a request is of


def built(headers: dict[str, str] | None = None, config: Config | None = None, **body: Any) -> TurnRequest:
    raw = {"model": "Milo", "messages": [{"role": "user", "content": "hi"}], **body}
    given = RequestContext(config=config or Config(), headers=headers or {}, token="t-1")
    return build_turn_request(decode_request(orjson.dumps(raw), given.config), given).turn_request


@pytest.mark.parametrize(
    ("headers", "thread"),
    [
        ({}, None),
        ({"x-letta-conversation-id": "conv-7", "x-letta-chat-key": "c-1"}, GIVEN),
        ({"x-letta-chat-key": "c-1", "x-openwebui-chat-id": "c-2"}, CHAT),
        ({"x-openwebui-chat-id": "c-1"}, CHAT),
        ({"x-session-id": "c-1"}, CHAT),
        ({"session-id": " c-1 "}, CHAT),
        ({"agent-session-id": "c-1"}, CHAT),
        ({"x-letta-chat-key": "", "session-id": "c-1"}, CHAT),
        ({"x-letta-chat-key": "{{CHAT_ID}}"}, None),
        ({"x-litellm-session-id": "c-1"}, CHAT),
        # A gateway's session may be of several chats of the program behind it.
        ({"x-litellm-session-id": "c-2", "session-id": "c-1"}, CHAT),
        ({"x-letta-conversation-id": "default"}, None),
        ({"x-letta-conversation-id": "default", "x-letta-chat-key": "c-1"}, None),
    ],
)
def test_a_header_names_the_thread(headers: dict[str, str], thread: ThreadChoice) -> None:
    assert built(headers).thread == thread


def test_metadata_names_the_thread_where_no_header_does() -> None:
    named = {"letta_chat_key": "c-1"}
    assert built(metadata=named).thread == CHAT
    assert built({"session-id": "c-2"}, metadata=named).thread == Chat(key="c-2")


def test_the_agent_s_id_names_its_own_thread() -> None:
    turn = begin(NamedConversation(conversation_id=AGENT_ID))
    assert not any(isinstance(item, FetchConversation) for item in drain(turn))
    assert turn.upstream.thread == AgentThread(agent_id=AGENT_ID)
    other = NamedConversation(conversation_id=AGENT_ID.replace("a", "b"))
    assert drain(begin(other)) == [FetchConversation(conversation_id=other.conversation_id)]


FIELDS = Config(chat_key_fields=("metadata.room", "user", "prompt_cache_key", "session_id"))
CHOSEN: dict[str, tuple[dict[str, Any], str | None]] = {
    "the first that is there": ({"user": "c-2", "metadata": {"room": "c-1"}}, "c-1"),
    "a field": ({"user": "c-1"}, "c-1"),
    "another one": ({"prompt_cache_key": "c-1", "session_id": "c-2"}, "c-1"),
    "one that OpenAI does not have": ({"session_id": "c-1"}, "c-1"),
    "a number": ({"metadata": {"room": 7}}, "7"),
    "blanks around it": ({"user": " c-1 "}, "c-1"),
    "nothing in the first": ({"metadata": {"room": " "}, "user": "c-1"}, "c-1"),
    "null in the first": ({"metadata": {"room": None}, "user": "c-1"}, "c-1"),
    "a template in the first": ({"metadata": {"room": "{{ROOM}}"}, "user": "c-1"}, "c-1"),
    "no metadata at all": ({"metadata": "room", "user": "c-1"}, "c-1"),
    "nothing": ({"metadata": {"user": "c-1"}}, None),
}


@pytest.mark.parametrize(("body", "key"), CHOSEN.values(), ids=CHOSEN)
def test_a_field_that_was_chosen_names_the_chat(body: dict[str, Any], key: str | None) -> None:
    assert built(None, FIELDS, **body).thread == (Chat(key=key) if key else None)
    assert built(None, None, **body).thread is None


def test_what_names_a_chat_on_purpose_comes_before_what_was_chosen() -> None:
    body = {"user": "c-2", "metadata": {"letta_chat_key": "c-1"}}
    assert built({}, FIELDS, **body).thread == CHAT
    assert built({"x-session-id": "c-3"}, FIELDS, **body).thread == Chat(key="c-3")
    assert built({"x-letta-conversation-id": "default"}, FIELDS, **body).thread is None


@pytest.mark.parametrize(
    ("body", "path", "what"),
    [
        ({"user": True}, "user", "expected a string or a number, got true or false"),
        ({"metadata": {"room": ["c-1"]}}, "metadata.room", "expected a string or a number, got an array"),
        ({"session_id": {}}, "session_id", "expected a string or a number, got an object"),
        ({"prompt_cache_key": "x" * 513}, "prompt_cache_key", "up to 512 printable"),
        ({"user": "a\u2028b"}, "user", "not printable"),
    ],
)
def test_a_chosen_field_that_can_be_no_key_is_named(body: dict[str, Any], path: str, what: str) -> None:
    with pytest.raises(RequestError, match=f"^`{path}`: .*{what}") as refusal:
        built({}, FIELDS, **body)
    assert refusal.value.param == path
    # What has no effect is not judged.
    assert built({"x-session-id": "c-1"}, FIELDS, **body).thread == CHAT
    assert built({}, None, **body).thread is None


def test_a_field_that_was_chosen_is_not_named_as_ignored() -> None:
    body = orjson.dumps({"model": "x", "messages": [{"role": "user", "content": "hi"}], "session_id": "c-1"})
    assert decode_request(body, FIELDS).ignored == ()
    assert decode_request(body, Config(speaker_fields=("session_id",))).ignored == ()
    assert decode_request(body, Config(chat_key_fields=("user",))).ignored == ("session_id",)


@pytest.mark.parametrize("key", ["a\x01b", "x" * 513, "\u2028"], ids=["control", "long", "line"])
def test_a_key_must_be_readable(key: str) -> None:
    with pytest.raises(RequestError, match="up to 512 printable") as refusal:
        built({"x-letta-chat-key": f"a{key}a"})
    assert refusal.value.param == "x-letta-chat-key"


TITLE = [{"role": "user", "content": "### Task:\nGenerate a title"}]
TASKS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "Open WebUI's header": ({"x-openwebui-task": "title_generation"}, {}),
    "Open WebUI's words": ({}, {"messages": TITLE}),
    "opencode": ({}, {"messages": [{"role": "system", "content": "You are a title generator."}, *TITLE]}),
}


@pytest.mark.parametrize(("headers", "body"), TASKS.values(), ids=TASKS)
def test_a_task_does_not_take_the_chats_key(headers: dict[str, str], body: dict[str, Any]) -> None:
    named = {**headers, "x-openwebui-chat-id": "c-1"}
    assert built(named, **body).thread == TASK
    assert built(named, Config(tasks=TaskPolicy.PASS), **body).thread == CHAT
    with pytest.raises(RequestError) as refusal:
        built(named, Config(tasks=TaskPolicy.REFUSE), **body)
    assert refusal.value.code == "task_refused"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"x-openwebui-task": ""}, {}),
        ({"x-openwebui-task": "{{TASK}}"}, {}),
        ({}, {"messages": TITLE, "stream": True}),
        ({}, {"messages": [*TITLE, {"role": "assistant", "content": "x"}, *TITLE]}),
        ({}, {"messages": TITLE, "tools": [{"type": "function", "function": {"name": "x"}}]}),
    ],
)
def test_what_is_no_task(headers: dict[str, str], body: dict[str, Any]) -> None:
    assert built(headers, **body).thread is None


def test_further_tasks_are_known_by_their_beginning() -> None:
    request = decode_request(
        orjson.dumps({"model": "x", "messages": [{"role": "user", "content": "TITLE: hi"}]})
    )
    assert not is_task(request, {})
    assert is_task(request, {}, ["TAGS:", "TITLE:"])


@pytest.mark.parametrize(
    ("choice", "kind"), [(CHAT, "chat"), (GIVEN, "conversation"), (TASK, "task"), (None, "agent")]
)
def test_a_thread_in_a_word(choice: ThreadChoice, kind: str) -> None:
    assert thread_kind(choice) == kind


# --- What a process remembers


def test_a_process_remembers_a_chats_conversation_and_its_instructions() -> None:
    house = Proxy()
    house.remember("Milo", AGENT, now=100.0)
    system = {"role": "system", "content": "Be kind."}

    def ask(words: str) -> HttpRequest:
        return chat(
            stream=True,
            headers={"x-letta-chat-key": "c-1"},
            messages=[system, {"role": "user", "content": words}],
        )

    first = Client(ask("one"), house)
    first.answer([]).answer([]).answer(conversation("conv-1")).answer([conversation("conv-1")]).stream(*HELLO)
    assert first.cycle.summary.thread == "chat"
    second = Client(ask("two"), house)
    [command] = second.commands
    assert isinstance(command, OpenStream)
    assert (command.thread, texts(command)) == (ConversationThread(conversation_id="conv-1"), [("user", "two")])
    assert second.answer({"detail": "gone"}, 404).commands[1:] == [FIND]
    second.answer([]).answer([]).answer(conversation("conv-2")).answer([conversation("conv-2")])
    last = second.commands[-1]
    assert isinstance(last, OpenStream)
    assert texts(last) == [("system", "Be kind."), ("user", "two")]


def test_two_chats_of_an_agent_do_not_wait_for_each_other() -> None:
    house = Proxy()
    house.remember("Milo", AGENT, now=100.0)
    one, two = (Client(chat(headers={"x-letta-chat-key": key}), house) for key in ("c-1", "c-2"))
    assert [type(client.commands[0]) for client in (one, two)] == [FindConversations] * 2
    again = Client(chat(content="more", headers={"x-letta-chat-key": "c-1"}), house)
    assert again.waits


@pytest.mark.parametrize("names_first", [False, True])
def test_a_chat_waits_for_whoever_names_its_conversation(names_first: bool) -> None:
    house = Proxy()
    house.remember("Milo", AGENT, now=100.0)
    house.remember_thread(AGENT_ID, CHAT, ConversationThread(conversation_id="conv-1"))
    by_key = chat(headers={"x-letta-chat-key": CHAT.key})
    by_id = chat(content="more", headers={"x-letta-conversation-id": "conv-1"})
    requests = (by_id, by_key) if names_first else (by_key, by_id)
    first, second = (Client(request, house) for request in requests)
    assert not first.waits
    assert second.waits
    elsewhere = Client(chat(content="else", headers={"x-letta-conversation-id": "conv-2"}), house)
    assert not elsewhere.waits


def test_memory_is_limited() -> None:
    memory = ThreadMemory(2)
    for number in range(3):
        thread = ConversationThread(conversation_id=f"conv-{number}")
        memory.remember(AGENT_ID, Chat(key=str(number)), thread)
        memory.note_sent(thread, JsonReply(schema=Schema({"type": "object"})))
    assert [memory.recall(AGENT, Chat(key=str(number))) is not None for number in range(3)] == [
        False,
        True,
        True,
    ]
    memory.forget(ConversationThread(conversation_id="conv-2"))
    assert memory.recall(AGENT, Chat(key="2")) is None
    memory.remember(AGENT_ID, GIVEN, ConversationThread(conversation_id="conv-7"))
    assert memory.recall(AGENT, GIVEN) is None


def test_a_tasks_answer_does_not_wait_for_the_cleaning() -> None:
    house = Proxy()
    house.remember("Milo", AGENT, now=100.0)
    client = Client(chat(headers={"x-openwebui-task": "tags"}), house)
    client.answer(conversation("conv-9")).stream(*HELLO)
    assert client.json()["choices"][0]["message"]["content"] == "Hello"
    assert not client.ended
    assert client.answer(None).ended


def test_history_of_a_chat_is_told_once_and_not_as_the_agents_own() -> None:
    """What is kept of a first run in a new conversation holds an assistant's words that it did not say now."""
    turn = begin(CHAT)
    drain(turn)
    answer(turn, [conversation("conv-1")])
    answer(turn, [])
    stream(turn, PING, end=False)
    turn.receive_failure(Failure.BROKEN, "reset")
    drain(turn)
    answer(turn, {"id": RUN_ID, "status": "completed", "stop_reason": "end_turn"})
    kept = [
        {"message_type": "user_message", "content": "before"},
        say("old", id="m-0"),
        {"message_type": "user_message", "content": "hi"},
        say("new", id="m-1"),
    ]
    answer(turn, kept)
    items = answer(turn, USAGE)
    assert [item.text for item in items if isinstance(item, TextDelta)] == ["new"]


def test_an_agent_is_found_before_its_conversation() -> None:
    turn = make_turn(begin(CHAT).request)
    drain(turn)
    assert answer(turn, [agent_json()])[-1] == FIND


# --- What a server asks for itself


def test_what_a_dead_process_left_is_swept() -> None:
    house = Proxy(Config(turn_timeout=3600.0))
    client = Client(house.sweep(token="abcdef12", created=1_795_340_000, now=0.0))
    assert [type(command) for command in client.commands] == [FindRuns]
    client.answer([])
    assert [type(command) for command in client.commands[1:]] == [FindToolboxes]
    client.answer([])
    assert [type(command) for command in client.commands[2:]] == [SearchTools]
    client.answer([])
    assert client.commands[3:] == [FindConversations(summary="letta-proxy task: ")]
    client.answer(
        [
            conversation("conv-1", "letta-proxy task: t-1", "2026-11-22T08:00:00Z"),
            conversation("conv-2", "letta-proxy task: t-2", "2026-11-22T09:00:00Z"),
            conversation("conv-3", "about a letta-proxy task: of mine", "2026-11-22T08:00:00Z"),
            conversation("conv-4", "letta-proxy task: t-4", "soon"),
            # Another server lets turns take longer, or less long.
            conversation("conv-5", "letta-proxy task: t-5 until 1795340001", "2026-11-22T08:00:00Z"),
            conversation("conv-6", "letta-proxy task: t-6 until 1795339999", "2026-11-22T09:00:00Z"),
            # Results are awaited, and may come still; or they have not come.
            conversation("conv-7", "letta-proxy task: t-7 until 1795340001 calls 9f86", "2026-11-22T08:00:00Z"),
            conversation("conv-8", "letta-proxy task: t-8 until 1795339999 calls 9f86", "2026-11-22T08:00:00Z"),
        ]
    )
    assert client.commands[4:] == [DeleteConversation(conversation_id="conv-1")]
    client.answer(None)
    assert client.commands[5:] == [DeleteConversation(conversation_id="conv-6")]
    client.answer(None)
    assert client.commands[-1] == DeleteConversation(conversation_id="conv-8")
    client.answer(None)
    assert client.json() == {"status": "swept", "runs": "0", "tools": "0", "conversations": "3"}


def test_a_tasks_conversation_says_how_long_its_turn_may_take() -> None:
    house = Proxy(Config(turn_timeout=90.5))
    house.remember("Milo", AGENT, now=100.0)
    client = Client(chat(content="### Task:\nGive a title."), house)
    made = client.commands[-1]
    assert isinstance(made, CreateConversation)
    assert made.summary == f"letta-proxy task: abcdef12 until {1_795_332_551 + 91}"


def test_more_chats_than_fit_on_a_page_are_listed() -> None:
    made = [conversation(f"conv-{number}", f'letta-proxy chat: "k{number}"') for number in range(150)]
    client = Client(Proxy().list_threads("Milo", token="abcdef12", now=0.0)).answer([agent_json()])
    client.answer(made[:100])
    assert client.commands[-1].target.endswith("&limit=100&after=conv-99")
    client.answer(made[100:])
    assert [each["key"] for each in client.json()["chats"]] == [f"k{number}" for number in range(150)]


def test_a_page_that_comes_again_is_the_last() -> None:
    made = [conversation(f"conv-{number}", f'letta-proxy chat: "k{number}"') for number in range(100)]
    client = Client(Proxy().list_threads("Milo", token="abcdef12", now=0.0)).answer([agent_json()])
    client.answer(made).answer(made)
    assert len(client.commands) == 3
    assert client.json()["agent_id"] == AGENT_ID


def test_an_agents_chats_are_listed() -> None:
    client = Client(Proxy().list_threads("Milo", token="abcdef12", now=0.0))
    client.answer([agent_json()]).answer([conversation("conv-1"), conversation("conv-2", "my own")])
    assert client.json() == {
        "agent_id": AGENT_ID,
        "chats": [{"key": "c-1", "conversation_id": "conv-1", "created_at": "2026-11-22T08:00:00"}],
    }


def test_what_a_turn_has_left_waiting_is_remembered_until_the_next_has_ended() -> None:
    memory, thread = ThreadMemory(2), AgentThread(agent_id=AGENT_ID)
    for forces_call in (True, False):
        turn = make_turn(evolve(turn_request("hi", tools=[WEATHER]), forces_call=forces_call), agent=AGENT)
        drain(turn)
        stream(turn, PING, want("call-1", "get_weather", "{}"), stop("requires_approval"), USAGE, DONE)
        memory.learn(turn, None, 100.0)
        assert memory.recall_waiting(thread) == Waiting(is_forced=forces_call, call_ids=frozenset({"call-1"}))
    turn = make_turn(turn_request("never mind"), agent=AGENT)
    drain(turn)
    stream(turn, PING, say("Hello"), stop(), USAGE, DONE)
    memory.learn(turn, None, 100.0)
    assert memory.recall_waiting(thread) is None
    for number in range(3):
        memory.leave_waiting(AgentThread(agent_id=str(number)), Waiting(is_forced=False), 100.0)
    assert memory.recall_waiting(AgentThread(agent_id="0")) is None
