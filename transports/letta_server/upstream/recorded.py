"""Recordings as an upstream: each scenario is served as an agent that answers as recorded."""

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final

import orjson
import trio
from attrs import asdict, define, field, frozen

from letta_recordings.samples import read_sample
from sansio_letta import Recording, RecordingError, read_recording
from sansio_letta.errors import Failure
from sansio_letta.recording.format import RecordedData, RecordedExchange
from sansio_letta.recording.requests import pending_after
from sansio_letta.turn.events import AgentThread
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.commands import (
    CancelRun,
    CheckHealth,
    Command,
    CreateConversation,
    DeleteConversation,
    FetchAgent,
    FetchConversation,
    FetchKept,
    FetchLast,
    FetchMessages,
    FetchRun,
    FetchUsage,
    FindAgent,
    FindConversations,
    ListAgents,
    OpenStream,
    ResumeRun,
    UpdateConversation,
)

from .base import Headers, UpstreamError

#: Scenario -> name and description of the demo's agent.
DEMO_AGENTS: Final = {
    "text": ("demo-hello", "Answers, streamed word by word."),
    "reasoning": ("demo-thinker", "Thinks before it answers."),
    "client_tool": ("demo-weather", "Calls your tool get_weather and continues with its result."),
    "parallel_tools": ("demo-parallel", "Calls get_weather and read_file at once."),
    "server_tool": ("demo-memory", "Uses a tool of its own, which runs in Letta."),
    "unicode": ("demo-unicode", "Umlauts, Chinese, emoji, HTML."),
}

#: Refuses a message while calls are pending, as a real Letta does.
_CONFLICT: Final = ("pending_conflict", 2)
#: Conversations stored; the oldest are dropped, as if they had been deleted.
_MAX_CONVERSATION_COUNT: Final = 1000
#: Messages listed of a thread; older ones are forgotten.
_MAX_HEARD_COUNT: Final = 100


@frozen(kw_only=True)
class Pace:
    """The pace at which recorded data is played: limits on the seconds between two pieces."""

    least: float = 0.0
    most: float = 0.0

    def pause(self, recorded: float) -> float:
        return min(max(recorded, self.least), self.most)


@define(eq=False)
class _RecordedAgent:
    agent: letta.Agent
    exchanges: Sequence[RecordedExchange]
    pending: letta.PendingApproval | None = None

    def choose(self, messages: Sequence[dict[str, Any]]) -> RecordedExchange:
        """Choose the recorded turn that had input of this kind."""
        answers = any("approvals" in message for message in messages)
        for exchange in self.exchanges:
            recorded = exchange.request.json["messages"]
            if any("approvals" in message for message in recorded) == answers:
                return exchange
        return self.exchanges[0]


