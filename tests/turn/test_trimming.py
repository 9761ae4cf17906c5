"""What a client has asked not to get: text from a stop sequence on, and calls after the first."""

import sys
from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from drive import (
    AGENT,
    DONE,
    PING,
    RUN_ID,
    TOOL_RETURN,
    USAGE,
    WEATHER,
    agent,
    agent_json,
    answer,
    drain,
    error,
    make_turn,
    say,
    server_call,
    stop,
    stream,
    think,
    turn_request,
    want,
)
from drive_cycle import Client, chat
from sansio_letta import ClientTools, Config, Enforcement, Proxy
from sansio_letta.errors import Failure
from sansio_letta.turn.events import (
    CallArguments,
    CallStarted,
    Event,
    FinishReason,
    KeepAlive,
    ReasoningDelta,
    TextDelta,
    TurnFinished,
    TurnStarted,
)
from sansio_letta.turn.request import Throwaway
from sansio_letta.turn.settlement import NO_RESULT
from sansio_letta.turn.trimming import Trimmer
from sansio_letta.upstreams.rest.attached_tools import offer_attached
from sansio_letta.upstreams.rest.commands import (
    Command,
    CreateConversation,
    DeleteConversation,
    FetchAgent,
    FetchRun,
    FindAgent,
    OpenStream,
)
from support import heard

STOPS = (stop(), USAGE, DONE)
WAITS = (stop("requires_approval"), USAGE, DONE)
FINISHED = TurnFinished(reason=FinishReason.STOP, usage=None)


def trimmed(trimmer: Trimmer, events: Iterable[Event]) -> list[Event]:
    return [left for event in events for left in trimmer.trim(event)]


def told(pieces: Iterable[str], *sequences: str) -> str:
    """The text that comes of these pieces."""
    events = trimmed(Trimmer(sequences), [*(TextDelta(text=piece) for piece in pieces), FINISHED])
    assert events[-1] == FINISHED
    return "".join(event.text for event in events if isinstance(event, TextDelta))


# --- Stop sequences -------------------------------------------------------------------------------------------

CUTS: dict[str, tuple[list[str], tuple[str, ...], str]] = {
    "within a piece": (["a = 1</code>Observation: 2"], ("</code>",), "a = 1"),
    "across pieces": (["a = 1<", "/co", "de", ">Obs", "ervation"], ("</code>",), "a = 1"),
    "at the very start": (["</code>x"], ("</code>",), ""),
    "at the very end": (["x</code>"], ("</code>",), "x"),
    "never": (["a < b", " </cod"], ("</code>",), "a < b </cod"),
    "a beginning that comes to nothing": (["<</co", "x</code>y"], ("</code>",), "<</cox"),
    "a beginning within a beginning": (["aa", "aa", "ab", "c"], ("aab",), "aaa"),
    "the first of several": (["one STOP two END"], ("END", "STOP"), "one "),
    "the one that is whole first": (["xabcd"], ("abcd", "bc"), "xa"),
    "of two with one end the longer": (["xabc"], ("bc", "abc"), "x"),
    "twice": (["a;b;c"], (";",), "a"),
    "beyond ASCII": (["Grüße 🌍", "🌍!"], ("🌍🌍",), "Grüße "),
    "nothing to say": ([], ("x",), ""),
}


@pytest.mark.parametrize(("pieces", "sequences", "left"), CUTS.values(), ids=CUTS)
def test_the_text_ends_before_the_first_stop_sequence(
    pieces: list[str], sequences: tuple[str, ...], left: str
) -> None:
    assert told(pieces, *sequences) == left
    assert told(["".join(pieces)], *sequences) == left
    assert told("".join(pieces), *sequences) == left, "a character at a time"


LETTERS = st.text("ab", max_size=4) | st.text("ab", max_size=40)


def reference(text: str, sequences: list[str]) -> str:
    for end in range(len(text) + 1):
        sizes = [len(sequence) for sequence in sequences if text[:end].endswith(sequence)]
        if sizes:
            return text[: end - max(sizes)]
    return text


@given(st.lists(LETTERS), st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4))
def test_pieces_do_not_matter(pieces: list[str], sequences: list[str]) -> None:
    assert told(pieces, *sequences) == reference("".join(pieces), sequences)


