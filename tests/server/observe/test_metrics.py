"""Metrics, and the page that shows them."""

import subprocess
import sys

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from drive import DONE, PING, stop
from letta_server.observe.metrics import METRICS, Metrics
from letta_server.observe.metrics_page import MetricsPage
from sansio_letta import Config, HttpRequest, Summary
from sansio_letta.proxy.observer import CycleOpened, InitialState
from sansio_letta.proxy.summary import Repeat
from sansio_letta.turn.events import Usage

from ..scripted import RawClient, ask, found, hello, make_server, runs


def summary(**more: object) -> Summary:
    fields: dict[str, object] = {
        "request_id": "req_1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "stream": True,
        "outcome": "stop",
        **more,
    }
    return Summary(**fields)  # type: ignore[arg-type]  # fields by name


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    _, text = metrics.page("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[f"letta_proxy_{name}", tuple(sorted(labels.items()))]


def observe(metrics: Metrics, seen: Summary, seconds: float = 1.0, first: float | None = None) -> None:
    request = metrics.observer()
    request.begin(opened(seen))
    request.end(seen, seconds, first)


def opened(seen: Summary) -> CycleOpened:
    return CycleOpened(
        request=HttpRequest(method=seen.method, target=seen.path),
        token="0123456789",
        created=0,
        config=Config(),
        summary=seen,
        initial=InitialState(),
    )


def test_a_turn_is_counted() -> None:
    metrics = Metrics()
    usage = Usage(prompt_tokens=100, completion_tokens=20)
    observe(metrics, summary(usage=usage, chunk_count=7, call_count=2), seconds=3.0, first=0.4)
    observe(metrics, summary(outcome="abandoned", status=None, cancel_count=1, stream=False), 9.0, 9.0)
    assert value(metrics, "turns_total", outcome="stop") == 1
    assert value(metrics, "turns_total", outcome="abandoned") == 1
    assert value(metrics, "requests_total", endpoint="chat", status="200") == 1
    assert value(metrics, "requests_total", endpoint="chat", status="none") == 1
    assert value(metrics, "tokens_total", type="input") == 100
    assert value(metrics, "tokens_total", type="output") == 20
    assert value(metrics, "chunks_total") == 7
    assert value(metrics, "tool_calls_total") == 2
    assert value(metrics, "cancelled_runs_total") == 1
    assert value(metrics, "turn_duration_seconds_sum") == 12.0
    assert value(metrics, "time_to_first_chunk_seconds_sum") == 0.4  # of what was streamed alone
    assert value(metrics, "turn_duration_seconds_bucket", le="5.0") == 1


def test_what_is_open_goes_up_and_down() -> None:
    metrics = Metrics()
    turn, question = summary(), summary(stream=None, path="/v1/models", method="GET")
    requests = [metrics.observer() for _ in range(2)]
    for request, seen in zip(requests, (turn, question), strict=True):
        request.begin(opened(seen))
    assert (value(metrics, "requests_in_progress"), value(metrics, "open_streams")) == (2, 1)
    for request, seen in zip(requests, (turn, question), strict=True):
        request.end(seen, 1.0, None)
    assert (value(metrics, "requests_in_progress"), value(metrics, "open_streams")) == (0, 0)
    assert ("letta_proxy_turns_total", (("outcome", "models"),)) not in samples(metrics)


def test_failures_of_letta_by_kind() -> None:
    metrics = Metrics()
    observe(metrics, summary(failure="not sent", outcome="upstream_error"))
    assert value(metrics, "letta_failures_total", kind="not_sent") == 1
    assert value(metrics, "turns_total", outcome="upstream_error") == 1


def test_a_repeat_counts_as_such_and_its_turn_once() -> None:
    metrics = Metrics()
    usage = Usage(prompt_tokens=100, completion_tokens=20)
    observe(metrics, summary(usage=usage, chunk_count=3, resume_count=2))
    for repeat in Repeat:
        observe(metrics, summary(usage=usage, chunk_count=3, repeat=repeat))
    assert value(metrics, "repeats_total", kind="joined") == 1
    assert value(metrics, "repeats_total", kind="answered") == 1
    assert value(metrics, "repeats_total", kind="taken_up") == 1
    assert value(metrics, "turns_total", outcome="stop") == 2
    assert value(metrics, "tokens_total", type="input") == 200
    assert value(metrics, "chunks_total") == 12
    assert value(metrics, "resumed_streams_total") == 2


async def test_who_waits_is_looked_at(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    server, _ = make_server(found(), runs(PING, 5.0, stop(), DONE), *[hello()])
    metrics = Metrics()
    nursery.start_soon(metrics.watch_queue, server.proxy)
    clients = []
    for text in ("one", "two"):
        client, served = memory_stream_pair()
        nursery.start_soon(server.handle, served)
        await client.send_all(ask(messages=[{"role": "user", "content": text}]))
        await wait_all_tasks_blocked()
        clients.append(client)
    await trio.sleep(1.5)
    assert value(metrics, "queued_turns") == 1
    await trio.sleep(6.0)
    assert value(metrics, "queued_turns") == 0


def test_no_client_can_make_labels() -> None:
    metrics = Metrics()
    for number in range(50):
        observe(metrics, summary(stream=None, status=404, path=f"/{number}", model=f"agent {number}"))
        observe(metrics, summary(stream=None, status=200, path=f"/v1/models/{number}", method="GET"))
    assert value(metrics, "requests_total", endpoint="none", status="404") == 50
    assert value(metrics, "requests_total", endpoint="model", status="200") == 50


def test_every_metric_is_shown_under_its_name() -> None:
    _, text = Metrics().page("")
    for name, metric in METRICS.items():
        assert f"# HELP {name} {metric.help}".encode() in text
    assert b"process_resident_memory_bytes" in text


# --- The page


def connect(nursery: trio.Nursery) -> RawClient:
    client, served = memory_stream_pair()
    nursery.start_soon(MetricsPage(Metrics().page).handle, served)
    return RawClient(client)


async def test_page(nursery: trio.Nursery) -> None:
    client = connect(nursery)
    page = await client.get("/metrics")
    assert (page.status, page.headers["content-type"].partition(";")[0]) == (200, "text/plain")
    assert b"letta_proxy_open_streams 0.0" in page.body
    head = await client.get("/metrics", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["content-length"]) > 1000
    assert (await client.get("/", "GET")).status == 404
    assert (await client.get("/metrics", "POST")).status == 405


async def test_page_as_prometheus_asks(nursery: trio.Nursery) -> None:
    client = connect(nursery)
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    await client.send(f"GET /metrics HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\n\r\n".encode())
    page = await client.receive("GET")
    assert page.headers["content-type"].startswith("application/openmetrics-text")
    assert page.body.endswith(b"# EOF\n")


@pytest.mark.parametrize("data", [b"", b"GET /met", b"nonsense\r\n\r\n"], ids=["nothing", "half", "nonsense"])
async def test_page_lets_go_of_a_client_that_asks_nothing(autojump_clock: MockClock, data: bytes) -> None:
    client, served = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(MetricsPage(Metrics().page).handle, served)
        await client.send_all(data)
        assert await client.receive_some(1) == b""


@pytest.mark.parametrize("library", ["prometheus_client", "opentelemetry"])
def test_nothing_is_imported_that_was_not_asked_for(library: str) -> None:
    code = f"import sys, letta_server.cli.serving; assert {library!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
