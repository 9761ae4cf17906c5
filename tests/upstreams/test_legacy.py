"""Turns with agents to which a client's tools are attached: the commands, and what Letta stores."""

import orjson
import pytest
from attrs import evolve

from drive import AGENT_ID, PING, RUN_ID, WEATHER, error, say, stop, think, turn_request
from legacy_letta import (
    HELLO,
    NOW,
    READ,
    LegacyLetta,
    calling,
    name_of,
    stopped_by,
    turn_of,
)
from sansio_letta import Config, Kept, Signal, TurnRequest
from sansio_letta.config import Approvals, ClientTools, InstructionPolicy
from sansio_letta.errors import (
    Advice,
    Failure,
    FieldPath,
    LettaError,
    RemoteProtocolError,
    RequestField,
    shutting_down,
)
from sansio_letta.turn.events import (
    CallArguments,
    CallsSettled,
    CallStarted,
    FinishReason,
    ServerToolStarted,
    TextDelta,
    TurnFailed,
    TurnFinished,
)
from sansio_letta.turn.reply_format import CallReply
from sansio_letta.turn.request import (
    Chat,
    NamedConversation,
    SystemMessage,
    Throwaway,
    Tool,
    ToolResult,
    UserMessage,
)
from sansio_letta.turn.settlement import NO_CLIENT, NO_RESULT, NO_RESULT_YET
from sansio_letta.turn.thread_queue import ThreadQueue, Ticket
from sansio_letta.upstreams.rest.commands import (
    AnswerCalls,
    CancelRun,
    ChangeToolbox,
    Command,
    DeleteTool,
    FetchAgent,
    FetchMessages,
    FetchToolbox,
    FindToolboxes,
    FindTools,
    MakeTool,
    OpenStream,
    SearchTools,
)
from sansio_letta.upstreams.rest.run_request import RESULT_PREFACE
from sansio_letta.upstreams.rest.tool_attachment import CreatedTools
from support import heard, instructions, transcript

GIVE = [FetchToolbox, FindTools, MakeTool, ChangeToolbox]
FIND = [FetchToolbox, FindTools, ChangeToolbox]
TAKE = [FetchToolbox, ChangeToolbox]
LOOK: list[type[Command]] = [FindToolboxes, SearchTools]
CLEAN = [*TAKE, *LOOK]
WANTED = name_of(WEATHER)
CALL = calling("call-1", WANTED)


def asked(letta_: LegacyLetta) -> list[type[Command]]:
    """What Letta was asked, in order, since it was asked for this last."""
    commands, letta_.asked = [type(command) for command in letta_.asked], []
    return commands


def run_request(letta_: LegacyLetta) -> dict[str, object]:
    (command,) = [command for command in letta_.asked if isinstance(command, OpenStream)]
    body: dict[str, object] = orjson.loads(command.body)
    return body


def said_in(letta_: LegacyLetta) -> list[tuple[str, str]]:
    """What the agent was told, with the roles."""
    (command,) = [command for command in letta_.asked if isinstance(command, OpenStream)]
    messages = orjson.loads(command.body)["messages"]
    return [(message["role"], message["content"]) for message in messages if "role" in message]


def failed(letta_: LegacyLetta) -> TurnFailed:
    assert isinstance(letta_.told[-1], TurnFailed)
    return letta_.told[-1]


def finished(letta_: LegacyLetta) -> FinishReason:
    assert isinstance(letta_.told[-1], TurnFinished)
    return letta_.told[-1].reason


# --- A whole exchange


def test_a_call_and_its_result() -> None:
    house = LegacyLetta([stopped_by(think("Look."), CALL), HELLO])
    before = house.equipment
    turn = turn_of(turn_request("hi", tools=[WEATHER]))
    house.drive(turn, until=OpenStream)
    assert house.has(WEATHER)
    house.answer(turn, house.asked[-1])
    house.drive(turn)
    assert asked(house) == [*GIVE, OpenStream, *CLEAN]
    assert house.has()
    assert [event for event in house.told if isinstance(event, CallStarted | CallArguments)] == [
        CallStarted(index=0, call_id="call-1", name="get_weather"),
        CallArguments(index=0, fragment='{"city": "Rome"}'),
    ]
    assert finished(house) is FinishReason.TOOL_CALLS
    assert WANTED in [tool["name"] for tool in house.tools.values()]

    house.wait_for("call-1", WANTED)
    turn = turn_of(turn_request(results=["call-1"], tools=[WEATHER]), token="t2", created=NOW + 9)
    house.drive(turn)
    assert run_request(house) == {
        "messages": [
            {
                "type": "approval",
                "approvals": [
                    {"type": "tool", "tool_call_id": "call-1", "tool_return": "18 C", "status": "success"}
                ],
                "approval_request_id": "message-2",
                "approve": False,
                "reason": f"{RESULT_PREFACE}18 C",
            }
        ],
        "stream_tokens": False,
        "include_pings": True,
    }
    assert asked(house) == [FetchAgent, *FIND, OpenStream, *TAKE]
    assert finished(house) is FinishReason.STOP
    assert house.equipment == before


