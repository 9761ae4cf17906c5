"""`response_format` and a forced `tool_choice`: refused, ignored, or asked for and checked."""

from typing import Any

import orjson
import pytest
from attrs import evolve

from drive import (
    AGENT,
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
    more,
    say,
    server_call,
    stop,
    stream,
    think,
    turn_request,
    want,
)
from drive_cycle import Client, chat
from sansio_letta import Config, Enforcement, Kept, Proxy, Turn
from sansio_letta.config import Approvals, InstructionPolicy
from sansio_letta.dialects.base import RequestContext
from sansio_letta.dialects.chat_completions.decode import decode_request
from sansio_letta.dialects.chat_completions.request import field_name
from sansio_letta.dialects.new_input import BuiltRequest, build_turn_request
from sansio_letta.errors import Failure, FieldPath, RequestError, RequestField, shutting_down
from sansio_letta.turn.events import (
    CallArguments,
    CallStarted,
    Event,
    FinishReason,
    KeepAlive,
    ReasoningDelta,
    ServerToolStarted,
    TextDelta,
    TurnFailed,
    TurnFinished,
    TurnStarted,
)
from sansio_letta.turn.reply_format import CallReply, JsonReply, ReplyFormat
from sansio_letta.turn.request import SystemMessage
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.commands import CancelRun, Command, FetchKept, FetchRun, FetchUsage, OpenStream
from sansio_letta.upstreams.rest.turn_input import to_client_tool, to_message

