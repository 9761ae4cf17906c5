"""Chats that name no key, each recognised by its transcript: `threads = transcript`."""

from typing import Any

import orjson
import pytest

from drive import AGENT, AGENT_ID, DONE, PING, RUN_ID, USAGE, say, stop, want
from drive_cycle import Client
from sansio_letta import Caller, Config, HttpRequest, Proxy
from sansio_letta.config import Threads
from sansio_letta.turn.agent import ANYONE
from sansio_letta.turn.events import AgentThread, ConversationThread
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.commands import (
    CreateConversation,
    FetchKept,
    FetchLast,
    FetchRun,
    FetchUsage,
    FindConversations,
    OpenStream,
)
from sansio_letta.upstreams.rest.transcript_search import MAX_CANDIDATE_COUNT

CONFIG = Config(threads=Threads.TRANSCRIPT)
TOOL = {"type": "function", "function": {"name": "look"}}


def proxy(config: Config = CONFIG) -> Proxy:
    """A process that has just started, but knows the agent."""
    made = Proxy(config)
    made.remember("Milo", AGENT, now=100.0)
    return made


def transcript(*texts: str) -> list[dict[str, Any]]:
    """What the user and the agent say in turns; an empty answer is left out."""
    roles = ("user", "assistant")
    return [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts) if text]


