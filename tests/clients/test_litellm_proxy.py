"""LiteLLM's proxy in front of ours: what passes through both."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import openai
import pytest

from clients.documented import block, commands
from clients.programs import Desk, install_pypi, serving
from live.asking import GET_WEATHER, TIMEOUT, Answer, Message, result, user
from live.conftest import MakeAgent
from live.letta_api import Agent, LettaApi
from live.rig import free_port

VERSION: Final = "1.104.0"
MODEL: Final = "milo"  # as LiteLLM calls the agent
AGENT: Final = "behind LiteLLM"
#: Else it fetches a list of prices from another host.
QUIET: Final = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
WEATHER: Final = 'think I need the weather.\ncall get_weather {"city": "Paris"}\nthen\nsay It is sunny.'


@pytest.fixture(scope="module")
def litellm(installed: Path, proxy: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Base URL and key of a LiteLLM that leads to the proxy, set up as the docs say."""
    programs = install_pypi(installed, f"litellm[proxy]=={VERSION}")
    folder = tmp_path_factory.mktemp("litellm")
    desk = Desk(home=folder, files=folder)
    config = block("frameworks", "LiteLLM", "yaml", base_url=proxy.base_url, agent=AGENT)
    desk.write("config.yaml", config)
    settings, ((name, *arguments),) = commands("frameworks", "LiteLLM", base_url=proxy.base_url, agent=AGENT)
    port = str(free_port())
    arguments[arguments.index("--port") + 1] = port
    root = f"http://127.0.0.1:{port}"
    ready_url = f"{root}/health/liveliness"
    with serving(desk, programs / name, *arguments, ready_url=ready_url, settings={**settings, **QUIET}):
        yield f"{root}/v1", settings["LITELLM_MASTER_KEY"]


@pytest.fixture
def agent(make_agent: MakeAgent) -> Agent:
    """The agent that LiteLLM's settings name."""
    return make_agent(AGENT)


@pytest.fixture
def client(litellm: tuple[str, str]) -> Iterator[openai.OpenAI]:
    """The official SDK, asking LiteLLM."""
    base_url, key = litellm
    with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=TIMEOUT) as client:
        yield client


def ask(client: openai.OpenAI, messages: list[Message], *, stream: bool) -> Answer:
    """Ask for an answer with a tool at hand."""
    request: dict[str, Any] = {"model": MODEL, "messages": messages, "tools": [GET_WEATHER]}
    answer = Answer()
    if stream:
        with client.chat.completions.create(
            **request, stream=True, stream_options={"include_usage": True}
        ) as chunks:
            for chunk in chunks:
                answer.add_chunk(chunk)
    else:
        answer.add_completion(client.chat.completions.create(**request))
    return answer


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_tool(client: openai.OpenAI, letta: LettaApi, agent: Agent, stream: bool) -> None:
    messages = [user(WEATHER)]
    answer = ask(client, messages, stream=stream)
    assert answer.reasoning == "I need the weather."
    (call,) = answer.calls
    assert (call.name, call.arguments) == ("get_weather", '{"city": "Paris"}')
    assert answer.finish_reason == "tool_calls"
    messages += [answer.message, result(call, "18 C, sunny")]
    answer = ask(client, messages, stream=stream)
    assert (answer.text, answer.finish_reason) == ("It is sunny.", "stop")
    assert answer.usage is not None
    assert answer.usage.total_tokens == 120
    assert letta.user_texts(agent) == [WEATHER]
    assert letta.tool_returns(agent) == [(call.id, "18 C, sunny", "success")]


def test_an_unknown_agent(client: openai.OpenAI) -> None:
    """Nobody has made the agent: LiteLLM hands our refusal on."""
    with pytest.raises(openai.NotFoundError, match=AGENT):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hello!"}])