VALIDATE = Config(enforcement=Enforcement.VALIDATE, queue_timeout=0, connect_retry_timeout=0, resume_timeout=0)
OBJECT = {"type": "json_object"}
NUMBER_SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
NUMBER = {"type": "json_schema", "json_schema": {"name": "count", "schema": NUMBER_SCHEMA, "strict": True}}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
OTHER = {"type": "function", "function": {"name": "read_file"}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
JSON = JsonReply()
CALL = CallReply(names=("get_weather",))
GOOD = '{"n": 1}'
STOPS = (stop(), USAGE, DONE)
WAITS = (stop("requires_approval"), USAGE, DONE)


# --- Planning -------------------------------------------------------------------------------------------------


def built(
    config: Config | None = None, messages: list[dict[str, Any]] | None = None, **fields: Any
) -> BuiltRequest:
    body = {"model": "Milo", "messages": messages or [{"role": "user", "content": "hi"}], **fields}
    return build_turn_request(decode_request(orjson.dumps(body)), RequestContext(config=config or VALIDATE))


WISHES: dict[str, tuple[dict[str, Any], str]] = {
    "object": ({"response_format": OBJECT}, "response_format"),
    "schema": ({"response_format": NUMBER}, "response_format"),
    "required": ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
    "named": ({"tools": [TOOL, OTHER], "tool_choice": NAMED}, "tool_choice"),
    "both": ({"response_format": OBJECT, "tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
}


@pytest.mark.parametrize(("fields", "param"), WISHES.values(), ids=WISHES)
def test_a_wish_may_be_refused_and_the_setting_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        built(Config(enforcement=Enforcement.REFUSE), **fields)
    assert (caught.value.param_for(field_name), caught.value.code) == (param, "unsupported_value")
    assert "enforcement is set to refuse" in caught.value.message
    assert "X-Letta-Policy-Enforcement: validate" in caught.value.message


@pytest.mark.parametrize("fields", [fields for fields, _ in WISHES.values()], ids=WISHES)
def test_by_default_the_agent_is_asked_and_its_reply_checked(fields: dict[str, Any]) -> None:
    made = built(Config(), **fields)
    assert (made.turn_request.reply_format is not None, len(made.turn_request.preamble), made.ignored) == (
        True,
        1,
        (),
    )


@pytest.mark.parametrize("fields", [fields for fields, _ in WISHES.values()], ids=WISHES)
def test_it_may_be_ignored_and_the_client_told(fields: dict[str, Any]) -> None:
    made = built(Config(enforcement=Enforcement.IGNORE), **fields)
    assert made.turn_request.reply_format is None
    assert made.turn_request.preamble == ()
    assert {field_name(FieldPath(field)) for field in made.ignored} == fields.keys() & {
        "response_format",
        "tool_choice",
    }


def test_what_is_ignored_need_not_make_sense() -> None:
    wrong = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": 5}}}
    assert built(Config(enforcement=Enforcement.IGNORE), response_format=wrong).ignored == (
        RequestField.REPLY_FORMAT,
    )
    with pytest.raises(RequestError) as caught:
        built(response_format=wrong)
    assert caught.value.field == FieldPath(RequestField.REPLY_SCHEMA)


def test_a_wish_goes_beside_the_input() -> None:
    made = built(response_format=NUMBER)
    assert isinstance(made.turn_request.reply_format, JsonReply)
    assert made.turn_request.preamble == (SystemMessage(content=made.turn_request.reply_format.prompt),)
    assert "count" in made.turn_request.reply_format.prompt
    assert made.ignored == ()


def test_a_forced_call_offers_what_may_be_called() -> None:
    made = built(tools=[TOOL, OTHER], tool_choice=NAMED)
    assert made.turn_request.reply_format == CallReply(names=("get_weather",))
    assert [tool.name for tool in made.turn_request.client_tools] == ["get_weather"]
    made = built(tools=[TOOL, OTHER], tool_choice="required", response_format=OBJECT)
    assert made.turn_request.reply_format == CallReply(names=("get_weather", "read_file")), (
        "no reply of this is a final one"
    )


def test_any_json_will_do_without_a_schema() -> None:
    reply_format = built(
        response_format={"type": "json_schema", "json_schema": {"name": "any"}}
    ).turn_request.reply_format
    assert reply_format is not None
    assert reply_format.check("[1]").problem is None


# --- What Letta is told ---------------------------------------------------------------------------------------


def sent(client: Client) -> list[Any]:
    """Role and text of the messages of the last run that was asked for; approvals by their type."""
    command = client.commands[-1]
    assert isinstance(command, OpenStream)
    body = orjson.loads(command.body)
    return [(m["role"], m["content"]) if "role" in m else m["type"] for m in body["messages"]]


def asked(proxy: Proxy, now: float = 100.0, **fields: Any) -> Client:
    client = Client(chat(**fields), proxy, now=now)
    return client.answer([agent_json()]) if not isinstance(client.commands[-1], OpenStream) else client


@pytest.mark.parametrize("policy", InstructionPolicy)
def test_the_wish_goes_whatever_becomes_of_instructions(policy: InstructionPolicy) -> None:
    proxy = Proxy(Config(enforcement=Enforcement.VALIDATE, instructions=policy))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    client = asked(proxy, messages=messages, response_format=OBJECT)
    reply_format, user = ("system", JSON.prompt), ("user", "hi")
    told = policy in (InstructionPolicy.ONCE, InstructionPolicy.ALWAYS)
    assert sent(client) == [*([("system", "Be brief.")] if told else []), reply_format, user]
    client.stream(PING, say(GOOD), *STOPS)
    assert client.status == 200
    # The same instructions again, another reply format, and none: only the reply format is sent again.
    always = [("system", "Be brief.")] if policy is InstructionPolicy.ALWAYS else []
    client = asked(proxy, messages=messages, response_format=NUMBER)
    assert sent(client) == [
        *always,
        ("system", to_message(built(response_format=NUMBER).turn_request.preamble[0]).content),
        user,
    ]
    client.stream(PING, say(GOOD), *STOPS)
    assert sent(asked(proxy, messages=messages)) == [*always, user]


def test_the_wish_goes_with_results() -> None:
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "tool_call_id": "call-1", "content": "18 C"},
    ]
    client = Client(chat(messages=messages, tools=[TOOL], response_format=OBJECT), Proxy(VALIDATE))
    client.answer([agent_json("call-1")])
    assert sent(client) == ["approval", ("system", JSON.prompt)]


# --- What a thread was told before ----------------------------------------------------------------------------

SYSTEM = {"role": "system", "content": "Be a browser. " * 100}
USER = {"role": "user", "content": "hi"}
OTHER_NUMBER = {"type": "json_schema", "json_schema": {"name": "count", "schema": {"type": "object"}}}
THIRD = {"type": "json_schema", "json_schema": {"name": "other", "schema": NUMBER_SCHEMA}}


def told(client: Client) -> list[str]:
    """Of what the last run was asked for: what it was told beside the user's words."""
    return [item[1] for item in sent(client) if item[0] == "system"]


def is_full(client: Client) -> bool:
    """Whether the schema went with it."""
    return any('"properties"' in text or '{"type":"object"}' in text for text in told(client))


def test_a_schema_is_told_a_thread_once_and_then_referred_to() -> None:
    proxy = Proxy()
    first = asked(proxy, response_format=NUMBER)
    assert is_full(first)
    first.stream(PING, say(GOOD), *STOPS)
    second = asked(proxy, response_format=NUMBER, content="more")
    (reminder,) = told(second)
    assert not is_full(second)
    assert "the JSON Schema count that you were given before" in reminder
    assert len(reminder) < 400
    second.stream(PING, say(GOOD), *STOPS)
    assert completion(second)[0] == GOOD


def test_a_schema_that_changes_is_told_anew_and_one_of_another_name_beside_it() -> None:
    proxy = Proxy()
    seen = []
    for number, reply_format in enumerate((NUMBER, THIRD, NUMBER, THIRD, OTHER_NUMBER, NUMBER, THIRD)):
        client = asked(proxy, response_format=reply_format, content=f"turn {number}")
        seen.append(is_full(client))
        client.stream(PING, say(GOOD), *STOPS)
    assert seen == [True, True, False, False, True, True, False]


def test_another_thread_was_told_nothing() -> None:
    proxy = Proxy()
    asked(proxy, response_format=NUMBER).stream(PING, say(GOOD), *STOPS)
    headers = {"x-letta-chat-key": "chat-1"}
    client = asked(proxy, response_format=NUMBER, headers=headers)
    client.answer([]).answer({"id": "conv-1", "agent_id": AGENT.id}).answer([])
    assert is_full(client)


def test_what_a_turn_was_told_is_known_though_its_reply_was_wrong_twice() -> None:
    proxy = Proxy()
    client = asked(proxy, messages=[SYSTEM, USER], response_format=NUMBER)
    assert (len(told(client)), is_full(client)) == (2, True)
    client.stream(PING, say("One."), *STOPS)
    assert (len(told(client)), is_full(client)) == (1, False), "asked again, but told nothing again"
    client.stream(PING, say("One.", id="m-2"), *STOPS)
    assert client.status == 424
    client = asked(proxy, messages=[SYSTEM, {"role": "user", "content": "again"}], response_format=NUMBER)
    assert (len(told(client)), is_full(client)) == (1, False)


def test_a_schema_that_was_only_referred_to_goes_with_the_second_asking() -> None:
    """It may have gone from the agent's sight, as Letta puts old messages away."""
    proxy = Proxy()
    asked(proxy, response_format=NUMBER).stream(PING, say(GOOD), *STOPS)
    client = asked(proxy, response_format=NUMBER, content="more").stream(PING, say("One."), *STOPS)
    assert is_full(client)
    client.stream(PING, say(GOOD, id="m-2"), *STOPS)
    assert completion(client)[0] == GOOD


def test_what_a_failed_turn_was_told_counts_if_it_is_kept() -> None:
    proxy = Proxy()
    for keeps in (False, True):
        client = asked(proxy, messages=[SYSTEM, USER], response_format=NUMBER, user=f"keeps {keeps}")
        assert (len(told(client)), is_full(client)) == (2, True)
        steps = (server_call("call-1", "look", "{}"), TOOL_RETURN) if keeps else ()
        client.stream(PING, *steps, stop("error"), error(), DONE)
        assert client.status == (424 if keeps else 502)
    client = asked(proxy, messages=[SYSTEM, USER], response_format=NUMBER, user="then")
    assert (len(told(client)), is_full(client)) == (1, False)


def test_what_a_turn_was_told_whose_client_left_counts_if_it_is_kept() -> None:
    proxy = Proxy()
    for keeps, now in ((False, 100.0), (True, 110.0)):
        client = asked(proxy, messages=[SYSTEM, USER], response_format=NUMBER, user=f"keeps {keeps}", now=now)
        assert is_full(client)
        steps = (server_call("call-1", "look", "{}"), TOOL_RETURN) if keeps else ()
        client.stream(PING, *steps, think("Hm."), now=now + 2.0).leave(now=now + 3.0)
        client.answer({RUN_ID: "cancelled"}, now=now + 3.0)
        assert client.ended
    client = asked(proxy, messages=[SYSTEM, USER], response_format=NUMBER, user="then", now=120.0)
    assert (len(told(client)), is_full(client)) == (1, False)


def test_schemas_of_a_thread_are_remembered_up_to_a_limit() -> None:
    proxy = Proxy()
    for number in range(20):
        schema = {"name": f"schema_{number}", "schema": NUMBER_SCHEMA}
        reply_format = {"type": "json_schema", "json_schema": schema}
        asked(proxy, response_format=reply_format, content=str(number)).stream(PING, say(GOOD), *STOPS)
    assert is_full(asked(proxy, response_format=reply_format | {"json_schema": schema | {"name": "schema_0"}}))


# --- The answer -----------------------------------------------------------------------------------------------


def completion(client: Client) -> tuple[Any, str, int]:
    """Content, finish reason and tokens of a whole answer."""
    assert client.status == 200
    body = client.json()
    choice = body["choices"][0]
    return choice["message"]["content"], choice["finish_reason"], body["usage"]["total_tokens"]


def chunks(client: Client) -> list[Any]:
    """The data of a streamed answer."""
    lines = [line for line in client.body.split(b"\n") if line.startswith(b"data: {")]
    return [orjson.loads(line.removeprefix(b"data: ")) for line in lines]


def deltas(client: Client) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in chunks(client) if chunk.get("choices")]