@given(st.lists(LETTERS), st.text("ab", min_size=1, max_size=5))
def test_no_more_is_held_back_than_may_be_a_beginning(pieces: list[str], sequence: str) -> None:
    trimmer, given_text, left = Trimmer((sequence,)), "", ""
    for piece in pieces:
        left += "".join(e.text for e in trimmer.trim(TextDelta(text=piece)) if isinstance(e, TextDelta))
        given_text += piece
        if not trimmer.has_stopped:
            held = given_text[len(left) :]
            assert sequence.startswith(held)
            assert len(held) < len(sequence)


@pytest.mark.parametrize(
    ("sequence", "text"), [("a" * 400 + "b", "a"), ("ab" * 200 + "c", "ab"), ("\n" * 400 + "x", "\n")]
)
def test_each_character_costs_the_same(sequence: str, text: str) -> None:
    """Steps are counted: a text of nothing but beginnings is looked at twice, not once for each of them."""
    steps = 0

    def count(frame: Any, event: str, arg: object) -> Any:
        nonlocal steps
        steps += event == "line"
        return count

    def cost(size: int) -> int:
        nonlocal steps
        trimmer, steps = Trimmer((sequence,)), 0
        before = sys.gettrace()
        sys.settrace(count)
        try:
            for _ in range(size):
                list(trimmer.trim(TextDelta(text=text * 10)))
        finally:
            sys.settrace(before)
        return steps

    assert cost(200) < 2.5 * cost(100)


def test_what_follows_a_stop_sequence_is_not_told() -> None:
    trimmer = Trimmer(("END",))
    events: list[Event] = [
        TurnStarted(),
        ReasoningDelta(text="END?"),
        TextDelta(text="x END y"),
        KeepAlive(),
        ReasoningDelta(text="z"),
        CallStarted(index=0, call_id="call-1", name="f"),
        CallArguments(index=0, fragment="{}"),
        TurnFinished(reason=FinishReason.TOOL_CALLS, usage=None),
    ]
    assert trimmed(trimmer, events) == [
        TurnStarted(),
        ReasoningDelta(text="END?"),
        TextDelta(text="x "),
        KeepAlive(),
        FINISHED,
    ]


def test_a_call_that_is_forced_is_told_behind_it_too() -> None:
    call: list[Event] = [CallStarted(index=0, call_id="c", name="f"), CallArguments(index=0, fragment="{}")]
    finished = TurnFinished(reason=FinishReason.TOOL_CALLS, usage=None)
    events = [TextDelta(text="x END y"), ReasoningDelta(text="z"), *call, finished]
    assert trimmed(Trimmer(("END",), must_call=True), events) == [TextDelta(text="x "), *call, finished]
    stopped = trimmed(Trimmer(("END",), must_call=True), [TextDelta(text="END"), FINISHED])
    assert stopped == [FINISHED]


def test_text_that_was_held_back_comes_before_a_call() -> None:
    events = trimmed(Trimmer(("END",)), [TextDelta(text="E"), CallStarted(index=0, call_id="c", name="f")])
    assert events == [TextDelta(text="E"), CallStarted(index=0, call_id="c", name="f")]


# --- Over HTTP ------------------------------------------------------------------------------------------------


def asked(proxy: Proxy | None = None, **fields: Any) -> Client:
    return Client(chat(**fields), proxy or Proxy()).answer([agent_json()])


def content(client: Client) -> str:
    """The text of an answer, streamed or whole."""
    if client.headers["content-type"] == "application/json":
        return str(client.json()["choices"][0]["message"]["content"])
    return "".join(delta.get("content") or "" for delta in deltas(client))


def chunks(client: Client) -> list[Any]:
    lines = [line for line in client.body.split(b"\n") if line.startswith(b"data: {")]
    return [orjson.loads(line.removeprefix(b"data: ")) for line in lines]


def deltas(client: Client) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in chunks(client) if chunk.get("choices")]


def finish(client: Client) -> Any:
    if client.headers["content-type"] == "application/json":
        return client.json()["choices"][0]["finish_reason"]
    return [chunk["choices"][0]["finish_reason"] for chunk in chunks(client) if chunk["choices"]][-1]


