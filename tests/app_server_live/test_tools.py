"""The client's tools, and which of the agent's own its model may use."""

import json
import os
import socket
from pathlib import Path

import pytest

from app_server_live.rig import AppServerRig
from app_server_live.server import Agent, AppServer
from live.asking import FORMS, PAIR, TOOLS, Form, ask, ask_for_calls, result, user
from live.proxy import SHORT_WAIT, serving

BARE = {"type": "function", "function": {"name": "bare"}}
ROME = '{"city": "Rome", "note": "caf\\u00e9 \\"x\\""}'
THREE_CALLS = f'say Looking.\ncall get_weather {ROME}\ncall read_file {{"path":"a"}}\ncall get_weather {{}}'
ONE_CALL = "call get_weather {}"


@pytest.mark.parametrize("form", FORMS)
def test_parallel_calls_and_their_results(url: str, server: AppServer, agent: Agent, form: Form) -> None:
    history, asked = ask_for_calls(url, form, agent.name, THREE_CALLS)
    assert asked.text == "Looking."
    assert [call.name for call in asked.calls] == ["get_weather", "read_file", "get_weather"]
    # The server writes the arguments anew.
    assert json.loads(asked.calls[0].arguments) == json.loads(ROME)
    # In another order than that of the calls.
    texts = dict(zip((call.id for call in asked.calls), ("18 C", "a file", "20 C"), strict=True))
    history += [result(call, texts[call.id]) for call in reversed(asked.calls)]
    answer = ask(url, form, agent.name, history, tools=TOOLS)
    assert (answer.text, answer.finish_reason) == ("results: 18 C | a file | 20 C", "stop")
    assert server.history(server.only_conversation(agent)) == [
        ("user", THREE_CALLS),
        ("assistant", "Looking."),
        ("call", "get_weather"),
        ("call", "read_file"),
        ("call", "get_weather"),
        ("result", "18 C"),
        ("result", "a file"),
        ("result", "20 C"),
        ("assistant", answer.text),
    ]


def test_calls_of_several_steps(url: str, server: AppServer, agent: Agent) -> None:
    script = 'call get_weather {}\nthen\ncall read_file {"path":"a"}\nthen\nsay Done.'
    history, asked = ask_for_calls(url, "sync", agent.name, script)
    history.append(result(asked.calls[0], "18 C"))
    asked = ask(url, "sync", agent.name, history, tools=TOOLS)
    assert [call.name for call in asked.calls] == ["read_file"]
    history += [asked.message, result(asked.calls[0], "a file")]
    assert ask(url, "sync", agent.name, history, tools=TOOLS).text == "Done."
    conversation = server.only_conversation(agent)
    assert [text for kind, text in server.history(conversation) if kind == "result"] == ["18 C", "a file"]
    assert server.user_texts(conversation) == [script]


def test_a_tool_without_description_and_parameters(url: str, agent: Agent) -> None:
    """The server drops a frame that describes such a tool."""
    first = user("call bare {}")
    asked = ask(url, "sync", agent.name, [first], tools=[BARE])
    assert [call.name for call in asked.calls] == ["bare"]
    history = [first, asked.message, result(asked.calls[0], "done")]
    assert ask(url, "sync", agent.name, history, tools=[BARE]).text == "results: done"


@pytest.mark.parametrize("form", PAIR)
def test_a_message_in_place_of_results(url: str, server: AppServer, agent: Agent, form: Form) -> None:
    history, _ = ask_for_calls(url, form, agent.name, ONE_CALL + '\ncall read_file {"path":"a"}')
    history.append(user("say Never mind."))
    assert ask(url, form, agent.name, history, tools=TOOLS).text == "Never mind."
    conversation = server.only_conversation(agent)
    assert server.user_texts(conversation)[1:] == ["say Never mind."]
    kinds = [kind for kind, _ in server.history(conversation)]
    assert kinds == ["user", "call", "call", "result", "result", "user", "assistant"]


def test_a_call_without_a_parameter_that_is_required(url: str, server: AppServer, agent: Agent) -> None:
    """The server denies it by itself, and the agent goes on: the client has nothing to carry out."""
    script = "call read_file {}\nthen\nsay I see."
    answer = ask(url, "sync", agent.name, script, tools=TOOLS)
    assert (answer.text, answer.calls, answer.finish_reason) == ("I see.", [], "stop")
    assert server.user_texts(server.only_conversation(agent)) == [script]


def test_results_and_a_message(url: str, server: AppServer, agent: Agent) -> None:
    history, asked = ask_for_calls(url, "sync", agent.name, ONE_CALL)
    history += [result(asked.calls[0], "18 C"), user("say Both.")]
    assert ask(url, "sync", agent.name, history, tools=TOOLS).text == "Both."
    assert server.history(server.only_conversation(agent)) == [
        ("user", ONE_CALL),
        ("call", "get_weather"),
        ("result", "18 C"),
        ("user", "say Both."),
        ("assistant", "Both."),
    ]