def test_a_good_reply_comes_whole() -> None:
    client = asked(Proxy(VALIDATE), response_format=NUMBER)
    client.stream(PING, say("```json\n"), say('{"n"'), say(": 1}\n```"), *STOPS)
    assert completion(client) == (GOOD, "stop", 120)


def test_a_good_reply_comes_in_one_piece_once_it_was_checked() -> None:
    client = asked(Proxy(VALIDATE), response_format=NUMBER, stream=True)
    client.stream(PING, think("Hm."), say('{"n"', id="m-2"))
    assert client.status == 200
    assert deltas(client) == [{"role": "assistant", "content": ""}, {"reasoning_content": "Hm."}]
    client.more(PING, say(": 1}", id="m-2"), stop())
    assert b": keepalive" in client.body
    assert len(deltas(client)) == 2
    client.more(USAGE, DONE)
    assert deltas(client)[2:] == [{"content": GOOD}, {}]
    assert client.body.endswith(b"data: [DONE]\n\n")


def test_silence_is_filled_while_words_are_held() -> None:
    client = asked(Proxy(VALIDATE), response_format=NUMBER, stream=True)
    client.stream(PING, say('{"n"'), now=102.0)
    for second in range(103, 117):
        client.more(say(" "), now=float(second))
    assert b"keepalive" not in client.body
    client.cycle.receive_data(b"", 117.5)
    client.go_on(117.5)
    assert b": keepalive" in client.body


