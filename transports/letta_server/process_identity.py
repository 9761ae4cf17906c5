"""What a process is called in its runs at Letta, so that another one can tell whether it still lives.

Processes on one machine see each other: one that is gone, or whose number now belongs to a later one, has died.
Of a process elsewhere, or in another container, nobody here knows anything: its runs are left alone until the
time is over that its turns may take.
"""

import os
import secrets
from functools import cache
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")


def own_name() -> str:
    """This process: the start of its machine, its space of process numbers, its number, and its own start.

    Where the system does not tell, a name that says nothing to others.
    """
    pid = os.getpid()
    place, started = _place(), _started(pid)
    return f"{place}-{pid}-{started}" if place and started else secrets.token_hex(12)


def has_died(name: str) -> bool:
    """Whether a process is known to run no more.

    :param name: as it called itself.
    """
    place, _, rest = name.rpartition("-")[0].rpartition("-")
    started = name.rpartition("-")[2]
    if not place or place != _place() or not rest.isascii() or not rest.isdigit():
        return False
    return _started(int(rest[:10])) != started


@cache
def _place() -> str | None:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip().replace("-", "")
        space = "".join(filter(str.isdigit, os.readlink(_PROC / "self/ns/pid")))
    except OSError:
        return None
    return f"{boot}-{space}" if boot and space else None


def _started(pid: int) -> str | None:
    """When a process was started, by the machine's own count; None if there is none."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The name in brackets may hold anything; the start is the 22nd field, the 20th behind it.
    fields = stat.rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] != "Z" else None
