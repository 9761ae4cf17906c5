"""How clients see the agent's own tools: not at all, as lines of reasoning, or as status events.

Each view is a writer around a writer: it makes of the turn's words about tools what its client shows, and hands
the rest on. The writers themselves say nothing of the agent's own tools, since no client could carry them out.
"""

from typing import Final

from attrs import define, field

from ..config import ServerTools
from ..turn.events import (
    Event,
    ReasoningDelta,
    ServerToolArguments,
    ServerToolReturned,
    ServerToolStarted,
    TextDelta,
    TurnFailed,
    TurnFinished,
)
from .base import StatusWriter, Writer

#: Characters of a call's arguments that are shown.
MAX_ARGUMENTS: Final = 500
#: Of what a tool returned: lines, and characters of them all.
MAX_LINES: Final = 3
MAX_RETURN: Final = 500
_NO_NAME: Final = "a tool"


def showing_tools(writer: Writer, view: ServerTools) -> Writer:
    """The writer, with the agent's own tools shown as configured."""
    if view is ServerTools.REASONING:
        return ReasoningView(writer)
    if view is ServerTools.STATUS and isinstance(writer, StatusWriter):
        return StatusView(writer)
    return writer


@define
class ReasoningView:
    """Tools as lines among the reasoning: ``name {arguments}``, and ``name -> return``."""

    inner: Writer
    content_type: str = field(init=False)
    streaming: bool = field(init=False)
    _names: dict[str, str] = field(factory=dict, init=False)
    _shown: dict[str, int] = field(factory=dict, init=False)  #: characters of arguments, by call
    _line: str | None = field(default=None, init=False)  #: whose call is being written, if one is
    _thought: bool = field(default=False, init=False)  #: there is reasoning before what comes next
    _told: bool = field(default=False, init=False)  #: a line of ours was the last of it

    def __attrs_post_init__(self) -> None:
        self.content_type, self.streaming = self.inner.content_type, self.inner.streaming

    def write(self, event: Event) -> bytes:
        """See `Writer.write`."""
        if type(event) is TextDelta:
            return self.inner.write(event)
        match event:
            case ReasoningDelta(text=text):
                gap = "\n\n" if self._told and not text.startswith("\n") else ""
                self._thought, self._told, self._line = True, False, None
                return self.inner.write(ReasoningDelta(text=gap + text) if gap else event)
            case ServerToolStarted(call_id=call_id, name=name):
                self._names[call_id], self._shown[call_id] = name, 0
                return self._begin(call_id, name)
            case ServerToolArguments(call_id=call_id, fragment=fragment):
                return self._arguments(call_id, fragment)
            case ServerToolReturned(call_id=call_id, name=name):
                name = name or self._names.get(call_id) or _NO_NAME
                sign = "failed:" if event.failed else "->"
                return self._begin(None, f"{name} {sign} {first_lines(event.beginning)}".rstrip())
        return self.inner.write(event)

    def _begin(self, call_id: str | None, text: str) -> bytes:
        gap = "\n" if self._told else "\n\n" if self._thought else ""
        self._thought = self._told = True
        self._line = call_id
        return self.inner.write(ReasoningDelta(text=gap + text))

    def _arguments(self, call_id: str, fragment: str) -> bytes:
        shown = self._shown[call_id]
        if shown > MAX_ARGUMENTS:
            return b""
        self._shown[call_id] = shown + len(fragment)
        text = fragment[: MAX_ARGUMENTS - shown] + ("…" if shown + len(fragment) > MAX_ARGUMENTS else "")
        # A line break would look like the end of the call.
        text = (" " if not shown else "") + text.replace("\n", " ")
        if self._line != call_id:
            return self._begin(call_id, self._names[call_id] + text)
        return self.inner.write(ReasoningDelta(text=text))


@define
class StatusView:
    """Tools as Open WebUI's status events: one when a call begins, one when it is over.

    Open WebUI lists them all below each other, so that each must say which of the two it is.
    """

    inner: StatusWriter
    content_type: str = field(init=False)
    streaming: bool = field(init=False)
    _open: dict[str, str] = field(factory=dict, init=False)  #: names of the tools at work, by call

    def __attrs_post_init__(self) -> None:
        self.content_type, self.streaming = self.inner.content_type, self.inner.streaming

    def write(self, event: Event) -> bytes:
        """See `Writer.write`."""
        if type(event) is TextDelta:
            return self.inner.write(event)
        match event:
            case ServerToolStarted(call_id=call_id, name=name):
                self._open[call_id] = name
                return self.inner.write_status(f"{name}: running", done=False)
            case ServerToolReturned(call_id=call_id, name=name, failed=failed):
                name = self._open.pop(call_id, None) or name or _NO_NAME
                return self.inner.write_status(f"{name}: {'failed' if failed else 'done'}", done=True)
            case TurnFinished() | TurnFailed():
                # What Letta did not tell the end of must not seem to go on for ever.
                closing = [
                    self.inner.write_status(f"{name}: end unknown", done=True) for name in self._open.values()
                ]
                return b"".join(closing) + self.inner.write(event)
        return self.inner.write(event)


def first_lines(text: str) -> str:
    """How a text begins: a few lines, and not too much of them."""
    lines = [line for line in text.splitlines() if line.strip()]
    beginning = "\n".join(lines[:MAX_LINES])
    more = len(lines) > MAX_LINES or len(beginning) > MAX_RETURN
    return beginning[:MAX_RETURN] + ("…" if more else "")
