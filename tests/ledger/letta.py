"""A Letta with threads: what it keeps of a run, and when; what it loses; and how it lists what it has kept.

`keeping.py` plays recorded streams; this one makes its own, since here it matters what was said and not how it
looks. It keeps what Letta 0.16.7 keeps:

- A run's messages once its first step has ended well, and nothing of a run that fails or is cancelled before
  (kept_nothing, kept_first_step.jsonl). Results of pending calls at once (kept_results.jsonl).
- A run goes on without its reader until it is cancelled by its id (disconnect.jsonl).
- A cancelled run counts as cancelled at once, but Letta looks for that every half second only: a step that ends
  before is kept, up to half a second later. Until then the thread does not show it, and nothing else does.
- A message while calls are pending, and results of other calls, are refused in the stream (pending_conflict,
  parallel_partial.jsonl). Results when nothing is pending make the agent go on (stale_tool_result.jsonl).
- A step is listed as several messages of one id, and a limit counts ids. The agent's own thread is listed from
  the oldest on, a conversation from the newest; first in each is the agent's system prompt.

What the agent says is in the first word of the last user message: ``talk``, ``call``, ``calls`` or ``work``.
Behind results alone it talks, but every third run of all calls again.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from itertools import count
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

import orjson
from attrs import define, field, frozen

from drive import CONFLICT, DONE, JSON, SSE, encode, error, stop
from faults.keeping import Exchange, Head
from sansio_letta.errors import Failure

AGENT_ID: Final = "agent-00000000-0000-4000-8000-000000000001"
#: Whatever is not in one of these is in the agent's own thread.
OWN: Final = ""
FAILED: Final = frozenset({"error", "cancelled"})

Message: TypeAlias = dict[str, Any]


class State(Enum):
    """Of a run."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Pace(Enum):
    """How far Letta is when its reader leaves."""

    BEHIND = "behind"  #: no further than what was read
    LATE = "late"  #: no further, but if it is cancelled, its step ends before Letta notices
    STEP_KEPT = "step kept"  #: its step has ended and is kept; the run has not
    ENDED = "ended"


@frozen(kw_only=True)
class Fault:
    """What goes wrong with the next run.

    :param at: the number of the item before which it does.
    :param fails: the model fails there; otherwise the stream to its reader breaks.
    :param pace: how far the run is by then, if the stream breaks.
    """

    at: int
    fails: bool = False
    pace: Pace = Pace.BEHIND


@define(eq=False)
class Thread:
    """What one thread holds, oldest first, each message as Letta lists it."""

    messages: list[Message] = field(factory=list)
    pending: dict[str, str] = field(factory=dict)  #: names of tools by the ids of their calls
    pending_run: str | None = None
    summary: str = ""

    def texts(self, kind: str) -> list[str]:
        """What the messages of a kind say."""
        return [_text(message["content"]) for message in self.messages if message["message_type"] == kind]

    def returns(self) -> list[tuple[str, str]]:
        """Ids of calls and their results."""
        return [
            (item["tool_call_id"], item["tool_return"])
            for message in self.messages
            if message["message_type"] == "tool_return_message"
            for item in message["tool_returns"]
        ]


