"""Agents that get a client's tools as their own, on a real Letta server: legacy ones, and any if so configured.

The scripted model calls a tool by the name that it has at Letta; which that is, the core's own function says.
"""

import itertools
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from openai import BadRequestError

from live.asking import (
    FORMS,
    GET_WEATHER,
    PAIR,
    READ_FILE,
    TOOLS,
    Answer,
    Form,
    Message,
    ask,
    attempt,
    result,
    user,
)
from live.conftest import MakeAgent
from live.letta_api import Agent, LettaApi
from live.proxy import SHORT_WAIT, Proxy, serving
from live.rig import Rig
from sansio_letta.dialects.chat_completions.decode import decode_request
from sansio_letta.dialects.new_input import build_turn_request
from sansio_letta.upstreams.rest.attached_tools import PREFIX, offer_attached
from sansio_letta.upstreams.rest.run_request import RESULT_PREFACE

TYPES = ("memgpt_v2_agent", "memgpt_agent")
SETTLE_TIMEOUT = 10.0  # seconds until nothing of a turn may be left


def name_of(tool: Message) -> str:
    """What a client's tool is called at Letta."""
    body = {"model": "x", "messages": [user("x")], "tools": [tool]}
    turn_request = build_turn_request(decode_request(json.dumps(body).encode())).turn_request
    return offer_attached(turn_request.client_tools, adds_arguments=True)[0].tool.name


WEATHER, READ = name_of(GET_WEATHER), name_of(READ_FILE)
ROME = '{"city": "Rome", "note": "caf\\u00e9 \\"x\\" {1: [2.50, null]}"}'


@pytest.fixture(scope="module")
def proxy(rig: Rig) -> Iterator[Proxy]:
    """A proxy of its own: what it keeps at Letta ends with it."""
    with serving(rig.url, *SHORT_WAIT) as proxy:
        yield proxy


_numbers = itertools.count(1)


@pytest.fixture(params=TYPES)
def legacy(make_agent: MakeAgent, request: pytest.FixtureRequest) -> Agent:
    return make_agent(f"legacy-{next(_numbers)}", agent_type=request.param)


def tool_of(test: str) -> Message:
    """A tool that no other test brings: what becomes of it at Letta is this one's doing."""
    described = {"name": "get_time", "description": f"For {test} at {time.time()}.", "parameters": {}}
    return {"type": "function", "function": described}


def wait_until(what: Callable[[], bool], timeout: float = SETTLE_TIMEOUT) -> None:
    deadline = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < deadline, f"not so after {timeout:.0f} s"
        time.sleep(0.1)


def quoted(text: str) -> str:
    """Read the result out of the scripted model's answer, without Letta's words around it."""
    message: str = json.loads(text.removeprefix("results: "))["message"]
    return message.partition(RESULT_PREFACE)[2]


@pytest.mark.parametrize("form", FORMS)
def test_text_is_told_as_it_is(url: str, letta: LettaApi, legacy: Agent, form: Form) -> None:
    answer = ask(url, form, legacy.name, 'think Hm.\nsay Say "hi", \\n {"a": [1]} café.')
    assert (answer.text, answer.reasoning) == ('Say "hi", \\n {"a": [1]} café.', "Hm.")
    assert (answer.finish_reason, answer.calls) == ("stop", [])
    assert letta.assistant_texts(legacy)[-1] == answer.text


@pytest.mark.parametrize("form", FORMS)
def test_a_call_and_its_result(url: str, letta: LettaApi, legacy: Agent, form: Form) -> None:
    before = letta.equipment(legacy)
    history = [user(f"call {WEATHER} {ROME}")]
    asked = ask(url, form, legacy.name, history, tools=TOOLS)
    assert [call.name for call in asked.calls] == ["get_weather"]
    assert json.loads(asked.calls[0].arguments) == json.loads(ROME)
    assert asked.finish_reason == "tool_calls"
    wait_until(lambda: letta.equipment(legacy) == before)
    assert {WEATHER, READ} <= set(letta.tool_names())
    assert [call.id for call in asked.calls] == letta.pending_call_ids(legacy)

    history += [asked.message, result(asked.calls[0], 'fine: "18 C"\n')]
    answer = ask(url, form, legacy.name, history, tools=TOOLS)
    assert quoted(answer.text) == 'fine: "18 C"\n'
    assert (answer.finish_reason, answer.calls) == ("stop", [])
    wait_until(lambda: letta.equipment(legacy) == before)
    assert len(letta.runs(legacy)) == 2


