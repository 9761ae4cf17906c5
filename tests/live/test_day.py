"""A day's traffic in a minute: everything that clients do, while connections break, and what Letta stores."""

import contextlib
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from attrs import define, field
from openai import APIError, APITimeoutError

from live.asking import (
    FORMS,
    READ_FILE,
    TOOLS,
    WHOLE,
    Answer,
    Form,
    Message,
    attempt,
    result,
    sync_client,
    user,
)
from live.conftest import MakeAgent
from live.letta_api import Agent, LettaApi
from live.proxy import serving
from live.relay import Cut, Relay, relaying
from live.rig import Rig, free_port
from live.test_legacy import name_of
from live.test_tools import quoted_results
from sansio_letta.upstreams.rest.run_request import RESULT_PREFACE
from sansio_letta.upstreams.thread_names import chat_summary

DAY: Final = 60.0  # seconds until nobody asks any more
SEED: Final = 20_261_122
CUT_INTERVAL: Final = 0.8  # seconds between two connections that break
#: What Letta says to a legacy agent in the user's place: that somebody has come, and to go on.
LETTAS_OWN: Final = '{\n  "type": "'
#: Behind each of these the run has a name, so that nobody should notice.
CUTS: Final = (
    b"}\n\n",
    b'"message_type":"assistant_message"',
    b'"content":"two ',
    b'"name":"',
    b'"stop_reason"',
)


