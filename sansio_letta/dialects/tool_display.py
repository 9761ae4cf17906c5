"""Display of the agent's own tools: as lines of reasoning, as status events, or not at all.

Each view is a writer around another one. It turns the events about tools into what the client can show, and
passes on all others. The writers themselves leave out the agent's own tools, since a client cannot run them.
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
#: Lines, and characters, of a tool's return that are shown.
MAX_LINES: Final = 3
MAX_RETURN: Final = 500
_NO_NAME: Final = "a tool"


def showing_tools(writer: Writer, view: ServerTools) -> Writer:
    """Wrap the writer so that the agent's own tools are shown as configured."""
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
    _line: str | None = field(default=None, init=False)  #: the call whose arguments are being written
    _has_reasoning: bool = field(default=False, init=False)  #: there is reasoning before the next line
    _has_line: bool = field(default=False, init=False)  #: the last line was about a tool

    def __attrs_post_init__(self) -> None:
        self.content_type, self.streaming = self.inner.content_type, self.inner.streaming

    def write(self, event: Event) -> bytes:
        """See `Writer.write`."""
        if type(event) is TextDelta:
            return self.inner.write(event)
        match event:
            case ReasoningDelta(text=text):
                gap = "\n\n" if self._has_line and not text.startswith("\n") else ""
                self._has_reasoning, self._has_line, self._line = True, False, None
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
        gap = "\n" if self._has_line else "\n\n" if self._has_reasoning else ""
        self._has_reasoning = self._has_line = True
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
    """Tools as Open WebUI's status events: one when a call begins, one when it ends.

    Open WebUI shows them all in a list, so each says which of the two it is.
    """

    inner: StatusWriter
    content_type: str = field(init=False)
    streaming: bool = field(init=False)
    _open: dict[str, str] = field(factory=dict, init=False)  #: names of the running tools, by call

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
                # A call whose end Letta did not report must not seem to run forever.
                closing = [
                    self.inner.write_status(f"{name}: end unknown", done=True) for name in self._open.values()
                ]
                return b"".join(closing) + self.inner.write(event)
        return self.inner.write(event)


def first_lines(text: str) -> str:
    """Return the first few lines of a text, shortened."""
    lines = [line for line in text.splitlines() if line.strip()]
    beginning = "\n".join(lines[:MAX_LINES])
    more = len(lines) > MAX_LINES or len(beginning) > MAX_RETURN
    return beginning[:MAX_RETURN] + ("…" if more else "")
