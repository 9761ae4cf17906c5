"""What keeps an agent stuck, and its repair, against a Letta that changes as it is told."""

from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest
from attrs import define, field

from drive import AGENT_ID
from drive_cycle import Client
from sansio_letta import Config, Proxy
from sansio_letta.errors import Failure
from sansio_letta.turn.settlement import NO_RESULT, NOT_ALLOWED
from sansio_letta.upstreams.rest.attached_tools import PREFIX
from sansio_letta.upstreams.rest.commands import (
    AnswerCalls,
    CancelRun,
    Command,
    FetchAgent,
    FetchConversation,
    FetchLast,
    FindAgent,
    FindConversations,
    FindRuns,
    ListAgents,
)
from sansio_letta.upstreams.rest.lookup import RunMark
from sansio_letta.upstreams.rest.repair import RepairOptions
from sansio_letta.upstreams.thread_names import chat_summary

NOW = 1_795_849_200  # 2026-11-28T07:00:00Z
LONG_AGO, JUST_NOW = "2026-11-27T06:00:00+00:00", "2026-11-28T06:59:30+00:00"
AN_HOUR_AGO, MINUTES_AGO = "2026-11-28T05:59:00Z", "2026-11-28T06:50:00Z"
OURS = f"{PREFIX}{'a' * 12}_get_weather"


def waiting(*calls: str, name: str = "get_weather", date: str | None = LONG_AGO) -> dict[str, Any]:
    """A message that asks for calls."""
    return {
        "id": "message-7",
        "date": date,
        "message_type": "approval_request_message",
        "tool_calls": [{"tool_call_id": call, "name": name, "arguments": "{}"} for call in calls],
        "run_id": "run-of-call",
    }


def run(
    run_id: str = "run-1",
    conversation_id: str | None = None,
    *,
    created_at: str | None = MINUTES_AGO,
    mark: RunMark | None = None,
) -> dict[str, Any]:
    """A run that is not over."""
    return {
        "id": run_id,
        "status": "running",
        "agent_id": AGENT_ID,
        "conversation_id": conversation_id,
        "created_at": created_at,
        "request_config": {"assistant_message_tool_kwarg": mark.text if mark else None},
    }


def mark(*, until: int = NOW + 60, owner: str = "alive") -> RunMark:
    return RunMark(token="t-1", owner=owner, until=until)