def test_a_loop_of_calls_finds_its_tools_again(url: str, letta: LettaApi, legacy: Agent) -> None:
    before = letta.equipment(legacy)
    script = f"call {WEATHER} {ROME}\nthen\ncall {READ} {{}}\nthen\ncall {WEATHER} {{}}\nthen\nsay Done."
    history = [user(script)]
    for expected in ("get_weather", "read_file", "get_weather"):
        asked = ask(url, "sync-stream", legacy.name, history, tools=TOOLS)
        assert [call.name for call in asked.calls] == [expected]
        history += [asked.message, result(asked.calls[0], "ok")]
    assert ask(url, "sync-stream", legacy.name, history, tools=TOOLS).text == "Done."
    wait_until(lambda: letta.equipment(legacy) == before)


def test_two_calls_in_one_step(url: str, letta: LettaApi, legacy: Agent) -> None:
    """A legacy agent makes one call a step, whatever its model asks for."""
    asked = ask(url, "sync", legacy.name, f"call {WEATHER} {ROME}\ncall {READ} {{}}", tools=TOOLS)
    assert [call.name for call in asked.calls] == ["get_weather"]


@pytest.mark.parametrize("form", PAIR)
def test_a_message_in_place_of_a_result(url: str, letta: LettaApi, legacy: Agent, form: Form) -> None:
    before = letta.equipment(legacy)
    history = [user(f"call {WEATHER} {ROME}")]
    asked = ask(url, form, legacy.name, history, tools=TOOLS)
    history += [asked.message, user("say Never mind.")]
    assert ask(url, form, legacy.name, history, tools=TOOLS).text == "Never mind."
    # The call has its return: model providers refuse a history in which it has none.
    assert letta.tool_returns(legacy)[0][0] == asked.calls[0].id
    wait_until(lambda: letta.equipment(legacy) == before)


def test_a_message_behind_a_result(url: str, letta: LettaApi, legacy: Agent) -> None:
    history = [user(f"call {WEATHER} {ROME}")]
    asked = ask(url, "sync", legacy.name, history, tools=TOOLS)
    history += [asked.message, result(asked.calls[0], "18 C"), user("say And now?")]
    assert ask(url, "sync", legacy.name, history, tools=TOOLS).text == "And now?"
    assert RESULT_PREFACE + "18 C" in letta.tool_returns(legacy)[0][1]
    assert letta.user_texts(legacy)[-1] == "say And now?"


def test_a_name_that_the_agent_has_itself(url: str, letta: LettaApi, legacy: Agent) -> None:
    before = letta.equipment(legacy)
    own = "conversation_search"
    mine = {"type": "function", "function": {"name": own, "parameters": {"type": "object", "properties": {}}}}
    history = [user(f"call {name_of(mine)} {{}}")]
    asked = ask(url, "sync", legacy.name, history, tools=[mine])
    assert [call.name for call in asked.calls] == [own]
    history += [asked.message, result(asked.calls[0], "the client's own")]
    assert quoted(ask(url, "sync", legacy.name, history, tools=[mine]).text) == "the client's own"
    # The agent's own of that name is carried out by Letta, as ever.
    answer = ask(url, "sync", legacy.name, f'call {own} {{"query": "tea"}}', tools=[mine])
    assert (answer.calls, answer.finish_reason) == ([], "stop")
    wait_until(lambda: letta.equipment(legacy) == before)


