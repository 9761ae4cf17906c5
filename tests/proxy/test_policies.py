"""Policies of the server, of keys and of requests, and which values a request may choose."""

from enum import Enum
from typing import Any

import pytest
from attrs import fields

from drive import AGENT, DONE, PING, USAGE, say, server_call, stop, think
from drive_cycle import Client, chat
from sansio_letta import Approvals, Caller, Config, Proxy, RequestError, ServerTools
from sansio_letta.config import (
    AgentToolPolicy,
    Background,
    ClientTools,
    InstructionPolicy,
    NamedTools,
    ReasoningField,
    TaskPolicy,
)
from sansio_letta.proxy.policies import POLICIES, PREFIX, shape, with_headers, with_policies
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.commands import FindConversations, OpenStream

APPROVALS = "x-letta-policy-approvals"
TOOLS = "x-letta-policy-server-tools"
AGENT_TOOLS = "x-letta-policy-agent-tools"


def server(**policies: Any) -> Proxy:
    """A proxy that knows the agent."""
    made = Proxy(Config(**policies))
    made.remember("Milo", AGENT, now=100.0)
    return made


def asked(client: Client) -> OpenStream:
    """The request for a run, which comes first."""
    [command] = client.commands
    assert isinstance(command, OpenStream)
    return command


# --- The table ------------------------------------------------------------------------------------------------


def test_every_choice_of_the_config_is_a_policy() -> None:
    choices = {field.name: type(field.default) for field in fields(Config) if isinstance(field.default, Enum)}
    # What is attached to an agent is there for whoever speaks to it: all requests must go by the same.
    assert choices.pop("client_tools") is ClientTools
    assert {policy.field: type(policy.values[0]) for policy in POLICIES.values()} == choices


@pytest.mark.parametrize("name", POLICIES)
def test_every_value_stands_at_one_level_and_has_a_name(name: str) -> None:
    policy = POLICIES[name]
    kind = type(policy.values[0])
    assert sorted(value.name for value in policy.values) == sorted(value.name for value in kind)
    assert [policy.read(f" {str(value.value).upper()}\t") for value in policy.values] == list(policy.values)
    assert [policy.read(value.value.replace("_", "-")) for value in policy.values] == list(policy.values)
    assert policy.read("") is policy.read("none of them") is None
    assert bool(policy.guards) is (len(policy.levels) > 1)
    assert name == name.lower().strip()


EVERY = [
    (name, current, value)
    for name, policy in POLICIES.items()
    for current in policy.values
    for value in policy.values
]

#: What a request cannot choose, by what counts without it.
CLOSED = {
    "approvals": {"ask": {"allow"}, "deny": {"allow", "ask"}},
    "agent-tools": {"memory": {"ask"}, "none": {"ask", "memory"}},
    "instructions": {
        "once": {"override"},
        "always": {"override"},
        "ignore": {"override", "once", "always"},
    },
    "tasks": {"refuse": {"isolate", "pass"}, "all": {"isolate", "pass", "refuse"}},
    "reasoning": {"off": {"reasoning_content", "reasoning"}},
    "background": {"never": {"auto", "always"}},
}


@pytest.mark.parametrize(("name", "current", "value"), EVERY)
def test_a_request_is_free_in_matters_of_taste_and_may_else_be_stricter(
    name: str, current: Enum, value: Enum
) -> None:
    field = POLICIES[name].field
    config = with_policies(Config(), {field: current})
    header = (PREFIX + name, f" {str(value.value).title()} ")
    if value.value in CLOSED.get(name, {}).get(str(current.value), ()):
        with pytest.raises(RequestError) as caught:
            with_headers(config, [header])
        assert f"It is {current.value} here, and a request can only be stricter: the operator" in str(
            caught.value
        )
    else:
        assert with_headers(config, [header]) == with_policies(Config(), {field: value})


