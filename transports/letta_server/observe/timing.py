"""An observer that only handles the beginning and the end of a request, with times."""

import trio
from attrs import define, field

from sansio_letta import ResponseBody, Summary
from sansio_letta.proxy.observer import Change, CycleOpened, Observation


@define(eq=False)
class TimedObserver:
    """Base of observers that only need the duration of a request, and the time until its first byte."""

    _opened: CycleOpened | None = field(default=None, init=False)
    _began: float = field(default=0.0, init=False)
    _first: float | None = field(default=None, init=False)  #: when the body began, without comments

    def observe(self, seen: Observation, now: float) -> None:
        """See `Observer`."""
        match seen:
            case ResponseBody(data=data) if self._first is None and not data.startswith(b":"):
                self._first = now
            case CycleOpened():
                self._opened, self._began = seen, now
                self.begin(seen)
            case Change.CLOSED if self._opened is not None:
                # Closing a cycle does not pass a time.
                seconds = trio.current_time() - self._began
                self.end(
                    self._opened.summary, seconds, None if self._first is None else self._first - self._began
                )

    def begin(self, opened: CycleOpened) -> None:
        """Handle the beginning of the request."""

    def end(self, summary: Summary, seconds: float, first: float | None) -> None:
        """Handle the end of the request, including its clean-up.

        :param first: seconds until the first byte of the body.
        """
