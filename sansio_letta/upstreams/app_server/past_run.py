"""A run that is over, as the server lists its messages."""

from collections.abc import Iterator, Mapping, Sequence

from attrs import frozen

from ...errors import LettaError
from ...turn.agent import PendingCall, ToolOwner
from ...turn.events import CallArguments, CallStarted, FinishReason
from ...turn.request import ToolResult
from ...turn.upstream import RunEvent, RunFailed, RunStopped
from .frames import Delta
from .messages import AppServerRef, Listed
from .run_events import RunEvents


@frozen(kw_only=True)
class ListedRun:
    """What a conversation holds of one run. See `turn.upstream.PastRun`.

    :param messages: those behind its input, oldest first.
    :param has_input: whether its input is stored.
    :param client_names: the client's names of its tools, by the agent's.
    :param is_last: whether no other input follows.
    :param has_replied: whether the conversation's last turn is known to have ended with a reply. The server
        lists a reply that broke off like any other.
    :param waiting: the calls that wait in the conversation.
    """

    messages: Sequence[Listed]
    has_input: bool
    client_names: Mapping[str, str]
    is_last: bool = True
    has_replied: bool = False
    waiting: Sequence[PendingCall] = ()

    @property
    def has_anything(self) -> bool:
        """Whether any of it is stored: its input is, as soon as the server has accepted it."""
        return self.has_input

    @property
    def is_blank(self) -> bool:
        """Whether nothing is known of it."""
        return not self.has_input

    @property
    def is_complete(self) -> bool:
        """Whether it ended with a reply, or waits for the answers to calls."""
        if self.is_last and (self.waiting or not self.has_replied):
            return bool(self.waiting)
        return bool(self.messages) and self.messages[-1].kind == "assistant_message"

    @property
    def can_continue(self) -> bool:
        """Whether the agent can go on with it: it is the last one, and broke off."""
        return self.has_input and self.is_last and not self.is_complete

    @property
    def results(self) -> tuple[ToolResult, ...]:
        """None: the server goes on from what is there without being sent anything."""
        return ()

    def events(self) -> Iterator[RunEvent]:
        """All its events."""
        reading = RunEvents(self.client_names)
        yield from _read(reading, self.messages)
        if not self.is_complete:
            yield RunFailed(error=LettaError("The agent's run ended before its reply did."))
        elif self.is_last and self.waiting:
            yield self._stopped(reading)
        else:
            yield RunStopped(reason=FinishReason.STOP, usage=reading.usage)

    def _stopped(self, reading: RunEvents) -> RunStopped:
        calls = tuple(call.call_id for call in self.waiting if call.owner is ToolOwner.CLIENT)
        if calls:
            return RunStopped(reason=FinishReason.TOOL_CALLS, usage=reading.usage, calls=calls)
        return RunStopped(reason=FinishReason.STOP, usage=reading.usage, waiting=tuple(self.waiting))

    def kept_events(self) -> Iterator[RunEvent]:
        """All its events except the end; without the reply that is replaced if the agent goes on."""
        reading = RunEvents(self.client_names)
        if not self.can_continue:
            yield from _read(reading, self.messages)
            return
        returned = [index for index, each in enumerate(self.messages) if each.kind == "tool_return_message"]
        for event in _read(reading, self.messages[: returned[-1] + 1] if returned else ()):
            # A client's call that was broken off does not wait any more.
            if not isinstance(event, CallStarted | CallArguments):
                yield event


def _read(reading: RunEvents, messages: Sequence[Listed]) -> Iterator[RunEvent]:
    for message in messages:
        yield from reading.receive(Delta("", message.kind, message.body))


def find_listed_run(
    messages: Sequence[Listed],
    ref: AppServerRef,
    client_names: Mapping[str, str],
    *,
    has_replied: bool = False,
    waiting: Sequence[PendingCall] = (),
) -> ListedRun:
    """Find what is stored of a run among the last messages of its conversation, oldest first."""
    found = [index for index, message in enumerate(messages) if ref.is_begun_by(message)]
    if not found:
        return ListedRun(messages=(), has_input=False, client_names=client_names)
    behind = messages[found[-1] + 1 :]
    following = [index for index, message in enumerate(behind) if message.is_input]
    return ListedRun(
        messages=[each for each in behind[: following[0] if following else None] if not each.is_note],
        has_input=True,
        client_names=client_names,
        is_last=not following,
        has_replied=has_replied,
        waiting=waiting,
    )
