"""Retries, and concurrent requests."""

from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from attrs import evolve

from drive import AGENT, AGENT_ID, CONFLICT, DONE, PING, RUN_ID, USAGE, agent_json, error, make_turn, say, stop
from drive_cycle import Client, chat
from sansio_letta import Background, Config, HttpRequest, LocalProtocolError, Proxy, Repeat
from sansio_letta.errors import Failure
from sansio_letta.proxy.turn_registry import (
    Fingerprint,
    RequestContent,
    TurnEntry,
    TurnRegistry,
    read_retry_info,
)
from sansio_letta.turn.events import FinishReason, TextDelta, TurnFinished
from sansio_letta.turn.request import Chat, NamedConversation, ThreadChoice, Throwaway, TurnRequest
from sansio_letta.turn.turn import Turn
from sansio_letta.upstreams.rest.commands import CancelRun, FetchRun, FindAgent, FindRuns, OpenStream

HELLO = (PING, say("Hel"), say("lo"), stop(), USAGE, DONE)
CANCEL = CancelRun(agent_id=AGENT_ID, run_id=RUN_ID)
FIRST, SECOND = {"x-stainless-retry-count": "0"}, {"x-stainless-retry-count": "1"}

KEYED = {"idempotency-key": "k-1"}


def proxy(config: Config | None = None) -> Proxy:
    """One that knows the agent, and does not ask Letta what it has heard."""
    made = Proxy(evolve(config or Config(), lookback_count=0))
    made.remember("Milo", AGENT, now=100.0)
    return made


def text(client: Client) -> str:
    """What a streaming client was told."""
    chunks = [orjson.loads(event[6:]) for event in client.body.split(b"\n\n") if event.startswith(b"data: {")]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


# --- While its turn runs


def test_a_repeat_listens_to_the_running_turn_from_its_start() -> None:
    house = proxy()
    first = Client(chat(stream=True), house).stream(PING, say("Hel"))
    second = Client(chat(stream=True), house, token="second12", now=102.0)
    assert (second.commands, text(second), second.waits) == ([], "Hel", True)
    first.more(say("lo"), stop(), USAGE, DONE)
    assert second.woken
    second.go_on()
    assert (text(first), text(second), second.ended) == ("Hello", "Hello", True)
    assert b"chatcmpl-second12" in second.body
    assert second.headers["x-request-id"] == "req_second12"
    assert second.cycle.summary.repeat is Repeat.JOINED


def test_a_repeat_of_a_turn_that_fails_fails_the_same_way() -> None:
    house = proxy()
    first = Client(chat(), house).stream(PING)
    second = Client(chat(), house)
    first.more(stop("llm_api_error"), error("llm_rate_limit"), DONE)
    second.go_on()
    assert (first.status, second.status) == (429, 429)
    assert first.json() == second.json()


def test_what_a_listener_does_not_ask_for_cannot_be_answered() -> None:
    house = proxy()
    Client(chat(), house).stream(PING)
    cycle = Client(chat(), house).cycle
    with pytest.raises(LocalProtocolError):
        cycle.receive_response(200, [], 103.0)
    with pytest.raises(LocalProtocolError):
        cycle.receive_data(b"", 103.0)
    with pytest.raises(LocalProtocolError):
        cycle.receive_failure(Failure.SILENT, "x", 103.0)


@pytest.mark.parametrize(
    "other",
    [
        chat(stream=True, headers={"authorization": "Bearer another"}),
        chat(stream=True, headers={"api-key": "another"}),
        chat(stream=True, headers={"x-api-key": "another"}),
        chat(stream=True, headers={"idempotency-key": "another"}),
        chat(stream=True, content="hi!"),
        chat(stream=False),
    ],
    ids=["client", "client of Azure", "client of Anthropic", "idempotency key", "message", "form"],
)
def test_other_requests_wait_for_a_turn_of_their_own(other: HttpRequest) -> None:
    house = proxy()
    first = Client(chat(stream=True), house).stream(PING, say("Hel"))
    second = Client(other, house)
    assert (second.commands, second.waits) == ([], True)
    first.more(stop(), DONE)
    assert second.woken == 1
    second.go_on()
    assert type(second.commands[0]) is OpenStream
    assert second.cycle.summary.waited