def test_what_an_agent_is_given() -> None:
    house = LegacyLetta([HELLO])
    turn = turn_of(turn_request("hi", tools=[WEATHER, READ]))
    house.drive(turn, until=OpenStream)
    made = [command for command in house.asked if isinstance(command, MakeTool)]
    body = orjson.loads(made[0].body)
    assert body["json_schema"] == {
        "name": WANTED,
        "description": "",
        "parameters": {"type": "object", "properties": {}, "required": []},
    }
    assert body["default_requires_approval"] is True
    assert body["tags"] == ["letta-proxy-client-tools", f"letta-proxy-client-tools until {NOW + 300}"]
    assert house.agents[AGENT_ID] == {
        "tool_ids": ["tool-say", "tool-1", "tool-2"],
        "tool_rules": [
            {"tool_name": "send_message", "type": "exit_loop", "prompt_template": None},
            {"type": "requires_approval", "tool_name": WANTED},
            {"type": "requires_approval", "tool_name": name_of(READ)},
        ],
        "tags": ["mine", "letta-proxy-client-tools", f"letta-proxy-client-tools until {NOW + 300} for t1"],
    }
    assert "client_tools" not in run_request(house)


def test_text_alone_takes_nothing_but_the_run() -> None:
    house = LegacyLetta([HELLO])
    house.drive(turn_of(turn_request("hi")))
    assert run_request(house)["stream_tokens"] is False
    assert asked(house) == [OpenStream]
    assert [event.text for event in house.told if isinstance(event, TextDelta)] == ["Hello"]


def test_an_agent_that_takes_tools_with_a_request_gets_them_so() -> None:
    house = LegacyLetta([HELLO])
    house.drive(turn_of(turn_request("hi", tools=[WEATHER]), agent_type="letta_v1_agent"))
    assert run_request(house)["client_tools"] == [{"name": "get_weather", "parameters": {"type": "object"}}]
    assert asked(house) == [OpenStream]


def test_it_may_be_given_them_the_other_way() -> None:
    house = LegacyLetta([stopped_by(calling("call-1", WANTED, '{"request_heartbeat": true}'))])
    config = Config(client_tools=ClientTools.ATTACH)
    house.drive(turn_of(turn_request("hi", tools=[WEATHER]), agent_type="letta_v1_agent", config=config))
    request = run_request(house)
    assert ("client_tools" in request, request["stream_tokens"]) == (False, True)
    assert asked(house) == [*GIVE, OpenStream, *CLEAN]
    # Such an agent's arguments are the model's own.
    assert CallArguments(index=0, fragment='{"request_heartbeat": true}') in house.told

    house = LegacyLetta([HELLO], agent_type="letta_v1_agent")
    house.wait_for("call-1", WANTED)
    house.drive(
        turn_of(turn_request("go", results=["call-1"]), agent_type="letta_v1_agent", config=config, token="t2")
    )
    assert run_request(house)["messages"] == [
        {
            "type": "approval",
            "approvals": [
                {"type": "tool", "tool_call_id": "call-1", "tool_return": "18 C", "status": "success"}
            ],
        },
        {"role": "user", "content": "go"},
    ]


# --- Tools that are there already


def test_a_tool_is_made_anew_once_it_has_expired() -> None:
    house = LegacyLetta([stopped_by(CALL), HELLO, HELLO])
    house.drive(turn_of(turn_request("hi", tools=[WEATHER])))
    asked(house)
    turn = turn_of(turn_request("hi", tools=[WEATHER]), token="t2", created=NOW + 299)
    house.drive(turn, until=OpenStream)
    assert asked(house) == [*FIND, OpenStream]
    turn.client_disconnected()
    turn.receive_failure(Failure.NOT_SENT, "gone")
    house.drive(turn)
    asked(house)
    house.drive(turn_of(turn_request("hi", tools=[WEATHER]), token="t3", created=NOW + 300), until=OpenStream)
    assert asked(house) == [*GIVE, OpenStream]


