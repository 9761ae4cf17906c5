"""Room for the bodies of requests that are being read: all of them together have a bound, not each alone."""

from types import TracebackType
from typing import Final

from attrs import define, field

from sansio_letta import RequestError

#: Bytes of each body that always find room: nobody with large ones under way keeps small ones out.
_FREE_SIZE: Final = 16 * 1024


class NoRoom(Exception):
    """The bodies under way take all the room that there is."""


@define(eq=False)
class BodyRoom:
    """What bodies under way may take, until they are decoded.

    :param max_size: bytes of all of them.
    """

    max_size: int
    size: int = field(default=0, init=False)  #: taken now

    def place(self) -> "BodyPlace":
        """For one body, which takes as much as has come of it."""
        return BodyPlace(self)


@define(eq=False)
class BodyPlace:
    """The room of one body; it is given back at the end of a ``with`` block."""

    room: BodyRoom
    _size: int = field(default=0, init=False)

    def grow(self, size: int) -> None:
        """The body has this many bytes now.

        :raises NoRoom: if there is none for it; it keeps what it had.
        """
        more = size - self._size
        if size > _FREE_SIZE and self.room.size + more > self.room.max_size:
            raise NoRoom
        self._size = size
        self.room.size += more

    def __enter__(self) -> "BodyPlace":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.room.size -= self._size
        self._size = 0


def too_many_chunks(limit: int) -> RequestError:
    """What a client is told whose body comes in pieces that are too small."""
    return RequestError(
        f"The body comes in more than {limit} chunks of less than 1 KiB: send it with a Content-Length, or in "
        "larger chunks.",
        status=413,
        code="request_too_large",
    )
