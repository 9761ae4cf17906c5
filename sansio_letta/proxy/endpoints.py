"""Endpoints that need no turn: models, health, readiness, and the clean-up and repair of what is left at Letta.

Each is a generator that yields commands, receives a `Response` for each, and returns its `Reply`. Where the
upstream has no exchanges of its own, it yields `Wait` instead. `HandlerRunner` has the same methods as a turn,
so a transport cannot tell the two apart.
"""

from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeAlias

import orjson
from attrs import define, field

from .._convert import unix_time
from .._signal import Signal
from ..config import Config
from ..dialects import ollama
from ..dialects.models import encode, encode_model, model_list
from ..errors import (
    Failure,
    LettaError,
    LocalProtocolError,
    RequestError,
    SansioLettaError,
    quoted,
    unknown_model,
)
from ..turn.agent import ANYONE, Agent, Caller
from ..turn.events import ConversationThread
from ..turn.thread_queue import no_wake
from ..turn.upstream import Wait
from ..upstreams.rest import letta
from ..upstreams.rest.agents import decode_agents, find_agent, found_agent
from ..upstreams.rest.commands import (
    CancelRun,
    CheckHealth,
    Command,
    DeleteConversation,
    DeleteTool,
    ListAgents,
)
from ..upstreams.rest.conversations import list_conversations
from ..upstreams.rest.lookup import active_runs, read_mark
from ..upstreams.rest.repair import AgentRepair, Finding, Outcome, RepairOptions
from ..upstreams.rest.response import Headers, Response
from ..upstreams.rest.tool_attachment import sweep_tools
from ..upstreams.thread_names import CHAT_MARK, TASK_MARK, chat_key, task_deadline
from .response import Reply, error_reply, json_reply

Handler: TypeAlias = Generator[Command, Response, Reply]
#: A handler that asks an upstream without exchanges of its own, and waits to be woken.
WaitingHandler: TypeAlias = Generator[Any, None, Reply]
#: Begins such a handler; takes what wakes it.
StartHandler: TypeAlias = Callable[[Callable[[], None]], WaitingHandler]


@define
class HandlerRunner:
    """Runs a handler: its commands out, Letta's responses in, the reply at the end.

    :param handler: a handler, or the reply itself if no command is needed.
    :param max_answer_size: maximum size of one response in bytes.
    :param caller: the caller of the request.
    """

    handler: Handler | StartHandler | Reply
    max_answer_size: int
    caller: Caller = ANYONE
    wake: Callable[[], None] = field(default=no_wake, kw_only=True)
    _items: deque[Command | Reply] = field(factory=deque, init=False)
    _response: Response | None = field(default=None, init=False)
    _asking: bool = field(default=False, init=False)
    _waiting: bool = field(default=False, init=False)  #: until the cycle is woken
    _running: Handler | WaitingHandler | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        if isinstance(self.handler, Reply):
            self._end(self.handler)
        else:
            self._running = self.handler(lambda: self.wake()) if callable(self.handler) else self.handler
            self._advance(None)

    def receive_response(self, status: int, headers: Headers) -> None:
        """Receive the status and headers of Letta's response to the last command.

        :raises LocalProtocolError: if no response is awaited.
        """
        if not self._asking or self._response is not None:
            raise LocalProtocolError("receive_response called while no response is awaited")
        self._response = Response(
            status=status,
            headers=headers,
            max_size=self.max_answer_size,
            key_is_clients=self.caller.key_is_lettas,
        )

    def receive_data(self, data: bytes) -> None:
        """Receive bytes of the response's body; ``b""`` is its end.

        :raises LocalProtocolError: if no body is awaited.
        """
        if self._response is None:
            raise LocalProtocolError("receive_data called while no body is awaited")
        if data:
            self._response.receive_data(data)
        else:
            response, self._response = self._response, None
            self._advance(response)

    def receive_failure(self, failure: Failure, reason: str) -> None:
        """Fail the exchange; the handler decides what that means."""
        if not self._asking:
            raise LocalProtocolError("receive_failure called while no exchange is under way")
        self._response = None
        what = "cannot be reached" if failure is Failure.NOT_SENT else "did not answer"
        assert self._running is not None
        self._take(partial(self._running.throw, LettaError(f"Letta {what}: {reason}.")))

    def client_disconnected(self) -> None:
        """Stop, since the client has disconnected; there is nothing to clean up."""
        self._items.clear()
        self._asking = self._waiting = False
        self._response = None

    def shut_down(self, error: SansioLettaError) -> None:
        """Send the client the error, since the process exits, unless the reply is already complete."""
        if self._asking or self._waiting:
            self._items.clear()
            self._response = None
            self._end(error_reply(error))

    def next_event(self) -> Command | Reply | Signal:
        """Return the next command, or the reply, which is the last item."""
        if self._waiting:
            self._waiting = False
            self._advance(None)
        if self._items:
            return self._items.popleft()
        if self._waiting:
            return Signal.WAITING
        return Signal.NEED_DATA if self._asking else Signal.FINISHED

    def _advance(self, response: Response | None) -> None:
        running: Any = self._running
        # Only None can be sent to a generator that has not started.
        self._take(partial(running.send, response))

    def _take(self, resume: Callable[[], Command | Wait]) -> None:
        """Take the handler's next command, or its reply."""
        try:
            step = resume()
            if isinstance(step, Wait):
                self._waiting = True
                return
            self._items.append(step)
            self._asking = True
        except StopIteration as stop:
            self._end(stop.value)
        except SansioLettaError as exc:
            self._end(error_reply(exc))

    def _end(self, reply: Reply) -> None:
        self._asking = self._waiting = False
        self._items.append(reply)


