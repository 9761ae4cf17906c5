"""The name of a process, stored with its runs in Letta, by which other processes can check whether it has died.

On the same machine, a process has died if its id is unused, or belongs to a process that started later. Nothing
is known about processes on other machines or in other containers: their runs are left alone until the maximum
duration of a turn has passed.
"""

import os
import secrets
from functools import cache
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")


def own_name() -> str:
    """Return this process's name: the boot of its machine, its PID namespace, its PID and its start time.

    If the system does not provide these, the name is random, and others cannot check it.
    """
    pid = os.getpid()
    place, started = _place(), _started(pid)
    return f"{place}-{pid}-{started}" if place and started else secrets.token_hex(12)


def has_died(name: str) -> bool:
    """Return whether a process is known to have ended.

    :param name: the process's `own_name`.
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
    """Return the start time of a process, in the kernel's clock ticks; None if there is no such process."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The name in parentheses may contain anything; the start time is the 22nd field, the 20th after it.
    fields = stat.rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] != "Z" else None
