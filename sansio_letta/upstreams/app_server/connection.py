"""The connection to one App Server, which all turns of a process share.

It lives as long as the process. The transport opens the sockets and carries the frames::

    while (item := connection.next_command(now)) is not Signal.WAITING:
        match item:
            case OpenSocket(): ...  # then socket_opened() or socket_lost()
            case SendFrame(): ...
            case CloseSocket(): ...

and calls `receive_frame` for each frame, `handle_deadline` when `next_deadline` has come, and the loop above
after each call and whenever `wake` was called: a turn in another task may have something to send.

The server answers no question that it does not understand, so each has a deadline.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Final

import orjson
from attrs import define, field

from ..._signal import Signal
from ...errors import LettaError, RemoteProtocolError, SansioLettaError
from .conversation import Conversation
from .frames import (
    BadFrame,
    Json,
    Response,
    read_frame,
)
from .sockets import Channel, CloseSocket, OpenSocket, SendFrame, SocketCommand

#: Seconds in which the server answers a question. Starting the first conversation of an agent took two.
ANSWER_TIMEOUT: Final = 30.0
#: Seconds between attempts to open a socket that was lost while a conversation needs it.
_REOPEN_PAUSE: Final = 1.0
#: Idle conversations that are remembered, with what was told to them about tools.
_MAX_IDLE_COUNT: Final = 1000
#: How a frame begins that answers a question on the guarding socket.
_SYNC_ANSWER: Final = b'{"type":"sync_response"'


def no_wake() -> None:
    """Do nothing: no turn waits."""


@define(eq=False)
class Request:
    """A question to the server.

    :param kind: its ``type``.
    :param wake: called when it is answered, or has failed.
    """

    kind: str
    wake: Callable[[], None] = no_wake
    deadline: float = inf
    answer: Response | None = None
    error: SansioLettaError | None = None

    @property
    def is_done(self) -> bool:
        """Whether it is answered, or has failed."""
        return self.answer is not None or self.error is not None

    def fail(self, error: SansioLettaError) -> None:
        """End it without an answer."""
        if not self.is_done:
            self.error = error
            self.wake()


@define(eq=False)
class _Socket:
    is_open: bool = False
    is_opening: bool = False
    reopen_at: float = inf
    sequence: int | None = None  #: the last frame's number
    waiting: deque[tuple[str, bytes]] = field(factory=deque)
    """Frames to be sent once it is open, each with the id of its request."""


@define(eq=False)
class AppServerConnection:
    """The frames of one App Server: to its turns, and from them.

    :param answer_timeout: seconds that the server has for an answer.
    :param wake: called when there is a new command for the transport.
    """

    answer_timeout: float = ANSWER_TIMEOUT
    wake: Callable[[], None] = field(default=no_wake, kw_only=True)
    now: float = field(default=0.0, init=False)
    gap_count: int = field(default=0, init=False)  #: frames that were missing or could not be read
    _commands: deque[SocketCommand] = field(factory=deque, init=False)
    _sockets: dict[Channel, _Socket] = field(init=False)
    _requests: OrderedDict[str, tuple[Request, Channel]] = field(factory=OrderedDict, init=False)
    _conversations: OrderedDict[str, Conversation] = field(factory=OrderedDict, init=False)
    _number: int = field(default=0, init=False)
    _closing: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._sockets = {channel: _Socket() for channel in Channel}

    # --- For turns ----------------------------------------------------------------------------------------

    def ask(
        self,
        kind: str,
        content: Mapping[str, Any],
        *,
        wake: Callable[[], None] = no_wake,
        channel: Channel = Channel.WORK,
    ) -> Request:
        """Send a question; `Request.wake` is called once it is answered.

        :param content: the frame's fields, without its type and id.
        """
        request = Request(kind, wake)
        request_id = self._next_id()
        self._requests[request_id] = request, channel
        self._send(channel, {"type": kind, **content, "request_id": request_id}, request_id)
        return request

    def tell(self, kind: str, content: Mapping[str, Any]) -> None:
        """Send a frame that gets no answer. It is lost with its socket."""
        if self._sockets[Channel.WORK].is_open:
            self._send(Channel.WORK, {"type": kind, **content}, "")

    def conversation(self, agent_id: str, conversation_id: str) -> Conversation:
        """Return what is known of a conversation."""
        found = self._conversations.get(conversation_id)
        if found is None:
            found = Conversation(agent_id=agent_id, conversation_id=conversation_id, connection=self)
            self._conversations[conversation_id] = found
            self._forget_idle()
        self._conversations.move_to_end(conversation_id)
        return found

    @property
    def has_busy(self) -> bool:
        """Whether a conversation runs, or waits for results."""
        return any(conversation.is_busy for conversation in self._conversations.values())

    def is_open(self, channel: Channel) -> bool:
        """Whether a socket can be used."""
        return self._sockets[channel].is_open

    def guard(self, conversation: Conversation) -> None:
        """Have the guarding socket follow a conversation, too."""
        socket = self._sockets[Channel.GUARD]
        if socket.is_open and Channel.GUARD not in conversation.followed_by:
            self._sync(conversation)
        elif not socket.is_open:
            self._open(Channel.GUARD)

    # --- For the transport --------------------------------------------------------------------------------

    def next_command(self, now: float) -> SocketCommand | Signal:
        """Return what to do next; WAITING if there is nothing.

        :param now: monotonic seconds, here and below.
        """
        self.now = now
        return self._commands.popleft() if self._commands else Signal.WAITING

    def socket_opened(self, channel: Channel, now: float) -> None:
        """Note that a socket is open."""
        self.now = now
        socket = self._sockets[channel]
        socket.is_open, socket.is_opening, socket.reopen_at, socket.sequence = True, False, inf, None
        for _, data in socket.waiting:
            self._commands.append(SendFrame(channel, data))
        socket.waiting.clear()
        if channel is Channel.GUARD:
            for conversation in self._busy():
                self._sync(conversation)

    def socket_lost(self, channel: Channel, reason: str, now: float) -> None:
        """Note that a socket could not be opened, or was lost.

        :param reason: for the client, without addresses and keys.
        """
        self.now = now
        socket = self._sockets[channel]
        was_open = socket.is_open
        socket.is_open = socket.is_opening = False
        socket.waiting.clear()
        lost = [key for key, (_, used) in self._requests.items() if used is channel]
        what = "closed the connection" if was_open else "cannot be reached"
        for key in lost:
            request, _ = self._requests.pop(key)
            if was_open:
                request.fail(RemoteProtocolError(f"The App Server {what}: {reason}."))
            else:
                request.fail(LettaError(f"The App Server {what}: {reason}."))
        other = next(each for each in Channel if each is not channel)
        for conversation in list(self._conversations.values()):
            conversation.lose_socket(channel, is_last=not self._sockets[other].is_open)
        if self.has_busy and not self._closing:
            socket.reopen_at = now + _REOPEN_PAUSE

    def receive_frame(self, channel: Channel, data: bytes, now: float) -> None:
        """Receive a text frame."""
        self.now = now
        is_second = channel is Channel.GUARD and self._sockets[Channel.WORK].is_open
        if is_second and not data.startswith(_SYNC_ANSWER):
            return  # the same frame comes on the other socket
        socket = self._sockets[channel]
        try:
            frame, number = read_frame(data, with_device=self._wants_device)
        except BadFrame:
            self.gap_count += 1
            self._note_gap()
            return
        if number is not None:
            if socket.sequence is not None and number > socket.sequence + 1 and channel is Channel.WORK:
                self.gap_count += 1
            socket.sequence = number
        if isinstance(frame, Response):
            known = self._requests.pop(frame.request_id, None)
            if known is not None:
                known[0].answer = frame
                known[0].wake()
        elif frame is not None:
            conversation = self._conversations.get(frame.conversation_id)
            if conversation is not None:
                conversation.receive(frame)

    def next_deadline(self) -> float:
        """Return when to call `handle_deadline` if nothing happens until then."""
        waits = min((request.deadline for request, _ in self._requests.values()), default=inf)
        return min(waits, *(socket.reopen_at for socket in self._sockets.values()))

    def handle_deadline(self, now: float) -> None:
        """Do what is due."""
        self.now = now
        for key, (request, _) in list(self._requests.items()):
            if now >= request.deadline:
                del self._requests[key]
                request.fail(
                    RemoteProtocolError(
                        f"The App Server did not answer {request.kind} within {self.answer_timeout:g} seconds."
                    )
                )
        for channel, socket in self._sockets.items():
            if now >= socket.reopen_at:
                socket.reopen_at = inf
                self._open(channel)

    def close(self) -> None:
        """Close both sockets. What runs must have been cancelled."""
        self._closing = True
        for channel, socket in self._sockets.items():
            if socket.is_open or socket.is_opening:
                self._commands.append(CloseSocket(channel))
        self.wake()

    # --- Within -------------------------------------------------------------------------------------------

    def _next_id(self) -> str:
        self._number += 1
        return f"lp-{self._number}"

    def _send(self, channel: Channel, frame: Json, request_id: str) -> None:
        data = orjson.dumps(frame)
        socket = self._sockets[channel]
        if request_id:
            self._requests[request_id][0].deadline = self.now + self.answer_timeout
        if socket.is_open:
            self._commands.append(SendFrame(channel, data))
        else:
            socket.waiting.append((request_id, data))
            self._open(channel)
        self.wake()

    def _open(self, channel: Channel) -> None:
        socket = self._sockets[channel]
        if not (socket.is_open or socket.is_opening):
            socket.is_opening = True
            self._commands.append(OpenSocket(channel))
            self.wake()

    def _sync(self, conversation: Conversation) -> None:
        conversation.followed_by.add(Channel.GUARD)
        content = {"runtime": conversation.runtime, "recover_approvals": False}
        self.ask("sync", content, channel=Channel.GUARD)

    def _busy(self) -> list[Conversation]:
        return [conversation for conversation in self._conversations.values() if conversation.is_busy]

    @property
    def _wants_device(self) -> bool:
        return any(conversation.wants_device for conversation in self._conversations.values())

    def _note_gap(self) -> None:
        for conversation in self._busy():
            conversation.note_gap()

    def _forget_idle(self) -> None:
        idle = [key for key, conversation in self._conversations.items() if not conversation.is_busy]
        for key in idle[: max(0, len(self._conversations) - _MAX_IDLE_COUNT)]:
            del self._conversations[key]