def test_two_clients_at_once(url: str, letta: LettaApi, legacy: Agent) -> None:
    before = letta.equipment(legacy)
    answers: dict[str, Answer] = {}

    def client(called: str, tool: Message, pause: str = "") -> None:
        answers[called] = ask(url, "sync-stream", legacy.name, f"{pause}call {called} {{}}", tools=[tool])

    clients = [threading.Thread(target=client, args=(WEATHER, GET_WEATHER, "wait 1.5\n"))]
    clients[0].start()
    wait_until(lambda: WEATHER in letta.equipment(legacy)["tools"])
    # It comes second, denies the call that waits, and is offered its own tool alone.
    clients.append(threading.Thread(target=client, args=(READ, READ_FILE)))
    clients[1].start()
    seen = set()
    while any(thread.is_alive() for thread in clients):
        seen.add(tuple(name for name in letta.equipment(legacy)["tools"] if name.startswith(PREFIX)))
        time.sleep(0.05)
    assert (WEATHER, READ) not in seen
    assert (READ, WEATHER) not in seen
    assert {called: [call.name for call in answer.calls] for called, answer in answers.items()} == {
        WEATHER: ["get_weather"],
        READ: ["read_file"],
    }
    assert ask(url, "sync", legacy.name, "say Done.", tools=TOOLS).text == "Done."
    wait_until(lambda: letta.equipment(legacy) == before)


def test_a_tool_that_this_client_does_not_offer(url: str, letta: LettaApi, legacy: Agent) -> None:
    answer = ask(url, "sync", legacy.name, f"call {READ} {{}}", tools=[GET_WEATHER])
    assert answer.calls == []
    assert "Cannot call" in answer.text


@pytest.mark.parametrize("form", ["sync-stream", "async-stream"])
def test_a_client_that_leaves_in_mid_run(url: str, letta: LettaApi, legacy: Agent, form: Form) -> None:
    before = letta.equipment(legacy)
    answer = attempt(url, form, legacy.name, "wait 15\nsay Late.", tools=TOOLS, timeout=4.0)
    assert answer.error is not None
    wait_until(lambda: letta.equipment(legacy) == before)
    assert [run["status"] for run in letta.ended_runs(legacy)] == ["cancelled"]
    assert ask(url, form, legacy.name, "say Hello again.", tools=TOOLS).text == "Hello again."
    wait_until(lambda: letta.equipment(legacy) == before)


def test_a_schema_that_no_agent_can_be_given(url: str, letta: LettaApi, legacy: Agent) -> None:
    before, kept = letta.equipment(legacy), letta.tool_names()
    bad = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "required": "x"}}}
    answer = attempt(url, "sync", legacy.name, "say Hi.", tools=[GET_WEATHER, bad])
    assert isinstance(answer.error, BadRequestError)
    assert answer.error.param == "tools[1].function.parameters.required"
    assert (letta.equipment(legacy), letta.tool_names()) == (before, kept)
    assert ask(url, "sync", legacy.name, "say Hi.", tools=TOOLS).text == "Hi."
    wait_until(lambda: letta.equipment(legacy) == before)


def test_chats_share_the_one_thread(url: str, letta: LettaApi, legacy: Agent) -> None:
    headers = {"X-Letta-Chat-Key": "chat-1"}
    assert ask(url, "sync", legacy.name, "say In a chat.", extra_headers=headers).text == "In a chat."
    assert letta.conversations(legacy) == []
    assert letta.user_texts(legacy)[-1] == "say In a chat."


