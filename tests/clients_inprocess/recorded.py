"""Recordings in place of Letta, below a transport of either library."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import orjson
from attrs import define, field

from sansio_letta.recording.format import RecordedExchange
from sansio_letta.recording.reader import read_recording
from sansio_letta.recording.requests import pending_after

RECORDINGS: Final = Path(__file__).parents[2] / "fixtures" / "recordings"


@define(eq=False)
class RecordedAgent:
    """One agent, named like its recording: answers by what kind of input it is given."""

    scenario: str
    number: int
    pending: Any = None
    asked: list[dict[str, Any]] = field(factory=list)  #: the bodies of the requests for a run
    _turns: list[RecordedExchange] = field(init=False)

    def __attrs_post_init__(self) -> None:
        recording = read_recording((RECORDINGS / f"{self.scenario}.jsonl").read_bytes())
        self._turns = [exchange for exchange in recording.exchanges if exchange.starts_run]

    @property
    def id(self) -> str:
        return f"agent-00000000-0000-4000-8000-{self.number:012x}"

    def shown(self) -> dict[str, Any]:
        calls = [] if self.pending is None else self.pending.tool_calls
        waits = {"id": "message-1", "tool_calls": [_call(call) for call in calls], "run_id": None}
        return {
            "id": self.id,
            "name": self.scenario,
            "agent_type": "letta_v1_agent",
            "pending_approval": waits if calls else None,
        }

    def run(self, body: dict[str, Any]) -> RecordedExchange:
        """The recorded turn for this input."""
        self.asked.append(body)
        answers = _answers(body)
        waiting = {call.tool_call_id for call in self.pending.tool_calls} if self.pending else set()
        given = {item["tool_call_id"] for message in body["messages"] for item in message.get("approvals", ())}
        assert given == waiting, f"{given} is answered, {waiting} is waited for"
        turn = next(turn for turn in self._turns if _answers(turn.request.json) == answers)
        self.pending = pending_after(turn)
        return turn


def _answers(body: dict[str, Any]) -> bool:
    return any("approvals" in message for message in body["messages"])


def _call(call: Any) -> dict[str, Any]:
    return {"tool_call_id": call.tool_call_id, "name": call.name, "arguments": call.arguments}


@define(eq=False)
class RecordedLetta:
    """A Letta of some recorded agents.

    :param library: httpx or httpx2.
    """

    library: ModuleType
    agents: dict[str, RecordedAgent] = field(init=False)

    def __attrs_post_init__(self) -> None:
        scenarios = ("client_tool", "parallel_tools", "reasoning")
        self.agents = {name: RecordedAgent(name, number) for number, name in enumerate(scenarios)}

    def transport(self) -> Any:
        """A transport of the library's, for sync and async clients."""
        return type("Recorded", (_Transport, self.library.BaseTransport, self.library.AsyncBaseTransport), {})(
            self
        )

    def answer(self, request: Any) -> Any:
        path, query = request.url.path, request.url.params
        known = {agent.id: agent for agent in self.agents.values()}
        match [request.method, *path.strip("/").split("/")]:
            case ["GET", "v1", "agents"] if "name" in query:
                named = [agent.shown() for agent in known.values() if agent.scenario == query["name"]]
                return self._json(named)
            case ["GET", "v1", "agents"]:
                return self._json([] if "after" in query else [agent.shown() for agent in known.values()])
            case ["GET", "v1", "agents", agent_id] if agent_id in known:
                return self._json(known[agent_id].shown())
            case ["POST", "v1", "agents", agent_id, "messages", "stream"]:
                turn = known[agent_id].run(orjson.loads(request.content))
                bases = (_Body, self.library.SyncByteStream, self.library.AsyncByteStream)
                stream = type("Body", bases, {})([piece.data for piece in turn.data])
                return self.library.Response(turn.status, headers=list(turn.headers), stream=stream)
        raise AssertionError(f"a surprise: {request.method} {request.url}")

    def _json(self, value: object) -> Any:
        return self.library.Response(
            200, content=orjson.dumps(value), headers={"content-type": "application/json"}
        )


class _Transport:
    def __init__(self, letta: RecordedLetta) -> None:
        self._letta = letta

    def handle_request(self, request: Any) -> Any:
        request.read()
        return self._letta.answer(request)

    async def handle_async_request(self, request: Any) -> Any:
        await request.aread()
        return self._letta.answer(request)


class _Body:
    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
