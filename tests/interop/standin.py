"""A stand-in for Letta behind the real server: agents with scripted runs, and the requests to them."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import orjson
from attrs import define, field

from drive import agent_json
from faults.keeping import Run
from sansio_letta.turn.events import AgentThread
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.commands import (
    CancelRun,
    CheckHealth,
    Command,
    FetchAgent,
    FetchKept,
    FetchMessages,
    FetchRun,
    FetchUsage,
    FindAgent,
    FindRuns,
    ListAgents,
    OpenStream,
)
from server.scripted import Script

_C = TypeVar("_C")

#: Of another conversation: what a client has said before is not searched for in it.
OTHERS = {"message_type": "user_message", "id": "message-0", "content": "Something else."}
PATIENCE = 5.0  # seconds until something that should have happened has not


@define(eq=False)
class StandInAgent:
    """One agent: answers each request for a run with the next of its scripts.

    :param runs: answers to `OpenStream`, in order; one more request is a surprise.
    :param pending: ids of the calls that the agent is waiting for.
    :param waits: what becomes of `pending` with each run.
    :param heard: the last messages of its thread, the oldest first.
    :param book: the run whose stream is lost, as Letta's books have it; None: Letta does not tell.
    """

    id: str
    name: str
    runs: deque[Script]
    pending: tuple[str, ...] = ()
    waits: deque[tuple[str, ...]] = field(factory=deque)
    book: Run | None = None
    heard: list[dict[str, Any]] = field(factory=lambda: [OTHERS])
    commands: list[Command] = field(factory=list, init=False)
    _changed: threading.Condition = field(factory=threading.Condition, init=False)

    @property
    def requests(self) -> list[letta.StreamRequest]:
        """What the agent was told, request by request."""
        return [command.request for command in self.commands if isinstance(command, OpenStream)]

    @property
    def texts(self) -> list[object]:
        """The contents of all messages it was told; approvals have none."""
        return [
            message.content
            for request in self.requests
            for message in request.messages
            if isinstance(message, letta.MessageCreate)
        ]

    def saw(self, kind: type[_C]) -> _C:
        """Wait for a command of this kind.

        :raises AssertionError: if none comes.
        """

        def find() -> _C | None:
            return next((command for command in self.commands if isinstance(command, kind)), None)

        with self._changed:
            found = self._changed.wait_for(find, PATIENCE)
        assert found is not None, f"no {kind.__name__} in {self.commands}"
        return found

    def take(self, command: Command) -> None:
        """Note a command."""
        with self._changed:
            self.commands.append(command)
            self._changed.notify_all()

    def shown(self) -> dict[str, Any]:
        """The agent as Letta shows it."""
        return agent_json(*self.pending) | {"id": self.id, "name": self.name}


@define(eq=False)
class StandInLetta:
    """Carries out the core's commands on its agents; an `Upstream` of the server.

    It has no Redis, and so no runs in the background.
    """

    agents: list[StandInAgent] = field(factory=list, init=False)
    failing: Callable[[], Script] | None = field(default=None, init=False)  #: answers questions about agents
    _count: int = field(default=0, init=False)

    def add(
        self,
        *runs: Script,
        name: str | None = None,
        pending: Sequence[str] = (),
        waits: Sequence[Sequence[str]] = (),
    ) -> StandInAgent:
        """Create an agent, with a name nobody else has unless one is given."""
        self._count += 1
        agent = StandInAgent(
            id=f"agent-00000000-0000-4000-8000-{self._count:012x}",
            name=f"Milo {self._count}" if name is None else name,
            runs=deque(runs),
            pending=tuple(pending),
            waits=deque(map(tuple, waits)),
        )
        self.agents.append(agent)
        return agent

    def reset(self) -> None:
        """Forget all agents; to a server that remembers one it is gone."""
        self.agents.clear()
        self.failing = None

    async def send(self, command: Command) -> Script:
        """See `Upstream.send`."""
        answer = self._answer(command)
        if answer.sending is not None:
            raise answer.sending
        return answer

    def _answer(self, command: Command) -> Script:
        if self.failing is not None and isinstance(command, FindAgent | ListAgents):
            return self.failing()
        match command:
            case FindAgent(name=name):
                found = [agent for agent in self.agents if agent.name == name]
                for agent in found:
                    agent.take(command)
                return _json(FindAgent, [agent.shown() for agent in found])
            case ListAgents(limit=limit, after=after):
                ids = [agent.id for agent in self.agents]
                begin = ids.index(after) + 1 if after else 0
                page = self.agents[begin : begin + limit]
                return _json(ListAgents, [agent.shown() for agent in page])
            case CheckHealth():
                return _json(CheckHealth, {"version": "0.16.7", "status": "ok"})
            case FindRuns():
                return _json(FindRuns, {"detail": "This key may not list runs."}, 403)
            case FetchRun() | FetchKept() | FetchUsage():
                return self._tell(command)
            case (
                FetchAgent(agent_id=agent_id) | FetchMessages(agent_id=agent_id) | CancelRun(agent_id=agent_id)
            ):
                pass
            case OpenStream(request=request) if request.background:
                return _json(OpenStream, {"detail": "Background streaming needs Redis."}, 503)
            case OpenStream(thread=thread):
                assert isinstance(thread, AgentThread)
                agent_id = thread.agent_id
        known = next((agent for agent in self.agents if agent.id == agent_id), None)
        if known is None:
            return _json(type(command), {"detail": "Agent not found"}, 404)
        known.take(command)
        match command:
            case OpenStream():
                assert known.runs, f"a surprise for {known.name}: {command.body!r}"
                if known.waits:
                    known.pending = known.waits.popleft()
                return known.runs.popleft()
            case CancelRun(run_id=run_id):
                return _json(CancelRun, {run_id: "cancelled"})
            case FetchMessages():
                return _json(FetchMessages, known.heard)
            case _:
                return _json(FetchAgent, known.shown())

    def _tell(self, command: FetchRun | FetchKept | FetchUsage) -> Script:
        """What became of a run."""
        books = (agent.book for agent in self.agents)
        run = next((book for book in books if book is not None and book.id == command.run_id), None)
        if run is None:
            return _json(type(command), {"detail": "This key may not read runs."}, 403)
        match command:
            case FetchRun():
                return _json(FetchRun, run.status())
            case FetchKept():
                return _json(FetchKept, run.messages())
            case FetchUsage():
                return _json(FetchUsage, run.usage())


def _json(kind: type[Any], value: object, status: int = 200) -> Script:
    return Script(kind, [orjson.dumps(value)], status=status)


def refuses(status: int, detail: str = "no", *, retry_after: int | None = None) -> Script:
    """Letta answers the request for a run with a status."""
    pause = [("retry-after", str(retry_after))] if retry_after is not None else []
    return Script(
        OpenStream,
        [orjson.dumps({"detail": detail})],
        status=status,
        headers=[("content-type", "application/json"), *pause],
    )
