"""The command line: arguments and environment -> Settings -> trio.run."""

import resource
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, TypeAlias

import orjson
import trio
from cyclopts import App, Parameter
from cyclopts.validators import Number

from letta_inprocess._recordings import RecordingFolder
from sansio_letta import PRODUCT_ID, ReasoningField, RecordingError
from sansio_letta.recording import TextMode

from ._access import Access
from ._announce import announce_demo, announce_letta, announce_replay, say
from ._cli_access import check, client_advice, complete, keys_app, read_config
from ._cli_recordings import recordings_app
from ._errors import stop
from ._hangup import reload_on_hangup
from ._log import LogFormat, configure_log
from ._record import Expectation, ExpectationError, Outcome, check_all, record_turn
from ._recorded import demo_letta, letta_of_folder
from ._server import Server, serve
from ._settings import LETTA_CLOUD, Settings, SettingsError
from ._upstream import LettaPool, Upstream

app = App(
    name="letta-proxy",
    help="A Letta agent as a model of the OpenAI API.",
    help_format="plaintext",
    version=PRODUCT_ID.partition("/")[2],
)

app.command(recordings_app, name="*")
app.command(keys_app)

#: Tells a person at the terminal what is served; gets the server and its own address.
Announce: TypeAlias = Callable[[Server, str], Awaitable[None]]

Host = Annotated[str, Parameter(env_var="LETTA_PROXY_HOST", help="Address to listen on.")]
Port = Annotated[
    int,
    Parameter(env_var="LETTA_PROXY_PORT", validator=Number(gte=0, lte=65535), help="Port; 0 takes a free one."),
]
Format = Annotated[LogFormat, Parameter(env_var="LETTA_PROXY_LOG_FORMAT", help="Form of the log on stderr.")]
Reasoning = Annotated[
    ReasoningField,
    Parameter(env_var="LETTA_PROXY_REASONING", help="Field that carries the agent's reasoning."),
]


LettaUrl = Annotated[
    str, Parameter(env_var="LETTA_BASE_URL", help="Address of the Letta server; default: Letta Cloud.")
]
LettaApiKey = Annotated[
    str | None, Parameter(env_var="LETTA_API_KEY", show_default=False, help="Letta's key or password.")
]
LettaProject = Annotated[
    str | None, Parameter(env_var="LETTA_PROJECT", show_default=False, help="Project at Letta Cloud.")
]


@app.command(name="serve", config=read_config)
def serve_command(
    *,
    host: Host = "127.0.0.1",
    port: Port = 8284,
    letta_url: LettaUrl = LETTA_CLOUD,
    letta_api_key: LettaApiKey = None,
    letta_project: LettaProject = None,
    letta_timeout: Annotated[
        float, Parameter(env_var="LETTA_PROXY_LETTA_TIMEOUT", help="Seconds of silence that end a turn.")
    ] = 120.0,
    reasoning: Reasoning = ReasoningField.REASONING_CONTENT,
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
    access: Annotated[Access, Parameter(name="*")] = Access(),  # noqa: B008  # frozen
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
            reasoning=reasoning,
            allow_anyone=allow_anyone,
            access=complete(access),
            recordings=recordings,
        )
        check(settings)
        upstream = None if replay is None else letta_of_folder(replay, keep_pauses=replay_pauses)
    except (RecordingError, ValueError) as exc:
        stop(str(exc))
    except OSError as exc:
        stop(f"{exc.filename}: {(exc.strerror or str(exc)).lower()}")
    configure_log(log_format)
    _run(settings, upstream, partial(announce_replay, folder=replay) if replay else announce_letta)


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
    lines, outcome = trio.run(_record, settings, body, out.stem, note)
    try:
        check_all(outcome, expectations)
        out.write_bytes(lines)
    except ExpectationError as exc:
        stop(f"not saved: {exc}")
    except OSError as exc:
        stop(f"{out}: {(exc.strerror or str(exc)).lower()}")
    print(f"{out}: {outcome.finish or outcome.error}, {len(lines)} bytes")


async def _record(
    settings: Settings, body: dict[str, object], scenario: str, note: str
) -> tuple[bytes, Outcome]:
    async with trio.open_nursery() as nursery:
        letta = LettaPool(settings)
        await nursery.start(letta.run)
        try:
            return await record_turn(letta, body, scenario=scenario, note=note)
        finally:
            letta.stop()


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


def _run(settings: Settings, upstream: Upstream | None, announce: Announce) -> None:
    # A stream takes two descriptors, and the usual soft limit of 1,024 is there for `select` alone.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        trio.run(_serve_until_signal, settings, upstream, announce)
    except* OSError as group:
        cause: BaseException = group
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        reason = getattr(cause, "strerror", None) or str(cause)
        stop(f"cannot listen on {settings.host} port {settings.port}: {reason.lower()}. Choose with --port.")


async def _serve_until_signal(settings: Settings, upstream: Upstream | None, announce: Announce) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            server, listeners = await nursery.start(serve, settings, upstream)
            port = listeners[0].socket.getsockname()[1]
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            scheme = "http" if server.door.certificate is None else "https"
            say(f"letta-proxy {_version()} listens on {scheme}://{host}:{port}")
            say(f"  base URL  {scheme}://{host}:{port}/v1   (for the client; {client_advice(settings)})")
            nursery.start_soon(announce, server, f"{scheme}://{host}:{port}")
            nursery.start_soon(reload_on_hangup, server)
            await anext(signals)
            nursery.cancel_scope.cancel()


def _version() -> str:
    return PRODUCT_ID.partition("/")[2]