@pytest.mark.parametrize(
    "other",
    [
        chat(stream=True, content="reworded", headers=KEYED),
        chat(stream=True, model="Ada", headers=KEYED),
        chat(stream=True, headers={**KEYED, "x-letta-chat-key": "c-1"}),
        chat(stream=True, headers={**KEYED, "x-letta-policy-approvals": "deny"}),
    ],
    ids=["body", "agent", "chat", "policy"],
)
@pytest.mark.parametrize("ended", [False, True])
def test_an_idempotency_key_stands_for_one_request(other: HttpRequest, ended: bool) -> None:
    house = proxy()
    first = Client(chat(stream=True, headers=KEYED), house)
    if ended:
        first.stream(*HELLO)
    refused = Client(other, house)
    assert (refused.commands, refused.ended) == ([], True)
    error = refused.json()["error"]
    assert (refused.cycle.summary.status, error["code"]) == (422, "idempotency_key_reused")
    assert error["param"] == "idempotency-key"
    again = Client(chat(stream=True, headers=KEYED), house)
    assert again.commands == []
    if not ended:
        first.stream(*HELLO)
        again.go_on()
    assert text(again) == "Hello"


def test_an_idempotency_key_is_free_when_nothing_came_of_its_request() -> None:
    house = proxy()
    Client(chat(stream=True, headers=KEYED), house).answer({"detail": "no"}, 422)
    assert type(Client(chat(stream=True, content="reworded", headers=KEYED), house).commands[0]) is OpenStream


# --- After its turn


def test_a_finished_turn_is_answered_again_if_the_client_says_that_it_asks_again() -> None:
    house = proxy()
    Client(chat(headers=FIRST), house).stream(*HELLO)
    again = Client(chat(headers=SECOND), house)
    assert (again.commands, again.ended) == ([], True)
    assert again.json()["choices"][0]["message"]["content"] == "Hello"
    assert again.json()["usage"]["total_tokens"] == 120
    assert again.cycle.summary.repeat is Repeat.ANSWERED


def test_a_finished_turn_asked_again_without_a_sign_is_a_new_turn() -> None:
    house = proxy()
    Client(chat(headers=FIRST), house).stream(*HELLO)
    assert type(Client(chat(headers=FIRST), house).commands[0]) is OpenStream


def test_an_answer_is_forgotten_after_a_while() -> None:
    house = proxy(Config(repeat_ttl=10.0, agent_ttl=1000.0))
    Client(chat(headers=FIRST), house).stream(*HELLO, now=102.0)
    assert Client(chat(headers=SECOND), house, now=111.9).commands == []
    assert type(Client(chat(headers=SECOND), house, now=112.0).commands[0]) is OpenStream


def test_a_turn_that_left_no_trace_is_simply_begun_anew() -> None:
    house = proxy()
    Client(chat(), house).stream(PING, stop("llm_api_error"), error("llm_rate_limit"), DONE)
    again = Client(chat(headers=SECOND), house)
    assert type(again.commands[0]) is OpenStream
    assert again.cycle.summary.repeat is None


def test_a_turn_whose_client_left_is_looked_into() -> None:
    house = proxy()
    Client(chat(stream=True), house).stream(PING, say("Hel")).leave().answer({})
    again = Client(chat(stream=True), house, now=104.0)
    assert again.commands == [FetchRun(run_id=RUN_ID)]
    again.answer({"id": RUN_ID, "status": "cancelled", "stop_reason": "cancelled"}).answer([])
    assert type(again.commands[-1]) is OpenStream
    again.stream(*HELLO)
    assert text(again) == "Hello"
    assert again.cycle.summary.repeat is Repeat.TAKEN_UP


def test_a_repeat_waits_until_the_cancel_has_settled() -> None:
    house = proxy()
    first = Client(chat(stream=True), house).stream(PING, say("Hel")).leave()
    assert first.commands[-1] == CANCEL
    other = Client(chat(stream=True, content="stop, listen"), house)
    assert other.waits
    first.answer({})
    assert other.go_on().commands


