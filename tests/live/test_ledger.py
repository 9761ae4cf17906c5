"""What an agent has heard of clients that stop, drop, repeat and rewrite: each message once, in order.

Each test sends what a program sends, and compares the agent's thread at Letta with what was said. Between two
requests nothing happens, or the proxy is killed and another one started, or the next one reaches a replica.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from attrs import define
from openai import APIError

from live.asking import GET_WEATHER, Message, attempt, fetch, sync_client, user
from live.embedded import embedding
from live.letta_api import Agent, LettaApi
from live.proxy import Proxy, serving
from live.rig import Rig
from live.test_replicas import kill, mortal
from live.test_tools import quoted_results
from sansio_letta import Config

LONG: Final = "slow 0.2\nwords 60"
BROKEN: Final = "slow 0.05\nwords 6\nbreak"
CALLING: Final = 'call get_weather {"city": "Rome"}'
EMPTY: Final = ("", "\n", None)

Thread = list[tuple[str, str]]


def assistant(text: str | None) -> Message:
    return {"role": "assistant", "content": text}


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def developer(text: str) -> Message:
    return {"role": "developer", "content": text}


def call(ident: str) -> Message:
    function = {"name": "get_weather", "arguments": '{"city": "Rome"}'}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": ident, "type": "function", "function": function}],
    }


def result(ident: str, text: str) -> Message:
    return {"role": "tool", "tool_call_id": ident, "content": text}


@define(kw_only=True)
class Program:
    """A program that sends its whole transcript each time.

    :param address: returns the base URL for the next request.
    """

    letta: LettaApi
    agent: Agent
    address: Callable[[], str]
    headers: dict[str, str]
    input: str | None = None  #: what the last answer's header said of its input
    ignored: str | None = None

    def ask(self, *messages: Message, key: str = "first", headers: dict[str, str] | None = None) -> Any:
        """Return the whole answer to a transcript."""
        with sync_client(self.address()) as client:
            create: Callable[..., Any] = client.with_options(
                api_key=key
            ).chat.completions.with_raw_response.create
            extra = {**self.headers, **(headers or {})}
            raw = create(model=self.agent.name, messages=messages, tools=[GET_WEATHER], extra_headers=extra)
        self.input = raw.headers.get("x-letta-input")
        self.ignored = raw.headers.get("x-ignored-parameters")
        return raw.parse().choices[0].message

    def say(self, *messages: Message) -> str:
        """Return the text of the answer to a transcript."""
        text = self.ask(*messages).content
        assert isinstance(text, str)
        return text

    def stop(self, *messages: Message, behind: str = "w2", waits: bool = True) -> str:
        """Leave when this has come of an answer; return what has come until then.

        :param waits: until the run counts as ended.
        """
        text = ""
        with sync_client(self.address()) as client:
            create: Callable[..., Any] = client.chat.completions.create
            with create(
                model=self.agent.name, messages=messages, stream=True, extra_headers=self.headers
            ) as stream:
                for chunk in stream:
                    text += chunk.choices[0].delta.content or ""
                    if behind in text:
                        break
        if waits:
            self.letta.ended_runs(self.agent, timeout=8.0)
        return text

    def lose(self, *messages: Message) -> str:
        """Read an answer that breaks off with an error; return what has come of it."""
        answer = attempt(self.address(), "sync-stream", self.agent.name, messages, extra_headers=self.headers)
        assert isinstance(answer.error, APIError)
        self.letta.ended_runs(self.agent, timeout=8.0)
        return answer.text

    def thread(self) -> Thread:
        """What the agent's thread holds: of the one chat, if the program names it."""
        if not self.headers:
            return self.letta.thread(self.agent)
        (conversation,) = self.letta.conversations(self.agent)
        return self.letta.thread(self.agent, conversation)


@pytest.fixture(scope="module")
def replica(rig: Rig) -> Iterator[Proxy]:
    """A second proxy, which shares nothing with the first but Letta."""
    with serving(rig.url) as replica:
        yield replica