@define
class House:
    """A Letta with one agent, Milo.

    :param own: what its own thread waits for.
    :param conversations: what each waits for, by id, the newest first.
    :param chats: the keys of those that are chats.
    :param runs: that are not over.
    :param refuses: the status and body, or the failure, in place of an answer to a command.
    """

    own: dict[str, Any] | None = None
    conversations: dict[str, dict[str, Any] | None] = field(factory=dict)
    chats: Mapping[str, str] = field(factory=dict)
    runs: list[dict[str, Any]] = field(factory=list)
    agent_type: str = "letta_v1_agent"
    tools: tuple[str, ...] = ("thermometer",)
    refuses: Callable[[Command], tuple[int, Any] | Failure | None] = lambda _: None
    deleted: frozenset[str] = frozenset()
    takes_answers: bool = True
    asked: list[Command] = field(factory=list, init=False)

    def repair(self, model: str = "Milo", **options: Any) -> dict[str, Any]:
        """The report of a repair."""
        status, body = self.ask(model, **options)
        assert status == 200, body
        report: dict[str, Any] = body
        return report

    def ask(self, model: str = "Milo", **options: Any) -> tuple[int, Any]:
        """A repair's status and JSON."""
        proxy = Proxy(Config())
        cycle = proxy.repair(
            model,
            RepairOptions(**options),
            token="abcdef12",
            created=NOW,
            now=100.0,
            has_died=lambda owner: owner == "dead",
        )
        client, seen = Client(cycle, proxy), 0
        while not client.ended:
            command = client.commands[seen]
            seen += 1
            self.asked.append(command)
            refusal = self.refuses(command)
            if isinstance(refusal, Failure):
                client.fail(refusal)
                continue
            status, value = refusal or self._answer(command)
            client.answer(value, status)
        return client.status, client.json()

    def changes(self) -> list[Command]:
        """What was changed."""
        return [command for command in self.asked if command.method != "GET"]

    def _answer(self, command: Command) -> tuple[int, Any]:
        match command:
            case FindAgent(name=name):
                return 200, [self._agent()] if name == "Milo" else []
            case FetchAgent():
                return 200, self._agent()
            case ListAgents():
                return 200, [self._agent()]
            case FindConversations(summary=summary):
                listed = [self._conversation(ident) for ident in self.conversations]
                return 200, [item for item in listed if (summary or "") in item["summary"]]
            case FetchConversation(conversation_id=ident):
                known = ident in self.conversations
                return (200, self._conversation(ident)) if known else (404, {"detail": "not found"})
            case FetchLast(conversation_id=ident):
                last = self.conversations[ident]
                return (404, {"detail": "gone"}) if ident in self.deleted else (200, [last] if last else [])
            case FindRuns(agent_id=agent_id, active=True):
                assert agent_id == AGENT_ID
                return 200, self.runs
            case CancelRun(run_id=run_id):
                self.runs = [each for each in self.runs if each["id"] != run_id]
                self.own = None  # Letta 0.16.7 denies what waits there
                return 200, {run_id: "cancelled"}
            case AnswerCalls() if self.takes_answers:
                ident = command.target.split("/")[3]
                if ident in self.conversations:
                    self.conversations[ident] = {"id": "message-8", "message_type": "tool_return_message"}
                else:
                    self.own = None
                return 200, {"messages": []}
            case AnswerCalls():
                return 200, {"messages": []}
        raise AssertionError(f"{command} was not expected")

    def _agent(self) -> dict[str, Any]:
        return {
            "id": AGENT_ID,
            "name": "Milo",
            "agent_type": self.agent_type,
            "pending_approval": self.own,
            "tools": [{"id": f"tool-{name}", "name": name} for name in self.tools],
        }

    def _conversation(self, ident: str) -> dict[str, Any]:
        summary = chat_summary(self.chats[ident]) if ident in self.chats else "something else"
        return {"id": ident, "agent_id": AGENT_ID, "summary": summary, "created_at": LONG_AGO}


def outcomes(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(item["kind"], item["id"], item["outcome"]) for item in report["found"]]


def answers(command: Command) -> Any:
    assert command.body is not None
    return orjson.loads(command.body)


# --- What is found


def test_nothing_keeps_it_stuck() -> None:
    house = House(conversations={"conv-1": None})
    assert house.repair() == {
        "agent_id": AGENT_ID,
        "agent": "Milo",
        "dry_run": False,
        "remaining": 0,
        "found": [],
    }
    assert house.changes() == []


def test_a_dry_run_tells_all_and_changes_nothing() -> None:
    house = House(
        own=waiting("call-1", "call-2"),
        conversations={"conv-2": waiting("call-3", name="thermometer"), "conv-1": None},
        chats={"conv-2": "c-2"},
        runs=[
            run("run-1", "conv-1", mark=mark(owner="dead")),
            run("run-2", "conv-9", mark=mark(until=NOW - 1)),
        ],
    )
    report = house.repair(is_dry_run=True)
    assert (report["dry_run"], report["remaining"]) == (True, 5)
    assert outcomes(report) == [
        ("call", "call-1", "planned"),
        ("call", "call-2", "planned"),
        ("approval", "call-3", "planned"),
        ("run", "run-1", "planned"),
        ("run", "run-2", "planned"),
    ]
    first, third, fifth = report["found"][0], report["found"][2], report["found"][4]
    assert (first["conversation_id"], first["tool"], first["remedy"]) == (None, "get_weather", "answer")
    assert (first["since"], first["age"]) == (LONG_AGO, 25 * 3600)
    assert (third["conversation_id"], third["chat"], third["remedy"]) == ("conv-2", "c-2", "deny")
    # Of a conversation that is gone from the list.
    assert (fifth["conversation_id"], fifth["chat"], fifth["remedy"]) == ("conv-9", None, "cancel")
    assert house.changes() == []


