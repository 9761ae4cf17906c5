"""A stand-in for Letta whose agents have tools, which turns change; every request can fail."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import orjson
from attrs import define, field

from drive import AGENT_ID, DONE, JSON, PING, SSE, USAGE, encode, make_turn, say, stop
from sansio_letta import Config, Signal, Turn, TurnRequest
from sansio_letta.errors import Failure
from sansio_letta.turn.agent import Agent
from sansio_letta.turn.events import Event
from sansio_letta.turn.request import Tool
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.agents import to_agent
from sansio_letta.upstreams.rest.attached_tools import offer_attached
from sansio_letta.upstreams.rest.commands import (
    AnswerCalls,
    CancelRun,
    ChangeToolbox,
    Command,
    DeleteTool,
    FetchAgent,
    FetchKept,
    FetchMessages,
    FetchRun,
    FetchToolbox,
    FetchUsage,
    FindAgent,
    FindRuns,
    FindToolboxes,
    FindTools,
    MakeTool,
    OpenStream,
    SearchTools,
)
from sansio_letta.upstreams.rest.response import Response
from sansio_letta.upstreams.rest.tool_attachment import sweep_tools

NOW = 1_795_332_551
SAYING: dict[str, Any] = {"id": "tool-say", "name": "send_message", "tags": ["letta_core"]}
READ = Tool(name="read_file", description="Reads.", parameters={"type": "object", "properties": {}})

Message = dict[str, Any] | str
HELLO: tuple[Message, ...] = (PING, say("Hello"), stop(), USAGE, DONE)


def agent(agent_type: str = "memgpt_v2_agent", agent_id: str = AGENT_ID) -> Agent:
    """An agent of a type."""
    return to_agent(letta.Agent(id=agent_id, name="Milo", agent_type=agent_type))


def name_of(tool: Tool) -> str:
    """What a client's tool is called at Letta."""
    return offer_attached([tool], adds_arguments=True)[0].tool.name


def calling(call_id: str, name: str, arguments: str = '{"city": "Rome", "request_heartbeat": true}') -> Message:
    """A call that waits, as a legacy agent tells it."""
    call = {"tool_call_id": call_id, "name": name, "arguments": arguments}
    return {"message_type": "approval_request_message", "id": "message-2", "tool_calls": [call]}


def stopped_by(*messages: Message) -> tuple[Message, ...]:
    """A run that waits in its end."""
    return (PING, *messages, stop("requires_approval"), USAGE, DONE)


Broken = Callable[[Command], Failure | int | None]