class Letta:
    """Letta's conversations, and what was said in each."""

    def __init__(self) -> None:
        self.said: dict[str, list[dict[str, Any]]] = {}
        self.summaries: dict[str, str] = {}
        self.commands: list[Any] = []
        self.count = 0

    def talk(
        self,
        served: Proxy,
        messages: list[dict[str, Any]],
        reply: str | dict[str, Any] = "Hello!",
        *,
        headers: dict[str, str] | None = None,
        caller: Caller = ANYONE,
        **more: Any,
    ) -> str:
        """Send a request; return the conversation that it came to."""
        self.count += 1
        body = {"model": "Milo", "messages": messages, **more}
        request = HttpRequest(
            method="POST",
            target="/v1/chat/completions",
            body=orjson.dumps(body),
            headers=tuple((headers or {}).items()),
        )
        client = Client(request, served, token=f"token{self.count:05}", caller=caller)
        self.commands = client.commands
        came_to, done = "", 0
        while not client.ended:
            command = client.commands[done]
            done += 1
            if isinstance(command, OpenStream):
                assert isinstance(command.thread, ConversationThread)
                came_to = command.thread.conversation_id
                self._hear(came_to, command, reply)
                answered = say(reply) if isinstance(reply, str) else reply
                reason = "end_turn" if isinstance(reply, str) else "requires_approval"
                client.stream(PING, answered, stop(reason), USAGE, DONE)
            else:
                client.answer(self._answer(command))
        assert client.status == 200, client.body
        return came_to

    def _answer(self, command: object) -> Any:
        match command:
            case CreateConversation(summary=summary):
                name = f"conv-{len(self.said)}"
                self.said[name], self.summaries[name] = [], summary
                return self._shown(name)
            case FindConversations(summary=summary):
                found = [name for name, text in self.summaries.items() if summary in text]
                return [self._shown(name) for name in reversed(found)]
            case FetchLast(conversation_id=name, count=count):
                return self.said[name][::-1][:count]
            case FetchRun(run_id=run_id):
                return {"id": run_id, "status": "completed", "stop_reason": "end_turn"}
            case FetchKept():
                return [message for said in self.said.values() for message in said]
            case FetchUsage():
                return {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        raise AssertionError(command)

    def _shown(self, name: str) -> dict[str, Any]:
        made = f"2026-11-22T08:{int(name.removeprefix('conv-')):02}:00"
        return {"id": name, "agent_id": AGENT_ID, "summary": self.summaries[name], "created_at": made}

    def _hear(self, name: str, command: OpenStream, reply: str | dict[str, Any]) -> None:
        for message in command.request.messages:
            if isinstance(message, letta.MessageCreate):
                self._keep(name, f"{message.role}_message", message.content, message.otid)
        if isinstance(reply, str):
            self._keep(name, "assistant_message", reply, "by Letta")
        else:
            self.said[name].append({**reply, "run_id": RUN_ID})

    def _keep(self, name: str, kind: str, content: object, otid: str | None) -> None:
        ident = f"message-{len(self.said[name])}"
        kept = {"id": ident, "message_type": kind, "content": content, "otid": otid, "run_id": RUN_ID}
        self.said[name].append(kept)

    def texts(self, name: str) -> list[str]:
        return [message["content"] for message in self.said[name] if "content" in message]


@pytest.fixture
def at_letta() -> Letta:
    return Letta()


def kinds(commands: list[Any]) -> list[str]:
    return [type(command).__name__ for command in commands]


def test_a_chat_stays_in_its_conversation_and_asks_letta_nothing_more(at_letta: Letta) -> None:
    served = proxy()
    first = at_letta.talk(served, transcript("hi"))
    assert kinds(at_letta.commands) == ["CreateConversation", "OpenStream"]
    [created] = [item for item in at_letta.commands if isinstance(item, CreateConversation)]
    assert created.summary.startswith("letta-proxy transcript: ")
    assert "hi" not in created.summary.split()
    second = at_letta.talk(served, transcript("hi", "Hello!", "and now?"), "Now this.")
    assert kinds(at_letta.commands) == ["OpenStream"]
    third = at_letta.talk(served, transcript("hi", "Hello!", "and now?", "Now this.", "then?"), "That.")
    assert kinds(at_letta.commands) == ["OpenStream"]
    assert first == second == third
    assert at_letta.texts(first) == ["hi", "Hello!", "and now?", "Now this.", "then?", "That."]


def test_another_process_finds_the_conversation_in_letta(at_letta: Letta) -> None:
    first = at_letta.talk(proxy(), transcript("hi"))
    second = at_letta.talk(proxy(), transcript("hi", "Hello!", "and now?"))
    assert kinds(at_letta.commands) == ["FindConversations", "FetchLast", "OpenStream"]
    assert second == first
    assert at_letta.texts(first) == ["hi", "Hello!", "and now?", "Hello!"]


@pytest.mark.parametrize("restarts", [False, True], ids=["one process", "another each time"])
@pytest.mark.parametrize("replies", [("Hello!", "Good day!"), ("Hello!", "Hello!")], ids=["differ", "same"])
def test_two_chats_that_begin_with_the_same_word_never_mix(
    at_letta: Letta, replies: tuple[str, str], restarts: bool
) -> None:
    served = proxy()

    def process() -> Proxy:
        return proxy() if restarts else served

    one, two = (at_letta.talk(process(), transcript("hi"), reply) for reply in replies)
    assert one != two
    # The older one goes on first.
    at_letta.talk(process(), transcript("hi", replies[0], "cats"), "Cats.")
    at_letta.talk(process(), transcript("hi", replies[1], "dogs"), "Dogs.")
    at_letta.talk(process(), transcript("hi", replies[0], "cats", "Cats.", "more"), "More cats.")
    at_letta.talk(process(), transcript("hi", replies[1], "dogs", "Dogs.", "more"), "More dogs.")
    held = sorted(at_letta.texts(name) for name in at_letta.said)
    assert held == sorted(
        [
            ["hi", replies[0], "cats", "Cats.", "more", "More cats."],
            ["hi", replies[1], "dogs", "Dogs.", "more", "More dogs."],
        ]
    )


def test_a_first_message_that_is_sent_again_stays_in_its_conversation(at_letta: Letta) -> None:
    first = at_letta.talk(proxy(), transcript("hi"))
    at_letta.talk(proxy(), transcript("hi"), headers={"x-stainless-retry-count": "1"})
    assert list(at_letta.said) == [first]


def test_a_retry_finds_nothing_if_its_first_attempt_never_came(at_letta: Letta) -> None:
    at_letta.talk(proxy(), transcript("hi"), headers={"x-stainless-retry-count": "1"})
    assert kinds(at_letta.commands)[:2] == ["FindConversations", "CreateConversation"]


def test_an_edited_message_begins_a_conversation_with_the_history(at_letta: Letta) -> None:
    served = proxy()
    first = at_letta.talk(served, transcript("hi"))
    at_letta.talk(served, transcript("hi", "Hello!", "cats"), "Cats.")
    second = at_letta.talk(served, transcript("hi", "Hello!", "dogs"), "Dogs.")
    assert second != first
    assert at_letta.texts(first) == ["hi", "Hello!", "cats", "Cats."]
    assert at_letta.texts(second) == ["hi", "Hello!", "dogs", "Dogs."]


def test_a_conversation_in_which_nothing_was_said_yet_is_used(at_letta: Letta) -> None:
    first = at_letta.talk(proxy(), transcript("hi"))
    at_letta.said[first].clear()
    assert at_letta.talk(proxy(), transcript("hi", "Hel", "what?"), "Yes?") == first
    assert at_letta.texts(first) == ["hi", "Hel", "what?", "Yes?"]


def test_an_answer_that_the_client_has_changed_is_no_other_chat(at_letta: Letta) -> None:
    served = proxy()
    first = at_letta.talk(served, transcript("hi"), "**Hello!**")
    assert at_letta.talk(served, transcript("hi", "<b>Hello!</b>", "and?")) == first
    assert kinds(at_letta.commands) == ["FindConversations", "FetchLast", "OpenStream"]


def test_a_client_that_keeps_no_answers_stays_in_its_conversation(at_letta: Letta) -> None:
    served = proxy()
    first = at_letta.talk(served, transcript("hi"))
    assert at_letta.talk(served, transcript("hi", "", "and now?")) == first
    assert at_letta.texts(first) == ["hi", "Hello!", "and now?", "Hello!"]


@pytest.mark.parametrize("restarts", [False, True], ids=["one process", "another"])
def test_results_come_to_the_conversation_that_waits_for_them(at_letta: Letta, restarts: bool) -> None:
    served = proxy()
    calls = [want(f"call-{number}", "look", "{}") for number in range(2)]
    first, second = (at_letta.talk(served, transcript("hi"), call, tools=[TOOL]) for call in calls)
    assert first != second
    for number, name in enumerate((first, second)):
        call = {"id": f"call-{number}", "type": "function", "function": {"name": "look", "arguments": "{}"}}
        messages = [
            *transcript("hi"),
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"call-{number}", "content": "seen"},
        ]
        assert at_letta.talk(proxy() if restarts else served, messages, "Seen.", tools=[TOOL]) == name