@define(eq=False)
class Run:
    """One run: the items of its stream, and what of it was made and kept."""

    id: str
    mark: str | None
    thread: Thread
    items: Sequence[Message]
    unkept: list[Message]  #: what is kept with the next step that ends well
    state: State = State.RUNNING
    stop_reason: str | None = None
    made: int = 0
    is_late: bool = False  #: its step ends in spite of a cancel

    def make(self) -> None:
        """Make the next item."""
        item = self.items[self.made]
        self.made += 1
        match item["message_type"]:
            case "stop_reason":
                self.stop_reason = item["stop_reason"]
                if self.stop_reason in FAILED:
                    self.state = State.FAILED
                else:
                    self.keep()
            case "usage_statistics":
                self.state = State.COMPLETED
            case "error_message":
                self.state = State.FAILED
            case "tool_return_message":
                self._add(item)
                self.keep()
            case "ping":
                pass
            case _:
                self._add(item)

    def _add(self, item: Message) -> None:
        same = (message for message in self.unkept if _key(message) == _key(item))
        if (known := next(same, None)) is not None and "content" in item:
            known["content"] += item["content"]
        elif known is None:
            self.unkept.append(dict(item))

    def keep(self) -> None:
        """Its step has ended well."""
        self.thread.messages += self.unkept
        for message in self.unkept:
            if message["message_type"] == "approval_request_message":
                calls = message["tool_calls"]
                self.thread.pending |= {call["tool_call_id"]: call["name"] for call in calls}
                self.thread.pending_run = self.id
        self.unkept = []

    def go_on(self, pace: Pace = Pace.ENDED) -> None:
        """Go on without a reader."""
        self.is_late = pace is Pace.LATE
        stands = pace in (Pace.BEHIND, Pace.LATE)
        while self.state is State.RUNNING and self.made < len(self.items) and not stands:
            if pace is Pace.STEP_KEPT and self.items[self.made]["message_type"] == "usage_statistics":
                break
            self.make()

    def end_step(self) -> None:
        """End the step in which it was cancelled, and stop."""
        for item in self.items[self.made :]:
            match item["message_type"]:
                case "stop_reason":
                    if item["stop_reason"] not in FAILED:
                        self.keep()
                    return
                case "tool_return_message":
                    self._add(item)
                    self.keep()
                    return
                case "ping":
                    pass
                case _:
                    self._add(item)

    def shown(self) -> Message:
        """The run as Letta shows it."""
        return {
            "id": self.id,
            "agent_id": AGENT_ID,
            "conversation_id": None,
            "status": self.state.value,
            "stop_reason": "cancelled" if self.state is State.CANCELLED else self.stop_reason,
            "request_config": {"assistant_message_tool_kwarg": self.mark},
        }


def _key(message: Message) -> tuple[str, str]:
    return message["message_type"], message["id"]


