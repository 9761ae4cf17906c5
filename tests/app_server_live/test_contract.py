"""What the App Server does that its documentation does not say, and that the proxy relies on.

Each test is about one such habit, without the proxy. A release of Letta Code that changes it fails that test.
"""

import uuid
from collections.abc import Iterator

import pytest

from app_server_live.rig import AppServerRig
from app_server_live.server import Agent, AppServer, Json, Socket, Talk

SHORT = 2.0  # seconds in which an answer would have come


@pytest.fixture
def socket(server: AppServer) -> Iterator[Socket]:
    with server.socket() as socket:
        yield socket


@pytest.fixture
def talk(server: AppServer, socket: Socket, agent: Agent) -> Talk:
    return server.talk(socket, agent, "get_weather", "get_time")


def deltas(talk: Talk, kind: str) -> list[Json]:
    """What the conversation's frames have said so far."""
    is_delta = talk.is_kind("stream_delta")
    found = [frame["delta"] for frame in talk.socket.frames if is_delta(frame)]
    return [delta for delta in found if delta["message_type"] == kind]


CALLS = ("get_weather", "get_time")
TWO_CALLS = "call get_weather {}\ncall get_time {}"


def test_a_frame_that_is_not_known_gets_no_answer(socket: Socket) -> None:
    """So each question needs a deadline."""
    asked = [socket.send("no_such_command"), socket.send("runtime_start", mode="no such mode")]
    last = socket.ask("app_server_info")
    assert last["success"]
    with pytest.raises(TimeoutError):
        socket.wait_for(lambda frame: frame.get("request_id") in asked, since=0, timeout=SHORT)


def test_a_tool_without_description_or_parameters_gets_no_answer(talk: Talk) -> None:
    """So the proxy fills them in."""
    tools = [{"name": "bare", "auto_background": False}]
    asked = talk.socket.send("runtime_start", **talk.runtime, external_tools=[{"tools": tools}])
    with pytest.raises(TimeoutError):
        talk.socket.wait_for(lambda frame: frame.get("request_id") == asked, timeout=SHORT)


def test_the_senders_id_is_listed(server: AppServer, talk: Talk) -> None:
    """By it a repeat finds its message."""
    ident = f"test-{uuid.uuid4().hex}"
    talk.turn("say Hello!", message_id=ident)
    [heard] = [each for each in server.messages(talk.id) if each["message_type"] == "user_message"]
    assert heard["otid"] == ident


def test_an_id_that_was_sent_already_does_nothing(server: AppServer, talk: Talk) -> None:
    """It is accepted, and no turn begins."""
    ident = f"test-{uuid.uuid4().hex}"
    talk.turn("say Hello!", message_id=ident)
    since = len(talk.socket.frames)
    assert talk.say("say Hello!", message_id=ident)["accepted"]
    with pytest.raises(TimeoutError):
        talk.socket.wait_for(talk.is_kind("turn_finished"), since=since, timeout=SHORT)
    assert server.user_texts(talk.id) == ["say Hello!"]


def test_an_empty_input_goes_on_after_a_failure(server: AppServer, talk: Talk) -> None:
    """The message is not said twice."""
    said = f"fail 400 x1\nsay Better. {talk.id}"
    assert talk.turn(said)["stop_reason"] == "error"
    assert server.history(talk.id) == [("user", said)]
    assert talk.turn()["stop_reason"] == "end_turn"
    assert server.history(talk.id) == [("user", said), ("assistant", f"Better. {talk.id}")]


def test_an_empty_input_replaces_a_complete_reply(server: AppServer, talk: Talk) -> None:
    """So it is a true regeneration."""
    said = f"say Hello! {talk.id}"
    talk.turn(said)
    assert talk.turn()["stop_reason"] == "end_turn"
    assert server.history(talk.id) == [("user", said), ("assistant", f"Hello! {talk.id}")]
    assert server.asked_count(said) == 2


def test_a_denials_reason_is_the_result_word_for_word(server: AppServer, talk: Talk) -> None:
    """And calls are asked about one at a time, in the model's order."""
    since = len(talk.socket.frames)
    talk.say(TWO_CALLS, allowed=CALLS)
    for name, text in zip(CALLS, ("18 C", "12:00"), strict=True):
        question = talk.question(since)
        assert question["request"]["tool_name"] == name
        since = len(talk.socket.frames)
        assert talk.decide(question, behavior="deny", message=text)["accepted"]
    assert talk.follow(since)["stop_reason"] == "end_turn"
    history = server.history(talk.id)
    assert [text for kind, text in history if kind == "result"] == ["18 C", "12:00"]
    assert history[-1] == ("assistant", "results: 18 C | 12:00")


