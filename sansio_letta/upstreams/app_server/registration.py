"""The client's tools that the server knows of a conversation, as the working socket has told it."""

from attrs import define, field

from ...turn.request import Tool, ToolResult
from ...turn.settlement import PLACEHOLDERS
from .frames import Json

#: Milliseconds that a call may take once it is carried out: the longest that the server accepts.
MAX_CALL_TIME = 300_000


def start_frame(runtime: Json, tools: tuple[Tool, ...]) -> Json:
    """Return the request that tells the server of a conversation, its mode and the client's tools.

    The mode is asked for each time: a fork does not keep it.
    """
    described = [
        {
            "name": tool.name,
            # The server drops a frame without an answer if one of these is missing.
            "description": tool.description or "",
            "parameters": dict(tool.parameters),
            "auto_background": False,
            "timeout_ms": MAX_CALL_TIME,
        }
        for tool in tools
    ]
    return {**runtime, "mode": "strict", "external_tools": [{"tools": described}]}


@define(eq=False)
class Registration:
    """What the server was told of one conversation. It forgets that with the socket."""

    _tools: tuple[Tool, ...] | None = field(default=None, repr=False)
    _callable: frozenset[str] = frozenset()
    """The tools that the server asks this process to carry out in the turn under way."""

    def is_current(self, tools: tuple[Tool, ...]) -> bool:
        """Whether the server was told of these tools."""
        return self._tools == tools

    def note(self, tools: tuple[Tool, ...]) -> None:
        """Note that it was told."""
        self._tools = tools

    def begin_turn(self) -> None:
        """Note that an input is sent: its turn takes the tools that are registered now."""
        self._callable = frozenset(tool.name for tool in self._tools or ())

    def forget(self) -> None:
        """Note that the socket was lost."""
        self._tools, self._callable = None, frozenset()

    def may_carry_out(self, name: str, result: ToolResult) -> bool:
        """Whether the server asks this process to carry out a call, once it is allowed."""
        return result.content not in PLACEHOLDERS and name in self._callable
