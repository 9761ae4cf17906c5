"""An App Server of some two hundred lines, as far as the proxy uses it: its states, its orders of frames.

It was written after transcripts of Letta Code 0.34.12. Its model does as the last user text says, a command a
line: ``say TEXT``, ``think TEXT``, ``call NAME JSON``, ``fail STATUS``, ``retry``; ``failonce`` and
``retryonce`` the first time alone; ``then`` begins the next step.
"""

from collections import deque
from typing import Any, Final

import orjson
from attrs import define, field

from sansio_letta.upstreams.app_server.sockets import Channel

Json = dict[str, Any]
#: What each step of the model costs.
USAGE: Final = {
    "prompt_tokens": 90,
    "cached_input_tokens": 10,
    "completion_tokens": 20,
    "total_tokens": 120,
    "reasoning_tokens": 5,
    "context_tokens": 120,
}
#: The pieces of a reply that have a number within their run.
NUMBERED: Final = frozenset(
    {
        "assistant_message",
        "reasoning_message",
        "approval_request_message",
        "usage_statistics",
        "stop_reason",
        "error_message",
        "event_message",
    }
)


@define(eq=False)
class Talk:
    """One conversation."""

    id: str
    agent_id: str
    summary: str | None
    messages: list[Json] = field(factory=list)  #: as they are listed
    archived: bool = False
    mode: str = "unrestricted"
    is_running: bool = False
    is_dead: bool = False
    steps: deque[list[str]] = field(factory=deque)  #: that the model has yet to take in this turn
    asked: deque[Json] = field(factory=deque)  #: calls that are yet to be decided, the first is asked about
    allowed: deque[Json] = field(factory=deque)  #: calls to be carried out by a client
    open_call: Json | None = None  #: the one that a client was asked to carry out
    queue: list[Json] = field(factory=list)  #: messages that wait
    run_number: int = 0  #: of the model's step
    piece_number: int = 0  #: within that
    tools: dict[Channel, list[str]] = field(factory=dict)
    allowlist: list[str] | None = None
    followers: set[Channel] = field(factory=set)
    was_aborted: bool = False  #: the agent is told so before the next input
    begun_with: list[Json] = field(factory=list)  #: messages of the turn under way
    runs_again: bool = False  #: the server was restarted during the turn


