"""Histories of clients, and what the agent must have heard after each of their requests.

A history is a list of steps, each of one client, answered by one of two replicas of the proxy. `World` plays it
and checks, as soon as a request is settled:

- A request with nothing wrong on its way gets a whole answer: the agent is never stuck.
- Each user message that the transcript shows is in the thread, in order, and as often as it was typed. Where no
  reply can be replaced, a message is there once more for each time that the client has asked for another answer
  to it; the response says so (``x-letta-input: repeated``).
- An answer that was cut short and lost is told once, as the client shows it, and one that was kept never; a
  greeting of the client's own is told once.
- A result is told once, be it late; so is a system message in its place.
- No run goes on.
- The thread is looked up once for a request at most, and not at all in the ordinary case.

What nothing at Letta tells apart is allowed:

- What the client shows before its last assistant message is somebody else's history if none of it is in a
  thread that has other messages, and the process that serves it has not sent it itself (another has, or it was
  restarted). The agent does not hear it: it is `excused`.
- A message that was lost in one process and stored through another is told once more by the first if no answer
  shows that it was stored (`asked_again`); so is a system message that another process has sent beside a user
  message, and that message if the system message comes last; and all that a client has left that drops the
  beginning of its history if what comes first then says the same as the thread's first message.
- "yes" says the same as another "yes", which a client without the beginning of its history seems to continue,
  and one of whose history nothing was stored, if the process that serves it does not know that.
- A late result is not told if another process has answered in its place, and a result under an id of the
  client's own is told again, as text, if its run has failed.
- A lost answer is not told if another client has said the same before it in the same place of the same thread,
  or "yes" in any: its transcript is taken for that client's.
- Instructions in front are told again if it is not known whether they were stored.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from itertools import count, takewhile
from typing import Any, Final, Protocol, TypeAlias

from attrs import define, field, frozen

from ledger.core import WHOLE, Ending, How, Reply
from ledger.letta import Thread

Message: TypeAlias = dict[str, Any]
#: What a message says, behind the user messages that come before it.
Place: TypeAlias = tuple[tuple[str, ...], str]
TOOLS: Final = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]


class Side(Protocol):
    """What answers the clients: replicas of the proxy in front of a Letta."""

    def ask(
        self, body: Mapping[str, Any], headers: Mapping[str, str], *, replica: int = 0, ending: Ending = WHOLE
    ) -> Reply:
        """One request, until it is settled."""

    def restart(self, replica: int) -> None:
        """A process ends, and another one begins in its place."""

    def thread(self, key: str | None) -> Thread:
        """What the agent has heard, in a chat or in its own thread."""

    def check_settled(self) -> None:
        """Nothing goes on behind the last answer."""


class Do(Enum):
    """What a client does."""

    SAY = "say"
    NUDGE = "nudge"  #: a system message comes last
    RETRY = "retry"  #: the same bytes again, after an answer that was not whole
    REGENERATE = "regenerate"
    EDIT = "edit"  #: another message in the place of an earlier one, and nothing behind it
    TRIM = "trim"
    RESULTS = "results"  #: of its last calls: at once, or in their place with its next message
    FINISH = "finish"  #: a tool of its calls ran in the background: its result comes before the last answer
    INSTRUCT = "instruct"  #: other instructions in front from now on
    RESTART = "restart"  #: of a replica


class Shows(Enum):
    """What a client keeps of an answer that is not whole."""

    PART = "part"
    EMPTY = "empty"
    NOTHING = "nothing"


@frozen(kw_only=True)
class Step:
    """One step of a history.

    :param word: begins the user message: what the agent does then; ``yes`` is the whole of it.
    :param count: items to trim, or user messages to go back.
    :param is_counted: the retry says that it is one.
    """

    do: Do
    client: int = 0
    replica: int = 0
    word: str = "talk"
    ending: Ending = WHOLE
    shows: Shows = Shows.PART
    count: int = 1
    is_counted: bool = True


@frozen(kw_only=True)
class Habits:
    """How a client keeps its transcript.

    :param key: of its chat; None: it speaks in the agent's own thread.
    :param keeps_answers: otherwise it shows user messages alone.
    :param hides_calls: it shows a call once it has its result.
    :param renames_calls: results come under ids of its own.
    :param greets: its transcript begins with an answer that it wrote itself.
    :param counts: it says how often it has sent a request.
    :param sends_parts: each word of a user message is a part of its own.
    """

    key: str | None = None
    keeps_answers: bool = True
    hides_calls: bool = False
    renames_calls: bool = False
    greets: bool = False
    counts: bool = True
    sends_parts: bool = False


@define(eq=False)
class Item:
    """One item of a transcript.

    :param calls: names of tools by the ids of their calls.
    :param results: by the same ids.
    """

    role: str
    content: str
    calls: dict[str, str] = field(factory=dict)
    results: dict[str, str] = field(factory=dict)
    replica: int = 0  #: that has made it
    is_background: bool = False  #: calls of the client's own
    is_split: bool = False  #: another replica has served the client between its calls and their results
    is_lost: bool = False  #: what it answers was not kept when its request was over

    @property
    def begin(self) -> str:
        """What tells an answer from all others: the agent numbers them."""
        return " ".join([*self.content.split(" ")[:2], ""])


@define(eq=False)
class Client:
    """A client and its transcript."""

    number: int
    habits: Habits
    items: list[Item] = field(factory=list)
    instructions: str = ""
    body: Mapping[str, Any] | None = None  #: of its last request, if that had no whole answer
    kept: Item | None = None  #: what it has kept of that answer
    replica: int = 0  #: that has served it last
    is_trimmed: bool = False
    is_plain: bool = False  #: its last request had a whole answer, and it has changed nothing since

    def __attrs_post_init__(self) -> None:
        if self.habits.greets:
            self.items.append(Item("assistant", f"greeting {self.number}"))

    def shown(self) -> list[Item]:
        """What it sends."""
        habits = self.habits
        return [
            item
            for item in self.items
            if item.role != "assistant"
            or (habits.keeps_answers and (not item.calls or len(item.results) > 0 or not habits.hides_calls))
        ]

    def messages(self) -> Iterator[Message]:
        """The same in JSON."""
        if self.instructions:
            yield {"role": "system", "content": self.instructions}
        for item in self.shown():
            message: Message = {"role": item.role, "content": self._content(item)}
            if item.calls:
                message["tool_calls"] = [
                    {"id": self._id(call_id), "type": "function", "function": {"name": name, "arguments": "{}"}}
                    for call_id, name in item.calls.items()
                ]
            yield message
            for call_id, result in item.results.items():
                yield {"role": "tool", "tool_call_id": self._id(call_id), "content": result}

    def _content(self, item: Item) -> str | list[Message]:
        if item.role != "user" or not self.habits.sends_parts:
            return item.content
        return [{"type": "text", "text": word} for word in item.content.split("\n")]

    def _id(self, call_id: str) -> str:
        return f"toolu_{call_id[-4:]}" if self.habits.renames_calls else call_id

    def users(self) -> list[str]:
        """The user messages that it shows."""
        return [item.content for item in self.items if item.role == "user"]

    def places(self) -> Iterator[tuple[Place, Item]]:
        """What it shows, each in its place."""
        users: tuple[str, ...] = ()
        for item in self.shown():
            yield (users, item.content), item
            if item.role == "user":
                users = (*users, item.content)

    def in_front(self) -> list[Item]:
        """The system messages that come first, which count as instructions. Empty answers are no answers."""
        said = (item for item in self.shown() if item.role != "assistant" or _says(item))
        return list(takewhile(lambda item: item.role == "system", said))

    @property
    def open_calls(self) -> Item | None:
        """Its last calls, if they have no results."""
        called = [item for item in self.items if item.calls]
        return called[-1] if called and not called[-1].results else None

    @property
    def is_waiting(self) -> bool:
        """Whether its transcript ends with calls."""
        return bool(self.items) and self.items[-1] is self.open_calls


@define(eq=False)
class World:
    """Clients in front of an agent, and what it must have heard of them."""

    side: Side
    habits: tuple[Habits, ...]
    clients: list[Client] = field(init=False)
    typed: Counter[tuple[str | None, str]] = field(factory=Counter)  #: user messages, by thread and text
    asked_again: Counter[tuple[str | None, str]] = field(factory=Counter)
    excused: set[tuple[int, str]] = field(factory=set)  #: what a client shows and the agent need not hear
    _lost: list[set[tuple[str | None, Place]]] = field(factory=lambda: [set(), set()])
    """What was lost, by thread and place, for each process that has sent it."""
    said: defaultdict[tuple[str | None, Place], set[int]] = field(factory=lambda: defaultdict(set))
    """Numbers of the clients that have sent a message, by thread and place."""
    firsts: set[str] = field(factory=set)  #: what has come first in a transcript
    limits: int = 0  #: how often something was excused
    _attempts: list[set[Place]] = field(factory=lambda: [set(), set()])  #: what each process has sent
    _last: dict[str | None, tuple[int, bool]] = field(factory=dict)
    """By thread: the replica that served it last, and whether all has gone well there."""
    _numbers: "count[int]" = field(factory=lambda: count(1))

    def __attrs_post_init__(self) -> None:
        self.clients = [Client(number, habits) for number, habits in enumerate(self.habits)]

    def play(self, steps: Iterable[Step]) -> None:
        """Play a history to its end, where each client says one thing more."""
        for step in steps:
            self.take(step)
        for client in self.clients:
            self.take(Step(do=Do.SAY, client=client.number))
            assert self.side.thread(client.habits.key).texts("user_message")[-1] == client.users()[-1]

    def take(self, step: Step) -> None:
        """Take one step; it is nothing if it makes no sense now."""
        client = self.clients[step.client % len(self.clients)]
        client.is_plain = client.is_plain and step.do in (Do.SAY, Do.RESULTS)
        match step.do:
            case Do.RESTART:
                self.side.restart(step.replica)
                self._attempts[step.replica], self._lost[step.replica] = set(), set()
                for one in self.clients:
                    one.is_plain = one.is_plain and one.replica != step.replica
                self._last = {key: (at, ok and at != step.replica) for key, (at, ok) in self._last.items()}
            case Do.INSTRUCT:
                client.instructions = f"instructions {next(self._numbers)}"
            case Do.TRIM:
                self._trim(client, step.count)
            case Do.SAY:
                self._type(client, "yes" if step.word == "yes" else f"{step.word} {next(self._numbers)}")
                self._send(client, step)
            case Do.NUDGE:
                client.items.append(Item("system", f"nudge {next(self._numbers)}"))
                self._send(client, step)
            case Do.EDIT:
                places = [at for at, item in enumerate(client.items) if item.role == "user"]
                if places:
                    del client.items[places[-min(step.count, len(places))] :]
                    self._type(client, f"{step.word} {next(self._numbers)}")
                    self._send(client, step)
            case Do.REGENERATE:
                self._regenerate(client, step)
            case Do.RESULTS:
                self._bring_results(client, step)
            case Do.FINISH:
                self._finish(client)
            case Do.RETRY:
                if client.body is not None:
                    if client.kept is not None:
                        client.items.remove(client.kept)
                    self._send(client, step, is_retry=True)

    def _type(self, client: Client, text: str) -> None:
        if client.habits.sends_parts:
            text = text.replace(" ", "\n")
        client.items.append(Item("user", text))
        self.typed[client.habits.key, text] += 1

    def _trim(self, client: Client, count: int) -> None:
        """Drop the oldest items; what comes first then is a user message."""
        if "yes" in client.users():
            self.excused.add((client.number, "yes"))  # which one it is shows in what comes before it alone
        rest = client.items[count:]
        while rest and rest[0].role != "user":
            rest = rest[1:]
        if rest:
            client.items, client.body, client.is_trimmed = rest, None, True
            if rest[0].content == "yes":
                # It is taken for the first message of the thread, if that says the same.
                self.asked_again.update((client.habits.key, text) for text in client.users())

    def _regenerate(self, client: Client, step: Step) -> None:
        users = [at for at, item in enumerate(client.items) if item.role == "user"]
        if users and users[-1] + 1 < len(client.items):
            del client.items[users[-1] + 1 :]
            self._send(client, step, asks_again=True)

    def _bring_results(self, client: Client, step: Step) -> None:
        calls = client.open_calls
        if calls is None or not client.habits.keeps_answers:
            return
        is_last = client.is_waiting
        if not is_last and client.habits.renames_calls:
            return
        client.is_plain = client.is_plain and is_last
        calls.results = {call_id: f"result {next(self._numbers)}" for call_id in calls.calls}
        if is_last:
            self._send(client, step)

    def _finish(self, client: Client) -> None:
        """A result under a call of the client's own, before the last answer."""
        called = [item for item in client.items if item.results and not item.is_background]
        last = client.items[-1] if client.items else None
        if not called or last is None or last.role != "assistant" or last.calls:
            return
        if not client.habits.keeps_answers or client.habits.renames_calls:
            return
        finals = {f"{call_id}_final": name for call_id, name in called[-1].calls.items()}
        if not any(item.calls == finals for item in client.items):
            results = {call_id: f"result {next(self._numbers)}" for call_id in finals}
            client.items.insert(-1, Item("assistant", "", finals, results, is_background=True))
            client.body = client.kept = None

    # --- A request ----------------------------------------------------------------------------------------

    def _send(self, client: Client, step: Step, *, is_retry: bool = False, asks_again: bool = False) -> None:
        key, habits = client.habits.key, client.habits
        body = {"model": "Milo", "stream": True, "tools": TOOLS, "messages": list(client.messages())}
        if is_retry:
            assert client.body is not None
            body = dict(client.body)
        is_same = body == client.body
        headers = {"x-letta-chat-key": key} if key else {}
        if habits.counts:
            headers["x-stainless-retry-count"] = "1" if is_retry and step.is_counted else "0"
        counted = habits.counts and step.is_counted
        if asks_again or (is_retry and not counted):
            self.asked_again[key, client.items[-1].content] += 1
        self._allow_lost(client, step.replica)
        if (calls := client.open_calls) is not None:
            calls.is_split = calls.is_split or step.replica != calls.replica
        if step.replica != client.replica:
            self._allow_twice(client)
        replica, ending = step.replica, step.ending
        self._excuse(client, replica)
        self.firsts |= {item.content for item in client.in_front()}
        is_ordinary = (
            step.do is Do.SAY
            and client.is_plain
            and self._last.get(key) == (replica, True) == (client.replica, True)
            and not self._lacks(client)
            # Results that come again beside a message: the client hides the calls that they have led to.
            and not any(item.results for item in client.shown()[-2:])
            and ending.how is How.WHOLE
        )
        for place, _ in client.places():
            self._attempts[replica].add(place)
            self.said[key, place].add(client.number)
        reply = self.side.ask(body, headers, replica=replica, ending=ending)
        self._note_lost(client, replica, reply)
        self._take(client, step, body, reply)
        self._last[key] = replica, client.is_plain
        self.side.check_settled()
        assert reply.look_up_count <= 1 + reply.has_waited, "looked up more than once"
        if is_ordinary:
            assert reply.look_up_count == 0, "looked up in the ordinary case"
        # What an earlier attempt has left may be more than can be answered; it does not stop the next message.
        # To ask for another answer may be to send the same bytes again.
        if ending.how is How.WHOLE and not is_retry and not is_same:
            assert reply.is_whole, f"no whole answer: {reply.status} {reply.error}"
        if step.do is Do.SAY and step.word != "yes":
            assert reply.headers.get("x-letta-input") != "repeated"
        self._check_at_most_once(key)
        if reply.is_whole:
            self._check_heard(client, is_retry=is_retry or asks_again)

    def _take(self, client: Client, step: Step, body: Mapping[str, Any], reply: Reply) -> None:
        client.body = client.kept = None
        goes_on = client.is_plain and step.do is Do.RESULTS and step.replica == client.replica
        is_plain = step.do is Do.SAY or goes_on
        client.is_plain, client.replica = reply.is_whole and is_plain, step.replica
        if reply.is_whole:
            calls = dict(reply.calls) if reply.finish_reason == "tool_calls" else {}
            client.items.append(Item("assistant", reply.text, calls, replica=step.replica))
            return
        client.body = body
        if step.shows is not Shows.NOTHING:
            text = reply.text if step.shows is Shows.PART else ""
            client.kept = Item("assistant", text, is_lost=self._is_lost(client))
            client.items.append(client.kept)

    def _note_lost(self, client: Client, replica: int, reply: Reply) -> None:
        thread = self.side.thread(client.habits.key)
        kept = {*thread.texts("user_message"), *thread.texts("system_message")} - {"yes"}
        key = client.habits.key
        sent = [(key, place) for place, item in client.places() if item.role != "assistant"]
        if reply.is_whole:
            self._lost[replica].difference_update(sent)
        else:
            self._lost[replica].update((key, place) for key, place in sent if place[1] not in kept)

    def _is_lost(self, client: Client) -> bool:
        heard = self.side.thread(client.habits.key).texts("user_message")
        return bool(client.items) and client.items[-1].role == "user" and client.items[-1].content not in heard

    def _allow_lost(self, client: Client, replica: int) -> None:
        """What was lost in this process was stored through another, and no answer shows it."""
        key, lost = client.habits.key, self._lost[replica]
        thread = self.side.thread(key)
        kept = {*thread.texts("user_message"), *thread.texts("system_message")}
        shown = list(client.places())
        for (place, item), (_, following) in zip(shown, [*shown[1:], ((), None)], strict=True):
            is_answered = following is not None and following.content in thread.texts("assistant_message")
            if (key, place) in lost and item.content in kept and not is_answered:
                lost.discard((key, place))
                self.asked_again[key, item.content] += 1

    def _allow_twice(self, client: Client) -> None:
        """Another process has served the client before, and no answer shows what it has sent.

        It is looked up where more than one user message seems to be new; a system message beside one is not.
        """
        shown = list(client.places())
        answers = [at + 1 for at, (_, item) in enumerate(shown) if item.role == "assistant" and _says(item)]
        sent = self._attempts[client.replica ^ 1]
        texts = {text for _, text in sent} - {"yes"}
        tail = [
            item
            for place, item in shown[answers[-1] if answers else 0 :]
            if place not in sent and item.content not in texts
        ]
        few = sum(item.role == "user" for item in tail) < 2
        twice = [item.content for item in tail[:-1] if few or item.role == "system"]
        self.asked_again.update((client.habits.key, text) for text in twice)

    # --- What the agent must have heard -------------------------------------------------------------------

    def _excuse(self, client: Client, replica: int) -> None:
        """Excuse what nothing tells from somebody else's history."""
        thread = self.side.thread(client.habits.key)
        known = {*thread.texts("user_message"), *thread.texts("system_message")}
        shown = client.shown()
        in_front = client.in_front()
        inputs = [item.content for item in shown if item.role != "assistant" and item not in in_front]
        # The thread may hold another one.
        ends = len(inputs) - 1
        inputs = [
            text
            for at, text in enumerate(inputs)
            if text != "yes" or (at < ends and not client.is_trimmed and not self._is_yes_anothers(client))
        ]
        if not thread.texts("user_message") or known & set(inputs):
            return
        attempts = {text for _, text in self._attempts[replica]}
        first = next(
            (at for at, item in enumerate(shown) if item.content in attempts and item.role == "user"), None
        )
        answers = [at + 1 for at, item in enumerate(shown) if item.role == "assistant" and _says(item)]
        end = min(first if first is not None else len(shown), answers[-1] if answers else 0)
        lost = {(client.number, item.content) for item in shown[:end]}
        lost |= {(client.number, result) for item in shown[:end] for result in item.results.values()}
        self.limits += bool(lost - self.excused)
        self.excused |= lost

    def _is_yes_anothers(self, client: Client) -> bool:
        """Whether another client has said "yes" in the same thread, wherever in its transcript."""
        return any(
            key == client.habits.key and text == "yes" and numbers != {client.number}
            for (key, (_, text)), numbers in self.said.items()
        )

    def _lacks(self, client: Client) -> bool:
        """Whether the agent has not heard all that the client shows before its new message."""
        thread = self.side.thread(client.habits.key)
        return any(text not in thread.texts("user_message") for text in client.users()[:-1])

    def _check_at_most_once(self, key: str | None) -> None:
        thread = self.side.thread(key)
        for text, times in Counter(thread.texts("user_message")).items():
            most = self.typed[key, text] + self.asked_again[key, text]
            assert times <= most, f"{text!r} was heard {times} times"
        told = [message for message in thread.messages if message.get("is_input")]
        for text, times in Counter(
            message["content"] for message in told if message["message_type"] != "user_message"
        ).items():
            # Instructions are told again if it is not known whether they were.
            if not text.startswith("instructions") and not (text.startswith("nudge") and text in self.firsts):
                assert times <= 1 + self.asked_again[key, text], f"{text!r} was told {times} times"
        own = [
            message["content"]
            for message in thread.messages
            if message["message_type"] == "assistant_message" and not message.get("is_input")
        ]
        for message in told:
            # An answer to what counts as instructions later is no answer to a message.
            if message["message_type"] == "assistant_message" and not self.firsts:
                begin = Item("assistant", message["content"]).begin
                assert not any(f"{text} ".startswith(begin) for text in own), f"{begin!r} is the agent's own"
        if any(client.habits.renames_calls and client.habits.key == key for client in self.clients):
            return  # a result under another id is not recognised once its run has failed
        for text, times in Counter(_results(thread)).items():
            assert times == 1, f"{text!r} was told {times} times"

    def _check_heard(self, client: Client, *, is_retry: bool) -> None:
        """A request had a whole answer: the agent has heard all that led to it.

        :param is_retry: of a request from before the last results and instructions.
        """
        thread = self.side.thread(client.habits.key)
        heard = iter(thread.texts("user_message"))
        for text in client.users():
            if (client.number, text) in self.excused and (
                text == "yes" or text not in thread.texts("user_message")
            ):
                continue
            assert any(text == other for other in heard), f"{text!r} is not in the thread, or out of order"
        said, systems = thread.texts("assistant_message"), thread.texts("system_message")
        results = _results(thread)
        is_shared = False
        for place, item in client.places():
            excused = (client.number, item.content) in self.excused
            if item.role == "user":
                is_shared = len(self.said[client.habits.key, place]) > 1
                is_shared = is_shared or (item.content == "yes" and self._is_yes_anothers(client))
            if item.is_lost and item.content and not excused and not is_shared:
                is_told = any(f"{text} ".startswith(item.begin) for text in said)
                assert is_told, f"{item.begin!r} is not in the thread"
            if item.role == "system" and not excused:
                assert item.content in systems, f"{item.content!r} is not in the thread"
            # What waits for a late result is not looked up if another process has answered in its place.
            for result in () if is_retry or item.is_split else item.results.values():
                excused = excused or (client.number, result) in self.excused
                assert excused or result in results, f"{result!r} is not in the thread"
        if client.instructions and not is_retry:
            assert client.instructions in systems, "the instructions are not in the thread"


def _says(item: Item) -> bool:
    return bool(item.content or item.calls)


def _results(thread: Thread) -> list[str]:
    """What the agent has got of clients' results, in time or late."""
    late = [text.rpartition("\n")[2] for text in thread.texts("system_message") if text.startswith("[Result")]
    return [*(text for _, text in thread.returns() if text.startswith("result ")), *late]
