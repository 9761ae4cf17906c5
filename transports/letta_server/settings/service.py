"""Options of ``letta-proxy serve`` for one that runs as a service: how it ends, its metrics, its processes."""

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
    """What only the process knows; the server's own settings are `Settings`."""

    shutdown_delay: Annotated[
        float,
        Parameter(
            env_var="LETTA_PROXY_SHUTDOWN_DELAY",
            validator=_not_negative,
            help="Seconds for which /ready answers 503 before the port closes, for a balancer to notice.",
        ),
    ] = field(default=_DEFAULT.shutdown_delay)
    shutdown_timeout: Annotated[
        float,
        Parameter(
            env_var="LETTA_PROXY_SHUTDOWN_TIMEOUT",
            validator=_not_negative,
            help="Seconds for which turns may finish at the end, before they are interrupted.",
        ),
    ] = field(default=_DEFAULT.shutdown_timeout)
    workers: Annotated[
        int,
        Parameter(
            env_var="LETTA_PROXY_WORKERS",
            validator=Number(gte=1),
            help="Processes that serve the port. What one remembers the others do not, as with replicas.",
        ),
    ] = 1
    max_connection_count: Annotated[
        int,
        Parameter(
            env_var="LETTA_PROXY_MAX_CONNECTION_COUNT",
            validator=Number(gte=1),
            help="Connections at once, of each process; one more closes the one that has waited longest.",
        ),
    ] = field(default=_DEFAULT.max_connection_count)
    max_request_size: Annotated[
        int,
        Parameter(
            env_var="LETTA_PROXY_MAX_REQUEST_SIZE",
            validator=Number(gte=1),
            help="Bytes of one request, pictures included; beyond it 413.",
        ),
    ] = field(default=_DEFAULT.max_request_size)
    max_value_count: Annotated[
        int,
        Parameter(
            env_var="LETTA_PROXY_MAX_VALUE_COUNT",
            validator=Number(gte=1),
            help="JSON values of one request, by its commas; beyond it 413.",
        ),
    ] = field(default=_DEFAULT.max_value_count)
    max_message_count: Annotated[
        int,
        Parameter(
            env_var="LETTA_PROXY_MAX_MESSAGE_COUNT",
            validator=Number(gte=1),
            help="Messages of one request, the history included; beyond it 400.",
        ),
    ] = field(default=_DEFAULT.max_message_count)
    max_part_count: Annotated[
        int,
        Parameter(
            env_var="LETTA_PROXY_MAX_PART_COUNT",
            validator=Number(gte=1),
            help="Content parts of the new messages of one request; beyond it 400.",
        ),
    ] = field(default=_DEFAULT.max_part_count)
    max_tool_count: Annotated[
        int,
        Parameter(
            env_var="LETTA_PROXY_MAX_TOOL_COUNT",
            validator=Number(gte=1),
            help="Tools of one request; beyond it 400.",
        ),
    ] = field(default=_DEFAULT.max_tool_count)
    max_buffered_size: Annotated[
        int,
        Parameter(
            env_var="LETTA_PROXY_MAX_BUFFERED_SIZE",
            validator=Number(gte=1),
            help="Bytes of all bodies that are being read, in each process; beyond it 503.",
        ),
    ] = field(default=_DEFAULT.max_buffered_size)
    metrics_port: Annotated[
        int | None,
        Parameter(
            env_var="LETTA_PROXY_METRICS_PORT",
            validator=Number(gte=0, lte=65535),
            show_default=False,
            help="Port of Prometheus metrics, at /metrics; 0 takes a free one. Without it nothing is counted.",
        ),
    ] = None
    metrics_host: Annotated[
        str,
        Parameter(env_var="LETTA_PROXY_METRICS_HOST", help="Address to show metrics on; no key is asked for."),
    ] = "127.0.0.1"
    traces: Annotated[
        bool,
        Parameter(
            env_var="LETTA_PROXY_TRACES",
            negative="",
            help="Send OpenTelemetry spans of turns, to where the variables OTEL_EXPORTER_OTLP_... say.",
        ),
    ] = False