@define(eq=False)
class FakeAppServer:
    """Answers frames; what it sends is in `outbox`, a pair of a socket and a frame each."""

    agents: list[Json] = field(factory=lambda: [{"id": AGENT_ID, "name": "Milo", "llm_config": {}}])
    talks: dict[str, Talk] = field(factory=dict)
    outbox: list[tuple[Channel, Json]] = field(factory=list)
    received: list[Json] = field(factory=list)
    open: set[Channel] = field(factory=set)
    memory_directory: str = "/home/x/.letta/memory"
    carried_out: list[tuple[str, Json]] = field(factory=list)  #: calls of the agent's own tools
    pause: bool = False  #: the model says nothing until it is False again
    sequences: dict[Channel, int] = field(factory=dict)
    turn_number: int = 0
    ignores_aborts: bool = False  #: a turn that was aborted does not end
    failed: set[str] = field(factory=set)  #: commands that have failed once

    # --- Sockets

    def connect(self, channel: Channel) -> None:
        self.open.add(channel)
        self.sequences[channel] = 0
        for talk in self.talks.values():
            if talk.asked:
                self._to(channel, self._permission(talk))

    def lose(self, channel: Channel) -> None:
        """A socket was lost: what nobody follows any more ends."""
        self.open.discard(channel)
        for talk in self.talks.values():
            talk.followers.discard(channel)
            talk.tools.pop(channel, None)
            if talk.is_running and not talk.followers:
                if talk.asked or talk.open_call:
                    self._return(talk, None, "User interrupted the stream", "error")
                    self._reset(talk)
                else:
                    talk.is_dead = True

    def restart(self) -> None:
        """The server was restarted: what ran is run again, when the conversation is started or spoken to."""
        self.open.clear()
        for talk in self.talks.values():
            talk.followers.clear()
            talk.tools.clear()
            talk.is_dead, talk.runs_again = False, talk.runs_again or talk.is_running
            self._reset(talk)

    def _run_again(self, talk: Talk) -> None:
        if talk.runs_again:
            talk.runs_again, talk.queue = False, [*talk.begun_with, *talk.queue]
            self._show_queue(talk)
            for call in self._unanswered(talk):
                self._return(talk, call, "Turn did not complete", "error")
            self._take_queue(talk)

    def _unanswered(self, talk: Talk) -> list[Json]:
        returned = {each.get("tool_call_id") for each in talk.messages}
        calls = [each["tool_call"] for each in talk.messages if "tool_call" in each]
        return [call for call in calls if call["tool_call_id"] not in returned]

    def take(self) -> list[tuple[Channel, bytes]]:
        """What it has sent since."""
        taken = [(channel, orjson.dumps(frame)) for channel, frame in self.outbox if channel in self.open]
        self.outbox.clear()
        return taken

    def receive(self, channel: Channel, data: bytes) -> None:
        """A frame has arrived."""
        frame = orjson.loads(data)
        self.received.append(frame)
        handler = getattr(self, f"_{frame['type']}", None)
        if handler is not None:
            handler(channel, frame)

    def _to(self, channel: Channel, frame: Json) -> None:
        self.outbox.append((channel, frame))

    def _answer(self, channel: Channel, frame: Json, **body: Any) -> None:
        kind = f"{frame['type']}_response"
        self._to(channel, {"type": kind, "request_id": frame["request_id"], "success": True, **body})

    def _refuse(self, channel: Channel, frame: Json, error: str) -> None:
        self._answer(channel, frame, success=False, error=error)

    def _tell(self, talk: Talk, frame: Json) -> None:
        runtime = {"agent_id": talk.agent_id, "conversation_id": talk.id}
        for channel in sorted(talk.followers & self.open, key=lambda each: each.value, reverse=True):
            self.sequences[channel] += 1
            self._to(channel, {**frame, "runtime": runtime, "event_seq": self.sequences[channel]})

    def _delta(self, talk: Talk, kind: str, **body: Any) -> None:
        delta = {"message_type": kind, **body}
        if kind in NUMBERED:
            talk.piece_number += 1
            delta |= {"run_id": f"run-{talk.id}-{talk.run_number}", "seq_id": talk.piece_number}
        self._tell(talk, {"type": "stream_delta", "delta": delta})

    # --- Looking

    def _app_server_info(self, channel: Channel, frame: Json) -> None:
        self._answer(channel, frame, letta_code_version="0.34.12", backend="local", protocol_version=1)

    def _agent_list(self, channel: Channel, frame: Json) -> None:
        query = frame.get("query") or {}
        text, limit, after = query.get("query_text", "").lower(), query.get("limit", 20), query.get("after")
        found = [agent for agent in self.agents if text in agent["name"].lower() or text in agent["id"]]
        if after is not None:
            found = found[[agent["id"] for agent in found].index(after) + 1 :]
        self._answer(channel, frame, agents=found[:limit])

    def _agent_retrieve(self, channel: Channel, frame: Json) -> None:
        found = [agent for agent in self.agents if agent["id"] == frame["agent_id"]]
        if found:
            self._answer(channel, frame, agent=found[0])
        else:
            self._refuse(channel, frame, f"Agent {frame['agent_id']} not found")

    def _conversation_list(self, channel: Channel, frame: Json) -> None:
        query = frame["query"]
        found = [
            self._describe(talk)
            for talk in reversed(self.talks.values())
            if talk.agent_id == query["agent_id"] and query.get("summary_search", "") in (talk.summary or "")
        ]
        self._answer(channel, frame, conversations=found[: query.get("limit", 20)])

    def _describe(self, talk: Talk) -> Json:
        number = int(talk.id.rpartition("-")[2])
        created = f"2026-11-27T20:00:{number:02}.000Z"
        return {"id": talk.id, "agent_id": talk.agent_id, "summary": talk.summary, "created_at": created}

    def _conversation_create(self, channel: Channel, frame: Json) -> None:
        body = frame["body"]
        talk = self.add_talk(body["agent_id"], body.get("summary"))
        self._answer(channel, frame, conversation=self._describe(talk))

    def add_talk(self, agent_id: str, summary: str | None) -> Talk:
        talk = Talk(f"local-conv-{len(self.talks) + 1}", agent_id, summary)
        self.talks[talk.id] = talk
        return talk

    def _conversation_retrieve(self, channel: Channel, frame: Json) -> None:
        if (talk := self._talk_or_refuse(channel, frame, frame["conversation_id"])) is not None:
            self._answer(channel, frame, conversation=self._describe(talk))

    def _conversation_update(self, channel: Channel, frame: Json) -> None:
        if (talk := self._talk_or_refuse(channel, frame, frame["conversation_id"])) is not None:
            talk.archived = frame["body"].get("archived", talk.archived)
            talk.summary = frame["body"].get("summary", talk.summary)
            self._answer(channel, frame, conversation=self._describe(talk))

    def _conversation_fork(self, channel: Channel, frame: Json) -> None:
        if (talk := self._talk_or_refuse(channel, frame, frame["conversation_id"])) is not None:
            forked = self.add_talk(talk.agent_id, talk.summary)
            forked.messages = list(talk.messages)
            self._answer(channel, frame, conversation={"id": forked.id})

    def _conversation_messages_list(self, channel: Channel, frame: Json) -> None:
        if (talk := self._talk_or_refuse(channel, frame, frame["conversation_id"])) is not None:
            limit = frame["query"]["limit"]
            self._answer(channel, frame, messages=talk.messages[::-1][:limit])

    def _talk_or_refuse(self, channel: Channel, frame: Json, ident: str) -> Talk | None:
        if ident in self.talks:
            return self.talks[ident]
        self._refuse(channel, frame, f"Conversation {ident} not found")
        return None

    # --- Following

    def _runtime_start(self, channel: Channel, frame: Json) -> None:
        talk = self._talk_or_refuse(channel, frame, frame["conversation_id"])
        if talk is None:
            return
        talk.followers.add(channel)
        talk.mode = frame.get("mode", talk.mode)
        offered = [tool for group in frame.get("external_tools", ()) for tool in group["tools"]]
        if not all({"description", "parameters"} <= tool.keys() for tool in offered):
            return  # dropped without an answer, as the real one does
        talk.tools[channel] = [tool["name"] for tool in offered]
        self._answer(channel, frame, runtime={"agent_id": talk.agent_id, "conversation_id": talk.id})
        self._replay(talk)
        self._run_again(talk)

    def _sync(self, channel: Channel, frame: Json) -> None:
        talk = self.talks[frame["runtime"]["conversation_id"]]
        talk.followers.add(channel)
        if talk.asked:
            self._to(channel, self._permission(talk))
        self._replay(talk)
        self._answer(channel, frame)

    def _replay(self, talk: Talk) -> None:
        status = {"memory_directory": self.memory_directory, "pending_control_requests": []}
        self._tell(talk, {"type": "update_device_status", "device_status": status})
        self._loop(talk)

    def _loop(self, talk: Talk) -> None:
        status = "PROCESSING_API_RESPONSE" if talk.is_running else "WAITING_ON_INPUT"
        self._tell(talk, {"type": "update_loop_status", "loop_status": {"status": status}})

    # --- Speaking

    def _input(self, channel: Channel, frame: Json) -> None:
        talk, payload = self.talks[frame["runtime"]["conversation_id"]], frame["payload"]
        talk.followers.add(channel)
        accepted = {"type": "input_accepted", "request_id": frame["request_id"], "accepted": True}
        if payload["kind"] == "approval_response":
            self._to(channel, accepted)
            self._decide(talk, payload)
            return
        known = {message.get("otid") for message in talk.messages}
        messages = [each for each in payload["messages"] if each["client_message_id"] not in known]
        self._run_again(talk)
        if talk.is_running:
            talk.queue += messages
            self._to(channel, {**accepted, "disposition": "queued"})
            self._show_queue(talk)
            return
        self._to(channel, {**accepted, "disposition": "started"})
        if payload["messages"] and not messages:
            return  # had within the hour: nothing happens, and no frame comes
        talk.is_running = True
        talk.allowlist = payload.get("client_tool_allowlist")
        self._replay(talk)
        if talk.is_dead:
            talk.is_running = False
            error = f"Conversation {talk.id} already has an active run (local-run-1)"
            self._tell(
                talk,
                {"type": "turn_finished", "turn_id": self._turn_id(), "stop_reason": "error", "error": error},
            )
            return
        if not payload["messages"]:
            self._rewind(talk)
        self._hear(talk, messages)
        self._think(talk)

    def _rewind(self, talk: Talk) -> None:
        """An input without messages: a reply that comes last is made again."""
        if not talk.was_aborted:
            while talk.messages and talk.messages[-1]["message_type"] == "assistant_message":
                talk.messages.pop()

    def _show_queue(self, talk: Talk) -> None:
        items = [
            {"id": f"q-{index}", "client_message_id": each["client_message_id"]}
            for index, each in enumerate(talk.queue)
        ]
        self._tell(talk, {"type": "update_queue", "queue": items, "removed": []})

    def _remove_queue_item(self, channel: Channel, frame: Json) -> None:
        talk = self.talks[frame["runtime"]["conversation_id"]]
        del talk.queue[int(frame["item_id"].removeprefix("q-"))]
        self._answer(channel, frame, item_id=frame["item_id"])
        self._show_queue(talk)

    def _hear(self, talk: Talk, messages: list[Json]) -> None:
        talk.begun_with = messages or talk.begun_with
        if talk.was_aborted:
            talk.was_aborted = False
            talk.messages.append(
                {"message_type": "user_message", "content": [_text(INTERRUPTED)], "otid": UUID}
            )
        for message in messages:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            if not any(each["message_type"] == "user_message" for each in talk.messages):
                parts = [{"type": "text", "text": "<system-reminder>\nDevice.\n</system-reminder>"}, *parts]
            listed = {"message_type": "user_message", "content": parts, "otid": message["client_message_id"]}
            talk.messages.append(listed)
        texts = [part["text"] for each in talk.messages[-1:] for part in each.get("content", ())]
        if talk.messages and talk.messages[-1]["message_type"] == "user_message":
            lines = texts[-1].splitlines()
            steps: list[list[str]] = [[]]
            for line in lines:
                if line == "then":
                    steps.append([])
                else:
                    steps[-1].append(line)
            talk.steps = deque(steps)

    def go_on(self) -> None:
        """The model speaks again."""
        self.pause = False
        for talk in self.talks.values():
            if talk.is_running and not talk.asked and not talk.open_call:
                self._think(talk)

    def _think(self, talk: Talk) -> None:
        if self.pause:
            return
        talk.run_number, talk.piece_number = talk.run_number + 1, 0
        returned = self._last_returns(talk)
        lines = talk.steps.popleft() if talk.steps else [f"say results: {' | '.join(returned)}"]
        text = ""
        calls: list[Json] = []
        for line in lines:
            word, _, rest = line.partition(" ")
            match word:
                case "say":
                    text += rest
                    self._delta(talk, "assistant_message", id="m:assistant", content=[_text(rest)])
                case "think":
                    self._delta(talk, "reasoning_message", id="m:reasoning", reasoning=rest)
                case "call":
                    name, _, arguments = rest.partition(" ")
                    calls.append({"tool_call_id": f"call-{len(talk.messages)}-{len(calls)}", "name": name})
                    calls[-1]["arguments"] = arguments or "{}"
                case "fail":
                    self._fail(talk, rest)
                    return
                case "failonce" if line not in self.failed:
                    self.failed.add(line)
                    self._fail(talk, rest)
                    return
                case "retryonce" if line in self.failed:
                    pass
                case "retry" | "retryonce":
                    self.failed.add(line)
                    if text:
                        said = {"message_type": "assistant_message", "content": [_text(text)]}
                        talk.messages.append(said)
                    self._delta(talk, "retry", reason="llm_api_error", message="retrying...")
                    return
        if text:
            talk.messages.append({"message_type": "assistant_message", "content": [_text(text)]})
        for call in calls:
            self._delta(talk, "approval_request_message", tool_call=call)
            talk.messages.append({"message_type": "approval_request_message", "tool_call": call})
        self._delta(talk, "usage_statistics", **USAGE)
        self._delta(talk, "stop_reason", stop_reason="requires_approval" if calls else "end_turn")
        if not calls:
            self._finish(talk, "end_turn")
            return
        is_known = {
            call["tool_call_id"]: self._is_offered(talk, call["name"]) and "bad" not in call["arguments"]
            for call in calls
        }
        ids = [ident for ident, known in is_known.items() if known]
        denied = [ident for ident, known in is_known.items() if not known]
        lists = {
            "user_input_tool_call_ids": ids,
            "auto_allowed_tool_call_ids": [],
            "auto_denied_tool_call_ids": denied,
        }
        self._delta(talk, "approval_classification_end", **lists)
        for call in calls:
            if not is_known[call["tool_call_id"]]:
                self._return(talk, call, f"{call['name']} is not offered, or lacks a parameter", "error")
        talk.asked = deque(call for call in calls if is_known[call["tool_call_id"]])
        self._ask(talk)

    def _is_offered(self, talk: Talk, name: str) -> bool:
        return talk.allowlist is None or name in talk.allowlist

    def _last_returns(self, talk: Talk) -> list[str]:
        found: list[str] = []
        for message in reversed(talk.messages):
            if message["message_type"] != "tool_return_message":
                break
            found.append(message["tool_return"])
        return found[::-1]

    def _fail(self, talk: Talk, status: str) -> None:
        body = orjson.dumps({"message": "Scripted failure.", "type": "invalid_request_error"}).decode()
        self._delta(talk, "error_message", error_type="llm_error", message=f"{status}: {body}")
        self._delta(talk, "stop_reason", stop_reason="error")
        self._finish(talk, "error", error="{}")

    def _finish(self, talk: Talk, reason: str, **body: Any) -> None:
        self._reset(talk)
        self._loop(talk)
        self._tell(talk, {"type": "turn_finished", "turn_id": self._turn_id(), "stop_reason": reason, **body})
        self._take_queue(talk)

    def _take_queue(self, talk: Talk) -> None:
        if talk.queue:
            messages, talk.queue, talk.is_running = talk.queue, [], True
            self._show_queue(talk)
            self._hear(talk, messages)
            self._think(talk)

    def _turn_id(self) -> str:
        self.turn_number += 1
        return f"turn-{self.turn_number}"

    def _reset(self, talk: Talk) -> None:
        talk.is_running, talk.open_call = False, None
        talk.asked.clear()
        talk.allowed.clear()
        talk.steps.clear()

    # --- Calls

    def _permission(self, talk: Talk) -> Json:
        call = talk.asked[0]
        request = {"subtype": "can_use_tool", "tool_name": call["name"], "tool_call_id": call["tool_call_id"]}
        request["input"] = orjson.loads(call["arguments"])
        runtime = {"agent_id": talk.agent_id, "conversation_id": talk.id}
        return {
            "type": "control_request",
            "request_id": f"perm-{call['tool_call_id']}",
            "request": request,
            "runtime": runtime,
        }

    def _ask(self, talk: Talk) -> None:
        if talk.asked:
            for channel in sorted(talk.followers & self.open, key=lambda each: each.value, reverse=True):
                self._to(channel, self._permission(talk))
        elif talk.allowed:
            self._carry_out(talk)
        else:
            if talk.queue:
                messages, talk.queue = talk.queue, []
                self._show_queue(talk)
                self._hear(talk, messages)
            self._think(talk)

    def _decide(self, talk: Talk, payload: Json) -> None:
        if not talk.asked or payload["request_id"] != f"perm-{talk.asked[0]['tool_call_id']}":
            return
        call, decision = talk.asked.popleft(), payload["decision"]
        if decision["behavior"] == "deny":
            self._return(talk, call, decision["message"], "error")
        else:
            talk.allowed.append(call)
        self._ask(talk)

    def _carry_out(self, talk: Talk) -> None:
        call = talk.allowed.popleft()
        owners = [channel for channel, names in talk.tools.items() if call["name"] in names]
        if not owners:
            self.carried_out.append((call["name"], orjson.loads(call["arguments"])))
            self._return(talk, call, f"{call['name']} done", "success")
            self._ask(talk)
            return
        talk.open_call = {**call, "request_id": f"external-{call['tool_call_id']}"}
        self._to(
            owners[0],
            {
                "type": "external_tool_call_request",
                "request_id": talk.open_call["request_id"],
                "runtime": {"agent_id": talk.agent_id, "conversation_id": talk.id},
                "tool_call_id": call["tool_call_id"],
                "tool_name": call["name"],
                "input": orjson.loads(call["arguments"]),
            },
        )

    def _external_tool_call_response(self, channel: Channel, frame: Json) -> None:
        for talk in self.talks.values():
            call = talk.open_call
            if call is not None and call["request_id"] == frame["request_id"]:
                talk.open_call = None
                result = frame.get("result")
                text = (
                    result["content"][0]["text"]
                    if result
                    else f"External tool execution error: {frame['error']}"
                )
                failed = result is None or result.get("is_error")
                self._return(talk, call, text, "error" if failed else "success")
                self._ask(talk)

    def _return(self, talk: Talk, call: Json | None, text: str, status: str) -> None:
        calls = [call] if call is not None else [*talk.asked, *([talk.open_call] if talk.open_call else [])]
        for each in calls:
            body = {"tool_call_id": each["tool_call_id"], "status": status, "tool_return": text}
            talk.messages.append({"message_type": "tool_return_message", **body})
            self._delta(talk, "tool_return_message", **body)

    def _abort_message(self, channel: Channel, frame: Json) -> None:
        talk = self.talks[frame["runtime"]["conversation_id"]]
        was_running = talk.is_running
        self._answer(channel, frame, aborted=was_running)
        if was_running and talk.open_call is None and not self.ignores_aborts:
            if talk.asked:
                self._return(talk, None, "Interrupted by user", "error")
            talk.was_aborted = True
            self._finish(talk, "cancelled")


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


#: What the server tells the agent behind a turn that was cancelled, and the id of that message.
INTERRUPTED: Final = "<system-reminder>The user interrupted the active stream.</system-reminder>\n"
UUID: Final = "7976b8bb-e9ec-4590-8f9d-99bf0a40f776"
AGENT_ID: Final = "agent-local-ce2799fa-45ca-4817-8255-bbf898e02113"
