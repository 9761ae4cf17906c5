"""``letta-proxy record``: records one turn against a real Letta, if it matches the expectations."""

import signal
from pathlib import Path
from typing import Annotated

import orjson
from cyclopts import Parameter

from letta_recordings.expectations import Expectation, ExpectationError, check_all

from ..settings.server import LETTA_CLOUD, Settings
from .exit import stop
from .options import LettaApiKey, LettaProject, LettaUrl


def record_command(
    agent: str,
    out: Path,
    /,
    *,
    text: Annotated[str, Parameter(help="The user's message.")],
    expect: Annotated[
        list[str],
        Parameter(
            negative="",
            help="Expected outcome: status=, finish=, text=, reasoning=, call= or error=, and a value.",
        ),
    ],
    tool: Annotated[
        list[str] | None,
        Parameter(
            negative="", show_default=False, help="Tool to offer: its name, or a file with its JSON definition."
        ),
    ] = None,
    note: Annotated[str, Parameter(help="Description of the recording.")] = "",
    letta_url: LettaUrl = LETTA_CLOUD,
    letta_api_key: LettaApiKey = None,
    letta_project: LettaProject = None,
) -> None:
    """Run one turn against Letta and save it as a recording, if it matches the expectations.

    Otherwise nothing is saved. The recording contains all texts.

    Example: letta-proxy record Milo hello.jsonl --text "Say hello." --expect finish=stop
    """
    import trio

    from .letta import record_until_signal

    try:
        expectations = [Expectation.parse(item) for item in expect]
        settings = Settings(
            letta_url=letta_url, letta_api_key=letta_api_key or None, letta_project=letta_project or None
        )
        tools = [_tool(item) for item in tool or ()]
        if out.exists():
            stop(f"{out}: already exists")
    except ValueError as exc:
        stop(str(exc))
    body: dict[str, object] = {
        "model": agent,
        "messages": [{"role": "user", "content": text}],
        "stream_options": {"include_usage": True},
        **({"tools": tools} if tools else {}),
    }
    recorded = trio.run(record_until_signal, settings, body, out.stem, note)
    if isinstance(recorded, signal.Signals):
        # As a shell reports a program that was ended by a signal: 130 for Ctrl-C.
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


def _tool(text: str) -> object:
    """Return a tool as in a request, from a file or from its name only."""
    path = Path(text)
    if not path.suffix:
        return {"type": "function", "function": {"name": text, "parameters": {"type": "object"}}}
    try:
        return orjson.loads(path.read_bytes())
    except OSError as exc:
        stop(f"{path}: {(exc.strerror or str(exc)).lower()}")
    except orjson.JSONDecodeError as exc:
        stop(f"{path}: expected a tool's JSON, got {exc}")