def test_a_conversation_that_is_deleted_meanwhile() -> None:
    house = House(conversations={"conv-1": waiting("call-1")}, deleted=frozenset({"conv-1"}))
    assert house.repair()["found"] == []


# --- What is settled


def test_all_calls_of_a_thread_are_answered_at_once() -> None:
    house = House(own=waiting("call-1", "call-2"))
    report = house.repair()
    assert outcomes(report) == [("call", "call-1", "settled"), ("call", "call-2", "settled")]
    assert report["remaining"] == 0
    [answer] = house.changes()
    assert answer.target == f"/v1/agents/{AGENT_ID}/messages"
    result = {"type": "tool", "tool_return": NO_RESULT, "status": "error"}
    assert answers(answer) == {
        "messages": [
            {
                "type": "approval",
                "approvals": [{**result, "tool_call_id": "call-1"}, {**result, "tool_call_id": "call-2"}],
            }
        ],
        "max_steps": 1,
    }


def test_an_approval_is_denied_in_a_conversation() -> None:
    house = House(conversations={"conv-1": waiting("call-1", name="thermometer")})
    assert outcomes(house.repair()) == [("approval", "call-1", "settled")]
    [denial] = house.changes()
    assert denial.target == "/v1/conversations/conv-1/messages"
    sent = answers(denial)
    assert (sent["max_steps"], sent["streaming"]) == (1, True)
    assert sent["messages"][0]["approvals"] == [
        {"type": "approval", "tool_call_id": "call-1", "approve": False, "reason": NOT_ALLOWED}
    ]


def test_a_legacy_agent_gets_the_old_form() -> None:
    house = House(own=waiting("call-1", name=OURS), agent_type="memgpt_v2_agent", tools=("send_message",))
    assert outcomes(house.repair()) == [("call", "call-1", "settled")]
    assert not any(isinstance(command, FindConversations) for command in house.asked)
    [message] = answers(house.changes()[0])["messages"]
    assert (message["approve"], message["approval_request_id"]) == (False, "message-7")
    assert message["reason"] == f"Not denied: {NO_RESULT}"


def test_runs_are_cancelled_by_their_ids() -> None:
    house = House(runs=[run("run-1", mark=mark(until=NOW - 1)), run("run-2", mark=mark(owner="dead"))])
    report = house.repair()
    assert outcomes(report) == [("run", "run-1", "settled"), ("run", "run-2", "settled")]
    assert [item["reason"] for item in report["found"]] == [
        "its turn is over",
        "the proxy that started it has ended",
    ]
    assert house.changes() == [
        CancelRun(agent_id=AGENT_ID, run_id="run-1"),
        CancelRun(agent_id=AGENT_ID, run_id="run-2"),
    ]


def test_own_calls_are_answered_before_a_run_is_cancelled_and_others_after() -> None:
    """Letta would deny those; and it locks a conversation while a run is at work there."""
    house = House(
        own=waiting("call-1"),
        conversations={"conv-1": waiting("call-2")},
        runs=[run("run-1", "conv-1", mark=mark(owner="dead"))],
    )
    assert house.repair()["remaining"] == 0
    assert [command.target.split("/")[3] for command in house.changes()] == [AGENT_ID, AGENT_ID, "conv-1"]
    assert [type(command) for command in house.changes()] == [AnswerCalls, CancelRun, AnswerCalls]


def test_own_calls_of_a_thread_with_a_lost_run_end_with_it() -> None:
    house = House(own=waiting("call-1"), runs=[run("run-1", mark=mark(owner="dead"))])
    report = house.repair()
    assert outcomes(report) == [("call", "call-1", "settled"), ("run", "run-1", "settled")]
    assert report["found"][0]["reason"] == "it is no longer pending"
    assert [type(command) for command in house.changes()] == [CancelRun]


