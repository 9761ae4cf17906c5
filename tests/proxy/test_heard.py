"""What threads have heard: looked up, remembered, waited for."""

from typing import Any

import pytest

from drive import JSON, PING, USAGE, agent_json, stop, want
from drive_cycle import Client, chat
from faults.keeping import Head
from ledger.core import CoreSide, Ending, How, Reply
from ledger.letta import Pace
from sansio_letta import Config, Proxy
from sansio_letta.errors import Failure, Kept
from sansio_letta.proxy.heard_memory import HeardMemory
from sansio_letta.turn.events import AgentThread
from sansio_letta.turn.ledger import ROOT, Heard, SentInput, digest
from sansio_letta.turn.request import Mark, ToolResult, TurnRequest, UserMessage
from sansio_letta.turn.settlement import NO_RESULT_YET
from sansio_letta.upstreams.rest.commands import FetchAgent, FetchMessages, OpenStream

TOOLS = [{"type": "function", "function": {"name": "get_weather"}}]
STOPPED = Ending(how=How.STOPPED, at=3)


def ask(
    side: CoreSide,
    *messages: dict[str, Any],
    replica: int = 0,
    ending: Ending | None = None,
    key: str | None = None,
) -> Reply:
    """Ask for an answer to these messages."""
    body = {"model": "Milo", "stream": True, "messages": list(messages), "tools": TOOLS}
    headers = {"x-letta-chat-key": key} if key else {}
    return side.ask(body, headers, replica=replica, ending=ending or Ending())


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def agent(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def called(*call_ids: str) -> dict[str, Any]:
    calls = [
        {"id": call_id, "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
        for call_id in call_ids
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result(call_id: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


LATE = Ending(how=How.STOPPED, at=3, pace=Pace.LATE)


@pytest.mark.parametrize("key", [None, "chat-1"], ids=["own thread", "chat"])
def test_a_step_that_ended_before_its_cancel_was_noticed_is_not_told_again(key: str | None) -> None:
    side = CoreSide()
    part = ask(side, user("talk A"), ending=LATE, key=key).text
    assert side.thread(key).texts("user_message") == []
    reply = ask(side, user("talk A"), agent(part), user("talk B"), key=key)
    assert reply.is_whole
    assert side.now == side.config.cancelled_run_timeout
    assert side.thread(key).texts("user_message") == ["talk A", "talk B"]
    assert [text.partition(" goes")[2] for text in side.thread(key).texts("assistant_message")] == [" on"] * 2


def test_a_repeat_of_what_was_stopped_is_answered_with_what_was_kept() -> None:
    side = CoreSide()
    part = ask(side, user("talk A"), ending=LATE).text
    assert ask(side, user("talk A")).text.startswith(part)
    assert side.thread(None).texts("user_message") == ["talk A"]


def test_once_a_cancelled_run_has_had_its_time_nothing_waits() -> None:
    side = CoreSide()
    ask(side, user("talk A"), ending=LATE)
    side.letta.settle()
    side.now += side.config.cancelled_run_timeout
    before = side.now
    assert ask(side, user("talk A"), agent("answer"), user("talk B")).look_up_count == 1
    assert side.now == before
    assert side.thread(None).texts("user_message") == ["talk A", "talk B"]


def test_a_message_of_another_client_waits_for_a_call_until_the_time_is_up() -> None:
    side = CoreSide()
    ask(side, user("call A"))
    reply = ask(side, agent("hello"), user("talk B"))
    assert reply.is_whole
    assert side.now == pytest.approx(side.config.pending_call_timeout)


def test_a_message_of_the_same_client_does_not_wait() -> None:
    side = CoreSide()
    (call_id,) = ask(side, user("call A")).calls
    assert ask(side, user("call A"), called(call_id), user("talk on")).is_whole
    assert side.now == 0.0


def test_a_message_that_waits_goes_on_when_the_results_have_come() -> None:
    proxy = Proxy(Config())
    first = Client(chat(tools=TOOLS, content="A"), proxy).answer([agent_json()])
    first.stream(PING, want("call-1", "get_weather", "{}"), stop("requires_approval"), USAGE, "[DONE]").more()
    assert first.ended
    other = Client(chat(messages=[agent("hello"), user("B")]), proxy, token="second12")
    other.show_heard()
    assert other.waits
    count = len(other.commands)
    assert other.go_on(now=104.0).waits, "woken for nothing, it asks nothing"
    assert len(other.commands) == count
    messages = [user("A"), called("call-1"), result("call-1", "18 C")]
    results = Client(chat(messages=messages, tools=TOOLS), proxy, token="third123", now=105.0)
    results.answer(agent_json("call-1"), now=106.0)
    assert [type(command) for command in results.commands] == [FetchAgent, OpenStream]
    assert other.woken == 0
    results.stream(PING, stop(), USAGE, "[DONE]", now=107.0).more()
    assert results.ended
    assert other.woken
    other.go_on(now=108.0)
    other.show_heard()
    while not isinstance(other.commands[-1], OpenStream):
        other.answer(agent_json(), now=109.0)
    assert not other.waits


def test_a_late_result_is_told_as_text_and_named_in_the_response() -> None:
    side = CoreSide()
    (call_id,) = ask(side, user("call A")).calls
    ask(side, agent("hello"), user("talk B"))
    reply = ask(side, user("call A"), called(call_id), result(call_id, "18 C"))
    assert reply.is_whole
    assert "tool_call_id" in reply.headers["x-ignored-parameters"]
    (told,) = [text for text in side.thread(None).texts("system_message") if "18 C" in text]
    assert told.startswith("[Result of get_weather;")


def test_a_late_result_is_told_if_the_message_that_came_instead_was_stopped() -> None:
    side = CoreSide()
    (call_id,) = ask(side, user("call A")).calls
    ask(side, system("nudge"), ending=STOPPED)
    ask(side, system("nudge"), user("talk B"))
    assert [text for _, text in side.thread(None).returns()] == [NO_RESULT_YET]
    shown = user("call A"), called(call_id)
    said = ask(side, *shown, user("talk C"))
    late = *shown, result(call_id, "18 C"), user("talk C"), agent(said.text), user("talk D")
    said = ask(side, *late)
    reply = ask(side, *late, agent(said.text), user("talk E"))
    assert reply.look_up_count == 0
    (told,) = [text for text in side.thread(None).texts("system_message") if "18 C" in text]
    assert told.startswith("[Result of get_weather; it arrived after")


@pytest.mark.parametrize("last", ["nudge", "another nudge"])
def test_instructions_in_front_of_a_nudge_are_told_when_they_have_changed(last: str) -> None:
    side = CoreSide()
    ask(side, system("be brief"), system("nudge"))
    for _ in range(2):
        assert ask(
            side, system("be verbose"), system("nudge"), *([system(last)] if last != "nudge" else [])
        ).is_whole
    told = side.thread(None).texts("system_message")[1:]
    assert told == ["be brief", "nudge", "be verbose", last, last]


def test_a_message_that_was_queued_waits_for_results_no_longer_than_others() -> None:
    proxy = Proxy(Config(pending_call_timeout=1.0))
    first = Client(chat(tools=TOOLS, content="A"), proxy).answer([agent_json()])
    other = Client(chat(content="B"), proxy, token="second12", now=101.0)
    assert other.waits
    first.stream(PING, want("call-1", "get_weather", "{}"), stop("requires_approval"), USAGE, "[DONE]").more()
    assert first.ended
    assert other.go_on(now=102.0).waits
    assert other.commands == []
    assert other.cycle.next_deadline() <= 103.0


def test_results_under_other_ids_are_matched_while_their_calls_wait_and_not_given_to_anothers() -> None:
    side = CoreSide()
    ask(side, user("call A"))
    reply = ask(side, user("call A"), called("toolu_1"), result("toolu_1", "18 C"))
    assert reply.is_whole
    assert [text for _, text in side.thread(None).returns()] == ["18 C"]
    ask(side, agent("hello"), user("call B"))
    ask(side, user("call A"), called("toolu_1"), result("toolu_1", "18 C"), user("talk on"))
    assert [text for _, text in side.thread(None).returns()].count("18 C") == 1


def test_results_of_another_models_calls_are_told_as_text() -> None:
    side = CoreSide()
    ask(side, user("talk A"))
    reply = ask(side, user("talk A"), called("call_of_gpt"), result("call_of_gpt", "18 C"))
    assert reply.is_whole
    (told,) = [text for text in side.thread(None).texts("system_message") if "18 C" in text]
    assert told.startswith("[Result of get_weather; its call is not in your history:]")


@pytest.mark.parametrize("is_restarted", [False, True])
def test_results_that_come_again_are_answered_from_what_letta_has(is_restarted: bool) -> None:
    side = CoreSide()
    (call_id,) = ask(side, user("call A")).calls
    messages = user("call A"), called(call_id), result(call_id, "18 C")
    first = ask(side, *messages)
    if is_restarted:
        side.restart(0)
    assert ask(side, *messages).text == first.text
    assert [text for _, text in side.thread(None).returns()] == ["18 C"]


def test_a_retry_after_a_restart_is_answered_from_what_letta_has() -> None:
    side = CoreSide()
    body = {"model": "Milo", "stream": True, "messages": [user("talk A")]}
    side.ask(body, {"x-stainless-retry-count": "0"}, ending=Ending(how=How.STOPPED, at=6, pace=Pace.ENDED))
    side.restart(0)
    reply = side.ask(body, {"x-stainless-retry-count": "1"})
    assert reply.is_whole
    assert side.thread(None).texts("user_message") == ["talk A"]
    assert "x-letta-input" not in reply.headers


def test_the_response_says_that_a_message_was_said_again_or_edited() -> None:
    side = CoreSide()
    ask(side, user("talk A"))
    answer = ask(side, user("talk A"), agent("answer"), user("talk B"))
    again = ask(side, user("talk A"), agent("answer"), user("talk B"))
    edited = ask(side, user("talk A"), agent("answer"), user("talk C"))
    headers = [reply.headers.get("x-letta-input") for reply in (answer, again, edited)]
    assert headers == [None, "repeated", "edited"]


@pytest.mark.parametrize(
    "fault",
    [Failure.BROKEN, Head(status=500, headers=JSON), b'[{"message_type": "user_mess', b"[1]", b"{}"],
    ids=["broken", "status", "cut", "numbers", "object"],
)
def test_a_look_up_that_fails_fails_the_turn_and_nothing_is_lost(fault: Head | Failure | bytes) -> None:
    side = CoreSide()
    ask(side, user("talk A"))
    side.restart(0)
    side.letta.look_up_fault = fault
    messages = user("talk A"), agent("cut"), user("talk B")
    reply = ask(side, *messages)
    assert reply.status is not None
    assert reply.status >= 500
    assert reply.headers.get("x-should-retry") != "false"
    assert side.thread(None).texts("user_message") == ["talk A"]
    side.letta.look_up_fault = None
    assert ask(side, *messages).is_whole
    assert side.thread(None).texts("user_message") == ["talk A", "talk B"]


def test_messages_of_several_parts_are_known_again_when_they_are_older() -> None:
    """Coding agents add the state of the editor to each user message, as a part of its own."""
    side = CoreSide()
    said: list[dict[str, Any]] = []
    for name, ending in (("A", Ending()), ("B", STOPPED), ("C", STOPPED), ("D", Ending())):
        parts = [{"type": "text", "text": text} for text in (f"talk {name}", "state")]
        said.append({"role": "user", "content": parts})
        said.append(agent(ask(side, *said, ending=ending).text))
    thread = side.thread(None)
    assert thread.texts("user_message") == [f"talk {name}\nstate" for name in "ABCD"]
    assert thread.texts("assistant_message") == [message["content"] for message in said[1::2]]


def test_a_thread_longer_than_what_is_listed_goes_by_the_last_messages() -> None:
    side = CoreSide(config=Config(lookback_count=4))
    said: list[dict[str, Any]] = []
    for number in range(6):
        said.append(user(f"talk {number}"))
        said.append(agent(ask(side, *said).text))
    side.restart(0)
    assert ask(side, *said, user("talk 6")).is_whole
    assert side.thread(None).texts("user_message") == [f"talk {number}" for number in range(7)]


def test_a_mark_that_another_program_has_forged_hides_no_message() -> None:
    side = CoreSide()
    ask(side, user("talk A"))
    forged = [message for message in side.thread(None).messages if message["message_type"] == "user_message"]
    side.thread(None).messages.append({**forged[0], "otid": "lp1-" + "0" * 32 + "-" + "f" * 32})
    side.thread(None).messages.append({**forged[0], "otid": "lp1-not-a-mark", "content": "else"})
    side.restart(0)
    assert ask(side, user("talk A"), agent("answer"), user("talk B"), user("talk C")).is_whole
    heard = side.thread(None).texts("user_message")
    assert heard[-2:] == ["talk B", "talk C"]


def in_the_background(side: CoreSide) -> tuple[dict[str, Any], ...]:
    """A tool goes on behind its first result, and ends while the agent answers something else.

    :return: the messages up to that answer, before which the client puts the result.
    """
    (call_id,) = ask(side, user("call A")).calls
    running = user("call A"), called(call_id), result(call_id, "It is running.")
    answer = ask(side, *running, user("talk on"))
    final = f"{call_id}_final"
    return (*running, user("talk on"), called(final), result(final, "18 C"), agent(answer.text))


def told_results(side: CoreSide) -> list[str]:
    return [text for text in side.thread(None).texts("system_message") if text.startswith("[Result")]


@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize("last", [{"role": "system", "content": "A result is in."}, user("talk of it")])
def test_a_result_before_an_answer_is_told_once(last: dict[str, Any], is_restarted: bool) -> None:
    side = CoreSide()
    shown = in_the_background(side)
    if is_restarted:
        side.restart(0)
    reply = ask(side, *shown, last)
    assert reply.is_whole
    assert "tool_call_id" in reply.headers["x-ignored-parameters"]
    (told,) = told_results(side)
    assert told == "[Result of get_weather; its call is not in your history:]\n18 C"
    reply_2 = ask(side, *shown, last, agent(reply.text), user("talk on"))
    side.restart(0)
    ask(side, *shown, last, agent(reply.text), user("talk on"), agent(reply_2.text), user("bye"))
    assert told_results(side) == [told]


def test_a_result_before_an_answer_is_told_by_one_replica_alone() -> None:
    side = CoreSide()
    shown = in_the_background(side)
    nudge = {"role": "system", "content": "A result is in."}
    stopped = ask(side, *shown, nudge, ending=Ending(how=How.STOPPED, at=4, pace=Pace.ENDED))
    ask(side, *shown, nudge, agent(stopped.text), user("talk on"), replica=1)
    ask(side, *shown, nudge, agent(stopped.text), user("talk on"), agent("cut"), user("bye"))
    assert len(told_results(side)) == 1


def test_a_result_before_an_answer_is_told_again_if_its_run_was_lost() -> None:
    side = CoreSide()
    shown = in_the_background(side)
    stopped = ask(side, *shown, user("talk of it"), ending=Ending(how=How.STOPPED, at=2))
    assert told_results(side) == []
    assert ask(side, *shown, user("talk of it"), agent(stopped.text), user("talk on")).is_whole
    assert len(told_results(side)) == 1


def test_a_result_behind_that_of_a_call_that_waits_is_not_taken_for_it() -> None:
    side = CoreSide()
    (call_id,) = ask(side, user("call A")).calls
    final = "call_of_before_final"
    shown = user("call A"), called(call_id), result(call_id, "in time"), called(final), result(final, "18 C")
    assert ask(side, *shown).is_whole
    assert side.thread(None).returns() == [(call_id, "in time")]
    assert len(told_results(side)) == 1


def test_a_result_before_that_of_a_call_that_waits_is_told_beside_it() -> None:
    side = CoreSide()
    (call_id,) = ask(side, user("call A")).calls
    final = "call_of_before_final"
    shown = user("call A"), called(final), result(final, "18 C"), called(call_id), result(call_id, "in time")
    assert ask(side, *shown).is_whole
    assert side.thread(None).returns() == [(call_id, "in time")]
    assert len(told_results(side)) == 1


def test_a_result_beside_that_of_a_call_that_waits_is_told_after_a_restart() -> None:
    side = CoreSide()
    (call_id,) = ask(side, user("call A")).calls
    side.restart(0)
    final = "call_of_before_final"
    shown = user("call A"), called(final), result(final, "18 C"), called(call_id), result(call_id, "in time")
    reply = ask(side, *shown)
    assert (reply.is_whole, reply.look_up_count) == (True, 1)
    (next_id,) = ask(side, *shown, agent(reply.text), user("call B")).calls
    later = agent(reply.text), user("call B"), called(next_id), result(next_id, "20 C")
    assert ask(side, *shown, *later).look_up_count == 0
    assert len(told_results(side)) == 1


def test_results_of_another_models_answers_are_told_no_more_than_their_messages() -> None:
    side = CoreSide()
    ask(side, user("talk A"))
    other = user("talk X"), called("call_of_gpt"), result("call_of_gpt", "18 C"), agent("It is 18 C.")
    assert ask(side, user("talk A"), agent("answer"), *other, user("talk B")).is_whole
    assert ask(side, *other, user("talk Y"), *other, user("talk C")).is_whole
    assert told_results(side) == []


def test_results_under_other_ids_are_not_told_again_after_a_restart() -> None:
    side = CoreSide()
    ask(side, user("call A"))
    shown = user("call A"), called("toolu_1"), result("toolu_1", "18 C")
    answer = ask(side, *shown)
    side.restart(0)
    assert ask(side, *shown, agent(answer.text), user("talk on")).is_whole
    assert told_results(side) == []


def test_an_agents_many_calls_cost_no_look_up() -> None:
    side = CoreSide()
    said = [user("calls A")]
    for number in range(50):
        reply = ask(side, *said)
        assert reply.look_up_count == 0
        said += [called(*reply.calls), *(result(call_id, f"{number} C") for call_id in reply.calls)]
        said += [agent(ask(side, *said).text)] if number % 2 else []
        said += [user(f"calls {number}")]
    assert told_results(side) == []


def test_a_thread_that_is_not_read_is_told_no_result_before_an_answer() -> None:
    side = CoreSide(config=Config(lookback_count=0))
    shown = in_the_background(side)
    assert ask(side, *shown, user("talk on")).is_whole
    assert told_results(side) == []


def test_what_is_remembered_is_bounded() -> None:
    memory = HeardMemory(max_count=3)
    for number in range(10):
        thread = AgentThread(agent_id=f"agent-{number}")
        for index in range(100):
            results = tuple(ToolResult(call_id=f"{index} {at}", content="") for at in range(100))
            request = TurnRequest(model="Milo", transcript=results)
            message = UserMessage(content="x", mark=Mark(digest("user", f"{index}"), ROOT))
            for kept in (Kept.SOMETHING, Kept.NOTHING, Kept.UNKNOWN):
                sent = SentInput(messages=(message,), kept=kept, unanswered=(f"{kept} {index}",))
                memory.learn_sent(thread, sent, request)
            if not number % 2:
                memory.learn_heard(thread, Heard(messages=memory._threads[thread].messages))
    assert len(memory._threads) == 3
    known = memory._threads[thread]
    assert len(known.messages) <= 32
    assert len(known.unkept) <= 32
    assert len(known.unanswered) <= 32
    assert len(known.results) <= 128


def test_a_client_that_stops_behind_the_last_word_gets_the_kept_answer_when_it_asks_again() -> None:
    side = CoreSide()
    stopped = ask(side, user("talk A"), ending=Ending(how=How.STOPPED, at=4, pace=Pace.STEP_KEPT))
    reply = ask(side, user("talk A"))
    assert reply.is_whole
    assert reply.text == stopped.text
    assert side.thread(None).texts("user_message") == ["talk A"]


def test_the_first_message_of_a_chat_costs_no_look_up() -> None:
    client = Client(chat(), Proxy(Config())).answer([agent_json()])
    assert not any(isinstance(command, FetchMessages) for command in client.commands)


def test_a_message_behind_late_results_may_be_asked_again_and_again() -> None:
    side = CoreSide()
    first = ask(side, user("calls A"))
    late = [result(call_id, f"{number} C") for number, call_id in enumerate(first.calls)]
    ask(side, user("calls A"), called(*first.calls), user("talk B"))
    messages = user("calls A"), called(*first.calls), *late, user("talk B")
    for _ in range(2):
        assert ask(side, *messages).headers["x-letta-input"] == "repeated"
    (told, _) = [text for text in side.thread(None).texts("system_message") if " C" in text]
    assert told.endswith("0 C")
