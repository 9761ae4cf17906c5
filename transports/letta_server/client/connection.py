"""One client's connection: h11 over a trio stream."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Final, TypeAlias

import h11
import trio
from attrs import define, field

from sansio_letta import HttpRequest, ResponseHead

from ..http_head import head_line_count
from ..sockets import receive_some, send_now

#: Bytes of further requests buffered while one is answered; a client that sends more is no longer watched.
_MAX_EARLY_SIZE: Final = 64 * 1024

_IDLE: Final = {h11.CLIENT: h11.IDLE, h11.SERVER: h11.IDLE}

#: A body may have as many chunks as the limit says, and one more for each of these bytes.
_CHUNK_SIZE: Final = 1024
#: Pieces read before other tasks run: h11 takes some 10 us for each.
_PIECE_COUNT: Final = 256

_Event: TypeAlias = h11.Request | h11.Data | h11.EndOfMessage | None


class ClientGone(Exception):
    """The client has disconnected, or does not read what it is sent."""


class BadRequest(Exception):
    """The client's bytes are not an HTTP request.

    :param status: the status to answer with.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class BodyTooLarge(Exception):
    """The body is larger than its limit."""


class TooManyChunks(Exception):
    """The body arrives in chunks so small that reading them costs more than what is in them."""


def _refuse_two_lengths(request: h11.Request) -> None:
    """Refuse a body with two lengths, which one server reads as one request and another as two: smuggling.

    h11 ignores the Content-Length; RFC 9112, 6.1 lets a server refuse such a request.

    :raises BadRequest: if there are two, or a Transfer-Encoding in HTTP/1.0.
    """
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" not in names:
        return
    if b"content-length" in names:
        raise BadRequest(400, "it has both Content-Length and Transfer-Encoding")
    if request.http_version < b"1.1":
        raise BadRequest(400, "HTTP/1.0 has no Transfer-Encoding")