def test_a_tool_that_goes_between_two_questions_is_made_again() -> None:
    house = LegacyLetta([stopped_by(CALL), HELLO])
    house.drive(turn_of(turn_request("hi", tools=[WEATHER])))
    asked(house)
    turn = turn_of(turn_request("hi", tools=[WEATHER]), token="t2")
    house.drive(turn, until=ChangeToolbox)
    del house.tools["tool-1"]
    house.answer(turn, house.asked[-1])
    house.drive(turn, until=OpenStream)
    assert asked(house) == [*FIND, FindTools, MakeTool, ChangeToolbox, OpenStream]
    assert house.has(WEATHER)


def test_a_tool_of_the_same_name_that_is_not_ours_is_left_alone() -> None:
    house = LegacyLetta([HELLO])
    theirs = {"id": "tool-theirs", "name": "client_of_the_bank", "tags": []}
    house.tools["tool-theirs"] = theirs
    house.agents[AGENT_ID]["tool_ids"].append("tool-theirs")
    before, equipment = house.state, house.equipment
    house.drive(turn_of(turn_request("hi", tools=[WEATHER])))
    assert house.equipment == equipment
    house.sweep(NOW + 300)
    assert house.state == before


def test_a_tool_that_another_agent_has_is_not_deleted() -> None:
    house = LegacyLetta([HELLO])
    before = house.state
    first = turn_of(turn_request("hi", tools=[WEATHER]))
    house.drive(first, until=OpenStream)
    other = AGENT_ID.replace("1111111", "2222222")
    house.agents[other] = house.agents.pop(AGENT_ID)
    house.add_agent(AGENT_ID)
    house.sweep(NOW + 299, names=[WANTED])
    assert house.has(WEATHER, agent_id=other)
    house.agents[AGENT_ID] = house.agents.pop(other)
    first.receive_failure(Failure.NOT_SENT, "as the test wants it")
    house.drive(first)
    house.sweep(NOW + 299, names=[WANTED])
    assert house.state == before


def test_equal_tools_are_made_once() -> None:
    made = CreatedTools()
    house = LegacyLetta([HELLO, stopped_by(CALL), HELLO])
    before = house.state

    def turn_at(seconds: int) -> list[type[Command]]:
        asks = turn_request("hi", tools=[WEATHER, READ])
        house.drive(turn_of(asks, created_tools=made, token=f"t{seconds}", created=NOW + seconds))
        house.pending = None
        assert house.has()
        return asked(house)

    first, second, third = turn_at(0), turn_at(150), turn_at(299)
    assert first == [FetchToolbox, FindTools, MakeTool, MakeTool, ChangeToolbox, OpenStream, *CLEAN]
    assert second == third == [*FIND, OpenStream, *TAKE]
    house.sweep(NOW + 299)
    assert len(house.tools) == 3
    house.sweep(NOW + 300)
    assert house.state == before


def test_without_a_sweep_the_next_turn_deletes_what_has_expired() -> None:
    made = CreatedTools()
    house = LegacyLetta([HELLO, HELLO, HELLO, HELLO])
    before = house.state
    house.drive(turn_of(turn_request("hi", tools=[WEATHER, READ]), created_tools=made))
    asked(house)
    house.drive(turn_of(turn_request("and"), created_tools=made, token="t2", created=NOW + 299))
    assert asked(house) == [OpenStream]
    house.drive(turn_of(turn_request("now"), created_tools=made, token="t3", created=NOW + 300))
    assert asked(house) == [OpenStream, *LOOK, DeleteTool, DeleteTool]
    assert house.state == before
    house.drive(turn_of(turn_request("again"), created_tools=made, token="t4", created=NOW + 900))
    assert asked(house) == [OpenStream]


@pytest.mark.parametrize("where", LOOK)
def test_what_could_not_be_looked_for_is_looked_for_again(where: type[Command]) -> None:
    made = CreatedTools()
    house = LegacyLetta([HELLO, HELLO, HELLO])
    before = house.state
    house.drive(turn_of(turn_request("hi", tools=[WEATHER]), created_tools=made))
    house.breaks = lambda command: 503 if isinstance(command, where) else None
    house.drive(turn_of(turn_request("and"), created_tools=made, token="t2", created=NOW + 300))
    assert len(house.tools) == 2
    house.breaks = lambda _: None
    house.drive(turn_of(turn_request("now"), created_tools=made, token="t3", created=NOW + 301))
    assert house.state == before