@define(eq=False)
class RecordedLetta:
    """Carries out the core's commands from recordings.

    :param agents: recordings, each with the name and the description of the agent that plays it.
    """

    agents: Sequence[tuple[Recording, str, str]]
    conflict: RecordedExchange
    pace: Pace = field(factory=Pace)
    _agents: dict[str, _RecordedAgent] = field(factory=dict, init=False)
    #: By id. A pending call belongs to the agent, whichever conversation it was made in.
    _conversations: dict[str, dict[str, str]] = field(factory=dict, init=False)
    _heard: defaultdict[str, deque[dict[str, Any]]] = field(init=False)
    """By id of the agent or the conversation: what was said there, newest first, without the texts."""
    _numbers: Iterator[int] = field(factory=count, init=False)

    def __attrs_post_init__(self) -> None:
        self._heard = defaultdict(lambda: deque(maxlen=_MAX_HEARD_COUNT))
        for number, (recording, name, description) in enumerate(self.agents):
            agent = letta.Agent(
                id=f"agent-00000000-0000-4000-8000-{number:012x}",
                name=name,
                agent_type="letta_v1_agent",
                description=description,
            )
            turns = [exchange for exchange in recording.exchanges if exchange.starts_run]
            self._agents[agent.id] = _RecordedAgent(agent, turns)

    def with_key(self, key: str) -> "RecordedLetta":
        """See `KeyedUpstream`: recordings accept any key."""
        return self

    async def send(self, command: Command) -> "_RecordedResponse":
        """See `Upstream.send`."""
        await trio.lowlevel.checkpoint()
        match command:
            case FindAgent(name=name):
                return _json([self._show(known) for known in self._agents.values() if known.agent.name == name])
            case FetchAgent(agent_id=agent_id):
                known = self._agents.get(agent_id)
                return _json({"detail": "not found"}, 404) if known is None else _json(self._show(known))
            case ListAgents(after=after):
                return _json([] if after else [self._show(known) for known in self._agents.values()])
            case CheckHealth():
                return _json({"version": "recordings", "status": "ok"})
            case CancelRun(run_id=run_id):
                return _json({run_id: "cancelled"})
            case FindConversations(summary=summary, agent_id=agent_id):
                made = self._conversations.values()
                return _json(
                    [each for each in made if each["agent_id"] == agent_id and summary in each["summary"]]
                )
            case CreateConversation(agent_id=agent_id, summary=summary):
                return _json(self._converse(agent_id, summary))
            case FetchConversation(conversation_id=conversation_id):
                found = self._conversations.get(conversation_id)
                return _json({"detail": "not found"}, 404) if found is None else _json(found)
            case DeleteConversation(conversation_id=conversation_id):
                self._conversations.pop(conversation_id, None)
                self._heard.pop(conversation_id, None)
                return _json(None)
            case UpdateConversation(conversation_id=conversation_id, summary=summary):
                found = self._conversations.get(conversation_id)
                if found is None:
                    return _json({"detail": "not found"}, 404)
                found["summary"] = summary
                return _json(found)
            case FetchLast(conversation_id=conversation_id):
                return self._show_last(conversation_id)
            case FetchMessages(agent_id=agent_id):
                # Letta lists an agent's own thread with the oldest message first.
                return _json(list(self._heard[agent_id])[::-1])
            case FetchRun() | FetchKept() | FetchUsage() | ResumeRun():
                return _json({"detail": "recordings have no runs"}, 404)
            case OpenStream(thread=thread, request=request):
                if isinstance(thread, AgentThread):
                    return self._open(self._agents[thread.agent_id], thread.agent_id, request)
                found = self._conversations[thread.conversation_id]
                return self._open(self._agents[found["agent_id"]], thread.conversation_id, request)
            case _:
                return _json({"detail": "recordings have no tools"}, 404)

    def _converse(self, agent_id: str, summary: str) -> dict[str, str]:
        if len(self._conversations) >= _MAX_CONVERSATION_COUNT:
            oldest = next(iter(self._conversations))
            del self._conversations[oldest]
            self._heard.pop(oldest, None)
        conversation_id = f"conv-00000000-0000-4000-8000-{next(self._numbers):012x}"
        made = {"id": conversation_id, "agent_id": agent_id, "summary": summary}
        self._conversations[conversation_id] = made
        return made

    def _show_last(self, conversation_id: str) -> "_RecordedResponse":
        found = self._conversations.get(conversation_id)
        if found is None:
            return _json({"detail": "not found"}, 404)
        pending = self._agents[found["agent_id"]].pending
        waits = [] if pending is None else [{"message_type": "approval_request_message"} | asdict(pending)]
        return _json([*waits, *self._heard[conversation_id]])

    @staticmethod
    def _show(known: _RecordedAgent) -> dict[str, Any]:
        return asdict(known.agent) | {"pending_approval": known.pending and asdict(known.pending)}

    def _open(self, known: _RecordedAgent, thread_id: str, request: letta.StreamRequest) -> "_RecordedResponse":
        messages = orjson.loads(letta.encode_stream_request(request))["messages"]
        if known.pending is not None and not any("approvals" in message for message in messages):
            return _RecordedResponse.of(self.conflict, self.pace)
        exchange = known.choose(messages)
        for message in messages:
            if message.get("otid"):
                listed = {"message_type": f"{message['role']}_message", "content": "", "otid": message["otid"]}
                self._heard[thread_id].appendleft(listed | {"id": f"message-{next(self._numbers)}"})
        known.pending = pending_after(exchange)
        return _RecordedResponse.of(exchange, self.pace)


@define(eq=False)
class _RecordedResponse:
    """One recorded response, played piece by piece."""

    status: int
    headers: Headers
    pieces: Iterator[RecordedData]
    pace: Pace = field(factory=Pace)
    _last: float | None = field(default=None, init=False)

    @classmethod
    def of(cls, exchange: RecordedExchange, pace: Pace) -> "_RecordedResponse":
        if exchange.status is None:
            raise UpstreamError(Failure.BROKEN, "the recording has no answer")
        return cls(exchange.status, list(exchange.headers), iter(exchange.data), pace)

    async def receive_head(self) -> tuple[int, Headers]:
        await trio.lowlevel.checkpoint()
        return self.status, self.headers

    async def receive_data(self) -> bytes:
        piece = next(self.pieces, None)
        if piece is None:
            await trio.lowlevel.checkpoint()
            return b""
        await trio.sleep(self.pace.pause(piece.t - (piece.t if self._last is None else self._last)))
        self._last = piece.t
        return piece.data

    def release(self) -> None:
        self.pieces = iter(())


def _json(value: object, status: int = 200) -> _RecordedResponse:
    data = RecordedData(t=0.0, data=orjson.dumps(value))
    return _RecordedResponse(status, [("content-type", "application/json")], iter([data]))


def demo_letta() -> RecordedLetta:
    """Make the upstream of the demo, at a pace that a person can follow."""
    return RecordedLetta(
        [(read_sample(scenario), *shown) for scenario, shown in DEMO_AGENTS.items()],
        _conflict(),
        Pace(least=0.06, most=0.5),
    )


def letta_of_folder(folder: Path, *, keep_pauses: bool) -> RecordedLetta:
    """Make an upstream of all recordings in a folder, each an agent with its scenario's name.

    :raises RecordingError: if one cannot be read, or none can be served; the message names the file.
    :raises OSError: if the folder cannot be read.
    """
    agents = []
    for path in sorted(folder.iterdir()):
        if path.suffix != ".jsonl":
            continue
        try:
            recording = read_recording(path.read_bytes())
        except RecordingError as exc:
            raise RecordingError(f"{path}: {exc}") from None
        if any(exchange.starts_run for exchange in recording.exchanges):
            agents.append((recording, recording.scenario, recording.head.note))
    if not agents:
        raise RecordingError(f"{folder}: contains no recording of a turn (*.jsonl)")
    return RecordedLetta(agents, _conflict(), Pace(most=float("inf") if keep_pauses else 0.0))


def _conflict() -> RecordedExchange:
    scenario, x = _CONFLICT
    return next(item for item in read_sample(scenario).exchanges if item.x == x)