def test_nobody_joins_a_turn_whose_run_is_being_cancelled() -> None:
    house = proxy()
    first = Client(chat(headers=SECOND), house).stream(PING).leave(now=103.0)
    first.go_on(now=105.0)
    assert first.commands[-1] == CANCEL
    again = Client(chat(headers={"x-stainless-retry-count": "2"}), house, now=105.1)
    assert (again.waits, again.commands) == (True, [])
    first.answer({})
    assert again.go_on(now=105.2).commands == [FetchRun(run_id=RUN_ID)]
    again.answer({"id": RUN_ID, "status": "cancelled", "stop_reason": "cancelled"}).answer([])
    assert again.stream(*HELLO).json()["choices"][0]["message"]["content"] == "Hello"


# --- A client that is expected back


def test_a_client_that_gave_up_waiting_finds_its_turn_again() -> None:
    house = proxy()
    first = Client(chat(headers=FIRST), house).stream(PING).leave(now=103.0)
    assert first.cycle.is_detached
    assert first.cycle.next_deadline() == 103.25
    first.go_on(now=104.0)
    second = Client(chat(headers=SECOND), house, now=104.2)
    first.more(say("Hello"), stop(), USAGE, DONE, now=106.0)
    assert first.ended
    assert first.body == b""
    assert second.go_on(now=106.0).json()["choices"][0]["message"]["content"] == "Hello"
    assert len([command for command in first.commands if isinstance(command, OpenStream)]) == 1
    assert first.cycle.summary.outcome == "stop"


def test_a_client_that_does_not_come_back_in_time() -> None:
    house = proxy()
    first = Client(chat(headers=FIRST), house).stream(PING).leave(now=103.0)
    first.go_on(now=104.4)
    assert CANCEL not in first.commands
    first.go_on(now=104.5)
    assert first.commands[-1] == CANCEL
    assert first.answer({}).ended
    assert first.cycle.summary.outcome == "abandoned"


def test_a_turn_that_ends_in_its_pause_asks_nothing_more() -> None:
    """The pause and the look for listeners are due at the same moment."""
    house = proxy()
    first = Client(chat(headers=FIRST), house).leave(now=103.0)
    other = Client(chat(content="and now this", headers=FIRST), house, now=103.1)
    first.fail(Failure.NOT_SENT, now=103.1)
    assert first.waits
    first.go_on(now=103.35)
    assert first.ended
    assert [type(command) for command in first.commands] == [OpenStream]
    assert type(other.go_on().commands[-1]) is OpenStream


def test_a_turn_that_ends_while_letta_is_silent() -> None:
    """The look for listeners and the end of Letta's patience are due at the same moment."""
    first = Client(chat(headers=FIRST), proxy()).stream(PING, now=102.0).leave(now=103.0)
    assert first.cycle.handle_deadline(now=1000.0) is None
    first.pump()
    assert first.commands[-1] == CANCEL
    assert first.answer({}).ended


def test_who_waits_behind_is_not_kept_waiting_for_somebody_who_left() -> None:
    house = proxy()
    first = Client(chat(headers=FIRST), house).stream(PING).leave(now=103.0)
    other = Client(chat(content="and now this", headers=FIRST), house, now=103.1)
    assert other.waits
    first.go_on(now=103.25)
    assert first.commands[-1] == CANCEL
    first.answer({})
    assert type(other.go_on().commands[-1]) is OpenStream


def test_the_last_listener_leaves() -> None:
    house = proxy()
    first = Client(chat(headers=FIRST), house).stream(PING).leave(now=103.0)
    second = Client(chat(headers=SECOND), house, now=103.5)
    first.go_on(now=110.0)
    assert CANCEL not in first.commands
    second.leave(now=110.5)
    assert second.ended
    first.go_on(now=112.4)
    assert CANCEL not in first.commands
    first.go_on(now=112.5)
    assert first.commands[-1] == CANCEL


def test_a_client_that_gives_up_twice_finds_its_turn_the_third_time() -> None:
    house = proxy()
    first = Client(chat(headers=FIRST), house).stream(PING).leave(now=103.0)
    second = Client(chat(headers=SECOND), house, now=103.5).leave(now=104.5)
    first.go_on(now=105.3)
    third = Client(chat(headers={"x-stainless-retry-count": "2"}), house, now=105.4)
    first.more(say("Hello"), stop(), USAGE, DONE, now=106.0)
    assert second.ended
    assert third.go_on(now=106.0).json()["choices"][0]["message"]["content"] == "Hello"
    assert len([command for command in first.commands if isinstance(command, OpenStream)]) == 1


