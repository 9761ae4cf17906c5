"""Worker processes on one port, from outside: which respond, which are replaced, which are left."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import httpx2
import pytest
from openai import OpenAI

from ..commands import Command, command, run
from ..gated_letta import GatedLetta, gated_letta
from ..test_shutdown import read_until, streaming

PATIENCE = 20.0  # seconds until something that should have happened has not


@pytest.fixture
def letta() -> Iterator[GatedLetta]:
    with gated_letta() as letta:
        yield letta


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def eventually(holds: Callable[[], bool]) -> None:
    """Wait for what another process does; it tells nobody when."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def serve(letta: GatedLetta, *more: str) -> AbstractContextManager[Command]:
    return command("serve", "--letta-url", letta.url, "--workers", "2", *more)


def metrics_url(process: Command) -> str:
    found = re.search(r"http://\S+/metrics", read_until(process.stdout, "metrics "))
    assert found is not None
    return found[0]


def metric(url: str, line: str) -> float:
    [found] = [each for each in httpx2.get(url).text.splitlines() if each.startswith(f"letta_proxy_{line} ")]
    return float(found.rpartition(" ")[2])


def ask(url: str, text: str = "hi") -> str | None:
    with OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        reply = client.chat.completions.create(model="Milo", messages=[{"role": "user", "content": text}])
    return reply.choices[0].message.content


def test_all_serve_and_count_together_and_none_is_left(letta: GatedLetta) -> None:
    letta.gate.set()
    with serve(letta, "--metrics-port", "0") as process:
        url = metrics_url(process)
        workers = children(process.process.pid)
        assert len(workers) == 2
        with ThreadPoolExecutor(8) as pool:
            # The same text at the same time would be one turn.
            assert list(pool.map(ask, [process.url] * 40, map(str, range(40)))) == ["Hello"] * 40
        assert {metric(url, 'turns_total{outcome="stop"}') for _ in range(8)} == {40.0}
        assert metric(url, "requests_in_progress") == 0
        process.send_signal(signal.SIGTERM)
        process.ends_well()
        assert not any(map(is_there, workers))
        assert "Traceback" not in process.stderr.read()


def test_the_end_waits_for_turns_however_often_the_group_is_told(letta: GatedLetta) -> None:
    with serve(letta) as process:
        read_until(process.stdout, "agents")
        client, stream = streaming(process.url)
        with client, stream:
            for pid in (process.process.pid, *children(process.process.pid)):  # as systemd does
                with suppress(ProcessLookupError):  # a worker that waits for nothing is gone already
                    os.kill(pid, signal.SIGTERM)
            line = read_until(process.stdout, "letta-proxy ends")
            assert "ends once 1 turn has finished, in 30 s at most" in line
            with pytest.raises(httpx2.ConnectError):
                httpx2.get(f"{process.url}/models")
            letta.gate.set()
            assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "stop"
        process.ends_well()
    assert letta.cancelled == []


def test_the_second_signal_ends_at_once(letta: GatedLetta) -> None:
    with serve(letta) as process:
        read_until(process.stdout, "agents")
        client, stream = streaming(process.url)
        with client, stream:
            process.send_signal(signal.SIGINT)
            read_until(process.stdout, "letta-proxy ends")
            process.send_signal(signal.SIGINT)
            with pytest.raises(Exception, match="shutting down"):
                list(stream)
        process.ends_well()
    assert len(letta.cancelled) == 1


def test_a_worker_that_dies_is_replaced_and_its_streams_are_no_longer_open(letta: GatedLetta) -> None:
    with serve(letta, "--metrics-port", "0") as process:
        url = metrics_url(process)
        read_until(process.stdout, "agents")
        client, stream = streaming(process.url)
        assert metric(url, "open_streams") == 1
        before = children(process.process.pid)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(set(children(process.process.pid)) - set(before)) == 2)
        client.close()
        stream.close()
        letta.gate.set()
        assert ask(process.url) == "Hello"
        assert metric(url, "open_streams") == 0
        process.send_signal(signal.SIGTERM)
        process.ends_well()


def test_workers_that_keep_dying_are_given_up(letta: GatedLetta) -> None:
    with serve(letta) as process:
        parent = process.process.pid
        read_until(process.stdout, "agents")
        before: set[int] = set()
        while process.process.poll() is None:
            living = set(children(parent)) - before if is_there(parent) else set()
            if len(living) == 2 and httpx2.get(f"{process.url}/models").status_code == 200:
                before |= living
                os.kill(min(living), signal.SIGKILL)
                before.discard(max(living))
            time.sleep(0.05)
        assert process.process.returncode == 1
        assert "workers end too often: ending" in process.stderr.read()


def test_workers_that_cannot_start_are_not_tried_again() -> None:
    code = """
import socket, sys
from letta_server import Settings
from letta_server.process.run import Service
from letta_server.process.workers import Workers

deaf = socket.socket()  # it does not listen, so that serving on it fails
service = Service(settings=Settings(), upstream=None, announce=None, sockets=[deaf])
sys.exit(Workers(service, 2).run())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "a worker ended before it listened: ending" in done.stdout  # where logs go unless configured
    assert done.stderr.count("Traceback (most recent call last)") <= 2 * 3


def test_a_worker_that_hangs_is_killed_in_the_end() -> None:
    code = """
import signal, sys, trio
from letta_server import Settings
from letta_server.process import workers
from letta_server.process.listening import listen
from letta_server.process.run import Service

async def announce(server, url):
    print("announced", flush=True)

workers._KILL_TIMEOUT = 0.5
settings = Settings(letta_url="http://127.0.0.1:1", shutdown_timeout=0.0, cancel_timeout=0.1)
service = Service(settings=settings, upstream=None, announce=announce, sockets=listen("127.0.0.1", 0))
sys.exit(workers.Workers(service, 2).run())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        read_until(process.stdout, "announced")
        stuck, _ = children(process.pid)
        os.kill(stuck, signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE) == 0
    assert not is_there(stuck)


def test_workers_whose_parent_is_gone_end_by_themselves(letta: GatedLetta) -> None:
    letta.gate.set()
    with serve(letta) as process:
        workers = children(process.process.pid)
        process.process.kill()
        process.process.wait()
        eventually(lambda: not any(map(is_there, workers)))


def test_port_in_use_is_told_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", "--letta-url", "http://127.0.0.1:1", "--port", port, "--workers", "2")
    assert done.returncode == 2
    assert done.stderr.count("address already in use") == 1