@pytest.mark.parametrize("text", ["ask", "memory", "Bash", "Bash,Read,Write"])
def test_a_request_cannot_choose_other_tools_than_those_that_are_named(text: str) -> None:
    config = Config(agent_tools=NamedTools(("Bash", "Read")))
    with pytest.raises(RequestError, match="must be one of: none"):
        with_headers(config, [(AGENT_TOOLS, text)])
    assert with_headers(config, [(AGENT_TOOLS, "none")]).agent_tools is AgentToolPolicy.NONE
    assert with_headers(config, [(AGENT_TOOLS, "Bash, Read")]) == config


@pytest.mark.parametrize("current", AgentToolPolicy)
def test_a_request_cannot_name_tools(current: AgentToolPolicy) -> None:
    with pytest.raises(RequestError, match="a request can only be stricter: the operator decides what the"):
        with_headers(Config(agent_tools=current), [(AGENT_TOOLS, "Bash")])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Bash", ("Bash",)),
        (" Bash, Read ,Bash\t", ("Bash", "Read")),
        ("memory web_search", ("memory", "web_search")),
        ("mcp:files/read.all-of_it", ("mcp:files/read.all-of_it",)),
    ],
)
def test_names_of_tools(text: str, names: tuple[str, ...]) -> None:
    found = POLICIES["agent-tools"].read(text)
    assert found == NamedTools(names)
    assert POLICIES["agent-tools"].read(found.value) == found


@pytest.mark.parametrize("text", ["", " , ", "ask,Bash", "Bash none", "a;b", "x" * 129, '"Bash"'])
def test_what_is_not_names_of_tools(text: str) -> None:
    assert POLICIES["agent-tools"].read(text) is None


def test_without_headers_it_is_the_servers_own() -> None:
    config = Config()
    assert with_headers(config, [("authorization", "Bearer x"), ("x-letta-policy", "all")]) is config


@pytest.mark.parametrize(
    ("header", "text", "told"),
    [
        (APPROVALS, "maybe", f"The header `{APPROVALS}` must be one of: ask, deny."),
        (APPROVALS, "", f"The header `{APPROVALS}` must be one of: ask, deny."),
        (APPROVALS, "ask, deny", f"The header `{APPROVALS}` must be one of: ask, deny."),
        (
            APPROVALS,
            "allow",
            f"The header `{APPROVALS}` must be one of: ask, deny. It is ask here, and a request can only be "
            "stricter: the operator decides what the agent may do without asking.",
        ),
        ("x-letta-policy-reasoning", "yes", "must be one of: reasoning_content, reasoning, off."),
        (TOOLS, "loud", f"The header `{TOOLS}` must be one of: hidden, reasoning, status."),
        ("x-letta-policy-aprovals", "deny", "There is no policy `x-letta-policy-aprovals`; there are x-letta-"),
        ("x-letta-policy-server_tools", "hidden", "There is no policy `x-letta-policy-server_tools`"),
        ("x-letta-policy-", "deny", "There is no policy `x-letta-policy-`"),
    ],
)
def test_what_is_wrong_is_told_before_letta_is_asked(header: str, text: str, told: str) -> None:
    client = Client(chat(headers={header: text}), server())
    assert (client.status, client.commands) == (400, [])
    error = client.json()["error"]
    assert (error["param"], error["code"]) == (header, "invalid_value")
    assert told in error["message"]


def test_all_policies_are_named_where_one_is_unknown() -> None:
    with pytest.raises(RequestError) as caught:
        with_headers(Config(), [("x-letta-policy-" + "x" * 500, "y")])
    assert caught.value.message.endswith(f"there are {', '.join(PREFIX + name for name in POLICIES)}.")
    assert "x" * 100 not in caught.value.message


@pytest.mark.parametrize("values", [("deny", "ask"), ("ask", "deny"), ("deny", "deny")])
def test_a_policy_that_is_there_twice_is_refused(values: tuple[str, str]) -> None:
    headers = [(APPROVALS, value) for value in values]
    with pytest.raises(RequestError, match=f"The header `{APPROVALS}` appears twice") as caught:
        with_headers(Config(), headers)
    assert caught.value.param == APPROVALS