def test_a_bad_reply_is_asked_for_again_once() -> None:
    client = asked(Proxy(VALIDATE), response_format=NUMBER, content="count!")
    client.stream(PING, think("First.", id="m-1"), say("One.", id="m-2"), *STOPS)
    assert client.head is None
    ((role, text),) = sent(client)
    assert role == "system"
    assert text.startswith("Your last reply cannot be used: it is no JSON: unexpected character")
    assert text.endswith("satisfies the JSON Schema count that you were given.")
    client.stream(PING, think("Second.", id="m-3"), say(GOOD, id="m-4"), *STOPS)
    assert completion(client) == (GOOD, "stop", 240)
    assert client.json()["choices"][0]["message"]["reasoning_content"] == "First.\n\nSecond."
    assert client.ended


def test_a_bad_reply_is_never_told() -> None:
    client = asked(Proxy(VALIDATE), response_format=NUMBER, stream=True, stream_options={"include_usage": True})
    client.stream(PING, say("One."), *STOPS)
    client.stream(PING, say(GOOD, id="m-2"), *STOPS)
    assert [delta.get("content") for delta in deltas(client)] == ["", GOOD, None]
    assert chunks(client)[-1]["usage"]["total_tokens"] == 240
    assert client.body.count(b"[DONE]") == 1