def list_models(config: Config, caller: Caller = ANYONE) -> Handler:
    """`GET /v1/models`: all agents that the caller may use, apart from hidden ones and helpers of others."""
    agents = yield from _list_agents(config, caller)
    return json_reply(encode(model_list(agents)))


def ollama_tags(config: Config, caller: Caller = ANYONE) -> Handler:
    """`GET /api/tags`: the same agents, in the form in which Ollama lists models."""
    agents = yield from _list_agents(config, caller)
    return json_reply(ollama.encode_tags(agents))


def _list_agents(config: Config, caller: Caller) -> Generator[Command, Response, list[Agent]]:
    """Fetch all agents that the caller may use, page by page, since no SDK requests a second page."""
    agents: dict[str, Agent] = {}
    if caller.agents == ():
        return []
    after: str | None = None
    while len(agents) < config.max_agent_count:
        page = decode_agents((yield ListAgents(limit=config.agent_page_count, after=after)).data)
        known = len(agents)
        agents.update((agent.id, agent) for agent in page)
        # Without this, a page without anything new would be requested forever.
        if len(page) < config.agent_page_count or len(agents) == known:
            break
        after = page[-1].id
    shown = [agent for agent in agents.values() if caller.may_use(agent)]
    return shown[: config.max_agent_count]


def retrieve_model(model: str, caller: Caller = ANYONE) -> Handler:
    """`GET /v1/models/{id}`: one agent, under the id in the request."""
    agent = yield from _find(model, caller)
    return json_reply(encode(encode_model(agent, model)))


def ollama_show(model: str, caller: Caller = ANYONE) -> Handler:
    """`POST /api/show`: one agent, in the form in which Ollama shows a model."""
    agent = yield from _find(model, caller)
    return json_reply(ollama.encode_show(agent))


def _find(model: str, caller: Caller) -> Generator[Command, Response, Agent]:
    if caller.agents == ():
        raise unknown_model(model)
    return found_agent(model, (yield find_agent(model)), caller.may_use).agent


def readiness() -> Handler:
    """`GET /ready`: whether Letta responds."""
    try:
        health = letta.decode_health((yield CheckHealth()).data)
    except SansioLettaError as exc:
        return status_reply("unavailable", status=503, reason=exc.message)
    return status_reply("ready", letta=health.version)


def not_ready() -> Reply:
    """`GET /ready` once the process is about to exit: a load balancer sends no more requests."""
    return status_reply("unavailable", status=503, reason="The proxy is shutting down.")


def no_process_died(owner: str) -> bool:
    """Treat every process as alive, if nothing is known about processes."""
    return False


def sweep(
    now: int,
    *,
    turn_timeout: float,
    tool_names: Collection[str] = (),
    has_died: Callable[[str], bool] = no_process_died,
) -> Handler:
    """Clean up after processes that died: cancel runs, delete tools and temporary conversations.

    :param now: Unix time, seconds.
    :param turn_timeout: seconds for which a conversation is kept if it does not say how long it is needed.
    :param tool_names: tools that are deleted although they have not expired.
    :param has_died: see `Proxy.sweep`.
    """
    runs = yield from _sweep_runs(now, has_died)
    tools = yield from _sweep_tools(now, tool_names)
    # Last, because servers without conversations refuse it.
    conversations = yield from _sweep_tasks(now, turn_timeout)
    return status_reply("swept", runs=str(runs), tools=str(tools), conversations=str(conversations))


