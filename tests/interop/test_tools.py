"""Calls of client tools and their results, and Letta's own tools, through the official SDK."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from openai import BadRequestError

from drive import DONE, PING, TOOL_RETURN, USAGE, say, server_call, stop, think, want
from live.asking import FORMS, PAIR, STREAMED, TOOLS, Call, Form, Message, ask, attempt, result, user
from sansio_letta.turn.settlement import NO_RESULT_YET
from sansio_letta.upstreams.rest import letta as wire
from sansio_letta.upstreams.rest.commands import FetchAgent, FindAgent, OpenStream
from server.scripted import Script, hello, runs
from support import matrix

from .asking import HELPERS, HelperForm, helped
from .standin import StandInAgent, StandInLetta

#: As a model may write them: spaces, escapes and numbers must come through as they are.
ROME = '{"city": "Rome", "note": "caf\\u00e9 \\"x\\" 😀\\n"}'
OSLO = '{"city":"Oslo","days":[1, 2.50, null]}'

ONE = (Call(id="call-1", name="get_weather", arguments=ROME),)
THREE = (
    *ONE,
    Call(id="call-2", name="read_file", arguments="{}"),
    Call(id="call-3", name="get_weather", arguments=OSLO),
)
FOUR = (*THREE, Call(id="call-4", name="read_file", arguments=""))  # no arguments at all become {}
WANTED = {"one": ONE, "three": THREE, "without arguments": FOUR}


def pieces(call: Call, size: int = 5) -> Iterator[dict[str, Any]]:
    """The fragments of one call, as Letta streams tokens: the name first, then the arguments."""
    yield want(call.id, call.name, None)
    for at in range(0, len(call.arguments), size):
        yield want(call.id, None, call.arguments[at : at + size])


def interleaved(calls: Sequence[Call]) -> Iterator[dict[str, Any]]:
    """The fragments of all calls, in turns."""
    left = [pieces(call) for call in calls]
    while left:
        for fragments in list(left):
            if (piece := next(fragments, None)) is None:
                left.remove(fragments)
            else:
                yield piece


def calling(calls: Sequence[Call], *, mixed: bool = False) -> Script:
    """The agent says something and then wants the calls carried out."""
    fragments = list(interleaved(calls)) if mixed else [piece for call in calls for piece in pieces(call)]
    return runs(PING, say("Let me see."), *fragments, stop("requires_approval"), USAGE, DONE)


def given(calls: Sequence[Call]) -> list[Call]:
    """The calls as the client must get them."""
    return [Call(id=call.id, name=call.name, arguments=call.arguments or "{}") for call in calls]


# --- F3


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
@pytest.mark.parametrize("mixed", [False, True], ids=["in order", "interleaved"])
@pytest.mark.parametrize("calls", WANTED.values(), ids=WANTED.keys())
def test_calls(url: str, letta: StandInLetta, form: Form, calls: tuple[Call, ...], mixed: bool) -> None:
    answer = ask(url, form, letta.add(calling(calls, mixed=mixed)).name, "hi", tools=TOOLS)
    assert answer.calls == given(calls)
    assert (answer.text, answer.finish_reason) == ("Let me see.", "tool_calls")


@pytest.mark.parametrize("form", matrix(HELPERS, HELPERS[0]))
@pytest.mark.parametrize("mixed", [False, True], ids=["in order", "interleaved"])
@pytest.mark.parametrize("calls", WANTED.values(), ids=WANTED.keys())
def test_calls_through_the_helper(
    url: str, letta: StandInLetta, form: HelperForm, calls: tuple[Call, ...], mixed: bool
) -> None:
    got = helped(url, form, letta.add(calling(calls, mixed=mixed)).name, tools=TOOLS)
    assert got.final is not None
    (choice,) = got.final.choices
    assert choice.finish_reason == "tool_calls"
    assert [
        Call(id=call.id, name=call.function.name, arguments=call.function.arguments)
        for call in choice.message.tool_calls or ()
        if call.type == "function"
    ] == given(calls)
    done = got.of("tool_calls.function.arguments.done")
    assert {event.index for event in done} == set(range(len(calls)))
    if not mixed:
        assert [(event.name, event.arguments) for event in done] == [
            (call.name, call.arguments) for call in given(calls)
        ]


@pytest.mark.parametrize("form", matrix(STREAMED, *PAIR))
def test_first_fragment_of_a_call_has_all_fields(url: str, letta: StandInLetta, form: Form) -> None:
    chunks = ask(url, form, letta.add(calling(ONE)).name, "hi", tools=TOOLS).chunks
    deltas: list[dict[str, Any]] = [
        call.to_dict() for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()
    ]
    function = {"name": "get_weather", "arguments": ""}
    assert deltas[0] == {"index": 0, "id": "call-1", "type": "function", "function": function}
    assert {tuple(delta) for delta in deltas[1:]} == {("index", "function")}
    assert {tuple(delta["function"]) for delta in deltas[1:]} == {("arguments",)}


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_calls_without_text(url: str, letta: StandInLetta, form: Form) -> None:
    agent = letta.add(runs(PING, think("Hm."), *pieces(ONE[0]), stop("requires_approval"), USAGE, DONE))
    answer = ask(url, form, agent.name, "hi", tools=TOOLS)
    assert (answer.calls, answer.text, answer.reasoning) == (given(ONE), "", "Hm.")


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_long_arguments(url: str, letta: StandInLetta, form: Form) -> None:
    path = "😀\u2028" * 50_000
    call = Call(id="call-1", name="read_file", arguments=f'{{"path": "{path}"}}')
    agent = letta.add(runs(PING, want(call.id, call.name, call.arguments), stop("requires_approval"), DONE))
    assert ask(url, form, agent.name, "hi", tools=TOOLS).calls == [call]


# --- F4


def answered(agent: StandInAgent) -> list[tuple[str, str, str]]:
    """The results the agent was given: id, result and status."""
    return [
        (approval.tool_call_id, str(approval.tool_return), approval.status)
        for request in agent.requests
        for message in request.messages
        if isinstance(message, wire.ApprovalCreate)
        for approval in message.approvals
        if isinstance(approval, wire.ToolReturn)
    ]


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
@pytest.mark.parametrize("calls", [ONE, THREE], ids=["one", "three"])
def test_round_trip(url: str, letta: StandInLetta, form: Form, calls: tuple[Call, ...]) -> None:
    agent = letta.add(calling(calls), hello(), hello(), waits=[[call.id for call in calls], []])
    history: list[Message] = [user("How is the weather?")]
    first = ask(url, form, agent.name, history, tools=TOOLS)
    history += [first.message, *(result(call, f"result of {call.id}") for call in first.calls)]
    second = ask(url, form, agent.name, history, tools=TOOLS)
    assert (second.text, second.finish_reason, second.calls) == ("Hello", "stop", [])
    third = ask(url, form, agent.name, [*history, second.message, user("Thanks.")], tools=TOOLS)
    assert third.text == "Hello"

    assert agent.texts == ["How is the weather?", "Thanks."]
    assert answered(agent) == [(call.id, f"result of {call.id}", "success") for call in calls]
    assert [type(command) for command in agent.commands] == [
        FindAgent,
        OpenStream,
        FetchAgent,
        OpenStream,
        OpenStream,
    ]


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_tools_are_offered_with_the_results(url: str, letta: StandInLetta, form: Form) -> None:
    agent = letta.add(calling(ONE), calling(ONE), waits=[["call-1"]])
    first = ask(url, form, agent.name, "hi", tools=TOOLS)
    history = [user("hi"), first.message, result(first.calls[0], "18 C")]
    assert ask(url, form, agent.name, history, tools=TOOLS).calls == given(ONE)
    offered = [[tool.name for tool in request.client_tools] for request in agent.requests]
    assert offered == [["get_weather", "read_file"]] * 2


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_user_message_after_the_results(url: str, letta: StandInLetta, form: Form) -> None:
    agent = letta.add(hello(), pending=["call-1"])
    history = [
        user("hi"),
        {"role": "assistant", "tool_calls": [tool_call(ONE[0])]},
        result(ONE[0], "18 C"),
        user("and hurry"),
    ]
    assert ask(url, form, agent.name, history, tools=TOOLS).text == "Hello"
    assert agent.texts == ["and hurry"]
    assert answered(agent) == [("call-1", "18 C", "success")]
    assert len(agent.requests) == 1


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_user_message_instead_of_results(url: str, letta: StandInLetta, form: Form) -> None:
    """What the history shows to be waiting is looked for first, so that Letta refuses nothing."""
    agent = letta.add(hello(), pending=["call-1"])
    history = [user("hi"), {"role": "assistant", "tool_calls": [tool_call(ONE[0])]}, user("Never mind.")]
    answer = ask(url, form, agent.name, history, tools=TOOLS, max_retries=2)
    assert (answer.text, answer.request_count) == ("Hello", 1)
    assert answered(agent) == [("call-1", NO_RESULT_YET, "success")]
    assert agent.texts == ["Never mind."]


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_results_that_nobody_waits_for(url: str, letta: StandInLetta, form: Form) -> None:
    agent = letta.add(calling(ONE), hello(), waits=[["call-1"], []])
    first = ask(url, form, agent.name, "hi", tools=TOOLS)
    history = [user("hi"), first.message, result(first.calls[0], "18 C")]
    ask(url, form, agent.name, history, tools=TOOLS)
    agent.heard = [{"message_type": "tool_return_message", "tool_call_id": "call-1", "tool_return": "18 C"}]
    again = attempt(url, form, agent.name, history, tools=TOOLS, max_retries=2)
    assert type(again.error) is BadRequestError
    assert again.error.param == "messages"
    assert again.request_count == 1
    assert answered(agent) == [("call-1", "18 C", "success")]


def tool_call(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


# --- F5


def with_server_tool(*, reason: str = "end_turn") -> Script:
    return runs(
        PING,
        say("One moment."),
        server_call("call-9", "search", '{"query"'),
        server_call("call-9", None, ': "x"}'),
        TOOL_RETURN,
        say("Found.", id="message-9", step="step-2"),
        stop(reason),
        USAGE,
        DONE,
    )


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
@pytest.mark.parametrize("reason", ["end_turn", "tool_rule", "no_tool_call"])
def test_server_tools_do_not_show(url: str, letta: StandInLetta, form: Form, reason: str) -> None:
    answer = ask(url, form, letta.add(with_server_tool(reason=reason)).name, "hi", tools=TOOLS)
    assert (answer.text, answer.calls, answer.finish_reason) == ("One moment.\n\nFound.", [], "stop")
    assert all(chunk.choices[0].delta.tool_calls is None for chunk in answer.chunks)


@pytest.mark.parametrize("form", matrix(HELPERS, HELPERS[0]))
def test_server_tools_do_not_show_in_the_helper(url: str, letta: StandInLetta, form: HelperForm) -> None:
    final = helped(url, form, letta.add(with_server_tool()).name).final
    assert final is not None
    assert final.choices[0].message.tool_calls is None
    assert final.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_server_tool_beside_a_call(url: str, letta: StandInLetta, form: Form) -> None:
    """Both in one step: the client sees its own alone, and its index begins at 0."""
    agent = letta.add(
        runs(
            PING, server_call("call-9", "search", "{}"), *pieces(ONE[0]), stop("requires_approval"), USAGE, DONE
        )
    )
    answer = ask(url, form, agent.name, "hi", tools=TOOLS)
    assert (answer.calls, answer.finish_reason) == (given(ONE), "tool_calls")


@pytest.mark.parametrize("form", matrix(FORMS, *PAIR))
def test_server_tool_that_needs_a_human(url: str, letta: StandInLetta, form: Form) -> None:
    """A tool the client did not offer is no call of its own, even where the run waits for approval."""
    agent = letta.add(
        runs(PING, want("call-9", "delete_all", '{"sure": true}'), stop("requires_approval"), USAGE, DONE)
    )
    answer = ask(url, form, agent.name, "hi", tools=TOOLS)
    assert (answer.calls, answer.finish_reason) == ([], "stop")
    assert 'delete_all({"sure": true})' in answer.text


# --- One call at a time

SAME = tuple(Call(id=f"call-{number}", name="get_weather", arguments="{}") for number in (1, 2, 3))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mixed", [False, True], ids=["in order", "interleaved"])
def test_calls_one_at_a_time(url: str, letta: StandInLetta, form: Form, mixed: bool) -> None:
    ids = [call.id for call in SAME]
    agent = letta.add(calling(SAME, mixed=mixed), hello(), waits=[ids, []])
    history: list[Message] = [user("hi")]
    for call in SAME:
        answer = ask(url, form, agent.name, history, tools=TOOLS, parallel_tool_calls=False)
        assert (answer.calls, answer.finish_reason) == ([call], "tool_calls")
        history += [answer.message, result(call, f"result of {call.id}")]
    assert len(agent.requests) == 1
    answer = ask(url, form, agent.name, history, tools=TOOLS, parallel_tool_calls=False)
    assert (answer.text, answer.finish_reason) == ("Hello", "stop")
    (approval,) = agent.requests[1].messages
    assert isinstance(approval, wire.ApprovalCreate)
    assert [item.tool_return for item in approval.approvals if isinstance(item, wire.ToolReturn)] == [
        f"result of {call_id}" for call_id in ids
    ]


@pytest.mark.parametrize("form", HELPERS)
def test_one_call_through_the_helper(url: str, letta: StandInLetta, form: HelperForm) -> None:
    agent = letta.add(calling(THREE, mixed=True))
    got = helped(url, form, agent.name, tools=TOOLS, parallel_tool_calls=False)
    assert got.final is not None
    (choice,) = got.final.choices
    assert [call.id for call in choice.message.tool_calls or ()] == ["call-1"]
    assert len(got.of("tool_calls.function.arguments.done")) == 1
