"""A run that is over, as the server lists its messages."""

from collections.abc import Iterator, Mapping, Sequence

from attrs import frozen

from ...errors import LettaError
from ...turn.events import FinishReason
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
    """

    messages: Sequence[Listed]
    has_input: bool
    client_names: Mapping[str, str]
    is_last: bool = True

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
        """Whether it ended with a reply."""
        return bool(self.messages) and self.messages[-1].kind == "assistant_message"

    @property
    def results(self) -> tuple[ToolResult, ...]:
        """None: the server goes on from what is there without being sent anything."""
        return ()

    def events(self) -> Iterator[RunEvent]:
        """All its events."""
        reading = RunEvents(self.client_names)
        yield from self._kept(reading)
        if self.is_complete:
            yield RunStopped(reason=FinishReason.STOP, usage=reading.usage)
        else:
            yield RunFailed(error=LettaError("The agent's run ended before its reply did."))

    def kept_events(self) -> Iterator[RunEvent]:
        """All its events except the end."""
        return self._kept(RunEvents(self.client_names))

    def _kept(self, reading: RunEvents) -> Iterator[RunEvent]:
        for message in self.messages:
            yield from reading.receive(Delta("", message.kind, message.body))


def find_listed_run(
    messages: Sequence[Listed], ref: AppServerRef, client_names: Mapping[str, str]
) -> ListedRun:
    """Find what is stored of a run among the last messages of its conversation, oldest first."""
    found = [index for index, message in enumerate(messages) if message.otid == ref.message_id]
    if not found:
        return ListedRun(messages=(), has_input=False, client_names=client_names)
    behind = messages[found[-1] + 1 :]
    following = [index for index, message in enumerate(behind) if message.kind == "user_message"]
    return ListedRun(
        messages=behind[: following[0]] if following else behind,
        has_input=True,
        client_names=client_names,
        is_last=not following,
    )