STREAMED = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


@STREAMED
@pytest.mark.parametrize("sequences", ["</code>", ["Calling tools:", "</code>"]], ids=["one", "several"])
def test_the_client_gets_the_text_up_to_it(streamed: bool, sequences: Any) -> None:
    client = asked(stop=sequences, stream=streamed, stream_options={"include_usage": True})
    client.stream(PING, think("</code>"), say("<code>\nx = 1\n</", id="m-2"))
    client.more(say("code>\nObservation: 2", id="m-2")).more(*STOPS)
    assert content(client) == "<code>\nx = 1\n"
    assert finish(client) == "stop"
    assert "x-ignored-parameters" not in client.headers
    usage = chunks(client)[-1]["usage"] if streamed else client.json()["usage"]
    assert usage["total_tokens"] == 120, "all that the agent has said is paid for"
    assert client.ended


@STREAMED
def test_a_sequence_may_be_met_where_messages_join(streamed: bool) -> None:
    client = asked(stop=".\n\nT", stream=streamed)
    client.stream(PING, say("One.", id="m-1"), server_call("call-1", "look", "{}"), TOOL_RETURN)
    client.more(say("Two.", id="m-2", step="step-2"), *STOPS)
    assert content(client) == "One"


def test_text_comes_as_soon_as_it_is_none_of_a_sequence() -> None:
    client = asked(stop="</code>", stream=True)
    client.stream(PING, say("a <"))
    assert content(client) == "a "
    client.more(say(" b"))
    assert content(client) == "a < b"
    client.more(say(" <"), *STOPS)
    assert content(client) == "a < b <"


def test_json_is_checked_before_it_is_cut() -> None:
    client = asked(
        Proxy(Config(enforcement=Enforcement.VALIDATE)), stop="}", response_format={"type": "json_object"}
    )
    client.stream(PING, say('{"n": 1}'), *STOPS)
    assert content(client) == '{"n": 1'


def test_a_program_that_forces_a_call_gets_it_whatever_the_agent_says_first() -> None:
    """smolagents sends these stop sequences with each forced call, and agents learn to write them."""
    client = asked(stop=["Observation:", "Calling tools:"], **ONE, tool_choice="required")
    client.stream(PING, say("I look.\nCalling tools:"), want("call-1", "run", '{"n": 1}'), *WAITS)
    assert (content(client), calls_in(client), finish(client)) == ("I look.\n", [FIRST], "tool_calls")


def test_a_failure_behind_it_is_told() -> None:
    client = asked(stop="END")
    client.stream(PING, say("x END y"), stop("error"), error(), DONE)
    assert client.status == 502
    streamed = asked(stop="END", stream=True)
    streamed.stream(PING, say("x E"), stop("error"), error(), DONE)
    assert content(streamed) == "x E", "what was held back is told, too"
    assert "error" in chunks(streamed)[-1]


def test_a_call_behind_it_is_not_told_and_the_next_message_settles_it() -> None:
    proxy = Proxy()
    tool = {"type": "function", "function": {"name": "get_weather"}}
    client = asked(proxy, stop="END", tools=[tool])
    client.stream(PING, say("x END y"), want("call-1", "get_weather", "{}"), *WAITS)
    assert (content(client), finish(client)) == ("x ", "stop")
    assert "tool_calls" not in client.json()["choices"][0]["message"]
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "x "},
        {"role": "user", "content": "go on"},
    ]
    client = Client(chat(messages=messages, stop="END", tools=[tool]), proxy, token="second12")
    if isinstance(client.commands[-1], OpenStream):
        conflict = error("internal_error", "CONFLICT: The agent is waiting for approval on a tool call.")
        client.stream(PING, conflict)
    assert isinstance(client.commands[-1], FetchAgent)
    client.answer(agent_json("call-1"))
    assert [call_id for call_id, _ in approvals(client)] == ["call-1"]
    client.stream(PING, say("Fine."), *STOPS)
    assert content(client) == "Fine."


