"""``letta-proxy repair``: show and settle what keeps an agent stuck."""

import sys
from typing import Annotated, Any, Final

import orjson
from cyclopts import Parameter

from sansio_letta.upstreams.rest.repair import RepairOptions

from ..settings.server import LETTA_CLOUD, Settings
from .exit import stop
from .options import LettaApiKey, LettaProject, LettaUrl

_PLANS: Final = {"answer": "answer: no result", "deny": "deny", "cancel": "cancel"}
_DONE: Final = {"answer": "answered: no result", "deny": "denied", "cancel": "cancelled"}
_OUTCOMES: Final = {"left": "left alone", "failed": "failed"}
_HEAD: Final = ("WHAT", "WHERE", "SINCE (UTC)", "OUTCOME")


def repair_command(
    agent: str,
    /,
    *,
    dry_run: Annotated[
        bool, Parameter(negative="", help="Show what would be settled, and change nothing.")
    ] = False,
    force: Annotated[
        bool, Parameter(negative="", help="Settle also what is young or may be in use by another program.")
    ] = False,
    chat: Annotated[
        str | None, Parameter(show_default=False, help="Only the chat with this key, as `threads` lists it.")
    ] = None,
    conversation: Annotated[
        str | None,
        Parameter(
            show_default=False, help="Only this Letta conversation; `default` is the agent's main thread."
        ),
    ] = None,
    json: Annotated[bool, Parameter(negative="", help="Print the report as JSON.")] = False,
    letta_url: LettaUrl = LETTA_CLOUD,
    letta_api_key: LettaApiKey = None,
    letta_project: LettaProject = None,
) -> None:
    """Settle what keeps an agent stuck: calls and approvals that nothing answers, runs that nothing reads.

    Calls of clients' tools are answered with "no result", approvals are
    denied, runs are cancelled. The agent does not reply. What is younger than
    a minute or may be in use is left alone.

    Exit codes: 0 if nothing is left, 1 if something is, 2 if the agent is
    unknown or Letta cannot be asked.

    Example: letta-proxy repair Milo --dry-run --letta-url http://127.0.0.1:8283
    """
    import trio

    from .letta import repair_agent

    if chat is not None and conversation is not None:
        stop("expected --chat or --conversation, not both")
    options = RepairOptions(is_dry_run=dry_run, forces=force, chat=chat, conversation_id=conversation)
    try:
        settings = Settings(
            letta_url=letta_url, letta_api_key=letta_api_key or None, letta_project=letta_project or None
        )
    except ValueError as exc:
        stop(str(exc))
    status, body = trio.run(repair_agent, settings, agent, options)
    report = orjson.loads(body)
    if status != 200:
        stop(report["error"]["message"])
    if json:
        print(body.decode())
    else:
        _print_report(report)
    if report["remaining"]:
        raise SystemExit(1)


def _print_report(report: dict[str, Any]) -> None:
    found, name = report["found"], _printable(report["agent"])
    if not found:
        print(f"Nothing keeps {name} stuck.")
        return
    rows = [_HEAD, *map(_row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    print(_summary(report), file=sys.stderr)


def _summary(report: dict[str, Any]) -> str:
    outcomes = [item["outcome"] for item in report["found"]]
    counts = {
        "would be settled": outcomes.count("planned"),
        "settled": outcomes.count("settled"),
        "left alone": outcomes.count("left"),
        "failed": outcomes.count("failed"),
    }
    text = ", ".join(f"{count} {what}" for what, count in counts.items() if count) + "."
    if counts["left alone"]:
        text += " What may be in use is settled with --force."
    return text


def _row(item: dict[str, Any]) -> tuple[str, ...]:
    what = f"{item['kind']} {item['tool'] or item['id']}"
    return tuple(map(_printable, (what, _where(item), _since(item), _outcome(item))))


def _where(item: dict[str, Any]) -> str:
    if item["conversation_id"] is None:
        return "main thread"
    chat = "" if item["chat"] is None else f" (chat {item['chat']})"
    return f"{item['conversation_id']}{chat}"


def _since(item: dict[str, Any]) -> str:
    if item["since"] is None:
        return "unknown"
    return f"{item['since'][:19].replace('T', ' ')} ({_duration(item['age'])})"


def _duration(seconds: int) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _outcome(item: dict[str, Any]) -> str:
    remedy, outcome, reason = item["remedy"], item["outcome"], item["reason"]
    done = {"planned": _PLANS[remedy], "settled": _DONE[remedy], **_OUTCOMES}[outcome]
    return f"{done} ({reason})" if reason else done


def _printable(text: str) -> str:
    """Replace what a terminal would obey: names and keys are made by models and clients."""
    return "".join(char if char.isprintable() else "?" for char in text)
