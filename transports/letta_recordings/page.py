"""A recording as a self-contained page, without network access or other files.

The page is a template with the recording's data as JSON; its script inserts them as text, never as HTML. The
page's security policy only allows its one script and its one style sheet, by their hashes, and no network
access.
"""

import base64
import hashlib
import html
import math
import re
from importlib import resources
from typing import Any, Final

import orjson

from sansio_letta.recording.format import Recording
from sansio_letta.recording.inspect import inspect
from sansio_letta.recording.rows import Fold, Inspection, Kind, Outcome, Part, Passage, Row, fold

from .words import gap_text, notes, origin, printable, seconds, short_ids, states, words

_TEMPLATE: Final = resources.files("letta_recordings") / "page.html"
_MARK: Final = re.compile("@(POLICY|TITLE|DATA)@")

#: Filters of the page: the tag of a row and its label.
_KINDS: Final = (
    ("message", "Messages"),
    ("chunk", "Chunks"),
    ("command", "Commands"),
    ("ping", "Pings"),
    ("error", "Errors"),
    ("http", "HTTP"),
)

#: Characters that could end the script element, or begin another.
_ESCAPES: Final = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def page(recording: Recording) -> str:
    """Render the page: a timeline of each turn that can be folded, filtered and searched."""
    template = _TEMPLATE.read_text(encoding="utf-8")
    inspection = inspect(recording)
    parts = {
        "POLICY": _policy(template),
        "TITLE": html.escape(printable(f"{inspection.head.scenario}: what happened")),
        "DATA": _embedded(_data(inspection)),
    }
    return _MARK.sub(lambda found: parts[found.group(1)], template)


def _policy(template: str) -> str:
    """Return the page's content security policy."""
    (style,) = re.findall("<style>(.*?)</style>", template, re.DOTALL)
    (script,) = re.findall("<script>(.*?)</script>", template, re.DOTALL)
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embedded(value: object) -> str:
    """Encode JSON for a script element, whatever texts it contains."""
    return re.sub("[<>&\u2028\u2029]", lambda found: _ESCAPES[found.group()], orjson.dumps(value).decode())


# --- What the page shows --------------------------------------------------------------------------------------


def _data(inspection: Inspection) -> dict[str, Any]:
    head, client = inspection.head, any(row.x == 0 for item in inspection.passages for row in item.rows)
    return {
        "scenario": head.scenario,
        "note": head.note,
        "meta": f"letta-proxy inspect; {origin(head)}"
        + ("" if head.text == "keep" else f", texts: {head.text}")
        + (f", cut off in line {inspection.cut_line}" if inspection.cut_line else ""),
        "how": "What became of it is what this version of Letta Proxy makes of what was recorded. "
        + (
            "The client's own request and answer are as they were recorded."
            if client
            else "The recording has no client: its turns are shown as a streaming client would have got them."
        ),
        "kinds": _KINDS,
        "stats": _stats(inspection),
        "passages": [_passage(passage) for passage in inspection.passages],
    }


def _stats(inspection: Inspection) -> list[tuple[str, str, bool]]:
    passages = inspection.passages
    turns = [passage for passage in passages if passage.number is not None]
    first = [seconds(item.first_chunk_duration) for item in turns if item.first_chunk_duration is not None]
    used = [passage.usage for passage in turns if passage.usage is not None]
    tokens = (
        sum(usage.prompt_tokens or 0 for usage in used),
        sum(usage.completion_tokens or 0 for usage in used),
    )
    finishes = dict.fromkeys(_finish(passage) for passage in turns)
    errors = [f"{item.error.status_hint} {item.error.code}" for item in passages if item.error is not None]
    return [
        ("Turns", str(len(turns)), False),
        ("Duration", seconds(inspection.duration), False),
        ("First chunk", _few(first), False),
        ("Chunks", str(sum(passage.chunk_count for passage in turns)), False),
        ("Tokens", f"{tokens[0]} in, {tokens[1]} out" if used else "none", False),
        ("Calls", str(sum(passage.call_count for passage in turns)), False),
        ("Finish", _few([finish for finish in finishes if finish]), False),
        ("Errors", _few(errors), bool(errors)),
    ]


def _few(texts: list[str]) -> str:
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "") or "none"


def _finish(passage: Passage) -> str:
    return "client disconnected" if passage.left else passage.finish or ""


def _passage(passage: Passage) -> dict[str, Any]:
    folds, end = fold(passage.rows), passage.t + passage.duration
    first = passage.first_chunk_duration
    request = next((row for row in passage.rows if row.kind in (Kind.CLIENT, Kind.REQUEST)), passage.rows[0])
    failed = passage.error is not None
    title = f"Turn {passage.number}" if passage.number is not None else "Outside of a turn"
    return {
        "title": title,
        "asked": request.text if passage.number is not None else short_ids(request.name),
        "result": f"{passage.error.status_hint} {passage.error.code}" if passage.error else _finish(passage),
        "failed": failed,
        "folded": passage.number is None,
        "figures": _figures(passage),
        "notes": notes(passage),
        "t": passage.t,
        "end": end,
        "first": None if first is None else passage.t + first,
        "axis": _axis(passage.t, passage.duration),
        "waits": _spans(passage.rows, Kind.REQUEST, Kind.HEAD),
        "bodies": _spans(passage.rows, Kind.HEAD, Kind.END),
        "items": _items(folds, passage),
    }


