"""The short way of a text through a cycle: it says and notes what the long one does, or takes nothing."""

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from drive import AGENT, CONFLICT, DONE, PING, RUN_ID, SSE, USAGE, agent_json, encode, say, stop
from drive_cycle import Client, chat
from sansio_letta import Config, Enforcement, HttpRequest, LocalProtocolError, Proxy, ServerTools, Signal
from sansio_letta.events import CancelRun, Failure, FetchRun

Message: TypeAlias = dict[str, Any] | str

WORDS: list[Message] = [
    PING,
    say("Hel"),
    say("lo"),
    say(""),
    say(" ä\n"),
    say("x" * 100),
    say("!", id="message-2"),
    say("?", id="message-2"),
]
END: list[Message] = [stop(), USAGE, DONE]


def speaking(config: Config | None = None, *, stream: bool = True, **more: Any) -> Client:
    """A client whose agent has begun to speak."""
    proxy = Proxy(config or Config())
    proxy.remember("Milo", AGENT, now=100.0)
    return Client(chat(stream=stream, **more), proxy).stream(PING, say("Hel"))


# --- What is passed on


@pytest.mark.parametrize("config", [Config(), Config(server_tools=ServerTools.REASONING, max_fragment_size=64)])
def test_the_short_way_says_and_notes_what_the_long_one_does(config: Config) -> None:
    clients, passed = [], []
    for short in (True, False):
        proxy = Proxy(config)
        proxy.remember("Milo", AGENT, now=100.0)
        client = Client(chat(stream=True), proxy)
        client.cycle.receive_response(200, SSE, 101.0)
        for count, message in enumerate([*WORDS, *END]):
            now, data = 102.0 + count, encode(message)
            if short and (body := client.cycle.pass_on(data, now)) is not None:
                client.body += body
                passed.append(message)
                assert client.cycle.next_event() is Signal.NEED_DATA
            else:
                client.cycle.receive_data(data, now)
                client.pump()
            assert client.ended or client.cycle.next_deadline() <= now + 120
        clients.append(client)
    first, second = clients
    assert passed == [say("lo"), say("x" * 100), say("?", id="message-2")]
    assert (first.body, first.head, first.ended) == (second.body, second.head, True)
    assert first.cycle.summary == second.cycle.summary


def test_what_came_in_one_read_leaves_in_one_piece() -> None:
    client = speaking()
    before = client.cycle.summary.chunk_count
    passed = client.cycle.pass_on(encode(say("lo")) + encode(say(" ")) + encode(say("you")), 103.0)
    assert passed is not None
    assert passed.count(b'"content":') == client.cycle.summary.chunk_count - before == 3


def test_a_repeat_hears_what_was_passed_on() -> None:
    first = speaking()
    second = Client(chat(stream=True), first.proxy, token="second12", now=102.0)
    assert first.cycle.pass_on(encode(say("lo")), 103.0) is not None
    assert second.woken
    assert b'"lo"' in second.go_on().body


def test_a_word_puts_off_silence_and_comments() -> None:
    client = speaking()
    assert client.cycle.next_deadline() == 117.0
    assert client.cycle.pass_on(encode(say("lo")), 110.0) is not None
    assert client.cycle.next_deadline() == 125.0
    client.cycle.handle_deadline(229.0)
    client.pump()
    assert client.commands[-1:] != [FetchRun(run_id=RUN_ID)]
    client.cycle.handle_deadline(230.0)
    client.pump()
    assert client.commands[-1] == FetchRun(run_id=RUN_ID)


def test_of_a_run_that_is_lost_what_was_passed_on_is_not_told_again() -> None:
    client = speaking()
    assert client.cycle.pass_on(encode(say("lo")), 103.0) is not None
    before = client.body
    client.fail(Failure.BROKEN)
    client.answer({"id": RUN_ID, "status": "completed", "stop_reason": "end_turn"})
    client.answer([{"message_type": "assistant_message", "id": "message-1", "content": "Hello you"}])
    client.answer({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2})
    assert client.ended
    assert b'"content":" you"' in client.body.removeprefix(before)


# --- What is not


def listening() -> Client:
    first = speaking()
    return Client(chat(stream=True), first.proxy, token="second12", now=102.0)


def heard_by_others() -> Client:
    first = speaking()
    Client(chat(stream=True), first.proxy, token="second12", now=102.0)
    return first.leave()


def left_before_the_run_has_a_name() -> Client:
    proxy = Proxy()
    proxy.remember("Milo", AGENT, now=100.0)
    nameless = {key: value for key, value in say("Hel").items() if key != "run_id"}
    return Client(chat(stream=True), proxy).stream(nameless).leave()


def with_an_item_to_take() -> Client:
    client = speaking()
    client.cycle.handle_deadline(117.0)  # a comment is due
    return client


def failed() -> Client:
    client = speaking()
    client.cycle.receive_failure(Failure.BROKEN, "it hurt", 103.0)
    return client


def interrupted() -> Client:
    client = speaking()
    client.cycle.interrupt(103.0)
    return client


def held_back() -> Client:
    return speaking(Config(enforcement=Enforcement.VALIDATE), response_format={"type": "json_object"})


def unread() -> Client:
    client = speaking()
    client.cycle.receive_data(encode(say("l")), 103.0)
    return client


OTHERS: dict[str, Callable[[], Client]] = {
    "the answer is collected": lambda: speaking(stream=False),
    "a question": lambda: Client(HttpRequest(method="GET", target="/v1/models")),
    "the agent is looked up": lambda: Client(chat(stream=True)),
    "nothing was said": lambda: Client(chat(stream=True)).answer([agent_json()]).stream(PING),
    "a repeat that listens": listening,
    "the client has left, and others listen": heard_by_others,
    "the client has left": lambda: speaking().leave(),
    "the client has left before the run had a name": left_before_the_run_has_a_name,
    "an item is to be taken": with_an_item_to_take,
    "the reply is held back": held_back,
    "words are unread": unread,
    "the connection broke": failed,
    "the proxy ends": interrupted,
    "the run has stopped": lambda: speaking().more(stop()),
    "the turn is over": lambda: speaking().more(*END),
    "the turn was refused": lambda: speaking().more(stop("error"), CONFLICT, DONE),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_otherwise_nothing_is_taken(make: Callable[[], Client]) -> None:
    client = make()
    body, summary = client.body, repr(client.cycle.summary)
    assert client.cycle.pass_on(encode(say("lo")), 104.0) is None
    assert (client.body, repr(client.cycle.summary)) == (body, summary)


def test_who_left_is_told_nothing_and_others_are_told_all() -> None:
    first = speaking()
    second = Client(chat(stream=True), first.proxy, token="second12", now=102.0)
    body = first.leave().body
    first.more(say("lo"), now=104.0)
    assert (first.body, b'"lo"' in second.go_on().body) == (body, True)


def test_a_client_that_leaves_behind_a_word_ends_the_run() -> None:
    client = speaking()
    assert client.cycle.pass_on(encode(say("lo")), 103.0) is not None
    client.leave(104.0)
    command = client.commands[-1]
    assert isinstance(command, CancelRun)
    assert command.run_id == RUN_ID


def test_data_after_the_end_is_refused_as_ever() -> None:
    client = speaking()
    client.cycle.receive_data(b"", 103.0)
    assert client.cycle.pass_on(encode(say("lo")), 104.0) is None
    with pytest.raises(LocalProtocolError):
        client.cycle.receive_data(encode(say("lo")), 104.0)
