"""Tools that wait for a human's word: which answers count, and what a turn does with each policy."""

from typing import Any

import orjson
import pytest
from attrs import evolve

from drive import (
    AGENT,
    AGENT_ID,
    CONFLICT,
    DONE,
    PING,
    RUN_ID,
    TOOL_RETURN,
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
from sansio_letta import Approvals, Config, Kept, Proxy, Signal, Turn
from sansio_letta.config import InstructionPolicy
from sansio_letta.errors import Failure
from sansio_letta.turn.agent import PendingCall
from sansio_letta.turn.approval import Verdict, approval_question, read_verdict
from sansio_letta.turn.events import (
    CallsSettled,
    ConversationThread,
    Event,
    FinishReason,
    TextDelta,
    TurnFailed,
    TurnFinished,
    Usage,
)
from sansio_letta.turn.request import Chat, ThreadChoice, Throwaway, UserMessage
from sansio_letta.turn.settlement import NO_RESULT_YET
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.commands import (
    CancelRun,
    Command,
    DeleteConversation,
    FetchAgent,
    FetchLast,
    OpenStream,
)
from sansio_letta.upstreams.rest.recovery import EarlierTurn
from support import heard, instructions

ALLOW, DENY = Config(approvals=Approvals.ALLOW), Config(approvals=Approvals.DENY)
RM = PendingCall(call_id="call-1", name="rm", arguments="{}")
QUESTION = approval_question([RM])
WAITS = (PING, say("Hm."), want("call-1", "rm", "{}"), stop("requires_approval"), USAGE, DONE)
GOES_ON = (PING, say("Done.", id="message-9"), stop(), USAGE, DONE)


@pytest.mark.parametrize("text", ["approve", "Approve.", " YES! ", "**approved**", "`yes`"])
def test_words_that_approve(text: str) -> None:
    assert read_verdict([text], QUESTION) == Verdict(approve=True, seen=QUESTION)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("deny", None), ("No.", None), ("Deny: too dangerous!", "too dangerous"), ("deny it\nnow", "it\nnow")],
)
def test_words_that_deny(text: str, reason: str | None) -> None:
    assert read_verdict([text], None) == Verdict(approve=False, reason=reason)


@pytest.mark.parametrize("text", ["yes, but not there", "no idea", "approve it", "denying", "ok", "", "?"])
def test_anything_else_is_a_message(text: str) -> None:
    assert read_verdict([text], None) is None
    assert read_verdict(["yes", text], None) is None


def test_long_arguments_are_cut_in_the_question_and_known_again() -> None:
    call = PendingCall(call_id="1", name="write", arguments="x" * 5000)
    question = approval_question([call])
    assert "... and 1000 characters more" in question
    assert Verdict(approve=True, seen=f"Hm.\n\n{question}").is_on([call])


def turn_with(verdict: Verdict, *, config: Config | None = None, **more: Any) -> Turn:

    return make_turn(evolve(turn_request("yes", **more), verdict=verdict), config or Config(), AGENT)


def sent(items: list[Event | Command]) -> list[dict[str, Any]]:
    (command,) = [item for item in items if isinstance(item, OpenStream)]
    found: list[dict[str, Any]] = orjson.loads(command.body)["messages"]
    return found


def text_of(items: list[Event | Command]) -> str:
    return "".join(item.text for item in items if isinstance(item, TextDelta))


def test_an_approval_settles_all_that_waits_and_is_no_message() -> None:
    turn = turn_with(Verdict(approve=True))
    assert drain(turn) == [FetchAgent(agent_id=AGENT_ID)]
    [approval] = sent(answer(turn, agent_json("call-1", "call-2", name="rm")))
    assert approval["approvals"] == [
        {"tool_call_id": call_id, "approve": True, "type": "approval"} for call_id in ("call-1", "call-2")
    ]
    assert text_of(stream(turn, *GOES_ON)) == "Done."


def test_a_denial_takes_its_reason_along() -> None:
    turn = turn_with(Verdict(approve=False, reason="too cold"))
    drain(turn)
    items = answer(turn, agent_json("call-1", name="rm"))
    assert items[0] == CallsSettled(denied=("call-1",))
    [approval] = sent(items)
    assert approval["approvals"][0]["reason"] == "too cold"


def test_an_approval_of_nothing_is_a_message() -> None:
    turn = turn_with(Verdict(approve=True))
    drain(turn)
    [message] = sent(answer(turn, agent_json()))
    assert message["content"] == "yes"


def test_what_was_not_shown_is_not_approved_but_asked() -> None:
    turn = turn_with(Verdict(approve=True, seen="Shall I go on?"))
    drain(turn)
    items = answer(turn, agent_json("call-1", name="rm"))
    assert text_of(items) == QUESTION
    assert isinstance(items[-1], TurnFinished)


