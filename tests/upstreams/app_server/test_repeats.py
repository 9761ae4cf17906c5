"""What a conversation holds when a request comes again: its turn broke off, or another answer is wanted."""

import pytest

from sansio_letta import Config
from sansio_letta.upstreams.app_server.sockets import Channel

from .fake_server import Talk
from .wire import Json, Wire, result, user

TOOLS = ("get_weather", "get_time")


def bot(text: str) -> Json:
    return {"role": "assistant", "content": text}


def talk_in_use(wire: Wire) -> Talk:
    [talk] = [talk for talk in wire.server.talks.values() if not talk.archived]
    return talk


def held(wire: Wire, kind: str) -> list[str]:
    """What the conversation in use holds of this kind."""
    return [
        message.get("tool_return") or message["content"][-1]["text"]
        for message in talk_in_use(wire).messages
        if message["message_type"] == f"{kind}_message"
    ]


def inputs(wire: Wire) -> list[Json]:
    return [
        frame["payload"]
        for frame in wire.server.received
        if frame["type"] == "input" and frame["payload"]["kind"] == "create_message"
    ]


# --- A turn that failed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["failonce 401", "retryonce", "say one\nretryonce"])
def test_what_failed_goes_on_without_being_told_again(verb: str) -> None:
    wire = Wire()
    told = user(f"{verb}\nsay two")
    assert wire.ask(told).status == 424
    assert wire.ask(told).message["content"].endswith("two")
    assert inputs(wire)[-1]["messages"] == []
    assert held(wire, "user") == [told["content"]]
    # The reply that broke off is replaced.
    assert len(held(wire, "assistant")) == 1


def test_a_model_that_fails_each_time_leaves_one_message() -> None:
    wire = Wire()
    for _ in range(3):
        assert wire.ask(user("fail 400")).status == 400
    assert held(wire, "user") == ["fail 400"]


def test_the_conversation_is_idle_when_a_failure_is_told() -> None:
    """The server ends a turn some time after it was told to; an input until then would be queued."""
    wire = Wire()
    wire.ask(user("retry"))
    assert not talk_in_use(wire).is_running
    assert wire.ask(user("say next")).message["content"] == "next"


def test_a_turn_that_failed_behind_results_goes_on_from_them() -> None:
    wire = Wire()
    first = user("call get_weather {}\nthen\nfailonce 400\nsay Warm.")
    asked = wire.ask(first, tools=TOOLS)
    results = (first, asked.message, result(asked.calls[0], "18 C"))
    assert wire.ask(*results, tools=TOOLS).status == 400
    assert wire.ask(*results, tools=TOOLS).message["content"] == "results: 18 C"
    assert inputs(wire)[-1]["messages"] == []
    assert (held(wire, "user"), held(wire, "tool_return")) == ([first["content"]], ["18 C"])


def test_a_client_that_left_and_comes_back() -> None:
    """Its turn was cancelled: a copy goes on, in which the agent is not told of that."""
    wire = Wire()
    wire.server.pause = True
    wire.leave(wire.begin(user("say Hello!")))
    wire.server.pause = False
    client = wire.begin(user("say Hello!"))
    wire.wait(30.0)
    assert client.message["content"] == "Hello!"
    assert held(wire, "user") == ["say Hello!"]


def test_after_a_restart_of_the_proxy_a_retry_goes_on() -> None:
    """It is not known how the turn ended, and a reply that is listed may have broken off."""
    wire = Wire()
    assert wire.ask(user("say one\nretryonce\nsay two")).status == 424
    wire.restart_proxy()
    answer = wire.ask(user("say one\nretryonce\nsay two"), retry_count=1)
    assert answer.message["content"] == "one\n\ntwo" or answer.message["content"] == "onetwo"
    assert held(wire, "user") == ["say one\nretryonce\nsay two"]


def test_a_retry_while_calls_wait_gets_the_calls() -> None:
    wire = Wire()
    first = user("say Looking.\ncall get_weather {}")
    asked = wire.ask(first, tools=TOOLS)
    again = wire.ask(first, tools=TOOLS, retry_count=1)
    assert (again.calls, again.message["content"]) == (asked.calls, "Looking.")
    answer = wire.ask(first, again.message, result(again.calls[0], "18 C"), tools=TOOLS)
    assert answer.message["content"] == "results: 18 C"
    assert held(wire, "user") == [first["content"]]


# --- Another answer -------------------------------------------------------------------------------------------


def test_another_answer_replaces_the_last_one() -> None:
    wire = Wire()
    wire.ask(user("say one"))
    chat = user("say one"), bot("one"), user("say two")
    wire.ask(*chat)
    again = wire.ask(*chat)
    assert again.message["content"] == "two"
    assert "x-letta-input" not in again.headers
    assert (held(wire, "user"), held(wire, "assistant")) == (["say one", "say two"], ["one", "two"])


def test_a_client_without_a_history_may_say_the_same_again() -> None:
    wire = Wire()
    for _ in range(2):
        assert wire.ask(user("say one")).message["content"] == "one"
    assert held(wire, "user") == ["say one"] * 2