def test_a_listener_whose_answer_has_begun_is_not_expected_back() -> None:
    house = proxy()
    first = Client(chat(stream=True, headers=FIRST), house).stream(PING).leave(now=103.0)
    second = Client(chat(stream=True, headers=SECOND), house, now=103.2)
    first.more(say("Hel"), now=103.3)
    assert text(second.go_on(now=103.3)) == "Hel"
    second.leave(now=103.4)
    first.go_on(now=103.5)
    assert first.commands[-1] == CANCEL


def test_a_client_whose_answer_has_begun_is_not_expected_back() -> None:
    first = Client(chat(stream=True, headers=FIRST), proxy()).stream(PING, say("Hel")).leave()
    assert first.commands[-1] == CANCEL


@pytest.mark.parametrize("headers", [{}, {"x-stainless-retry-count": "many"}])
def test_nobody_else_is_expected_back(headers: Mapping[str, str]) -> None:
    assert Client(chat(headers=headers), proxy()).stream(PING).leave().commands[-1] == CANCEL


def test_a_server_that_ends_waits_for_nobody() -> None:
    house = proxy()
    first = Client(chat(headers=FIRST), house).stream(PING)
    second = Client(chat(headers=SECOND), house)
    first.leave()
    first.cycle.cancel(104.0)
    first.pump()
    assert first.commands[-1] == CANCEL
    first.answer({})
    assert second.go_on().status == 424


def test_a_transport_that_stops_leaves_neither_a_lock_nor_a_listener_behind() -> None:
    house = proxy()
    first = Client(chat(), house).stream(PING)
    second, other = Client(chat(), house), Client(chat(content="more"), house)
    first.cycle.close()
    first.cycle.close()
    assert second.go_on().status == 424
    assert type(other.go_on().commands[-1]) is OpenStream


# --- Waiting, and no longer


def test_waiting_for_a_turn_ends_with_a_409() -> None:
    house = proxy(Config(queue_timeout=5.0))
    Client(chat(), house).stream(PING)
    second = Client(chat(content="me too"), house, now=101.0)
    assert second.cycle.next_deadline() == 106.0
    second.go_on(now=105.0)
    assert not second.ended
    second.go_on(now=106.0)
    assert (second.status, second.headers["retry-after"]) == (409, "5")
    assert "did not come within 5 seconds" in second.json()["error"]["message"]


def test_lettas_silence_counts_from_the_time_when_it_was_asked() -> None:
    house = proxy(Config(first_item_timeout=10.0))
    first = Client(chat(), house).stream(PING)
    second = Client(chat(content="me too"), house)
    first.more(say("Hello"), stop(), DONE, now=150.0)
    second.go_on(now=150.0)
    assert second.cycle.next_deadline() == 160.0


def test_a_run_that_does_not_begin() -> None:
    client = Client(chat(), proxy(Config(first_item_timeout=10.0)))
    assert client.cycle.next_deadline() == 110.0
    client.go_on(now=110.0)
    assert type(client.commands[-1]) is FindRuns
    client.answer({"detail": "no such list"}, 404, now=111.0)
    assert client.status == 424
    assert "did not begin to answer within 10 seconds" in client.json()["error"]["message"]


def test_a_turn_that_takes_too_long() -> None:
    client = Client(chat(stream=True), proxy(Config(turn_timeout=30.0))).stream(PING, say("Hel"), now=129.0)
    listener = Client(chat(stream=True), client.proxy, now=129.0)
    assert client.cycle.next_deadline() == 130.0
    client.go_on(now=130.0)
    assert client.commands[-1] == CANCEL
    client.answer({}, now=130.5)
    assert b"not over within 30 seconds" in client.body
    assert b"not over within 30 seconds" in listener.go_on(now=159.5).body


def test_a_listener_outlives_its_own_patience() -> None:
    house = proxy(Config(turn_timeout=30.0))
    first = Client(chat(), house, now=100.0).stream(PING)
    listener = Client(chat(), house, now=100.0)
    listener.go_on(now=130.0)
    assert not listener.ended
    first.go_on(now=130.0)
    assert first.answer({}, now=130.0).status == 424
    assert listener.go_on(now=130.0).status == 424