def test_what_was_not_shown_is_denied_with_the_message() -> None:
    turn = turn_with(Verdict(approve=False, seen="Shall I go on?"))
    drain(turn)
    approval, message = sent(answer(turn, agent_json("call-1", name="rm")))
    assert approval["approvals"][0]["approve"] is False
    assert message["content"] == "yes"


def test_where_tools_are_denied_no_word_allows_them() -> None:
    turn = turn_with(Verdict(approve=True), config=DENY)
    drain(turn)
    approval, _ = sent(answer(turn, agent_json("call-1", name="rm")))
    assert approval["approvals"][0]["approve"] is False


@pytest.mark.parametrize(("config", "approve"), [(ALLOW, True), (DENY, False)])
def test_without_a_question_the_answer_goes_on_as_one(config: Config, approve: bool) -> None:
    turn = make_turn(turn_request("hi"), config, AGENT)
    drain(turn)
    first = stream(turn, *WAITS)
    [approval] = sent(first)
    assert approval["approvals"][0]["approve"] is approve
    second = stream(turn, *GOES_ON)
    assert text_of(first + second) == "Hm.\n\nDone."
    assert [item for item in first + second if isinstance(item, TurnFinished)] == [
        TurnFinished(
            reason=FinishReason.STOP,
            usage=Usage(prompt_tokens=200, completion_tokens=40, total_tokens=240),
        )
    ]
    assert turn.next_event() is Signal.FINISHED


def test_with_a_clients_call_beside_it_the_client_comes_first() -> None:
    turn = make_turn(turn_request("hi", tools=[WEATHER]), ALLOW, AGENT)
    drain(turn)
    items = stream(
        turn,
        PING,
        want("call-1", "rm", "{}"),
        want("call-2", "get_weather", "{}"),
        stop("requires_approval"),
        DONE,
    )
    assert items[-1] == TurnFinished(reason=FinishReason.TOOL_CALLS, usage=None)
    turn = make_turn(turn_request(results=["call-2"], tools=[WEATHER]), ALLOW, AGENT)
    drain(turn)
    agent = agent_json("call-1", name="rm")
    agent["pending_approval"]["tool_calls"] += agent_json("call-2")["pending_approval"]["tool_calls"]
    [approval] = sent(answer(turn, agent))
    assert [(item["type"], item.get("approve")) for item in approval["approvals"]] == [
        ("approval", True),
        ("tool", None),
    ]


def test_an_agent_that_never_ends_is_ended() -> None:
    turn = make_turn(turn_request("hi"), Config(approvals=Approvals.DENY, max_approval_count=1), AGENT)
    drain(turn)
    stream(turn, *WAITS)
    finished = stream(turn, *WAITS)[-1]
    assert isinstance(finished, TurnFinished)
    assert finished.reason is FinishReason.LENGTH


def begun_in(thread: ThreadChoice, config: Config, **more: Any) -> tuple[Turn, OpenStream]:
    """A turn that a new conversation was made for."""
    asked = evolve(
        turn_request("hi"),
        thread=thread,
        history=(UserMessage(content="before"),),
        instructions=instructions("Be kind.", policy=more.pop("policy", InstructionPolicy.ALWAYS)),
    )
    turn = make_turn(asked, config, AGENT, **more)
    drain(turn)
    [command] = answer(turn, {"id": "conv-9", "agent_id": AGENT_ID})
    assert isinstance(command, OpenStream)
    return turn, command


def test_a_task_that_never_ends_leaves_nothing_behind() -> None:
    turn, _ = begun_in(Throwaway(token="t-1"), Config(approvals=Approvals.DENY, max_approval_count=0))
    assert stream(turn, *WAITS)[-1] == DeleteConversation(conversation_id="conv-9")
    answer(turn, None)
    assert turn.phase.name == "DONE"


@pytest.mark.parametrize(
    ("policy", "said", "override"),
    [
        (InstructionPolicy.ALWAYS, ["Be kind.", "before", "hi"], None),
        (InstructionPolicy.OVERRIDE, ["before", "hi"], "Be kind."),
    ],
)
def test_the_input_is_said_in_the_first_run_alone(
    policy: InstructionPolicy, said: list[str], override: str | None
) -> None:
    turn, first = begun_in(Throwaway(token="t-1"), ALLOW, policy=policy)
    second = stream(turn, *WAITS)[-1]
    assert isinstance(second, OpenStream)
    assert [item.content for item in first.request.messages if isinstance(item, letta.MessageCreate)] == said
    assert [item for item in second.request.messages if isinstance(item, letta.MessageCreate)] == []
    assert (first.request.override_system, second.request.override_system) == (override, override)


