"""A limit on the request bodies being read: on all of them together, beside the limit on each."""

from types import TracebackType
from typing import Final

from attrs import define, field

from sansio_letta import RequestError

#: Bytes of each body that are always accepted: large bodies under way never keep small ones out.
_FREE_SIZE: Final = 16 * 1024


class BudgetExceeded(Exception):
    """The bodies under way take all the memory that they may take."""


@define(eq=False)
class BodyBudget:
    """The memory that request bodies may take until they are decoded.

    :param max_size: bytes of all of them together.
    """

    max_size: int
    size: int = field(default=0, init=False)  #: bytes reserved now

    def reserve(self) -> "BodyReservation":
        """Make a reservation for one body, which grows with it."""
        return BodyReservation(self)


@define(eq=False)
class BodyReservation:
    """The memory reserved for one body; the end of a ``with`` block releases it."""

    budget: BodyBudget
    _size: int = field(default=0, init=False)

    def grow(self, size: int) -> None:
        """Reserve memory for a body that has this many bytes now.

        :raises BudgetExceeded: if there is too little left; what was reserved before stays so.
        """
        more = size - self._size
        if size > _FREE_SIZE and self.budget.size + more > self.budget.max_size:
            raise BudgetExceeded
        self._size = size
        self.budget.size += more

    def __enter__(self) -> "BodyReservation":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.budget.size -= self._size
        self._size = 0


def too_many_chunks(limit: int) -> RequestError:
    """Return the error for a body that arrives in too many small chunks."""
    return RequestError(
        f"The body comes in more than {limit} chunks of less than 1 KiB: send it with a Content-Length, or in "
        "larger chunks.",
        status=413,
        code="request_too_large",
    )
