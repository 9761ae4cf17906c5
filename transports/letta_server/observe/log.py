"""Logs: readable lines on a terminal, JSON elsewhere."""

import sys
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from enum import Enum
from typing import Any, Final, TypeAlias

import structlog
from attrs import asdict, has

from sansio_letta import Summary

from ..settings.log import LogFormat

_log: Final = structlog.get_logger("letta_server")

#: Called with the summary of a request, its duration, and the seconds until the first byte of its body.
Log: TypeAlias = Callable[[Summary, float, float | None], None]


#: The field in which structlog's renderers expect a formatted traceback.
_TRACEBACK: Final = "exception"
#: Characters of one value: clients choose some of them, like the name of the model, at any length.
_MAX_VALUE: Final = 500
#: Items of a list, and characters of each: clients may send any number of unknown fields.
_MAX_ITEM_COUNT: Final = 20
_MAX_ITEM: Final = 64


def sanitize(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep values from forging lines, controlling the terminal, or filling the disk: clients choose some."""
    for name, value in event.items():
        if name == _TRACEBACK:
            continue
        if isinstance(value, str):
            event[name] = _sanitized(value)
        elif isinstance(value, tuple | list):
            event[name] = [
                _sanitized(item, _MAX_ITEM) if isinstance(item, str) else item
                for item in value[:_MAX_ITEM_COUNT]
            ]
            if len(value) > _MAX_ITEM_COUNT:
                event[name].append(f"... and {len(value) - _MAX_ITEM_COUNT} more")
    return event


def _sanitized(text: str, limit: int = _MAX_VALUE) -> str:
    shown = text if len(text) <= limit else text[:limit] + "..."
    if shown.isprintable():
        return shown
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown)


def configure_log(log_format: LogFormat) -> None:
    """Send log lines to standard error; `auto` means the console format on a terminal, and JSON elsewhere."""
    console = log_format is LogFormat.CONSOLE or (log_format is LogFormat.AUTO and sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            sanitize,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def log_defect(event: str, **fields: str) -> None:
    """Log an unexpected exception with its traceback.

    The traceback is formatted here, because structlog's own would show local variables, and so keys and texts.
    """
    _log.error(event, **{_TRACEBACK: traceback.format_exc()}, **fields)


def log_request(summary: Summary, seconds: float, first: float | None) -> None:
    """Log one line for a request: its whole summary, which contains no key and no text."""
    fields = dict(_fields(summary))
    fields["first_seconds"] = None if first is None else round(first, 4)
    fields["seconds"] = round(seconds, 4)
    _log.info("request", **{name: value for name, value in fields.items() if value not in _NOTHING})


#: Fields that are not logged.
_NOTHING: Final = (None, False, 0, (), "")


def _fields(summary: Summary) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a summary, with nested ones flattened, and lists of ids replaced by their number."""
    for name, value in asdict(summary, recurse=False).items():
        if isinstance(value, Enum):
            yield name, value.value
        elif value is None or not has(type(value)):
            yield name, value
        else:
            for part, inner in asdict(value, recurse=False).items():
                many = isinstance(inner, tuple)
                yield f"{part}_calls" if many else part, len(inner) if many else inner