@pytest.mark.parametrize("waits", [True, False])
def test_an_earlier_turn_in_a_conversation_waits_for_nobody(waits: bool) -> None:
    asked = evolve(turn_request("hi"), thread=Chat(key="c-1"))
    thread = ConversationThread(conversation_id="conv-9")
    turn = make_turn(asked, ALLOW, AGENT, thread=thread, earlier=EarlierTurn(run_id="run-0"))
    drain(turn)
    answer(turn, {"id": "run-0", "status": "completed", "stop_reason": "requires_approval"})
    heard = {"message_type": "user_message", "id": "message-0", "content": "hi"}
    answer(turn, [heard, want("call-1", "rm", "{}")])
    assert answer(turn, USAGE)[-1] == FetchLast(conversation_id="conv-9")
    items = answer(turn, [want("call-1" if waits else "call-2", "rm", "{}")])
    if waits:
        assert [each["approve"] for each in sent(items)[0]["approvals"]] == [True]
    else:
        assert isinstance(items[-1], TurnFailed)
        assert "went on meanwhile" in items[-1].error.message


@pytest.mark.parametrize(("result", "said"), [("Removed.", []), (NO_RESULT_YET, ["yes"])])
def test_a_yes_is_said_again_unless_it_was_the_answer_to_a_call(result: str, said: list[str]) -> None:
    """Of the earlier turn Letta has kept the result alone."""
    asked = evolve(turn_request("yes"), verdict=Verdict(approve=True))
    turn = make_turn(asked, ALLOW, AGENT, earlier=EarlierTurn(run_id="run-0"))
    drain(turn)
    answer(turn, {"id": "run-0", "status": "cancelled", "stop_reason": "cancelled"})
    answer(turn, [TOOL_RETURN | {"tool_call_id": "call-1", "status": "success", "tool_return": result}])
    again, *messages = sent(answer(turn, USAGE))
    assert [each["tool_return"] for each in again["approvals"]] == [result]
    assert [each["content"] for each in messages] == said


@pytest.mark.parametrize("failing", [(error("llm_error"),), (CONFLICT,)], ids=["failure", "refusal"])
def test_after_the_first_run_something_is_kept(failing: tuple[dict[str, Any], ...]) -> None:
    turn = make_turn(turn_request("hi"), ALLOW, AGENT)
    drain(turn)
    stream(turn, *WAITS)
    failed = stream(turn, PING, stop("error"), *failing, DONE)[-1]
    assert isinstance(failed, TurnFailed)
    assert failed.kept is Kept.SOMETHING


def test_a_second_run_that_is_lost_is_told_to_its_end() -> None:
    turn = make_turn(turn_request("hi"), ALLOW, AGENT)
    drain(turn)
    stream(turn, *WAITS)
    assert turn.state.run_id == RUN_ID
    assert text_of(stream(turn, PING, say("Do", id="message-9"), end=False)) == "\n\nDo"
    turn.receive_failure(Failure.BROKEN, "connection reset")
    drain(turn)
    answer(turn, {"id": RUN_ID, "status": "completed", "stop_reason": "end_turn"})
    told = answer(turn, [say("Done.", id="message-9")]) + answer(turn, USAGE)
    assert text_of(told) == "ne."


def test_a_client_that_leaves_between_the_runs_allows_nothing() -> None:
    turn = make_turn(turn_request("hi"), ALLOW, AGENT)
    drain(turn)
    stream(turn, PING, want("call-1", "rm", "{}"), end=False)
    turn.client_disconnected()
    assert drain(turn) == [CancelRun(agent_id=AGENT_ID, run_id=RUN_ID)]


def history(*said: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in said]


def test_a_chat_asks_and_is_answered() -> None:
    proxy = Proxy()
    proxy.remember("Milo", AGENT, now=100.0)
    asked = Client(chat(), proxy).stream(*WAITS).json()["choices"][0]["message"]["content"]
    assert asked == f"Hm.\n\n{QUESTION}"
    messages = history(("user", "hi"), ("assistant", asked), ("user", "Approve."))
    client = Client(chat(messages=messages), proxy, token="bcdefg23").answer(agent_json("call-1", name="rm"))
    assert orjson.loads(client.commands[-1].body or b"")["messages"] == [
        {"approvals": [{"tool_call_id": "call-1", "approve": True, "type": "approval"}], "type": "approval"}
    ]
    assert client.stream(*GOES_ON).json()["choices"][0]["message"]["content"] == "Done."


def test_a_result_that_waited_for_a_persons_word_is_found_in_the_history() -> None:
    proxy = Proxy()
    proxy.remember("Milo", AGENT, now=100.0)
    calls = [{"id": "call-2", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}]
    messages = [
        *history(("user", "hi")),
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call-2", "content": "18 C"},
        *history(("assistant", QUESTION), ("user", "yes")),
    ]
    tools = [{"type": "function", "function": {"name": "get_weather"}}]
    agent = agent_json("call-1", name="rm")
    agent["pending_approval"]["tool_calls"] += agent_json("call-2")["pending_approval"]["tool_calls"]
    client = Client(chat(messages=messages, tools=tools), proxy)
    client.show_heard(say(QUESTION), heard("hi")).answer(agent)
    [approval] = orjson.loads(client.commands[-1].body or b"")["messages"]
    assert [item.get("tool_return", item.get("approve")) for item in approval["approvals"]] == [True, "18 C"]
