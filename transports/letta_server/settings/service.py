"""Options of ``letta-proxy serve`` for running it as a service: shutdown, limits, workers, metrics."""

from typing import Annotated, Final

from attrs import field, frozen
from cyclopts import Parameter
from cyclopts.validators import Number

from .server import Settings

_DEFAULT: Final = Settings()

_not_negative: Final = Number(gte=0)


@Parameter(name="*")
@frozen(kw_only=True)
class ServiceOptions:
    """Options of the process; those of the server itself are `Settings`."""

    shutdown_delay: Annotated[
        float,
        Parameter(
            env_var="LETTA_PROXY_SHUTDOWN_DELAY",
            validator=_not_negative,
            help="Seconds that /ready answers 503 before the port closes, for a load balancer to notice.",
        ),
    ] = field(default=_DEFAULT.shutdown_delay)
    shutdown_timeout: Annotated[
        float,
        Parameter(
            env_var="LETTA_PROXY_SHUTDOWN_TIMEOUT",
            validator=_not_negative,
            help="Seconds for running turns to finish at shutdown, before they are interrupted.",
        ),
    ] = field(default=_DEFAULT.shutdown_timeout)
    workers: Annotated[
        int,
        Parameter(
            env_var="LETTA_PROXY_WORKERS",
            validator=Number(gte=1),
            help="Worker processes. They share nothing, like replicas.",
        ),
    ] = 1
    max_connection_count: Annotated[
        int,
        Parameter(
            env_var="LETTA_PROXY_MAX_CONNECTION_COUNT",
            validator=Number(gte=1),
            help="Maximum connections per process; beyond it, the one that has been idle longest is closed.",
        ),
    ] = field(default=_DEFAULT.max_connection_count)
    max_request_size: Annotated[
        int,
        Parameter(
            env_var="LETTA_PROXY_MAX_REQUEST_SIZE",
            validator=Number(gte=1),
            help="Maximum size of a request in bytes, including images; beyond it, 413.",
        ),
    ] = field(default=_DEFAULT.max_request_size)
    max_value_count: Annotated[
        int,
        Parameter(
            env_var="LETTA_PROXY_MAX_VALUE_COUNT",
            validator=Number(gte=1),
            help="Maximum JSON values in a request, counted by its commas; beyond it, 413.",
        ),
    ] = field(default=_DEFAULT.max_value_count)
    max_message_count: Annotated[
        int,
        Parameter(
            env_var="LETTA_PROXY_MAX_MESSAGE_COUNT",
            validator=Number(gte=1),
            help="Maximum messages in a request, including the history; beyond it, 400.",
        ),
    ] = field(default=_DEFAULT.max_message_count)
    max_part_count: Annotated[
        int,
        Parameter(
            env_var="LETTA_PROXY_MAX_PART_COUNT",
            validator=Number(gte=1),
            help="Maximum content parts in the new messages of a request; beyond it, 400.",
        ),
    ] = field(default=_DEFAULT.max_part_count)
    max_tool_count: Annotated[
        int,
        Parameter(
            env_var="LETTA_PROXY_MAX_TOOL_COUNT",
            validator=Number(gte=1),
            help="Maximum tools in a request; beyond it, 400.",
        ),
    ] = field(default=_DEFAULT.max_tool_count)
    max_buffered_size: Annotated[
        int,
        Parameter(
            env_var="LETTA_PROXY_MAX_BUFFERED_SIZE",
            validator=Number(gte=1),
            help="Maximum size of all bodies being read, in bytes per process; beyond it, 503.",
        ),
    ] = field(default=_DEFAULT.max_buffered_size)
    metrics_port: Annotated[
        int | None,
        Parameter(
            env_var="LETTA_PROXY_METRICS_PORT",
            validator=Number(gte=0, lte=65535),
            show_default=False,
            help="Port for Prometheus metrics at /metrics; 0 picks a free one. Without it, nothing is counted.",
        ),
    ] = None
    metrics_host: Annotated[
        str,
        Parameter(env_var="LETTA_PROXY_METRICS_HOST", help="Address for metrics; requires no key."),
    ] = "127.0.0.1"
    traces: Annotated[
        bool,
        Parameter(
            env_var="LETTA_PROXY_TRACES",
            negative="",
            help="Export OpenTelemetry spans of turns, as set by the OTEL_EXPORTER_OTLP_... variables.",
        ),
    ] = False
