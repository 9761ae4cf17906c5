"""The command line: arguments and environment -> Settings -> trio.run."""

import os
import resource
import shlex
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Final, NoReturn, TypeAlias

import orjson
import trio
from cyclopts import App, Parameter
from cyclopts.validators import Number

from sansio_letta import PRODUCT_ID, Config, ReasoningField, RecordingError, read_recording
from sansio_letta.replay import render

from . import _recorded
from ._log import LogFormat, configure_log
from ._server import Server, ask, serve
from ._settings import LETTA_CLOUD, Settings, SettingsError
from ._upstream import Upstream

app = App(
    name="letta-proxy",
    help="A Letta agent as a model of the OpenAI API.",
    help_format="plaintext",
    version=PRODUCT_ID.partition("/")[2],
)

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


@app.command(name="serve")
def serve_command(
    *,
    host: Host = "127.0.0.1",
    port: Port = 8284,
    letta_url: Annotated[
        str, Parameter(env_var="LETTA_BASE_URL", help="Address of the Letta server; default: Letta Cloud.")
    ] = LETTA_CLOUD,
    letta_api_key: Annotated[
        str | None, Parameter(env_var="LETTA_API_KEY", show_default=False, help="Letta's key or password.")
    ] = None,
    letta_project: Annotated[
        str | None, Parameter(env_var="LETTA_PROJECT", show_default=False, help="Project at Letta Cloud.")
    ] = None,
    letta_timeout: Annotated[
        float, Parameter(env_var="LETTA_PROXY_LETTA_TIMEOUT", help="Seconds of silence that end a turn.")
    ] = 120.0,
    reasoning: Reasoning = ReasoningField.REASONING_CONTENT,
    allow_anyone: Annotated[
        bool, Parameter(negative="", help="Listen beyond this machine though no key is asked for.")
    ] = False,
    log_format: Format = LogFormat.AUTO,
) -> None:
    """Serve Letta's agents to OpenAI clients.

    Example: letta-proxy serve --letta-url http://127.0.0.1:8283
    """
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
        )
    except (SettingsError, ValueError) as exc:
        _stop(str(exc))
    configure_log(log_format)
    _run(settings, None, _announce_letta)


@app.command
def demo(*, host: Host = "127.0.0.1", port: Port = 8284, log_format: Format = LogFormat.AUTO) -> None:
    """Serve recorded agents: streaming, reasoning and a tool call, with no Letta at all.

    Example: letta-proxy demo --port 8284
    """
    try:
        settings = Settings(host=host, port=port, letta_url="http://recorded.invalid")
    except SettingsError as exc:
        _stop(str(exc))
    configure_log(log_format)
    _run(settings, _recorded.demo_letta(), _announce_demo)


@app.command
def replay(
    file: Path,
    /,
    *,
    timing: Annotated[bool, Parameter(negative="", help="Keep the recorded pauses.")] = False,
    reasoning: Reasoning = ReasoningField.REASONING_CONTENT,
) -> None:
    """Print the chunks that a client would have got of a recording.

    The same bytes every time. Lines that begin with a colon are comments: which turn it is, and what was asked
    of Letta.

    Example: letta-proxy replay fixtures/recordings/client_tool.jsonl
    """
    try:
        recording = read_recording(file.read_bytes())
    except OSError as exc:
        _stop(f"{file}: {(exc.strerror or str(exc)).lower()}")
    except RecordingError as exc:
        _stop(f"{file}: {exc}")
    began = time.monotonic()
    for rendered in render(recording, Config(reasoning_field=reasoning)):
        if timing:
            time.sleep(max(0.0, began + rendered.t - time.monotonic()))
        _write(rendered.data)


def _write(data: bytes) -> None:
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # The reader, `head` perhaps, has seen enough; what Python flushes at its end has nowhere to go either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


def _stop(message: str) -> NoReturn:
    print(f"letta-proxy: {message}", file=sys.stderr)
    raise SystemExit(2)


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
        _stop(f"cannot listen on {settings.host} port {settings.port}: {reason.lower()}. Choose with --port.")


async def _serve_until_signal(settings: Settings, upstream: Upstream | None, announce: Announce) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            server, listeners = await nursery.start(serve, settings, upstream)
            port = listeners[0].socket.getsockname()[1]
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            _say(f"letta-proxy {_version()} listens on http://{host}:{port}")
            _say(f"  base URL  http://{host}:{port}/v1   (for the client; any API key will do)")
            nursery.start_soon(announce, server, f"http://{host}:{port}")
            await anext(signals)
            nursery.cancel_scope.cancel()


async def _announce_letta(server: Server, _: str) -> None:
    """Say which Letta there is and what it holds; one that is not there yet may come."""
    settings = server.settings
    status, body = await ask(server.proxy, server.upstream, "/ready")
    answer = orjson.loads(body)
    if status != 200:
        _say(f"  Letta     {settings.letta_url} does not answer: {answer['reason']}")
        _say("            Serving anyway: requests fail until it does. Set another with --letta-url.")
        return
    _say(f"  Letta     {settings.letta_url}, version {answer['letta']}")
    status, body = await ask(server.proxy, server.upstream, "/v1/models")
    answer = orjson.loads(body)
    if status != 200:
        _say(f"  agents    {answer['error']['message']}")
        return
    names = [model["id"] for model in answer["data"]]
    shown = ", ".join(_printable(name) for name in names[:8])
    _say(f"  agents    {len(names)}{': ' if names else ''}{shown}{', ...' if len(names) > 8 else ''}")


async def _announce_demo(server: Server, url: str) -> None:
    """Say what to paste; every line of it works as it stands."""
    _say("  Letta     none: recorded agents answer, the same words each time")
    for name, description in _recorded.DEMO_AGENTS.values():
        _say(f"  agent     {name:<14} {description}")
    request = {
        "model": "demo-thinker",
        "stream": True,
        "messages": [{"role": "user", "content": "Hello!"}],
    }
    body = shlex.quote(orjson.dumps(request).decode())
    _say("\nTry it, streaming with reasoning:\n")
    _say(f"curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' -d {body}")
    _say("\nOr a tool call and its result, in Python (pip install openai):\n")
    _say(_SNIPPET.format(url=url))
    await trio.lowlevel.checkpoint()


_SNIPPET: Final = """\
from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key="none")
schema = {{"type": "object", "properties": {{"city": {{"type": "string"}}}}}}
tools = [{{"type": "function", "function": {{"name": "get_weather", "parameters": schema}}}}]
messages = [{{"role": "user", "content": "How is the weather in Paris?"}}]
reply = client.chat.completions.create(model="demo-weather", messages=messages, tools=tools).choices[0].message
call = reply.tool_calls[0]
print(call.function.name, call.function.arguments)
messages += [reply, {{"role": "tool", "tool_call_id": call.id, "content": "18 C, sunny"}}]
for chunk in client.chat.completions.create(model="demo-weather", messages=messages, tools=tools, stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
"""


def _printable(name: str) -> str:
    """An agent's name on one line of a terminal, whatever is in it."""
    return "".join(char if char.isprintable() else "?" for char in name[:60])


def _say(line: str) -> None:
    print(line, flush=True)


def _version() -> str:
    return PRODUCT_ID.partition("/")[2]
