"""Sockets to an App Server that are lost, one or both, in each state of a conversation."""

import pytest

from sansio_letta.upstreams.app_server.sockets import Channel

from .wire import Wire, result, user

TOOLS = ("get_weather", "get_time")


def texts(wire: Wire, kind: str) -> list[str]:
    """What conversations that are in use hold of this kind."""
    return [
        message.get("tool_return") or message["content"][-1]["text"]
        for talk in wire.server.talks.values()
        if not talk.archived
        for message in talk.messages
        if message["message_type"] == kind
    ]


@pytest.mark.parametrize("channel", Channel)
def test_one_socket_is_lost_while_the_model_thinks(channel: Channel) -> None:
    wire = Wire()
    wire.server.pause = True
    client = wire.begin(user("say Hello!"))
    wire.lose(channel)
    assert not client.is_over
    wire.server.go_on()
    wire.carry()
    assert client.message["content"] == "Hello!"
    assert texts(wire, "user_message") == ["say Hello!"]


@pytest.mark.parametrize("channel", Channel)
def test_one_socket_is_lost_while_a_call_waits(channel: Channel) -> None:
    wire = Wire()
    first = user("call get_weather {}\ncall get_time {}")
    asked = wire.ask(first, tools=TOOLS)
    wire.lose(channel)
    wire.wait(5.0)
    results = [result(call, text) for call, text in zip(asked.calls, ("18 C", "12:00"), strict=True)]
    answer = wire.ask(first, asked.message, *results, tools=TOOLS)
    assert answer.message["content"] == "results: 18 C | 12:00"
    assert texts(wire, "tool_return_message") == ["18 C", "12:00"]


def test_both_are_lost_while_a_call_waits() -> None:
    """The server cancels the call, so its result is told as a message."""
    wire = Wire()
    first = user("call get_weather {}")
    asked = wire.ask(first, tools=TOOLS)
    for channel in Channel:
        wire.lose(channel)
    answer = wire.ask(first, asked.message, result(asked.calls[0], "18 C"), tools=TOOLS)
    assert answer.status == 200
    assert any("18 C" in text for text in texts(wire, "user_message"))


def test_both_are_lost_while_the_model_speaks() -> None:
    """The conversation is dead: a copy of it goes on."""
    wire = Wire()
    wire.server.pause = True
    client = wire.begin(user("say Hello!"))
    for channel in Channel:
        wire.lose(channel)
    wire.wait(5.0)
    assert client.is_over
    assert client.status == 424
    wire.server.pause = False
    answer = wire.ask(user("say Hello!"), user("say Again."))
    assert answer.message["content"] == "Again."
    assert texts(wire, "user_message") == ["say Hello!", "say Again."]


def test_another_process_answers_the_calls() -> None:
    wire, other = Wire(), Wire()
    other.server = wire.server
    first = user("call get_weather {}\ncall get_time {}")
    asked = wire.ask(first, tools=TOOLS)
    # The two processes have two pairs of sockets, of which the fake server knows one.
    wire.server.open.clear()
    results = [result(call, text) for call, text in zip(asked.calls, ("18 C", "12:00"), strict=True)]
    answer = other.ask(first, asked.message, *results, tools=TOOLS)
    assert answer.message["content"] == "results: 18 C | 12:00"
    assert texts(wire, "tool_return_message") == ["18 C", "12:00"]
