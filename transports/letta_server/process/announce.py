"""What the server prints for a person at the terminal."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import orjson
import trio

from ..cycle_driver import ask
from ..server import Server
from ..settings.server import Settings
from ..upstream.recorded import DEMO_AGENTS, RecordedLetta


async def announce_letta(server: Server, _: str) -> None:
    """Print the address of Letta and its agents. Letta may start later than this server."""
    settings = server.settings
    status, body = await ask(server.proxy, server.upstream, "/ready")
    answer = orjson.loads(body)
    if status != 200:
        say(f"  Letta     {settings.letta_url} does not answer: {answer['reason']}")
        say("            Serving anyway: requests fail until it does. Set another with --letta-url.")
        return
    if "app_server" in answer:
        say(f"  Letta     {settings.letta_url}, an App Server of Letta Code {answer['app_server']}")
        for line in _app_server_notes(answer):
            say(f"            {line}")
    else:
        say(f"  Letta     {settings.letta_url}, version {answer['letta'] or 'unknown'}")
    if settings.access.pass_through:
        say("  agents    those of each client's own key")
        return
    status, body = await ask(server.proxy, server.upstream, "/v1/models")
    answer = orjson.loads(body)
    if status != 200:
        say(f"  agents    {answer['error']['message']}")
        return
    names = [model["id"] for model in answer["data"]]
    shown = ", ".join(_printable(name) for name in names[:8])
    say(f"  agents    {len(names)}{': ' if names else ''}{shown}{', ...' if len(names) > 8 else ''}")


def _app_server_notes(answer: dict[str, str]) -> Iterator[str]:
    """Say what is unusual about an App Server, by its answer to ``/ready``."""
    if (backend := answer.get("backend")) is not None:
        yield (
            f"Its backend is {_printable(backend)}: it was started without --backend local, and its agents are "
            "Letta Cloud's."
        )
    if (version := answer.get("protocol_version")) is not None:
        yield f"It speaks version {_printable(version)} of its protocol, unknown here: requests may fail."


async def announce_demo(server: Server, url: str) -> None:
    """Print commands to paste; each works as it is."""
    say("  Letta     none: recorded agents answer, always with the same words")
    for name, description in DEMO_AGENTS.values():
        say(f"  agent     {name:<14} {description}")
    request = {
        "model": "demo-thinker",
        "stream": True,
        "messages": [{"role": "user", "content": "Hello!"}],
    }
    body = shlex.quote(orjson.dumps(request).decode())
    say("\nTry it, streaming with reasoning:\n")
    say(f"curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' -d {body}")
    say("\nOr a tool call and its result, in Python (pip install openai):\n")
    say(_SNIPPET.format(url=url))
    await trio.lowlevel.checkpoint()


async def announce_replay(server: Server, _: str, *, folder: Path) -> None:
    """Print which recordings are served."""
    assert isinstance(server.upstream, RecordedLetta)
    names = [name for _, name, _ in server.upstream.agents]
    say(f"  Letta     none: the recordings of {folder}")
    say(f"  agents    {len(names)}: {', '.join(map(_printable, names[:8]))}{', ...' if len(names) > 8 else ''}")
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
    """Return an agent's name in a form that is safe to print on one line."""
    return "".join(char if char.isprintable() else "?" for char in name[:60])


def say(line: str) -> None:
    """Print a line and flush it: the reader may be a program that waits for it."""
    print(line, flush=True)


def key_advice(settings: Settings) -> str:
    """Describe the API key that clients must use."""
    if settings.access.pass_through:
        return "each with its own Letta key"
    return "with one of the proxy's keys" if settings.access.requires_key else "any API key will do"