def test_nobody_waits_for_a_call_behind_it() -> None:
    """The conversation of a background prompt would be kept for the result."""
    thread = Throwaway(token="t-1")
    turn = make_turn(evolve(turn_request("hi", tools=[WEATHER]), stop=("END",), thread=thread), Config(), AGENT)
    assert isinstance(drain(turn)[-1], CreateConversation)
    answer(turn, {"id": "conv-1", "agent_id": AGENT.id})
    items = stream(turn, PING, say("x END y"), want("call-1", "get_weather", "{}"), *WAITS)
    assert texts(items) == ["x "]
    assert isinstance(items[-1], DeleteConversation)
    assert turn.state.awaited_calls == ()


def test_a_stream_that_was_lost_goes_on_where_it_was() -> None:
    config = Config(resume_timeout=0, queue_timeout=0, connect_retry_timeout=0)
    turn = make_turn(evolve(turn_request("hi"), stop=("END",)), config, AGENT)
    drain(turn)
    items = stream(turn, PING, say("a E", id="m-0"), end=False)
    assert texts(items) == ["a "]
    turn.receive_failure(Failure.BROKEN, "connection reset")
    assert [type(item) for item in drain(turn)] == [FetchRun]
    answer(turn, {"id": RUN_ID, "status": "completed", "stop_reason": "end_turn"})
    said = {"message_type": "assistant_message", "id": "m-0", "content": "a Else END b"}
    answer(turn, [{"message_type": "user_message", "id": "u", "content": "hi"}, said])
    items = answer(turn, {"total_tokens": 1})
    assert texts(items) == ["Else "]
    assert isinstance(items[-1], TurnFinished)


def texts(items: list[Event | Command]) -> list[str]:
    return [item.text for item in items if isinstance(item, TextDelta)]


# --- One call at a time ---------------------------------------------------------------------------------------

TOOL = {"type": "function", "function": {"name": "run", "parameters": {"type": "object"}}}
ONE: dict[str, Any] = {"tools": [TOOL], "parallel_tool_calls": False}
USER = {"role": "user", "content": "hi"}
NO_TOKENS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def call(number: int) -> dict[str, Any]:
    """The client's memory of a call."""
    function = {"name": "run", "arguments": f'{{"n": {number}}}'}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": f"call-{number}", "type": "function", "function": function}],
    }


def result(number: int) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call-{number}", "content": f"result {number}"}


def waiting(*numbers: int, name: str = "run", **more: Any) -> dict[str, Any]:
    """An agent that waits for these calls."""
    calls = [{"tool_call_id": f"call-{n}", "name": name, "arguments": f'{{"n": {n}}}'} for n in numbers]
    return (
        agent_json() | {"pending_approval": {"id": "message-2", "tool_calls": calls, "run_id": RUN_ID}} | more
    )


RETURNED = ({"message_type": "tool_return_message", "tool_call_id": "call-7", "tool_return": "result 7"},)


def ask(
    proxy: Proxy,
    *messages: dict[str, Any],
    token: str = "abcdef12",
    has_result: bool = False,
    **fields: Any,
) -> Client:
    """A request whose agent has heard the user, and is known to wait for three calls, if it brings results."""
    said = (heard("hi"), *(RETURNED if has_result else ()))
    client = Client(chat(messages=list(messages), **{**ONE, **fields}), proxy, token=token)
    client.show_heard(*said)
    if isinstance(client.commands[-1], FindAgent | FetchAgent):
        client.answer([waiting(1, 2, 3)] if isinstance(client.commands[-1], FindAgent) else waiting(1, 2, 3))
    return client.show_heard(*said)


def calls_in(client: Client) -> list[tuple[str, str, str]]:
    """Id, name and arguments of the calls in an answer, streamed or whole."""
    if client.headers["content-type"] == "application/json":
        made = client.json()["choices"][0]["message"].get("tool_calls", [])
        return [(one["id"], one["function"]["name"], one["function"]["arguments"]) for one in made]
    pieces = [one for delta in deltas(client) for one in delta.get("tool_calls", [])]
    ids = [(one["id"], one["function"]["name"]) for one in pieces if "id" in one]
    return [
        (*named, "".join(one["function"]["arguments"] for one in pieces if one["index"] == index))
        for index, named in enumerate(ids)
    ]