TWICE = (
    "The agent was asked twice, and its reply cannot be used: $.n: 'x' is not of type 'integer'. "
    "With the header X-Letta-Policy-Enforcement: ignore replies come as they are."
)


def test_a_second_bad_reply_is_an_error_that_nobody_repeats() -> None:
    client = asked(Proxy(VALIDATE), response_format=NUMBER)
    client.stream(PING, say("One."), *STOPS).stream(PING, say('{"n": "x"}', id="m-2"), *STOPS)
    assert client.status == 424
    assert client.headers["x-should-retry"] == "false"
    assert client.json()["error"] == {
        "message": TWICE,
        "type": "upstream_error",
        "param": None,
        "code": "invalid_reply",
    }
    assert (client.cycle.summary.outcome, client.cycle.summary.kept) == ("invalid_reply", "something")
    assert client.ended
    assert len([command for command in client.commands if isinstance(command, OpenStream)]) == 2


def test_in_a_stream_it_is_an_event() -> None:
    client = asked(Proxy(VALIDATE), response_format=NUMBER, stream=True)
    client.stream(PING, say("One."), *STOPS).stream(PING, say('{"n": "x"}', id="m-2"), *STOPS)
    assert chunks(client)[-1]["error"] == {
        "message": TWICE,
        "type": "upstream_error",
        "param": None,
        "code": "invalid_reply",
    }
    assert b"One." not in client.body
    assert b"[DONE]" not in client.body


# --- The turn -------------------------------------------------------------------------------------------------


def turn_for(
    reply_format: ReplyFormat, *, tools: bool = False, config: Config = VALIDATE, **fields: Any
) -> Turn:
    """A turn whose run was asked for."""
    made = turn_request("hi", tools=[WEATHER] if tools else ())
    turn = make_turn(evolve(made, reply_format=reply_format), config, AGENT, **fields)
    drain(turn)
    return turn


def texts(items: list[Event | Command]) -> list[str]:
    return [item.text for item in items if isinstance(item, TextDelta)]


def finish(items: list[Event | Command]) -> FinishReason:
    assert isinstance(items[-1], TurnFinished)
    return items[-1].reason


def test_what_is_said_before_the_agents_own_tools_is_no_reply() -> None:
    items = stream(
        turn_for(JSON),
        PING,
        say("Let me look.", id="m-1"),
        server_call("call-1", "look", "{}"),
        TOOL_RETURN,
        say(GOOD, id="m-2", step="step-2"),
        *STOPS,
    )
    assert texts(items) == [GOOD]
    assert any(isinstance(item, ServerToolStarted) for item in items)


def test_a_call_is_told_as_it_comes_with_the_words_before_it() -> None:
    turn = turn_for(JSON, tools=True)
    items = stream(turn, PING, say("I must ask."), want("call-1", "get_weather", '{"a'), end=False)
    assert [type(item) for item in items] == [TurnStarted, TextDelta, CallStarted, CallArguments]
    items = more(turn, want("call-1", None, '": 1}'), *WAITS)
    assert finish(items) is FinishReason.TOOL_CALLS


@pytest.mark.parametrize("reason", ["max_steps", "max_tokens_exceeded", "cancelled"])
@pytest.mark.parametrize("reply_format", [JSON, CALL], ids=["json", "call"])
def test_half_a_reply_is_told_as_what_it_is(reply_format: ReplyFormat, reason: str) -> None:
    items = stream(turn_for(reply_format, tools=True), PING, say('{"n": '), stop(reason), USAGE, DONE)
    assert texts(items) == ['{"n": ']
    assert finish(items) is FinishReason.LENGTH


def test_a_call_is_what_was_wished() -> None:
    turn = turn_for(CALL, tools=True)
    items = stream(turn, PING, say("I will look."), want("call-1", "get_weather", "{}"), *WAITS)
    assert texts(items) == ["I will look."]
    assert finish(items) is FinishReason.TOOL_CALLS


