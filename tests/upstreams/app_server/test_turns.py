"""Turns at an App Server, from the client's request to the frames."""

from sansio_letta import Config
from sansio_letta.config import UsageCount
from sansio_letta.upstreams.app_server.threads import OWN_SUMMARY

from .wire import Wire, result, user

TOOLS = ("get_weather", "get_time")


def heard(wire: Wire) -> list[tuple[str, str]]:
    """What the only conversation holds, without what the server puts before it."""
    [talk] = [talk for talk in wire.server.talks.values() if not talk.archived]
    held = []
    for message in talk.messages:
        text = message.get("tool_return") or message.get("tool_call", {}).get("name")
        held.append((message["message_type"].removesuffix("_message"), text or message["content"][-1]["text"]))
    return held


def test_text_reasoning_and_usage() -> None:
    wire = Wire()
    answer = wire.ask(user("think Let me see.\nsay Hello!"))
    assert answer.status == 200
    assert (answer.message["reasoning_content"], answer.message["content"]) == ("Let me see.", "Hello!")
    usage = answer.json["usage"]
    # OpenAI counts the cached tokens within the prompt's.
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (100, 20, 120)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 10


def test_usage_is_the_sum_of_the_steps() -> None:
    wire = Wire(config=Config(usage=UsageCount.SUM))
    answer = wire.ask(user("call Memory {}"))
    assert answer.json["usage"]["total_tokens"] == 240
    assert wire.server.carried_out == [("Memory", {})]


def test_the_own_thread_has_a_conversation_of_its_own() -> None:
    wire = Wire()
    wire.ask(user("say one"), key=None)
    [talk] = wire.server.talks.values()
    assert talk.summary == OWN_SUMMARY
    assert all("default" not in str(frame.get("conversation_id")) for frame in wire.server.received)


def test_a_chat_is_found_again() -> None:
    wire = Wire()
    wire.ask(user("say one"))
    wire.restart_proxy()
    wire.ask(user("say one"), {"role": "assistant", "content": "one"}, user("say two"))
    assert heard(wire) == [("user", "say one"), ("assistant", "one"), ("user", "say two"), ("assistant", "two")]


def test_every_conversation_is_asked_for_strictly_before_its_first_input() -> None:
    wire = Wire()
    wire.ask(user("say one"))
    kinds = [frame["type"] for frame in wire.server.received]
    assert kinds.index("runtime_start") < kinds.index("input")
    [talk] = wire.server.talks.values()
    assert talk.mode == "strict"


def test_a_tool_loop() -> None:
    wire = Wire()
    first = user('say Looking.\ncall get_weather {"city":"Paris"}\ncall get_time {}')
    asked = wire.ask(first, tools=TOOLS)
    assert asked.json["choices"][0]["finish_reason"] == "tool_calls"
    assert [call["function"]["name"] for call in asked.calls] == list(TOOLS)
    assert asked.calls[0]["function"]["arguments"] == '{"city":"Paris"}'
    results = [result(call, text) for call, text in zip(asked.calls, ("18 C", "12:00"), strict=True)]
    answer = wire.ask(first, asked.message, *results, tools=TOOLS)
    assert answer.message["content"] == "results: 18 C | 12:00"
    assert [text for kind, text in heard(wire) if kind == "tool_return"] == ["18 C", "12:00"]


def test_a_call_that_the_server_denies_by_itself_is_none_of_the_clients() -> None:
    """It checks the arguments: the agent hears what is wrong with them, and goes on."""
    wire = Wire()
    answer = wire.ask(user('call get_weather {"bad":1}\nthen\nsay I see.'), tools=TOOLS)
    assert (answer.message["content"], answer.message.get("tool_calls")) == ("I see.", None)
    assert answer.json["choices"][0]["finish_reason"] == "stop"


def test_beside_it_the_others_go_on() -> None:
    wire = Wire()
    first = user('call get_weather {"bad":1}\ncall get_time {}\nthen\nsay I see.')
    asked = wire.ask(first, tools=TOOLS)
    assert [call["function"]["name"] for call in asked.calls] == ["get_time"]
    answer = wire.ask(first, asked.message, result(asked.calls[0], "12:00"), tools=TOOLS)
    assert answer.message["content"] == "I see."
    assert ("tool_return", "12:00") in heard(wire)


