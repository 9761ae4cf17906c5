"""The implementation of ``serve`` and ``demo``, once their settings are read."""

import socket
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import trio
from attrs import evolve

from sansio_letta import RecordingError

from ..access.connections import certificate_of
from ..access.keys import read_keys
from ..access.rates import RateCounter
from ..observe.log import configure_log
from ..open_files import raise_file_limit
from ..process.announce import announce_demo, announce_letta, announce_replay
from ..process.listening import address, inherited_sockets, listen
from ..process.run import Announce, Service, run_alone
from ..process.workers import Workers
from ..settings.errors import SettingsError
from ..settings.log import LogFormat
from ..settings.server import Settings
from ..settings.service import ServiceOptions
from ..upstream.base import Upstream
from ..upstream.recorded import demo_letta, letta_of_folder
from .exit import stop


def serve_letta(settings: Settings, options: ServiceOptions, log_format: LogFormat) -> None:
    """Serve the agents of the Letta server in the settings."""
    _serve(settings, options, log_format, None, announce_letta)


def serve_recordings(
    settings: Settings, options: ServiceOptions, log_format: LogFormat, folder: Path, *, keep_pauses: bool
) -> None:
    """Serve the recordings of a folder as agents."""
    try:
        upstream = letta_of_folder(folder, keep_pauses=keep_pauses)
    except RecordingError as exc:
        stop(str(exc))
    except OSError as exc:
        stop(f"{exc.filename}: {(exc.strerror or str(exc)).lower()}")
    _serve(settings, options, log_format, upstream, partial(announce_replay, folder=folder))


def serve_demo(settings: Settings, log_format: LogFormat) -> None:
    """Serve the recorded agents of the demo."""
    _serve(settings, ServiceOptions(), log_format, demo_letta(), announce_demo)


def _serve(
    settings: Settings,
    options: ServiceOptions,
    log_format: LogFormat,
    upstream: Upstream | None,
    announce: Announce,
) -> None:
    """Serve until shutdown.

    :raises SettingsError: if a file of the settings is invalid, or a socket that was passed may not be served.
    """
    check(settings)
    configure_log(log_format)
    if options.traces and find_spec("opentelemetry") is None:
        stop("--traces needs OpenTelemetry: pip install 'sansio-letta[otel]'")
    raise_file_limit()
    inherited = inherited_sockets()
    sockets = [each for name, each in inherited if name != "metrics"]
    metrics = [each for name, each in inherited if name == "metrics"]
    for each in sockets:
        host, port = address(each)
        if not host.startswith("/"):
            settings = evolve(settings, host=host, port=port)  # checked like an option
    service = Service(
        settings=settings,
        upstream=upstream,
        announce=announce,
        sockets=sockets or _listen(settings.host, settings.port, "--port"),
        metrics_sockets=metrics
        if metrics or options.metrics_port is None
        else _listen(options.metrics_host, options.metrics_port, "--metrics-port"),
        traces=options.traces,
    )
    if options.workers == 1:
        trio.run(run_alone, service)
    else:
        raise SystemExit(Workers(service, options.workers).run())


def check(settings: Settings) -> None:
    """Read all files once, so that errors in them are reported before anything starts.

    :raises SettingsError: if one is invalid.
    """
    access = settings.access
    if access.requires_key and not access.pass_through:
        read_keys(access.key_files, access.key_list, access.rate)
    RateCounter(access.rate_store).open()
    certificate_of(settings)
    if settings.recordings is not None:
        try:
            settings.recordings.prepare()
        except OSError as exc:
            raise SettingsError(
                f"record: expected a folder that can be written, got {settings.recordings.path}: "
                f"{(exc.strerror or str(exc)).lower()}"
            ) from None


def _listen(host: str, port: int, option: str) -> list[socket.socket]:
    try:
        return listen(host, port)
    except* OSError as group:
        refused = group
    cause: BaseException = refused
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    reason = getattr(cause, "strerror", None) or str(cause)
    stop(f"cannot listen on {host} port {port}: {reason.lower()}. Choose with {option}.")
