"""The policy of the agent's own tools, from a client's requests to what the server carries out."""

import orjson
import pytest

from sansio_letta import Approvals, Caller, Config, HttpRequest
from sansio_letta.config import AgentToolPolicy, NamedTools

from .wire import Client, Json, Wire, result, user

BASH = 'call Bash {"command":"id"}'
ASKED = {"command": "id"}
READ = 'call Read {"file_path":"/etc/hostname"}'


def asking(approvals: Approvals = Approvals.ASK) -> Wire:
    return Wire(config=Config(agent_tools=AgentToolPolicy.ASK, approvals=approvals))


def offered(wire: Wire) -> list[list[str] | None]:
    """The tools that the model was offered in each turn; None: all that the agent has."""
    inputs = [frame["payload"] for frame in wire.server.received if frame["type"] == "input"]
    return [each.get("client_tool_allowlist") for each in inputs if each["kind"] == "create_message"]


def send(wire: Wire, body: Json, caller: Caller, **headers: str) -> Client:
    """A request of a key, with headers of its own."""
    wire_headers = [("x-letta-chat-key", "k1"), *((f"x-letta-policy-{k}", v) for k, v in headers.items())]
    data = orjson.dumps({"model": "Milo", **body})
    request = HttpRequest(method="POST", target="/v1/chat/completions", headers=wire_headers, body=data)
    return wire.send(request, caller)


def test_ask_puts_the_question_into_the_chat_and_approve_runs_the_call() -> None:
    wire = asking()
    first = user(f"say Let me look.\n{BASH}")
    asked = wire.ask(first)
    assert asked.json["choices"][0]["finish_reason"] == "stop"
    question = asked.message["content"]
    assert question.startswith("Let me look.")
    assert 'asks for approval to run:\n- Bash({"command":"id"})' in question
    assert (wire.server.carried_out, offered(wire)) == ([], [None])
    answer = wire.ask(first, asked.message, user("Approve."))
    assert answer.message["content"] == "results: Bash done"
    assert wire.server.carried_out == [("Bash", ASKED)]
    [talk] = wire.server.talks.values()
    assert [each["message_type"] for each in talk.messages].count("user_message") == 1


@pytest.mark.parametrize(
    ("text", "returned"),
    [("deny", "The user denied this call."), ("deny: not here", "not here")],
)
def test_deny_is_what_the_agent_reads(text: str, returned: str) -> None:
    wire = asking()
    asked = wire.ask(user(BASH))
    answer = wire.ask(user(BASH), asked.message, user(text))
    assert answer.message["content"] == f"results: {returned}"
    assert wire.server.carried_out == []


def test_any_other_message_denies_and_is_said() -> None:
    wire = asking()
    asked = wire.ask(user(BASH))
    answer = wire.ask(user(BASH), asked.message, user("say Yes, but not there."))
    assert answer.message["content"] == "Yes, but not there."
    assert wire.server.carried_out == []


def test_one_answer_decides_all_calls_of_a_step() -> None:
    """The server asks about them one at a time, so the question must not name the first alone."""
    wire = asking()
    first = user(f"{BASH}\n{READ}")
    asked = wire.ask(first)
    assert "Bash(" in asked.message["content"]
    assert "Read(" in asked.message["content"]
    answer = wire.ask(first, asked.message, user("yes"))
    assert answer.message["content"] == "results: Bash done | Read done"
    assert [name for name, _ in wire.server.carried_out] == ["Bash", "Read"]


def test_its_memory_needs_no_question() -> None:
    wire = asking()
    inside = f"{wire.server.memory_directory}/likes.md"
    answer = wire.ask(user(f'call Write {{"file_path":"{inside}"}}'))
    assert answer.message["content"] == "results: Write done"


def test_approval_of_a_call_that_ended_with_its_process_runs_nothing() -> None:
    wire = asking()
    asked = wire.ask(user(BASH))
    wire.restart_proxy()  # the server ends what no socket follows
    answer = wire.ask(user(BASH), asked.message, user("approve"))
    assert answer.status == 200
    assert wire.server.carried_out == []


@pytest.mark.parametrize(
    ("approvals", "ran"), [(Approvals.ALLOW, [("Bash", ASKED)]), (Approvals.DENY, [])], ids=["allow", "deny"]
)
def test_approvals_answer_by_themselves(approvals: Approvals, ran: list[tuple[str, Json]]) -> None:
    wire = asking(approvals)
    answer = wire.ask(user(BASH))
    assert answer.message["content"].startswith("results: ")
    assert wire.server.carried_out == ran


def test_a_clients_call_beside_one_that_is_asked_about() -> None:
    """The client's result is given when the human has decided, too."""
    wire = asking()
    first = user(f"call get_weather {{}}\n{BASH}")
    calls = wire.ask(first, tools=("get_weather",))
    assert [call["function"]["name"] for call in calls.calls] == ["get_weather"]
    given = result(calls.calls[0], "18 C")
    asked = wire.ask(first, calls.message, given, tools=("get_weather",))
    assert "- Bash(" in asked.message["content"]
    answer = wire.ask(first, calls.message, given, asked.message, user("approve"), tools=("get_weather",))
    assert answer.status == 200
    assert wire.server.carried_out == [("Bash", ASKED)]
    [talk] = wire.server.talks.values()
    returned = [each["tool_return"] for each in talk.messages if each["message_type"] == "tool_return_message"]
    assert sorted(returned) == ["18 C", "Bash done"]


@pytest.mark.parametrize("policy", [AgentToolPolicy.NONE, NamedTools(("web_search",))])
def test_without_memory_there_are_no_files(policy: AgentToolPolicy | NamedTools) -> None:
    wire = Wire(config=Config(agent_tools=policy))
    inside = f"{wire.server.memory_directory}/likes.md"
    wire.ask(user(f'call Write {{"file_path":"{inside}"}}'))
    assert wire.server.carried_out == []
    assert offered(wire) == [["web_search"] if isinstance(policy, NamedTools) else []]


def test_named_tools_run_without_a_question() -> None:
    wire = Wire(config=Config(agent_tools=NamedTools(("Bash", "memory"))))
    wire.ask(user(f"{BASH}\n{READ}"))
    assert wire.server.carried_out == [("Bash", ASKED)]
    assert offered(wire) == [["Memory", "Read", "Write", "Edit", "Bash"]]


def test_a_key_and_a_request_have_their_own() -> None:
    wire = Wire()
    trusted = Caller(name="owner", policies={"agent_tools": NamedTools(("Bash",))})
    send(wire, {"messages": [user(BASH)]}, trusted)
    assert wire.server.carried_out == [("Bash", ASKED)]
    strict = send(wire, {"messages": [user(f"{BASH}\nsay x")]}, trusted, **{"agent-tools": "none"})
    assert (strict.status, len(wire.server.carried_out)) == (200, 1)
    refused = send(wire, {"messages": [user(BASH)]}, trusted, **{"agent-tools": "ask"})
    assert refused.status == 400
    assert "a request can only be stricter" in refused.json["error"]["message"]