@contextlib.contextmanager
def restarting(rig: Rig) -> Iterator[Callable[[], str]]:
    """A proxy that is killed and started anew before each request."""
    with contextlib.ExitStack() as stack:
        running: list[Proxy] = []

        def restart() -> str:
            if running:
                kill(running.pop())
            running.append(stack.enter_context(mortal(rig)))
            return running[0].base_url

        yield restart


@pytest.fixture(params=["same", "restarted", "replicas"])
def address(
    request: pytest.FixtureRequest, rig: Rig, proxy: Proxy, replica: Proxy
) -> Iterator[Callable[[], str]]:
    """Where the next request goes."""
    match request.param:
        case "same":
            yield lambda: proxy.base_url
        case "restarted":
            with restarting(rig) as restart:
                yield restart
        case "replicas":
            urls = itertools.cycle([proxy.base_url, replica.base_url])
            yield lambda: next(urls)


@pytest.fixture
def program(letta: LettaApi, agent: Agent, address: Callable[[], str]) -> Program:
    """A program that names no chat."""
    return Program(letta=letta, agent=agent, address=address, headers={})


@pytest.fixture(params=["own thread", "chat"])
def any_program(request: pytest.FixtureRequest, program: Program) -> Program:
    """The same, and one that names its chat."""
    if request.param == "chat":
        program.headers = {"X-Letta-Chat-Key": "alice"}
    return program


# --- Answers that do not come to their end


def test_a_stopped_answer(any_program: Program) -> None:
    program = any_program
    part = program.stop(user(LONG))
    assert part.startswith("w0 w1 w2")
    assert program.thread() == []
    history = [user(LONG), assistant(part), user("say Two.")]
    assert program.say(*history) == "Two."
    heard = [("user", LONG), ("assistant", part), ("user", "say Two."), ("assistant", "Two.")]
    assert program.thread() == heard

    history += [assistant("Two."), user(f"{LONG}\nheard")]
    part = program.stop(*history)
    assert program.thread() == heard
    history += [assistant(part), user("say Three.")]
    assert program.say(*history) == "Three."
    heard += [("user", f"{LONG}\nheard"), ("assistant", part), ("user", "say Three."), ("assistant", "Three.")]
    assert program.thread() == heard


def test_two_stopped_answers_in_a_row(program: Program) -> None:
    history = [user(LONG)]
    first = program.stop(*history)
    history += [assistant(first), user(f"{LONG}\nheard")]
    second = program.stop(*history)
    assert program.thread() == []
    history += [assistant(second), user("say Done.")]
    assert program.say(*history) == "Done."
    assert program.thread() == [
        ("user", LONG),
        ("assistant", first),
        ("user", f"{LONG}\nheard"),
        ("assistant", second),
        ("user", "say Done."),
        ("assistant", "Done."),
    ]


def test_an_answer_that_broke_off(any_program: Program) -> None:
    """The same after an error in the first step; in a chat from its second turn on, too."""
    program = any_program
    part = program.lose(user(BROKEN))
    assert part.startswith("w0 w1")
    history = [user(BROKEN), assistant(part), user("say Two.")]
    assert program.say(*history) == "Two."
    heard = [("user", BROKEN), ("assistant", part), ("user", "say Two."), ("assistant", "Two.")]
    assert program.thread() == heard

    history += [assistant("Two."), user(f"say Again.\n{BROKEN}")]
    part = program.lose(*history)
    history += [assistant(part), user("say Three.")]
    assert program.say(*history) == "Three."
    heard += [("user", f"say Again.\n{BROKEN}"), ("assistant", part), ("user", "say Three.")]
    assert program.thread() == [*heard, ("assistant", "Three.")]


def test_a_stop_behind_the_last_word(letta: LettaApi, agent: Agent, url: str) -> None:
    """The reason why it ended has not come; then the same request comes again.

    Another process takes it for the first message of a new chat, which may well be equal.
    """
    program = Program(letta=letta, agent=agent, address=lambda: url, headers={})
    said = "slow 0.4\nwords 6"
    whole = "w0 w1 w2 w3 w4 w5"
    assert program.stop(user(said), behind="w5") == whole
    letta.wait_until_kept(agent)
    assert program.say(user(said)) == whole
    assert program.thread() == [("user", said), ("assistant", whole)]
    assert program.say(user(said), assistant(whole), user("say Two.")) == "Two."
    assert program.thread()[2:] == [("user", "say Two."), ("assistant", "Two.")]