def test_own_and_the_clients_tools_in_one_step() -> None:
    """The server asks about the client's first: the other call is the policy's all the same."""
    wire = Wire()
    inside = f"{wire.server.memory_directory}/likes.md"
    first = user(f'call get_weather {{}}\ncall Write {{"file_path":"{inside}","content":"tea"}}')
    asked = wire.ask(first, tools=TOOLS)
    assert [call["function"]["name"] for call in asked.calls] == ["get_weather"]
    answer = wire.ask(first, asked.message, result(asked.calls[0], "18 C"), tools=TOOLS)
    assert answer.message["content"] == "results: 18 C | Write done"


def test_a_tool_without_description_and_parameters_is_described() -> None:
    """The server would drop the frame without an answer."""
    wire = Wire()
    assert wire.ask(user("say Hello!"), tools=("bare",)).message["content"] == "Hello!"


def test_a_message_in_place_of_results() -> None:
    wire = Wire()
    first = user("call get_weather {}")
    asked = wire.ask(first, tools=TOOLS)
    answer = wire.ask(first, asked.message, user("say Never mind."), tools=TOOLS)
    assert answer.message["content"] == "Never mind."
    assert [kind for kind, _ in heard(wire)][-2:] == ["user", "assistant"]


def test_results_and_a_message_are_one_turn() -> None:
    wire = Wire()
    first = user("call get_weather {}")
    asked = wire.ask(first, tools=TOOLS)
    answer = wire.ask(first, asked.message, result(asked.calls[0], "18 C"), user("say Both."), tools=TOOLS)
    assert answer.message["content"] == "Both."
    assert ("tool_return", "18 C") in heard(wire)


def test_a_chat_client_gets_no_shell_and_no_files() -> None:
    wire = Wire()
    inside = f"{wire.server.memory_directory}/likes.md"
    told = user(
        'call Bash {"command":"cat /etc/hostname"}\ncall Read {"file_path":"/etc/hostname"}\n'
        f'call Write {{"file_path":"{inside}","content":"tea"}}'
    )
    answer = wire.ask(told)
    assert wire.server.carried_out == [("Write", {"file_path": inside, "content": "tea"})]
    assert "memory directory" in answer.message["content"]


def test_a_client_that_leaves_ends_the_turn() -> None:
    wire = Wire()
    wire.server.pause = True
    client = wire.begin(user("say Hello!"))
    wire.leave(client)
    assert client.is_over
    [talk] = wire.server.talks.values()
    assert not talk.is_running
    assert [frame["type"] for frame in wire.server.received][-1] == "abort_message"


def test_a_failing_model_is_told_and_its_message_is_kept_once() -> None:
    wire = Wire()
    answer = wire.ask(user("fail 429"))
    assert answer.status == 424
    assert "429: Scripted failure." in answer.json["error"]["message"]
    assert heard(wire) == [("user", "fail 429")]


def test_the_servers_own_retry_is_aborted() -> None:
    """It would append the message, and stream the reply, once more."""
    wire = Wire()
    answer = wire.ask(user("say One\nretry"))
    assert answer.status == 424
    assert wire.server.received[-1]["type"] == "abort_message"
    [talk] = wire.server.talks.values()
    assert not talk.is_running


def test_models_and_readiness() -> None:
    wire = Wire()
    assert [model["id"] for model in wire.get("/v1/models").json["data"]] == ["Milo"]
    assert wire.get("/v1/models/Milo").json["id"] == "Milo"
    assert wire.get("/v1/models/Nobody").status == 404
    assert wire.get("/ready").json == {"status": "ready", "app_server": "0.34.12"}


def test_a_server_that_cannot_be_reached() -> None:
    wire = Wire()
    wire.refuses = True
    answer = wire.ask(user("say Hello!"))
    assert answer.status == 502
    assert "cannot be reached: connection refused" in answer.json["error"]["message"]
    wire.refuses = False
    assert wire.ask(user("say Hello!")).message["content"] == "Hello!"


def test_a_server_without_agents_says_how_to_make_one() -> None:
    wire = Wire()
    wire.server.agents.clear()
    answer = wire.ask(user("say Hello!"))
    assert answer.status == 404
    assert "letta connect" in answer.json["error"]["message"]


def test_a_name_that_a_hidden_agent_has_too_is_no_model() -> None:
    """It would be ambiguous in a request."""
    wire = Wire()
    [milo] = wire.server.agents
    other = f"agent-local-{'0' * 8}-0000-4000-8000-{'0' * 12}"
    wire.server.agents.append({**milo, "id": other, "hidden": True})
    assert [model["id"] for model in wire.get("/v1/models").json["data"]] == [milo["id"]]
