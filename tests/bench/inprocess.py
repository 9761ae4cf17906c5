"""What the in-process transports cost: `python inprocess.py [--repeats N] [--json OUT]`.

Events from the stand-in for Letta are read in this process, once with a bare client of the library's and once
through our transport, in turns: one at a time, as a model gives them, and 1,000 in one burst. CPU time is this
process's alone; figures are medians. Budget: at most 1.5 times the bare client's, for events one at a time. Of
a burst the bare client takes 64 events from one read and looks at none: decoding them costs more than all it
does, so that is shown and not held against the budget. Exit code 1: it was missed, or something broke.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import httpx2
from attrs import frozen

import letta_httpx
import letta_httpx2

HERE: Final = Path(__file__).parent
BUDGET: Final = 1.5
WARM_UP_COUNT: Final = 3
AGENT_ID: Final = "agent-00000000-0000-4000-8000-000000000000"
PATH: Final = f"/v1/agents/{AGENT_ID}/messages/stream"


@frozen
class Work:
    """What is asked of the stand-in."""

    name: str
    text: str
    event_count: int
    budget: float | None

    @property
    def bare(self) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": self.text}]}

    @property
    def chat(self) -> dict[str, Any]:
        return {"model": "Milo", **self.bare, "stream": True}


WORKS: Final = (Work("one at a time", "paced 400 1", 400, BUDGET), Work("burst", "burst 1000", 1000, None))


def read(client: Any, url: str, body: dict[str, Any]) -> float:
    """Read a stream as it comes; return the CPU seconds that it took."""
    began = time.process_time()
    size = 0
    with client.stream("POST", url, json=body) as response:
        response.raise_for_status()
        for piece in response.iter_bytes():
            size += len(piece)
    took = time.process_time() - began
    assert size > 10_000, f"only {size} bytes came"
    return took


async def read_async(client: Any, url: str, body: dict[str, Any]) -> float:
    """The same, async."""
    began = time.process_time()
    size = 0
    async with client.stream("POST", url, json=body) as response:
        response.raise_for_status()
        async for piece in response.aiter_bytes():
            size += len(piece)
    took = time.process_time() - began
    assert size > 10_000, f"only {size} bytes came"
    return took


def measure(
    letta: str, library: Any, package: Any, work: Work, repeat_count: int
) -> Iterator[tuple[float, float]]:
    """CPU seconds of the bare stream and of ours, in turns."""
    bare = library.Client(trust_env=False)
    ours = library.Client(transport=package.LettaTransport(base_url=letta), base_url="http://x")
    with bare, ours:
        for number in range(WARM_UP_COUNT + repeat_count):
            pair = read(bare, letta + PATH, work.bare), read(ours, "/v1/chat/completions", work.chat)
            if number >= WARM_UP_COUNT:
                yield pair


def measure_async(
    letta: str, library: Any, package: Any, work: Work, repeat_count: int
) -> Iterator[tuple[float, float]]:
    """The same with the async clients, under asyncio."""
    pairs = []

    async def main() -> None:
        bare = library.AsyncClient(trust_env=False)
        transport = package.AsyncLettaTransport(base_url=letta)
        async with bare, library.AsyncClient(transport=transport, base_url="http://x") as ours:
            for number in range(WARM_UP_COUNT + repeat_count):
                pair = (
                    await read_async(bare, letta + PATH, work.bare),
                    await read_async(ours, "/v1/chat/completions", work.chat),
                )
                if number >= WARM_UP_COUNT:
                    pairs.append(pair)

    asyncio.run(main())
    yield from pairs


Measure = Callable[[str, Any, Any, Work, int], Iterator[tuple[float, float]]]
SUBJECTS: Final[dict[str, tuple[Measure, Any, Any]]] = {
    "httpx": (measure, httpx, letta_httpx),
    "httpx, asyncio": (measure_async, httpx, letta_httpx),
    "httpx2": (measure, httpx2, letta_httpx2),
    "httpx2, asyncio": (measure_async, httpx2, letta_httpx2),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, metavar="N", help="of each pair; 9")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every single measurement there")
    args = parser.parse_args()
    samples: dict[str, list[tuple[float, float]]] = {}
    rows: list[tuple[str, Work]] = []
    argv = [sys.executable, str(HERE / "fast_letta.py")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as child:
        try:
            assert child.stdout is not None
            letta = child.stdout.readline().strip()
            for work in WORKS:
                for subject, (measured, library, package) in SUBJECTS.items():
                    name = f"{work.name}: {subject}"
                    rows.append((name, work))
                    samples[name] = list(measured(letta, library, package, work, args.repeats))
        finally:
            child.terminate()
    missed = False
    print(f"{'CPU of an event, us':34}  bare   ours  ratio  verdict")
    for name, work in rows:
        pairs = samples[name]
        bare, ours = (statistics.median(column) / work.event_count * 1e6 for column in zip(*pairs, strict=True))
        # Of each pair: the two ran one after the other, on a machine in the same mood.
        ratio = statistics.median(second / first for first, second in pairs)
        over = work.budget is not None and ratio > work.budget
        missed |= over
        verdict = "" if work.budget is None else f"over {work.budget}" if over else "within"
        print(f"{name:34} {bare:5.1f}  {ours:5.1f}  {ratio:5.2f}  {verdict}".rstrip())
    if args.json:
        args.json.write_text(json.dumps(samples, indent=1))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