def test_another_answer_while_calls_wait_is_asked_for_by_the_message() -> None:
    wire = Wire()
    wire.ask(user("say one"), tools=TOOLS)
    chat = user("say one"), bot("one"), user("call get_weather {}")
    wire.ask(*chat, tools=TOOLS)
    again = wire.ask(*chat, tools=TOOLS)
    assert again.calls
    assert again.headers["x-letta-input"] == "repeated"


# --- Dead conversations ---------------------------------------------------------------------------------------


def test_a_conversation_is_found_dead_by_its_error() -> None:
    """After a restart of the proxy nothing else tells it."""
    wire = Wire()
    wire.ask(user("say one"))
    talk_in_use(wire).is_dead = True
    wire.restart_proxy()
    answer = wire.ask(user("say one"), bot("one"), user("say two"))
    assert answer.message["content"] == "two"
    assert held(wire, "user") == ["say one", "say two"]
    assert len(wire.server.talks) == 2


def test_a_named_conversation_that_is_dead_is_not_copied() -> None:
    wire = Wire()
    wire.ask(user("say one"))
    talk = talk_in_use(wire)
    talk.is_dead = True
    wire.restart_proxy()
    answer = wire.ask(user("say two"), key=None, conversation=talk.id)
    assert answer.status == 502
    assert "name another conversation" in answer.json["error"]["message"]


def test_a_reply_that_was_lost_is_not_told_as_a_whole_one() -> None:
    wire = Wire()
    wire.server.pause = True
    client = wire.begin(user("say Hello!"))
    talk_in_use(wire).messages.append({"message_type": "assistant_message", "content": [{"text": "Hel"}]})
    for channel in Channel:
        wire.lose(channel)
    wire.wait(5.0)
    assert client.status == 424
    wire.server.pause = False
    assert wire.ask(user("say Hello!")).message["content"] == "Hello!"
    assert (held(wire, "user"), held(wire, "assistant")) == (["say Hello!"], ["Hello!"])


# --- Cancelling -----------------------------------------------------------------------------------------------


def test_a_client_that_leaves_after_its_turn_aborts_nothing() -> None:
    wire = Wire()
    first = user("call get_weather {}")
    asked = wire.ask(first, tools=TOOLS)
    wire.leave(asked)
    assert "abort_message" not in [frame["type"] for frame in wire.server.received]
    answer = wire.ask(first, asked.message, result(asked.calls[0], "18 C"), tools=TOOLS)
    assert answer.message["content"] == "results: 18 C"


def test_a_cancelled_turn_is_awaited_for_a_limited_time() -> None:
    wire = Wire()
    wire.server.pause = wire.server.ignores_aborts = True
    client = wire.begin(user("say Hello!"))
    wire.leave(client)
    assert not client.is_over
    wire.wait(20.0)
    assert client.is_over


# --- The server was restarted ---------------------------------------------------------------------------------


def restart(wire: Wire) -> None:
    wire.server.restart()
    for channel in Channel:
        wire.connection.socket_lost(channel, "it was closed", wire.now)
    wire.carry()


def test_an_input_that_ran_during_a_restart_is_heard_once() -> None:
    wire = Wire()
    wire.server.pause = True
    client = wire.begin(user("say Hello!"))
    restart(wire)
    wire.wait(5.0)
    assert client.status == 424
    wire.server.pause = False
    assert wire.ask(user("say Hello!")).message["content"] == "Hello!"
    assert held(wire, "user") == ["say Hello!"]


def test_results_of_calls_from_before_a_restart_are_told() -> None:
    wire = Wire()
    first = user("call get_weather {}")
    asked = wire.ask(first, tools=TOOLS)
    restart(wire)
    answer = wire.ask(first, asked.message, result(asked.calls[0], "18 C"), tools=TOOLS)
    assert answer.status == 200
    [told, late] = held(wire, "user")
    assert told == first["content"]
    assert "18 C" in late


def test_a_message_behind_an_input_that_runs_again_waits_for_it() -> None:
    """Both the server and the proxy were restarted."""
    wire = Wire(config=Config(queue_timeout=60.0))
    wire.ask(user("say one"))
    wire.server.pause = True
    wire.begin(user("say one"), bot("one"), user("say two"))
    wire.server.restart()
    wire.restart_proxy()
    client = wire.begin(user("say one"), bot("one"), user("say two"), bot("two"), user("say three"))
    wire.server.go_on()
    wire.carry()
    wire.wait(1.0)
    assert client.message["content"] == "three"
    assert held(wire, "user")[-1] == "say three"


@pytest.mark.parametrize(
    "text", ["Turn did not complete", "The agent harness automatically closed this stale pending tool call to"]
)
def test_what_the_server_writes_in_place_of_a_result_is_none(text: str) -> None:
    wire = Wire()
    first = user("call get_weather {}")
    asked = wire.ask(first, tools=TOOLS)
    talk = talk_in_use(wire)
    body = {"tool_call_id": asked.calls[0]["id"], "status": "error", "tool_return": text}
    talk.messages.append({"message_type": "tool_return_message", **body})
    wire.server._reset(talk)
    wire.restart_proxy()
    answer = wire.ask(first, asked.message, result(asked.calls[0], "18 C"), tools=TOOLS)
    assert answer.status == 200
    assert "18 C" in held(wire, "user")[-1]