def test_a_turn_that_makes_a_tool_deletes_what_others_have_left() -> None:
    house = LegacyLetta([HELLO, HELLO])
    house.drive(turn_of(turn_request("hi", tools=[WEATHER])))
    asked(house)
    house.drive(turn_of(turn_request("hi", tools=[READ]), token="t2", created=NOW + 300))
    assert asked(house) == [*GIVE, OpenStream, *CLEAN, DeleteTool]
    assert [raw["name"] for raw in house.tools.values()] == ["send_message", name_of(READ)]


def test_two_proxies_share_a_tool_and_neither_shortens_its_life() -> None:
    house = LegacyLetta([HELLO, HELLO, HELLO])
    house.drive(turn_of(turn_request("hi", tools=[WEATHER]), created_tools=CreatedTools()))
    asked(house)
    other, brief = CreatedTools(), Config(client_tool_ttl=5)
    house.drive(
        turn_of(turn_request("hi", tools=[WEATHER]), created_tools=other, config=brief, created=NOW + 9)
    )
    assert asked(house) == [*FIND, OpenStream, *TAKE]
    # It ends, and a third one starts: what was made elsewhere stays.
    house.sweep(NOW + 10, names=other.names(NOW + 10))
    house.drive(turn_of(turn_request("hi", tools=[WEATHER]), created_tools=CreatedTools(), created=NOW + 299))
    assert asked(house) == [*FIND, OpenStream, *TAKE]


def test_one_that_leaves_the_queue_touches_nothing() -> None:
    made, queue = CreatedTools(), ThreadQueue(9)
    house = LegacyLetta([stopped_by(CALL), HELLO])
    house.drive(turn_of(turn_request("hi", tools=[WEATHER]), created_tools=made))
    asked(house)
    first = turn_of(turn_request("a"), ticket=Ticket(queue), created_tools=made, token="t2", created=NOW + 300)
    second = turn_of(turn_request("b"), ticket=Ticket(queue), created_tools=made, token="t3", created=NOW + 300)
    house.drive(first, until=OpenStream)
    assert second.next_event() is Signal.WAITING
    second.client_disconnected()
    assert second.next_event() is Signal.FINISHED
    assert asked(house) == [OpenStream]


# --- Two clients


def test_turns_with_one_agent_wait_for_each_other_in_all_threads() -> None:
    queue = ThreadQueue(9)
    first = turn_of(evolve(turn_request("a", tools=[WEATHER]), thread=Chat(key="a")), ticket=Ticket(queue))
    second = turn_of(turn_request("b", tools=[READ]), ticket=Ticket(queue), token="t2")
    third = turn_of(turn_request("c"), ticket=Ticket(queue), token="t3")
    house = LegacyLetta([HELLO, HELLO, HELLO])
    house.drive(first, until=OpenStream)
    assert (second.next_event(), third.next_event()) == (Signal.WAITING, Signal.WAITING)
    assert house.has(WEATHER)
    house.answer(first, house.asked[-1])
    house.drive(first)
    house.drive(second, until=OpenStream)
    assert house.has(READ)
    assert third.next_event() is Signal.WAITING
    house.answer(second, house.asked[-1])
    house.drive(second)
    house.drive(third, until=OpenStream)
    assert house.has()


def test_agents_that_keep_their_threads_apart_do_not_wait() -> None:
    queue = ThreadQueue(9)
    turns = [
        turn_of(turn_request("a"), ticket=Ticket(queue), agent_type="letta_v1_agent"),
        turn_of(
            evolve(turn_request("b"), thread=Chat(key="b")), ticket=Ticket(queue), agent_type="letta_v1_agent"
        ),
    ]
    assert Signal.WAITING not in [turn.next_event() for turn in turns]


def test_two_schemas_of_one_name_are_two_tools() -> None:
    house = LegacyLetta([stopped_by(CALL), HELLO])
    house.drive(turn_of(turn_request("hi", tools=[WEATHER])))
    other = Tool(name="get_weather", parameters={"type": "object", "properties": {"town": {}}})
    turn = turn_of(turn_request("hi", tools=[other]), token="t2")
    house.drive(turn, until=OpenStream)
    assert house.has(other)
    assert not house.has(WEATHER)


@pytest.mark.parametrize("approvals", Approvals)
def test_a_call_of_a_tool_that_the_client_did_not_offer_is_answered_at_once(approvals: Approvals) -> None:
    house = LegacyLetta([stopped_by(CALL), HELLO])
    house.drive(turn_of(turn_request("hi", tools=[READ]), config=Config(approvals=approvals)))
    assert asked(house) == [*GIVE, OpenStream, OpenStream, *CLEAN]
    assert not [event for event in house.told if isinstance(event, CallStarted | ServerToolStarted)]
    assert finished(house) is FinishReason.STOP


