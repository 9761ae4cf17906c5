"""Two replicas of the proxy in front of a real Letta, as the histories of `tests/ledger` play them.

What the agent says is in the first word of a user message there. The scripted model needs it spelled out, so
each message goes out with its script behind the first line, and is read from the thread without it.

Other than in front of the core, where a client stops an answer decides what Letta keeps of it: nothing as long
as more than half a second is missing, its step behind the last word. A model that fails does so each time that
it is asked the same. How often the thread is listed is not counted.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from http.client import HTTPConnection
from typing import Any, Final
from urllib.parse import urlsplit

from attrs import define, field

from ledger.core import WHOLE, Ending, How, Reply
from ledger.letta import Thread
from live.embedded import embedding
from live.letta_api import Agent, Item, LettaApi
from sansio_letta import Config

#: Its pieces come so slowly that one may stop in their midst, and be sure that the step has not ended.
PACE: Final = "slow 0.1"
END: Final = " goes on and on and on"
#: The number of the item before which an answer is whole, but for one word.
LAST_WORD: Final = 3
TIMEOUT: Final = 60.0  # seconds
INPUTS: Final = ("user_message", "system_message", "approval_response_message")
SAID: Final = ("user_message", "system_message", "assistant_message")
SCRIPT: Final = re.compile(r"\n.*", re.DOTALL)


@define(eq=False)
class LiveSide:
    """Two replicas in front of one agent."""

    letta: LettaApi
    agent: Agent
    config: Config
    _replicas: list["Replica"] = field(factory=list, init=False)
    _failing: set[str] = field(factory=set, init=False)  #: messages at which the model fails
    _threads: dict[str | None, Thread] = field(factory=dict, init=False)  #: as they were after the last request

    @contextlib.contextmanager
    def serving(self) -> Iterator["LiveSide"]:
        """Run both inside the block."""
        with ExitStack() as stack:
            self._replicas = [stack.enter_context(Replica(self.letta.url, self.config)) for _ in range(2)]
            yield self

    def restart(self, replica: int) -> None:
        """A process ends, and another one begins in its place."""
        self._replicas[replica].restart()

    def ask(
        self, body: Mapping[str, Any], headers: Mapping[str, str], *, replica: int = 0, ending: Ending = WHOLE
    ) -> Reply:
        """One request, until it is settled."""
        assert ending.how is not How.LOST, "no relay is between the proxy and Letta"
        if ending.how is How.FAILED:
            self._failing.add(body["messages"][-1]["content"])
        messages = [
            {**message, "content": self._scripted(message["content"])} if message["role"] == "user" else message
            for message in body["messages"]
        ]
        reply = Reply()
        sent = json.dumps({**body, "model": self.agent.name, "messages": messages}).encode()
        address = urlsplit(self._replicas[replica].base_url)
        assert address.hostname is not None
        with contextlib.closing(HTTPConnection(address.hostname, address.port, timeout=TIMEOUT)) as connection:
            own = {"content-type": "application/json", **headers}
            connection.request("POST", f"{address.path}/chat/completions", body=sent, headers=own)
            response = connection.getresponse()
            reply.status = response.status
            reply.headers = {name.lower(): value for name, value in response.getheaders()}
            read, shown = b"", Reply(status=reply.status)
            for line in response:
                read += line
                if ending.how is How.STOPPED and reply.status == 200:
                    shown.read(line.rstrip())
                    if _is_time(ending, shown.text):
                        break
            reply.read(read)
        self._threads.clear()
        return reply

    def thread(self, key: str | None) -> Thread:
        """What the agent has heard, in a chat or in its own thread."""
        if key not in self._threads:
            self._threads[key] = Thread(messages=self._listed(key))
        return self._threads[key]

    def check_settled(self) -> None:
        """Nothing goes on behind the last answer."""
        self.letta.ended_runs(self.agent, timeout=8.0)

    def _scripted(self, text: str) -> str:
        word, _, number = text.partition(" ")
        # Equal messages have different answers, as long as the model sees them all.
        answer = [PACE, "heard", f"say {END}"] if word == "yes" else [PACE, f"say answer {number}{END}"]
        if text in self._failing:
            answer.append("break")
        match word:
            case "call":
                script = [*answer, "call get_weather", "then", PACE, f"say result {number}{END}"]
            case "calls":
                script = [*answer, *["call get_weather"] * 2, "then", PACE, f"say result {number}{END}"]
            case "work":
                note = json.dumps({"label": "human", "new_string": f"note {number}"})
                script = [f"call memory_insert {note}", "then", *answer]
            case _:
                script = answer
        return "\n".join([text, *script])

    def _listed(self, key: str | None) -> list[Item]:
        if key is None:
            return list(_marked(self.letta.messages(self.agent)))
        quoted, chats = f'"{key}"', self.letta.chats(self.agent).items()
        found = [ident for summary, ident in chats if quoted in summary]
        return list(_marked(self.letta.messages(self.agent, found[0]))) if found else []


def _is_time(ending: Ending, text: str) -> bool:
    """Whether to stop: the run's stream begins with its name, which the client does not see."""
    return text.endswith(END) if ending.at > LAST_WORD else text.count(" ") >= ending.at - 1


@define(eq=False)
class Replica:
    """One process of the proxy, as far as its memory goes."""

    letta_url: str
    config: Config
    base_url: str = ""
    _stack: ExitStack = field(factory=ExitStack, init=False)

    def __enter__(self) -> "Replica":
        self.base_url = self._stack.enter_context(embedding(self.letta_url, self.config)).base_url
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def restart(self) -> None:
        """End it, and begin another one."""
        self._stack.close()
        self.__enter__()


def _marked(messages: Sequence[Item]) -> Iterator[Item]:
    """Messages of a thread without their scripts; input is marked as such."""
    last: dict[str | None, int] = {}
    for place, message in enumerate(messages):
        if message["message_type"] in INPUTS:
            last[message.get("run_id")] = place
    for place, message in enumerate(messages):
        told = dict(message)
        if message["message_type"] in SAID:
            told["is_input"] = place <= last.get(message.get("run_id"), -1)
        if message["message_type"] == "user_message":
            told["content"] = SCRIPT.sub("", message["content"])
        yield told
