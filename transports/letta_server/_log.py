"""Logs: a line for a person at a terminal, JSON for everybody else."""

import sys
from enum import Enum

import structlog


class LogFormat(Enum):
    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


def configure_log(log_format: LogFormat) -> None:
    """Send log lines to standard error. `auto` is the console's form on a terminal and JSON elsewhere."""
    console = log_format is LogFormat.CONSOLE or (log_format is LogFormat.AUTO and sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Only the console's renderer shows a traceback by itself.
            *([] if console else [structlog.processors.format_exc_info]),
            structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