def test_what_the_agent_reads_for_it() -> None:
    house = LegacyLetta([stopped_by(CALL), HELLO])
    house.drive(turn_of(turn_request("hi")))
    answers = orjson.loads(house.asked[-1].body or b"")["messages"]
    assert answers == [
        {
            "type": "approval",
            "approvals": [
                {"type": "approval", "tool_call_id": "call-1", "approve": False, "reason": NO_CLIENT}
            ],
            "approve": False,
            "reason": NO_CLIENT,
        }
    ]


def test_one_that_waits_and_is_not_offered_any_more_is_no_tool_for_a_human() -> None:
    house = LegacyLetta([HELLO])
    house.wait_for("call-1", WANTED)
    asks = evolve(turn_request("yes"), results=(ToolResult(call_id="call-0", content="x"),))
    house.drive(turn_of(asks))
    assert CallsSettled(stale=("call-0",), denied=("call-1",)) in house.told
    assert [type(command) for command in house.asked] == [FetchAgent, AnswerCalls, OpenStream]


# --- Answers that cannot go with a message


def test_a_message_in_place_of_a_result_goes_behind_the_denial() -> None:
    house = LegacyLetta([(PING, error("internal_error", "CONFLICT: waiting for approval")), HELLO])
    house.wait_for("call-1", WANTED)
    house.drive(turn_of(turn_request("never mind", tools=[WEATHER])))
    denial = next(command for command in house.asked if isinstance(command, AnswerCalls))
    assert orjson.loads(denial.body) == {
        "messages": [
            {
                "type": "approval",
                "approvals": [
                    {
                        "type": "tool",
                        "tool_call_id": "call-1",
                        "tool_return": NO_RESULT_YET,
                        "status": "success",
                    }
                ],
                "approval_request_id": "message-2",
                "approve": False,
                "reason": f"Not denied: {NO_RESULT_YET}",
            }
        ],
        "max_steps": 1,
    }
    assert orjson.loads(house.asked[-len(CLEAN) - 1].body or b"")["messages"] == [
        {"role": "user", "content": "never mind"}
    ]
    # What is attached stays attached while the turn looks again.
    assert asked(house) == [*GIVE, OpenStream, FetchAgent, AnswerCalls, OpenStream, *CLEAN]


def test_a_message_behind_results_goes_behind_them() -> None:
    house = LegacyLetta([HELLO])
    house.wait_for("call-1", WANTED)
    house.drive(turn_of(turn_request("and now", results=["call-1"], tools=[WEATHER])))
    assert asked(house) == [FetchAgent, *GIVE, AnswerCalls, OpenStream, *CLEAN]


def test_results_that_went_ahead_are_known_if_the_message_is_sent_again() -> None:
    house = LegacyLetta([(PING, stop("llm_api_error"), error())])
    house.wait_for("call-1", WANTED)
    house.drive(turn_of(turn_request("and now", results=["call-1"], tools=[WEATHER])))
    # The message was not kept; the results were, and are not sent again.
    assert failed(house).kept is Kept.NOTHING
    house.runs.append(HELLO)
    house.drive(turn_of(turn_request("and now", results=["call-1"], tools=[WEATHER]), token="t2"))
    assert CallsSettled(stale=("call-1",)) in house.told
    assert finished(house) is FinishReason.STOP


def test_a_call_without_its_result_gets_one_that_says_so() -> None:
    house = LegacyLetta([HELLO])
    house.wait_for("call-1", name_of(READ))
    stale = evolve(
        turn_request("x", tools=[WEATHER]), past_results=(ToolResult(call_id="call-1", content="old"),)
    )
    house.drive(turn_of(evolve(stale, results=(ToolResult(call_id="call-9", content="new"),))))
    answers = next(command for command in house.asked if isinstance(command, AnswerCalls))
    assert orjson.loads(answers.body)["messages"][0]["reason"] == f"{RESULT_PREFACE}old"


@pytest.mark.parametrize(
    ("broken", "kept"),
    [
        (Failure.NOT_SENT, Kept.NOTHING),
        (Failure.BROKEN, Kept.UNKNOWN),
        (500, Kept.UNKNOWN),
        (400, Kept.NOTHING),
    ],
)
def test_answers_that_may_have_arrived_are_not_sent_twice(broken: Failure | int, kept: Kept) -> None:
    house = LegacyLetta([HELLO], lambda command: broken if isinstance(command, AnswerCalls) else None)
    before = house.equipment
    house.wait_for("call-1", WANTED)
    config = Config(connect_retry_timeout=0.2 if broken is Failure.BROKEN else 0)
    house.drive(turn_of(turn_request("and now", results=["call-1"], tools=[WEATHER]), config=config))
    assert failed(house).kept is kept
    assert asked(house) == [FetchAgent, *GIVE, AnswerCalls, *CLEAN]
    assert house.equipment == before