@define(eq=False)
class ThreadLetta:
    """Letta with one agent, Milo."""

    threads: dict[str, Thread] = field(factory=dict)  #: by a conversation's id; `OWN`: the agent's own
    runs: dict[str, Run] = field(factory=dict)
    fault: Fault | None = None  #: of the next run
    look_up_count: int = 0  #: how often somebody has listed a thread
    look_up_fault: Head | Failure | bytes | None = None  #: in place of each such list
    empty_runs: list[str] = field(factory=list)  #: on results that nothing waited for: never wanted
    _late: list[Run] = field(factory=list)  #: cancelled, but their steps are still to end
    _numbers: "count[int]" = field(factory=lambda: count(1))

    def __attrs_post_init__(self) -> None:
        self.threads[OWN] = self._thread("")

    def _thread(self, summary: str) -> Thread:
        prompt = {
            "message_type": "system_message",
            "id": self._id("message"),
            "content": "You are Milo.",
            "otid": None,
            "run_id": None,
        }
        return Thread(messages=[prompt], summary=summary)

    def _id(self, kind: str) -> str:
        return f"{kind}-00000000-0000-4000-8000-{next(self._numbers):012x}"

    def find(self, key: str | None) -> Thread:
        """The thread of a chat's key, or the own one; an empty one if there is none yet."""
        if key is None:
            return self.threads[OWN]
        quoted = f'"{key}"'
        found = (thread for thread in self.threads.values() if quoted in thread.summary)
        return next(found, Thread())

    def running(self) -> list[str]:
        """Runs that go on."""
        return [run.id for run in self.runs.values() if run.state is State.RUNNING]

    def settle(self) -> None:
        """Half a second has passed."""
        while self._late:
            self._late.pop().end_step()

    # --- HTTP ---------------------------------------------------------------------------------------------

    def answer(self, method: str, target: str, body: bytes | None) -> Exchange:
        """One exchange."""
        parts = urlsplit(target)
        path, query = [unquote(part) for part in parts.path.strip("/").split("/")], parse_qs(parts.query)
        told = orjson.loads(body) if body else {}
        match method, path[1:]:
            case "GET", ["agents"]:
                return _whole([self._shown()])
            case "GET", ["agents", _]:
                return _whole(self._shown())
            case "GET", ["agents", _, "messages"]:
                return self._list(self.threads[OWN], query, newest_first=False)
            case "POST", ["agents", _, "messages", "stream"]:
                return self._stream(self.threads[OWN], told)
            case "POST", ["agents", _, "messages", "cancel"]:
                return self._cancel(told["run_ids"])
            case _, ["runs", *which]:
                return self._run(which)
            case _, ["conversations", *which]:
                return self._converse(method, which, query, told)
        raise AssertionError(f"{method} {target}")

    def _shown(self) -> Message:
        own = self.threads[OWN]
        calls = [
            {"tool_call_id": call_id, "name": name, "arguments": "{}"} for call_id, name in own.pending.items()
        ]
        waits = {"id": "message-2", "tool_calls": calls, "run_id": own.pending_run} if calls else None
        return {"id": AGENT_ID, "name": "Milo", "agent_type": "letta_v1_agent", "pending_approval": waits}

    def _converse(
        self, method: str, which: Sequence[str], query: Mapping[str, Sequence[str]], told: Any
    ) -> Exchange:
        match method, which:
            case "GET", []:
                search = query["summary_search"][0]
                return _whole(
                    [
                        {"id": id, "agent_id": AGENT_ID, "summary": thread.summary}
                        for id, thread in self.threads.items()
                        if search in thread.summary
                    ]
                )
            case "POST", []:
                id = self._id("conv")
                self.threads[id] = self._thread(told["summary"])
                return _whole({"id": id, "agent_id": AGENT_ID, "summary": told["summary"]})
            case "GET", [id, "messages"]:
                return self._list(self.threads[id], query, newest_first=True)
            case "POST", [id, "messages"]:
                return self._stream(self.threads[id], told)
        raise AssertionError(f"{method} conversations {which}")

    def _list(self, thread: Thread, query: Mapping[str, Sequence[str]], *, newest_first: bool) -> Exchange:
        assert query["order"] == ["desc"]
        limit = int(query["limit"][0])
        if limit > 1:
            self.look_up_count += 1
            if self.look_up_fault is not None:
                return _broken(self.look_up_fault)
        ids = list(dict.fromkeys(message["id"] for message in thread.messages))[-limit:]
        listed = [message for message in thread.messages if message["id"] in ids]
        return _whole(listed[::-1] if newest_first else listed)

    def _run(self, which: Sequence[str]) -> Exchange:
        if not which:
            return _whole([run.shown() for run in reversed(self.runs.values())])
        run = self.runs[which[0]]
        match which[1:]:
            case []:
                run.go_on()
                return _whole(run.shown())
            case ["messages"]:
                return _whole([item for item in run.thread.messages if item["run_id"] == run.id])
            case ["usage"]:
                return _whole({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2})
        raise AssertionError(f"GET runs {which}")

    def _cancel(self, run_ids: Iterable[str]) -> Exchange:
        answers = {}
        for run_id in run_ids:
            run = self.runs[run_id]
            if run.state is State.RUNNING:
                run.state = State.CANCELLED
                self._late += [run] if run.is_late else []
                if (thread := run.thread).pending_run == run_id:
                    denied = [{"tool_call_id": call_id, "reason": "cancelled"} for call_id in thread.pending]
                    self._take_results(thread, run_id, denied)
            answers[run_id] = "cancelled" if run.state is State.CANCELLED else "failed"
        return _whole(answers)

    # --- Runs ---------------------------------------------------------------------------------------------

    def _stream(self, thread: Thread, told: Any) -> Exchange:
        fault, self.fault = self.fault, None
        run = self._begin(thread, told, fault)
        self.runs[run.id] = run
        return self._read(run, fault)

    def _begin(self, thread: Thread, told: Any, fault: Fault | None) -> Run:
        run_id, mark = self._id("run"), told.get("assistant_message_tool_kwarg")
        results = [item for message in told["messages"] for item in message.get("approvals") or ()]
        said = [message for message in told["messages"] if "approvals" not in message]
        brought = {item["tool_call_id"] for item in results}
        why: Message | None = None
        if thread.pending and not brought:
            why = CONFLICT
        elif thread.pending and brought != set(thread.pending):
            why = error("internal_error", f"Invalid tool call IDs. Expected '{list(thread.pending)}'")
        if why is not None:
            items = [{"message_type": "ping", "run_id": run_id}, stop("error"), why]
            return Run(run_id, mark, thread, items, [])
        if brought and thread.pending:
            self._take_results(thread, run_id, results)
        elif brought and not brought <= {call_id for call_id, _ in thread.returns()}:
            self.empty_runs.append(run_id)
        unkept = [self._input(message, run_id) for message in said]
        users = [_text(message["content"]) for message in said if message["role"] == "user"]
        calls_again = bool(brought) and len(self.runs) % 3 == 0
        items = self._made(users[-1] if users else "call" if calls_again else "talk", run_id)
        if fault is not None and fault.fails:
            items = [*items[: min(max(fault.at, 1), len(items) - 2)], stop("error"), error()]
        return Run(run_id, mark, thread, items, unkept)

    def _take_results(self, thread: Thread, run_id: str, results: Sequence[Message]) -> None:
        returns = [
            {
                "tool_call_id": item["tool_call_id"],
                "tool_return": item.get("tool_return") or item.get("reason") or "",
                "status": item.get("status") or "error",
            }
            for item in results
        ]
        thread.messages.append(
            {
                "message_type": "tool_return_message",
                "id": self._id("message"),
                "run_id": run_id,
                "otid": None,
                "tool_returns": returns,
                **returns[0],
            }
        )
        thread.pending, thread.pending_run = {}, None

    def _input(self, message: Message, run_id: str) -> Message:
        return {
            "message_type": f"{message['role']}_message",
            "id": self._id("message"),
            "content": message["content"],
            "otid": message.get("otid"),
            "run_id": run_id,
            "is_input": True,
        }

    def _made(self, text: str, run_id: str) -> list[Message]:
        """The items of a run."""
        number = next(self._numbers)
        step: Message = {"id": self._id("message"), "step_id": self._id("step"), "run_id": run_id, "otid": None}
        ping, usage = (
            {"message_type": "ping", "run_id": run_id},
            {
                "message_type": "usage_statistics",
                "prompt_tokens": 1,
                "completion_tokens": 1,
                "total_tokens": 2,
                "run_id": run_id,
            },
        )
        words = [f"answer {number}", " goes", " on"]
        said = [{"message_type": "assistant_message", "content": word} for word in words]
        match text.replace("\n", " ").partition(" ")[0]:
            case "call" | "calls" as word:
                calls = [
                    {"tool_call_id": self._id("call"), "name": "get_weather", "arguments": "{}"}
                    for _ in range(2 if word == "calls" else 1)
                ]
                asked = {"message_type": "approval_request_message", "tool_calls": calls, **step}
                return [ping, said[0] | step, asked, stop("requires_approval"), usage]
            case "work":
                call_id = self._id("search")
                later = step | {"id": self._id("message"), "step_id": self._id("step")}
                called = {"tool_call_id": call_id, "name": "search", "arguments": "{}"}
                back = {"tool_call_id": call_id, "tool_return": "found", "status": "success"}
                return [
                    ping,
                    {"message_type": "tool_call_message", "tool_calls": [called], **step},
                    {"message_type": "tool_return_message", "tool_returns": [back], **back, **step}
                    | {"id": self._id("message")},
                    *(item | later for item in said),
                    stop(),
                    usage,
                ]
        return [ping, *(item | step for item in said), stop(), usage]

    def _read(self, run: Run, fault: Fault | None) -> Exchange:
        yield Head(status=200, headers=SSE)
        for number in range(len(run.items)):
            if fault is not None and not fault.fails and number == fault.at:
                run.go_on(fault.pace)
                yield Failure.BROKEN
                return
            if run.state is State.CANCELLED:
                break
            if run.made == number:
                run.make()
            yield encode(run.items[number])
        yield encode(DONE)
        yield b""


def _text(content: str | Sequence[Message]) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def _whole(value: object) -> Iterator[Head | bytes | Failure]:
    yield Head(status=200, headers=JSON)
    yield orjson.dumps(value)
    yield b""


def _broken(fault: Head | Failure | bytes) -> Iterator[Head | bytes | Failure]:
    if isinstance(fault, Failure):
        yield fault
        return
    yield fault if isinstance(fault, Head) else Head(status=200, headers=JSON)
    yield fault if isinstance(fault, bytes) else b"{}"
    yield b""