def test_a_policy_matters_to_turns_alone() -> None:
    request = chat(headers={APPROVALS: "maybe"})
    assert Client(type(request)(method="GET", target="/health", headers=request.headers)).status == 200


# --- Server, key, request -------------------------------------------------------------------------------------


def test_a_keys_word_counts_before_the_servers() -> None:
    house = server(approvals=Approvals.DENY, tasks=TaskPolicy.REFUSE)
    lax = Caller(name="lax", policies={"approvals": Approvals.ALLOW})
    config = Client(chat(), house, caller=lax).cycle.config
    assert (config.approvals, config.tasks) == (Approvals.ALLOW, TaskPolicy.REFUSE)
    assert Client(chat(content="x"), house).cycle.config.approvals is Approvals.DENY


@pytest.mark.parametrize(
    ("own", "keys", "text", "counts"),
    [
        (Approvals.DENY, Approvals.ALLOW, "ask", Approvals.ASK),
        (Approvals.DENY, Approvals.ASK, "allow", None),
        (Approvals.ALLOW, Approvals.DENY, "ask", None),
        (Approvals.ALLOW, Approvals.DENY, "deny", Approvals.DENY),
        (Approvals.ALLOW, None, "ask", Approvals.ASK),
    ],
)
def test_a_request_is_held_to_its_keys_word(
    own: Approvals, keys: Approvals | None, text: str, counts: Approvals | None
) -> None:
    caller = Caller(name="alice", policies={"approvals": keys} if keys else {})
    client = Client(chat(headers={APPROVALS: text}), server(approvals=own), caller=caller)
    if counts is None:
        assert keys is not None
        assert f"It is {keys.value} here" in client.json()["error"]["message"]
    else:
        assert client.cycle.config.approvals is counts


def test_callers_with_policies_can_be_told_apart_and_kept() -> None:
    policies = {"approvals": Approvals.DENY}
    strict, lax = Caller(name="a", policies=policies), Caller(name="a")
    assert strict != lax
    assert {strict: 1}[Caller(name="a", policies=dict(policies))] == 1
    # Both see the same agents.
    assert strict.scope == lax.scope


# --- What a request's word does, each policy in its place -----------------------------------------------------