def test_words_in_place_of_a_call_are_dropped_and_it_is_asked_for() -> None:
    turn = turn_for(CALL, tools=True)
    items = stream(turn, PING, say("It is sunny."), *STOPS)
    assert texts(items) == []
    (command,) = [item for item in items if isinstance(item, OpenStream)]
    (message,) = command.request.messages
    assert isinstance(message, letta.MessageCreate)
    assert (
        message.content
        == "Your last reply cannot be used: no tool was called. Reply once more, and call the tool get_weather."
    )
    assert command.request.client_tools == (to_client_tool(WEATHER),)
    items = stream(turn, PING, say("Sorry.", id="m-2"), want("call-1", "get_weather", "{}"), end=False)
    assert texts(items) == ["Sorry."], "with no blank line before it: nothing was told yet"
    items = more(turn, *WAITS)
    assert finish(items) is FinishReason.TOOL_CALLS


def test_no_call_at_all_is_an_error() -> None:
    turn = turn_for(CALL, tools=True)
    stream(turn, PING, say("It is sunny."), *STOPS)
    items = stream(turn, PING, say("It really is."), *STOPS)
    assert isinstance(items[-1], TurnFailed)
    assert items[-1].kept is Kept.SOMETHING
    assert "no tool was called" in items[-1].error.message


def test_nobody_is_asked_for_an_approval() -> None:
    turn = turn_for(JSON, config=Config(enforcement=Enforcement.VALIDATE, approvals=Approvals.ASK))
    items = stream(turn, PING, say("I clean up."), want("call-1", "delete_all", "{}"), *WAITS)
    (command,) = [item for item in items if isinstance(item, OpenStream)]
    (denial,) = command.request.messages
    assert isinstance(denial, letta.ApprovalCreate)
    assert [answer.approve for answer in denial.approvals if isinstance(answer, letta.Approval)] == [False]
    items = stream(turn, PING, say(GOOD, id="m-9"), *STOPS)
    assert texts(items) == [GOOD]
    assert finish(items) is FinishReason.STOP


def test_what_waited_before_is_denied_and_not_asked_about() -> None:
    """The word approve is no answer here: the question was another client's."""
    request = chat(content="approve", response_format=OBJECT)
    client = Client(request, Proxy(Config(enforcement=Enforcement.VALIDATE, approvals=Approvals.ALLOW)))
    client.answer([agent_json()])
    assert sent(client) == [("system", JSON.prompt), ("user", "approve")]
    conflict = error("internal_error", "CONFLICT: The agent is waiting for approval on a tool call.")
    client.stream(PING, conflict).answer(agent_json("call-1", name="delete_all"))
    assert sent(client) == ["approval", ("system", JSON.prompt), ("user", "approve")]
    command = client.commands[-1]
    assert isinstance(command, OpenStream)
    (denial, *_) = orjson.loads(command.body)["messages"]
    assert denial["approvals"][0]["approve"] is False


def test_too_many_approvals_end_as_half_a_reply() -> None:
    config = Config(enforcement=Enforcement.VALIDATE, approvals=Approvals.ALLOW, max_approval_count=0)
    turn = turn_for(JSON, config=config)
    items = stream(turn, PING, say("I clean up."), want("call-1", "delete_all", "{}"), *WAITS)
    assert texts(items) == ["I clean up."]
    assert finish(items) is FinishReason.LENGTH


def test_a_run_that_fails_when_asked_again_may_not_be_repeated() -> None:
    turn = turn_for(JSON)
    stream(turn, PING, say("One."), *STOPS)
    items = stream(turn, PING, error(), "[DONE]")
    assert isinstance(items[-1], TurnFailed)
    assert (items[-1].kept, items[-1].error.status_hint) == (Kept.SOMETHING, 424)


def test_asking_again_that_is_refused_may_not_be_repeated() -> None:
    turn = turn_for(JSON)
    stream(turn, PING, say("One."), *STOPS)
    items = answer(turn, {"detail": "no"}, 500)
    assert isinstance(items[-1], TurnFailed)
    assert (items[-1].kept, items[-1].error.status_hint) == (Kept.SOMETHING, 424)


def test_a_client_that_left_is_asked_for_nothing() -> None:
    turn = turn_for(JSON)
    stream(turn, PING, say("One."), end=False)
    turn.client_disconnected()
    assert [type(item) for item in drain(turn)] == [CancelRun]


