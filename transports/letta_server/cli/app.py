"""The command line: arguments and environment -> Settings -> trio.run."""

import secrets
import signal
import socket
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final

import orjson
import trio
from attrs import evolve
from cyclopts import App, Parameter
from cyclopts.validators import Number

from letta_recordings import RecordingFolder
from letta_recordings.expectations import Expectation, ExpectationError, Outcome, check_all
from sansio_letta import PRODUCT_ID, Proxy, RecordingError
from sansio_letta.recording.format import TextMode

from ..cycle_driver import Carrier
from ..observe.log import LogFormat, configure_log
from ..open_files import raise_open_files
from ..process.announce import announce_demo, announce_letta, announce_replay
from ..process.listening import address, inherited_sockets, listen
from ..process.run import Announce, Service, run_alone
from ..process.workers import Workers
from ..settings.access import Access
from ..settings.policies import PolicySettings
from ..settings.server import LETTA_CLOUD, Settings, SettingsError
from ..settings.service import ServiceOptions
from ..settings.threads import ThreadSettings
from ..settings.turns import TurnSettings
from ..upstream.base import Upstream
from ..upstream.pool import LettaPool
from ..upstream.recorded import demo_letta, letta_of_folder
from .access import check, complete, keys_app, read_config
from .exit import stop
from .record import record_turn
from .recordings import recordings_app

app = App(
    name="letta-proxy",
    help="A Letta agent as a model of the OpenAI API.",
    help_format="plaintext",
    version=PRODUCT_ID.partition("/")[2],
)

app.command(recordings_app, name="*")
app.command(keys_app)

Host = Annotated[str, Parameter(env_var="LETTA_PROXY_HOST", help="Address to listen on.")]
Port = Annotated[
    int,
    Parameter(env_var="LETTA_PROXY_PORT", validator=Number(gte=0, lte=65535), help="Port; 0 takes a free one."),
]
Format = Annotated[LogFormat, Parameter(env_var="LETTA_PROXY_LOG_FORMAT", help="Form of the log on stderr.")]
LettaUrl = Annotated[
    str, Parameter(env_var="LETTA_BASE_URL", help="Address of the Letta server; default: Letta Cloud.")
]
LettaApiKey = Annotated[
    str | None, Parameter(env_var="LETTA_API_KEY", show_default=False, help="Letta's key or password.")
]
LettaProject = Annotated[
    str | None, Parameter(env_var="LETTA_PROJECT", show_default=False, help="Project at Letta Cloud.")
]


_SERVICE: Final = ServiceOptions()
_ACCESS: Final = Access()
_TURNS: Final = TurnSettings()
_POLICIES: Final = PolicySettings()
_THREADS: Final = ThreadSettings()