def test_a_call_that_is_answered_meanwhile_gets_no_second_answer() -> None:
    """Letta would make the agent speak (stale_tool_result.jsonl)."""

    def answered(command: Command) -> None:
        looks = [each for each in house.asked if isinstance(each, FetchAgent)]
        if isinstance(command, FetchAgent) and len(looks) == 2:
            house.own = None

    house = House(own=waiting("call-1"), refuses=answered)
    assert outcomes(house.repair()) == [("call", "call-1", "settled")]
    assert house.changes() == []


# --- What may be in use

IN_USE: dict[str, tuple[House, str]] = {
    "a young call": (House(own=waiting("call-1", date=JUST_NOW)), "younger than 60 s"),
    "a young run": (House(runs=[run(created_at=JUST_NOW, mark=mark(owner="dead"))]), "younger than 60 s"),
    "a run that a proxy may read": (
        House(runs=[run(mark=mark())]),
        "a proxy may be reading it until 07:01:00 UTC",
    ),
    "a run of another program": (House(runs=[run()]), "another program may be reading it"),
}


@pytest.mark.parametrize(("house", "why"), IN_USE.values(), ids=IN_USE)
def test_what_may_be_in_use_is_left_unless_it_is_forced(house: House, why: str) -> None:
    report = house.repair()
    assert [(item["outcome"], item["reason"]) for item in report["found"]] == [("left", why)]
    assert report["remaining"] == 1
    assert house.changes() == []
    assert house.repair(forces=True)["remaining"] == 0
    assert len(house.changes()) == 1


@pytest.mark.parametrize("created_at", [AN_HOUR_AGO, None, "soon"])
def test_a_run_of_another_program_that_is_older_than_any_turn(created_at: str | None) -> None:
    house = House(runs=[run(created_at=created_at)])
    assert outcomes(house.repair()) == [("run", "run-1", "settled")]


@pytest.mark.parametrize("date", [None, "once"])
def test_a_call_without_a_date_counts_as_old(date: str | None) -> None:
    house = House(own=waiting("call-1", date=date))
    [found] = house.repair()["found"]
    assert (found["outcome"], found["since"], found["age"]) == ("settled", None, None)


def test_a_call_waits_while_a_run_is_at_work_in_its_thread() -> None:
    house = House(
        conversations={"conv-1": waiting("call-1"), "conv-2": waiting("call-2")},
        runs=[run("run-1", "conv-1", mark=mark())],
    )
    report = house.repair()
    assert outcomes(report) == [
        ("call", "call-1", "left"),
        ("run", "run-1", "left"),
        ("call", "call-2", "settled"),
    ]
    assert report["found"][0]["reason"] == "a run is active in this thread"


def test_a_young_call_in_the_own_thread_keeps_all_runs() -> None:
    house = House(own=waiting("call-1", date=JUST_NOW), runs=[run("run-1", "conv-1", mark=mark(owner="dead"))])
    report = house.repair()
    assert outcomes(report) == [("call", "call-1", "left"), ("run", "run-1", "left")]
    assert "would deny the pending calls" in report["found"][1]["reason"]
    assert house.changes() == []


# --- One thread


def test_one_chat() -> None:
    house = House(
        own=waiting("call-0"),
        conversations={"conv-1": waiting("call-1"), "conv-2": waiting("call-2")},
        chats={"conv-1": "c-1", "conv-2": "c-2"},
        runs=[run("run-1", "conv-1", mark=mark(owner="dead"))],
    )
    report = house.repair(chat="c-2")
    assert outcomes(report) == [("call", "call-2", "settled")]
    report = house.repair(chat="c-1")
    assert outcomes(report) == [("call", "call-1", "left"), ("run", "run-1", "left")]  # for the own call's sake
    assert house.repair(chat="c-1", forces=True)["remaining"] == 0


