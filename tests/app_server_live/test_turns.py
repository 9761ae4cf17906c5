"""Text, reasoning, usage and threads, by the official SDK and without it."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai import NOT_GIVEN

from app_server_live.rig import AppServerRig
from app_server_live.server import Agent, AppServer
from live.asking import FORMS, PAIR, STREAMED, Form, ask, attempt, fetch, user
from live.proxy import serving
from sansio_letta.upstreams.app_server.threads import OWN_SUMMARY

SAID = "think Let me see.\nsay Hello there!"


@pytest.mark.parametrize("form", FORMS)
def test_text_reasoning_and_usage(url: str, server: AppServer, agent: Agent, form: Form) -> None:
    options = {"include_usage": True} if form in STREAMED else NOT_GIVEN
    answer = ask(url, form, agent.name, SAID, stream_options=options)
    assert (answer.reasoning, answer.text) == ("Let me see.", "Hello there!")
    assert (answer.finish_reason, answer.model) == ("stop", agent.name)
    assert answer.usage is not None
    # The server counts the cached tokens beside the prompt's, OpenAI within them.
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (100, 20, 120)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 10
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 5
    assert server.history(server.only_conversation(agent)) == [("user", SAID), ("assistant", "Hello there!")]


def test_the_text_comes_piece_by_piece(url: str, agent: Agent) -> None:
    answer = ask(url, "sync-stream", agent.name, "words 50")
    assert answer.text == " ".join(f"w{number}" for number in range(50))
    assert sum(bool(choice.delta.content) for chunk in answer.chunks for choice in chunk.choices) >= 50


def test_usage_of_several_steps(rig: AppServerRig, agent: Agent) -> None:
    """The agent's own call makes two steps of one turn."""
    with serving(rig.ws_url, "--usage", "sum") as proxy:
        answer = ask(proxy.base_url, "sync", agent.name, "call Memory {}\nthen\nsay Done.")
    assert answer.text == "Done."
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (200, 240)


def test_without_an_sdk(url: str, agent: Agent) -> None:
    body = {"model": agent.name, "messages": [user("say Hello!")], "stream": True}
    answer = fetch(url, "POST", "/chat/completions", body)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in answer.body.decode().split("\n\n") if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1] if not event.startswith(":")]
    texts = (choice["delta"].get("content") for chunk in chunks for choice in chunk["choices"])
    assert "".join(text or "" for text in texts) == "Hello!"


def test_models_and_probes(url: str, agent: Agent) -> None:
    listed = json.loads(fetch(url, "GET", "/models").body)["data"]
    assert agent.name in [model["id"] for model in listed]
    assert json.loads(fetch(url, "GET", f"/models/{agent.name}").body)["id"] == agent.name
    assert fetch(url, "GET", "/models/nobody").status == 404
    for path in ("/health", "/ready"):
        assert fetch(url.removesuffix("/v1"), "GET", path).status == 200


def test_an_agent_that_is_not_there(url: str) -> None:
    answer = fetch(url, "POST", "/chat/completions", {"model": "nobody", "messages": [user("say Hello!")]})
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("form", PAIR)
def test_the_own_thread_goes_on(url: str, server: AppServer, agent: Agent, form: Form) -> None:
    for text in ("One.", "Two."):
        assert ask(url, form, agent.name, f"say {text}").text == text
    assert list(server.conversations(agent).values()) == [OWN_SUMMARY]
    assert server.history(server.only_conversation(agent)) == [
        ("user", "say One."),
        ("assistant", "One."),
        ("user", "say Two."),
        ("assistant", "Two."),
    ]


def test_a_chat_is_found_again_after_a_restart_of_the_proxy(
    rig: AppServerRig, server: AppServer, agent: Agent
) -> None:
    headers = {"X-Letta-Chat-Key": 'a "key" with 100% of \\ what_is odd'}
    history = []
    for text in ("One.", "Two."):
        history.append(user(f"say {text}"))
        with serving(rig.ws_url) as proxy:
            answer = ask(proxy.base_url, "sync", agent.name, history, extra_headers=headers)
        assert answer.text == text
        history.append(answer.message)
    conversation = server.only_conversation(agent)
    assert server.user_texts(conversation) == ["say One.", "say Two."]


def test_two_chats_at_once(url: str, server: AppServer, agent: Agent) -> None:
    """Their frames share the socket."""

    def chat(key: str) -> str:
        words = f"say {key}\nwords 40\nslow 0.02"
        return ask(url, "sync-stream", agent.name, words, extra_headers={"X-Letta-Chat-Key": key}).text

    keys = ["red", "green", "blue"]
    with ThreadPoolExecutor() as pool:
        texts = list(pool.map(chat, keys))
    counted = " ".join(f"w{number}" for number in range(40))
    assert texts == [f"{key}\n{counted}" for key in keys]
    heard = [server.user_texts(conversation) for conversation in server.conversations(agent)]
    assert sorted(heard) == sorted([f"say {key}\nwords 40\nslow 0.02"] for key in keys)


def test_two_messages_in_one_chat_are_two_turns(url: str, server: AppServer, agent: Agent) -> None:
    """The server would take both in at once and answer them with one reply."""
    scripts = [f"say {name}\nwait 0.5" for name in ("One.", "Two.", "Three.")]
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda script: ask(url, "sync", agent.name, script), scripts))
    assert [answer.text for answer in answers] == ["One.", "Two.", "Three."]
    assert sorted(server.user_texts(server.only_conversation(agent))) == sorted(scripts)


def test_a_background_prompt_leaves_nothing_in_use(url: str, server: AppServer, agent: Agent) -> None:
    ask(url, "sync", agent.name, "say Hello!")
    prompt = (
        "Provide a concise, 5-word-or-less title for the conversation, using title case.\nsay Cats And Dogs"
    )
    assert ask(url, "sync", agent.name, prompt).text == "Cats And Dogs"
    own = server.only_conversation(agent)
    assert server.user_texts(own) == ["say Hello!"]
    [archived] = server.conversations(agent, archived=True)
    assert server.user_texts(archived) == [prompt]


@pytest.mark.parametrize(("status", "said"), [(400, "400"), (401, "401"), (429, "429")])
def test_a_failing_model(url: str, server: AppServer, agent: Agent, status: int, said: str) -> None:
    """The server keeps the message, so the error tells SDKs not to send it again."""
    answer = attempt(url, "sync", agent.name, f"fail {status}", max_retries=2)
    assert answer.error is not None
    assert said in answer.error.message
    assert answer.request_count == 1
    conversation = server.only_conversation(agent)
    assert server.history(conversation) == [("user", f"fail {status}")]
    assert ask(url, "sync", agent.name, "say Better.").text == "Better."
    assert server.user_texts(conversation) == [f"fail {status}", "say Better."]


def test_instructions_are_said_once(url: str, server: AppServer, agent: Agent) -> None:
    history = [{"role": "system", "content": "Be brief."}, user("say One.")]
    first = ask(url, "sync", agent.name, history)
    history += [first.message, user("say Two.")]
    assert ask(url, "sync", agent.name, history).text == "Two."
    held = server.messages(server.only_conversation(agent))
    assert sum("Be brief." in json.dumps(message) for message in held) == 1