@define
class LegacyLetta:
    """Letta's agents and tools.

    :param runs: the streams of the runs that will be asked for.
    :param breaks: how a question goes wrong: as an exchange, or with a status; None: it does not. What is asked
        is not done then.
    :param listed: the last messages of an agent's thread, the oldest first.
    :param loses: questions whose answers are lost on their way: what is asked is done.
    """

    runs: list[Sequence[Message]] = field(factory=list)
    breaks: Broken = lambda _: None
    loses: type[Command] | None = None
    listed: Sequence[Message] = ()
    agent_type: str = "memgpt_v2_agent"
    agents: dict[str, dict[str, Any]] = field(init=False)
    tools: dict[str, dict[str, Any]] = field(init=False)
    pending: dict[str, Any] | None = field(default=None, init=False)
    kept: list[Message] = field(factory=list, init=False)  #: of the last run, as the books have it
    asked: list[Command] = field(factory=list, init=False)
    told: list[Event] = field(factory=list, init=False)
    _count: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.agents, self.tools = {}, {SAYING["id"]: SAYING}
        self.add_agent(AGENT_ID)

    def add_agent(self, agent_id: str) -> None:
        """An agent as it is before anybody lends it anything."""
        self.agents[agent_id] = {
            "tool_ids": [SAYING["id"]],
            "tool_rules": [{"tool_name": "send_message", "type": "exit_loop", "prompt_template": None}],
            "tags": ["mine"],
        }

    @property
    def state(self) -> str:
        """All that could be forgotten."""
        return repr((self.agents, sorted(self.tools)))

    @property
    def equipment(self) -> str:
        """What the agents have: no tool of a client's once a turn is over."""
        return repr(self.agents)

    def wait_for(self, call_id: str, name: str) -> None:
        """The agent waits for the answer to a call."""
        calls = [{"tool_call_id": call_id, "name": name, "arguments": "{}"}]
        self.pending = {"id": "message-2", "tool_calls": calls}

    def has(self, *tools: Tool, agent_id: str = AGENT_ID) -> bool:
        """Whether the agent has these tools of a client's, with their rules, and no others."""
        described = self.agents[agent_id]
        names = {self.tools[tool_id]["name"] for tool_id in described["tool_ids"]} - {"send_message"}
        rules = {rule["tool_name"] for rule in described["tool_rules"]} - {"send_message"}
        return names == rules == {name_of(tool) for tool in tools}

    # --- Answering ----------------------------------------------------------------------------------------

    def drive(self, turn: Turn, *, until: type[Command] | None = None) -> None:
        """Answer all that a turn asks, until it asks this, or has ended."""
        for command in self._commands(turn):
            if until is not None and isinstance(command, until):
                return
            self.answer(turn, command)

    def _commands(self, turn: Turn) -> Iterator[Command]:
        while (item := turn.next_event()) not in (Signal.FINISHED, Signal.NEED_DATA):
            if item is Signal.WAITING:
                turn.end_pause()
            elif isinstance(item, Event):
                self.told.append(item)
            elif isinstance(item, FindRuns):
                # Before each run; nothing comes of it.
                _reply(turn, [], 200)
            else:
                assert not isinstance(item, Signal)
                self.asked.append(item)
                yield item

    def answer(self, turn: Turn, command: Command) -> None:
        """Answer one question."""
        match self.breaks(command):
            case Failure() as failure:
                turn.receive_failure(failure, "as the test wants it")
            case int(status):
                _reply(turn, {"detail": "as the test wants it"}, status)
            case _ if isinstance(command, OpenStream):
                turn.receive_response(200, SSE)
                turn.receive_data(b"".join(encode(message) for message in self.runs.pop(0)))
                turn.receive_data(b"")
            case _ if self.loses is not None and isinstance(command, self.loses):
                self._do(command)
                turn.receive_failure(Failure.BROKEN, "as the test wants it")
            case _:
                _reply(turn, *self._do(command))

    def _do(self, command: Command) -> tuple[object, int]:
        match command:
            case FindAgent():
                return [self._show(agent_id) for agent_id in self.agents], 200
            case FetchAgent(agent_id=agent_id) | FetchToolbox(agent_id=agent_id):
                known = agent_id in self.agents
                return (self._show(agent_id), 200) if known else ({"detail": "not found"}, 404)
            case FetchMessages():
                return self.listed, 200
            case FindToolboxes(tag=tag):
                return [self._show(each) for each, raw in self.agents.items() if tag in raw["tags"]], 200
            case ChangeToolbox(toolbox=toolbox):
                ids = [tool.id for tool in toolbox.tools]
                if not self.tools.keys() >= set(ids):
                    return {"detail": "violates foreign key constraint"}, 409
                raw = orjson.loads(command.body)
                assert raw["tool_ids"] == ids
                self.agents[toolbox.agent_id] = raw
                return self._show(toolbox.agent_id), 200
            case FindTools(names=names):
                return [tool for tool in self.tools.values() if tool["name"] in names], 200
            case SearchTools(text=text):
                return [tool for tool in self.tools.values() if text in tool["name"]], 200
            case MakeTool(tool=tool, tags=tags):
                same = [raw for raw in self.tools.values() if raw["name"] == tool.name]
                self._count += 1
                made = {"id": f"tool-{self._count}", "name": tool.name} if not same else same[0]
                self.tools[made["id"]] = made | {"tags": list(tags)}
                return self.tools[made["id"]], 200
            case DeleteTool(tool_id=tool_id):
                if self.tools.pop(tool_id, None) is None:
                    return {"detail": "not found"}, 404
                for raw in self.agents.values():
                    raw["tool_ids"] = [each for each in raw["tool_ids"] if each != tool_id]
                return None, 200
            case AnswerCalls():
                self.pending = None
                return {"messages": []}, 200
            case FetchRun(run_id=run_id):
                return {"id": run_id, "status": "completed", "stop_reason": "requires_approval"}, 200
            case FetchKept():
                return self.kept, 200
            case FetchUsage():
                return USAGE, 200
            case CancelRun(run_id=run_id):
                return {run_id: "cancelled"}, 200
        raise AssertionError(f"{command} was not expected")

    def _show(self, agent_id: str) -> dict[str, Any]:
        raw = self.agents[agent_id]
        return {
            "id": agent_id,
            "name": "Milo",
            "agent_type": self.agent_type,
            "pending_approval": self.pending,
            "tools": [self.tools[tool_id] for tool_id in raw["tool_ids"]],
            "tool_rules": raw["tool_rules"],
            "tags": raw["tags"],
        }

    def sweep(self, now: int, *, names: Collection[str] = ()) -> None:
        """What a server does every now and then; at its end with the names of what it has made."""
        cleaning = sweep_tools(now, names=names)
        answer: Response | None = None
        while True:
            try:
                command = cleaning.send(answer)
            except StopIteration:
                return
            value, status = self._do(command)
            answer = answer_of(value, status)


def _reply(turn: Turn, value: object, status: int) -> None:
    turn.receive_response(status, JSON)
    turn.receive_data(orjson.dumps(value))
    turn.receive_data(b"")


def answer_of(value: object, status: int = 200) -> Response:
    """A whole answer of Letta's."""
    answer = Response(status=status, headers=JSON, max_size=1_000_000)
    answer.receive_data(orjson.dumps(value))
    return answer


def turn_of(
    turn_request: TurnRequest,
    *,
    token: str = "t1",
    created: int = NOW,
    agent_type: str = "memgpt_v2_agent",
    **more: Any,
) -> Turn:
    """A turn with an agent that the proxy knows."""
    config = more.pop("config", Config(connect_retry_timeout=0))
    return make_turn(turn_request, config, agent(agent_type), token=token, created=created, **more)
