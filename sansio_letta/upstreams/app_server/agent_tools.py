"""Which of the agent's own tools the model may use at the App Server, and on which files.

A chat client must get no shell and no files of the server's host, but an agent whose memory is a folder of
files needs its tools to remember. So calls of `MEMORY_TOOLS` are judged by their paths. A path is compared as
text: the server may be another host. Nothing that is allowed creates links.
"""

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from attrs import field, frozen

from ...config import AgentToolPolicy, NamedTools

#: Reads the memory, without a path.
_MEMORY: Final = "Memory"
#: The tools by which an agent reads and edits its memory, and their argument that is a path.
_PATHS: Final[Mapping[str, str]] = {"Read": "file_path", "Write": "file_path", "Edit": "file_path"}
MEMORY_TOOLS: Final = (_MEMORY, *_PATHS)
_DRIVE: Final = re.compile(r"[A-Za-z]:")


class Judgement(Enum):
    """What becomes of a call of one of the agent's own tools; the value is the reason for the agent."""

    ALLOW = None
    ASK = ""
    DENY = "This tool is not available in this conversation."
    OUTSIDE = "Only files in your memory directory may be used."

    @property
    def reason(self) -> str | None:
        """The reason of a denial, None if it is not one."""
        return self.value or None


@frozen(kw_only=True)
class AgentTools:
    """The policy for the agent's own tools.

    :param has_memory: the memory tools may be used, within the memory directory.
    :param names: other tools that may be used without a question.
    :param asks: a human decides about any other.
    :param client_names: the client's tools, which the client carries out.
    """

    has_memory: bool = True
    names: frozenset[str] = frozenset()
    asks: bool = False
    client_names: frozenset[str] = field(default=frozenset())

    @classmethod
    def of(cls, policy: AgentToolPolicy | NamedTools) -> "AgentTools":
        """Make those of a policy."""
        if isinstance(policy, NamedTools):
            names = frozenset(policy.names)
            word = AgentToolPolicy.MEMORY.value
            return cls(has_memory=word in names, names=names - {word})
        return cls(has_memory=policy is not AgentToolPolicy.NONE, asks=policy is AgentToolPolicy.ASK)

    @property
    def needs_directory(self) -> bool:
        """Whether it must be known where the memory is."""
        return self.has_memory

    @property
    def offered(self) -> tuple[str, ...] | None:
        """The tools that the model is offered; None: all that the agent has."""
        if self.asks:
            return None
        own = (*(MEMORY_TOOLS if self.has_memory else ()), *sorted(self.names))
        return (*sorted(self.client_names), *(name for name in own if name not in self.client_names))

    def judge(self, name: str, arguments: Mapping[str, Any], memory_directory: str | None) -> Judgement:
        """Decide about a call.

        :param memory_directory: None if it is not known.
        """
        if name in self.client_names:
            return Judgement.ASK
        if name in self.names:
            return Judgement.ALLOW
        if self.has_memory and name == _MEMORY:
            return Judgement.ALLOW
        if self.has_memory and (key := _PATHS.get(name)) is not None:
            if is_within(arguments.get(key), memory_directory):
                return Judgement.ALLOW
            return Judgement.ASK if self.asks else Judgement.OUTSIDE
        return Judgement.ASK if self.asks else Judgement.DENY


def is_within(path: object, directory: str | None) -> bool:
    """Whether a path names something in a directory, not the directory itself.

    Both must be absolute, with forward or backward slashes. A path with ``..`` never is, even if it comes back:
    what the parts before it are cannot be seen from here.
    """
    if not isinstance(path, str) or not directory or "\0" in path:
        return False
    has_drive = _DRIVE.match(directory) is not None
    inner, outer = (_plain(text, has_drive) for text in (path, directory))
    if inner is None or outer is None or ".." in inner.split("/"):
        return False
    return inner.startswith(outer.rstrip("/") + "/") and inner != outer


def _plain(path: str, has_drive: bool) -> str | None:
    """Return an absolute path with single forward slashes; None if it is not absolute."""
    if has_drive:
        # Windows ignores case and takes either slash.
        path = path.replace("\\", "/").casefold()
        if _DRIVE.match(path) is None or path[2:3] != "/":
            return None
    elif not path.startswith("/"):
        return None
    # Without resolving "..", which must be seen.
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return ("" if has_drive else "/") + "/".join(parts)