def test_an_agent_that_takes_tools_may_be_given_them_the_other_way(
    rig: Rig, letta: LettaApi, agent: Agent
) -> None:
    before = letta.equipment(agent)
    with serving(rig.url, "--client-tools", "attach") as proxy:
        headers = {"X-Letta-Chat-Key": "chat-1"}
        history = [user(f"say Look.\ncall {WEATHER} {ROME}\ncall {READ} {{}}")]
        asked = ask(proxy.base_url, "sync-stream", agent.name, history, tools=TOOLS, extra_headers=headers)
        assert asked.text == "Look."
        assert [(call.name, call.arguments) for call in asked.calls] == [
            ("get_weather", ROME),
            ("read_file", "{}"),
        ]
        wait_until(lambda: letta.equipment(agent) == before)
        history += [asked.message, *(result(call, "ok") for call in asked.calls)]
        answer = ask(proxy.base_url, "sync-stream", agent.name, history, tools=TOOLS, extra_headers=headers)
        assert answer.text.count('"message": "ok"') == 2
        wait_until(lambda: letta.equipment(agent) == before)


def test_equal_tools_are_made_once(rig: Rig, letta: LettaApi, legacy: Agent, tmp_path: Path) -> None:
    before, tools = letta.equipment(legacy), [tool_of("once"), tool_of("once")]
    tools[1]["function"]["name"] = "get_date"
    asked: list[list[str]] = []

    def methods() -> list[str]:
        """Of the requests of the last turn; its recording grows until all is clean."""
        files = sorted(tmp_path.glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
        lines = [json.loads(line) for line in files[-1].read_text().splitlines()]
        return [line["method"] for line in lines if line.get("dir") == "request"]

    with serving(rig.url, "--record", str(tmp_path)) as proxy:
        for _ in range(3):
            assert ask(proxy.base_url, "sync", legacy.name, "say Hi.", tools=tools).text == "Hi."
            wait_until(lambda: letta.equipment(legacy) == before)
            asked.append(methods())
    assert [(turn.count("PUT"), turn.count("DELETE")) for turn in asked] == [(2, 0), (0, 0), (0, 0)]
    assert not {name_of(tool) for tool in tools} & set(letta.tool_names())


def test_a_tool_that_somebody_has_deleted_is_made_again(url: str, letta: LettaApi, legacy: Agent) -> None:
    before, tool = letta.equipment(legacy), tool_of("deleted")
    for _ in range(2):
        assert ask(url, "sync", legacy.name, f"call {name_of(tool)} {{}}", tools=[tool]).calls
        wait_until(lambda: letta.equipment(legacy) == before)
        letta.delete_tool(letta.tool_id(name_of(tool)))
        assert name_of(tool) not in letta.tool_names()
    assert ask(url, "sync", legacy.name, "say Done.", tools=[tool]).text == "Done."


def test_a_proxy_that_ends_leaves_nothing(rig: Rig, letta: LettaApi, legacy: Agent) -> None:
    """Not even what it has kept to be found again."""
    before, tool = letta.equipment(legacy), tool_of("end")
    with serving(rig.url) as proxy:
        asked = ask(proxy.base_url, "sync", legacy.name, f"call {name_of(tool)} {{}}", tools=[tool])
        assert asked.finish_reason == "tool_calls"
        assert name_of(tool) in letta.tool_names()
    assert letta.equipment(legacy) == before
    assert name_of(tool) not in letta.tool_names()


def test_what_a_killed_proxy_has_left_is_swept(rig: Rig, letta: LettaApi, legacy: Agent) -> None:
    before, tool = letta.equipment(legacy), tool_of("kill")
    ttl = ("--client-tool-ttl", "4")
    proxies: list[Proxy] = []
    with pytest.raises(AssertionError, match="exit code -9"), serving(rig.url, *ttl) as proxy:
        proxies.append(proxy)
        asking = threading.Thread(
            target=lambda: attempt(
                proxy.base_url, "sync-stream", legacy.name, "wait 3\nsay Late.", tools=[tool], max_retries=0
            )
        )
        asking.start()
        wait_until(lambda: name_of(tool) in letta.equipment(legacy)["tools"])
        proxy.process.send_signal(signal.SIGKILL)
        asking.join()
    assert letta.equipment(legacy) != before
    with serving(rig.url, *ttl):
        wait_until(lambda: letta.equipment(legacy) == before and name_of(tool) not in letta.tool_names())
