"""The form of the log, as an option names it."""

from enum import Enum


class LogFormat(Enum):
    """Forms of the log; `AUTO` is the console's on a terminal and JSON elsewhere."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"