@app.command(name="serve", config=read_config)
def serve_command(
    *,
    host: Host = "127.0.0.1",
    port: Port = 8284,
    letta_url: LettaUrl = LETTA_CLOUD,
    letta_api_key: LettaApiKey = None,
    letta_project: LettaProject = None,
    letta_timeout: Annotated[
        float,
        Parameter(
            env_var="LETTA_PROXY_LETTA_TIMEOUT", help="Seconds of silence after which a stream counts as lost."
        ),
    ] = 120.0,
    allow_anyone: Annotated[
        bool, Parameter(negative="", help="Listen beyond this machine though no key is asked for.")
    ] = False,
    log_format: Format = LogFormat.AUTO,
    record: Annotated[
        Path | None,
        Parameter(env_var="LETTA_PROXY_RECORD", help="Folder to record each request in.", show_default=False),
    ] = None,
    record_text: Annotated[
        TextMode, Parameter(env_var="LETTA_PROXY_RECORD_TEXT", help="What recordings hold of texts.")
    ] = TextMode.DROP,
    record_max_count: Annotated[
        int, Parameter(validator=Number(gte=1), help="Recordings kept; the oldest go first.")
    ] = 1000,
    record_max_size: Annotated[
        int, Parameter(validator=Number(gte=1), help="Bytes of all recordings; the oldest go first.")
    ] = 256 * 1024 * 1024,
    replay: Annotated[
        Path | None,
        Parameter(help="Serve the recordings of this folder as agents, without a Letta.", show_default=False),
    ] = None,
    replay_pauses: Annotated[bool, Parameter(help="Keep the recorded pauses when replaying.")] = True,
    turns: Annotated[TurnSettings, Parameter(name="*")] = _TURNS,
    policies: Annotated[PolicySettings, Parameter(name="*")] = _POLICIES,
    threads: Annotated[ThreadSettings, Parameter(name="*")] = _THREADS,
    service: ServiceOptions = _SERVICE,
    access: Annotated[Access, Parameter(name="*")] = _ACCESS,
) -> None:
    """Serve Letta's agents to OpenAI clients.

    Example: letta-proxy serve --letta-url http://127.0.0.1:8283
    """
    recordings = None
    if record is not None:
        recordings = RecordingFolder(
            path=record, text=record_text, max_count=record_max_count, max_size=record_max_size
        )
    try:
        settings = Settings(
            host=host,
            port=port,
            letta_url=letta_url,
            letta_api_key=letta_api_key or None,
            letta_project=letta_project or None,
            letta_timeout=letta_timeout,
            allow_anyone=allow_anyone,
            shutdown_delay=service.shutdown_delay,
            shutdown_timeout=service.shutdown_timeout,
            max_connection_count=service.max_connection_count,
            max_request_size=service.max_request_size,
            max_value_count=service.max_value_count,
            max_message_count=service.max_message_count,
            max_part_count=service.max_part_count,
            max_tool_count=service.max_tool_count,
            max_buffered_size=service.max_buffered_size,
            access=complete(access),
            turns=turns,
            threads=threads,
            policies=policies,
            recordings=recordings,
        )
        check(settings)
        upstream = None if replay is None else letta_of_folder(replay, keep_pauses=replay_pauses)
    except (RecordingError, ValueError) as exc:
        stop(str(exc))
    except OSError as exc:
        stop(f"{exc.filename}: {(exc.strerror or str(exc)).lower()}")
    configure_log(log_format)
    _run(settings, upstream, partial(announce_replay, folder=replay) if replay else announce_letta, service)


@app.command
def demo(*, host: Host = "127.0.0.1", port: Port = 8284, log_format: Format = LogFormat.AUTO) -> None:
    """Serve recorded agents: streaming, reasoning and a tool call, with no Letta at all.

    Example: letta-proxy demo --port 8284
    """
    try:
        settings = Settings(host=host, port=port, letta_url="http://recorded.invalid")
    except SettingsError as exc:
        stop(str(exc))
    configure_log(log_format)
    _run(settings, demo_letta(), announce_demo)


@app.command(name="threads")
def threads_command(
    agent: str,
    /,
    *,
    letta_url: LettaUrl = LETTA_CLOUD,
    letta_api_key: LettaApiKey = None,
    letta_project: LettaProject = None,
) -> None:
    """List an agent's chats: key, conversation at Letta, and when it was made.

    Example: letta-proxy threads Milo --letta-url http://127.0.0.1:8283
    """
    try:
        settings = Settings(
            letta_url=letta_url, letta_api_key=letta_api_key or None, letta_project=letta_project or None
        )
    except ValueError as exc:
        stop(str(exc))
    status, body = trio.run(_list_threads, settings, agent)
    answer = orjson.loads(body)
    if status != 200:
        stop(answer["error"]["message"], code=1)
    for chat in answer["chats"]:
        print(f"{chat['conversation_id']}  {(chat['created_at'] or '')[:19]}  {chat['key']}")
    if not answer["chats"]:
        print(f"{agent} has no chats of their own: all that was said is in its own thread.", file=sys.stderr)


async def _list_threads(settings: Settings, agent: str) -> tuple[int, bytes]:
    async with trio.open_nursery() as nursery:
        letta = LettaPool(settings)
        await nursery.start(letta.run)
        try:
            cycle = Proxy(settings.config()).list_threads(
                agent, token=secrets.token_hex(8), now=trio.current_time()
            )
            return await Carrier(cycle, letta).collect(cancel_timeout=0.0)
        finally:
            letta.stop()


