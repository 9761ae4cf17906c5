"""The tests' own frames to the App Server: to create agents, and to see what a turn has stored."""

import contextlib
import itertools
import json
import re
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from attrs import define, field, frozen
from websockets.sync.client import ClientConnection, connect

MODEL: Final = "openai-compatible/gpt-4o-mini"
TIMEOUT: Final = 30.0  # seconds until something expected must have come
POLL_INTERVAL: Final = 0.1
PAGE_COUNT: Final = 1000
_REMINDER: Final = re.compile(r"<system-reminder>.*?</system-reminder>\n?", flags=re.DOTALL)
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Json = dict[str, Any]


@frozen(kw_only=True)
class Agent:
    """An agent of the server; a client names it as its model."""

    id: str
    name: str


@define(eq=False)
class Socket:
    """One socket, and all frames that have come on it."""

    connection: ClientConnection
    frames: list[Json] = field(factory=list)
    _numbers: Iterator[int] = field(factory=lambda: itertools.count(1))

    def ask(self, kind: str, **content: object) -> Json:
        """Send a question and return its answer."""
        request_id = self.send(kind, **content)
        return self.wait_for(lambda frame: frame.get("request_id") == request_id)

    def send(self, kind: str, **content: object) -> str:
        """Send a question without waiting; return its id."""
        frame = {"type": kind, "request_id": f"test-{next(self._numbers)}", **content}
        self.connection.send(json.dumps(frame))
        return str(frame["request_id"])

    def wait_for(
        self, is_it: Callable[[Json], bool], *, since: int | None = None, timeout: float = TIMEOUT
    ) -> Json:
        """Return the first frame that is it, of those to come.

        :param since: the number of a frame that has come already, from which on it is looked for.
        :raises TimeoutError: if none comes.
        """
        for seen in () if since is None else self.frames[since:]:
            if is_it(seen):
                return seen
        deadline = time.monotonic() + timeout
        while True:
            data = self.connection.recv(timeout=max(0.0, deadline - time.monotonic()))
            frame: Json = json.loads(data)
            self.frames.append(frame)
            if is_it(frame):
                return frame


@define(eq=False, kw_only=True)
class Talk:
    """A conversation in which a test speaks for itself, past the proxy."""

    socket: Socket
    agent: Agent
    id: str

    @property
    def runtime(self) -> Json:
        """What names it in a frame."""
        return {"agent_id": self.agent.id, "conversation_id": self.id}

    def start(self, *tools: str) -> Json:
        """Have the socket follow it, with tools to carry out."""
        described = [{"name": name, "description": "", "parameters": {}} for name in tools]
        external = [{"tools": [{**tool, "auto_background": False} for tool in described]}]
        return self.socket.ask("runtime_start", **self.runtime, mode="strict", external_tools=external)

    def say(self, *texts: str, allowed: Sequence[str] = (), message_id: str | None = None) -> Json:
        """Send an input, and return the answer to it; without a text it is empty."""
        ident = message_id or f"test-{uuid.uuid4().hex}"
        messages = [{"role": "user", "content": text, "client_message_id": ident} for text in texts]
        payload = {"kind": "create_message", "messages": messages, "client_tool_allowlist": list(allowed)}
        return self.socket.ask("input", runtime=self.runtime, payload=payload)

    def decide(self, question: Json, **decision: str) -> Json:
        """Answer a question about a call."""
        payload = {"kind": "approval_response", "request_id": question["request_id"], "decision": decision}
        return self.socket.ask("input", runtime=self.runtime, payload=payload)

    def follow(self, since: int = 0) -> Json:
        """Wait for the end of the turn under way."""
        return self.socket.wait_for(self.is_kind("turn_finished"), since=since)

    def turn(self, *texts: str, allowed: Sequence[str] = (), message_id: str | None = None) -> Json:
        """Send an input and wait for the end of its turn."""
        since = len(self.socket.frames)
        self.say(*texts, allowed=allowed, message_id=message_id)
        return self.follow(since)

    def question(self, since: int = 0) -> Json:
        """Wait until the server asks whether a call may be carried out."""
        return self.socket.wait_for(lambda frame: is_question(frame, self.id), since=since)

    def is_kind(self, kind: str) -> Callable[[Json], bool]:
        """Return what recognises this conversation's frames of a kind."""

        def is_it(frame: Json) -> bool:
            runtime = frame.get("runtime") or {}
            return frame["type"] == kind and runtime.get("conversation_id") == self.id

        return is_it


def is_question(frame: Json, conversation: str) -> bool:
    """Whether a frame asks if a call of this conversation may be carried out."""
    return frame["type"] == "control_request" and frame.get("conversation_id") == conversation