def test_a_question_that_takes_too_long() -> None:
    client = Client(HttpRequest(method="GET", target="/v1/models"), proxy(Config(turn_timeout=5.0)))
    assert client.go_on(now=105.0).status == 502


# --- What is remembered


def test_lettas_lack_of_background_streams_is_remembered() -> None:
    house = proxy(Config(background=Background.ALWAYS))
    first = Client(chat(), house).answer({"detail": "no Redis"}, 503)
    [asked, again] = first.commands
    assert isinstance(asked, OpenStream)
    assert isinstance(again, OpenStream)
    assert (asked.request.background, again.request.background) == (True, False)
    first.stream(*HELLO)
    [command] = Client(chat(content="next"), house).commands
    assert isinstance(command, OpenStream)
    assert not command.request.background


@pytest.mark.parametrize(
    ("policy", "stream", "background"),
    [
        (Background.AUTO, True, False),
        (Background.AUTO, False, True),
        (Background.ALWAYS, True, True),
        (Background.NEVER, False, False),
    ],
)
def test_which_runs_are_in_the_background(policy: Background, stream: bool, background: bool) -> None:
    [command] = Client(chat(stream=stream), proxy(Config(background=policy))).commands
    assert isinstance(command, OpenStream)
    assert command.request.background is background


def test_an_agent_that_is_found_is_remembered_though_the_client_has_left() -> None:
    house = Proxy()
    client = Client(chat(headers=FIRST), house)
    assert client.commands == [FindAgent(name="Milo")]
    client.leave().answer([agent_json()])
    assert type(Client(chat(content="next"), house).cycle).__name__ == "Cycle"
    assert house.open(chat(content="x"), token="abcdef12", created=0, now=103.0).summary.agent_id == AGENT_ID


def turn() -> Turn:
    return make_turn(TurnRequest(model="Milo"), agent=AGENT)


def key(name: str) -> Fingerprint:
    return Fingerprint.of("/a", {}, RequestContent.of(name.encode()))


def test_answers_take_up_a_limited_room() -> None:
    turns = TurnRegistry(ttl=100.0, max_size=5000)
    for number in range(4):
        known = turns.begin(key(str(number)), turn())
        known.add(TextDelta(text="x" * 500))
        known.add(TextDelta(text="y" * 500))
        known.add(TurnFinished(reason=FinishReason.STOP, usage=None))
        turns.end(key(str(number)), known, now=0.0)
        assert known.size == 2024
        assert known.events[0] == TextDelta(text="x" * 500 + "y" * 500)
    assert [turns.recall(key(str(number)), 1.0) is not None for number in range(4)] == [
        False,
        False,
        True,
        True,
    ]


def test_an_answer_that_nobody_will_ask_for_again_takes_no_room() -> None:
    turns = TurnRegistry(ttl=100.0, max_size=5000)
    known = turns.begin(key("a"), turn(), is_sent_again=False)
    known.add(TurnFinished(reason=FinishReason.STOP, usage=None))
    turns.end(key("a"), known, now=0.0)
    assert turns.recall(key("a"), 1.0) is None
    assert known.turn is None


def test_a_turn_that_runs_is_not_forgotten_and_one_that_was_replaced_is() -> None:
    turns = TurnRegistry(ttl=1.0, max_size=0)
    running = turns.begin(key("a"), turn())
    assert turns.recall(key("a"), 1e9) is running
    replaced = turns.begin(key("b"), turn())
    turns.begin(key("b"), turn())
    turns.end(key("b"), replaced, 5.0)
    assert turns.recall(key("b"), 5.0) is not replaced


def test_a_turn_that_broke_off_before_it_had_a_name_leaves_nothing_to_look_into() -> None:
    assert TurnEntry(turn()).earlier is None


@pytest.mark.parametrize(("value", "count"), [("0", 0), ("2", 2), ("", None), ("x", None), ("9" * 9999, 9999)])
def test_how_often_a_request_was_sent(value: str, count: int | None) -> None:
    sending = read_retry_info({"x-stainless-retry-count": value})
    assert (sending.count, sending.tells, sending.is_repeat) == (count, count is not None, bool(count))