def test_a_stop_behind_the_last_word_then_a_new_message(program: Program) -> None:
    said = "slow 0.4\nwords 6"
    whole = program.stop(user(said), behind="w5")
    program.letta.wait_until_kept(program.agent)
    assert program.say(user(said), assistant(whole), user("say Two.")) == "Two."
    assert program.thread() == [
        ("user", said),
        ("assistant", whole),
        ("user", "say Two."),
        ("assistant", "Two."),
    ]


@pytest.mark.parametrize("goes_on", [True, False], ids=["a new message", "the same again"])
def test_what_comes_right_after_a_stop_behind_the_last_word(
    letta: LettaApi, agent: Agent, url: str, goes_on: bool
) -> None:
    """Letta has not kept the step yet, though its run counts as cancelled: nothing of it is heard twice."""
    program = Program(letta=letta, agent=agent, address=lambda: url, headers={})
    said = "slow 0.2\nwords 6"
    whole = program.stop(user(said), behind="w5", waits=False)
    heard = [("user", said), ("assistant", whole)]
    if goes_on:
        assert program.say(user(said), assistant(whole), user("say Two.")) == "Two."
        heard += [("user", "say Two."), ("assistant", "Two.")]
    else:
        assert program.say(user(said)) == whole
    assert program.thread() == heard


@pytest.mark.parametrize("left", EMPTY, ids=["empty", "line break", "null"])
def test_an_empty_answer_is_absent(program: Program, left: str | None) -> None:
    program.stop(user(LONG))
    assert program.say(user(LONG), assistant(left), user("say Two.")) == "Two."
    heard = [("user", LONG), ("user", "say Two."), ("assistant", "Two.")]
    assert program.thread() == heard
    history = [user(LONG), assistant(left), user("say Two."), assistant("Two."), user("say Three.")]
    assert program.say(*history, assistant(left)) == "Three."
    assert program.thread() == [*heard, ("user", "say Three."), ("assistant", "Three.")]


# --- What programs leave out


def test_answers_that_are_left_out(program: Program) -> None:
    history: list[Message] = []
    heard: Thread = []
    for text in ("One.", "Two.", "Two.", "Three."):
        history.append(user(f"say {text}"))
        assert program.say(*history) == text
        heard += [("user", f"say {text}"), ("assistant", text)]
    assert program.thread() == heard


def test_a_call_that_is_left_out_until_it_has_its_result(program: Program) -> None:
    """LiveKit does so when the user goes on talking meanwhile."""
    (made,) = program.ask(user(CALLING)).tool_calls
    assert program.say(user(CALLING), user("say Going on.")) == "Going on."
    history = [user(CALLING), user("say Going on."), assistant("Going on."), call(made.id)]
    answer = program.say(*history, result(made.id, "18 C"))
    heard = program.thread()
    assert [text for _, text in heard].count(CALLING) == 1
    assert [text for _, text in heard].count("say Going on.") == 1
    assert sum("18 C" in text for role, text in heard if role in ("system", "result")) == 1
    history += [result(made.id, "18 C"), assistant(answer), user("say Goodbye.")]
    assert program.say(*history) == "Goodbye."
    assert program.thread() == [*heard, ("user", "say Goodbye."), ("assistant", "Goodbye.")]


def test_a_compaction(program: Program) -> None:
    """Codex and others go on with the user's messages and a summary, and without any answers."""
    program.say(user("say One."))
    program.say(user("say One."), assistant("One."), user("say Two."))
    summary = "Another language model started to solve this problem: it said One and Two."
    history = [user("say One."), user("say Two."), user(summary), user("say Three.")]
    assert program.say(*history) == "Three."
    heard = [("user", "say One."), ("assistant", "One."), ("user", "say Two."), ("assistant", "Two.")]
    heard += [("user", summary), ("user", "say Three."), ("assistant", "Three.")]
    assert program.thread() == heard
    assert program.say(*history, assistant("Three."), user("say Four.")) == "Four."
    assert program.thread() == [*heard, ("user", "say Four."), ("assistant", "Four.")]


