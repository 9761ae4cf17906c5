"""The runs of one turn, told as one answer.

A turn has more than one run if it answers for a human what a run waits for, goes on from an earlier turn, or
asks again for a reply that was not as the client wishes.
"""

from collections.abc import Iterable, Iterator, Mapping

from attrs import define, evolve, field

from ..upstreams.rest.calls import ToolBridge
from ..upstreams.rest.lookup import SoughtRun
from ..upstreams.rest.recovery import EndedRun, Reading, Said
from ..upstreams.rest.run import RunStream, SoFar
from .agent import Agent, PendingCall
from .buffered_reply import HeldReply
from .events import Event


@define(kw_only=True)
class Runs:
    """The run under way, and what is left of those before it.

    :param client_tools: the tools that the client offered: their names at Letta, and the client's for them.
    :param result_ids: of calls that the client has answered.
    :param held: holds back what the client is told only once it was checked.
    :param asks: whether a person is asked about the server's tools that wait for one.
    :param exact_arguments: see `ToolBridge`.
    :param answers_by_tool: whether it speaks by calling a tool.
    :param speaks: see `ToolBridge`.
    """

    client_tools: Mapping[str, str] = field(factory=dict)
    result_ids: frozenset[str] = frozenset()
    asks: bool = True
    held: HeldReply | None = None
    exact_arguments: bool = True
    answers_by_tool: bool = False
    speaks: bool = True
    current: RunStream = field(init=False)
    reading: Reading = field(init=False)  #: of its numbered stream
    said: Said = field(init=False)  #: of it, to the client
    results_sent: bool = field(
        default=False, init=False
    )  #: with it: such are kept at once (kept_results.jsonl)
    sought: SoughtRun | None = field(default=None, init=False)  #: how the run under way is found without a name
    was_sought: bool = field(default=False, init=False)  #: it was found so: what it said before was not read
    _so_far: SoFar = field(factory=SoFar, init=False)  #: of runs that came to their end
    _last_id: str | None = field(default=None, init=False)  #: of the latest of them
    _names: dict[str, str] = field(factory=dict, init=False)  #: of tools called before it, by their calls' ids

    def __attrs_post_init__(self) -> None:
        self.begin()

    @property
    def run_id(self) -> str | None:
        """Letta's name of the run under way, or of the one before it."""
        return self.current.run_id or self._last_id

    @property
    def so_far(self) -> SoFar:
        """What the answer holds of runs that came to their end."""
        return self._so_far

    def meet(self, agent: Agent) -> None:
        """The agent is known."""
        can = agent.capabilities
        self.exact_arguments, self.answers_by_tool = can.exact_arguments, can.replies_by_tool
        self.speaks = can.reads_reply_tool

    def begin(self, answered: Iterable[PendingCall] = (), *, results_sent: bool = False) -> None:
        """A run is asked for; nothing was said of it.

        :param answered: calls that go on with it.
        :param results_sent: whether results of tools go with it.
        """
        if self.held is not None:
            self.held.begin()
        self._names = {call.call_id: call.name for call in answered if call.name}
        self.results_sent, self.sought, self.was_sought = results_sent, None, False
        self.reading, self.said = Reading(), Said(started=self._so_far.started)
        self.current = self._new_stream()

    @property
    def is_unnamed(self) -> bool:
        """Whether the run under way has no name yet, but can be found."""
        return self.sought is not None and self.current.run_id is None

    def name(self, run_id: str) -> None:
        """It was found."""
        self.current.run_id, self.was_sought = run_id, True

    def end(self) -> None:
        """It came to an end that is not the turn's: what comes is told behind what it has said."""
        so_far = self.current.so_far
        if self.held is not None and not self.held.is_released:
            so_far = evolve(so_far, has_text=False)
        self._so_far, self._last_id = so_far, self.run_id

    def tell(self, events: Iterable[Event]) -> Iterable[Event]:
        """Of the events of the run under way those that may be told now."""
        return events if self.held is None else self.held.pass_on(events, self.current)

    @property
    def complaint(self) -> str | None:
        """What is wrong with the reply, once the run has ended; its end was not told then."""
        return None if self.held is None else self.held.complaint

    def tell_rest(self, ended: EndedRun) -> Iterator[Event]:
        """Of a run that is over: what was not told. The run under way is as if it had been read to its end."""
        self.current = self._new_stream()
        if self.held is not None:
            self.held.begin()
        return self.said.rest(ended.tell(self.current))

    def _new_stream(self) -> RunStream:
        bridge = ToolBridge(
            self.client_tools,
            self.result_ids,
            self._names,
            self.exact_arguments,
            self.answers_by_tool,
            self.speaks,
        )
        return RunStream(bridge, self._so_far, asks=self.asks)