@app.command(name="record")
def record_command(
    agent: str,
    out: Path,
    /,
    *,
    text: Annotated[str, Parameter(help="What the user says.")],
    expect: Annotated[
        list[str],
        Parameter(negative="", help="status=, finish=, text=, reasoning=, call= or error= and a value."),
    ],
    tool: Annotated[
        list[str] | None,
        Parameter(negative="", show_default=False, help="A tool's name, or a file with its JSON definition."),
    ] = None,
    note: Annotated[str, Parameter(help="What the recording shows.")] = "",
    letta_url: LettaUrl = LETTA_CLOUD,
    letta_api_key: LettaApiKey = None,
    letta_project: LettaProject = None,
) -> None:
    """Run one turn against a Letta and save it, if it shows what it should.

    Nothing is saved of a turn whose expectations do not hold. All texts are kept.

    Example: letta-proxy record Milo hello.jsonl --text "Say hello." --expect finish=stop
    """
    try:
        expectations = [Expectation.parse(item) for item in expect]
        settings = Settings(
            letta_url=letta_url, letta_api_key=letta_api_key or None, letta_project=letta_project or None
        )
        tools = [_tool(item) for item in tool or ()]
        if out.exists():
            stop(f"{out}: is there already")
    except ValueError as exc:
        stop(str(exc))
    body: dict[str, object] = {
        "model": agent,
        "messages": [{"role": "user", "content": text}],
        "stream_options": {"include_usage": True},
        **({"tools": tools} if tools else {}),
    }
    recorded = trio.run(_record_until_signal, settings, body, out.stem, note)
    if isinstance(recorded, signal.Signals):
        # As a shell tells of a program that a signal ended: 130 for Ctrl-C.
        stop("not saved: interrupted", code=128 + recorded)
    lines, outcome = recorded
    try:
        check_all(outcome, expectations)
        out.write_bytes(lines)
    except ExpectationError as exc:
        stop(f"not saved: {exc}")
    except OSError as exc:
        stop(f"{out}: {(exc.strerror or str(exc)).lower()}")
    print(f"{out}: {outcome.finish or outcome.error}, {len(lines)} bytes")


async def _record_until_signal(
    settings: Settings, body: dict[str, object], scenario: str, note: str
) -> tuple[bytes, Outcome] | signal.Signals:
    """The recording, or the signal that came before it was whole; its run is ended then."""
    recorded: list[tuple[bytes, Outcome] | signal.Signals] = []

    async def record(scope: trio.CancelScope) -> None:
        async with trio.open_nursery() as nursery:
            letta = LettaPool(settings)
            await nursery.start(letta.run)
            try:
                recorded.append(
                    await record_turn(
                        letta, body, scenario=scenario, note=note, cancel_timeout=settings.cancel_timeout
                    )
                )
            finally:
                letta.stop()
        scope.cancel()

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(record, nursery.cancel_scope)
            number = await anext(signals)
            nursery.cancel_scope.cancel()
    return recorded[0] if recorded else signal.Signals(number)


def _tool(text: str) -> object:
    """A tool as the request has it: of a file, or of a name alone."""
    path = Path(text)
    if not path.suffix:
        return {"type": "function", "function": {"name": text, "parameters": {"type": "object"}}}
    try:
        return orjson.loads(path.read_bytes())
    except OSError as exc:
        stop(f"{path}: {(exc.strerror or str(exc)).lower()}")
    except orjson.JSONDecodeError as exc:
        stop(f"{path}: expected a tool's JSON, got {exc}")


def _run(
    settings: Settings, upstream: Upstream | None, announce: Announce, options: ServiceOptions = _SERVICE
) -> None:
    if options.traces and find_spec("opentelemetry") is None:
        stop("--traces needs OpenTelemetry: pip install 'sansio-letta[otel]'")
    raise_open_files()
    inherited = inherited_sockets()
    sockets = [each for name, each in inherited if name != "metrics"]
    metrics = [each for name, each in inherited if name == "metrics"]
    try:
        for each in sockets:
            host, port = address(each)
            if not host.startswith("/"):
                settings = evolve(settings, host=host, port=port)  # whom it lets in is checked as ever
    except SettingsError as exc:
        stop(str(exc))
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