def test_a_result_that_is_an_error(url: str, server: AppServer, agent: Agent) -> None:
    history, asked = ask_for_calls(url, "sync", agent.name, ONE_CALL)
    history.append(result(asked.calls[0], "Error: no such city"))
    assert ask(url, "sync", agent.name, history, tools=TOOLS).text == "results: Error: no such city"


def test_another_proxy_answers_the_calls(rig: AppServerRig, server: AppServer, agent: Agent) -> None:
    """Two proxies share nothing but the server."""
    with serving(rig.ws_url, *SHORT_WAIT) as one, serving(rig.ws_url, *SHORT_WAIT) as other:
        history, asked = ask_for_calls(one.base_url, "sync", agent.name, THREE_CALLS)
        texts = ("18 C", "a file", "20 C")
        history += [result(call, text) for call, text in zip(asked.calls, texts, strict=True)]
        answer = ask(other.base_url, "sync", agent.name, history, tools=TOOLS)
        assert answer.text == "results: 18 C | a file | 20 C"
        history += [answer.message, user("say Bye.")]
        assert ask(one.base_url, "sync", agent.name, history, tools=TOOLS).text == "Bye."
    conversation = server.only_conversation(agent)
    assert [text for kind, text in server.history(conversation) if kind == "result"] == list(texts)
    assert server.user_texts(conversation) == [THREE_CALLS, "say Bye."]


# --- The agent's own tools


def memory_of(rig: AppServerRig, agent: Agent) -> Path:
    """The folder of the agent's memory."""
    return rig.home / ".letta" / "lc-local-backend" / "memfs" / agent.id / "memory"


def test_no_files_of_the_host(url: str, server: AppServer, agent: Agent) -> None:
    script = 'call Read {"file_path":"/etc/hostname"}\ncall Read {"file_path":"/etc/passwd"}'
    answer = ask(url, "sync", agent.name, script)
    assert answer.text.startswith("results: ")
    history = str(server.messages(server.only_conversation(agent)))
    assert "root:" not in history
    assert Path("/etc/hostname").read_text().strip() not in answer.text
    assert socket.gethostname() not in answer.text


def test_no_shell(url: str, agent: Agent, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for script in (
        f'call Bash {{"command":"touch {mark}","description":"x"}}',
        f'call Write {{"file_path":"{mark}","content":"x"}}',
    ):
        assert ask(url, "sync", agent.name, script).text.startswith("results: ")
    assert not mark.exists()


def test_a_tool_of_the_clients_with_the_name_of_the_shell(url: str, agent: Agent, tmp_path: Path) -> None:
    """It is the client that carries it out; the server checks its arguments as those of its own tool."""
    mark = tmp_path / "mark"
    tools = [{"type": "function", "function": {"name": "Bash", "parameters": {"type": "object"}}}]
    first = user(f'call Bash {{"command":"touch {mark}","description":"x"}}')
    asked = ask(url, "sync", agent.name, [first], tools=tools)
    assert [call.name for call in asked.calls] == ["Bash"]
    history = [first, asked.message, result(asked.calls[0], "touched")]
    assert ask(url, "sync", agent.name, history, tools=tools).text == "results: touched"
    assert not mark.exists()


def test_the_memory_can_be_written_and_read(rig: AppServerRig, url: str, agent: Agent) -> None:
    note = memory_of(rig, agent) / "system" / "likes.md"
    written = "---\\ndescription: likes\\n---\\nLikes tea."
    answer = ask(url, "sync", agent.name, f'call Write {{"file_path":"{note}","content":"{written}"}}')
    assert "Successfully wrote" in answer.text
    assert note.read_text().endswith("Likes tea.")
    edit = f'"file_path":"{note}","old_string":"tea","new_string":"coffee"'
    ask(url, "sync", agent.name, f"call Edit {{{edit}}}")
    assert note.read_text().endswith("Likes coffee.")
    read = ask(url, "sync", agent.name, f'call Read {{"file_path":"{note}"}}')
    assert "Likes coffee." in read.text


def test_the_way_out_of_the_memory_is_closed(rig: AppServerRig, url: str, agent: Agent) -> None:
    memory = memory_of(rig, agent)
    outside = memory.parent / f"escaped-{os.getpid()}.md"
    path = f"{memory}/system/../../{outside.name}"
    ask(url, "sync", agent.name, f'call Write {{"file_path":"{path}","content":"x"}}')
    assert not outside.exists()


def test_own_and_the_clients_tools_in_one_step(
    rig: AppServerRig, url: str, server: AppServer, agent: Agent
) -> None:
    note = memory_of(rig, agent) / "system" / "mixed.md"
    written = "---\\ndescription: mixed\\n---\\nMixed."
    script = f'call get_weather {{}}\ncall Write {{"file_path":"{note}","content":"{written}"}}'
    history, asked = ask_for_calls(url, "sync", agent.name, script)
    assert [call.name for call in asked.calls] == ["get_weather"]
    history.append(result(asked.calls[0], "18 C"))
    answer = ask(url, "sync", agent.name, history, tools=TOOLS)
    assert answer.text.startswith("results: 18 C | Successfully wrote")
    assert note.exists()
