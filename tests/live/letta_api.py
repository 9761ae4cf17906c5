"""The tests' own requests to Letta: to create agents, and to see what a turn has stored."""

import datetime
import json
import time
import urllib.parse
import urllib.request
from typing import Any, Final

from attrs import frozen

MODEL: Final = "openai-proxy/gpt-4o-mini"
EMBEDDING: Final = "letta/letta-free"
RUN_TIMEOUT: Final = 20.0  # seconds until a run must have ended
POLL_INTERVAL: Final = 0.2
REQUEST_TIMEOUT: Final = 60.0
UNFINISHED: Final = ("created", "running")

Item = dict[str, Any]

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@frozen(kw_only=True)
class Agent:
    """An agent at Letta; a client names it as its model."""

    id: str
    name: str


@frozen(kw_only=True)
class LettaApi:
    """The rig's Letta server, and the scripted model behind it."""

    url: str
    model_url: str

    def create_agent(
        self, name: str, *tags: str, agent_type: str | None = None, enable_sleeptime: bool = False
    ) -> Agent:
        """Create an agent whose model may call several tools at once, and that can note things about a human.

        :param name: any text; Letta refuses most punctuation in a new agent's name, but not in a changed one.
        :param agent_type: by default what Letta gives whoever does not ask.
        :param enable_sleeptime: whether Letta gives it a second agent, which goes with it.
        """
        described: Item = {
            "name": "new",
            "model": MODEL,
            "embedding": EMBEDDING,
            "memory_blocks": [{"label": "human", "value": "The human's name is Sam."}],
            "tags": tags,
            **({"agent_type": agent_type} if agent_type else {}),
            **({"enable_sleeptime": True} if enable_sleeptime else {}),
        }
        ident = self._call("POST", "/v1/agents/", described)["id"]
        settings = {"provider_type": "openai", "parallel_tool_calls": True}
        self._call("PATCH", f"/v1/agents/{ident}", {"name": name, "model_settings": settings})
        return Agent(id=ident, name=name)

    def delete_agent(self, agent: Agent) -> None:
        """Delete an agent with all it remembers."""
        self._call("DELETE", f"/v1/agents/{agent.id}")

    def create_tool(self, source: str, *, needs_approval: bool) -> str:
        """Create a tool of Python source, or change the one of that name, and return its id."""
        described: Item = {
            "source_code": source,
            "source_type": "python",
            "default_requires_approval": needs_approval,
        }
        return str(self._call("PUT", "/v1/tools/", described)["id"])

    def attach_tool(self, agent: Agent, tool_id: str) -> None:
        """Give an agent a tool."""
        self._call("PATCH", f"/v1/agents/{agent.id}/tools/attach/{tool_id}")

    def equipment(self, agent: Agent) -> Item:
        """Return the agent's tools by name, its rules for tools, and its tags."""
        found = self._call("GET", f"/v1/agents/{agent.id}?include=agent.tools&include=agent.tags")
        rules = [(rule["type"], rule["tool_name"]) for rule in found["tool_rules"]]
        return {
            "tools": sorted(tool["name"] for tool in found["tools"]),
            "rules": sorted(rules),
            "tags": sorted(found["tags"]),
        }

    def delete_tool(self, tool_id: str) -> None:
        """Delete a tool; agents lose it."""
        self._call("DELETE", f"/v1/tools/{tool_id}")

    def tool_id(self, name: str) -> str:
        """Return the id of the tool of a name."""
        [found] = self._call("GET", f"/v1/tools/?name={name}")
        return str(found["id"])

    def tool_names(self) -> list[str]:
        """Return the names of all tools that there are, Letta's own among them, sorted."""
        found = self._call("GET", "/v1/tools/?limit=1000")
        return sorted(tool["name"] for tool in found)

    def agents(self, *tags: str) -> list[Agent]:
        """List all agents, or those with one of the tags, page by page."""
        return [Agent(id=found["id"], name=found["name"]) for found in self._agents(*tags)]

    def old_agents(self, tag: str, age: float) -> list[Agent]:
        """List the agents with a tag that were made at least `age` seconds ago."""
        oldest = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age)
        return [
            Agent(id=found["id"], name=found["name"])
            for found in self._agents(tag)
            if datetime.datetime.fromisoformat(found["created_at"]) < oldest
        ]

    def _agents(self, *tags: str) -> list[Item]:
        agents: list[Item] = []
        query = [("limit", "100"), *(("tags", tag) for tag in tags)]
        after: list[tuple[str, str]] = []
        while page := self._call("GET", f"/v1/agents/?{urllib.parse.urlencode([*query, *after])}"):
            agents += page
            after = [("after", agents[-1]["id"])]
        return agents

    def conversations(self, agent: Agent) -> list[str]:
        """Return the ids of the agent's conversations: its threads beside its own."""
        return [found["id"] for found in self._conversations(agent)]

    def create_conversation(self, agent: Agent, summary: str) -> str:
        """Make a conversation, and tell its id."""
        made = self._call("POST", f"/v1/conversations/?agent_id={agent.id}", {"summary": summary})
        return str(made["id"])

    def chats(self, agent: Agent) -> dict[str, str]:
        """Return the same by their summaries, each of which must be one conversation's alone."""
        found = self._conversations(agent)
        chats: dict[str, str] = {item["summary"]: item["id"] for item in found}
        assert len(chats) == len(found), [item["summary"] for item in found]
        return chats

    def history(self, agent: Agent, conversation: str | None = None) -> list[Item]:
        """Return what all threads of an agent hold, or one conversation: oldest first, no instructions."""
        kept = self._messages(agent, conversation)
        return [message for message in kept if message["message_type"] != "system_message"]

    def instructions(self, agent: Agent) -> list[str]:
        """Return what system messages told the agent, its own prompt included, as often as it was kept."""
        kept = self._messages(agent, None)
        return [message["content"] for message in kept if message["message_type"] == "system_message"]

    def thread(self, agent: Agent, conversation: str | None = None) -> list[tuple[str, str]]:
        """Return what a thread holds behind the agent's own prompt, oldest first.

        Each is ``user``, ``system``, ``assistant`` or ``result`` with its text, or ``call`` with a tool's name.
        """
        held = [entry for message in self._messages(agent, conversation) for entry in _entries(message)]
        assert held[0][0] == "system", held[0]
        return held[1:]

    def messages(self, agent: Agent, conversation: str = "default") -> list[Item]:
        """Return what one thread holds as Letta lists it, oldest first; by default the agent's own."""
        if conversation == "default":
            return self._pages(f"/v1/agents/{agent.id}/messages?limit=100&order=asc&conversation_id=default")
        return self._messages(agent, conversation)

    def user_texts(self, agent: Agent, conversation: str | None = None) -> list[Any]:
        """Return what users said to the agent, text or parts, as often as it was kept."""
        return [item["content"] for item in self._kept("user_message", agent, conversation)]

    def speakers(self, agent: Agent) -> list[tuple[str | None, Any]]:
        """Return by what name users spoke, and what they said, as often as it was kept."""
        return [(item["name"], item["content"]) for item in self._kept("user_message", agent, None)]

    def assistant_texts(self, agent: Agent, conversation: str | None = None) -> list[str]:
        """Return what the agent said, as often as it was kept."""
        return [item["content"] for item in self._kept("assistant_message", agent, conversation)]

    def tool_returns(self, agent: Agent, conversation: str | None = None) -> list[tuple[str, str, str]]:
        """Return call id, text and status of each tool result, as often as it was kept."""
        kept = self._kept("tool_return_message", agent, conversation)
        results = [result for item in kept for result in item["tool_returns"]]
        return [(result["tool_call_id"], result["tool_return"], result["status"]) for result in results]

    def tool_calls(self, agent: Agent, conversation: str | None = None) -> list[Item]:
        """Return id, name and arguments of each call of a client's tool, as often as it was kept."""
        kept = self._kept("approval_request_message", agent, conversation)
        return [call for item in kept for call in item["tool_calls"]]

    def pending_call_ids(self, agent: Agent, conversation: str | None = None) -> list[str]:
        """Return the ids of the calls the agent waits for in its own thread, or in a conversation."""
        if conversation is not None:
            path = f"/v1/conversations/{conversation}/messages?limit=1&order=desc"
            return [
                call["tool_call_id"]
                for last in self._call("GET", path)
                if last["message_type"] == "approval_request_message"
                for call in last["tool_calls"]
            ]
        found = self._call("GET", f"/v1/agents/{agent.id}?include=agent.pending_approval")
        pending = found["pending_approval"] or {"tool_calls": []}
        return [call["tool_call_id"] for call in pending["tool_calls"]]

    def memory(self, agent: Agent) -> str:
        """Return what the agent has noted about the human."""
        value = self._call("GET", f"/v1/agents/{agent.id}/core-memory/blocks/human")["value"]
        assert isinstance(value, str)
        return value

    def cancel(self, agent: Agent, run_id: str) -> None:
        """Cancel a run, as somebody else might."""
        self._call("POST", f"/v1/agents/{agent.id}/messages/cancel", {"run_ids": [run_id]})

    def runs(self, agent: Agent) -> list[Item]:
        """Return the agent's runs, oldest first: each is a message that somebody sent to it."""
        runs: list[Item] = self._call("GET", f"/v1/runs/?agent_id={agent.id}&limit=100")
        return sorted(runs, key=lambda run: run["created_at"])

    def failed_runs(self, agent: Agent) -> list[Item]:
        """Return those of the agent's runs that failed."""
        return [run for run in self.runs(agent) if run["status"] == "failed"]

    def ended_runs(self, agent: Agent, *, timeout: float = RUN_TIMEOUT) -> list[Item]:
        """Wait until no run of the agent goes on, and return them all.

        :raises AssertionError: if one still goes on after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            runs = self.runs(agent)
            unfinished = [run["id"] for run in runs if run["status"] in UNFINISHED]
            if not unfinished:
                return runs
            assert time.monotonic() < deadline, f"still going on at Letta after {timeout:.0f} s: {unfinished}"
            time.sleep(POLL_INTERVAL)

    def wait_until_kept(self, agent: Agent, *, timeout: float = RUN_TIMEOUT) -> None:
        """Wait until the agent's own thread has a message.

        A cancelled run is over at once. If its step has come to its end, it is kept some tenths of a second
        later.
        """
        deadline = time.monotonic() + timeout
        while not self.thread(agent):
            assert time.monotonic() < deadline, self.runs(agent)
            time.sleep(POLL_INTERVAL)

    def wait_for_run(self, agent: Agent, *, timeout: float = RUN_TIMEOUT) -> Item:
        """Wait until the agent has a run, and return the newest.

        :raises AssertionError: if there is none after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not (runs := self.runs(agent)):
            assert time.monotonic() < deadline, f"no run at Letta after {timeout:.0f} s"
            time.sleep(POLL_INTERVAL)
        return runs[-1]

    def asked_count(self, text: str) -> int:
        """Count the requests the model got whose last user text holds this; Letta repeats failed ones."""
        query = urllib.parse.urlencode({"text": text})
        with _opener.open(f"{self.model_url}/seen?{query}", timeout=REQUEST_TIMEOUT) as response:
            return int(json.load(response)["count"])

    def _conversations(self, agent: Agent) -> list[Item]:
        found: list[Item] = self._call("GET", f"/v1/conversations/?agent_id={agent.id}&limit=100")
        return found

    def _messages(self, agent: Agent, conversation: str | None) -> list[Item]:
        thread = f"agents/{agent.id}" if conversation is None else f"conversations/{conversation}"
        return self._pages(f"/v1/{thread}/messages?limit=100&order=asc")

    def _pages(self, path: str) -> list[Item]:
        messages: list[Item] = []
        after = ""
        while page := self._call("GET", path + after):
            messages += page
            after = f"&after={page[-1]['id']}"
        return messages

    def _kept(self, kind: str, agent: Agent, conversation: str | None) -> list[Item]:
        return [item for item in self.history(agent, conversation) if item["message_type"] == kind]

    def _call(self, method: str, path: str, body: Item | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", data=data, headers=headers, method=method)
        with _opener.open(request, timeout=REQUEST_TIMEOUT) as response:
            return json.load(response)


def _entries(message: Item) -> list[tuple[str, str]]:
    kind = message["message_type"]
    match kind:
        case "user_message" | "system_message" | "assistant_message":
            return [(kind.removesuffix("_message"), message["content"])]
        case "approval_request_message" | "tool_call_message":
            return [("call", call["name"]) for call in message["tool_calls"]]
        case "tool_return_message":
            return [("result", result["tool_return"]) for result in message["tool_returns"]]
    return []