# --- Calls and their results


def late_in(thread: Thread) -> list[str]:
    """What was told of results that came late."""
    return [text for role, text in thread if role == "system"]


def test_a_late_result_of_the_same_program(program: Program) -> None:
    (made,) = program.ask(user(CALLING)).tool_calls
    history = [user(CALLING), call(made.id), user("say Going on.")]
    assert program.say(*history) == "Going on."
    history = [user(CALLING), call(made.id), result(made.id, "18 C"), user("say Going on.")]
    history += [assistant("Going on."), user("say And now.")]
    assert program.say(*history) == "And now."
    thread = program.thread()
    assert [text for role, text in thread if role == "user"] == [CALLING, "say Going on.", "say And now."]
    (late,) = late_in(thread)
    assert "get_weather" in late
    assert "18 C" in late
    assert program.say(*history, assistant("And now."), user("say Bye.")) == "Bye."
    assert program.thread() == [*thread, ("user", "say Bye."), ("assistant", "Bye.")]


def test_anothers_message_waits_for_a_result(rig: Rig, letta: LettaApi, agent: Agent) -> None:
    """In one process: what another one waits for is not known."""
    with embedding(rig.url, Config(pending_call_timeout=60.0)) as embedded, ThreadPoolExecutor(1) as pool:
        program = Program(letta=letta, agent=agent, address=lambda: embedded.base_url, headers={})
        (made,) = program.ask(user(CALLING)).tool_calls
        other = pool.submit(program.ask, user("say Me, too."), key="second")
        with pytest.raises(TimeoutError):
            other.result(2.0)
        answer = program.say(user(CALLING), call(made.id), result(made.id, "18 C"))
        assert quoted_results(answer) == ["18 C"]
        assert other.result(20.0).content == "Me, too."
    assert [entry for entry in program.thread() if entry[0] == "user"] == [
        ("user", CALLING),
        ("user", "say Me, too."),
    ]
    assert late_in(program.thread()) == []


def test_a_result_that_comes_after_anothers_message(rig: Rig, letta: LettaApi, agent: Agent) -> None:
    with embedding(rig.url, Config(pending_call_timeout=1.0)) as embedded:
        program = Program(letta=letta, agent=agent, address=lambda: embedded.base_url, headers={})
        (made,) = program.ask(user(CALLING)).tool_calls
        assert program.ask(user("say Me, too."), key="second").content == "Me, too."
        history = [user(CALLING), call(made.id), result(made.id, "18 C")]
        answer = program.say(*history)
        assert program.ignored is not None
        (late,) = late_in(program.thread())
        assert "18 C" in late
        assert program.say(*history, assistant(answer), user("say Bye.")) == "Bye."
        thread = program.thread()
    assert [text for role, text in thread if role == "user"] == [CALLING, "say Me, too.", "say Bye."]
    assert late_in(thread) == [late]


def test_results_under_ids_of_the_programs_own(program: Program) -> None:
    """Open Interpreter numbers calls itself."""
    program.ask(user(CALLING))
    history = [user(CALLING), call("toolu_1"), result("toolu_1", "18 C")]
    answer = program.say(*history)
    assert quoted_results(answer) == ["18 C"]
    assert program.say(*history, assistant(answer), user("say Bye.")) == "Bye."
    kinds = [role for role, _ in program.thread()]
    assert kinds == ["user", "call", "result", "assistant", "user", "assistant"]


def test_results_of_calls_that_another_model_made(program: Program) -> None:
    """A gateway may fall back on another model between a call and its result."""
    history = [user("say Hello."), call("call_of_another"), result("call_of_another", "18 C")]
    answer = program.say(*history)
    thread = program.thread()
    assert [text for role, text in thread if role == "user"] == ["say Hello."]
    (told,) = late_in(thread)
    assert "18 C" in told
    assert program.say(*history, assistant(answer), user("say Bye.")) == "Bye."
    assert program.thread() == [*thread, ("user", "say Bye."), ("assistant", "Bye.")]