def approvals(client: Client) -> list[tuple[str, str]]:
    """Ids and results that the last run was asked for with."""
    command = client.commands[-1]
    assert isinstance(command, OpenStream)
    first = orjson.loads(command.body)["messages"][0]
    return [(item["tool_call_id"], item.get("tool_return", "denied")) for item in first.get("approvals", [])]


FIRST, SECOND, THIRD = ((f"call-{n}", "run", f'{{"n": {n}}}') for n in (1, 2, 3))


@STREAMED
def test_calls_are_told_one_at_a_time_and_answered_together(streamed: bool) -> None:
    proxy = Proxy()
    fields: dict[str, Any] = {"stream": streamed, "stream_options": {"include_usage": True}}
    client = Client(chat(messages=[USER], **ONE, **fields), proxy).answer([agent_json()])
    client.stream(
        PING, say("Let me.", id="m-1"), want("call-1", "run", '{"n"'), want("call-2", "run", '{"n": ')
    )
    client.more(
        want("call-1", None, ": 1}"), want("call-2", None, "2}"), want("call-3", "run", '{"n": 3}'), *WAITS
    )
    assert (calls_in(client), finish(client), content(client)) == ([FIRST], "tool_calls", "Let me.")
    assert "x-ignored-parameters" not in client.headers
    history = [USER, call(1), result(1)]
    for following, number in ((SECOND, 2), (THIRD, 3)):
        client = ask(proxy, *history, token=f"token-00{number}", **fields)
        assert (calls_in(client), finish(client)) == ([following], "tool_calls")
        assert not any(isinstance(command, OpenStream) for command in client.commands), "Letta is not asked"
        usage = chunks(client)[-1]["usage"] if streamed else client.json()["usage"]
        assert usage == NO_TOKENS
        assert client.ended
        history += [call(number), result(number)]
    client = ask(proxy, *history, token="token-004", **fields)
    assert approvals(client) == [(f"call-{n}", f"result {n}") for n in (1, 2, 3)]
    client.stream(PING, say("Done."), *STOPS)
    assert content(client) == "Done."


def test_who_takes_several_calls_gets_several() -> None:
    client = Client(chat(messages=[USER], tools=[TOOL]), Proxy()).answer([agent_json()])
    client.stream(PING, want("call-1", "run", '{"n": 1}'), want("call-2", "run", '{"n": 2}'), *WAITS)
    assert calls_in(client) == [FIRST, SECOND]
    client = ask(Proxy(), USER, call(1), result(1), parallel_tool_calls=True)
    assert [call_id for call_id, _ in approvals(client)] == ["call-1", "call-2", "call-3"]


def test_the_next_call_is_the_same_however_often_it_is_asked_for() -> None:
    proxy = Proxy()
    for sending in ({}, {}, {"x-stainless-retry-count": "1"}):
        client = ask(proxy, USER, call(1), result(1), headers=sending)
        assert calls_in(client) == [SECOND]


def test_a_result_that_was_lost_makes_no_call_a_second_time() -> None:
    client = ask(Proxy(), USER, call(2), result(2))
    assert calls_in(client) == [THIRD]
    client = ask(Proxy(), USER, call(3), result(3))
    assert approvals(client) == [("call-1", NO_RESULT), ("call-2", NO_RESULT), ("call-3", "result 3")]


@pytest.mark.parametrize(
    "messages",
    [[USER, call(1), result(1), {"role": "user", "content": "Stop it."}],
     [USER, call(1), result(1), call(2), {"role": "user", "content": "Stop it."}]],
    ids=["beside a result", "in place of one"],
)  # fmt: skip
def test_a_message_ends_the_calls(messages: list[dict[str, Any]]) -> None:
    proxy = Proxy()
    client = ask(proxy, *messages)
    if isinstance(client.commands[-1], FetchAgent):
        client.answer(waiting(1, 2, 3))  # the history shows a call without a result: it is looked for first
    assert approvals(client) == [("call-1", "result 1"), ("call-2", NO_RESULT), ("call-3", NO_RESULT)]
    command = client.commands[-1]
    assert isinstance(command, OpenStream)
    assert orjson.loads(command.body)["messages"][-1]["content"] == "Stop it."