def test_instructions_wait_for_the_next_message_if_results_come_alone() -> None:
    house = LegacyLetta([HELLO, HELLO])
    house.wait_for("call-1", WANTED)
    rules = instructions("Be kind.", policy=InstructionPolicy.ALWAYS)
    results = turn_of(evolve(turn_request(results=["call-1"], tools=[WEATHER]), instructions=rules))
    house.drive(results)
    assert (asked(house), results.state.instructions_sent) == ([FetchAgent, *GIVE, OpenStream, *CLEAN], ())
    house.pending = None
    house.drive(turn_of(evolve(turn_request("hi"), instructions=rules)))
    assert said_in(house) == [("system", "Be kind."), ("user", "hi")]


def test_what_is_said_beside_results_goes_behind_them() -> None:
    house = LegacyLetta([(PING, stop("llm_api_error"), error())])
    house.wait_for("call-1", WANTED)
    preamble = (SystemMessage(content="JSON, please."),)
    house.drive(turn_of(evolve(turn_request(results=["call-1"], tools=[WEATHER]), preamble=preamble)))
    assert run_request(house)["messages"] == [{"role": "system", "content": "JSON, please."}]
    assert asked(house) == [FetchAgent, *GIVE, AnswerCalls, OpenStream, *CLEAN]
    # Sent again there would be nothing that is new.
    assert failed(house).kept is Kept.SOMETHING


def test_tools_stay_while_the_agent_is_asked_again() -> None:
    house = LegacyLetta([HELLO, stopped_by(CALL)])
    reply_format = CallReply(names=("get_weather",))
    config = Config(approvals=Approvals.DENY)
    house.drive(turn_of(evolve(turn_request("hi", tools=[WEATHER]), reply_format=reply_format), config=config))
    assert asked(house) == [*GIVE, OpenStream, OpenStream, *CLEAN]
    assert finished(house) is FinishReason.TOOL_CALLS


def test_a_tool_of_the_agents_own_is_allowed_in_the_old_form() -> None:
    house = LegacyLetta([stopped_by(calling("call-1", "rm", "{}")), HELLO])
    house.drive(turn_of(turn_request("hi"), config=Config(approvals=Approvals.ALLOW)))
    assert orjson.loads(house.asked[-1].body or b"")["messages"] == [
        {
            "type": "approval",
            "approvals": [{"type": "approval", "tool_call_id": "call-1", "approve": True}],
            "approve": True,
        }
    ]


# --- Threads


def test_a_chat_is_told_in_the_agents_own_thread() -> None:
    house = LegacyLetta([HELLO], listed=[heard("before"), say("Yes?")])
    shown = transcript("before", "Yes?", "hi")
    turn = turn_of(evolve(turn_request("hi"), thread=Chat(key="c-1"), transcript=shown))
    house.drive(turn)
    assert said_in(house) == [("user", "hi")]
    assert (asked(house), turn.state.conversation) == ([FetchMessages, OpenStream], None)


@pytest.mark.parametrize(
    ("reply_format", "status", "code"),
    [
        (NamedConversation(conversation_id="conv-1"), 404, "conversation_not_found"),
        (Throwaway(token="t"), 400, "task_refused"),
    ],
    ids=["given", "throwaway"],
)
def test_other_threads_are_refused(reply_format: NamedConversation | Throwaway, status: int, code: str) -> None:
    house = LegacyLetta()
    house.drive(turn_of(evolve(turn_request("hi"), thread=reply_format)))
    assert asked(house) == []
    assert (failed(house).error.status_hint, failed(house).error.code) == (status, code)


# --- Refusals