# --- Instructions and greetings


def test_a_greeting_that_the_agent_is_asked_for(program: Program) -> None:
    """Pipecat's quickstart: nothing but instructions; later a nudge, and a result in a system message."""
    greeting = program.say(system("Greet the user."))
    assert program.thread() == [("system", "Greet the user."), ("assistant", greeting)]
    history = [system("Greet the user."), assistant(greeting), user("say Hi.")]
    assert program.say(*history) == "Hi."
    history += [assistant("Hi."), developer("The user is silent.")]
    nudge = program.say(*history)
    history += [assistant(nudge), system("Ran: 42"), user("say Bye.")]
    assert program.say(*history) == "Bye."
    assert program.thread() == [
        ("system", "Greet the user."),
        ("assistant", greeting),
        ("user", "say Hi."),
        ("assistant", "Hi."),
        ("system", "The user is silent."),
        ("assistant", nudge),
        ("system", "Ran: 42"),
        ("user", "say Bye."),
        ("assistant", "Bye."),
    ]


def test_a_greeting_of_the_programs_own(any_program: Program) -> None:
    program = any_program
    history = [system("Be kind."), assistant("Welcome! Who are you?"), user("say Sam.")]
    assert program.say(*history) == "Sam."
    assert program.say(*history, assistant("Sam."), user("say Again.")) == "Again."
    heard = [("system", "Be kind."), ("assistant", "Welcome! Who are you?"), ("user", "say Sam.")]
    heard += [("assistant", "Sam."), ("user", "say Again."), ("assistant", "Again.")]
    assert program.thread() == heard


# --- Repeats


def test_a_retry_is_answered_from_the_thread(program: Program) -> None:
    """The first answer was lost on its way."""
    assert program.say(user("say One.")) == "One."
    retry = {"x-stainless-retry-count": "1"}
    history = [user("say One."), assistant("One."), user("say Two.\nheard")]
    assert program.ask(*history).content == "Two.\nheard 1 times"
    assert program.ask(*history, headers=retry).content == "Two.\nheard 1 times"
    assert program.input is None
    assert [text for role, text in program.thread() if role == "user"] == ["say One.", "say Two.\nheard"]


def test_a_regeneration_and_an_edit(program: Program, request: pytest.FixtureRequest) -> None:
    """What the agent has heard it cannot forget: it is said once more, and the answer's header says so.

    A replica that remembers the thread as it was before does not know.
    """
    program.say(user("say One."))
    history = [user("say One."), assistant("One.")]
    assert program.say(*history, user("heard")) == "heard 1 times"
    assert program.say(*history, user("heard")) == "heard 2 times"
    inputs = [program.input]
    assert program.say(*history, user("say Edited.")) == "Edited."
    inputs.append(program.input)
    if request.node.callspec.params["address"] != "replicas":
        assert inputs == ["repeated", "edited"]
    assert [text for role, text in program.thread() if role == "user"] == [
        "say One.",
        "heard",
        "heard",
        "say Edited.",
    ]


def test_a_history_that_was_trimmed(program: Program) -> None:
    texts = [f"say {number}." for number in range(4)]
    history: list[Message] = []
    for text in texts:
        history.append(user(text))
        history.append(assistant(program.say(*history[-3:])))
    assert [text for role, text in program.thread() if role == "user"] == texts


@pytest.mark.parametrize("named", ["default", "agent"])
def test_the_own_thread_by_name(letta: LettaApi, agent: Agent, url: str, named: str) -> None:
    headers = {"X-Letta-Conversation-Id": agent.id if named == "agent" else named}
    body = {"model": agent.name, "messages": [user("say One.")]}
    answer = fetch(url, "POST", "/chat/completions", body, headers=headers)
    assert answer.status == 200, answer.body
    assert letta.thread(agent) == [("user", "say One."), ("assistant", "One.")]
    assert letta.conversations(agent) == []