def test_a_call_that_is_allowed_is_carried_out_by_the_socket(server: AppServer, talk: Talk) -> None:
    since = len(talk.socket.frames)
    talk.say("call get_weather {}", allowed=CALLS)
    talk.decide(talk.question(since), behavior="allow")
    request = talk.socket.wait_for(lambda frame: frame["type"] == "external_tool_call_request", since=since)
    result = {"content": [{"type": "text", "text": "18 C"}], "is_error": False}
    talk.socket.send("external_tool_call_response", result=result, request_id=request["request_id"])
    assert talk.follow(since)["stop_reason"] == "end_turn"
    assert server.history(talk.id)[-1] == ("assistant", "results: 18 C")


def test_the_ids_of_all_calls_come_before_the_first_question(talk: Talk) -> None:
    since = len(talk.socket.frames)
    talk.say(TWO_CALLS, allowed=CALLS)
    question = talk.question(since)
    [told] = deltas(talk, "approval_classification_end")
    calls = [delta["tool_call"]["tool_call_id"] for delta in deltas(talk, "approval_request_message")]
    assert told["user_input_tool_call_ids"] == calls
    assert question["request"]["tool_call_id"] == calls[0]


def test_another_socket_is_asked_again_and_may_answer(server: AppServer, talk: Talk, agent: Agent) -> None:
    """By `sync` alone, whether or not it was open before."""
    with server.socket() as other:
        other.ask("app_server_info")
        talk.say("call get_weather {}", allowed=CALLS)
        question = talk.question()
        elsewhere = Talk(socket=other, agent=agent, id=talk.id)
        with pytest.raises(TimeoutError):
            other.wait_for(lambda frame: frame["type"] == "control_request", since=0, timeout=SHORT)
        since = len(other.frames)
        other.ask("sync", runtime=talk.runtime, recover_approvals=False)
        again = elsewhere.question(since)
        assert again["request_id"] == question["request_id"]
        assert elsewhere.decide(again, behavior="deny", message="18 C")["accepted"]
        assert elsewhere.follow(since)["stop_reason"] == "end_turn"
    assert server.history(talk.id)[-1] == ("assistant", "results: 18 C")


def test_a_new_socket_is_asked_unasked(server: AppServer, talk: Talk, agent: Agent) -> None:
    """About every conversation's calls, so one's own must be told from others'."""
    talk.say("call get_weather {}", allowed=CALLS)
    question = talk.question()
    with server.socket() as other:
        again = Talk(socket=other, agent=agent, id=talk.id).question()
    assert again["request_id"] == question["request_id"]


def test_a_call_stays_while_another_socket_follows(server: AppServer, agent: Agent) -> None:
    """The first one's end does not end the turn."""
    with server.socket() as guard:
        with server.socket() as first:
            talk = server.talk(first, agent, *CALLS)
            talk.say("call get_weather {}", allowed=CALLS)
            talk.question()
            guard.ask("sync", runtime=talk.runtime, recover_approvals=False)
        elsewhere = Talk(socket=guard, agent=agent, id=talk.id)
        assert elsewhere.decide(elsewhere.question(), behavior="deny", message="18 C")["accepted"]
        assert elsewhere.follow()["stop_reason"] == "end_turn"
    assert server.history(talk.id)[-1] == ("assistant", "results: 18 C")


def test_an_input_that_waits_is_listed_and_can_be_taken_back(server: AppServer, talk: Talk) -> None:
    since = len(talk.socket.frames)
    talk.say("slow 0.1\nwords 30")
    ident = f"test-{uuid.uuid4().hex}"
    assert talk.say("say Late.", message_id=ident)["disposition"] == "queued"
    is_queue = talk.is_kind("update_queue")
    shown = talk.socket.wait_for(lambda frame: is_queue(frame) and bool(frame["queue"]), since=since)
    [item] = shown["queue"]
    assert item["client_message_id"] == ident
    removed = talk.socket.ask("remove_queue_item", runtime=talk.runtime, item_id=item["id"])
    assert removed["success"]
    assert talk.follow(since)["stop_reason"] == "end_turn"
    assert server.user_texts(talk.id) == ["slow 0.1\nwords 30"]