def test_a_client_that_leaves_while_it_is_asked_again_ends_that_run() -> None:
    turn = turn_for(JSON)
    stream(turn, PING, say("One."), *STOPS)
    stream(turn, PING | {"run_id": "run-2"}, end=False)
    turn.client_disconnected()
    (command,) = drain(turn)
    assert isinstance(command, CancelRun)
    assert command.run_id == "run-2"


def test_a_proxy_that_ends_does_not_ask_again() -> None:
    turn = turn_for(JSON)
    stream(turn, PING, say("One."), stop(), end=False)
    turn.shut_down(shutting_down())
    items = drain(turn)
    assert [type(item) for item in items] == [CancelRun]
    items = answer(turn, {RUN_ID: "failed to cancel"})
    assert isinstance(items[-1], TurnFailed)
    assert items[-1].error.status_hint == 424


# --- Lost streams and repeats ---------------------------------------------------------------------------------

BOOK = {"id": RUN_ID, "status": "completed", "stop_reason": "end_turn"}


def kept(*texts: str) -> list[dict[str, Any]]:
    """The messages of a run, as Letta has them."""
    said = [
        {"message_type": "assistant_message", "id": f"m-{n}", "content": text} for n, text in enumerate(texts)
    ]
    inputs = [
        {"message_type": kind, "id": kind, "content": "hi"} for kind in ("system_message", "user_message")
    ]
    return [*inputs, *said]


def recover(turn: Turn, text: str) -> list[Event | Command]:
    """Letta's books of the run whose stream was lost."""
    assert [type(item) for item in drain(turn)] == [FetchRun]
    assert [type(item) for item in answer(turn, BOOK)] == [FetchKept]
    assert [type(item) for item in answer(turn, kept(text))] == [FetchUsage]
    return answer(turn, {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120})


def lost(turn: Turn, *messages: dict[str, Any]) -> list[Event | Command]:
    """A stream that breaks behind these messages."""
    items = stream(turn, PING, *messages, end=False)
    turn.receive_failure(Failure.BROKEN, "connection reset")
    return items


def test_held_words_survive_a_lost_stream() -> None:
    turn = turn_for(JSON)
    items = lost(turn, think("Hm.", id="m-0"), say('{"n"', id="m-1"))
    assert [type(item) for item in items] == [TurnStarted, ReasoningDelta]
    items = recover(turn, GOOD)
    assert texts(items) == [GOOD]
    assert finish(items) is FinishReason.STOP


def test_a_bad_reply_that_was_lost_is_asked_for_again() -> None:
    turn = turn_for(JSON)
    lost(turn, say("On"))
    items = recover(turn, "One.")
    assert texts(items) == []
    assert isinstance(items[-1], OpenStream)
    items = stream(turn, PING, say(GOOD, id="m-7"), *STOPS)
    assert texts(items) == [GOOD]
    assert isinstance(items[-1], TurnFinished)
    assert items[-1].usage is not None
    assert items[-1].usage.total_tokens == 240


def test_the_second_run_may_be_lost_too() -> None:
    turn = turn_for(JSON)
    stream(turn, PING, say("One."), *STOPS)
    lost(turn, say('{"n"', id="m-7"))
    assert texts(recover(turn, GOOD)) == [GOOD]


def test_words_that_a_call_released_are_not_told_twice() -> None:
    turn = turn_for(JSON, tools=True)
    items = lost(turn, say("I must ask.", id="m-0"), want("call-1", "get_weather", '{"a'))
    assert texts(items) == ["I must ask."]
    drain(turn)
    answer(turn, BOOK | {"stop_reason": "requires_approval"})
    call = {"tool_call_id": "call-1", "name": "get_weather", "arguments": '{"a": 1}'}
    request = {"message_type": "approval_request_message", "id": "m-1", "tool_call": call, "tool_calls": [call]}
    answer(turn, [*kept("I must ask."), request])
    items = answer(turn, {"total_tokens": 1})
    assert texts(items) == []
    assert [item.fragment for item in items if isinstance(item, CallArguments)] == ['": 1}']
    assert finish(items) is FinishReason.TOOL_CALLS