@define(kw_only=True)
class Person:
    """Somebody who talks to one agent, alone or beside others, in the agent's own thread or in a chat."""

    url: str
    agent: Agent
    name: str
    chat: str | None = None  #: the key of their chat
    has_tools: bool  #: calls are safe from others' messages, which would deny them
    legacy: bool = False  #: the agent gets tools by attaching them, under other names, and has no conversations
    chance: random.Random
    heard: list[str] = field(factory=list)  #: texts that the agent must have heard once
    unsure: list[str] = field(factory=list)  #: those that it may have heard, once at most
    done: Counter[str] = field(factory=Counter)
    _numbers: Iterator[int] = field(factory=lambda: itertools.count(1))

    def live(self, until: float) -> None:
        """Do one thing after another."""
        ways: list[Callable[[], None]] = [
            self.talk,
            self.talk,
            self.leave,
            self.give_up,
            self.repeat,
            self.fail,
        ]
        if not self.legacy:
            ways.append(self.name_chat)
        if self.has_tools:
            ways += [self.call, self.call]
        while time.monotonic() < until:
            way = self.chance.choice(ways)
            way()
            self.done[way.__name__] += 1

    def talk(self) -> None:
        """Say something, and hear the answer."""
        said = self._line()
        script = f"think Hm.\nsay {said}\nsay one two three four."
        answer = self.ask(script)
        assert answer.text == f"{said}\none two three four."
        assert (answer.reasoning, answer.finish_reason) == ("Hm.", "stop")
        self.heard.append(script)

    def call(self) -> None:
        """Have the agent call a tool, and give it the result."""
        form, arguments = self._form(), f'{{"path": "{self._line()}"}}'
        script = f"call {name_of(READ_FILE) if self.legacy else 'read_file'} {arguments}"
        asked = self.ask(script, form, tools=TOOLS)
        [call] = asked.calls
        assert (call.name, call.arguments) == ("read_file", arguments)
        self.heard.append(script)
        # The next message denies it. To a legacy agent that is a request of its own, and must not be lost.
        if self.chance.random() < 0.2 and not self.legacy:
            return
        said = self._line()
        history: list[Message] = [user(script), asked.message, result(call, said)]
        answer = self.ask(history, form, tools=TOOLS)
        [told] = quoted_results(answer.text)
        assert told.endswith(f"{RESULT_PREFACE}{said}" if self.legacy else said)

    def leave(self) -> None:
        """Go away in the middle of a stream."""
        script = f"slow 0.1\nsay {self._line()}\nwords 60"
        self.unsure.append(script)
        with sync_client(self.url, max_retries=2) as client:
            stream = client.chat.completions.create(
                model=self.agent.name,
                messages=[{"role": "user", "content": script}],
                stream=True,
                extra_headers=self._headers,
            )
            with stream:
                for _ in range(self.chance.randint(1, 4)):
                    next(stream, None)  # after a cut all the rest comes in one piece, and may be over already

    def give_up(self) -> None:
        """Wait for less time than the answer takes, and ask again, as the SDK does."""
        said = self._line()
        script = f"wait 1.5\nsay {said}"
        self.unsure.append(script)
        answer = self.attempt(script, timeout=1.0)
        if answer.error is None:
            assert answer.text == said
        else:
            assert isinstance(answer.error, APITimeoutError)

    def repeat(self) -> None:
        """Ask the same twice at once, the second time as a repeat."""
        said, form = self._line(), self._form()
        script = f"slow 0.1\nsay {said} and so on and on."
        with ThreadPoolExecutor() as pool:
            asked = [
                pool.submit(self.ask, script, form, max_retries=0, headers={"x-stainless-retry-count": count})
                for count in ("0", "1")
            ]
            answers = [each.result() for each in asked]
        assert [answer.text for answer in answers] == [f"{said} and so on and on."] * 2
        self.heard.append(script)

    def fail(self) -> None:
        """Have the model fail in the second step: the message was kept, and nobody may repeat it."""
        script = f'say {self._line()}\ncall memory_insert {{"label": "human", "new_string": "fail 500"}}'
        answer = self.attempt(script)
        assert isinstance(answer.error, APIError)
        assert answer.error.type == "upstream_error"
        self.heard.append(script)

    def name_chat(self) -> None:
        """Have a chat program ask for a title: the agent is to know nothing of it."""
        said = self._line()
        assert self.ask(f"### Task:\nFind a title.\ntask {said}", self.chance.choice(WHOLE)).text == said

    def ask(self, messages: str | Sequence[Message], form: Form | None = None, **fields: Any) -> Answer:
        """Ask in their thread, and expect an answer."""
        answer = self.attempt(messages, form, **fields)
        if answer.error is not None:
            raise answer.error
        return answer

    def attempt(
        self,
        messages: str | Sequence[Message],
        form: Form | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> Answer:
        """The same; an error becomes part of the answer."""
        return attempt(
            self.url,
            form or self._form(),
            self.agent.name,
            messages,
            extra_headers={**self._headers, **(headers or {})},
            **{"max_retries": 2, **fields},
        )

    @property
    def _headers(self) -> dict[str, str]:
        return {} if self.chat is None else {"X-Letta-Chat-Key": self.chat}

    def _line(self) -> str:
        return f"{self.name} {next(self._numbers)}"

    def _form(self) -> Form:
        return self.chance.choice(FORMS)


def test_a_day(rig: Rig, letta: LettaApi, make_agent: MakeAgent) -> None:
    chance = random.Random(SEED)
    tools_before = letta.tool_names()
    with relaying(rig.url, free_port()) as relay:
        relay.open()
        with serving(relay.url) as proxy:

            def live(agent: Agent, name: str, *, has_tools: bool, **more: Any) -> Person:
                own = random.Random(chance.random())
                return Person(
                    url=proxy.base_url, agent=agent, name=name, has_tools=has_tools, chance=own, **more
                )

            people = []
            for number, count in enumerate((1, 1, 3)):
                agent = make_agent(f"day-{number}")
                people += [live(agent, f"p{number}{each}", has_tools=count == 1) for each in range(count)]
            chatty = make_agent("day-chats")
            people += [live(chatty, f"c{each}", has_tools=True, chat=f"chat {each}") for each in range(2)]
            old = make_agent("day-legacy", agent_type="memgpt_v2_agent")
            equipment = letta.equipment(old)
            people.append(live(old, "l", has_tools=True, legacy=True))
            with breaking(relay, chance) as cut_count, ThreadPoolExecutor(len(people)) as pool:
                end = time.monotonic() + DAY
                for each in [pool.submit(person.live, end) for person in people]:
                    each.result()
            report = Counter[str]()
            for person in people:
                report += person.done
            print(f"day: {dict(report)}, {cut_count()} connections cut")
            for agent in {person.agent.id: person.agent for person in people}.values():
                check_agent(letta, agent, [each for each in people if each.agent is agent])
            assert letta.equipment(old) == equipment
        # The proxy has kept those of its clients until it ended.
        assert set(letta.tool_names()) <= set(tools_before)
        logged = [json.loads(line) for line in proxy.lines if line.startswith("{")]
    assert [line for line in logged if line["level"] == "error"] == []
    assert report.total() > len(people) * 5
    assert cut_count() > 10
    assert sum(line.get("resume_count", 0) for line in logged) > 5
    assert {"joined", "answered"} & {line.get("repeat") for line in logged}


def check_agent(letta: LettaApi, agent: Agent, people: list[Person]) -> None:
    """Make sure that nothing goes on or was left behind, that the agent answers, and heard everything once."""
    letta.ended_runs(agent)
    chats = letta.chats(agent)
    if people[0].chat is None:
        assert chats == {}
        check_thread(letta, agent, None, people)
    else:
        assert chats.keys() == {chat_summary(person.chat or "") for person in people}
        for person in people:
            check_thread(letta, agent, chats[chat_summary(person.chat or "")], [person])


def check_thread(letta: LettaApi, agent: Agent, conversation: str | None, people: list[Person]) -> None:
    """Make sure that a thread reads as what the people said in it, and nothing else."""
    night = "say Good night."
    assert people[0].ask(night).text == "Good night."
    assert letta.pending_call_ids(agent, conversation) == []
    texts = letta.user_texts(agent, conversation)
    said = Counter(text for text in texts if not text.startswith(LETTAS_OWN))
    assert {text: count for text, count in said.items() if count > 1} == {}
    heard = {text for person in people for text in person.heard}
    unsure = {text for person in people for text in person.unsure}
    assert heard - set(said) == set()
    assert set(said) - heard - unsure == {night}


@contextlib.contextmanager
def breaking(relay: Relay, chance: random.Random) -> Iterator[Callable[[], int]]:
    """Have a connection break now and then; gives how many have so far."""
    over, counts = threading.Event(), [0]

    def run() -> None:
        while not over.wait(CUT_INTERVAL):
            counts[0] += relay.cut_count
            relay.cut_next(Cut(after=chance.choice(CUTS), reset=chance.random() < 0.5))
        counts[0] += relay.cut_count
        relay.cut = None

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield lambda: counts[0]
    finally:
        over.set()
        thread.join()