def test_an_abort_ends_a_turn(server: AppServer, talk: Talk) -> None:
    """What was heard is stored, and a part of what was said may be."""
    since = len(talk.socket.frames)
    talk.say("slow 0.25\nwords 120")
    is_delta = talk.is_kind("stream_delta")
    talk.socket.wait_for(
        lambda f: is_delta(f) and f["delta"]["message_type"] == "assistant_message", since=since
    )
    assert talk.socket.ask("abort_message", runtime=talk.runtime)["aborted"]
    assert talk.follow(since)["stop_reason"] == "cancelled"
    assert server.user_texts(talk.id) == ["slow 0.25\nwords 120"]


def test_a_conversation_whose_last_socket_is_lost_in_mid_reply_is_dead_and_its_fork_is_not(
    server: AppServer, agent: Agent
) -> None:
    with server.socket() as first:
        talk = server.talk(first, agent)
        talk.say("slow 0.25\nwords 120")
        is_delta = talk.is_kind("stream_delta")
        first.wait_for(lambda f: is_delta(f) and f["delta"]["message_type"] == "assistant_message", since=0)
    with server.socket() as second:
        dead = Talk(socket=second, agent=agent, id=talk.id)
        dead.start()
        dead.say("say Hello?")
        end = second.wait_for(lambda f: dead.is_kind("turn_finished")(f) and "error" in f, since=0)
        assert "already has an active run" in end["error"]
        made = second.ask("conversation_fork", conversation_id=talk.id, body={})
        fork = Talk(socket=second, agent=agent, id=made["conversation"]["id"])
        fork.start()
        assert fork.turn("say Hello!")["stop_reason"] == "end_turn"
        texts = server.user_texts(fork.id)
        assert (texts[0], texts[-1]) == ("slow 0.25\nwords 120", "say Hello!")


def test_a_message_beside_denials_is_taken_in_by_the_same_turn(server: AppServer, talk: Talk) -> None:
    """Results first, then the message, and one reply."""
    since = len(talk.socket.frames)
    talk.say("call get_weather {}", allowed=CALLS)
    question = talk.question(since)
    assert talk.say("say Both.")["disposition"] == "queued"
    since = len(talk.socket.frames)
    talk.decide(question, behavior="deny", message="18 C")
    assert talk.follow(since)["stop_reason"] == "end_turn"
    assert server.history(talk.id)[1:] == [
        ("call", "get_weather"),
        ("result", "18 C"),
        ("user", "say Both."),
        ("assistant", "Both."),
    ]


def test_archiving_hides_nothing(server: AppServer, talk: Talk, agent: Agent) -> None:
    talk.socket.ask("conversation_update", conversation_id=talk.id, body={"archived": True})
    assert talk.id in server.conversations(agent, archived=True)
    assert talk.turn("say Hello!")["stop_reason"] == "end_turn"


def test_each_step_has_a_usage_and_the_turn_one_end(talk: Talk) -> None:
    """The prompt's tokens do not count the cached ones."""
    since = len(talk.socket.frames)
    talk.say("call Memory {}\nthen\nsay Done.", allowed=("Memory",))
    talk.follow(since)
    usages = deltas(talk, "usage_statistics")
    assert [(each["prompt_tokens"], each["cached_input_tokens"]) for each in usages] == [(90, 10), (90, 10)]
    assert len([frame for frame in talk.socket.frames if talk.is_kind("turn_finished")(frame)]) == 1


def test_the_server_runs_an_interrupted_turn_again_when_it_is_restarted(
    rig: AppServerRig, server: AppServer, agent: Agent
) -> None:
    """By itself, as soon as a socket starts the conversation."""
    with server.socket() as first:
        talk = server.talk(first, agent, *CALLS)
        talk.say("call get_weather {}", allowed=CALLS)
        call_id = talk.question()["request"]["tool_call_id"]
        rig.restart()
    with server.socket() as second:
        again = Talk(socket=second, agent=agent, id=talk.id)
        again.start(*CALLS)
        question = again.question()
        assert question["request"]["tool_call_id"] != call_id
        again.decide(question, behavior="deny", message="18 C")
        again.follow()
    assert server.history(talk.id)[-1] == ("assistant", "results: 18 C")