def test_a_repeat_that_joins_hears_what_was_told() -> None:
    proxy = Proxy(VALIDATE)
    first = asked(proxy, response_format=NUMBER, stream=True)
    first.stream(PING, think("Hm."), say("One.", id="m-2"))
    second = Client(chat(response_format=NUMBER, stream=True), proxy, token="second12")
    assert second.commands == []
    first.more(*STOPS)
    first.stream(PING, say(GOOD, id="m-3"), *STOPS)
    second.go_on()
    assert deltas(second) == deltas(first)
    assert second.ended


def test_a_repeat_of_a_turn_that_broke_off_is_checked_too() -> None:
    """The first run's reply is at Letta, and nobody was told: the agent is asked again, not told again."""
    proxy = Proxy(Config(enforcement=Enforcement.VALIDATE))
    first = asked(proxy, response_format=NUMBER)
    first.stream(PING, say("On")).leave()
    assert isinstance(first.commands[-1], CancelRun)
    first.answer({RUN_ID: "cancelled"})
    second = Client(chat(response_format=NUMBER), proxy, token="second12", now=105.0)
    assert isinstance(second.commands[-1], FetchRun)
    second.answer(BOOK).answer(kept("One.")).answer({"total_tokens": 7})
    ((role, text),) = sent(second)
    assert role == "system"
    assert text.startswith("Your last reply cannot be used")
    second.stream(PING, say(GOOD, id="m-3"), *STOPS)
    assert completion(second) == (GOOD, "stop", 127)


def test_a_repeat_of_a_refused_reply_asks_once_more() -> None:
    proxy = Proxy(VALIDATE)
    first = asked(proxy, response_format=NUMBER)
    first.stream(PING, say("One."), *STOPS).stream(
        PING | {"run_id": "run-2"}, say("Two.", id="m-2") | {"run_id": "run-2"}, *STOPS
    )
    assert first.status == 424
    second = Client(chat(response_format=NUMBER), proxy, token="second12")
    assert second.commands == [FetchRun(run_id="run-2")]
    second.answer(BOOK | {"id": "run-2"}).answer(kept("Two.")[2:]).answer({"total_tokens": 7})
    assert [role for role, _ in sent(second)] == ["system"], "the user's words are not said again"


def test_a_chat_begins_with_its_history_once() -> None:
    proxy = Proxy(VALIDATE)
    messages = [
        {"role": "user", "content": "before"},
        {"role": "assistant", "content": "said"},
        {"role": "user", "content": "hi"},
    ]
    client = asked(proxy, messages=messages, response_format=NUMBER, headers={"x-letta-chat-key": "chat-1"})
    client.answer([]).answer([]).answer({"id": "conv-1", "agent_id": AGENT.id}).answer([])
    assert [role for role, _ in sent(client)] == ["user", "assistant", "system", "user"]
    client.stream(PING, say("One."), *STOPS)
    assert [role for role, _ in sent(client)] == ["system"]


def test_keepalives_are_passed_on() -> None:
    turn = turn_for(JSON)
    items = stream(turn, PING, say("{"), PING, end=False)
    assert [type(item) for item in items] == [TurnStarted, KeepAlive]


def test_a_request_may_choose_for_itself() -> None:
    proxy, header = Proxy(), "x-letta-policy-enforcement"
    client = asked(proxy, response_format=OBJECT, headers={header: "validate"})
    client.stream(PING, say("Hi."), *STOPS).stream(PING, say(GOOD, id="m-2"), *STOPS)
    assert completion(client)[0] == GOOD
    client = asked(proxy, response_format=OBJECT, headers={header: "ignore"})
    client.stream(PING, say("Hi."), *STOPS)
    assert completion(client)[0] == "Hi."
    refused = Client(chat(response_format=OBJECT, headers={header: "refuse"}), Proxy(VALIDATE))
    assert (refused.status, refused.commands) == (400, [])


def test_a_refusal_over_http() -> None:
    client = Client(chat(response_format=OBJECT), Proxy(Config(enforcement=Enforcement.REFUSE)))
    assert (client.status, client.json()["error"]["param"]) == (400, "response_format")
    ignoring = Client(chat(response_format=OBJECT), Proxy(Config(enforcement=Enforcement.IGNORE)))
    ignoring.answer([agent_json()]).stream(PING, say("Hi."), *STOPS)
    assert ignoring.headers["x-ignored-parameters"] == "response_format"
    assert completion(ignoring)[0] == "Hi."