@define(eq=False)
class ClientConnection:
    """Receives the requests of one client and sends the responses, one after the other.

    :param max_header_size: bytes of the request line and the headers together; one read may exceed it.
    :param send_timeout: seconds for one write.
    :param max_header_count: headers that are answered; twice as many are not even parsed.
    :param max_chunk_count: chunks of a body, plus one for each KiB of it.
    """

    stream: trio.abc.Stream
    max_header_size: int
    send_timeout: float
    max_header_count: int = 100
    max_chunk_count: int = 10_000
    gone: bool = field(default=False, init=False)  #: `watch` saw the client close
    _h11: h11.Connection = field(init=False)
    _out: bytearray = field(factory=bytearray, init=False)
    _body: list[bytes] = field(factory=list, init=False)
    _line_count: int = field(default=0, init=False)  #: lines received of the next head

    def __attrs_post_init__(self) -> None:
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=self.max_header_size)

    # --- In -----------------------------------------------------------------------------------------------

    async def wait_for_request(self) -> bool:
        """Wait for the first byte of the next request; return False if the client closes instead."""
        try:
            return bool(self._h11.trailing_data[0]) or await self._receive()
        except ClientGone:
            return False

    async def receive_head(self) -> HttpRequest:
        """Receive the next request, without its body.

        :raises BadRequest: if it is not valid HTTP.
        :raises ClientGone: if the client closes before it is complete.
        """
        event = await self._next_event()
        if not isinstance(event, h11.Request):
            raise ClientGone
        _refuse_two_lengths(event)
        return HttpRequest(
            method=event.method.decode("ascii"),
            target=event.target.decode("ascii", "replace"),
            headers=[(name.decode("ascii"), value.decode("latin1")) for name, value in event.headers],
        )

    async def receive_body(self, max_size: int, grow: Callable[[int], None] = lambda _: None) -> bytes:
        """Receive the request's body.

        :param grow: called with the number of bytes so far; an exception of it ends the reading.
        :raises BodyTooLarge: beyond `max_size` bytes.
        :raises TooManyChunks: beyond `max_chunk_count`.
        :raises BadRequest: if its framing is broken.
        :raises ClientGone: if the client closes before it is complete.
        """
        body, piece_count, chunk_count = bytearray(), 0, 0
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data
            if len(body) > max_size:
                raise BodyTooLarge
            chunk_count += event.chunk_start
            if chunk_count > self.max_chunk_count + len(body) // _CHUNK_SIZE:
                raise TooManyChunks
            grow(len(body))
            piece_count += 1
            if piece_count % _PIECE_COUNT == 0:
                await trio.lowlevel.checkpoint()
        if not isinstance(event, h11.EndOfMessage):
            raise ClientGone
        return bytes(body)

    async def _next_event(self) -> _Event:
        """Wait for the next event; return None if the client has closed its side between two requests."""
        while True:
            self._check_line_count()
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as exc:
                # h11's message is followed by the repr of the line.
                reason = str(exc).partition(": bytearray(")[0]
                raise BadRequest(exc.error_status_hint, reason) from exc
            if isinstance(event, h11.Request | h11.Data | h11.EndOfMessage):
                self._line_count = 0
                return event
            if event is not h11.NEED_DATA:
                return None
            if self._h11.they_are_waiting_for_100_continue:
                self._write(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
                await self.flush()
            if not await self._receive() and self._h11.their_state is h11.IDLE:
                return None

    async def _receive(self) -> bool:
        try:
            data = await receive_some(self.stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ClientGone from None
        self._h11.receive_data(data)
        if self._h11.their_state is h11.IDLE:
            self._line_count += data.count(b"\n")
        return bool(data)

    def _check_line_count(self) -> None:
        """Refuse a head of too many lines before it is parsed, at some microseconds a line.

        :raises BadRequest: if there are too many.
        """
        most = 2 * self.max_header_count + 8
        if self._line_count <= most or self._h11.their_state is not h11.IDLE:
            return
        # The lines may be those of a body that came with its head.
        self._line_count = 0
        if head_line_count(self._h11.trailing_data[0]) > most:
            raise BadRequest(431, f"it has more than {self.max_header_count} headers")

    async def watch(self, scope: trio.CancelScope) -> None:
        """Buffer what arrives while a request is answered, and cancel `scope` when the client closes.

        Closing only the sending side counts as closing: there is no other sign that a client has disconnected.
        """
        try:
            while await self._receive():
                if len(self._h11.trailing_data[0]) > _MAX_EARLY_SIZE:
                    return
        except ClientGone:
            pass
        self.gone = True
        scope.cancel()

    # --- Out ----------------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether nothing of a request has arrived since the last response."""
        return self._h11.states == _IDLE and not self._h11.trailing_data[0]

    def write_head(self, head: ResponseHead, *, last: bool = False) -> None:
        """Begin a response; nothing is sent before `flush`.

        :param last: tell the client that this connection accepts no further request.
        """
        headers = [(name.encode("ascii"), value.encode("latin1")) for name, value in head.headers]
        if last or self._h11.their_state in (h11.ERROR, h11.SEND_BODY):
            # The rest of the request cannot be read, or will not be.
            headers.append((b"connection", b"close"))
        reason = HTTPStatus(head.status).phrase.encode("ascii")
        self._write(h11.Response(status_code=head.status, headers=headers, reason=reason))

    def write_body(self, data: bytes) -> None:
        """Add to the response's body; all that is added before a `flush` is sent as one chunk."""
        self._body.append(data)

    def write_end(self) -> None:
        """End the response."""
        self._write_body()
        self._write(h11.EndOfMessage())

    def flush_now(self) -> bool:
        """Send what the socket takes without waiting; return False if something is left.

        :raises ClientGone: if the client has disconnected.
        """
        self._write_body()
        if self._out:
            try:
                del self._out[: send_now(self.stream, self._out)]
            except trio.BrokenResourceError:
                raise ClientGone from None
        return not self._out

    async def flush(self) -> None:
        """Send all that was written.

        :raises ClientGone: if the client has disconnected or does not read it within `send_timeout`.
        """
        if self.flush_now():
            return
        data = bytes(self._out)
        self._out.clear()
        try:
            with trio.fail_after(self.send_timeout):
                await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            raise ClientGone from None

    def _write_body(self) -> None:
        if self._body:
            self._write(h11.Data(data=b"".join(self._body)))
            self._body.clear()

    def _write(self, event: h11.Response | h11.InformationalResponse | h11.Data | h11.EndOfMessage) -> None:
        self._out += self._h11.send(event) or b""

    @property
    def can_respond(self) -> bool:
        """Whether no response has begun, so that even after a bad request one can be sent."""
        return self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE)

    def start_next_cycle(self) -> bool:
        """Prepare for the next request; return False if the connection must be closed instead."""
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        self._line_count = self._h11.trailing_data[0].count(b"\n")
        return True