def _sweep_runs(now: int, has_died: Callable[[str], bool]) -> Generator[Command, Response, int]:
    """Cancel abandoned runs: those of processes that died, and those whose turn must be over."""
    try:
        runs = yield from active_runs()
        marked = [(run, mark) for run in runs if (mark := read_mark(run)) is not None]
        lost = [run for run, mark in marked if mark.until < now or has_died(mark.owner)]
        for run in lost:
            yield CancelRun(agent_id=run.agent_id or "", run_id=run.id)
    except SansioLettaError:
        return 0
    return len(lost)


def _sweep_tools(now: int, names: Collection[str]) -> Generator[Command, Response, int]:
    cleaning, response, count = sweep_tools(now, names=names), None, 0
    while True:
        try:
            command = cleaning.send(response)
        except StopIteration:
            return count
        count += isinstance(command, DeleteTool)
        try:
            response = yield command
        except LettaError:
            response = None


def _sweep_tasks(now: int, turn_timeout: float) -> Generator[Command, Response, int]:
    found = yield from list_conversations(TASK_MARK)
    old = [item for item in found if _is_over(item, now, turn_timeout)]
    for item in old:
        yield DeleteConversation(conversation_id=item.id)
    return len(old)


def _is_over(conversation: letta.Conversation, now: int, turn_timeout: float) -> bool:
    """Return whether the turn that a conversation was created for is over, in any process."""
    until = task_deadline(conversation.summary or "")
    if until is not None:
        return until < now
    return 0 < unix_time(conversation.created_at) < now - int(turn_timeout)


def list_threads(model: str) -> Handler:
    """List an agent's chats, newest first: the key, the conversation's id, and when it was created."""
    agent = found_agent(model, (yield find_agent(model))).agent
    found = yield from list_conversations(CHAT_MARK, agent.id)
    chats = [
        {
            "key": chat_key(item.summary or ""),
            "conversation_id": item.id,
            "created_at": item.created_at,
        }
        for item in found
    ]
    return json_reply(orjson.dumps({"agent_id": agent.id, "chats": chats}))


def repair_agent(
    model: str, options: RepairOptions, config: Config, now: int, has_died: Callable[[str], bool]
) -> Handler:
    """Settle what keeps an agent stuck, and report it.

    :param now: Unix time, in seconds.
    :param has_died: see `Proxy.sweep`.
    """
    try:
        agent = found_agent(model, (yield find_agent(model))).agent
    except RequestError as exc:
        if exc.code != "model_not_found":
            raise
        agents = yield from _list_agents(config, ANYONE)
        raise _no_such_agent(model, (known.name for known in agents)) from exc
    repair = AgentRepair(
        agent=agent,
        options=options,
        now=now,
        call_timeout=config.pending_call_timeout,
        turn_timeout=config.turn_timeout,
        has_died=has_died,
    )
    found = yield from repair.repair()
    return json_reply(
        orjson.dumps(
            {
                "agent_id": agent.id,
                "agent": agent.name,
                "dry_run": options.is_dry_run,
                "remaining": sum(item.outcome is not Outcome.SETTLED for item in found),
                "found": [_encode_finding(item, now) for item in found],
            }
        )
    )


def _encode_finding(found: Finding, now: int) -> dict[str, object]:
    thread, since = found.thread, found.since
    return {
        "kind": found.kind.value,
        "id": found.id,
        "tool": found.tool,
        "conversation_id": thread.conversation_id if isinstance(thread, ConversationThread) else None,
        "chat": found.chat,
        "since": None if since is None else datetime.fromtimestamp(since, UTC).isoformat(),
        "age": None if since is None else max(now - since, 0),
        "remedy": found.remedy,
        "outcome": found.outcome.value,
        "reason": found.reason,
    }


def _no_such_agent(model: str, names: Iterable[str]) -> RequestError:
    by_folded = {name.casefold(): name for name in names}
    near = [by_folded[folded] for folded in get_close_matches(model.casefold(), by_folded)]
    hint = f"Did you mean {' or '.join(map(quoted, near))}?" if near else "Names are exact and case-sensitive."
    return RequestError(
        f"No Letta agent has the name or id {quoted(model)}. {hint}", code="model_not_found", status=404
    )


def health() -> Reply:
    """`GET /health`: the process responds, even if Letta does not."""
    return status_reply("ok")


def ollama_version() -> Reply:
    """`GET /api/version`: for programs that check whether Ollama is recent enough."""
    return json_reply(ollama.encode_version())


def root() -> Reply:
    """`GET /`: for people who open the address in a browser."""
    return status_reply("ok", service="letta-proxy", endpoints=["/v1/chat/completions", "/v1/models"])


def status_reply(word: str, status: int = 200, **more: str | list[str] | None) -> Reply:
    """Make the reply of an endpoint for people and programs that watch."""
    return json_reply(orjson.dumps({"status": word, **more}), status)
