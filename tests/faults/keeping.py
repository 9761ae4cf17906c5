"""A Letta that remembers: what it was told, what it has kept of that, and which runs it still has under way.

It speaks HTTP as values, a method, a target and a body in and an `Exchange` out, so that the core alone, the
server's commands and real sockets can all be put in front of it. It keeps what Letta 0.16.7 keeps:

- A turn's messages are kept when its first step has ended well: a tool's return, another step, or a stop that
  is no failure (kept_nothing, kept_first_step.jsonl).
- Answers to pending calls are kept at once, whatever becomes of the step after them (kept_results.jsonl).
- A run goes on without its reader until somebody cancels it by its id (disconnect.jsonl). What became of it and
  what of it was kept can be asked for; it goes on by a quarter whenever somebody asks. Runs are listed
  from the moment when they begin, each with what its request said of itself.
- A message while calls are pending, or answers to other calls, are refused in the stream (pending_conflict,
  parallel_partial.jsonl).
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from itertools import accumulate, count, pairwise
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

import orjson
from attrs import define, field, frozen

from drive import CONFLICT, DONE, JSON, SSE, agent_json, encode, error, stop
from sansio_letta.errors import Failure

HTML: Final = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>\n"
KEPT_TYPES: Final = (
    "assistant_message",
    "reasoning_message",
    "tool_call_message",
    "tool_return_message",
    "approval_request_message",
)
FAILED_STOPS: Final = ("error", "llm_api_error", "invalid_llm_response", "invalid_tool_call", "cancelled")


class Break(Enum):
    """How an answer of Letta's goes wrong."""

    ENDS = "ends"  #: an orderly end of the connection, too soon
    RESETS = "resets"
    STALLS = "stalls"  #: nothing more comes, and the connection stands
    BABBLES = "babbles"  #: a gateway's page in the middle of the stream, and its end
    UNREACHABLE = "unreachable"  #: no connection; nothing was sent


@frozen(kw_only=True)
class Fault:
    """One fault of one answer.

    :param at: bytes of the body that arrive before it; None: not even a head does.
    :param ahead: whether Letta was further than what had arrived: it ends the run by itself. Otherwise the run
        stands where the reader lost it, until it is cancelled.
    :param began: with `at` None, whether Letta had begun the run nevertheless.
    :param answer: with `at` None, the status, the media type and the body that come instead.
    """

    how: Break = Break.ENDS
    at: int | None = None
    ahead: bool = False
    began: bool = True
    answer: tuple[int, str, bytes] | None = None


@frozen(kw_only=True)
class Head:
    """The beginning of an answer."""

    status: int
    headers: Sequence[tuple[str, str]]


class Silence(Enum):
    """Nothing comes any more."""

    FOR_EVER = "for ever"


#: What an exchange is read as: a head, bytes, b"" at the end; or how it fails.
Happening: TypeAlias = Head | bytes | Failure | Silence
Exchange: TypeAlias = Iterator[Happening]


@frozen(kw_only=True)
class Script:
    """What Letta answers when it is told something: a run's stream, item by item, or a status."""

    status: int = 200
    headers: Sequence[tuple[str, str]] = tuple(SSE)
    items: tuple[bytes, ...] = ()
    ends: tuple[int, ...] = field(init=False)  #: of the items, in bytes

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "ends", tuple(accumulate(map(len, self.items))))

    @property
    def body(self) -> bytes:
        return b"".join(self.items)

    def renamed(self, run_id: str) -> "Script":
        """The same, said by a run of this id; ids are equally long, so every cut stays where it was."""
        named = next((parse(item).get("run_id") for item in self.items if parse(item).get("run_id")), None)
        if named is None:
            return self
        old, new = named.encode(), run_id.encode()[: len(named)].ljust(len(named), b"0")
        return Script(
            status=self.status,
            headers=self.headers,
            items=tuple(item.replace(old, new) for item in self.items),
        )


def parse(item: bytes) -> dict[str, Any]:
    """The message that an item of a stream holds; empty for [DONE] and what a recording was cut in."""
    data = next((line[6:] for line in item.split(b"\n") if line.startswith(b"data: ")), b"")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


class RunState(Enum):
    RUNNING = "running"
    ENDED = "ended"
    CANCELLED = "cancelled"


