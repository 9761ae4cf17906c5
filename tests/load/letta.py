"""The Letta that remembers, as a process under load: ``python tests/load/letta.py``; its URL is the first line.

An agent's name says what it plays: the name of a scene, or ``tools`` for a call and then the answer to its
result. A directive in a user's text, ``<fault KIND AT AHEAD>``, breaks the answer to that text once. ``GET
/told`` tells what has become of all runs, and of all texts.
"""

import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import orjson
import trio
from attrs import define, field

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.keeping import Break, Exchange, Fault, Head, KeepingAgent, KeepingLetta, Run, RunState
from faults.scenes import STREAMED
from faults.wire import SocketLetta

SCENES: Final = {scene.name: scene.script for scene in STREAMED}
DIRECTIVE: Final = re.compile(r"<fault (\w+) (\d+|-) (ahead|stands)>")
NAME: Final = re.compile(r"(tools|[a-z_]+-\d+)\.\d+")
JSON_500: Final = (500, "application/json", b'{"detail": "An unknown error occurred"}')


def directive(text: object) -> Fault | None:
    """The fault that a text asks for."""
    found = DIRECTIVE.search(text) if isinstance(text, str) else None
    if found is None:
        return None
    at, ahead = None if found[2] == "-" else int(found[2]), found[3] == "ahead"
    if found[1] == "fails":
        return Fault(answer=JSON_500, began=False)
    return Fault(how=Break(found[1]), at=at, ahead=ahead)


@define(eq=False)
class LoadLetta(KeepingLetta):
    """Makes agents as they are asked for, and forgets runs that are over but for their number."""

    counts: Counter[str] = field(factory=Counter)
    texts: Counter[str] = field(factory=Counter)  #: how often each stands in a memory
    faulted: set[object] = field(factory=set)

    def answer(self, method: str, target: str, body: bytes | None, *, size: int = 1 << 30) -> Exchange:
        if target == "/told":
            return iter([Head(status=200, headers=[]), orjson.dumps(self.told()), b""])
        if found := re.search(r"[?&]name=([^&]+)", target):
            self._make(unquote(found[1]))
        return super().answer(method, target, body, size=size)

    def _make(self, name: str) -> None:
        if NAME.fullmatch(name) and not any(agent.name == name for agent in self.agents.values()):
            scene = name.partition(".")[0]
            agent = self.add(SCENES["client_tool-1" if scene == "tools" else scene])
            agent.name = name

    def _stream(self, agent: KeepingAgent, told: Mapping[str, Any], size: int) -> Exchange:
        self._forget(agent)
        text = told["messages"][-1].get("content")
        fault = directive(text)
        if fault is not None and text not in self.faulted:
            self.faulted.add(text)
            agent.faults[agent.stream_count] = fault
        if agent.name.startswith("tools."):
            agent.script = SCENES["client_tool-2" if agent.pending else "client_tool-1"]
        self.counts["streams"] += 1
        return super()._stream(agent, told, size)

    def _forget(self, agent: KeepingAgent) -> None:
        """Count what is over, so that hours of it fit into memory."""
        over = [run for run in agent.runs if run.state is not RunState.RUNNING]
        self.counts.update(run.state.value for run in over)
        agent.runs = [run for run in agent.runs if run.state is RunState.RUNNING]
        self.texts.update(map(str, agent.kept))
        agent.kept.clear()
        agent.results.clear()
        agent.cancels.clear()
        agent.faults.clear()

    def told(self) -> dict[str, Any]:
        """What has become of it all."""
        going: list[Run] = []
        for agent in self.agents.values():
            self._forget(agent)
            going += agent.runs
        return {
            **self.counts,
            "agents": len(self.agents),
            "running": len(going),
            "open_exchanges": self.open_count,
            "kept": self.texts.total(),
            "kept_twice": [text for text, count in self.texts.items() if count > 1][:10],
        }


async def main() -> None:
    letta = SocketLetta(LoadLetta(), pace=0.01)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, letta.handle, 0)
        port = listeners[0].socket.getsockname()[1]
        print(f"http://127.0.0.1:{port}", flush=True)


if __name__ == "__main__":
    trio.run(main)