def test_a_schema_that_no_agent_could_be_given() -> None:
    house = LegacyLetta()
    tool = Tool(name="f", parameters={"type": "string"})
    house.drive(turn_of(turn_request("hi", tools=[READ, tool])))
    assert (failed(house).error.status_hint, failed(house).error.field) == (
        400,
        FieldPath(RequestField.TOOL_PARAMETERS, 1, ("type",)),
    )
    assert asked(house) == []


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_tool_that_letta_refuses(status: int) -> None:
    def breaks(command: Command) -> int | None:
        refused = isinstance(command, MakeTool) and command.tool.name == name_of(READ)
        return status if refused else None

    house = LegacyLetta([HELLO], breaks)
    before = house.state
    house.drive(turn_of(turn_request("hi", tools=[WEATHER, READ])))
    error = failed(house).error
    assert (error.status_hint, error.field) == (400, FieldPath(RequestField.TOOL, 1))
    assert "as the test wants it" in error.message
    # What was made is found again by the next one, or swept.
    house.sweep(NOW + 300)
    assert house.state == before
    house.breaks = lambda _: None
    house.drive(turn_of(turn_request("hi", tools=[WEATHER]), token="t2"))
    assert finished(house) is FinishReason.STOP


@pytest.mark.parametrize(("status", "told"), [(401, 502), (500, 502), (503, 503)])
@pytest.mark.parametrize("where", GIVE)
def test_other_refusals_are_told_as_ever(where: type[Command], status: int, told: int) -> None:
    house = LegacyLetta([HELLO], lambda command: status if type(command) is where else None)
    house.drive(turn_of(turn_request("hi", tools=[WEATHER])))
    assert (failed(house).error.status_hint, failed(house).kept) == (told, Kept.NOTHING)


def test_an_agent_that_is_gone_is_looked_for() -> None:
    house = LegacyLetta([HELLO])
    turn = turn_of(turn_request("hi", tools=[WEATHER]))
    house.agents[AGENT_ID.replace("1111111", "2222222")] = house.agents.pop(AGENT_ID)
    before = house.equipment
    house.drive(turn)
    assert finished(house) is FinishReason.STOP
    assert turn.agent_id == AGENT_ID.replace("1111111", "2222222")
    assert house.equipment == before


# --- Faults, at every step

STEPS = [*GIVE, OpenStream, *LOOK]


@pytest.mark.parametrize("broken", [*Failure, 404, 409, 500], ids=str)
@pytest.mark.parametrize("where", STEPS)
def test_whatever_fails_a_sweep_leaves_nothing(where: type[Command], broken: Failure | int) -> None:
    house = LegacyLetta([HELLO, HELLO], lambda command: broken if type(command) is where else None)
    before = house.state
    turn = turn_of(turn_request("hi", tools=[WEATHER]), config=Config(connect_retry_timeout=0, queue_timeout=0))
    house.drive(turn)
    assert turn.next_event() is Signal.FINISHED
    assert sum(isinstance(event, TurnFailed | TurnFinished) for event in house.told) == 1
    house.breaks = lambda _: None
    house.sweep(NOW + 300)
    assert house.state == before


@pytest.mark.parametrize("where", [step for step in STEPS if step is not OpenStream])
@pytest.mark.parametrize("retry_timeout", [0, 0.2])
def test_whatever_is_done_and_not_heard_of_leaves_nothing(where: type[Command], retry_timeout: float) -> None:
    house = LegacyLetta([HELLO, HELLO], loses=where)
    before = house.state
    config = Config(connect_retry_timeout=retry_timeout)
    house.drive(turn_of(turn_request("hi", tools=[WEATHER]), config=config))
    house.loses = None
    house.sweep(NOW + 300)
    assert house.state == before


@pytest.mark.parametrize("count", range(5))
def test_a_run_whose_stream_is_lost_is_told_to_its_end_and_leaves_nothing(count: int) -> None:
    house = LegacyLetta([stopped_by(think("Look."), CALL)[: count + 1]])
    house.kept = [think("Look."), CALL]
    before = house.state
    house.drive(turn_of(turn_request("hi", tools=[WEATHER])))
    calls = [event for event in house.told if isinstance(event, CallStarted | CallArguments)]
    assert calls == [
        CallStarted(index=0, call_id="call-1", name="get_weather"),
        CallArguments(index=0, fragment='{"city": "Rome"}'),
    ]
    assert finished(house) is FinishReason.TOOL_CALLS
    assert house.has()
    house.sweep(NOW + 300)
    assert house.state == before


@pytest.mark.parametrize("where", [*GIVE, OpenStream])
def test_a_client_that_leaves_leaves_nothing(where: type[Command]) -> None:
    house = LegacyLetta([HELLO])
    before = house.state
    turn = turn_of(turn_request("hi", tools=[WEATHER]))
    house.drive(turn, until=where)
    turn.client_disconnected()
    house.answer(turn, house.asked[-1])
    house.drive(turn)
    assert turn.next_event() is Signal.FINISHED
    assert house.has()
    house.sweep(NOW + 300)
    assert house.state == before