@define(eq=False)
class Run:
    """One run, from the request that began it.

    :param texts: its messages, kept later or never.
    :param mark: by which whoever asked for it finds it.
    """

    agent: "KeepingAgent"
    script: Script
    texts: Sequence[object]
    id: str = ""  #: as its items name it
    mark: str = "message"
    told: Sequence[Mapping[str, Any]] = ()  #: its messages with their roles and marks, and answers to calls
    state: RunState = RunState.RUNNING
    stop_reason: str | None = None
    failed: bool = False
    kept_count: int = 0  #: items whose steps have ended well
    _count: int = 0  #: items that it has made
    _step: str | None = None

    def come_to(self, size: int) -> None:
        """Make all items that begin before this byte of the stream."""
        count = 1 + bisect_left(self.script.ends, size) if size else 0
        while self._count < min(count, len(self.script.items)) and self.state is not RunState.CANCELLED:
            self._make(parse(self.script.items[self._count]))
            self._count += 1

    def go_on(self) -> None:
        """Come to the end without a reader."""
        self.come_to(len(self.script.body))
        self.state = RunState.ENDED if self.state is RunState.RUNNING else self.state

    def go_on_a_little(self) -> None:
        """Make some more items without a reader: a quarter of them, so that nobody has to ask often."""
        following = self._count + len(self.script.items) // 4
        if following < len(self.script.items):
            self.come_to(self.script.ends[following])
        if following >= len(self.script.items) or self.state is RunState.ENDED:
            self.go_on()  # what is said behind a stop is in the books when the run is over

    def die(self) -> None:
        """End with Letta's process, unless it had ended before: what it was about is lost."""
        if self.state is RunState.RUNNING:
            self.state, self.stop_reason, self.failed = RunState.ENDED, "error", True

    def status(self) -> dict[str, Any]:
        """The run as Letta shows it."""
        status = self.state.value
        if self.state is RunState.ENDED and self.stop_reason != "cancelled":
            status = "failed" if self.failed else "completed"
        elif self.state is RunState.ENDED:
            status = "cancelled"  # by somebody else (cancelled.jsonl)
        return {
            "id": self.id,
            "agent_id": self.agent.id,
            "conversation_id": None,
            "status": status,
            "stop_reason": self.stop_reason,
            "request_config": {"assistant_message_tool_kwarg": self.mark},
        }

    def messages(self) -> list[dict[str, Any]]:
        """What the agent's memory holds of it: whole messages, the user's before them."""
        if not self.kept_count:
            return []
        told = [
            {
                "message_type": f"{message.get('role', 'user')}_message",
                "id": f"message-u{at}",
                "content": message["content"],
                "otid": message.get("otid"),
                "run_id": self.id,
            }
            for at, message in enumerate(self.told)
            if not message.get("approvals")
        ]
        return told + joined(map(parse, self.script.items[: self.kept_count]))

    def returns(self) -> list[dict[str, Any]]:
        """The results that it was begun with: they are kept at once."""
        return [
            {
                "message_type": "tool_return_message",
                "id": f"message-{self.id}",
                "tool_call_id": answer["tool_call_id"],
                "tool_return": answer.get("tool_return", ""),
                "status": answer.get("status", "error"),
                "run_id": self.id,
            }
            for message in self.told
            for answer in message.get("approvals") or ()
            if answer["tool_call_id"] in self.agent.results
        ]

    def usage(self) -> dict[str, Any]:
        """What it cost."""
        found = (parse(item) for item in self.script.items)
        return next((item for item in found if item.get("message_type") == "usage_statistics"), {})

    def _make(self, message: Mapping[str, Any]) -> None:
        self.id = self.id or message.get("run_id") or ""
        kind, step = message.get("message_type"), message.get("step_id")
        if kind == "tool_return_message" or (step and self._step not in (None, step)):
            self._keep()
        self._step = step or self._step
        if kind == "approval_request_message":
            self.agent.wanted |= {call["tool_call_id"]: None for call in _calls(message)}
        elif kind == "stop_reason":
            self.stop_reason = message["stop_reason"]
            self.failed = self.stop_reason in FAILED_STOPS
            if not self.failed:
                self._keep()
            self.agent.pending = (
                tuple(self.agent.wanted) if message["stop_reason"] == "requires_approval" else ()
            )
            self.state = RunState.ENDED
        elif kind == "error_message":
            self.failed = True
            self.state = RunState.ENDED

    def _keep(self) -> None:
        """Keep what was made so far: this item is a sign that it ended well."""
        if not self.kept_count:
            self.agent.kept += self.texts
        self.kept_count = max(self._count, 1)


