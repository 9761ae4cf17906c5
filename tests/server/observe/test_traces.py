"""Spans of turns, and trace headers for Letta."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx2
import pytest
import trio
from attrs import define, field
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, StatusCode
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from drive import AGENT_ID, DONE, PING, error, say, stop
from letta_server.observe.traces import Traces
from letta_server.upstream.base import letta_headers

from ..commands import command
from ..gated_letta import gated_letta
from ..scripted import RawClient, Script, ScriptedLetta, ask, cancelled, found, hello, make_server, runs

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@define(eq=False)
class NotingLetta(ScriptedLetta):
    """Also notes what would be sent with each request."""

    sent: list[dict[str, str]] = field(factory=list, init=False)

    async def send(self, command: Any) -> Script:
        self.sent.append(dict(letta_headers.get()))
        return await super().send(command)


async def trace(nursery: trio.Nursery, *script: Script, data: bytes) -> tuple[list[ReadableSpan], NotingLetta]:
    """The spans of some requests on one connection."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    server, _ = make_server()
    letta = NotingLetta(list(script))
    server.upstream = letta
    server.observers = [Traces(provider, "http://letta.example:8283").observer]
    client, served = memory_stream_pair()
    nursery.start_soon(server.handle, served)
    await RawClient(client).send(data)
    await wait_all_tasks_blocked()
    return list(exporter.get_finished_spans()), letta


def own(span: ReadableSpan) -> SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


def with_parent(data: bytes) -> bytes:
    return data.replace(b"host: x", b"host: x\r\ntraceparent: " + PARENT.encode())


async def test_a_turn_is_a_span_beneath_the_clients_and_above_lettas(nursery: trio.Nursery) -> None:
    [span], letta = await trace(nursery, found(), hello(), data=with_parent(ask()))
    assert (span.name, span.kind, span.status.status_code) == ("chat Milo", SpanKind.CLIENT, StatusCode.UNSET)
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}" == PARENT[3:-3]
    assert span.attributes is not None
    told = dict(span.attributes)
    assert 0 <= float(str(told.pop("gen_ai.response.time_to_first_chunk"))) < 10
    assert str(told.pop("letta_proxy.request_id")).startswith("req_")
    assert told == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "letta",
        "gen_ai.request.model": "Milo",
        "gen_ai.request.stream": True,
        "gen_ai.agent.id": AGENT_ID,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "http.response.status_code": 200,
        "server.address": "letta.example",
        "server.port": 8283,
    }
    ours = f"00-{TRACE}-{own(span).span_id:016x}-01"
    assert letta.sent == [{"traceparent": ours}] * 2


async def test_a_failed_turn_names_its_error(nursery: trio.Nursery) -> None:
    failing = runs(PING, stop("llm_api_error"), error("llm_rate_limit"), DONE)
    [span], _ = await trace(nursery, found(), failing, data=ask(stream=False))
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "rate_limit_exceeded"
    assert span.attributes["http.response.status_code"] == 429
    assert span.parent is None


async def test_no_text_is_in_a_span(nursery: trio.Nursery) -> None:
    data = ask(messages=[{"role": "user", "content": "secret words"}])
    [span], _ = await trace(nursery, found(), runs(PING, say("my answer"), stop(), DONE), data=data)
    assert "secret words" not in span.to_json()
    assert "my answer" not in span.to_json()


async def test_each_turn_has_its_own_and_questions_have_none(nursery: trio.Nursery) -> None:
    question = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    data = with_parent(ask()) + question + ask()
    spans, letta = await trace(nursery, found(), hello(), hello(), data=data)
    first, second = spans
    assert own(first).trace_id != own(second).trace_id
    assert [TRACE in each["traceparent"] for each in letta.sent] == [True, True, False]
    assert letta_headers.get() == ()


async def test_a_client_that_leaves_ends_its_span_and_nothing_else(autojump_clock: MockClock) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with trio.open_nursery() as nursery:
        server, _ = make_server(found(), runs(PING, say("one"), 50.0), cancelled())
        server.observers = [Traces(provider, "http://letta.example:8283").observer]
        ended = trio.Event()
        server.log = lambda *_: ended.set()
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(server.run, listeners)
        port = listeners[0].socket.getsockname()[1]
        async with await trio.open_tcp_stream("127.0.0.1", port) as leaving:
            await leaving.send_all(ask())
            await leaving.receive_some()
        await ended.wait()
        # What is left of an answer is done in a task of its own, which must not end the server.
        async with await trio.open_tcp_stream("127.0.0.1", port) as another:
            assert (await RawClient(another).get()).status == 200
        nursery.cancel_scope.cancel()
    [span] = exporter.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["error.type"] == "abandoned"


# --- The command


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """An OTLP collector, and what it was sent."""
    sent: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers["content-encoding"] == "gzip":
                body = httpx2.Response(200, headers={"content-encoding": "gzip"}, content=body).content
            sent.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", sent
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_spans_leave_before_the_process_does(monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    with collector() as (url, sent), gated_letta() as letta:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        letta.gate.set()
        arguments = ("serve", "--letta-url", letta.url, "--traces", "--workers", workers)
        with command(*arguments) as process:
            body = {"model": "Milo", "messages": [{"role": "user", "content": "hi"}]}
            asked = httpx2.post(process.url + "/chat/completions", json=body, headers={"traceparent": PARENT})
            assert asked.status_code == 200
            process.send_signal(15)
            process.ends_well()
        [exported] = sent
        [resource] = exported.resource_spans
        named = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
        [span] = resource.scope_spans[0].spans
        assert (named["service.name"], span.name, span.trace_id.hex()) == ("letta-proxy", "chat Milo", TRACE)
        assert letta.headers[0]["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"
