"""Find a run whose id is not known, by a mark in its request.

Cancelling a run takes its id, which comes with the first item of its stream: seconds later if Letta is busy,
never if the connection breaks before. But Letta lists an agent's runs, each with some fields of its request.
One of them is the name of the argument that contains a legacy agent's text. It has no effect on agents that
reply without a tool, so their requests use it for a unique mark. Runs of other agents are found by comparing
with the runs that the agent had before.

A mark also contains the process that sent the request, and when its turn is over. So a server that starts can
cancel runs of a process that was killed.
"""

from collections.abc import Generator, Iterable
from typing import Final, TypeAlias

from attrs import frozen

from ...errors import SansioLettaError
from ...turn.upstream import Pause
from . import letta
from .commands import PAGE_COUNT, Command, FindRuns
from .exchange import PAUSES
from .response import Response

_PREFIX: Final = "letta-proxy-run"
_SIZE: Final = 200


@frozen(kw_only=True)
class RunMark:
    """The mark in a request for a run.

    :param token: unique to the request; letters and digits.
    :param owner: the process that sent the request; no dots.
    :param until: when its turn is over, Unix time in seconds.
    """

    token: str
    owner: str
    until: int

    @property
    def text(self) -> str:
        """The mark as a string, as it is sent and stored."""
        return f"{_PREFIX}.{self.token}.{self.owner}.{self.until}"


def read_mark(run: letta.Run) -> RunMark | None:
    """Return the mark of a run, or None if it was not started by this software."""
    text = run.text_argument or ""
    parts = text.split(".", 4) if len(text) <= _SIZE else []
    if len(parts) != 4 or parts[0] != _PREFIX or not parts[3].isascii() or not parts[3].isdigit():
        return None
    return RunMark(token=parts[1], owner=parts[2], until=int(parts[3][:15]))


@frozen(kw_only=True)
class RunCriteria:
    """How to find a run that was requested.

    :param mark: the mark in its request.
    :param before: without a mark, the ids of the runs that the agent had before.
    :param conversation_id: its conversation; None for the agent's own thread.
    """

    agent_id: str
    mark: str | None = None
    before: frozenset[str] = frozenset()
    conversation_id: str | None = None

    def pick(self, runs: Iterable[letta.Run]) -> "FoundRun":
        """Pick the run from the agent's newest runs."""
        if self.mark is not None:
            listed = tuple(runs)
            found = next((run for run in listed if run.text_argument == self.mark), None)
            return FoundRun(run=found, is_sure=all(run.text_argument is not None for run in listed))
        others = [run for run in runs if run.id not in self.before]
        same = [run for run in others if run.conversation_id == self.conversation_id]
        return FoundRun(run=same[0] if len(same) == 1 else None, is_sure=not same)


@frozen(kw_only=True)
class FoundRun:
    """The result of a search for a run.

    :param run: None if it was not found.
    :param is_sure: whether that means that it was not started.
    """

    run: letta.Run | None
    is_sure: bool


RunSearch: TypeAlias = Generator[Command | Pause, Response | None, FoundRun]


def find_run(criteria: RunCriteria, timeout: float) -> RunSearch:
    """Search for a run until it is found. Send None after a pause.

    :param timeout: limit for the sum of the pauses, in seconds.
    :raises SansioLettaError: if a command failed.
    """
    count, waited = 0, 0.0
    while True:
        response = yield FindRuns(agent_id=criteria.agent_id)
        assert response is not None
        found = criteria.pick(letta.decode_runs(response.data))
        if found.run is not None or waited >= timeout:
            return found
        pause = PAUSES[min(count, len(PAUSES) - 1)]
        yield Pause(seconds=pause)
        count, waited = count + 1, waited + pause


def active_runs(agent_id: str | None = None) -> Generator[Command, Response, list[letta.Run]]:
    """List the runs that are not over, page by page, newest first.

    :param agent_id: None for all agents.
    :raises SansioLettaError: if Letta does not tell.
    """
    runs: list[letta.Run] = []
    after: str | None = None
    while True:
        page = letta.decode_runs((yield FindRuns(agent_id=agent_id, active=True, after=after)).data)
        runs += page
        # Without this, a page without anything new would be requested forever.
        if len(page) < PAGE_COUNT or page[-1].id == after:
            return runs
        after = page[-1].id


def runs_before(response: Response) -> frozenset[str] | None:
    """Return the ids of runs in the response to `FindRuns`; None if it cannot be read."""
    try:
        return frozenset(run.id for run in letta.decode_runs(response.data))
    except SansioLettaError:
        return None


def kept_nothing(response: Response) -> bool:
    """Return whether the response to `FetchKept` shows that nothing was stored."""
    try:
        return not letta.decode_kept_messages(response.data).messages
    except SansioLettaError:
        return False