@pytest.mark.parametrize(("value", "named"), [("k-1", True), ("", False)])
def test_an_idempotency_key_is_a_sign_unless_it_is_empty(value: str, named: bool) -> None:
    sending = read_retry_info({"idempotency-key": value})
    assert (sending.count, sending.tells, sending.is_repeat) == (None, named, named)


def test_a_fingerprint_tells_its_parts_apart() -> None:
    body, other = RequestContent.of(b"b"), RequestContent.of(b"a")
    chat, conversation = Chat(key="c"), NamedConversation(conversation_id="c")
    fingerprints = [
        Fingerprint.of("/a", {}, body),
        Fingerprint.of("/a", {}, body, scope=("realm", None)),
        Fingerprint.of("/a", {}, RequestContent.of(b"b", shape="approvals=deny")),
        Fingerprint.of("/b", {}, body),
        Fingerprint.of("/a", {"authorization": "b"}, body),
        Fingerprint.of("/a", {"api-key": "b"}, body),
        Fingerprint.of("/a", {"x-api-key": "b"}, body),
        Fingerprint.of("/a", {}, other),
        Fingerprint.of("/a", {}, RequestContent.of(b"b", chat)),
        Fingerprint.of("/a", {}, RequestContent.of(b"b", conversation)),
        Fingerprint.of("/a", {"idempotency-key": "b"}, body),
        Fingerprint.of("/a", {"idempotency-key": "c"}, body),
    ]
    assert len(set(fingerprints)) == len(fingerprints)
    assert Fingerprint.of("/a", {}, RequestContent.of(b"b", Chat(key="c"))) in fingerprints, "by its value"
    assert Fingerprint.of("/a", {"idempotency-key": "b"}, other) in fingerprints, "the key stands for the body"


@pytest.mark.parametrize("thread", [None, Throwaway(token="first"), Throwaway(token="second")])
def test_a_retry_of_a_background_prompt_is_the_same_request(thread: ThreadChoice) -> None:
    assert RequestContent.of(b"b", thread) == RequestContent.of(b"b")


def test_a_conflict_is_settled_for_listeners_too() -> None:
    house = proxy()
    first = Client(chat(), house).stream(PING, stop("error"), CONFLICT, DONE)
    second = Client(chat(), house)
    first.answer(agent_json("call-1")).stream(*HELLO)
    done: Any = second.go_on().json()
    assert done["choices"][0]["message"]["content"] == "Hello"
    assert second.cycle.summary.settled is not None


def test_what_cannot_be_looked_into_is_not_said_again() -> None:
    house = proxy(Config().without_pauses())
    first = Client(chat(stream=True), house).stream(PING, say("Hel"))
    first.fail(Failure.BROKEN).fail(Failure.SILENT).answer({})
    second = Client(chat(headers=SECOND, stream=True), house)
    assert second.commands == [FetchRun(run_id=RUN_ID)]
    assert second.fail(Failure.SILENT).status == 424
    third = Client(chat(headers=SECOND, stream=True), house)
    assert third.commands == [FetchRun(run_id=RUN_ID)]


def test_a_turn_that_went_on_and_failed_is_gone_on_with_from_the_same_place() -> None:
    house = proxy(Config().without_pauses())
    Client(chat(stream=True), house).stream(PING, say("Hel")).leave().answer({})
    book = {"id": RUN_ID, "status": "cancelled", "stop_reason": "cancelled"}
    returned = {"message_type": "tool_return_message", "id": "m", "tool_call_id": "c", "tool_return": "x"}
    heard = {"message_type": "user_message", "content": "hi"}
    for _ in range(2):
        again = Client(chat(stream=True), house)
        again.answer(book).answer([heard, returned]).answer(USAGE)
        [command] = [item for item in again.commands if isinstance(item, OpenStream)]
        assert b'"hi"' not in command.body
        again.stream(PING, stop("llm_api_error"), error("llm_rate_limit"), DONE)
        assert b'"type":"upstream_error"' in again.body


def test_who_has_left_for_good_gets_no_comments() -> None:
    client = Client(chat(stream=True), proxy()).stream(PING, say("Hel"), now=102.0)
    client.cycle.cancel(110.0)
    client.pump()
    client.body = b""
    client.fail(Failure.NOT_SENT, now=111.0)
    client.go_on(now=130.0)
    assert client.body == b""