def test_a_client_that_leaves_in_mid_run() -> None:
    house = LegacyLetta([(PING, say("Hel"))])
    before = house.equipment
    turn = turn_of(turn_request("hi", tools=[WEATHER]))
    house.drive(turn, until=OpenStream)
    turn.receive_response(200, [("content-type", "text/event-stream")])
    turn.receive_data(b'data: {"message_type": "ping", "run_id": "%b"}\n\n' % RUN_ID.encode())
    assert turn.next_event() is Signal.NEED_DATA
    turn.client_disconnected()
    house.drive(turn)
    assert asked(house) == [*GIVE, OpenStream, CancelRun, *CLEAN]
    assert house.equipment == before


@pytest.mark.parametrize("where", [*GIVE, OpenStream])
def test_a_proxy_that_ends_leaves_nothing(where: type[Command]) -> None:
    house = LegacyLetta([HELLO])
    before = house.state
    made = CreatedTools()
    turn = turn_of(turn_request("hi", tools=[WEATHER]), created_tools=made)
    house.drive(turn, until=where)
    turn.shut_down(shutting_down())
    house.answer(turn, house.asked[-1])
    house.drive(turn)
    assert failed(house).error.code == "shutting_down"
    house.sweep(NOW, names=made.names(NOW))
    assert house.state == before


@pytest.mark.parametrize("where", [*GIVE, OpenStream, FindToolboxes])
def test_a_turn_that_takes_too_long_leaves_nothing(where: type[Command]) -> None:
    house = LegacyLetta([HELLO])
    before = house.state
    turn = turn_of(turn_request("hi", tools=[WEATHER]))
    house.drive(turn, until=where)
    turn.time_out(
        RemoteProtocolError("too long", advice=Advice(status=504, type="server_error", code="turn_timeout"))
    )
    house.drive(turn)
    assert turn.next_event() is Signal.FINISHED
    house.sweep(NOW + 300)
    assert house.state == before


def test_a_run_that_fails_leaves_nothing() -> None:
    house = LegacyLetta([(PING, stop("llm_api_error"), error())])
    before = house.equipment
    house.drive(turn_of(turn_request("hi", tools=[WEATHER])))
    assert asked(house) == [*GIVE, OpenStream, *CLEAN]
    assert isinstance(failed(house).error, LettaError)
    assert house.equipment == before


# --- Processes that die


def test_what_a_dead_process_has_lent_is_taken_back_by_the_next_turn_with_the_agent() -> None:
    house = LegacyLetta([HELLO])
    before = house.state
    house.drive(turn_of(turn_request("hi", tools=[READ])), until=OpenStream)
    house.drive(turn_of(turn_request("hi", tools=[WEATHER]), token="t2"))
    assert house.has()
    house.sweep(NOW + 300)
    assert house.state == before


def test_a_sweep_spares_what_may_be_in_use() -> None:
    house = LegacyLetta([HELLO])
    before = house.state
    turn = turn_of(turn_request("hi", tools=[WEATHER]))
    house.drive(turn, until=OpenStream)
    house.sweep(NOW + 299, names=[WANTED])
    assert house.has(WEATHER)
    house.sweep(NOW + 300)
    assert house.state == before
    # Letta read the agent's tools when the run began, and there is nothing left to take back.
    house.answer(turn, house.asked[-1])
    house.drive(turn)
    assert finished(house) is FinishReason.STOP
    assert house.state == before


def test_the_next_turn_of_another_process_is_not_cleaned_away() -> None:
    house = LegacyLetta([HELLO, HELLO])
    first = turn_of(turn_request("hi", tools=[WEATHER]))
    house.drive(first, until=OpenStream)
    second = turn_of(turn_request("hi", tools=[READ]), token="t2")
    house.drive(second, until=OpenStream)
    first.receive_failure(Failure.NOT_SENT, "as the test wants it")
    house.drive(first)
    assert house.has(READ)


def test_an_answer_that_waits_is_spared_the_missing_tool() -> None:
    house = LegacyLetta([HELLO])
    house.wait_for("call-1", WANTED)
    house.drive(turn_of(turn_request(results=["call-2"], tools=[WEATHER]), token="t2"))
    assert failed(house).error.status_hint == 400
    assert NO_RESULT not in repr(house.asked)


def test_a_plan_without_tools_lends_nothing() -> None:
    house = LegacyLetta([HELLO])
    house.drive(turn_of(TurnRequest(model="Milo", messages=(UserMessage(content="hi"),))))
    assert asked(house) == [OpenStream]
