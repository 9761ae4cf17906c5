"""Prometheus metrics of requests.

Every label has few values, whatever clients send, so models, agents and keys are not labels. This module
imports `prometheus_client`, which delays the start, so it is only imported by servers with metrics. Workers
(`PROMETHEUS_MULTIPROC_DIR` is set) store their numbers in files, and each shows the sum of all.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import trio
from attrs import define, field, frozen
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.multiprocess import MultiProcessCollector

from sansio_letta import Proxy, RequestError, Summary
from sansio_letta.proxy.observer import CycleOpened
from sansio_letta.proxy.routing import route
from sansio_letta.proxy.summary import Repeat

from .timing import TimedObserver

#: The first token of a local model takes tens of milliseconds, that of a reasoning model minutes.
_FIRST_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0)
#: The SDKs time out after 600 s; a turn of an agent has several steps of its model.
_TURN_BUCKETS: Final = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)


_QUEUE_INTERVAL: Final = 1.0  #: Prometheus scrapes every 15 to 60


@frozen(kw_only=True)
class Metric:
    """One metric."""

    kind: type[Any]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def make(self, name: str, registry: CollectorRegistry) -> MetricWrapperBase:
        options: dict[str, Any] = {"buckets": self.buckets} if self.buckets else {}
        if self.kind is Gauge:
            # With several workers: the sum of the running ones.
            options["multiprocess_mode"] = "livesum"
        made: MetricWrapperBase = self.kind(name, self.help, self.labels, registry=registry, **options)
        return made


REQUESTS: Final = "letta_proxy_requests_total"
IN_PROGRESS: Final = "letta_proxy_requests_in_progress"
OPEN_STREAMS: Final = "letta_proxy_open_streams"
TURNS: Final = "letta_proxy_turns_total"
FIRST_CHUNK: Final = "letta_proxy_time_to_first_chunk_seconds"
DURATION: Final = "letta_proxy_turn_duration_seconds"
CHUNKS: Final = "letta_proxy_chunks_total"
TOKENS: Final = "letta_proxy_tokens_total"
CALLS: Final = "letta_proxy_tool_calls_total"
CANCELS: Final = "letta_proxy_cancelled_runs_total"
FAILURES: Final = "letta_proxy_letta_failures_total"
REPEATS: Final = "letta_proxy_repeats_total"
RESUMES: Final = "letta_proxy_resumed_streams_total"
QUEUED: Final = "letta_proxy_queued_turns"

METRICS: Final[Mapping[str, Metric]] = {
    REQUESTS: Metric(
        kind=Counter,
        help="HTTP requests, by endpoint and status; `none`: the client disconnected before the response.",
        labels=("endpoint", "status"),
    ),
    IN_PROGRESS: Metric(kind=Gauge, help="Requests in progress."),
    OPEN_STREAMS: Metric(kind=Gauge, help="Streamed turns in progress."),
    TURNS: Metric(
        kind=Counter,
        help="Turns, by outcome: a finish reason, `abandoned`, or an error code.",
        labels=("outcome",),
    ),
    FIRST_CHUNK: Metric(
        kind=Histogram,
        help="From the request to the first byte of the response, for streamed turns.",
        buckets=_FIRST_BUCKETS,
    ),
    DURATION: Metric(
        kind=Histogram, help="From the request to the end of the response.", buckets=_TURN_BUCKETS
    ),
    CHUNKS: Metric(kind=Counter, help="Pieces of responses sent to clients."),
    TOKENS: Metric(
        kind=Counter, help="Tokens that Letta reports for turns: `input` or `output`.", labels=("type",)
    ),
    CALLS: Metric(kind=Counter, help="Calls of client tools."),
    CANCELS: Metric(
        kind=Counter, help="Runs cancelled in Letta, because the client disconnected or the turn failed."
    ),
    FAILURES: Metric(
        kind=Counter,
        help="Exchanges with Letta that failed below HTTP: `not_sent`, `broken` or `silent`.",
        labels=("kind",),
    ),
    REPEATS: Metric(
        kind=Counter,
        help="Retries: `joined` a running turn, `answered` again, or `taken_up`, which is a turn of its own.",
        labels=("kind",),
    ),
    RESUMES: Metric(kind=Counter, help="Streams from Letta that were lost and recovered."),
    QUEUED: Metric(kind=Gauge, help="Turns waiting for another turn to end, updated every second."),
}

Page: TypeAlias = Callable[[str], tuple[str, bytes]]


@define(eq=False)
class Metrics:
    """Counts requests."""

    _registry: CollectorRegistry = field(factory=CollectorRegistry, init=False)
    _metrics: dict[str, Any] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._metrics = {name: metric.make(name, self._registry) for name, metric in METRICS.items()}
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            ProcessCollector(registry=self._registry)  # CPU, memory, open files

    def observer(self) -> "RequestMetrics":
        """Make an observer that counts one request."""
        return RequestMetrics(self)

    def gauges(self, summary: Summary) -> list[Gauge]:
        """Return the gauges that count a request while it is in progress."""
        return [self._metrics[IN_PROGRESS], *([self._metrics[OPEN_STREAMS]] if summary.stream else [])]

    def count(self, summary: Summary, seconds: float, first: float | None) -> None:
        """Count a finished request."""
        metrics = self._metrics
        metrics[REQUESTS].labels(_endpoint(summary), str(summary.status or "none")).inc()
        if summary.failure:
            metrics[FAILURES].labels(summary.failure.replace(" ", "_")).inc()
        if summary.stream is None:  # no turn: another endpoint, or an invalid request
            return
        metrics[CHUNKS].inc(summary.chunk_count)
        if summary.repeat is not None:
            metrics[REPEATS].labels(summary.repeat.value.replace(" ", "_")).inc()
            if summary.repeat is not Repeat.TAKEN_UP:
                return  # count the turn, its tokens and its calls only once
        metrics[TURNS].labels(summary.outcome or "none").inc()
        metrics[DURATION].observe(seconds)
        if summary.stream and first is not None:
            metrics[FIRST_CHUNK].observe(first)
        metrics[CALLS].inc(summary.call_count)
        metrics[CANCELS].inc(summary.cancel_count)
        metrics[RESUMES].inc(summary.resume_count)
        if usage := summary.usage:
            metrics[TOKENS].labels("input").inc(usage.prompt_tokens or 0)
            metrics[TOKENS].labels("output").inc(usage.completion_tokens or 0)

    async def watch_queue(self, proxy: Proxy) -> None:
        """Update the number of queued turns forever, since a page cannot query the other workers."""
        while True:
            self._metrics[QUEUED].set(proxy.waiting_count)
            await trio.sleep(_QUEUE_INTERVAL)

    def page(self, accept: str) -> tuple[str, bytes]:
        """Return the metrics of all workers.

        :param accept: the ``Accept`` header, by which Prometheus requests OpenMetrics.
        :return: the content type and the body.
        """
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # as the library has it
        encode, content_type = choose_encoder(accept)
        return content_type, encode(registry)


@define(eq=False)
class RequestMetrics(TimedObserver):
    """An `Observer` that counts one request."""

    metrics: Metrics

    def begin(self, opened: CycleOpened) -> None:
        """See `TimedObserver`."""
        for gauge in self.metrics.gauges(opened.summary):
            gauge.inc()

    def end(self, summary: Summary, seconds: float, first: float | None) -> None:
        """See `TimedObserver`."""
        for gauge in self.metrics.gauges(summary):
            gauge.dec()
        self.metrics.count(summary, seconds, first)


def _endpoint(summary: Summary) -> str:
    try:
        return route(summary.method, summary.path).endpoint.name.lower()
    except RequestError:
        return "none"