@pytest.mark.parametrize("ident", ["default", AGENT_ID])
def test_the_own_thread_alone(ident: str) -> None:
    house = House(
        own=waiting("call-0"),
        conversations={"conv-1": waiting("call-1")},
        runs=[run("run-1", "conv-1", mark=mark(owner="dead"))],
    )
    assert outcomes(house.repair(conversation_id=ident)) == [("call", "call-0", "settled")]


def test_one_conversation() -> None:
    house = House(conversations={"conv-1": waiting("call-1"), "conv-2": waiting("call-2")})
    assert outcomes(house.repair(conversation_id="conv-2")) == [("call", "call-2", "settled")]


def test_a_chat_or_conversation_that_is_not_there() -> None:
    house = House(conversations={"conv-1": None}, chats={"conv-1": "c-1"})
    status, body = house.ask(chat="c-9")
    assert (status, body["error"]["message"]) == (404, '"Milo" has no chat with the key "c-9".')
    status, body = house.ask(conversation_id="conv-9")
    assert (status, body["error"]["message"]) == (404, '"Milo" has no conversation "conv-9".')
    others = {"id": "conv-1", "agent_id": "agent-of-somebody", "summary": None}
    house.refuses = lambda command: (200, others) if isinstance(command, FetchConversation) else None
    status, body = house.ask(conversation_id="conv-1")
    assert (status, body["error"]["message"]) == (404, '"Milo" has no conversation "conv-1".')


# --- Failures


@pytest.mark.parametrize(("model", "hint"), [("milo", 'Did you mean "Milo"?'), ("Anna", "case-sensitive")])
def test_an_unknown_agent(model: str, hint: str) -> None:
    status, body = House().ask(model)
    assert (status, body["error"]["code"]) == (404, "model_not_found")
    assert body["error"]["message"].startswith(f'No Letta agent has the name or id "{model}".')
    assert hint in body["error"]["message"]


@pytest.mark.parametrize("kind", [FindAgent, FetchAgent, FindConversations, FetchLast, FindRuns])
@pytest.mark.parametrize("refusal", [(500, {"detail": "no"}), Failure.BROKEN])
def test_letta_does_not_tell_what_there_is(kind: type[Command], refusal: Any) -> None:
    house = House(
        own=waiting("call-1"),
        conversations={"conv-1": None},
        refuses=lambda command: refusal if isinstance(command, kind) else None,
    )
    status, body = house.ask()
    assert status == 502
    assert body["error"]["message"]
    assert house.changes() == []


def test_one_that_cannot_be_settled_keeps_no_other() -> None:
    def refuse(command: Command) -> tuple[int, Any] | Failure | None:
        match command:
            case AnswerCalls() if "conv-2" in command.target:
                return 409, {"detail": "busy"}
            case CancelRun(run_id="run-1"):
                return Failure.SILENT
            case CancelRun(run_id="run-2"):
                return 200, {"run-2": "failed"}
        return None

    house = House(
        conversations={"conv-2": waiting("call-2"), "conv-1": waiting("call-1")},
        runs=[run(f"run-{number}", "conv-9", mark=mark(owner="dead")) for number in (1, 2, 3)],
        refuses=refuse,
    )
    report = house.repair()
    assert report["remaining"] == 3
    assert outcomes(report) == [
        ("call", "call-2", "failed"),
        ("call", "call-1", "settled"),
        ("run", "run-1", "failed"),
        ("run", "run-2", "failed"),
        ("run", "run-3", "settled"),
    ]
    reasons = [item["reason"] for item in report["found"] if item["outcome"] == "failed"]
    assert "busy" in reasons[0]
    assert reasons[1:] == ["Letta did not answer: it hurt.", "Letta did not cancel it."]


def test_an_answer_that_letta_does_not_take() -> None:
    house = House(own=waiting("call-1"), takes_answers=False)
    [found] = house.repair()["found"]
    assert (found["outcome"], found["reason"]) == ("failed", "Letta did not accept the answer.")


def test_a_key_that_letta_refuses() -> None:
    status, body = House(refuses=lambda _: (401, {"detail": "Unauthorized"})).ask()
    assert status == 502
    assert "LETTA_API_KEY" in body["error"]["message"]
