"""OpenTelemetry spans of turns, by the semantic conventions for generative AI, which are still in development.

Each turn has a span, ``chat {model}``, which is a child of the client's span if the request has a
``traceparent``. Requests to Letta carry the span's own. Spans contain no text of messages. Imported only if
traces are turned on.
"""

import os
from typing import Final
from urllib.parse import urlsplit

import trio
from attrs import define, field
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace import TracerProvider as AnyProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from sansio_letta import PRODUCT_ID, Summary
from sansio_letta.proxy.observer import CycleOpened
from sansio_letta.turn.events import FinishReason

from ..upstream.base import letta_headers
from .timing import TimedObserver

_FINISHED: Final = {reason.value for reason in FinishReason}
_PROPAGATOR: Final = TraceContextTextMapPropagator()
#: Characters of the model's name, which clients choose.
_MAX_MODEL: Final = 200
#: Seconds to export the last spans at the end; the SDK's own limit for one export is 10.
_SHUTDOWN_TIMEOUT: Final = 5.0


@define(eq=False)
class Traces:
    """Makes spans of turns.

    :param provider: exports the spans.
    :param letta_url: the server that the spans name.
    """

    provider: AnyProvider
    letta_url: str
    _server: dict[str, AttributeValue] = field(init=False)

    def __attrs_post_init__(self) -> None:
        parts = urlsplit(self.letta_url)
        self._server = {
            "server.address": parts.hostname or "",
            "server.port": parts.port or (443 if parts.scheme == "https" else 80),
        }

    def observer(self) -> "TurnTrace":
        """Make an observer that makes a span for one turn."""
        return TurnTrace(self)

    def begin(self, opened: CycleOpened) -> Span | None:
        """Start the span of a turn; return None for a request without a turn."""
        summary = opened.summary
        if summary.stream is None:
            return None
        model = (summary.model or "")[:_MAX_MODEL]
        _, _, version = PRODUCT_ID.partition("/")
        return self.provider.get_tracer("letta_server", version).start_span(
            f"chat {model}",
            context=_PROPAGATOR.extract(dict(opened.request.headers)),
            kind=SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "letta",
                "gen_ai.request.model": model,
                "gen_ai.request.stream": summary.stream,
                **self._server,
            },
        )


@define(eq=False)
class TurnTrace(TimedObserver):
    """An `Observer` that makes a span for one turn."""

    traces: Traces
    _span: Span | None = field(default=None, init=False)

    def begin(self, opened: CycleOpened) -> None:
        """See `TimedObserver`."""
        self._span = self.traces.begin(opened)
        headers: dict[str, str] = {}
        if self._span is not None:
            _PROPAGATOR.inject(headers, context=set_span_in_context(self._span))
        # Left set until the task's next request, since another task may end the cycle.
        letta_headers.set(tuple(headers.items()))

    def end(self, summary: Summary, seconds: float, first: float | None) -> None:
        """See `TimedObserver`."""
        if self._span is not None:
            _set_attributes(self._span, summary, first)
            self._span.end()


def _set_attributes(span: Span, summary: Summary, first: float | None) -> None:
    attributes: dict[str, AttributeValue | None] = {
        "gen_ai.agent.id": summary.agent_id,
        "gen_ai.response.time_to_first_chunk": first if summary.stream else None,
        "http.response.status_code": summary.status,
        "letta_proxy.request_id": summary.request_id,
    }
    if usage := summary.usage:
        attributes |= {
            "gen_ai.usage.input_tokens": usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens,
            "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
            "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        }
    if summary.outcome in _FINISHED:
        attributes["gen_ai.response.finish_reasons"] = (summary.outcome,)
    else:
        attributes["error.type"] = summary.outcome or "none"
        span.set_status(Status(StatusCode.ERROR))
    span.set_attributes({name: value for name, value in attributes.items() if value is not None})


def exporting_provider() -> TracerProvider:
    """Make a provider that exports by OTLP over HTTP, as set by the standard variables (``OTEL_...``)."""
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    resource = Resource.create({} if named else {"service.name": "letta-proxy"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


async def send_last(provider: TracerProvider) -> None:
    """Export the remaining spans, if the collector accepts them within a few seconds."""
    with trio.move_on_after(_SHUTDOWN_TIMEOUT, shield=True):
        await trio.to_thread.run_sync(provider.shutdown, abandon_on_cancel=True)