def test_a_call_that_is_no_longer_offered_is_not_told() -> None:
    agent = waiting(1, 2)
    agent["pending_approval"]["tool_calls"][1]["name"] = "delete_all"
    client = Client(chat(messages=[USER, call(1), result(1)], **ONE), Proxy()).answer([agent])
    assert calls_in(client) == []
    assert "delete_all" in content(client), "it is one of the agent's own: a person is asked"
    assert client.json()["usage"] == NO_TOKENS, "programs read it without looking whether it is there"


def test_results_of_nothing_that_waits_are_refused() -> None:
    assert ask(Proxy(), USER, call(7), result(7), has_result=True).status == 400


def test_results_of_calls_that_another_model_made_are_told_as_text() -> None:
    command = ask(Proxy(), USER, call(7), result(7)).commands[-1]
    assert isinstance(command, OpenStream)
    assert "result 7" in orjson.loads(command.body)["messages"][-1]["content"]


@pytest.mark.parametrize("forced", [{"tool_choice": "required"}, {"response_format": {"type": "json_object"}}])
def test_a_wish_is_no_hindrance(forced: dict[str, Any]) -> None:
    proxy = Proxy(Config(enforcement=Enforcement.VALIDATE))
    client = Client(chat(messages=[USER], **ONE, **forced), proxy).answer([agent_json()])
    client.stream(PING, want("call-1", "run", '{"n": 1}'), want("call-2", "run", '{"n": 2}'), *WAITS)
    assert calls_in(client) == [FIRST]
    client = ask(proxy, USER, call(1), result(1), token="second12", **forced)
    assert calls_in(client) == [SECOND]


def test_a_stream_that_was_lost_behind_the_first_call_brings_no_second() -> None:
    config = Config(resume_timeout=0, queue_timeout=0, connect_retry_timeout=0)
    turn = make_turn(evolve(turn_request("hi", tools=[WEATHER]), one_call=True), config, AGENT)
    drain(turn)
    stream(turn, PING, want("call-1", "get_weather", "{"), want("call-2", "get_weather", "{"), end=False)
    turn.receive_failure(Failure.BROKEN, "connection reset")
    drain(turn)
    answer(turn, {"id": RUN_ID, "status": "completed", "stop_reason": "requires_approval"})
    both = [{"tool_call_id": f"call-{n}", "name": "get_weather", "arguments": "{}"} for n in (1, 2)]
    request = {"message_type": "approval_request_message", "id": "m", "tool_call": both[0], "tool_calls": both}
    answer(turn, [{"message_type": "user_message", "id": "u", "content": "hi"}, request])
    items = answer(turn, {"total_tokens": 1})
    assert [item.fragment for item in items if isinstance(item, CallArguments)] == ["}"]
    assert isinstance(items[-1], TurnFinished)
    assert items[-1].reason is FinishReason.TOOL_CALLS


@pytest.mark.parametrize("is_legacy", [False, True], ids=["attached", "legacy"])
def test_a_tool_that_is_attached_has_the_clients_name(is_legacy: bool) -> None:
    known = agent(agent_type="memgpt_v2_agent") if is_legacy else AGENT
    config = Config(client_tools=ClientTools.ATTACH)
    made = evolve(turn_request(results=["call-1"], tools=[WEATHER]), one_call=True)
    (offered,) = offer_attached((WEATHER,), adds_arguments=is_legacy)
    waits = agent_json("call-1", "call-2", name=offered.tool.name) | {"agent_type": known.agent_type}
    waits["pending_approval"]["tool_calls"][1]["arguments"] = '{"city": "Bern", "request_heartbeat": true}'
    turn = make_turn(made, config, known)
    drain(turn)
    items = answer(turn, waits)
    (started,) = [item for item in items if isinstance(item, CallStarted)]
    (arguments,) = [item for item in items if isinstance(item, CallArguments)]
    assert (started.call_id, started.name) == ("call-2", "get_weather")
    assert orjson.loads(arguments.fragment)["city"] == "Bern"
    assert ("request_heartbeat" in arguments.fragment) is not is_legacy
    assert turn.phase.name == "DONE"
    assert not [item for item in items if isinstance(item, OpenStream)]
