"""The fast path of a text through a cycle has the same effects as the other path, and is only for texts."""

import contextlib
import gc
import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from drive import AGENT, CONFLICT, DONE, PING, RUN_ID, SSE, USAGE, agent_json, encode, say, stop, turn_request
from drive_cycle import Client, chat
from sansio_letta import (
    Config,
    Cycle,
    Enforcement,
    HttpRequest,
    LocalProtocolError,
    Proxy,
    ServerTools,
    Signal,
    Turn,
)
from sansio_letta.dialects.base import RequestContext
from sansio_letta.dialects.chat_completions.dialect import CHAT_COMPLETIONS
from sansio_letta.dialects.items import ClientRequest
from sansio_letta.errors import Failure
from sansio_letta.proxy.deadlines import Deadlines
from sansio_letta.proxy.http import ResponseBody
from sansio_letta.proxy.memory import Memory
from sansio_letta.proxy.response import Response
from sansio_letta.proxy.summary import Summary
from sansio_letta.turn.events import FinishReason, TextDelta, TurnStarted
from sansio_letta.turn.phases import Phase
from sansio_letta.turn.upstream import RunStopped
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.commands import CancelRun, FetchRun
from turn.fake_upstream import FakeUpstream

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


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The events that were decoded as messages: those that went the long way."""
    events, decode = [], letta.decode_message

    def note(data: bytes) -> letta.Message:
        events.append(data)
        return decode(data)

    monkeypatch.setattr(letta, "decode_message", note)
    return events


# --- What goes it


@pytest.mark.parametrize("config", [Config(), Config(server_tools=ServerTools.REASONING, max_fragment_size=64)])
def test_the_short_way_says_and_notes_what_the_long_one_does(config: Config, decoded: list[bytes]) -> None:
    clients, shortly = [], []
    for is_cut in (False, True):
        proxy = Proxy(config)
        proxy.remember("Milo", AGENT, now=100.0)
        client = Client(chat(stream=True), proxy)
        client.cycle.receive_response(200, SSE, 101.0)
        for count, message in enumerate([*WORDS, *END]):
            now, data, before = 102.0 + count, encode(message), len(decoded)
            # Half of an event is for the long way, and so is what comes behind it.
            for part in (data[:9], data[9:]) if is_cut else (data,):
                client.cycle.receive_data(part, now)
                client.pump()
            assert client.ended or client.cycle.next_deadline() <= now + 120
            if len(decoded) == before and message is not DONE:
                shortly.append(message)
        clients.append(client)
    first, second = clients
    assert shortly == [say("lo"), say("x" * 100), say("?", id="message-2")]
    assert (first.body, first.head, first.ended) == (second.body, second.head, True)
    assert first.cycle.summary == second.cycle.summary


def test_what_came_in_one_read_leaves_in_one_piece(decoded: list[bytes]) -> None:
    client = speaking()
    before, count = client.cycle.summary.chunk_count, len(decoded)
    client.cycle.receive_data(encode(say("lo")) + encode(say(" ")) + encode(say("you")), 103.0)
    body = client.cycle.next_event()
    assert isinstance(body, ResponseBody)
    assert body.data.count(b'"content":') == client.cycle.summary.chunk_count - before == 3
    assert (client.cycle.next_event(), len(decoded)) == (Signal.NEED_DATA, count)


def test_words_of_two_reads_keep_their_order() -> None:
    client = speaking()
    for text in ("a", "b", "c"):
        client.cycle.receive_data(encode(say(text)), 103.0)
    client.pump()
    places = [client.body.index(b'"content":"%b"' % text) for text in (b"a", b"b", b"c")]
    assert places == sorted(places)


def test_a_repeat_hears_what_was_passed_on() -> None:
    first = speaking()
    second = Client(chat(stream=True), first.proxy, token="second12", now=102.0)
    before = second.woken
    first.more(say("lo"))
    assert second.woken > before
    assert b'"lo"' in second.go_on().body


def test_a_word_puts_off_silence_and_comments() -> None:
    client = speaking()
    assert client.cycle.next_deadline() == 117.0
    client.more(say("lo"), now=110.0)
    assert client.cycle.next_deadline() == 125.0
    client.cycle.handle_deadline(229.0)
    client.pump()
    assert client.commands[-1:] != [FetchRun(run_id=RUN_ID)]
    client.cycle.handle_deadline(230.0)
    client.pump()
    assert client.commands[-1] == FetchRun(run_id=RUN_ID)


def test_of_a_run_that_is_lost_what_was_passed_on_is_not_told_again() -> None:
    client = speaking().more(say("lo"))
    before = client.body
    client.fail(Failure.BROKEN)
    client.answer({"id": RUN_ID, "status": "completed", "stop_reason": "end_turn"})
    client.answer([{"message_type": "assistant_message", "id": "message-1", "content": "Hello you"}])
    client.answer({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2})
    assert client.ended
    assert b'"content":" you"' in client.body.removeprefix(before)


def test_an_answer_that_is_collected_has_it() -> None:
    client = speaking(stream=False).more(say("lo")).more(*END)
    assert client.json()["choices"][0]["message"]["content"] == "Hello"


def test_who_left_is_told_nothing_and_others_are_told_all() -> None:
    first = speaking()
    second = Client(chat(stream=True), first.proxy, token="second12", now=102.0)
    body = first.leave().body
    first.more(say("lo"), now=104.0)
    assert (first.body, b'"lo"' in second.go_on().body) == (body, True)


def test_a_client_that_leaves_behind_a_word_ends_the_run() -> None:
    client = speaking().more(say("lo")).leave(104.0)
    command = client.commands[-1]
    assert isinstance(command, CancelRun)
    assert command.run_id == RUN_ID


def test_a_word_that_was_not_taken_is_not_told_to_who_left() -> None:
    client = speaking()
    client.cycle.receive_data(encode(say("lo")), 103.0)
    body = client.leave(104.0).body
    assert b'"lo"' not in body
    assert isinstance(client.commands[-1], CancelRun)


# --- What does not


def left_before_the_run_has_a_name() -> Client:
    proxy = Proxy()
    proxy.remember("Milo", AGENT, now=100.0)
    nameless = {key: value for key, value in say("Hel").items() if key != "run_id"}
    return Client(chat(stream=True), proxy).stream(nameless).leave()


def failed() -> Client:
    client = speaking()
    client.cycle.receive_failure(Failure.BROKEN, "it hurt", 103.0)
    return client


def interrupted() -> Client:
    client = speaking()
    client.cycle.shut_down(103.0)
    return client


def unread() -> Client:
    client = speaking()
    client.cycle.receive_data(encode(say("l"))[:9], 103.0)
    return client


OTHERS: dict[str, Callable[[], Client]] = {
    "the agent is looked up": lambda: Client(chat(stream=True)),
    "the client has left": lambda: speaking().leave(),
    "the client has left before the run had a name": left_before_the_run_has_a_name,
    "half of an event is unread": unread,
    "the connection broke": failed,
    "the proxy ends": interrupted,
    "the run has stopped": lambda: speaking().more(stop()),
    "the turn is over": lambda: speaking().more(*END),
    "the turn was refused": lambda: speaking().more(stop("error"), CONFLICT, DONE),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_otherwise_no_text_is_told(make: Callable[[], Client]) -> None:
    client = make()
    with contextlib.suppress(LocalProtocolError):
        client.more(say("lo"), now=104.0)
    assert b'"lo"' not in client.body


def test_the_first_word_goes_the_long_way(decoded: list[bytes]) -> None:
    client = Client(chat(stream=True)).answer([agent_json()]).stream(PING)
    client.more(say("lo"))
    assert len(decoded) == 2
    assert b'"lo"' in client.body


def test_a_reply_that_is_held_back_is_not_told_before_it_was_checked() -> None:
    config = Config(enforcement=Enforcement.VALIDATE)
    client = speaking(config, response_format={"type": "json_object"}).more(say("lo"))
    assert b'"lo"' not in client.body


def test_a_question_takes_no_text() -> None:
    client = Client(HttpRequest(method="GET", target="/v1/models"))
    client.cycle.receive_response(200, SSE, 102.0)
    client.more(say("lo"))
    assert (client.head, client.body) == (None, b"")


def test_a_repeat_that_listens_asks_nothing() -> None:
    first = speaking()
    second = Client(chat(stream=True), first.proxy, token="second12", now=102.0)
    with pytest.raises(LocalProtocolError):
        second.cycle.receive_data(encode(say("lo")), 104.0)


def test_data_after_the_end_is_refused_as_ever() -> None:
    client = speaking()
    client.cycle.receive_data(b"", 103.0)
    with pytest.raises(LocalProtocolError):
        client.cycle.receive_data(encode(say("lo")), 104.0)


def test_nothing_of_a_closed_cycle_is_left_to_the_garbage_collector() -> None:
    client = speaking().more(*END)
    turn = weakref.ref(client.cycle.turn)
    client.cycle.close()
    gc.disable()
    try:
        del client.cycle
        assert turn() is None
    finally:
        gc.enable()


# --- An upstream without exchanges ----------------------------------------------------------------------------


def test_a_turn_that_waits_for_its_upstream_is_not_queued() -> None:
    config = Config(queue_timeout=5.0, early_response_timeout=0.0)
    upstream = FakeUpstream(is_open=False)
    turn = Turn(turn_request("hi"), upstream, config)
    request = ClientRequest(model="Milo", messages=(), stream=True)
    summary = Summary(request_id="req_1", method="POST", path="/v1/chat/completions", model="Milo", stream=True)
    deadlines = Deadlines(config, 100.0)
    writer = CHAT_COMPLETIONS.writer(request, RequestContext(config=config, token="abcdef12", created=0))
    response = Response(CHAT_COMPLETIONS, writer, summary, deadlines)
    cycle = Cycle(turn, response, deadlines, Memory(config), summary, config)

    client = Client(cycle)
    for phase, now in ((Phase.FINDING, 100.0), (Phase.STREAMING, 200.0)):
        assert (client.waits, turn.phase, summary.waited) == (True, phase, False)
        assert cycle.next_deadline() == 100.0 + config.turn_timeout, "neither silence nor a queue counts"
        client.go_on(now + 50.0)
        assert (client.waits, turn.phase) == (True, phase)
        upstream.is_open = True
        client.go_on(now + 100.0)

    end = RunStopped(reason=FinishReason.STOP)
    upstream.runs[-1].events_to_come.extend([TurnStarted(), TextDelta(text="Hello"), end])
    turn.ticket.wake()
    assert client.woken == 1
    client.go_on(400.0)
    assert (client.ended, summary.outcome, summary.waited) == (True, "stop", False)
    assert b'"Hello"' in client.body
