"""Streams as programs read them that take them apart line by line: `requests` and httpx, each in its own way.

Both split lines where Python does, at U+2028 and U+0085 too, and `requests` reads a text without a charset as
Latin-1. Whoever reads a stream so must get every chunk whole.
"""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import httpx2
import orjson
import pytest
import requests

from drive import DONE, PING, USAGE, say, stop, think
from server.scripted import runs

from .standin import StandInLetta

TEXT = "eins\u2028zwei\u2029drei\x85vier\x0b\x0c\x1c\x1d\x1e fünf\r\n猫😀"


def by_requests(url: str, body: dict[str, Any]) -> Iterator[str]:
    with requests.post(url, json=body, stream=True, timeout=10) as response:
        yield from map(str, response.iter_lines(decode_unicode=True))


def by_requests_bytes(url: str, body: dict[str, Any]) -> Iterator[str]:
    with requests.post(url, json=body, stream=True, timeout=10) as response:
        yield from (line.decode() for line in response.iter_lines())


def by_httpx(url: str, body: dict[str, Any]) -> Iterator[str]:
    with httpx.stream("POST", url, json=body, timeout=10) as response:
        yield from response.iter_lines()


def by_httpx2(url: str, body: dict[str, Any]) -> Iterator[str]:
    with httpx2.stream("POST", url, json=body, timeout=10) as response:
        yield from response.iter_lines()


@pytest.mark.parametrize("read", [by_requests, by_requests_bytes, by_httpx, by_httpx2])
def test_a_reader_of_lines_gets_every_chunk(
    read: Callable[[str, dict[str, Any]], Iterator[str]], url: str, letta: StandInLetta
) -> None:
    agent = letta.add(runs(PING, think(TEXT), say(TEXT), say(TEXT), stop(), USAGE, DONE))
    body = {"model": agent.name, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    lines = [line for line in read(f"{url}/chat/completions", body) if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    deltas = [orjson.loads(line.removeprefix("data: "))["choices"][0]["delta"] for line in lines[:-1]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == TEXT
    assert "".join(delta.get("content", "") for delta in deltas) == TEXT + TEXT