def _figures(passage: Passage) -> str:
    first, chunks = passage.first_chunk_duration, passage.chunk_count
    parts = [
        seconds(passage.duration),
        f"{chunks} chunks" if chunks else "",
        f"the first after {seconds(first)}" if first is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def _axis(start: float, duration: float) -> list[tuple[float, str]]:
    """Return the marks of the time axis with their labels: a handful of round numbers."""
    if not 0 < duration < math.inf:
        return []
    power = 10.0 ** math.floor(math.log10(duration / 4))
    size = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= duration / 6)
    unit, factor = ("s", 1) if duration >= 1 else ("ms", 1000)
    count = int(duration / size) + 1
    return [(start + size * at, f"{size * at * factor:.4g} {unit}" if at else "0") for at in range(count)]


def _spans(rows: tuple[Row, ...], begin: Kind, end: Kind) -> list[tuple[float, float]]:
    """For each exchange, from its first row of one kind to its last of the other, or its last of all."""
    spans = []
    for row in rows:
        if row.kind is begin:
            same = [other for other in rows if other.x == row.x]
            spans.append((row.t, next(other for other in same if other.kind is end or other is same[-1]).t))
    return spans


def _items(folds: tuple[Fold, ...], passage: Passage) -> list[dict[str, Any]]:
    items, before = [], passage.t
    for found in folds:
        row = found.rows[0]
        outcomes = found.outcomes
        long = row.gap >= max(0.1, passage.duration * 0.15)
        items.append(
            {
                "t": row.t,
                "at": f"{row.t:.3f}",
                "before": before,
                "end": found.end_t,
                "gap": gap_text(row.gap),
                "long": long,
                "name": f"{_ARROWS.get(row.kind, '')}{short_ids(row.name)}",
                "text": short_ids(found.text) if row.kind is not Kind.MESSAGE else found.text,
                "brief": row.kind in (Kind.PING, Kind.HEAD, Kind.END) or row.name in _BRIEF,
                "tone": _tone(row),
                "rate": _rate(found),
                "asks": row.kind in (Kind.REQUEST, Kind.CLIENT),
                "heard": row.phase is not None or passage.number is None or row.kind is Kind.CLIENT,
                "state": states(found),
                "tags": _tags(row, outcomes),
                "outs": [_outcome(outcome, payload=False) for outcome in outcomes],
                "rows": [
                    _piece(piece, before=last.t if last else before)
                    for last, piece in zip((None, *found.rows), found.rows, strict=False)
                ],
            }
        )
        before = found.end_t
    return items


def _rate(found: Fold) -> str:
    """Describe how long some pieces took, and at which rate if there are many."""
    if found.rate is None:
        return ""
    took = f"in {seconds(found.end_t - found.rows[0].t)}"
    return f"{took}, {found.rate:,.0f}/s" if len(found.rows) >= _MANY else took


_MANY: Final = 10
_ARROWS: Final = {Kind.REQUEST: "→ ", Kind.CLIENT: "client: "}
_BRIEF: Final = ("stop_reason", "usage_statistics", "[DONE]")
_TONES: Final = {
    "assistant_message": "text",
    "reasoning_message": "thought",
    "hidden_reasoning_message": "thought",
    "approval_request_message": "call",
    "tool_call_message": "call",
    "tool_return_message": "call",
    "error_message": "error",
    "unreadable": "error",
}


def _tone(row: Row) -> str:
    if row.kind is Kind.CLIENT:
        return "client"
    if row.kind is Kind.REQUEST:
        return "command"
    if row.kind is Kind.REST or any(outcome.part is Part.FAILURE for outcome in row.outcomes):
        return "error"
    return _TONES.get(row.name, "quiet")


def _tags(row: Row, outcomes: tuple[Outcome, ...]) -> list[str]:
    parts = {outcome.part for outcome in outcomes}
    tags = {
        "message": row.kind in (Kind.MESSAGE, Kind.ANSWER),
        "chunk": any(outcome.chunk_count for outcome in outcomes),
        "command": row.kind is Kind.REQUEST or Part.COMMAND in parts,
        "ping": row.kind is Kind.PING,
        "error": _tone(row) == "error" or Part.FAILURE in parts,
        "http": row.kind not in (Kind.MESSAGE, Kind.PING, Kind.REST),
    }
    return [tag for tag, applies in tags.items() if applies]


def _piece(row: Row, before: float) -> dict[str, Any]:
    return {
        "t": row.t,
        "at": f"{row.t:.4f}",
        "before": before,
        "gap": gap_text(row.gap),
        "text": row.text,
        "payload": row.payload,
        "where": f"{row.name}, exchange {row.x}, at {row.t:.4f} s"
        if row.x
        else f"{row.name}, at {row.t:.4f} s",
        "outs": [_outcome(outcome, payload=True) for outcome in row.outcomes],
    }


def _outcome(outcome: Outcome, *, payload: bool) -> dict[str, Any]:
    tones = {Part.EVENT: "text", Part.COMMAND: "command", Part.FAILURE: "error"}
    names = {"ReasoningDelta": "thought", "CallStarted": "call", "CallArguments": "call"}
    piece = outcome.name in ("TextDelta", "ReasoningDelta", "CallArguments")
    shown = {
        "label": words(outcome.name),
        "text": outcome.text if piece else short_ids(outcome.text),
        "tone": names.get(outcome.name, tones[outcome.part]),
        "count": outcome.count,
        "piece": piece,
    }
    if payload:
        chunks = outcome.chunk_count
        wrote = f"{chunks} chunk{'' if chunks == 1 else 's'} to the client" if chunks else "to the client"
        shown |= {
            "payload": outcome.payload,
            "wrote": "asked of Letta" if outcome.part is Part.COMMAND else wrote,
        }
    return shown