def joined(fragments: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as they are kept, of the fragments in which they were streamed."""
    whole: dict[tuple[str, str], dict[str, Any]] = {}
    for fragment in fragments:
        kind = fragment.get("message_type", "")
        if kind not in KEPT_TYPES:
            continue
        message = whole.setdefault((kind, fragment["id"]), {**fragment, "content": "", "reasoning": ""})
        for text in ("content", "reasoning"):
            said = fragment.get(text) or ""
            message[text] += said if isinstance(said, str) else "".join(part["text"] for part in said)
        if kind in ("tool_call_message", "approval_request_message"):
            calls = message.setdefault("calls", {})
            for call in _calls(fragment):
                known = calls.setdefault(call["tool_call_id"], {**call, "name": "", "arguments": ""})
                known["name"] += call.get("name") or ""
                known["arguments"] += call.get("arguments") or ""
            message |= {"tool_calls": list(calls.values()), "tool_call": None}
    return [{key: value for key, value in message.items() if key != "calls"} for message in whole.values()]


def _calls(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    calls = message.get("tool_calls") or message.get("tool_call") or []
    return calls if isinstance(calls, list) else [calls]


@define(eq=False)
class KeepingAgent:
    """One agent and its memory.

    :param script: its answer to whatever it is told, each time.
    :param again: the same to what a user has no part in: the proxy asks once more.
    :param faults: of its streams, by their number from 0; the others come whole.
    :param cancel_fault: of each request to cancel a run.
    """

    id: str
    name: str
    script: Script
    pending: tuple[str, ...] = ()
    again: Script | None = None
    faults: dict[int, Fault] = field(factory=dict)
    cancel_fault: Fault | None = None
    kept: list[object] = field(factory=list)  #: the texts in its memory
    results: list[str] = field(factory=list)  #: the calls whose answers are in its memory
    runs: list[Run] = field(factory=list)
    cancels: list[str] = field(factory=list)  #: the ids of the runs that somebody wanted to end
    wanted: dict[str, None] = field(factory=dict)
    stream_count: int = 0

    @property
    def heard(self) -> list[dict[str, Any]]:
        """Its memory as Letta lists it, the oldest message first."""
        return [message for run in self.runs for message in (*run.returns(), *run.messages())]

    def running(self) -> list[Run]:
        """Runs that go on."""
        return [run for run in self.runs if run.state is RunState.RUNNING]


@define(eq=False)
class KeepingLetta:
    """Letta, with as many agents as are added."""

    agents: dict[str, KeepingAgent] = field(factory=dict)
    open_count: int = 0  #: exchanges whose reader has neither read them to their end nor let go
    conversations: dict[str, dict[str, str]] = field(factory=dict)
    _run_count: int = 0
    _numbers: Iterator[int] = field(factory=count)

    def add(self, script: Script, *, pending: Sequence[str] = ()) -> KeepingAgent:
        """Create an agent."""
        number = len(self.agents) + 1
        id = f"agent-00000000-0000-4000-8000-{number:012x}"
        agent = KeepingAgent(id, f"Milo {number}", script, tuple(pending))
        self.agents[id] = agent
        return agent

    def answer(self, method: str, target: str, body: bytes | None, *, size: int = 1 << 30) -> Exchange:
        """One exchange.

        :param size: bytes of a stream that come together at most; items never come together with others if 0.
        """
        parts = urlsplit(target)
        path, query = [unquote(part) for part in parts.path.strip("/").split("/")], parse_qs(parts.query)
        told = orjson.loads(body) if body else {}
        match method, path:
            case "GET", ["v1", "health"]:
                return _whole(200, {"version": "0.16.7", "status": "ok"})
            case "GET", ["v1", "agents"]:
                names = query.get("name")
                found = [agent for agent in self.agents.values() if names is None or agent.name in names]
                begin = next((at for at, one in enumerate(found, 1) if [one.id] == query.get("after")), 0)
                limit = int(query.get("limit", ["50"])[0])
                return _whole(200, [_shown(agent) for agent in found[begin : begin + limit]])
            case "GET", ["v1", "runs"]:
                return self._list_runs(query)
            case "GET", ["v1", "runs", run_id, *what]:
                return self._run(run_id, what)
            case _, ["v1", "conversations", *which]:
                return self._converse(method, which, query, told, size)
        agent = self.agents.get(path[2]) if len(path) > 2 else None
        if agent is None:
            return _whole(404, {"detail": "Agent not found"})
        match method, path[3:]:
            case "GET", []:
                return _whole(200, _shown(agent))
            case "GET", ["messages"]:
                return _whole(200, agent.heard[-int(query["limit"][0]) :])
            case "POST", ["messages", "stream"]:
                return self._stream(agent, told, size)
            case "POST", ["messages", "cancel"]:
                return self._cancel(agent, told)
        return _whole(404, {"detail": f"Not Found: {method} {target}"})

    def _converse(
        self, method: str, which: Sequence[str], query: Mapping[str, Sequence[str]], told: Any, size: int
    ) -> Exchange:
        """Conversations: what is said in one, the agent's own thread knows here, too."""
        asked = query.get("agent_id", [""])[0]
        known = self.conversations.get(which[0]) if which else None
        match method, which:
            case "GET", []:
                made = [item for item in self.conversations.values() if item["agent_id"] == asked]
                return _whole(200, [item for item in made if query["summary_search"][0] in item["summary"]])
            case "POST", [] if asked in self.agents:
                id = f"conv-00000000-0000-4000-8000-{next(self._numbers):012x}"
                self.conversations[id] = {"id": id, "agent_id": asked, "summary": told["summary"]}
                return _whole(200, self.conversations[id])
            case "GET", [_] if known is not None:
                return _whole(200, known)
            case "DELETE", [id] if known is not None:
                del self.conversations[id]
                return _whole(200, None)
            case "GET", [_, "messages"] if known is not None:
                agent = self.agents[known["agent_id"]]
                calls = [{"tool_call_id": call} for call in agent.pending]
                waits = {"message_type": "approval_request_message", "id": "m", "tool_calls": calls}
                return _whole(200, [*([waits] if calls else []), *agent.heard[::-1]])
            case "POST", [_, "messages"] if known is not None:
                return self._stream(self.agents[known["agent_id"]], told, size)
        return _whole(404, {"detail": "Conversation not found"})

    def _list_runs(self, query: Mapping[str, Sequence[str]]) -> Exchange:
        """The newest first."""
        runs = [run for agent in self.agents.values() for run in agent.runs]
        if "agent_id" in query:
            runs = [run for run in runs if run.agent.id == query["agent_id"][0]]
        if "active" in query:
            runs = [run for run in runs if run.state is RunState.RUNNING]
        limit = int(query["limit"][0])
        return _whole(200, [run.status() for run in sorted(runs, key=lambda run: run.id)[: -limit - 1 : -1]])

    def _run(self, run_id: str, what: Sequence[str]) -> Exchange:
        runs = [run for agent in self.agents.values() for run in agent.runs if run.id == run_id]
        match what:
            case [] if runs:
                runs[0].go_on_a_little()
                return _whole(200, runs[0].status())
            case ["messages"] if runs:
                return _whole(200, runs[0].messages())
            case ["usage"] if runs:
                return _whole(200, runs[0].usage())
        return _whole(404, {"detail": "Run not found"})

    def _cancel(self, agent: KeepingAgent, told: Mapping[str, Any]) -> Exchange:
        ids = told.get("run_ids")
        assert ids, "a cancel without a run's id ends the newest, which may be another's"
        agent.cancels += ids
        fault = agent.cancel_fault
        if fault is None or (fault.began and fault.how is not Break.UNREACHABLE):
            for run in agent.runs:
                if run.id in ids and run.state is RunState.RUNNING:
                    run.state = RunState.CANCELLED
        return _whole(200, dict.fromkeys(ids, "cancelled")) if fault is None else _instead(fault)

    def _stream(self, agent: KeepingAgent, told: Mapping[str, Any], size: int) -> Exchange:
        if told.get("background"):
            return _whole(503, {"detail": "Background streaming needs Redis"})
        fault = agent.faults.get(agent.stream_count)
        agent.stream_count += 1
        if fault is not None and fault.at is None and not (fault.began and fault.how is not Break.UNREACHABLE):
            return _instead(fault)
        run = self._begin(agent, told)
        if run is None:
            return _status(agent.script)
        if fault is not None and fault.at is None:
            if fault.ahead:
                run.go_on()
            return _instead(fault)
        return self._read(run, fault, size)

    def _begin(self, agent: KeepingAgent, told: Mapping[str, Any]) -> Run | None:
        """Begin a run; None if Letta answers with a status."""
        answers = [
            approval["tool_call_id"]
            for message in told["messages"]
            for approval in message.get("approvals") or ()
        ]
        texts = [message["content"] for message in told["messages"] if not message.get("approvals")]
        if agent.pending and not answers:
            return self._add(agent, _refusing(CONFLICT), texts, told)
        if agent.pending and sorted(answers) != sorted(agent.pending):
            wrong = f"Invalid tool call IDs. Expected '{agent.pending}', but received '{answers}'"
            return self._add(agent, _refusing(error("internal_error", wrong)), texts, told)
        if agent.script.status != 200:
            return None
        # Answers to calls that nobody waits for are not kept: Letta goes on without (stale_tool_result.jsonl).
        agent.results += answers if agent.pending else []
        agent.pending, agent.wanted = (), {}
        alone = all(message.get("role") == "system" for message in told["messages"])
        return self._add(agent, agent.again if alone and agent.again else agent.script, texts, told)

    def _add(
        self, agent: KeepingAgent, script: Script, texts: Sequence[object], told: Mapping[str, Any]
    ) -> Run:
        self._run_count += 1
        run_id = f"run-{self._run_count:08x}-0000-4000-8000-000000000000"
        mark = told.get("assistant_message_tool_kwarg", "message")
        run = Run(agent, script.renamed(run_id), texts, run_id, mark, told["messages"])
        agent.runs.append(run)
        return run

    def _read(self, run: Run, fault: Fault | None, size: int) -> Exchange:
        script = run.script
        body = script.body[: fault.at] if fault is not None else script.body
        self.open_count += 1
        try:
            yield Head(status=200, headers=script.headers)
            for begin, end in _pieces(script.ends, len(body), size):
                run.come_to(end)
                yield body[begin:end]
            run.come_to(len(body))
            if fault is None:
                run.go_on()
                yield b""
                return
            if fault.ahead:
                run.go_on()
            yield from _break(fault)
        finally:
            self.open_count -= 1


def _pieces(ends: Sequence[int], whole: int, size: int) -> Iterator[tuple[int, int]]:
    """How the first bytes of a stream arrive: at most so many at a time, or item by item."""
    edges = range(0, whole, size) if size else (0, *(end for end in ends if end < whole))
    yield from ((begin, end) for begin, end in pairwise((*edges, whole)) if begin < end)


def _break(fault: Fault) -> Exchange:
    match fault.how:
        case Break.ENDS:
            yield b""
        case Break.BABBLES:
            yield HTML
            yield b""
        case Break.STALLS:
            while True:
                yield Silence.FOR_EVER
        case Break.UNREACHABLE:
            yield Failure.NOT_SENT
        case Break.RESETS:
            yield Failure.BROKEN


def _instead(fault: Fault) -> Exchange:
    """What comes instead of an answer."""
    if fault.answer is not None:
        status, kind, body = fault.answer
        yield Head(status=status, headers=[("content-type", kind)])
        yield body
        yield b""
    elif fault.how is Break.ENDS:
        yield Failure.BROKEN  # without a head there is no orderly end
    else:
        yield from _break(fault)


def _whole(status: int, value: object) -> Exchange:
    yield Head(status=status, headers=JSON)
    yield orjson.dumps(value)
    yield b""


def _status(script: Script) -> Exchange:
    yield Head(status=script.status, headers=script.headers)
    yield script.body
    yield b""


def _refusing(why: dict[str, Any]) -> Script:
    ping = {"message_type": "ping", "run_id": "run-ffffffff-0000-4000-8000-000000000000"}
    return Script(items=(encode(ping), encode(stop("error")), encode(why), encode(DONE)))


def _shown(agent: KeepingAgent) -> dict[str, Any]:
    return agent_json(*agent.pending) | {"id": agent.id, "name": agent.name}