SYSTEM = [{"role": "system", "content": "Rhyme."}, {"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("own", "text", "system", "override"),
    [
        (InstructionPolicy.OVERRIDE, "always", ["Rhyme."], None),
        (InstructionPolicy.OVERRIDE, "override", [], "Rhyme."),
        (InstructionPolicy.OVERRIDE, None, [], "Rhyme."),
        (InstructionPolicy.ONCE, "ignore", [], None),
    ],
)
def test_instructions(
    own: InstructionPolicy, text: str | None, system: list[str], override: str | None
) -> None:
    headers = {"x-letta-policy-instructions": text} if text else {}
    client = Client(chat(messages=SYSTEM, headers=headers), server(instructions=own))
    sent = asked(client).request
    said = [message for message in sent.messages if isinstance(message, letta.MessageCreate)]
    assert [message.content for message in said if message.role == "system"] == system
    assert sent.override_system == override
    client.stream(PING, say("a"), stop(), DONE)
    assert ("x-ignored-parameters" in client.headers) is (text == "ignore")


TASK = {"x-openwebui-task": "title_generation"}


@pytest.mark.parametrize("text", ["isolate", "pass", "refuse"])
def test_tasks(text: str) -> None:
    client = Client(chat(headers={**TASK, "x-letta-policy-tasks": text}), server())
    match text:
        case "refuse":
            assert client.json()["error"]["code"] == "task_refused"
        case "pass":
            assert asked(client).target.startswith("/v1/agents/")
        case _:
            assert client.cycle.summary.thread == "task"
            assert not isinstance(client.commands[0], OpenStream | FindConversations)


@pytest.mark.parametrize("text", ["reasoning_content", "reasoning", "off"])
def test_reasoning(text: str) -> None:
    client = Client(chat(headers={"x-letta-policy-reasoning": text}), server())
    client.stream(PING, think("hm"), say("a"), stop(), USAGE, DONE)
    message = client.json()["choices"][0]["message"]
    assert {name for name in message if name.startswith("reasoning")} == ({text} - {"off"})


@pytest.mark.parametrize("view", ServerTools)
def test_without_reasoning_nobody_sees_what_tools_return(view: ServerTools) -> None:
    request = chat(stream=True, headers={TOOLS: view.value})
    client = Client(request, server(), caller=Caller(policies={"reasoning_field": ReasoningField.OFF}))
    returned = {
        "message_type": "tool_return_message",
        "id": "message-2",
        "tool_call_id": "call-1",
        "tool_return": "what was found",
        "status": "success",
    }
    client.stream(PING, server_call("call-1", "search", '{"q": "asked"}'), returned, say("a"), stop(), DONE)
    assert not any(text in client.body for text in (b"asked", b"found", b"reasoning"))
    assert (b"search" in client.body) is (view is ServerTools.STATUS)


@pytest.mark.parametrize(
    ("own", "stream", "text", "background"),
    [
        (Background.AUTO, True, "always", True),
        (Background.AUTO, False, "never", False),
        (Background.ALWAYS, True, "auto", False),
    ],
)
def test_background(own: Background, stream: bool, text: str, background: bool) -> None:
    request = chat(stream=stream, headers={"x-letta-policy-background": text})
    assert asked(Client(request, server(background=own))).request.background is background


def test_a_keys_word_reaches_plan_and_writer() -> None:
    policies = {"instructions": InstructionPolicy.IGNORE, "reasoning_field": ReasoningField.OFF}
    client = Client(chat(messages=SYSTEM), server(), caller=Caller(policies=policies))
    assert len(asked(client).request.messages) == 1
    client.stream(PING, think("hm"), say("a"), stop(), DONE)
    assert not {"reasoning", "reasoning_content"} & client.json()["choices"][0]["message"].keys()


# --- Repeats --------------------------------------------------------------------------------------------------

#: None is the default.
OTHER = {name: policy.open_to_requests(getattr(Config(), policy.field)) for name, policy in POLICIES.items()}


@pytest.mark.parametrize("name", POLICIES)
def test_what_shapes_a_turn_makes_it_another(name: str) -> None:
    policy, house = POLICIES[name], server()
    value = next(value for value in OTHER[name] if value is not getattr(Config(), policy.field))
    Client(chat(), house).stream(PING, say("a"))
    again = Client(chat(headers={PREFIX + name: str(value.value)}), house)
    assert (again.cycle.summary.repeat is None) is policy.shapes


def test_a_repeat_is_shown_in_its_own_way() -> None:
    house = server(server_tools=ServerTools.HIDDEN)
    first = Client(chat(), house).stream(PING, think("hm"), say("a"))
    again = Client(chat(headers={"x-letta-policy-reasoning": "off"}), house)
    first.more(stop(), DONE)
    again.go_on()
    assert "reasoning_content" in first.json()["choices"][0]["message"]
    assert "reasoning_content" not in again.json()["choices"][0]["message"]


def test_the_same_word_is_the_same_request_however_it_is_written() -> None:
    headers = [(APPROVALS, " DENY "), ("x-letta-policy-tasks", "pass"), (TOOLS, "status")]
    config = with_headers(Config(), headers)
    assert shape(config, headers) == "approvals=deny,tasks=pass"
    assert shape(config, [*reversed(headers), ("accept", "*/*")]) == shape(config, headers)
    assert shape(config, []) == ""


def test_a_repeat_finds_its_turn_though_its_key_was_changed_meanwhile() -> None:
    house = server()
    Client(chat(), house, caller=Caller(name="alice")).stream(PING, say("a"))
    stricter = Caller(name="alice", policies={"approvals": Approvals.DENY})
    assert Client(chat(), house, caller=stricter).commands == []


def test_an_idempotency_key_is_one_request_whatever_its_policies() -> None:
    house, key = server(), {"idempotency-key": "k-1"}
    Client(chat(headers=key), house).stream(PING, say("a"))
    assert Client(chat(headers={**key, APPROVALS: "deny"}), house).commands == []
