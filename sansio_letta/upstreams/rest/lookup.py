"""A run that Letta has not named: found by a mark that its request gave it.

A run is cancelled by its name alone, and its name comes with the first item of its stream: seconds later, if
Letta is busy, or never, if the connection breaks before. But Letta lists an agent's runs, and shows of each how
it was asked for. A request may name the argument that a legacy agent's text is taken from, and nothing reads it
for an agent that speaks without a tool: there each request has a mark of its own. The runs of other agents are
told apart by those that the agent had before.

A mark also says which process has asked, and until when its turn may take: so a server that starts can end what
a process that was killed has left.
"""

from collections.abc import Generator, Iterable
from typing import Final, TypeAlias

from attrs import frozen

from ...errors import SansioLettaError
from ...turn.upstream import Pause
from . import letta
from .commands import Command, FindRuns
from .exchange import PAUSES
from .response import Response

_PREFIX: Final = "letta-proxy-run"
_SIZE: Final = 200


@frozen(kw_only=True)
class RunMark:
    """What a request for a run says of itself.

    :param token: unique to the request; letters and digits.
    :param owner: the process that asks; no dots.
    :param until: Unix time in seconds; its turn is over then.
    """

    token: str
    owner: str
    until: int

    @property
    def text(self) -> str:
        """As Letta keeps it."""
        return f"{_PREFIX}.{self.token}.{self.owner}.{self.until}"


def read_mark(run: letta.Run) -> RunMark | None:
    """The mark of a run that was asked for here, or by another process like this one."""
    text = run.asked_as or ""
    parts = text.split(".", 4) if len(text) <= _SIZE else []
    if len(parts) != 4 or parts[0] != _PREFIX or not parts[3].isascii() or not parts[3].isdigit():
        return None
    return RunMark(token=parts[1], owner=parts[2], until=int(parts[3][:15]))


@frozen(kw_only=True)
class SoughtRun:
    """A run that was asked for, and how it would be found.

    :param mark: that the request gave it.
    :param before: without a mark: the runs that the agent had before it.
    :param conversation_id: where it was asked for; None: in the agent's own thread.
    """

    agent_id: str
    mark: str | None = None
    before: frozenset[str] = frozenset()
    conversation_id: str | None = None

    def pick(self, runs: Iterable[letta.Run]) -> "FoundRun":
        """The one that it is, of the agent's newest."""
        if self.mark is not None:
            listed = tuple(runs)
            found = next((run for run in listed if run.asked_as == self.mark), None)
            return FoundRun(run=found, is_sure=all(run.asked_as is not None for run in listed))
        others = [run for run in runs if run.id not in self.before]
        same = [run for run in others if run.conversation_id == self.conversation_id]
        return FoundRun(run=same[0] if len(same) == 1 else None, is_sure=not same)


@frozen(kw_only=True)
class FoundRun:
    """What a search for a run came to.

    :param run: None: it is not there.
    :param is_sure: whether that means that Letta has begun none.
    """

    run: letta.Run | None
    is_sure: bool


RunSearch: TypeAlias = Generator[Command | Pause, Response | None, FoundRun]


def find_run(sought: SoughtRun, timeout: float) -> RunSearch:
    """Look for a run until it is there. Pauses are answered with None.

    :param timeout: seconds of pauses, after which it is not there.
    :raises SansioLettaError: if Letta does not tell.
    """
    count, waited = 0, 0.0
    while True:
        response = yield FindRuns(agent_id=sought.agent_id)
        assert response is not None
        found = sought.pick(letta.decode_runs(response.data))
        if found.run is not None or waited >= timeout:
            return found
        pause = PAUSES[min(count, len(PAUSES) - 1)]
        yield Pause(seconds=pause)
        count, waited = count + 1, waited + pause


def runs_before(response: Response) -> frozenset[str] | None:
    """The runs that an agent has, by the answer to `FindRuns`; None if Letta does not tell."""
    try:
        return frozenset(run.id for run in letta.decode_runs(response.data))
    except SansioLettaError:
        return None


def kept_nothing(response: Response) -> bool:
    """Whether the answer to `FetchKept` says so."""
    try:
        return not letta.decode_kept_messages(response.data).messages
    except SansioLettaError:
        return False