def test_no_more_than_a_few_conversations_are_looked_at(at_letta: Letta) -> None:
    for number in range(MAX_CANDIDATE_COUNT + 3):
        at_letta.talk(proxy(), transcript("hi"), f"Hello {number:02}!")
    at_letta.talk(proxy(), transcript("hi", "Hello 00!", "and?"))
    assert kinds(at_letta.commands).count("FetchLast") == MAX_CANDIDATE_COUNT


def test_two_keys_never_share_a_conversation(at_letta: Letta) -> None:
    served = proxy()
    alice, bob = Caller(name="alice"), Caller(name="bob")
    first = at_letta.talk(served, transcript("hi"), caller=alice)
    said = transcript("hi", "Hello!", "and now?")
    for process in (served, proxy()):
        assert at_letta.talk(process, said, caller=bob) != first
    assert at_letta.talk(proxy(), said, caller=alice) == first


def test_the_own_thread_can_be_asked_for() -> None:
    said = transcript("hi")
    for headers in ({"x-letta-conversation-id": "default"}, {"x-letta-policy-threads": "agent"}):
        request = HttpRequest(
            method="POST",
            target="/v1/chat/completions",
            body=orjson.dumps({"model": "Milo", "messages": said}),
            headers=tuple(headers.items()),
        )
        client = Client(request, proxy())
        [command] = client.commands
        assert isinstance(command, OpenStream)
        assert command.thread == AgentThread(agent_id=AGENT_ID)


def test_a_conversation_that_was_deleted_begins_anew_with_the_history(at_letta: Letta) -> None:
    served = proxy()
    at_letta.talk(served, transcript("hi"))
    body = orjson.dumps({"model": "Milo", "messages": transcript("hi", "Hello!", "and now?")})
    request = HttpRequest(method="POST", target="/v1/chat/completions", body=body, headers=())
    client = Client(request, served, token="token00099")
    client.answer({"detail": "not found"}, 404).answer([])
    assert kinds(client.commands) == ["OpenStream", "FindConversations", "CreateConversation"]
    client.answer({"id": "conv-9", "agent_id": AGENT_ID, "summary": "x"})
    opened = client.commands[-1]
    assert isinstance(opened, OpenStream)
    sent = [item.content for item in opened.request.messages if isinstance(item, letta.MessageCreate)]
    assert sent == ["hi", "Hello!", "and now?"]