@frozen(kw_only=True)
class AppServer:
    """The rig's App Server, and the scripted model behind it."""

    ws_url: str
    model_url: str

    @contextlib.contextmanager
    def socket(self) -> Iterator[Socket]:
        """Open a socket of one's own inside the block."""
        with connect(f"{self.ws_url}/ws", proxy=None, compression=None, max_size=None) as connection:
            yield Socket(connection)

    def ask(self, kind: str, **content: object) -> Json:
        """Ask on a socket of its own, which follows no conversation."""
        with self.socket() as socket:
            answer = socket.ask(kind, **content)
        assert answer["success"], answer
        return answer

    # --- Agents and conversations

    def create_agent(self, name: str) -> Agent:
        """Create an agent whose memory is a folder of files."""
        body = {"name": name, "model": MODEL, "system": "You are a test agent."}
        return Agent(id=self.ask("agent_create", body=body)["agent"]["id"], name=name)

    def delete_agent(self, agent: Agent) -> None:
        """Delete an agent."""
        self.ask("agent_delete", agent_id=agent.id)

    def talk(self, socket: Socket, agent: Agent, *tools: str) -> Talk:
        """Make a conversation, followed by a socket with tools to carry out."""
        created = socket.ask("conversation_create", body={"agent_id": agent.id, "summary": "a test's own"})
        talk = Talk(socket=socket, agent=agent, id=created["conversation"]["id"])
        assert talk.start(*tools)["success"]
        return talk

    def conversations(self, agent: Agent, *, archived: bool = False) -> dict[str, str | None]:
        """Return the agent's conversations that are in use, or those that are not: summaries by ids."""
        query = {"agent_id": agent.id, "limit": PAGE_COUNT}
        found = self.ask("conversation_list", query=query)["conversations"]
        return {item["id"]: item["summary"] for item in found if bool(item.get("archived")) is archived}

    def only_conversation(self, agent: Agent) -> str:
        """Return the only one that is in use."""
        [ident] = self.conversations(agent)
        return ident

    # --- What is stored

    def messages(self, conversation: str) -> list[Json]:
        """Return what a conversation holds as the server lists it, oldest first."""
        query = {"limit": PAGE_COUNT, "order": "desc"}
        answer = self.ask("conversation_messages_list", conversation_id=conversation, query=query)
        found: list[Json] = answer["messages"]
        return found[::-1]

    def history(self, conversation: str) -> list[tuple[str, str]]:
        """Return the same as pairs: ``user``, ``assistant`` or ``result`` with its text, ``call`` with a name.

        What the server puts around a user's text is left out.
        """
        return [entry for message in self.messages(conversation) for entry in _entries(message)]

    def user_texts(self, conversation: str) -> list[str]:
        """Return what the conversation has heard, as often as it was stored."""
        return [text for kind, text in self.history(conversation) if kind == "user"]

    def wait_until_idle(self, agent: Agent, conversation: str) -> None:
        """Wait until no turn is under way."""
        with self.socket() as socket:
            talk = Talk(socket=socket, agent=agent, id=conversation)
            socket.send("sync", runtime=talk.runtime, recover_approvals=False)
            is_status = talk.is_kind("update_loop_status")
            socket.wait_for(lambda f: is_status(f) and f["loop_status"]["status"] == "WAITING_ON_INPUT")

    def asked_count(self, text: str) -> int:
        """Count the requests the model got whose last user text holds this."""
        query = urllib.parse.urlencode({"text": text})
        with _opener.open(f"{self.model_url}/seen?{query}", timeout=TIMEOUT) as response:
            return int(json.load(response)["count"])

    def wait_until_asked(self, text: str) -> None:
        """Wait until the model got such a request."""
        deadline = time.monotonic() + TIMEOUT
        while not self.asked_count(text):
            assert time.monotonic() < deadline, text
            time.sleep(POLL_INTERVAL)


def _entries(message: Json) -> list[tuple[str, str]]:
    match message["message_type"]:
        case "user_message":
            own = _REMINDER.sub("", _text(message["content"])).strip("\n")
            return [("user", own)] if own else []  # the server's own, such as that the user interrupted
        case "assistant_message":
            return [("assistant", _text(message["content"]))]
        case "approval_request_message" | "tool_call_message":
            return [("call", message["tool_call"]["name"])]
        case "tool_return_message":
            return [("result", message["tool_return"])]
    return []


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    assert isinstance(content, list)
    return "\n".join(part["text"] for part in content if part["type"] == "text")
